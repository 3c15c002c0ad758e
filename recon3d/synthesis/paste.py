"""Puts a painted face back into its photograph."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.encoder.crop import CROP_SIZE
from recon3d.face._crop import Region

Pixels = npt.NDArray[np.uint8]

#: Width of the seam in parts of the cut-out's side.
_FEATHER = 0.05


def paste(frame: Pixels, region: Region, painted: Tensor, given: Tensor, mask: Tensor) -> Pixels:
    """Replace a face.

    The painted picture is matched in colour to the given one where both show the same, around the face; the
    seam is feathered inward, so that nothing beyond the mask changes.

    Args:
        frame: (H,W,3) sRGB.
        region: Where the cut-out lies in it.
        painted: (3,S,S) sRGB in [0,1]: the cut-out, painted anew.
        given: (3,S',S') the cut-out as it was, of any size.
        mask: (1,S,S) 1 where the face was painted.

    Returns:
        (H,W,3), a new one.
    """
    matched = _matched(painted, F.interpolate(given[None], painted.shape[1:], mode="area")[0], mask)
    left, top, right, bottom = _bounds(region, frame.shape)
    if right <= left or bottom <= top:
        return frame.copy()
    layers = torch.cat((matched, feathered(mask)))
    placed = _sampled(layers, region, (left, top, right, bottom))
    result = frame.copy()
    part = torch.from_numpy(frame[top:bottom, left:right].astype(np.float32)) / 255
    share = placed[..., 3:]
    mixed = part + (placed[..., :3] - part) * share
    result[top:bottom, left:right] = (mixed.clamp(0, 1) * 255).round().byte().numpy()
    return result


def feathered(mask: Tensor) -> Tensor:
    """Soften a mask (1,S,S) inward."""
    reach = max(1, round(_FEATHER * mask.shape[-1] / 2))
    inner = -F.max_pool2d(-mask[None], 2 * reach + 1, stride=1, padding=reach)
    smooth = F.avg_pool2d(F.pad(inner, (reach,) * 4), 2 * reach + 1, stride=1)
    return smooth[0] * mask


def _matched(painted: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """Bring the painted picture's brightness and tint to the given one's around the face."""
    around = 1 - mask
    count = around.sum().clamp_min(1)
    offset = ((given - painted) * around).sum((1, 2), keepdim=True) / count
    return (painted + offset).clamp(0, 1)


def _bounds(region: Region, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom px of the part of a frame that a cut-out reaches."""
    cos, sin = abs(math.cos(region.angle)), abs(math.sin(region.angle))
    wide = (region.width * cos + region.height * sin) / 2
    tall = (region.width * sin + region.height * cos) / 2
    return (
        max(0, math.floor(region.x - wide)),
        max(0, math.floor(region.y - tall)),
        min(shape[1], math.ceil(region.x + wide) + 1),
        min(shape[0], math.ceil(region.y + tall) + 1),
    )


def _sampled(layers: Tensor, region: Region, box: tuple[int, int, int, int]) -> Tensor:
    """Layers (C,S,S) of a cut-out at the frame's pixels in a box: (h,w,C); zeros beyond the cut-out."""
    left, top, right, bottom = box
    x = torch.arange(left, right) - region.x
    y = torch.arange(top, bottom)[:, None] - region.y
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    u, v = (x * cos + y * sin) / region.width, (y * cos - x * sin) / region.height
    # Pixel k of the 256² cut-out, which smaller ones are means of, lies at k / 256 - 1/2 of its side
    # (recon3d.face._crop.warp).
    half = 1 / CROP_SIZE
    grid = torch.stack((2 * u + half, 2 * v + half), dim=-1).float()
    return F.grid_sample(layers[None], grid[None], align_corners=False)[0].permute(1, 2, 0)
