"""Skin and what is on it: complexion, brows, lashes, stubble, freckles, make-up, folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES
from recon3d.training.synthetic.canvas import SIDE, Canvas, Curve
from recon3d.training.synthetic.noise import cloud, grain, strands
from recon3d.training.synthetic.settings import SyntheticSettings

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: Complexions from the darkest to the palest, sRGB.
_COMPLEXIONS = np.array(
    [(0.21, 0.13, 0.10), (0.33, 0.21, 0.15), (0.46, 0.31, 0.23), (0.60, 0.43, 0.33),
     (0.74, 0.56, 0.45), (0.85, 0.68, 0.57), (0.93, 0.80, 0.71)]
)  # fmt: skip
#: Colours of hair, sRGB.
_HAIRS = np.array(
    [(0.05, 0.04, 0.04), (0.12, 0.08, 0.06), (0.22, 0.14, 0.09), (0.36, 0.24, 0.14), (0.52, 0.37, 0.20),
     (0.70, 0.56, 0.36), (0.45, 0.19, 0.09), (0.55, 0.55, 0.55), (0.85, 0.84, 0.82)]
)  # fmt: skip
_HAIR_ODDS = np.array([0.26, 0.2, 0.16, 0.1, 0.07, 0.06, 0.04, 0.07, 0.04])


@dataclass(frozen=True, eq=False)
class Skin:
    """One person's colours; all linear light.

    Attributes:
        canvas: (3,S,S) colours on the plane.
        lips: (3,) colour of the lips, and ...
        lip_share: ... how much of it covers the skin's own.
        hair: (3,) colour of hair and beard.
        gloss: Strength of the highlights on skin, and ...
        lip_gloss: ... on lips.
        shininess: Their sharpness.
        plain: The whole head is of one colour.
    """

    canvas: Tensor
    lips: Tensor
    lip_share: float
    hair: Tensor
    gloss: float
    lip_gloss: float
    shininess: float
    plain: bool


def draw_skin(
    canvas: Canvas,
    expression: Floats,
    settings: SyntheticSettings,
    rng: np.random.Generator,
) -> Skin:
    """Paint a person who shows an expression (52,): folds of the skin go with it."""
    if rng.random() < settings.plain:
        return _clay(rng)
    tone = rng.uniform(*settings.skin)
    base = _complexion(tone, rng)
    hair = _hair_color(tone, rng)
    paint = torch.from_numpy(base).float()[:, None, None].expand(3, SIDE, SIDE).clone()
    _mottle(paint, canvas, rng)
    _spots(paint, canvas, rng)
    _folds(paint, canvas, expression, rng)
    _stubble(paint, canvas, hair, rng)
    made_up = rng.random() < 0.35
    if made_up:
        _make_up(paint, canvas, rng)
    _brows(paint, canvas, hair, rng)
    _lashes(paint, canvas, rng, dark=made_up)
    lips = _lip_color(base, made_up, rng)
    return Skin(
        canvas=paint.clamp(0.002, 1),
        lips=torch.from_numpy(lips).float(),
        lip_share=float(rng.uniform(0.75, 1) if made_up else rng.uniform(0.3, 0.95)),
        hair=torch.from_numpy(hair).float(),
        gloss=float(rng.beta(1.5, 4) * 0.35),
        lip_gloss=float(rng.beta(1.5, 3) * 0.5),
        shininess=float(np.exp(rng.uniform(np.log(6), np.log(50)))),
        plain=False,
    )


def _clay(rng: np.random.Generator) -> Skin:
    grey = rng.uniform(0.3, 0.85)
    color = np.clip(grey + rng.normal(0, 0.08 if rng.random() < 0.5 else 0.0, 3), 0.1, 0.95) ** 2
    paint = torch.from_numpy(color).float()[:, None, None].expand(3, SIDE, SIDE)
    flat = torch.from_numpy(color).float()
    gloss = float(rng.uniform(0, 0.25))
    return Skin(paint, flat, 0.0, flat * 0.6, gloss, gloss, float(rng.uniform(6, 60)), plain=True)


def _complexion(tone: float, rng: np.random.Generator) -> Doubles:
    place = tone * (len(_COMPLEXIONS) - 1)
    color = np.array([np.interp(place, range(len(_COMPLEXIONS)), _COMPLEXIONS[:, k]) for k in range(3)])
    color = color * rng.lognormal(0, 0.08) * rng.lognormal(0, [0.03, 0.04, 0.06])
    return np.asarray(np.clip(color, 0.05, 0.97) ** 2)


def _hair_color(tone: float, rng: np.random.Generator) -> Doubles:
    odds = _HAIR_ODDS * np.where(np.arange(len(_HAIRS)) < 3, 1, np.clip(2 * tone - 0.3, 0.05, 1))
    color = _HAIRS[rng.choice(len(_HAIRS), p=odds / odds.sum())]
    if rng.random() < 0.03:
        color = rng.uniform(0.05, 0.9, 3)
    linear: Doubles = np.clip(color * rng.lognormal(0, 0.15, 3 if rng.random() < 0.3 else 1), 0.02, 0.97) ** 2
    return linear


def _tint(paint: Tensor, share: Tensor, color: Doubles) -> None:
    """Cover the paint (3,S,S) with a colour (3,), by a share (S,S) in [0,1]."""
    target = torch.tensor(color, dtype=torch.float32)[:, None, None]
    paint += (target - paint) * share.clamp(0, 1)


def _darken(paint: Tensor, amount: Tensor) -> None:
    """Darken by an amount (S,S) in [0,1], blue more than red, as blood and shade do."""
    paint *= 1 - amount.clamp(0, 0.95) * paint.new_tensor((0.8, 1.0, 1.05)).clamp_max(1)[:, None, None]


def _mottle(paint: Tensor, canvas: Canvas, rng: np.random.Generator) -> None:
    """Redness of cheeks and nose, shadows under the eyes, uneven tone."""
    red = paint.new_tensor((0.1, -0.5, -0.45))[:, None, None]
    blush = canvas.cheeks * rng.uniform(0, 0.35) + canvas.nose * rng.uniform(0, 0.35)
    paint *= 1 + red * blush
    _darken(paint, canvas.under_eyes * rng.beta(1.5, 3) * 0.6)
    tone = cloud(rng, SIDE, (6, 14, 30), 2)
    paint *= (1 + tone[:1] * rng.uniform(0.0, 0.09)).clamp(0.5, 1.5)
    paint *= 1 + red * (tone[1:] * rng.uniform(0, 0.12)).clamp(-0.4, 0.6)
    paint *= (1 + grain(rng, SIDE) * rng.uniform(0, 0.08)).clamp(0.5, 1.5)


def _spots(paint: Tensor, canvas: Canvas, rng: np.random.Generator) -> None:
    """Freckles and moles."""
    if rng.random() < 0.15:
        where = torch.maximum(canvas.cheeks, canvas.nose) ** 0.5
        fleck = (cloud(rng, SIDE, (90, 140))[0] - rng.uniform(0.9, 1.6)).clamp(0, 0.8)
        _darken(paint, fleck * where * rng.uniform(0.4, 1))
    for _ in range(rng.poisson(1.2)):
        row, column = rng.integers(40, SIDE - 40, 2)
        radius = rng.uniform(0.6, 2.2)
        window = slice(row - 6, row + 7), slice(column - 6, column + 7)
        steps = torch.arange(-6, 7).float()
        spot = torch.sigmoid((radius - (steps[:, None] ** 2 + steps**2).sqrt()) * 2) * rng.uniform(0.2, 0.85)
        part = paint[:, window[0], window[1]]
        _darken(part, spot)


def _folds(
    paint: Tensor, canvas: Canvas, expression: Floats,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Lines that are always there in some faces, and deepen with expressions in most."""
    age, depth = rng.beta(1.2, 3), rng.uniform(0, 0.9)
    total = torch.zeros(SIDE, SIDE)
    for units, curve in canvas.wrinkles:
        active = max(float(expression[ARKIT_NAMES.index(name)]) for name in units)
        strength = (age * rng.uniform(0.1, 0.7) + depth * active * rng.uniform(0.4, 1.0)) * 0.55
        if strength < 0.04:
            continue
        width = rng.uniform(0.0006, 0.0017)
        ends = (curve.along * (1 - curve.along) * 4).clamp(0, 1).sqrt()
        total[curve.window] += strength * ends * torch.exp(-(curve.off / width).square())
    _darken(paint, total.clamp_max(0.6))


def _stubble(
    paint: Tensor, canvas: Canvas, hair: Doubles,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """A shaven or unshaven beard, all of it or parts; shaven or thin hair on the head."""
    if rng.random() < 0.35:
        parts = [canvas.moustache, canvas.chin, canvas.jaw]
        chosen = rng.random(3) < 0.75
        area = torch.stack([p * float(c) for p, c in zip(parts, chosen, strict=True)]).amax(0)
        dense = rng.uniform(0.15, 0.95)
        rough = (0.7 + 0.5 * grain(rng, SIDE)[0] + 0.3 * strands(rng, SIDE, 40, 160)).clamp(0, 1.4)
        _tint(paint, area * dense * rough, hair)
    if rng.random() < 0.5:
        _tint(paint, canvas.scalp * (0.75 + 0.3 * grain(rng, SIDE)[0]) * rng.uniform(0.2, 1), hair)


def _make_up(paint: Tensor, canvas: Canvas, rng: np.random.Generator) -> None:
    if rng.random() < 0.6:
        _tint(paint, canvas.lid_skin * rng.uniform(0.1, 0.8), rng.uniform(0.02, 0.6, 3) ** 2)
    if rng.random() < 0.5:
        _tint(paint, canvas.cheeks * rng.uniform(0.05, 0.4), np.array((0.6, rng.uniform(0.1, 0.3), 0.15)))


def _brows(
    paint: Tensor, canvas: Canvas, hair: Doubles,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Brows: thin or bushy, near or far from their line, seldom none."""
    dense = rng.uniform(0.35, 1.0) if rng.random() < 0.94 else rng.uniform(0, 0.3)
    color = hair * rng.uniform(0.3, 1.0)
    half, lift, taper = rng.uniform(0.0018, 0.0052), rng.normal(0, 0.0012), rng.uniform(0.4, 1.0)
    begin, end = rng.normal(0.0, 0.05), rng.normal(0.97, 0.05)
    rough = 0.55 + 0.5 * strands(rng, SIDE, 60, 130)
    for curve in canvas.brows.values():
        width = half * (1 - taper * ((curve.along - 0.35).clamp_min(0) / 0.65) ** 1.5).clamp_min(0.15)
        across = torch.sigmoid((width - (curve.off - lift).abs()) / 0.0007)
        along = torch.sigmoid((curve.along - begin) * 25) * torch.sigmoid((end - curve.along) * 30)
        rows, columns = curve.window
        _tint(paint[:, rows, columns], across * along * dense * rough[rows, columns].clamp(0.15, 1.2), color)


def _lashes(paint: Tensor, canvas: Canvas, rng: np.random.Generator, *, dark: bool) -> None:
    """Lashes as a dark edge of the lids; eyeliner."""
    strong = rng.uniform(0.5, 0.98) if dark else rng.uniform(0.0, 0.7)
    width = rng.uniform(0.0006, 0.0022) if dark else rng.uniform(0.0004, 0.0012)
    color = np.array((0.012, 0.009, 0.008))
    for curves, part in ((canvas.upper_lids, 1.0), (canvas.lower_lids, rng.uniform(0, 0.6))):
        for curve in curves.values():
            rows, columns = curve.window
            _tint(paint[:, rows, columns], _edge(curve, width) * strong * part, color)


def _edge(curve: Curve, width: float) -> Tensor:
    ends = torch.sigmoid((curve.along - 0.05) * 60) * torch.sigmoid((0.97 - curve.along) * 60)
    return torch.exp(-(curve.off / width).square()) * ends


def _lip_color(base: Doubles, made_up: bool, rng: np.random.Generator) -> Doubles:
    if made_up and rng.random() < 0.8:
        color = np.array((rng.uniform(0.25, 0.85), rng.uniform(0.03, 0.35), rng.uniform(0.05, 0.4)))
        return np.asarray(color**1.5)
    return np.asarray(base * np.array((0.85, 0.55, 0.6)) * rng.lognormal(0, 0.12, 3))
