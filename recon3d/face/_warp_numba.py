"""The warp's inner loop, compiled at its first use and kept."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

_compile = numba.njit(cache=True, nogil=True, error_model="numpy")


@_compile
def warp_into(
    out: npt.NDArray[np.float32],
    pixels: npt.NDArray[np.uint8],
    centre: tuple[float, float],
    extent: tuple[float, float],
    turn: tuple[float, float],
    black: bool,
) -> None:
    """Fill ``out`` (S,S,3) from ``pixels`` (H,W,3), both sides of which are at least 2.

    Args:
        out: The result, whole grey levels.
        pixels: The image.
        centre: x, y of the region.
        extent: Its width and height, px.
        turn: Cosine and sine of its angle.
        black: What lies beyond the image is black; else its edge is repeated.
    """
    size = out.shape[0]
    height, width = pixels.shape[:2]
    cos, sin = turn
    for row in range(size):
        v = (row / size - 0.5) * extent[1]
        for column in range(size):
            u = (column / size - 0.5) * extent[0]
            left, first_x, second_x = _tap(centre[0] + cos * u - sin * v, width, black)
            top, first_y, second_y = _tap(centre[1] + sin * u + cos * v, height, black)
            a, b, c, d = first_x * first_y, second_x * first_y, first_x * second_y, second_x * second_y
            for channel in range(3):
                total = a * np.float32(pixels[top, left, channel])
                total += b * np.float32(pixels[top, left + 1, channel])
                total += c * np.float32(pixels[top + 1, left, channel])
                total += d * np.float32(pixels[top + 1, left + 1, channel])
                out[row, column, channel] = np.rint(total)


@_compile
def _tap(position: float, length: int, black: bool) -> tuple[int, np.float32, np.float32]:
    """Return the index of the first of two neighbouring taps, and the weight of each.

    A tap at index i weighs 1 - |position - i|, and nothing beyond a distance of 1; so positions outside
    fade to black unless they are moved to the edge first.
    """
    if not black:
        position = min(max(position, 0.0), length - 1.0)
    base = min(max(math.floor(position), 0.0), length - 2.0)
    beyond = np.float32(position - base)
    one, zero = np.float32(1), np.float32(0)
    if black:
        return int(base), max(zero, one - abs(beyond)), max(zero, one - abs(beyond - one))
    return int(base), one - beyond, beyond
