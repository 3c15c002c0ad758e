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

    Four taps a pixel are gathered straight from the 8-bit image, so the cost does not grow with it. Like
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
    height, width = pixels.shape[:2]
    x, y = _sample_positions(region, size)
    column, left, right = _taps(x, width, outside)
    row, top, bottom = _taps(y, height, outside)
    first = (row * width + column) * 3
    weights = (left * top, right * top, left * bottom, right * bottom)
    offsets = (0, 3, 3 * width, 3 * width + 3)
    flat = np.ascontiguousarray(pixels).reshape(-1)
    out = np.zeros((3, size * size), np.float32)  # a plane a channel is twice as fast as pixel by pixel
    for offset, weight in zip(offsets, weights, strict=True):
        places = first + offset
        for channel in range(3):
            out[channel] += weight * flat[channel:].take(places)
    crop: Floats = np.rint(np.ascontiguousarray(out.T)).reshape(size, size, 3)
    return crop


def _sample_positions(region: Region, size: int) -> tuple[Doubles, Doubles]:
    """Return the image index (x, y), each (size²,), that every pixel of the crop shows."""
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    unit = np.arange(size) / size - 0.5
    u, v = unit * region.width, unit[:, None] * region.height
    return (region.x + cos * u - sin * v).ravel(), (region.y + sin * u + cos * v).ravel()


def _taps(position: Doubles, length: int, outside: str) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Return the index of the first of two neighbouring taps, and the weight of each.

    A tap at index i weighs 1 - |position - i|, and nothing beyond a distance of 1; so positions outside
    fade to black unless they are moved to the edge first.
    """
    if outside != "black":
        position = np.clip(position, 0, length - 1)
    base = np.clip(np.floor(position), 0, length - 2)
    beyond = (position - base).astype(np.float32)
    second = np.maximum(0, 1 - np.abs(beyond - 1)) if outside == "black" else beyond
    first = np.maximum(0, 1 - np.abs(beyond)) if outside == "black" else 1 - beyond
    return base.astype(np.intp), first, second
