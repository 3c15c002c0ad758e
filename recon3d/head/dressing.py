"""Dresses a bare head: finds its face, and gives it what the open head has.

Any head in metres that looks along +Z will do: FLAME's, GNM's, an artist's. Its face is shown to the
landmark detector in plain skin with painted eyes; with the landmarks the open head is registered to it
(``correspondence.py``), and lends it colours, and how mouth and eyes open. So dressed it is shown to the
detector once more, with the lips apart, and the second landmarks decide: the open head is registered anew,
and colours, regions and the ARKit units are carried over (``transfer.py``).

Measured on FLAME's template: the first landmarks lie 1.5 mm beside the last ones (median), those of 56
renders 0.13 mm beside those of 200.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from recon3d.conventions import ARKIT_NAMES, JOINT_NAMES, NECK
from recon3d.errors import InputError, NoFaceError
from recon3d.face import FaceSource
from recon3d.head.contour import contour_lines
from recon3d.head.correspondence import (
    Floats,
    Ints,
    Mask,
    Registration,
    Surface,
    eyeballs,
    fit_sphere,
    register,
    surface_of,
)
from recon3d.head.embedding import embed_landmarks, ibug68
from recon3d.head.model import HeadModel, LandmarkEmbedding, load_head
from recon3d.head.transfer import carry_mask, carry_values, off_the_eyeballs, transfer_deformations

Arrays = dict[str, npt.NDArray[Any]]
Say = Callable[[str], None]

#: How many pictures of the head the detector sees: at first, to get going, and then to decide.
RENDERS = (24, 56)
#: Units that open what is shut at rest, so that the second landmarks tell upper from lower.
_OPENING = ("jawOpen", "eyeWideLeft", "eyeWideRight")
#: What a head without colours is painted in at first (sRGB), and how far the iris reaches beside the ball.
_SKIN, _WHITE, _IRIS = (0.78, 0.60, 0.51), (0.93, 0.91, 0.89), (0.20, 0.14, 0.10)
_IRIS_REACH = 0.42
#: A head, with or without neck and shoulders, is so high, m; and what of it, from the top, is head.
_HEIGHTS = (0.12, 1.0)
_HEAD = 0.3


def dressed(
    head: HeadModel,
    source: FaceSource,
    *,
    open_head: HeadModel | None = None,
    renders: tuple[int, int] = RENDERS,
    say: Say | None = None,
) -> Arrays:
    """Find what a head lacks, as arrays of our head format. Takes about half a minute.

    Args:
        head: Any head model. Colours and regions that it has are kept.
        source: The dense face source, of 478 landmarks.
        open_head: Where everything is carried over from; None loads it.
        renders: How many pictures of the head the detector sees, at first and then.
        say: Called with a line for each step.

    Returns:
        ``colors`` (V, 3), the ``region_*`` (V,) that it lacks, ``arkitdirs`` (V, 3, 52) float32 m at unit
        strength (the head's own where its expressions bear the units' names), the landmarks ``lmk_*``, and as
        ``lmk_open_head_*`` where on the open head each vertex lies.

    Raises:
        InputError: It has no head's size.
        NoFaceError: The detector sees no face on it.
    """
    say = say or _silent
    lender = open_head or load_head()
    _check_size(head)
    worn: Arrays = {"colors": _first_paint(head)} | _ball_regions(head)
    say(f"{head.name}: looking for its face")
    first = _landmarks(_wearing(head, worn), source, renders[0])
    say(f"{head.name}: registering the open head to it")
    registration = _registration(head, lender, first)
    worn |= _clothes(head, lender, registration)
    opening = [lender.expression_names.index(name) for name in _OPENING]
    moves = transfer_deformations(registration, lender.exprdirs.numpy()[..., opening])
    opened = {"exprdirs": moves.astype(np.float32), "expression_names": np.array(_OPENING)}
    say(f"{head.name}: placing its landmarks")
    second = _landmarks(_wearing(head, worn | opened), source, renders[1])
    registration = _registration(head, lender, second)
    worn |= _clothes(head, lender, registration)
    say(f"{head.name}: carrying the units over")
    worn["arkitdirs"] = _units(head, lender, registration)
    final = _wearing(head, worn | {"exprdirs": worn["arkitdirs"], "expression_names": np.array(ARKIT_NAMES)})
    return worn | _embedded(final, second) | _on_open(registration)


def _silent(line: str) -> None:
    """Say nothing."""


def _check_size(head: HeadModel) -> None:
    height = float(head.v_template[:, 1].max() - head.v_template[:, 1].min())
    if not _HEIGHTS[0] < height < _HEIGHTS[1]:
        raise InputError(
            f"{head.name}: is {height:.3g} high, which is no head's size; it has to be in metres, +Y up"
        )


def _landmarks(head: HeadModel, source: FaceSource, renders: int) -> LandmarkEmbedding:
    try:
        around = (head.v_template[:, 1] > head.v_template[:, 1].max() - _HEAD).numpy()
        return embed_landmarks(head, source, renders=renders, around=around).embedding
    except NoFaceError as error:
        raise NoFaceError(
            f"{head.name}: no face is seen on it; it has to look along +Z with +Y up, in metres"
        ) from error


def bare_arrays(vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer]) -> Arrays:
    """The arrays of a head model that is a mesh (V, 3) m, (F, 3), and nothing more: it moves as one piece."""
    count = len(vertices)
    regressor, weights = (
        np.zeros((len(JOINT_NAMES), count), np.float32),
        np.zeros((count, len(JOINT_NAMES)), np.float32),
    )
    regressor[:] = 1 / count
    weights[:, NECK] = 1
    return {
        "v_template": vertices.astype(np.float32),
        "f": faces.astype(np.int64),
        "shapedirs": np.zeros((count, 3, 0), np.float32),
        "exprdirs": np.zeros((count, 3, 0), np.float32),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }


def _wearing(head: HeadModel, worn: Mapping[str, npt.NDArray[Any]]) -> HeadModel:
    """The head at rest, with other arrays on; expressions only if they are among these."""
    count = head.num_vertices
    arrays: Arrays = {
        name: head.get_buffer(name).cpu().numpy()
        for name in ("v_template", "shapedirs", "J_regressor", "weights")
    }
    arrays |= {"f": head.faces.cpu().numpy(), "exprdirs": np.zeros((count, 3, 0), np.float32)}
    arrays["kintree_table"] = np.array([head.parents, range(head.num_joints)])
    arrays |= {f"region_{name}": mask for name, mask in head.regions.items()}
    found = HeadModel(arrays | dict(worn), name=head.name, digest=head.digest)
    return found.requires_grad_(False)


def _template(head: HeadModel) -> tuple[Floats, Ints]:
    return head.v_template.double().cpu().numpy(), head.faces.cpu().numpy()


def _painted(head: HeadModel) -> bool:
    """Whether a head brings colours of its own."""
    return bool((head.colors.amax(0) - head.colors.amin(0)).max() > 0.02)


def _first_paint(head: HeadModel) -> npt.NDArray[np.float32]:
    """Colours (V, 3): the head's own, or plain skin and eyes that look ahead."""
    if _painted(head):
        return head.colors.cpu().numpy()
    vertices, faces = _template(head)
    colors = np.tile(np.array(_SKIN, np.float32), (len(vertices), 1))
    for ball in eyeballs(vertices, faces):
        if ball.any():
            centre, radius, _ = fit_sphere(vertices[ball])
            local = vertices[ball] - centre
            iris = (np.linalg.norm(local[:, :2], axis=1) < _IRIS_REACH * radius) & (local[:, 2] > 0)
            colors[ball] = np.where(iris[:, None], _IRIS, _WHITE)
    return colors


def _ball_regions(head: HeadModel) -> Arrays:
    """The eyeballs' masks, as far as the head lacks them."""
    left, right = eyeballs(*_template(head))
    found = {"eyeballs": left | right, "left_eyeball": left, "right_eyeball": right}
    return {f"region_{name}": mask for name, mask in found.items() if name not in head.regions}


def _registration(head: HeadModel, lender: HeadModel, dense: LandmarkEmbedding) -> Registration:
    vertices, faces = _template(head)
    corners = vertices[faces[dense.triangle.numpy()]]
    points = (corners * dense.barycentric.double().numpy()[..., None]).sum(1)
    return register(surface_of(lender), Surface(vertices, faces, points))


def _clothes(head: HeadModel, lender: HeadModel, registration: Registration) -> Arrays:
    """Colours and regions from the open head, as far as the head has none of its own."""
    found: Arrays = {}
    for name, mask in lender.regions.items():
        if name not in head.regions and not name.endswith(("eyeball", "eyeballs")):
            found[f"region_{name}"] = carry_mask(registration, mask)
    if not _painted(head):
        colors = carry_values(registration, lender.colors.numpy())
        for own, other in zip(registration.source.balls, registration.target.balls, strict=True):
            if own.any() and other.any():
                colors[other] = _eye_colors(registration, lender.colors.numpy(), own, other)
        found["colors"] = colors.clip(0, 1).astype(np.float32)
    return found


def _eye_colors(
    registration: Registration, colors: npt.NDArray[np.float32], own: Mask, other: Mask
) -> Floats:
    """Colours (n, 3) of an eyeball: an iris is about as large on every eye, however large the ball."""
    source, target = registration.source.vertices[own], registration.target.vertices[other]
    local = registration.scale * (source - fit_sphere(source)[0])
    place = target - fit_sphere(target)[0]
    front = local[:, 2] > 0
    _, near = cKDTree(local[front, :2]).query(place[:, :2])
    white = colors[own][local[:, 2].argmin()]
    return np.where(place[:, 2:] > 0, colors[own][front][near], white)


def _units(head: HeadModel, lender: HeadModel, registration: Registration) -> npt.NDArray[np.float32]:
    """(V, 3, 52) the ARKit units: the head's own where it has them, the open head's for the others."""
    units = lender.exprdirs.double().numpy()
    shut = (ARKIT_NAMES.index("eyeBlinkLeft"), ARKIT_NAMES.index("eyeBlinkRight"))
    moves = transfer_deformations(registration, units, shut=shut)
    found = off_the_eyeballs(registration.target, moves).astype(np.float32)
    for k, name in enumerate(ARKIT_NAMES):
        if name in head.expression_names:
            found[..., k] = head.exprdirs[..., head.expression_names.index(name)].cpu().numpy()
    return found


def _embedded(head: HeadModel, dense: LandmarkEmbedding) -> Arrays:
    """All landmarks, as the arrays of a file."""
    sparse = ibug68(head, dense)
    lines = contour_lines(head, sparse)
    found: Arrays = {}
    for name, embedding in (("mediapipe478", dense), ("ibug68", sparse), ("contour", lines)):
        found[f"lmk_{name}_triangle"] = embedding.triangle.numpy().astype(np.int32)
        found[f"lmk_{name}_barycentric"] = embedding.barycentric.numpy()
    return found


def _on_open(registration: Registration) -> Arrays:
    """Where on the open head each vertex lies."""
    found = registration.correspondence
    return {
        "lmk_open_head_triangle": found.triangle.astype(np.int32),
        "lmk_open_head_barycentric": found.barycentric.astype(np.float32),
    }
