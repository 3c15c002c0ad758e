"""Which part of a photograph the neural renderer must not see: the face."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon3d.synthesis._pools import widened

#: Directions in which the hull is bounded.
_DIRECTIONS = 32


def face_mask(points: Tensor, drawn: Tensor, margin: float = 0.03) -> Tensor:
    """Cover faces: the hull of their landmarks and the drawn head, both widened.

    Args:
        points: (B,N,2) landmarks in parts of the picture's side.
        drawn: (B,H,W) bool: where the head's face is drawn.
        margin: How far both are widened, in parts of the picture's side.

    Returns:
        (B,1,H,W) 1 on the face, 0 elsewhere.
    """
    size = drawn.shape[-1]
    reach = max(1, round(margin * size))
    covered = _hull(points, size, margin) | drawn[:, None]
    wide = widened(covered.to(points.dtype), reach)
    return torch.maximum(wide, _hull(points, size, 2 * margin).to(points.dtype))


def _hull(points: Tensor, size: int, margin: float) -> Tensor:
    """(B,1,size,size) bool: within the convex hull of points (B,N,2), widened by ``margin``.

    The hull is the intersection of half-planes that hold all points, one in each of many directions.
    """
    angle = torch.arange(_DIRECTIONS, device=points.device) * (2 * math.pi / _DIRECTIONS)
    directions = torch.stack((angle.cos(), angle.sin())).to(points.dtype)  # (2,D)
    limits = (points @ directions).amax(1) + margin  # (B,D)
    axis = (torch.arange(size, device=points.device, dtype=points.dtype) + 0.5) / size
    x, y = axis[:, None] * directions[0], axis[:, None] * directions[1]  # (size,D) each
    inside = torch.ones(len(points), size, size, dtype=torch.bool, device=points.device)
    for k in range(_DIRECTIONS):
        inside &= y[:, None, k] + x[None, :, k] <= limits[:, k, None, None]
    return inside[:, None]
