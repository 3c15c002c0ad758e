"""The cut-out of a face that the encoder looks at: eyes level, the face in the middle."""

from __future__ import annotations

import math

import numpy as np

from recon3d.face._crop import Floats, Region
from recon3d.face.landmarks import OUTER_EYE_CORNERS

#: Side of the cut-out in parts of the longer side of the landmarks' box, as the landmark network's own.
CROP_MARGIN = 1.5


def face_region(landmarks: Floats) -> Region:
    """Return the square around dense landmarks (478,2 or 3), px, turned so that the eyes are level.

    Unlike the tracker's, its size does not change when the head rolls.
    """
    first, second = (landmarks[k, :2].astype(np.float64) for k in OUTER_EYE_CORNERS)
    angle = math.atan2(second[1] - first[1], second[0] - first[0])
    turn = np.array(((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))))
    level = landmarks[:, :2].astype(np.float64) @ turn.T
    low, high = level.min(0), level.max(0)
    x, y = turn.T @ ((low + high) / 2)
    side = float((high - low).max()) * CROP_MARGIN
    return Region(float(x), float(y), side, side, angle)
