"""Cuts a face out of a photograph, and puts its change back into it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.face._crop import Region
from recon3d.synthesis._pools import averaged, narrowed

Pixels = npt.NDArray[np.uint8]

#: Width of the seam in parts of the cut-out's side.
_FEATHER = 0.05


def cut(frame: Pixels, region: Region, size: int) -> Tensor:
    """Cut a region out of a picture.

    Pixel centres lie at half-integers on both sides, so that ``paste`` is the exact way back. Beyond the
    picture its edge is repeated.

    Args:
        frame: (H,W,3) sRGB.
        region: What to cut out.
        size: Of the result; the region may be about twice as large before the result flickers.

    Returns:
        (3,size,size) sRGB in [0,1].
    """
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    u, v = axis[None] * region.width, axis[:, None] * region.height
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    x, y = region.x + cos * u - sin * v, region.y + sin * u + cos * v
    # Only the part that is looked at becomes floating point.
    left, right = _span(x, frame.shape[1])
    top, bottom = _span(y, frame.shape[0])
    part = torch.from_numpy(frame[top:bottom, left:right].astype(np.float32)).permute(2, 0, 1) / 255
    grid = torch.stack(((x - left) / (right - left), (y - top) / (bottom - top)), dim=-1) * 2 - 1
    return F.grid_sample(part[None], grid.float()[None], padding_mode="border", align_corners=False)[0]


def paste(frame: Pixels, region: Region, change: Tensor, mask: Tensor) -> Pixels:
    """Change a face.

    The picture itself stays where nothing changes: it is not cut out, resampled and put back. The seam is
    feathered inward, so that nothing beyond the mask changes.

    Args:
        frame: (H,W,3) sRGB.
        region: Where the cut-out lies in it.
        change: (3,S,S) what is added to the cut-out, sRGB in [-1,1].
        mask: (1,S,S) 1 where it may change.

    Returns:
        (H,W,3), a new one.
    """
    result = frame.copy()
    left, top, right, bottom = _bounds(region, frame.shape)
    if right <= left or bottom <= top:
        return result
    placed = _sampled(change * feathered(mask), region, (left, top, right, bottom))
    part = torch.from_numpy(frame[top:bottom, left:right].astype(np.float32))
    result[top:bottom, left:right] = (part + placed * 255).round().clamp(0, 255).byte().numpy()
    return result


def feathered(mask: Tensor) -> Tensor:
    """Soften a mask (1,S,S) inward."""
    reach = max(1, round(_FEATHER * mask.shape[-1] / 2))
    return averaged(narrowed(mask[None], reach), reach)[0] * mask


def _span(places: Tensor, length: int) -> tuple[int, int]:
    """First and behind-last pixel that bilinear reading of places needs."""
    first = min(max(math.floor(float(places.min())) - 1, 0), length - 1)
    return first, max(first + 1, min(length, math.ceil(float(places.max())) + 2))


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
    x = torch.arange(left, right) + 0.5 - region.x
    y = torch.arange(top, bottom)[:, None] + 0.5 - region.y
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    u, v = (x * cos + y * sin) / region.width, (y * cos - x * sin) / region.height
    grid = torch.stack((2 * u, 2 * v), dim=-1).float()
    return F.grid_sample(layers[None], grid[None], align_corners=False)[0].permute(1, 2, 0)
