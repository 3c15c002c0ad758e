"""The ARKit units as files and other programs spell them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from recon3d.conventions import ARKIT_NAMES

_SIDES = ("Left", "Right")
_SEPARATOR = re.compile(r"[\W_]+")


class UnitName(NamedTuple):
    """What a name says."""

    unit: int
    """Index in ``ARKIT_NAMES``."""
    half: str
    """``"Left"`` or ``"Right"`` where the name means this side of a unit that has none; else empty."""
    left_out: int
    """How many words at its start had to be left out."""


def unit_name(text: str) -> UnitName | None:
    """Understand a name: ``EyeBlinkLeft``, ``eyeBlink_L``, ``L_eye_blink``, ``browInnerUp_R``, ``x.jawOpen``.

    Case and separators do not matter, a side may be one letter and stand first or last, and words before the
    name, set off by separators, are left out. None for what is no unit's name.
    """
    words = [word.lower() for word in _SEPARATOR.split(text) if word]
    for start in range(len(words)):
        found = _spellings().get("".join(words[start:]))
        if found is not None:
            return UnitName(*found, start)
    return None


@cache
def _spellings() -> Mapping[str, tuple[int, str]]:
    """Return unit and half by spelling, lower case without separators; the units' own names come first."""
    table: dict[str, tuple[int, str]] = {}
    for unit, name in enumerate(ARKIT_NAMES):
        own = next((side for side in _SIDES if name.endswith(side)), "")
        base = name.removesuffix(own).lower()
        for side in (own,) if own else _SIDES:
            for mark in (side.lower(), side[0].lower()):
                table[base + mark] = table[mark + base] = (unit, "" if own else side)
    return table | {name.lower(): (unit, "") for unit, name in enumerate(ARKIT_NAMES)}
