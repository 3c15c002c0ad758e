"""Where the head stands, what it is lit by, and what lies behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.conventions import FRONTAL
from recon3d.encoder.crop import CROP_MARGIN
from recon3d.head import HeadModel
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera
from recon3d.render.rasterize import rasterize
from recon3d.training.synthetic.noise import box_blur, cloud, grain, strands
from recon3d.training.synthetic.settings import SyntheticSettings

Doubles = npt.NDArray[np.float64]

#: Around which the head is placed on the camera's axis, head space, m.
_MIDDLE = (0.0, -0.01, 0.06)
_EYE_CORNERS = (33, 263)


@dataclass(frozen=True, eq=False)
class View:
    """B heads before the camera, cut out as the encoder cuts faces out.

    Attributes:
        rotation: (B,3,3) head to camera, the camera's axis through the face.
        translation: (B,3) m.
        camera: Of the cut-out.
    """

    rotation: Tensor
    translation: Tensor
    camera: Camera

    def place(self, points: Tensor) -> Tensor:
        """Take points (B,N,3) from head to camera space, m."""
        return points @ self.rotation.mT + self.translation[:, None]


def draw_view(
    head: HeadModel, verts: Tensor, settings: SyntheticSettings, generators: list[np.random.Generator]
) -> View:
    """Turn heads (B,V,3) at random and frame each face with its eyes level, about as the tracker would."""
    draws = [_draw_pose(settings, rng) for rng in generators]
    angles, distance, slip = (
        torch.tensor(np.array(x), dtype=torch.float32) for x in zip(*draws, strict=True)
    )
    frontal = torch.tensor(FRONTAL, dtype=torch.float32)
    yaw, pitch = torch.zeros(2, len(angles), 3)
    pitch[:, 0], yaw[:, 1] = angles.unbind(1)
    rotation = frontal @ axis_angle_to_matrix(pitch) @ axis_angle_to_matrix(yaw)
    points = head.landmarks(verts, "mediapipe478")
    rotation = _level(points, rotation, distance, slip[:, 3])
    translation = _shift(rotation, distance)
    seen = points @ rotation.mT + translation[:, None]
    flat = seen[..., :2] / seen[..., 2:]
    low, high = flat.amin(1), flat.amax(1)
    side = (high - low).amax(1) * CROP_MARGIN * slip[:, 2].exp()
    focal = settings.size / side
    middle = (low + high) / 2 + slip[:, :2] * side[:, None]
    principal = settings.size / 2 - middle * focal[:, None]
    return View(rotation, translation, Camera(focal, principal, (settings.size, settings.size)))


def _draw_pose(settings: SyntheticSettings, rng: np.random.Generator) -> tuple[Doubles, float, Doubles]:
    """Pitch and yaw (2,) rad; distance, m; errors of the cut-out's place (2), size and turn (4,)."""
    wide = rng.random() < 0.25
    yaw = rng.uniform(-1, 1) * settings.yaw if wide else rng.normal(0, 0.25 * settings.yaw)
    pitch = rng.uniform(-1, 1) * settings.pitch if wide else rng.normal(0, 0.3 * settings.pitch)
    near, far = settings.distance
    distance = math.exp(rng.uniform(math.log(near), math.log(far)))
    slip = rng.normal(0, settings.framing, 4) * (1, 1, 1.5, 1.5)
    return np.deg2rad([pitch, yaw]), distance, slip


def _shift(rotation: Tensor, distance: Tensor) -> Tensor:
    ahead = torch.stack((torch.zeros_like(distance), torch.zeros_like(distance), distance), dim=1)
    return ahead - rotation @ rotation.new_tensor(_MIDDLE)


def _level(points: Tensor, rotation: Tensor, distance: Tensor, slip: Tensor) -> Tensor:
    """Turn heads about the camera's axis until the line through the eyes is level, but for ``slip`` (rad)."""
    corners = points[:, list(_EYE_CORNERS)] @ rotation.mT + _shift(rotation, distance)[:, None]
    flat = corners[..., :2] / corners[..., 2:]
    across = flat[:, 1] - flat[:, 0]
    roll = torch.zeros_like(corners[:, 0])
    roll[:, 2] = slip - torch.atan2(across[:, 1], across[:, 0])
    return axis_angle_to_matrix(roll) @ rotation


@dataclass(frozen=True, eq=False)
class Light:
    """What one head is lit by.

    Attributes:
        around: (9,3) spherical harmonics of the light from all around.
        lamp: (3,) direction to the lamp, camera space.
        color: (3,) its strength; zeros without a lamp.
        hard: It casts shadows.
        soft: How far its light reaches around the form.
    """

    around: Tensor
    lamp: Tensor
    color: Tensor
    hard: bool
    soft: float


def draw_light(settings: SyntheticSettings, rng: np.random.Generator) -> Light:
    """Draw the light from all around, and a lamp."""
    around = np.zeros((9, 3))
    tint = rng.lognormal(0, 0.08, 3) if rng.random() < 0.6 else np.ones(3)
    around[0] = tint
    lean = rng.normal(0, 0.3, 3) + np.array((0, -0.2, -0.1))
    around[1:4] = lean[:, None] * (1 + rng.normal(0, 0.15, (1, 3)))
    around[4:] = rng.normal(0, 0.12, (5, 1)) + rng.normal(0, 0.02, (5, 3))
    toward = np.array((rng.normal(0, 0.8), rng.normal(-0.4, 0.6), -abs(rng.normal(0.7, 0.5))))
    color = rng.uniform(*settings.lamp) * (rng.lognormal(0, 0.1, 3) if rng.random() < 0.6 else np.ones(3))
    hard = bool(rng.random() < settings.hard_light)
    if not hard and rng.random() < 0.4:
        color = np.zeros(3)
    kept = (torch.tensor(x, dtype=torch.float32) for x in (around, toward / np.linalg.norm(toward), color))
    first, second, third = kept
    return Light(first, second, third, hard, float(rng.uniform(0, 0.35)))


def shadows(points: Tensor, image: Tensor, verts: Tensor, faces: Tensor, lamps: Tensor) -> Tensor:
    """Tell which surface points a distant lamp reaches, softly: (n,) in [0,1].

    Classic shadow mapping (L. Williams, 1978): the heads are drawn as the lamps see them, and what lies
    behind the nearest surface is in its shadow.

    Args:
        points: (n,3) camera space, m.
        image: (n,) int64 head of each point.
        verts: (B,V,3) camera space, m.
        faces: (F,3).
        lamps: (B,3) unit directions to the lamps.
    """
    up = torch.where(lamps[:, 1:2].abs() > 0.9, lamps.new_tensor((1.0, 0, 0)), lamps.new_tensor((0, 1.0, 0)))
    first = F.normalize(torch.linalg.cross(up, lamps), dim=1)
    basis = torch.stack((first, torch.linalg.cross(lamps, first), -lamps), dim=1)  # rows
    middle = verts.mean(1)
    scale = _SHADOW_SIDE / _SHADOW_WIDTH
    turned = (verts - middle[:, None]) @ basis.mT
    projected = torch.cat((turned[..., :2] * scale + _SHADOW_SIDE / 2, turned[..., 2:] + _FAR), dim=-1)
    depth = rasterize(projected, faces, (_SHADOW_SIDE, _SHADOW_SIDE)).depth
    depth = torch.where(depth > 0, depth, 2 * _FAR)
    local = torch.einsum("nij,nj->ni", basis[image], points - middle[image])
    column, row = (local[:, :2] * scale + _SHADOW_SIDE / 2 - 0.5).unbind(1)
    x, y = column.floor(), row.floor()
    right, below = column - x, row - y
    corner = (image * _SHADOW_SIDE + y.long().clamp(0, _SHADOW_SIDE - 2)) * _SHADOW_SIDE
    corner = corner + x.long().clamp(0, _SHADOW_SIDE - 2)
    nearest, limit = depth.reshape(-1), local[:, 2] + (_FAR - _BIAS)
    lit = torch.zeros_like(column)
    for tap, share in (
        (0, (1 - right) * (1 - below)),
        (1, right * (1 - below)),
        (_SHADOW_SIDE, (1 - right) * below),
        (_SHADOW_SIDE + 1, right * below),
    ):
        lit += share * (limit < nearest[corner + tap])
    return lit


#: Side of the shadow's picture, px; its width and the lamp's distance, m; how much deeper counts as behind.
_SHADOW_SIDE, _SHADOW_WIDTH, _FAR, _BIAS = 192, 0.42, 5.0, 0.003


def draw_background(size: int, rng: np.random.Generator) -> Tensor:
    """Draw what lies behind: plain, graded, blurred things, stripes or noise. (3,size,size) linear."""
    base = _dull(rng)
    kind = rng.integers(5)
    picture = base.expand(3, size, size).clone()
    if kind == 1:
        picture = picture + cloud(rng, size, (2,)) * rng.uniform(0.05, 0.4) * _dull(rng)
    elif kind == 2:
        picture = _things(picture, rng)
    elif kind == 3:
        stripes = strands(rng, size, int(rng.integers(2, 12)), int(rng.integers(4, 60)))
        picture = picture + (stripes if rng.random() < 0.5 else stripes.T) * rng.uniform(0.05, 0.3)
    elif kind == 4:
        tones = cloud(rng, size, (3, 8, 20, 60)) + 0.4 * cloud(rng, size, (4, 10), 3)
        picture = picture + tones * rng.uniform(0.05, 0.25)
    if rng.random() < 0.3:
        picture = picture + grain(rng, size, 3) * rng.uniform(0, 0.08)
    return picture.clamp(0, 1).square()


def _dull(rng: np.random.Generator) -> Tensor:
    """A colour (3,1,1), seldom a glaring one."""
    color = rng.uniform(0.02, 0.95) + rng.normal(0, 0.12 if rng.random() < 0.7 else 0.35, (3, 1, 1))
    return torch.tensor(np.clip(color, 0.01, 0.98), dtype=torch.float32)


def _things(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Boxes of all colours, then out of focus."""
    size = picture.shape[1]
    for _ in range(int(rng.integers(4, 25))):
        x, y = rng.integers(0, size, 2)
        w, h = rng.integers(4, size, 2) // 2 + 2
        picture[:, y : y + h, x : x + w] = _dull(rng)
    return box_blur(picture, 2 * int(rng.integers(0, 6)) + 1)


def draw_shoulders(background: Tensor, neck: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    """Put clothes below the neck: ``neck`` (2,) px is its end, ``scale`` px a metre."""
    size = background.shape[1]
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    aside = ((x - float(neck[0])) / scale).abs()
    top = (
        float(neck[1])
        - 0.035 * scale
        + (aside - rng.uniform(0.04, 0.08)).clamp_min(0) * scale * rng.uniform(0.2, 0.9)
    )
    inside = torch.sigmoid((y - top) / 1.5) * torch.sigmoid((rng.uniform(0.16, 0.26) - aside) * scale / 1.5)
    cloth = _dull(rng).square()
    cloth = cloth * (1 + cloud(rng, size, (4, 12), 1) * 0.25).clamp(0.2, 2)
    return background + (cloth - background) * inside
