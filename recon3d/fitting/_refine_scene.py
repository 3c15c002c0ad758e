"""What refinement compares a head with: a photograph, cut out around the face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recon3d.fitting.solver import Observed
from recon3d.render.camera import Camera

Pixels = npt.NDArray[np.uint8]

#: Half the side of the square that is cut out, in sizes of the face.
_MARGIN = 0.62


@dataclass(frozen=True, eq=False)
class Scene:
    """The photograph, cut out around a face.

    Attributes:
        picture: (S,S,3) linear.
        inside: (S,S) bool: within the photograph.
        camera: The photograph's, for the cut.
    """

    picture: Tensor
    inside: Tensor
    camera: Camera


def cut_out(pixels: Pixels, seen: Observed, side: int, blur: int) -> Scene:
    """Cut out and shrink the square around the landmarks.

    Args:
        pixels: (H,W,3) uint8 photograph.
        seen: Landmarks and camera (batch 1).
        side: S, px.
        blur: Times that it is blurred by a box of 3 x 3 px.
    """
    points = seen.pixels[0]
    low, high = points.amin(0), points.amax(0)
    middle, half = (low + high) / 2, _MARGIN * float((high - low).max())
    left, top = (middle - half).tolist()
    picture = _resized(pixels, (left, top, left + 2 * half, top + 2 * half), side)
    linear = (torch.from_numpy(picture).float() / 255).square().permute(2, 0, 1)[None]
    for _ in range(blur):
        linear = F.avg_pool2d(F.pad(linear, (1, 1, 1, 1), mode="replicate"), 3, 1)
    scale = side / (2 * half)
    centres = (torch.arange(side) + 0.5) / scale
    across = (centres + left > 0) & (centres + left < pixels.shape[1])
    down = (centres + top > 0) & (centres + top < pixels.shape[0])
    corner = torch.tensor([left, top])
    camera = Camera(seen.focal * scale, (seen.principal - corner) * scale, (side, side))
    return Scene(linear[0].permute(1, 2, 0).contiguous(), down[:, None] & across, camera)


def sample(picture: Tensor, points: Tensor) -> Tensor:
    """Look a square picture (S,S,3) up at points (n,2) px; (n,3). Differentiable to the points."""
    grid = (points / picture.shape[0] * 2 - 1)[None, None]
    image = picture.permute(2, 0, 1)[None]
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0].T


def _resized(pixels: Pixels, box: tuple[float, float, float, float], side: int) -> Pixels:
    """Resize a square of a photograph, which may reach beyond it, to (side, side, 3)."""
    image = Image.fromarray(pixels)
    shrink = int((box[2] - box[0]) / side)
    if shrink > 1:  # by a box filter first: sampling alone would flicker
        image = image.reduce(shrink)
        box = tuple(value / shrink for value in box)  # type: ignore[assignment]
    shown = image.transform((side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    return np.array(shown, np.uint8)
