"""Pictures of a head other than colours: normals, depth, texture coordinates, regions, visibility."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.antialias import antialias
from recon3d.render.camera import Camera
from recon3d.render.rasterize import Fragments, interpolate, rasterize
from recon3d.render.shading import vertex_normals

if TYPE_CHECKING:
    from recon3d.head import HeadModel

#: The grey picture: light from the camera, and a little from everywhere.
_LAMP, _AMBIENT = 0.75, 0.2


@dataclass(frozen=True, eq=False)
class Surface:
    """B heads as a camera sees them.

    Attributes:
        verts_cam: (B,V,3) camera space, m.
        verts_px: (B,V,3) x px, y px, z m.
        faces: (F,3) int64.
        fragments: What is seen at each pixel; its ``depth`` (B,H,W) is the depth map, m.
    """

    verts_cam: Tensor
    verts_px: Tensor
    faces: Tensor
    fragments: Fragments

    @staticmethod
    def of(
        verts_cam: Tensor,
        faces: Tensor,
        camera: Camera,
        *,
        cull_backfaces: bool = False,
        backend: str | None = None,
    ) -> Surface:
        """Rasterize meshes (B,V,3), m, that share their faces (F,3)."""
        verts_px = camera.project(verts_cam)
        drawn = rasterize(verts_px, faces, camera.size, cull_backfaces=cull_backfaces, backend=backend)
        return Surface(verts_cam, verts_px, faces, drawn)

    def smooth(self, image: Tensor) -> Tensor:
        """Antialias a picture (B,H,W,C) of this surface."""
        return antialias(image, self.fragments, self.verts_px, self.faces)


def normal_map(surface: Surface) -> Tensor:
    """Return smooth unit normals in camera space, (B,H,W,3); zeros where nothing is seen. Differentiable."""
    normals = vertex_normals(surface.verts_cam, surface.faces)
    return F.normalize(interpolate(normals, surface.faces, surface.fragments), dim=-1)


def grey_map(surface: Surface) -> Tensor:
    """Return the bare form under a lamp at the camera, (B,H,W,1) in [0,1], black where nothing is seen.

    Its outlines are antialiased, so gradients reach everything that shapes it: what the neural renderer of
    SMIRK (G. Retsinas et al., 2024) reads. Shows the expression, and nothing of skin or light.
    """
    lit = normal_map(surface)[..., 2:].abs() * _LAMP + _AMBIENT
    return surface.smooth(lit * surface.fragments.mask[..., None])


def uv_map(surface: Surface, uv: Tensor, faces_uv: Tensor) -> Tensor:
    """Return texture coordinates (B,H,W,2) of ``uv`` (U,2); zeros where nothing is seen. Differentiable."""
    return interpolate(uv[None].to(surface.verts_cam), faces_uv, surface.fragments)


def region_map(surface: Surface, regions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return where each region of the head is seen: by name, (B,H,W) bool.

    A triangle belongs to a region when all its corners do.

    Args:
        surface: The heads.
        regions: (V,) bool by name, such as ``head_regions`` returns.
    """
    triangle = surface.fragments.triangle
    found = {}
    for name, inside in regions.items():
        whole = inside[surface.faces].all(dim=1)
        # One more entry at the end, which is what -1 looks up.
        found[name] = torch.cat((whole, whole.new_zeros(1)))[triangle]
    return found


def head_regions(head: HeadModel) -> dict[str, Tensor]:
    """Return the regions of a head model as tensors: (V,) bool by name."""
    return {name: torch.from_numpy(mask) for name, mask in head.regions.items()}


def visible_vertices(surface: Surface) -> Tensor:
    """Return which vertices are corners of a triangle that some pixel's centre sees, (B,V) bool."""
    batch, count = surface.verts_cam.shape[:2]
    seen = torch.zeros(batch, count, dtype=torch.bool, device=surface.faces.device)
    image = torch.arange(batch, device=seen.device)[:, None, None].expand_as(surface.fragments.triangle)
    mask = surface.fragments.mask
    seen[image[mask][:, None], surface.faces[surface.fragments.triangle[mask]]] = True
    return seen
