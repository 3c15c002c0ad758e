"""Rotations: axis-angle, matrices, and the way back."""

from __future__ import annotations

import torch
from torch import Tensor


def axis_angle_to_matrix(rotation: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) rad to (..., 3, 3); smooth and differentiable at zero too."""
    squared = (rotation * rotation).sum(-1)
    small = squared < 1e-12
    # The Taylor branch keeps both value and gradient right where sin(x)/x would divide zero by zero.
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    b = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / safe)
    x, y, z = rotation.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return eye + a[..., None, None] * cross + b[..., None, None] * (cross @ cross)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Logarithm of rotations: (..., 3, 3) to (..., 3) rad with angles in [0, π]; right near π as well.

    Goes through the unit quaternion built from the largest of its four components (S. W. Shepperd,
    "Quaternion from rotation matrix", 1978), because the plain formula loses the axis near π — which is
    where every frontal face is in camera space. Not differentiable where that choice switches.
    """
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)
    twice = squares.clamp_min(0).sqrt()  # 2|w|, 2|x|, 2|y|, 2|z|
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    w2, x2, y2, z2 = (twice * twice).unbind(-1)
    rows = torch.stack(
        [
            torch.stack([w2, wx, wy, wz], -1),
            torch.stack([wx, x2, xy, xz], -1),
            torch.stack([wy, xy, y2, yz], -1),
            torch.stack([wz, xz, yz, z2], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = rows.gather(-2, best).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    vector = quaternion[..., 1:]
    length = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, quaternion[..., :1])
    scale = torch.where(length > 1e-9, angle / length.clamp_min(1e-9), torch.full_like(length, 2.0))
    return vector * scale
