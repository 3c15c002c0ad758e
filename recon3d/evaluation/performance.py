"""Recorded performances, acted by the head itself on video: what a clip's curves are measured with.

A Live Link Face recording drives a random identity of the head model, which turns and shifts as a speaker
does; the renders become a clip. What ``recon3d video`` makes of it can then be compared with the truth, frame
by frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.evaluation.metrics import mean_absolute_error, unit_correlation
from recon3d.head import HeadModel
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera
from recon3d.render.rasterize import blend, rasterize, scatter, seen
from recon3d.render.shading import vertex_normals

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_SIZE, _DISTANCE = 480, 0.75
#: Peaks of eyeBlink above this are blinks; found again where the curve is above the second figure.
BLINK, _BLINK_FOUND = 0.6, 0.4


@dataclass(frozen=True)
class Performance:
    """A head that acts, T frames at ``fps``.

    Attributes:
        shape: (1, S).
        expression: (T, 52) in [0, 1].
        rotation: (T, 3, 3) head to camera.
        translation: (T, 3) m: ``X_camera = R X + t``.
        fps: Frames per second.
    """

    shape: Tensor
    expression: Tensor
    rotation: Tensor
    translation: Tensor
    fps: float

    @property
    def camera(self) -> Camera:
        """The camera that films it."""
        return Camera.create(0.45 * _SIZE * _DISTANCE / 0.15, (_SIZE, _SIZE))


@dataclass(frozen=True)
class CurveReport:
    """How well the curves of a clip were found.

    Attributes:
        frames: Compared.
        correlation: Mean over the units that move in truth.
        visible: The same over units with a standard deviation above 0.05.
        mae: Mean absolute error of all units.
        jitter: Mean second difference of what was found, over that of the truth.
        lag: Frames by which the curves come late (their best cross-correlation); negative: early.
        blinks: Blinks in truth.
        blinks_found: Of them found, within one frame of their peaks.
    """

    frames: int
    correlation: float
    visible: float
    mae: float
    jitter: float
    lag: int
    blinks: int
    blinks_found: int


def perform(head: HeadModel, recording: Tensor, fps: float, seed: int) -> Performance:
    """Let a random person act a recording (T, 52) of ``fps`` frames per second."""
    rng = np.random.default_rng(seed)
    shape = torch.zeros(1, head.num_shape)
    shape[:, :30] = torch.tensor(rng.normal(0, 0.7, (1, min(30, head.num_shape))), dtype=torch.float32)
    time = np.arange(len(recording)) / fps

    def sway(*waves: tuple[float, float, float]) -> Floats:
        return np.asarray(sum(a * np.sin(2 * np.pi * f * time + p) for a, f, p in waves))

    turns = np.deg2rad(
        np.stack(
            [
                sway((6, 0.23, 0), (2, 0.9, 1)),
                sway((14, 0.13, 0.5), (3, 0.7, 0)),
                sway((4, 0.17, 2)),
            ],
            axis=1,
        )
    )
    frontal = torch.tensor(FRONTAL, dtype=torch.float32)
    rotation = frontal @ axis_angle_to_matrix(torch.tensor(turns, dtype=torch.float32))
    place = np.stack(
        [sway((0.02, 0.11, 0)), sway((0.01, 0.19, 0)), _DISTANCE + sway((0.04, 0.07, 0))], axis=1
    )
    return Performance(shape, recording.clamp(0, 1), rotation, torch.tensor(place, dtype=torch.float32), fps)


@torch.no_grad()
def film(
    head: HeadModel, performance: Performance, texture: Pixels | None = None, seed: int = 0
) -> Iterator[Pixels]:
    """Yield the frames (480, 480, 3) uint8 of a performance.

    Args:
        head: The head.
        performance: What it does.
        texture: (h, w, 3) in the head's texture coordinates; without it, the head's own colours.
        seed: Of the background.
    """
    camera = performance.camera.scaled(2)
    skin = None
    if texture is not None:
        skin = torch.from_numpy(texture.copy()).permute(2, 0, 1)[None].float() / 255
    background = _background(seed)
    for k in range(len(performance.expression)):
        unposed = head.unposed(performance.shape, performance.expression[k : k + 1])
        vertices = unposed @ performance.rotation[k].T + performance.translation[k]
        picture, cover = _draw(head, vertices, camera, skin)
        mixed = picture + background * (1 - cover)[..., None]
        yield (mixed.clamp(0, 1) * 255 + 0.5).byte().numpy()


def _draw(head: HeadModel, vertices: Tensor, camera: Camera, skin: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw with soft light from the camera: premultiplied picture (h, w, 3) and coverage (h, w)."""
    fragments = rasterize(camera.project(vertices), head.faces, camera.size)
    where, triangle, weights = seen(fragments)
    normals = F.normalize(blend(vertex_normals(vertices, head.faces), head.faces, triangle, weights), dim=-1)
    if skin is None:
        colour = blend(head.colors[None], head.faces, triangle, weights)
    else:
        uv = blend(head.uv[None], head.faces_uv, triangle, weights)
        grid = torch.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], dim=-1)[None, None]
        colour = F.grid_sample(skin, grid, align_corners=False, padding_mode="border")[0, :, 0].T
    light = 0.75 + 0.35 * normals[:, 2:].abs() - 0.1 * normals[:, 1:2]
    picture = scatter((colour * light).clamp(0, 1), where, fragments).movedim(-1, 1)
    cover = fragments.mask.float()[:, None]
    return F.avg_pool2d(picture, 2)[0].movedim(0, -1), F.avg_pool2d(cover, 2)[0, 0]


def _background(seed: int) -> Tensor:
    colours = torch.rand((1, 3, 12, 12), generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2
    smooth = F.interpolate(colours, size=(_SIZE, _SIZE), mode="bicubic", align_corners=False)
    return smooth[0].movedim(0, -1).clamp(0, 1)


def compare_curves(found: npt.NDArray[np.float32], true: npt.NDArray[np.float32]) -> CurveReport:
    """Compare curves (T, 52) with the truth, frame by frame."""
    correlation = unit_correlation(found, true)
    moving = np.isfinite(correlation)
    visible = moving & (true.std(axis=0) > 0.05)
    blinks = [
        peak
        for side in ("eyeBlinkLeft", "eyeBlinkRight")
        for peak in _blinks(found[:, ARKIT_NAMES.index(side)], true[:, ARKIT_NAMES.index(side)])
    ]
    bend = np.abs(np.diff(found, 2, axis=0)).mean(), np.abs(np.diff(true, 2, axis=0)).mean()
    return CurveReport(
        frames=len(true),
        correlation=float(correlation[moving].mean()),
        visible=float(correlation[visible].mean()),
        mae=mean_absolute_error(found, true),
        jitter=float(bend[0] / max(bend[1], 1e-12)),
        lag=_lag(found[:, visible], true[:, visible]),
        blinks=len(blinks),
        blinks_found=sum(blinks),
    )


def peaks(curve: npt.NDArray[np.floating], threshold: float) -> list[int]:
    """Return where a curve (T,) peaks above a threshold; it must fall to 60 % of it between two peaks."""
    found: list[int] = []
    inside = False
    for k, value in enumerate(curve.tolist()):
        if inside and value <= 0.6 * threshold:
            inside = False
        elif not inside and value > threshold:
            inside = True
            found.append(k)
        elif inside and value > curve[found[-1]]:
            found[-1] = k
    return found


def _blinks(found: npt.NDArray[np.floating], true: npt.NDArray[np.floating]) -> list[bool]:
    """For each blink in truth, whether the curve is closed within one frame of its peak, having opened since.

    Not whether the curve's own peak lies there: an eye that stays shut for a while has no peak to compare.
    """
    result, before = [], 0
    for peak in peaks(true, BLINK):
        closed = float(found[max(peak - 1, 0) : peak + 2].max())
        opened = float(found[before : peak + 1].min())
        result.append(closed > _BLINK_FOUND and closed - opened > _BLINK_FOUND / 2)
        before = peak
    return result


def _lag(found: npt.NDArray[np.floating], true: npt.NDArray[np.floating], most: int = 5) -> int:
    """Return the shift, frames, at which the curves agree best."""
    a, b = found - found.mean(axis=0), true - true.mean(axis=0)
    middle = slice(most, len(b) - most)
    scores = {k: float((np.roll(a, -k, axis=0)[middle] * b[middle]).sum()) for k in range(-most, most + 1)}
    return max(scores, key=lambda k: scores[k])
