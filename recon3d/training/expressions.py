"""Expressions to train on: recorded ones, units alone and in company, emotions, speech, blinks, gaze.

What a network never sees it never learns, so the rare units are as frequent as the common ones, and each
comes alone, with others, at all strengths and on one side only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES
from recon3d.expressions import EMOTIONS, settle

Floats = npt.NDArray[np.float32]

_INDEX = {name: k for k, name in enumerate(ARKIT_NAMES)}
_COUNT = len(ARKIT_NAMES)
_GAZE = np.array([name.startswith("eyeLook") for name in ARKIT_NAMES])
_MIRROR = np.array(ARKIT_MIRROR)

#: Shapes of the mouth in speech.
VISEMES: Mapping[str, Mapping[str, float]] = {
    "p": {
        "mouthPress": 0.4,
        "mouthRollUpper": 0.3,
        "mouthRollLower": 0.3,
        "jawOpen": 0.08,
        "mouthClose": 0.08,
    },
    "f": {"mouthRollLower": 0.5, "mouthUpperUp": 0.25, "jawOpen": 0.08},
    "th": {"jawOpen": 0.15, "mouthLowerDown": 0.2, "tongueOut": 0.3, "mouthFunnel": 0.1},
    "d": {"jawOpen": 0.12, "mouthLowerDown": 0.3, "mouthStretch": 0.15},
    "k": {"jawOpen": 0.2, "mouthLowerDown": 0.2, "mouthUpperUp": 0.2},
    "sh": {"mouthFunnel": 0.6, "mouthPucker": 0.2, "jawOpen": 0.06, "mouthShrugUpper": 0.2},
    "s": {"mouthStretch": 0.35, "mouthLowerDown": 0.3, "jawOpen": 0.03},
    "r": {"mouthFunnel": 0.35, "mouthPucker": 0.3, "jawOpen": 0.1},
    "aa": {"jawOpen": 0.55, "mouthLowerDown": 0.2},
    "e": {"jawOpen": 0.25, "mouthStretch": 0.3, "mouthSmile": 0.25, "mouthLowerDown": 0.2},
    "i": {"jawOpen": 0.12, "mouthSmile": 0.4, "mouthDimple": 0.2, "mouthStretch": 0.3},
    "o": {"jawOpen": 0.35, "mouthFunnel": 0.6, "mouthPucker": 0.25},
    "u": {"jawOpen": 0.12, "mouthPucker": 0.8, "mouthFunnel": 0.25},
}

#: Which part of all expressions is of which kind.
_SHARES = {"rest": 0.04, "recorded": 0.3, "single": 0.2, "few": 0.26, "emotion": 0.1, "speech": 0.1}


@dataclass(frozen=True, eq=False)
class ExpressionSampler:
    """Draws expressions.

    Attributes:
        recorded: (T,52) rows of a recording in [0,1], or None: then emotions take their share.
        odd: Of a recording, use the half that training leaves to evaluation: every other stretch of
            100 rows.
    """

    recorded: Floats | None = None
    odd: bool = False

    def draw(self, rng: np.random.Generator) -> Floats:
        """Return one expression (52,) in [0,1]."""
        kind = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
        values = self._of_kind(kind, rng)
        if kind != "single" and rng.random() < 0.2:
            _put(values, _one(rng), rng)
        if rng.random() < 0.5:
            values = values[_MIRROR]
        if rng.random() < 0.25:
            values = _lopsided(values, rng)
        _blink(values, rng)
        _look(values, kind, rng)
        return settle(values)

    def _of_kind(self, kind: str, rng: np.random.Generator) -> Floats:
        if kind == "recorded" and self.recorded is not None:
            return self._recorded(self.recorded, rng)
        if kind == "single":
            return _alone(rng)
        if kind == "few":
            return _few(rng)
        if kind == "rest":
            return (rng.uniform(0, 0.06, _COUNT) * (rng.random(_COUNT) < 0.5)).astype(np.float32)
        table = VISEMES if kind == "speech" else EMOTIONS
        return _posed(table, rng)

    def _recorded(self, rows: Floats, rng: np.random.Generator) -> Floats:
        """A row, somewhat stronger or weaker than it was, all of it and unit by unit."""
        mine = np.nonzero((np.arange(len(rows)) // 100 % 2 == 1) == self.odd)[0]
        row = rows[rng.choice(mine if len(mine) else len(rows))]
        gains = rng.uniform(0.6, 1.35) * rng.lognormal(0, 0.25, _COUNT)
        return np.clip(row * gains, 0, 1).astype(np.float32)


def _one(rng: np.random.Generator) -> int:
    """A unit; gaze has its own turn."""
    return int(rng.choice(np.nonzero(~_GAZE)[0]))


def _put(values: Floats, unit: int, rng: np.random.Generator) -> None:
    """Add a unit at some strength, on both sides more often than not."""
    strength = rng.uniform(0.1, 1)
    values[unit] = max(values[unit], strength)
    if rng.random() < 0.6:
        other = _MIRROR[unit]
        values[other] = max(values[other], strength * rng.uniform(0.8, 1))
    if unit == _INDEX["mouthClose"]:
        values[_INDEX["jawOpen"]] = max(values[_INDEX["jawOpen"]], strength * rng.uniform(1, 1.3))


def _alone(rng: np.random.Generator) -> Floats:
    values = np.zeros(_COUNT, np.float32)
    _put(values, _one(rng), rng)
    return values


def _few(rng: np.random.Generator) -> Floats:
    values = np.zeros(_COUNT, np.float32)
    for _ in range(int(rng.integers(2, 6))):
        _put(values, _one(rng), rng)
    return values * np.float32(rng.uniform(0.5, 1))


def _posed(table: Mapping[str, Mapping[str, float]], rng: np.random.Generator) -> Floats:
    """One of a table, or two mixed, each unit at its own strength."""
    values = np.zeros(_COUNT, np.float32)
    names = list(table)
    for weight in (1.0,) if rng.random() < 0.6 else (rng.uniform(0.3, 1), rng.uniform(0.3, 1)):
        for name, strength in table[str(rng.choice(names))].items():
            amount = weight * strength * rng.uniform(0.3, 1.3)
            for full in (name, name + "Left", name + "Right"):
                if full in _INDEX:
                    values[_INDEX[full]] += amount
    return values * np.float32(rng.uniform(0.4, 1.1))


def _lopsided(values: Floats, rng: np.random.Generator) -> Floats:
    """Weaken one side of the mouth, of the brows, or of all."""
    side = "Left" if rng.random() < 0.5 else "Right"
    part = str(rng.choice(["mouth", "brow", "nose", "cheek", ""]))
    values = values.copy()
    for name, k in _INDEX.items():
        if name.endswith(side) and name.startswith(part) and not name.startswith("eyeLook"):
            values[k] *= rng.uniform(0, 0.8)
    return values


def _blink(values: Floats, rng: np.random.Generator) -> None:
    """Lids at any stage: fully closed, on the way, half open; now and then of one eye only."""
    draw = rng.random()
    left, right = _INDEX["eyeBlinkLeft"], _INDEX["eyeBlinkRight"]
    if draw < 0.12:
        values[[left, right]] = 1 - rng.beta(1, 8)
    elif draw < 0.35:
        values[[left, right]] = rng.uniform(0, 1)
    elif draw < 0.4:
        values[left if rng.random() < 0.5 else right] = rng.uniform(0.2, 1)
    if draw < 0.4:
        values[[left, right]] = np.clip(values[[left, right]] + rng.normal(0, 0.04, 2), 0, 1)


def _look(values: Floats, kind: str, rng: np.random.Generator) -> None:
    """Turn both eyes together, a little toward each other at times."""
    if kind == "recorded" and rng.random() < 0.4:
        return
    for name in np.array(ARKIT_NAMES)[_GAZE]:
        values[_INDEX[name]] = 0
    if rng.random() < 0.25:
        return
    aside, up = rng.normal(0, 0.35, 2)
    toed = abs(rng.normal(0, 0.06))
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        outward = sign * aside - toed
        values[_INDEX[f"eyeLookOut{side}" if outward > 0 else f"eyeLookIn{side}"]] = min(abs(outward), 1)
        values[_INDEX[f"eyeLookUp{side}" if up > 0 else f"eyeLookDown{side}"]] = min(abs(up), 1)
