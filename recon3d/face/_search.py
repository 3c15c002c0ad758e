"""Where to look for faces that one look at the whole image does not show.

BlazeFace sees 128 × 128 pixels. It misses faces that are small in the image, turned by more than about
30°, or larger than the frame; so when it finds none, it is given other squares to look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from recon3d.face._crop import Pixels, Region, whole_image

#: A face of 60 pixels fills enough of a square of this side to be found.
SMALLEST_TILE = 320.0
#: How much smaller a face that overflows the frame is drawn, inside a black border.
_MARGINS = (1.5, 2.2)
_TURNS = (45, -45, 90, -90, 135, -135, 180)


def fallbacks(pixels: Pixels) -> Iterator[list[Region]]:
    """Yield one set of regions after another, the most promising first; stop when faces turn up.

    All turns stand in one set, for the certainty of the networks to choose between them: they take a
    face that is upside down for an upright one rather than for none.
    """
    zoomed_out = [whole_image(pixels, margin=margin) for margin in _MARGINS]
    yield zoomed_out + [_turned(pixels, degrees) for degrees in _TURNS]
    for level in tiles(pixels):
        yield level
        yield [Region(t.x, t.y, t.width, t.height, math.radians(a)) for t in level for a in _TURNS[:2]]


def tiles(pixels: Pixels) -> Iterator[list[Region]]:
    """Yield the levels of a pyramid of square tiles that overlap by half, from large tiles to small."""
    height, width = pixels.shape[:2]
    side = max(height, width) / 2
    while side >= SMALLEST_TILE:
        xs, ys = _centres(width, side), _centres(height, side)
        yield [Region(x, y, side, side) for y in ys for x in xs]
        side /= 2


def _centres(length: int, side: float) -> list[float]:
    if length <= side:
        return [length / 2]
    count = math.ceil((length - side) / (side / 2)) + 1
    return [float(c) for c in np.linspace(side / 2, length - side / 2, count)]


def _turned(pixels: Pixels, degrees: int) -> Region:
    # A square turned by 45° must be larger to hold the image; √2 would do for any image, but the faces
    # of photographs are seldom in the corners, and every pixel counts.
    margin = 1.0 if degrees % 90 == 0 else 1.25
    return whole_image(pixels, margin=margin, angle=math.radians(degrees))
