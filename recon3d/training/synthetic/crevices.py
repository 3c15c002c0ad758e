"""How little light from all around gets into folds: between the lips, beside the nose, under the brows."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.training.synthetic.noise import box_blur

#: Widths of the folds that are looked for, m, and how much each counts.
_WIDTHS, _SHARES = (0.005, 0.014, 0.04), (0.5, 0.5, 0.4)
#: Depth of a fold, in parts of its width, at which it is as dark as it gets.
_FULL = 0.35
#: Widest surroundings, px.
_WIDEST = 60.0


def crevices(depth: Tensor, scale: float, strength: float) -> Tensor:
    """Tell the share (S,S) of the light from all around that reaches each pixel's surface.

    What lies deeper than its surroundings gets less: the picture of the depth is compared with blurred ones
    (T. Luft et al., Image Enhancement by Unsharp Masking the Depth Buffer, 2006).

    Args:
        depth: (S,S) m, zero where nothing is.
        scale: Pixels a metre.
        strength: 0 for none, 1 for all.
    """
    here = (depth > 0).float()
    both = torch.stack((depth, here))
    dark = torch.zeros_like(depth)
    for width, share in zip(_WIDTHS, _SHARES, strict=True):
        total, count = _mean_around(both, min(width * scale, _WIDEST))
        behind = depth - total / count.clamp_min(1e-3)
        dark += share * (behind / (_FULL * width)).clamp(0, 1)
    return 1 - strength * (dark * here).clamp_max(0.9)


def _mean_around(picture: Tensor, width: float) -> Tensor:
    """Mean (C,S,S) over about ``width`` px; wide ones on a smaller picture."""
    shrink = 4 if width >= 20 else 2 if width >= 9 else 1
    kernel = max(2 * round(width / shrink / 2) + 1, 3)
    if shrink == 1:
        return box_blur(picture, kernel)
    blurred = box_blur(F.avg_pool2d(picture, shrink), kernel)
    return F.interpolate(blurred[None], picture.shape[1:], mode="bilinear", align_corners=False)[0]


def draw_strength(rng: np.random.Generator) -> float:
    """How much of it a picture shows."""
    return float(rng.uniform(0.2, 1.0))
