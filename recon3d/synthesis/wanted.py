"""Expressions as people ask for them: ARKit units, posed emotions, FACS action units."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import UsageError
from recon3d.expressions import EMOTIONS, settle

Floats = npt.NDArray[np.float32]

#: What ARKit's units show of FACS's action units; a name without its side means both. The action units are P.
#: Ekman's, W. Friesen's and J. Hager's (Facial Action Coding System, 2002), the units those of Apple's
#: documentation of ``ARFaceAnchor.BlendShapeLocation``; which shows which was decided by comparing what both
#: say moves. ARKit has nothing for 11, 13, 21, 31 to 33, 35 to 39.
ACTION_UNITS: Mapping[str, Mapping[str, float]] = {
    "1": {"browInnerUp": 1.0},
    "2": {"browOuterUp": 1.0},
    "4": {"browDown": 1.0},
    "5": {"eyeWide": 1.0},
    "6": {"cheekSquint": 1.0},
    "7": {"eyeSquint": 1.0},
    "9": {"noseSneer": 1.0},
    "10": {"mouthUpperUp": 1.0},
    "12": {"mouthSmile": 1.0},
    "14": {"mouthDimple": 1.0},
    "15": {"mouthFrown": 1.0},
    "16": {"mouthLowerDown": 1.0},
    "17": {"mouthShrugLower": 1.0},
    "18": {"mouthPucker": 1.0},
    "19": {"tongueOut": 1.0},
    "20": {"mouthStretch": 1.0},
    "22": {"mouthFunnel": 1.0},
    "23": {"mouthPress": 0.6, "mouthRollLower": 0.3, "mouthRollUpper": 0.3},
    "24": {"mouthPress": 1.0},
    "25": {"mouthLowerDown": 0.25, "mouthUpperUp": 0.15},
    "26": {"jawOpen": 0.4},
    "27": {"jawOpen": 1.0},
    "28": {"mouthRollLower": 1.0, "mouthRollUpper": 1.0},
    "29": {"jawForward": 1.0},
    "30L": {"jawLeft": 1.0},
    "30R": {"jawRight": 1.0},
    "34": {"cheekPuff": 1.0},
    "43": {"eyeBlink": 1.0},
    "45": {"eyeBlink": 1.0},
    "46L": {"eyeBlinkLeft": 1.0},
    "46R": {"eyeBlinkRight": 1.0},
    "61": {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0},
    "62": {"eyeLookInLeft": 1.0, "eyeLookOutRight": 1.0},
    "63": {"eyeLookUp": 1.0},
    "64": {"eyeLookDown": 1.0},
}
#: Other names of the posed emotions.
_ALSO = {"happy": "joy", "sad": "sadness", "angry": "anger", "afraid": "fear", "disgusted": "disgust"}
_ALSO |= {"surprised": "surprise"}
_INDEX = {name: k for k, name in enumerate(ARKIT_NAMES)}
_EXPRESSIVE = [k for name, k in _INDEX.items() if not name.startswith("eyeLook")]
#: Units that come on two sides, without the side; and each unit by its own name.
_SIDES = {
    name: [k for full, k in _INDEX.items() if full in (name, f"{name}Left", f"{name}Right")]
    for name in {full.removesuffix("Left").removesuffix("Right") for full in ARKIT_NAMES} | set(ARKIT_NAMES)
}


def emotion_names() -> list[str]:
    """Names that ``wanted_expression`` knows."""
    return sorted([*EMOTIONS, *_ALSO])


def wanted_expression(
    units: str = "", emotion: str = "", action_units: str = "", start: Floats | None = None
) -> Floats:
    """Return the expression (52,) in [0,1] that is asked for.

    Args:
        units: "mouthSmileLeft=.8,jawOpen=.3"; a name without its side means both sides.
        emotion: One of ``emotion_names``, at full strength or not: "happy", "happy=.5".
        action_units: "12=.7,6=.5"; a side after the number if only one: "12L=.7".
        start: (52,) what the face shows already, and shows on where nothing else is asked for.

    Raises:
        UsageError: Something that does not exist is asked for.
    """
    values = np.zeros(len(ARKIT_NAMES), np.float32) if start is None else start.astype(np.float32).copy()
    if emotion:
        name, strength = _pairs(emotion, alone=1.0)[0]
        chosen = EMOTIONS.get(_ALSO.get(name, name))
        if chosen is None:
            raise UsageError(f"no emotion {name!r}; there are {', '.join(emotion_names())}")
        values[_EXPRESSIVE] = 0  # an emotion is of the whole face, but does not say where it looks
        _add(values, chosen, strength)
    for name, strength in _pairs(action_units):
        _add(values, _action_unit(name), strength)
    for name, strength in _pairs(units):
        _set(values, name, strength)
    return settle(values)


def _pairs(text: str, alone: float | None = None) -> list[tuple[str, float]]:
    """Read "name=value,name=value"; ``alone`` is the value of a name without one."""
    found = []
    for part in (one.strip() for one in text.split(",") if one.strip()):
        name, equals, number = part.partition("=")
        try:
            value = float(number) if equals or alone is None else alone
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise UsageError(f"{part!r}: write NAME=VALUE with a value from 0 to 1")
        found.append((name.strip(), value))
    return found


def _action_unit(name: str) -> Mapping[str, float]:
    key = name.upper().removeprefix("AU")
    if key in ACTION_UNITS:
        return ACTION_UNITS[key]
    side = {"L": "Left", "R": "Right"}.get(key[-1:])
    both = ACTION_UNITS.get(key[:-1])
    one_sided = {f"{unit}{side}": share for unit, share in (both or {}).items() if f"{unit}{side}" in _INDEX}
    if side is None or not one_sided:
        raise UsageError(f"no action unit {name!r}; there are {', '.join(ACTION_UNITS)}")
    return one_sided


def _add(values: Floats, units: Mapping[str, float], strength: float) -> None:
    for name, share in units.items():
        for k in _SIDES[name]:
            values[k] = max(values[k], share * strength)


def _set(values: Floats, name: str, strength: float) -> None:
    if name not in _SIDES:
        near = _nearest(name, _SIDES)
        raise UsageError(f"no unit {name!r}" + (f"; {near!r} perhaps" if near else ""))
    values[_SIDES[name]] = strength


def _nearest(name: str, known: Iterable[str]) -> str | None:
    lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[close[0]] if close else None
