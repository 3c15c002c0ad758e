"""Largest, smallest and mean values around each pixel, along one axis and then the other.

Torch's own two-dimensional pooling takes several times as long for squares of more than a few pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def widened(maps: Tensor, reach: int) -> Tensor:
    """Return the largest value within a square of ``reach`` px to each side, of maps (B,C,H,W)."""
    down = F.max_pool2d(maps, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
    return F.max_pool2d(down, (1, 2 * reach + 1), stride=1, padding=(0, reach))


def narrowed(maps: Tensor, reach: int) -> Tensor:
    """Return the smallest value, likewise."""
    return -widened(-maps, reach)


def averaged(maps: Tensor, reach: int) -> Tensor:
    """Return the mean, likewise; beyond the picture are zeros. Zeros all around give zero exactly."""
    padded = F.pad(maps, (reach + 1, reach, reach + 1, reach))
    return _sums(_sums(padded, 2, reach), 3, reach) / (2 * reach + 1) ** 2


def _sums(maps: Tensor, axis: int, reach: int) -> Tensor:
    """Sums over windows along an axis: differences of sums up to each place."""
    total, width = maps.cumsum(axis), 2 * reach + 1
    count = maps.shape[axis] - width
    return total.narrow(axis, width, count) - total.narrow(axis, 0, count)
