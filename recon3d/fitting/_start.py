"""A starting pose in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def starting_pose(points: Tensor, pixels: Tensor, focal: Tensor, principal: Tensor) -> tuple[Tensor, Tensor]:
    """Head-to-camera rotation and translation from landmarks, under a scaled-orthographic camera.

    The affine map from head to picture is fitted by least squares, its two rows are made perpendicular and
    equally long, and the distance follows from the scale (D. DeMenthon, L. Davis, "Model-based object
    pose in 25 lines of code", IJCV 1995, without its iteration: the solver does better).

    Args:
        points: (N, 3) or (B, N, 3) head space, m.
        pixels: (B, N, 2).
        focal: (B,) px.
        principal: (B, 2) px.

    Returns:
        Rotation (B, 3, 3) and translation (B, 3), m: ``X_camera = R X + t``.
    """
    points = points.expand(len(pixels), -1, -1)
    mean3, mean2 = points.mean(1, keepdim=True), pixels.mean(1, keepdim=True)
    # By the normal equations: torch.linalg.lstsq gives other last digits from one call to the next.
    away3, away2 = points - mean3, pixels - mean2
    solution = torch.linalg.pinv(away3.mT @ away3, hermitian=True) @ (away3.mT @ away2)  # (B, 3, 2)
    u, s, vt = torch.linalg.svd(solution.mT, full_matrices=False)  # rows: picture x, picture y
    rows = u @ vt  # (B, 2, 3): the nearest pair of perpendicular unit rows
    rotation = torch.cat([rows, torch.linalg.cross(rows[:, 0], rows[:, 1])[:, None]], dim=1)
    scale = s.mean(-1).clamp_min(1e-3)  # px per metre; landmarks that all coincide have none
    depth = focal / scale
    centre = torch.cat([(mean2[:, 0] - principal) * (depth / focal)[:, None], depth[:, None]], dim=-1)
    return rotation, centre - torch.einsum("bij,bj->bi", rotation, mean3[:, 0])
