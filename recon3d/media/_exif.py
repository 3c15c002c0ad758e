"""What the EXIF data of a photograph tells about its camera: which way is up, and the focal length."""

from __future__ import annotations

import math
from collections.abc import Mapping

from PIL import Image

# Tag numbers of Exif 2.32 (CIPA DC-008).
_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_FOCAL_LENGTH = 0x920A  # mm
_FOCAL_LENGTH_35MM = 0xA405  # mm
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_PLANE_X_RESOLUTION = 0xA20E  # pixels of the original image per unit
_PLANE_UNIT = 0xA210
_UNIT_MM: Mapping[int, float] = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}

#: Diagonal of the 36 x 24 mm film frame.
FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
#: A focal length outside these multiples of the longer side is a wrong tag, not a lens:
#: 0.3 is a view of 118 degrees, 20 one of 2.9 degrees.
FOCAL_BOUNDS = (0.3, 20.0)

#: What to do with the stored pixels, by EXIF orientation; 1 is upright already.
_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF data of a decoded image; empty where there is none or it is damaged."""
    try:
        return image.getexif()
    except Exception:  # hostile bytes raise whatever they like here, and the picture is fine without
        return Image.Exif()


def upright(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """Turn or mirror the image as its EXIF orientation says; an invalid value leaves it alone."""
    method = _UPRIGHT.get(exif.get(_ORIENTATION, 1))
    return image if method is None else image.transpose(method)


def focal_pixels(exif: Image.Exif, size: tuple[int, int]) -> float | None:
    """Estimate the focal length in pixels of an image of ``size`` (width, height) from its EXIF data.

    First choice: ``FocalLengthIn35mmFilm``, which stands for the same *diagonal* angle of view on
    36 x 24 mm film (the equivalence of CIPA DCG-001): ``f_px = f35 * hypot(w, h) / 43.27``. It needs
    nothing else, and holds for a resized picture. Second choice: ``FocalLength`` times the sensor's
    ``FocalPlaneXResolution``, scaled by how far the picture was resized since. Neither is right for a
    picture that was cropped after it was taken. Orientation does not matter: only lengths that a turn
    keeps (diagonal, longer side) are used.

    Returns:
        Pixels, or None without usable tags or outside ``FOCAL_BOUNDS`` times the longer side.
    """
    try:
        tags = exif.get_ifd(_EXIF_IFD)
    except Exception:  # a damaged directory: as good as none
        return None
    for focal in (_from_film(tags, size), _from_sensor(tags, size)):
        if focal is not None and FOCAL_BOUNDS[0] * max(size) <= focal <= FOCAL_BOUNDS[1] * max(size):
            return focal
    return None


def _from_film(tags: Mapping[int, object], size: tuple[int, int]) -> float | None:
    film = _number(tags, _FOCAL_LENGTH_35MM)
    return None if film is None else film * math.hypot(*size) / FILM_DIAGONAL_MM


def _from_sensor(tags: Mapping[int, object], size: tuple[int, int]) -> float | None:
    millimetres = _number(tags, _FOCAL_LENGTH)
    resolution = _number(tags, _PLANE_X_RESOLUTION)
    unit = _UNIT_MM.get(int(_number(tags, _PLANE_UNIT) or 2))  # the standard's default: inches
    if millimetres is None or resolution is None or unit is None:
        return None
    original = max(_number(tags, _PIXEL_X) or 0.0, _number(tags, _PIXEL_Y) or 0.0) or max(size)
    return millimetres * resolution / unit * max(size) / original


def _number(tags: Mapping[int, object], tag: int) -> float | None:
    """Return a tag as a positive finite number, or None for anything else (0 means unknown)."""
    try:
        value = float(tags[tag])  # type: ignore[arg-type]  # any type may stand in the file
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return value if math.isfinite(value) and value > 0 else None
