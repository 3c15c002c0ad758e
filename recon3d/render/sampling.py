"""Texture sampling with mip levels: each pixel takes the texture at the sharpness that it can show."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.rasterize import Fragments, images_of, scatter, seen


@torch.no_grad()
def screen_derivatives(
    attributes: Tensor, attribute_faces: Tensor, fragments: Fragments, verts_px: Tensor, faces: Tensor
) -> Tensor:
    """How fast attributes change over the picture, on the triangle that is seen.

    Exact for the perspective-correct blend at the pixel centre. No gradient passes.

    Args:
        attributes: (U,C), texture coordinates for instance.
        attribute_faces: (F,3) int64 corners of the triangles in ``attributes``.
        fragments: What is seen, of B images.
        verts_px: (B,V,3) x px, y px, z m, as they were rasterized.
        faces: (F,3) int64.

    Returns:
        (B,H,W,C,2) change per px to the right and downward; zeros where nothing is seen.
    """
    where, triangle, weights = seen(fragments)
    image = images_of(where, fragments)
    corners = faces.index_select(0, triangle)
    if image is not None:
        corners = corners + (image * verts_px.shape[1])[:, None]
    points = verts_px.reshape(-1, 3)[corners]  # (n,3 corners,3)
    x, y, z = points.unbind(-1)
    next_x, next_y, last_x, last_y = x.roll(-1, 1), y.roll(-1, 1), x.roll(1, 1), y.roll(1, 1)
    area = ((x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0]))[:, None]
    # The weight on the screen of each corner falls along the line through the other two; over z it is linear.
    slope = torch.stack((next_y - last_y, last_x - next_x), dim=-1) / (area * z)[..., None]
    depth = fragments.depth.reshape(-1).index_select(0, where)[:, None, None]
    change = depth * (slope - weights[..., None] * slope.sum(1, keepdim=True))
    values = attributes[attribute_faces.index_select(0, triangle)]  # (n,3,C)
    result = torch.einsum("nkc,nkd->ncd", values, change)
    return scatter(result.flatten(1), where, fragments).unflatten(-1, (attributes.shape[1], 2))


def sample_texture(texture: Tensor, uv: Tensor, derivatives: Tensor | None = None) -> Tensor:
    """Look a texture up: bilinear, and between the two mip levels that suit the pixel's size.

    Differentiable to the texture and to ``uv``.

    Args:
        texture: (B,C,h,w), or (1,C,h,w) for a batch that shares it; row 0 is v = 1.
        uv: (B,H,W,2) in [0,1], v upward.
        derivatives: (B,H,W,2,2) of ``uv``, from ``screen_derivatives``; None takes the full texture.

    Returns:
        (B,H,W,C).
    """
    grid = torch.stack((uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2), dim=-1)
    if derivatives is None:
        return _bilinear(texture, grid)
    height, width = texture.shape[2:]
    texels = derivatives * derivatives.new_tensor((width, height))[:, None]
    # The longer of the pixel's two sides, in texels: rather soft than flickering.
    level = texels.square().sum(-2).amax(-1).clamp_min(1e-12).log2() / 2
    level = level.clamp(0, math.floor(math.log2(min(height, width))))
    result, current = torch.zeros((), dtype=uv.dtype, device=uv.device), texture
    for k in range(int(level.max().ceil()) + 1):
        if k:
            current = F.avg_pool2d(current, 2)
        share = (1 - (level - k).abs()).clamp_min(0)[..., None]
        result = result + _bilinear(current, grid) * share
    return result


def _bilinear(texture: Tensor, grid: Tensor) -> Tensor:
    shared = texture.expand(len(grid), -1, -1, -1)
    return F.grid_sample(shared, grid, padding_mode="border", align_corners=False).movedim(1, -1)
