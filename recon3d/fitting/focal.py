"""The focal length where the photograph does not tell it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: The "normal" lens of photography, and the diagonal of its film, mm.
_NORMAL_LENS, _FILM_DIAGONAL = 50.0, 43.27
#: A face is hardly ever photographed from nearer than this, m; nearer means that the picture was cropped.
_NEAREST = 0.8
#: Half the diagonal of the dense landmarks' box on an average head, m.
_FACE_RADIUS = 0.1


def default_focal(landmarks: npt.NDArray[np.float32], size: tuple[int, int]) -> float:
    """Guess the focal length of a picture without EXIF, px.

    A normal lens for the whole picture; but where that would put the face nearer than 0.8 m, the picture is
    taken for a crop, and the focal length that puts the face at 0.8 m is used.

    Args:
        landmarks: (N, 2 or 3) of the largest face, px.
        size: Width and height of the picture, px.
    """
    normal = math.hypot(*size) * _NORMAL_LENS / _FILM_DIAGONAL
    extent = np.ptp(np.asarray(landmarks, np.float64)[:, :2], axis=0)
    radius = 0.5 * float(np.hypot(*extent))
    return max(normal, radius / _FACE_RADIUS * _NEAREST)
