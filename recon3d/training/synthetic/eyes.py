"""Eyeballs: iris, pupil, limbus, veins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.head import HeadModel

#: Colours of irises, sRGB.
_IRISES = np.array(
    [(0.14, 0.08, 0.05), (0.26, 0.15, 0.08), (0.40, 0.26, 0.12), (0.40, 0.38, 0.18), (0.30, 0.40, 0.28),
     (0.32, 0.46, 0.58), (0.48, 0.58, 0.66), (0.45, 0.48, 0.50)]
)  # fmt: skip
_ODDS = np.array([0.28, 0.24, 0.12, 0.08, 0.07, 0.09, 0.07, 0.05])
#: Radius of the iris, as the sine of its angle at the eyeball's middle.
_IRIS = (0.30, 0.40)


@dataclass(frozen=True)
class Eyes:
    """One person's eyes; colours linear.

    Attributes:
        sclera: Colour of the white.
        iris: Colour of the iris, and ...
        inner: ... near the pupil.
        radius: Of the iris, as a sine.
        pupil: Its radius, as a part of the iris's.
        limbus: How dark its edge is.
        veins: How red the corners are.
        streaks: How streaky the iris is, and ...
        phase: ... where the streaks lie.
        shade: How much the upper lid shades the eye.
        gloss: Strength of the highlights.
    """

    sclera: tuple[float, float, float]
    iris: tuple[float, float, float]
    inner: tuple[float, float, float]
    radius: float
    pupil: float
    limbus: float
    veins: float
    streaks: float
    phase: float
    shade: float
    gloss: float

    def colors(self, direction: Tensor) -> Tensor:
        """Return colours (n,3) at directions (n,3) from the eyeball's middle; the third is the gaze."""
        x, y, z = direction.unbind(-1)
        off = (x.square() + y.square()).sqrt() / direction.norm(dim=1)
        off = torch.where(z > 0, off, 1.0)
        around = torch.atan2(y, x)
        streak = 1 + self.streaks * (
            torch.sin(around * 19 + self.phase) * torch.sin(around * 31 - self.phase)
        )
        part = off / self.radius
        mix = ((part - self.pupil) / (1 - self.pupil)).clamp(0, 1)[:, None]
        iris = off.new_tensor(self.inner) * (1 - mix) + off.new_tensor(self.iris) * mix
        iris = (
            iris * streak[:, None] * (1 - self.limbus * torch.exp(-((part - 0.97) / 0.12).square()))[:, None]
        )
        red = (x.abs() - 0.35).clamp_min(0)[:, None] * self.veins * off.new_tensor((0.1, 0.9, 0.8))
        white = off.new_tensor(self.sclera) * (1 - red.clamp(0, 0.7))
        color = white + (iris - white) * torch.sigmoid((1 - part) * 22)[:, None]
        color = color * torch.sigmoid((part - self.pupil) * 25)[:, None]
        return (color * (1 - self.shade * torch.sigmoid((y - 0.12) * 9))[:, None]).clamp_min(0.002)


def draw_eyes(rng: np.random.Generator, *, plain: bool) -> Eyes:
    """Draw a person's eyes; those of plain heads may lack an iris's colours."""
    iris = _IRISES[rng.choice(len(_IRISES), p=_ODDS)] * rng.lognormal(0, 0.15)
    white = np.clip(rng.uniform(0.55, 0.95) * np.array((1, rng.uniform(0.9, 1), rng.uniform(0.82, 1))), 0, 1)
    if plain and rng.random() < 0.4:
        white = np.full(3, rng.uniform(0.5, 0.98))
        iris = white * rng.uniform(0.1, 0.8)
    inner = iris * rng.uniform(0.7, 1.6) * rng.lognormal(0, 0.1, 3)
    return Eyes(
        sclera=_linear(white),
        iris=_linear(iris),
        inner=_linear(inner),
        radius=float(rng.uniform(*_IRIS)),
        pupil=float(rng.uniform(0.22, 0.65)),
        limbus=float(rng.uniform(0.1, 0.85)),
        veins=float(rng.uniform(0, 0.9)),
        streaks=float(rng.uniform(0, 0.3)),
        phase=float(rng.uniform(0, 6)),
        shade=float(rng.uniform(0.05, 0.6)),
        gloss=float(rng.uniform(0.1, 1.2)),
    )


def eye_directions(head: HeadModel) -> Tensor:
    """Return (V,3) where each vertex of an eyeball lies from its middle, unit; zeros elsewhere."""
    found = torch.zeros_like(head.v_template)
    for name in ("left_eyeball", "right_eyeball"):
        inside = torch.from_numpy(head.regions[name])
        points = head.v_template[inside]
        rows = torch.cat((2 * points, torch.ones(len(points), 1)), dim=1)
        centre = torch.linalg.lstsq(rows, points.square().sum(1, keepdim=True)).solution[:3, 0]
        found[inside] = torch.nn.functional.normalize(points - centre, dim=1)
    return found


def _linear(color: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (np.clip(color, 0, 1) ** 2).tolist()
    return red, green, blue
