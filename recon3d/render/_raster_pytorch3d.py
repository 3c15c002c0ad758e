"""Visibility by PyTorch3D, where that is installed: a peer to compare with, not a faster way."""

from __future__ import annotations

import torch
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes
from torch import Tensor


@torch.no_grad()
def visible(
    verts_px: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool, near: float
) -> Tensor:
    """Return the nearest triangle at every pixel centre, (B,H,W) int64; see ``rasterize``."""
    width, height = size
    x, y, z = verts_px.float().unbind(-1)
    # Its picture's shorter side reaches from -1 to 1, +X to the left, +Y upward.
    half = min(width, height) / 2
    points = torch.stack(((width / 2 - x) / half, (height / 2 - y) / half, z), dim=-1)
    meshes = Meshes(verts=points, faces=faces.expand(len(points), -1, -1))
    found = rasterize_meshes(
        meshes,
        image_size=(height, width),
        blur_radius=0.0,
        faces_per_pixel=1,
        perspective_correct=True,
        clip_barycentric_coords=False,
        cull_backfaces=cull_backfaces,
        z_clip_value=near,
        cull_to_frustum=False,
    )
    packed: Tensor = found[0][..., 0]
    return torch.where(packed < 0, packed, packed % len(faces))
