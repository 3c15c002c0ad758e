"""What the Live Link Face writer and reader share: columns, units of the angles, sides and signs."""

from __future__ import annotations

import numpy as np

from recon3d.conventions import ARKIT_NAMES
from recon3d.export.options import Angles

#: The nine angles, in the file's order.
ANGLE_COLUMNS = tuple(
    f"{part}{axis}" for part in ("Head", "LeftEye", "RightEye") for axis in ("Yaw", "Pitch", "Roll")
)
UNIT_COLUMNS = tuple(name[0].upper() + name[1:] for name in ARKIT_NAMES)
#: The values of a row, after timecode and count.
COLUMNS = UNIT_COLUMNS + ANGLE_COLUMNS

#: How many of the file's angle units a radian is. Normalized are quarter turns, so that 1 is 90°.
PER_RADIAN: dict[Angles, float] = {"radians": 1.0, "degrees": 180 / np.pi, "normalized": 2 / np.pi}

#: The app turns the signs of the eyes' angles round, not those of the head's (see ``livelink.py``).
EYE_SIGN = -1.0

#: The frame field of a timecode counts sixtieths of a second.
FRAME_BASE = 60
