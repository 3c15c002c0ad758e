"""Rotated rectangles in an image, and cutting them out.

The half-pixel convention here is that of MediaPipe's own graphs, because the networks' landmarks are to
agree with theirs: index ``i`` of the crop shows the image at *index* ``start + i * step``, while a point
at crop coordinate ``u`` lies at image coordinate ``start + u * step``. The two differ by
``(step - 1) / 2`` image pixels from an exact warp, at most a five-hundredth of the crop's width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """A rectangle turned by ``angle`` (radians, from +X towards +Y), with centre and size in pixels."""

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    def to_image(self, points: npt.ArrayLike) -> Floats:
        """Map points from the rectangle's own [0, 1]² (N,2) to image pixels (N,2)."""
        unit = np.asarray(points, np.float64) - 0.5
        u, v = unit[:, 0] * self.width, unit[:, 1] * self.height
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        placed = np.stack((self.x + cos * u - sin * v, self.y + sin * u + cos * v), axis=1)
        return placed.astype(np.float32)

    def is_usable(self) -> bool:
        """Tell whether the rectangle is finite and has an area worth cutting out."""
        values = (self.x, self.y, self.width, self.height, self.angle)
        return all(map(math.isfinite, values)) and min(self.width, self.height) >= 1.0


def whole_image(pixels: Pixels, *, margin: float = 1.0, angle: float = 0.0) -> Region:
    """Return the square that holds an upright image, centred on it, enlarged and turned if asked."""
    height, width = pixels.shape[:2]
    side = max(height, width) * margin
    return Region(width / 2, height / 2, side, side, angle)


def warp(pixels: Pixels, region: Region, size: int, *, outside: str = "repeat") -> Floats:
    """Cut a region out of an image and scale it to a square, bilinearly.

    Four taps a pixel are read straight from the 8-bit image, so the cost does not grow with it. Like
    MediaPipe's, the result is not prefiltered, and is rounded to whole grey levels. One thread does it
    all: the work is too small to share, and on a busy machine the threads would wait for one another.

    Args:
        pixels: (H,W,3) uint8.
        region: What to cut out; may reach beyond the image.
        size: Width and height of the result.
        outside: What lies beyond the image: ``"repeat"`` its edge, or ``"black"``.

    Returns:
        (size, size, 3) float32 in [0, 255].
    """
    if min(pixels.shape[:2]) < 2:  # two taps a direction need two pixels
        pixels = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), mode="constant" if outside == "black" else "edge")
    from recon3d.face._warp_numba import warp_into  # numba takes a while, and not every command warps

    crop = np.empty((size, size, 3), np.float32)
    turn = math.cos(region.angle), math.sin(region.angle)
    centre, extent = (float(region.x), float(region.y)), (float(region.width), float(region.height))
    warp_into(crop, np.ascontiguousarray(pixels), centre, extent, turn, outside == "black")
    return crop
