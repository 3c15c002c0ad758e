"""Random pictures: noise of many scales, and strands."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.training.synthetic._blur_numba import blur_down

_POOL = 1024


def cloud(rng: np.random.Generator, size: int, scales: tuple[int, ...], channels: int = 1) -> Tensor:
    """Return smooth noise (C,size,size): the sum of grids of ``scales`` cells a side, of spread about 1."""
    total = torch.zeros(channels, size, size)
    for cells in scales:
        grid = torch.from_numpy(rng.standard_normal((1, channels, cells, cells), dtype=np.float32))
        total += F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)[0]
    return total * (1.4 / len(scales) ** 0.5)


@cache
def _pool() -> Tensor:
    """White noise to cut from: new noise for every picture would take longer than drawing it."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((_POOL, _POOL), dtype=np.float32))


def grain(rng: np.random.Generator, size: int, channels: int = 1) -> Tensor:
    """Return white noise (C,size,size) of spread 1: windows of one large sheet."""
    rows, columns = rng.integers(0, _POOL - size, (2, channels)).tolist()
    return torch.stack([_pool()[r : r + size, c : c + size] for r, c in zip(rows, columns, strict=True)])


def strands(rng: np.random.Generator, size: int, length: int, across: int) -> Tensor:
    """Return noise (size,size) that is stretched downward: ``across`` strands, ``length`` pieces each."""
    fine = torch.from_numpy(rng.standard_normal((1, 1, length, across), dtype=np.float32))
    broad = torch.from_numpy(rng.standard_normal((1, 1, 3, max(across // 6, 2)), dtype=np.float32))
    both = [F.interpolate(g, (size, size), mode="bilinear", align_corners=False)[0, 0] for g in (fine, broad)]
    return (both[0] + both[1]) * 0.8


def box_blur(picture: Tensor, kernel: int) -> Tensor:
    """Return the mean of ``kernel`` by ``kernel`` (odd) pixels around each one; (C,S,S) in and out."""
    down = blur_down(picture.contiguous().numpy(), kernel)
    across = blur_down(np.ascontiguousarray(down.transpose(0, 2, 1)), kernel)
    return torch.from_numpy(np.ascontiguousarray(across.transpose(0, 2, 1)))
