"""Finds where a landmark detector's points lie on a head: render it, detect, read back, average.

No table ties a detector's points to a head's triangles, so the head itself is shown to the detector: many
identities, from many sides, and under each landmark the triangle and barycentric coordinates are read from
the rasterizer. What the detector systematically gets wrong on a head it also gets wrong on the renders, so it
cancels when landmarks are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.conventions import FRONTAL
from recon3d.errors import NoFaceError
from recon3d.face import FaceSource
from recon3d.head.ibug68 import ibug68_weights
from recon3d.head.model import HeadModel, LandmarkEmbedding
from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from recon3d.render.camera import Camera
from recon3d.render.rasterize import rasterize
from recon3d.render.shading import SOFT, render_head

Floats = npt.NDArray[np.float64]

_IRIS = slice(468, 478)
_JAW_POINTS = 17
#: How much higher or lower than where they are seen the jaw's points may lie, m: the nearest skin that is no
#: ear may be above it, or behind.
_LEVEL = 0.012
_SIZE = 320


@dataclass(frozen=True)
class EmbeddingResult:
    """The 478 points on the head, and how sure they are."""

    embedding: LandmarkEmbedding
    spread: Floats
    """(478,) m: median distance of a point's single readings from where it was put."""
    renders: int
    """Renders on which the detector found the face."""


def embed_landmarks(
    head: HeadModel,
    source: FaceSource,
    *,
    renders: int = 96,
    seed: int = 0,
    around: npt.NDArray[np.bool_] | None = None,
) -> EmbeddingResult:
    """Place the 478 dense landmarks on ``head``.

    Args:
        head: Any head with colours (at least for eyes and lips) and a face that the detector recognises.
        source: The dense face source.
        renders: How many pictures to draw.
        seed: Of the identities and views.
        around: (V,) the vertices whose middle is shown in the middle, where a head has more than a head's
            vertices, such as shoulders; None takes all.

    Raises:
        NoFaceError: The detector finds no face on most renders.
    """
    rng = np.random.default_rng(seed)
    readings = []
    for _ in range(renders):
        reading = _read_one(head, source, rng, around)
        if reading is not None:
            readings.append(reading)
    if len(readings) < max(4, renders // 4):
        raise NoFaceError(
            f"{head.name}: the detector found a face on only {len(readings)} of {renders} renders"
        )
    points = np.stack(readings)
    middle = _geometric_median(points)
    spread = np.median(np.linalg.norm(points - middle, axis=-1), axis=0)
    return EmbeddingResult(_snap(head, _symmetric(head, middle)), spread, len(readings))


def ibug68(head: HeadModel, dense: LandmarkEmbedding) -> LandmarkEmbedding:
    """Place the 68 iBUG points by the dense ones; the jaw's, as in a frontal view, beside the ears."""
    surface = reference_surface(head)

    def points(of: Tensor) -> Tensor:
        return (of[head.faces[dense.triangle]] * dense.barycentric[..., None]).sum(1)

    sparse = (ibug68_weights(points(head.v_template)) @ points(surface)).double().numpy()
    skin = _skin_triangles(head)
    ears = torch.from_numpy(head.regions.get("ears", np.zeros(head.num_vertices, bool)))
    jaw = _beside_the_ears(head, sparse[:_JAW_POINTS], skin[~ears[head.faces[skin]].any(1)])
    rest = closest_on_surface(head, sparse[_JAW_POINTS:], skin)
    return LandmarkEmbedding(
        torch.cat([jaw.triangle, rest.triangle]), torch.cat([jaw.barycentric, rest.barycentric])
    )


def _beside_the_ears(head: HeadModel, points: Floats, triangles: Tensor) -> LandmarkEmbedding:
    """Put the jaw's points (17, 3) on the skin before the ears, at about their own height."""
    height = reference_surface(head)[head.faces[triangles], 1].mean(1)
    level = [(height - float(point[1])).abs() < _LEVEL for point in points]
    found = [
        closest_on_surface(head, point[None], triangles[near] if bool(near.any()) else triangles)
        for point, near in zip(points, level, strict=True)
    ]
    return LandmarkEmbedding(
        torch.cat([one.triangle for one in found]), torch.cat([one.barycentric for one in found])
    )


def _read_one(
    head: HeadModel,
    source: FaceSource,
    rng: np.random.Generator,
    around: npt.NDArray[np.bool_] | None = None,
) -> Floats | None:
    """Draw one random view; return the landmarks on the template (478, 3), or None without a face."""
    shape = torch.tensor(rng.normal(0, 0.6, (1, head.num_shape)), dtype=torch.float32)
    turn = rng.uniform(-1, 1, 3) * np.deg2rad([14, 20, 6])
    base = torch.tensor(FRONTAL, dtype=torch.float32)
    rotation = base @ axis_angle_to_matrix(torch.tensor(turn, dtype=torch.float32))
    pose = torch.zeros(1, head.num_joints, 3)
    pose[:, 0] = matrix_to_axis_angle(rotation)
    distance = rng.uniform(0.6, 1.3)
    vertices = head(shape, rng.uniform(0.3, 1.2) * _opened(head), pose).vertices
    shown_around = vertices if around is None else vertices[:, torch.from_numpy(around)]
    vertices = vertices - shown_around.mean(1, keepdim=True) + torch.tensor([0.0, 0.0, distance])
    camera = Camera.create(0.72 * _SIZE * distance / 0.2, (_SIZE, _SIZE))
    shown = render_head(vertices, head.faces, camera, head.colors, lighting=SOFT, supersample=2)
    faces = source.find((shown.image[0].clamp(0, 1) * 255).byte().numpy(), max_faces=1)
    if not faces or faces[0].kind != "mediapipe478":
        return None
    pixels = faces[0].landmarks[:, :2]
    skin = _on_surface(head, vertices, camera, _skin_triangles(head), pixels)
    eyes = _on_surface(head, vertices, camera, _eye_triangles(head), pixels[_IRIS])
    return np.concatenate([skin[: _IRIS.start], eyes])


def _opened(head: HeadModel) -> Tensor:
    """(1, E) expression with the lips well apart, where the head's units have names; else neutral."""
    expression = torch.zeros(1, head.num_expression)
    for name, value in (("jawOpen", 0.35), ("eyeWideLeft", 0.3), ("eyeWideRight", 0.3)):
        if name in head.expression_names:
            expression[0, head.expression_names.index(name)] = value
    return expression


def reference_surface(head: HeadModel) -> Tensor:
    """(V, 3) the surface on which readings are averaged: lips open, so that upper and lower stay apart."""
    return head.unposed(torch.zeros(1, head.num_shape), _opened(head))[0]


def _skin_triangles(head: HeadModel) -> Tensor:
    """Triangles of the outer skin: what lids and lips are made of, without what lies behind them."""
    hidden = np.zeros(head.num_vertices, bool)
    for region in ("eyeballs", "mouth_inside", "eye_sockets"):
        if region in head.regions:
            hidden |= head.regions[region]
    if "lips" in head.regions:
        hidden &= ~head.regions["lips"]
    return torch.tensor(np.flatnonzero(~hidden[head.faces.numpy()].any(1)))


def _eye_triangles(head: HeadModel) -> Tensor:
    ball = head.regions.get("eyeballs", np.zeros(head.num_vertices, bool))
    if not ball.any():  # unknown, or a head without eyes: then the irises lie on whatever is seen there
        ball = np.ones(head.num_vertices, bool)
    return torch.tensor(np.flatnonzero(ball[head.faces.numpy()].all(1)))


def _on_surface(
    head: HeadModel, vertices: Tensor, camera: Camera, triangles: Tensor, pixels: npt.NDArray[np.float32]
) -> Floats:
    """Template position (N, 3) of what is seen at ``pixels``, or nearest to them, of some triangles."""
    from scipy.ndimage import distance_transform_edt

    # Through the openings of eyes and mouth one would see the back of the head from inside: cull it.
    seen = rasterize(camera.project(vertices), head.faces[triangles], camera.size, cull_backfaces=True)
    empty = (seen.triangle[0] < 0).numpy()
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    column = np.clip(pixels[:, 0].astype(int), 0, _SIZE - 1)
    row = np.clip(pixels[:, 1].astype(int), 0, _SIZE - 1)
    row, column = nearest[0][row, column], nearest[1][row, column]
    corners = head.faces[triangles[seen.triangle[0, row, column]]]
    weights = seen.barycentric[0, row, column]
    points = (reference_surface(head)[corners] * weights[..., None]).sum(1)
    return points.double().numpy()


def _geometric_median(points: Floats, steps: int = 50) -> Floats:
    """Geometric median over the first axis: (R, N, 3) to (N, 3); E. Weiszfeld, 1937."""
    middle = np.median(points, axis=0)
    for _ in range(steps):
        weight = 1 / np.maximum(np.linalg.norm(points - middle, axis=-1, keepdims=True), 1e-5)
        middle = (points * weight).sum(0) / weight.sum(0)
    return np.asarray(middle)


def _symmetric(head: HeadModel, points: Floats) -> Floats:
    """Make the points mirror images of each other: each is paired with its partner and both averaged."""
    from scipy.optimize import linear_sum_assignment

    if np.abs(head.v_template[:, 0].numpy().mean()) > 1e-3:  # an asymmetric head has no mirror plane at x = 0
        return points
    flipped = points * [-1, 1, 1]
    result = points.copy()
    for part in (slice(0, _IRIS.start), _IRIS):
        cost = np.linalg.norm(points[part, None] - flipped[None, part], axis=-1)
        _, partner = linear_sum_assignment(cost**2)
        partner = np.where(partner[partner] == np.arange(len(partner)), partner, np.arange(len(partner)))
        agree = cost[np.arange(len(partner)), partner] < 0.015
        mean = (points[part] + flipped[part][partner]) / 2
        result[part] = np.where(agree[:, None], mean, points[part])
    return result


def _snap(head: HeadModel, points: Floats) -> LandmarkEmbedding:
    """Put points (478, 3) onto the nearest triangle of the skin, the iris points of the eyes."""
    skin = closest_on_surface(head, points[: _IRIS.start], _skin_triangles(head))
    eyes = closest_on_surface(head, points[_IRIS], _eye_triangles(head))
    return LandmarkEmbedding(
        torch.cat([skin.triangle, eyes.triangle]), torch.cat([skin.barycentric, eyes.barycentric])
    )


def closest_on_surface(head: HeadModel, points: Floats, triangles: Tensor) -> LandmarkEmbedding:
    """Nearest points on some triangles of the reference surface, as an embedding: (N, 3) points."""
    from scipy.spatial import cKDTree
    from trimesh.triangles import closest_point, points_to_barycentric

    corners = reference_surface(head)[head.faces[triangles]].double().numpy()
    _, near = cKDTree(corners.mean(1)).query(points, k=min(40, len(corners)))
    count = near.shape[1]
    repeated = np.repeat(points, count, axis=0)
    candidates = corners[near.reshape(-1)]
    found = closest_point(candidates, repeated).reshape(-1, count, 3)
    best = np.linalg.norm(found - points[:, None], axis=-1).argmin(1)
    rows = np.arange(len(points))
    chosen = near[rows, best]
    weights = np.clip(points_to_barycentric(corners[chosen], found[rows, best]), 0, 1)
    weights /= weights.sum(1, keepdims=True)
    return LandmarkEmbedding(triangles[torch.tensor(chosen)], torch.tensor(weights, dtype=torch.float32))
