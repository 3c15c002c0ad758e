"""The box blur's loops, compiled at their first use and kept."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

_compile = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


@_compile
def blur_down(pictures: npt.NDArray[np.float32], kernel: int) -> npt.NDArray[np.float32]:
    """Return the mean of ``kernel`` (odd) pixels above and below each, as far as there are any.

    Running sums, so that a wide blur takes no longer than a narrow one; whole rows at once.

    Args:
        pictures: (C,H,W).
        kernel: Pixels.
    """
    channels, height, width = pictures.shape
    reach = kernel // 2
    out = np.empty_like(pictures)
    total = np.empty(width, np.float64)
    for channel in range(channels):
        picture = pictures[channel]
        total[:] = 0.0
        for row in range(min(reach, height)):
            for x in range(width):
                total[x] += picture[row, x]
        for row in range(height):
            if row + reach < height:
                for x in range(width):
                    total[x] += picture[row + reach, x]
            if row > reach:
                for x in range(width):
                    total[x] -= picture[row - reach - 1, x]
            share = 1.0 / (min(row + reach, height - 1) - max(row - reach, 0) + 1)
            for x in range(width):
                out[channel, row, x] = total[x] * share
    return out
