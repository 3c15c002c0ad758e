"""The 52 ARKit units on the open head: made symmetric, and mended where the source pierces or gapes."""

from __future__ import annotations

import numpy as np

from open_head.assembly import Assembly
from open_head.eyes import UNIT_ANGLES, gaze_offsets
from open_head.identity import mirrored
from open_head.source import Array, Source
from recon3d.conventions import ARKIT_NAMES, mirror_name


def unit_basis(source: Source, assembly: Assembly, eye_radius: float) -> Array:
    """Offsets (V, 3, 52) m at unit strength."""
    raw = {name: _raw_unit(source, assembly, name, eye_radius) for name in ARKIT_NAMES}
    fixed = [(raw[n] + mirrored(raw[mirror_name(n)], assembly.mirror)) / 2 for n in ARKIT_NAMES]
    return np.stack(fixed, -1)


def _raw_unit(source: Source, assembly: Assembly, name: str, eye_radius: float) -> Array:
    """One unit as the source has it, with the eyeballs turned exactly instead of by the source."""
    offsets = np.zeros((len(assembly.piece), 3))
    offsets[: len(assembly.copied)] = source.units[name][assembly.copied]
    for direction in UNIT_ANGLES:
        for side, piece in (("Left", 3), ("Right", 4)):
            if name == f"eyeLook{direction}{side}":
                offsets[assembly.piece == piece] = gaze_offsets(assembly.eyeball, eye_radius, side, direction)
    return offsets
