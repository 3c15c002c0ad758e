"""The rasterizer's contract: which triangle is seen at each pixel, and what it carries there.

Two steps are kept apart. *Visibility* (a backend, no gradient) names one triangle per pixel.
*Interpolation* computes perspective-correct barycentric coordinates of the pixel centre anew from the
vertex positions, so that gradients reach positions and attributes, the same ones whatever the backend. What
has no gradient is the choice of the triangle: a silhouette that moves over a pixel is not felt by that pixel.

On CPUs both steps are compiled (recon3d.render._raster_numba). The torch versions serve every other device,
and are what the compiled ones are tested against.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.errors import MissingExtraError, UsageError
from recon3d.render._raster_torch import TINY, drawable
from recon3d.render.camera import NEAR

#: Pixels worked on at once when no gradient is asked for: bounds the memory of large pictures.
_CHUNK = 1 << 17


@dataclass(frozen=True, eq=False)
class Fragments:
    """What the rasterizer found at each pixel of B images.

    Attributes:
        triangle: (B,H,W) int64 index into ``faces`` of the nearest triangle, -1 where there is none.
        barycentric: (B,H,W,3) perspective-correct weights of its corners at the pixel centre, each in
            [0,1], sum 1; zeros where there is none. Differentiable to the vertex positions.
        depth: (B,H,W) z of the surface at the pixel centre, m; zero where there is none. Differentiable.
    """

    triangle: Tensor
    barycentric: Tensor
    depth: Tensor

    @property
    def mask(self) -> Tensor:
        """(B,H,W) bool: true where a triangle is seen."""
        return self.triangle >= 0


class Visibility(Protocol):
    """What a backend does."""

    def __call__(
        self, verts_px: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool, near: float
    ) -> Tensor:
        """Return the nearest triangle at every pixel centre, (B,H,W) int64, -1 where there is none."""


def rasterize(
    verts_px: Tensor,
    faces: Tensor,
    size: tuple[int, int],
    *,
    cull_backfaces: bool = False,
    near: float = NEAR,
    backend: str | None = None,
) -> Fragments:
    """Find the nearest triangle at every pixel centre, with its barycentric coordinates and depth.

    A pixel belongs to a triangle that contains its centre, edges included: meshes have no cracks. Of
    several, the nearest is seen; of equally near ones (in 1/z, to float32's precision), that with the lowest
    index. What lies nearer than ``near`` is cut off, through the middle of a triangle if need be. Never
    drawn: triangles with a corner that is not finite, lies 2^24 px or more away, or in the camera's plane
    (within 1e-12 m), and those without area.

    Args:
        verts_px: (B,V,3) x px, y px, z m, as ``Camera.project`` returns them; float32 or float64.
        faces: (F,3) int64 corners, shared by the batch. A face is seen from its front when its corners
            run counter-clockwise on the picture as one looks at it.
        size: Width and height, px.
        cull_backfaces: Leave out triangles seen from behind.
        near: Smallest depth drawn, m.
        backend: One of ``BACKENDS``; None takes the fastest one that the device has.

    Raises:
        UsageError: The backend does not exist, or not on the vertices' device.
        MissingExtraError: Its package is not installed.
    """
    visible = visibility(backend or default_backend(verts_px.device), verts_px.device)
    triangle = visible(verts_px.detach(), faces, size, cull_backfaces=cull_backfaces, near=near)
    return locate(verts_px, faces, triangle)


_preferred: str | None = None


def use_backend(name: str | None) -> None:
    """Let this process draw with a backend wherever none is named; None: with the fastest one.

    Raises:
        UsageError: It does not exist.
        MissingExtraError: Its package is not installed.
    """
    global _preferred
    if name is not None:
        visibility(name, torch.device("cpu"))
    _preferred = name


def default_backend(device: torch.device) -> str:
    """Return the name of the backend that is used on a device where none is named."""
    if _preferred is not None:
        return _preferred
    if device.type == "cpu":
        return "numba" if compiled_kernels() is not None else "torch"
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "torch"


def visibility(name: str, device: torch.device) -> Visibility:
    """Return a backend by its name.

    Raises:
        UsageError: It does not exist, or not on this device.
        MissingExtraError: Its package is not installed.
    """
    if name not in BACKENDS:
        raise UsageError(f"rasterizer {name!r} does not exist; choose one of {', '.join(BACKENDS)}")
    module, package, source = _MODULES[name]
    if find_spec(package) is None:
        raise MissingExtraError(f"the rasterizer {name!r} needs the package {package}: {source}")
    if name == "numba" and device.type != "cpu":
        raise UsageError(f"the rasterizer 'numba' works on the CPU, not on {device}; choose 'torch'")
    found: Visibility = import_module(module).visible
    return found


@cache
def compiled_kernels() -> ModuleType | None:
    """Return the compiled kernels for CPUs, or None where numba is not installed."""
    return import_module("recon3d.render._raster_numba") if find_spec("numba") is not None else None


def kernels_for(*tensors: Tensor) -> ModuleType | None:
    """Return the compiled kernels if they can work on these tensors."""
    dtype = tensors[0].dtype
    fit = dtype in (torch.float32, torch.float64)
    fit = fit and all(one.device.type == "cpu" and one.dtype == dtype for one in tensors)
    return compiled_kernels() if fit else None


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Blend vertex attributes over the seen triangles.

    Differentiable to the attributes and, through the barycentric coordinates, to the vertex positions.

    Args:
        attributes: (B,V,C), or (1,V,C) for a batch that shares them.
        faces: (F,3) int64 indices into the attributes; may differ from the faces that were rasterized as
            long as triangle k is triangle k (texture coordinates with their own seams).
        fragments: From ``rasterize``.

    Returns:
        (B,H,W,C), zeros where nothing is seen.
    """
    where, triangle, barycentric = seen(fragments)
    values = blend(attributes, faces, triangle, barycentric, images_of(where, fragments))
    return scatter(values, where, fragments)


def seen(fragments: Fragments) -> tuple[Tensor, Tensor, Tensor]:
    """Return the n covered pixels as flat indices (n,), triangles (n,) and barycentric weights (n,3)."""
    flat = fragments.triangle.reshape(-1)
    where = torch.nonzero(flat >= 0).squeeze(1)
    weights = fragments.barycentric.reshape(-1, 3).index_select(0, where)
    return where, flat.index_select(0, where), weights


def blend(
    attributes: Tensor, faces: Tensor, triangle: Tensor, barycentric: Tensor, image: Tensor | None = None
) -> Tensor:
    """Blend vertex attributes (B,V,C) at n surface points to (n,C). Differentiable.

    Args:
        attributes: (B,V,C).
        faces: (F,3) int64.
        triangle: (n,) int64 face of each point.
        barycentric: (n,3) weights of its corners.
        image: (n,) int64 index of each point's image in the batch; needed when B > 1.
    """
    batch, count, channels = attributes.shape
    corners = faces.index_select(0, triangle)
    if batch > 1 and image is not None:
        corners = corners + (image * count)[:, None]
    table = attributes.reshape(batch * count, channels)
    kernels = kernels_for(table, barycentric)
    if kernels is not None:
        blended: Tensor = kernels.Blend.apply(table, corners, barycentric)
        return blended
    if not (torch.is_grad_enabled() and (table.requires_grad or barycentric.requires_grad)):
        return F.embedding_bag(corners, table, per_sample_weights=barycentric, mode="sum")
    # embedding_bag is the fastest forward, but its backward is slower than that of three gathers.
    parts = [table.index_select(0, corners[:, k]) * barycentric[:, k : k + 1] for k in range(3)]
    return parts[0] + parts[1] + parts[2]


def scatter(values: Tensor, where: Tensor, fragments: Fragments) -> Tensor:
    """Put (n,C) values of the covered pixels back into a (B,H,W,C) picture of zeros. Differentiable."""
    canvas = values.new_zeros(fragments.triangle.numel(), values.shape[1])
    return canvas.index_copy(0, where, values).reshape(*fragments.triangle.shape, values.shape[1])


def locate(verts_px: Tensor, faces: Tensor, triangle: Tensor) -> Fragments:
    """Complete a visibility picture with barycentric coordinates and depth at the pixel centres.

    Linear functions on the picture are set up per triangle: the screen barycentric coordinates of corners
    1 and 2, and 1/z; their products, normalised, are the perspective-correct weights. Differentiable to
    ``verts_px``.

    Args:
        verts_px: (B,V,3) x px, y px, z m.
        faces: (F,3) int64.
        triangle: (B,H,W) int64, -1 where there is none.
    """
    kernels = kernels_for(verts_px)
    if kernels is not None:
        return Fragments(triangle, *kernels.Locate.apply(verts_px, faces, triangle))
    planes = _planes(verts_px, faces)
    flat = triangle.reshape(-1)
    where = torch.nonzero(flat >= 0).squeeze(1)
    step = where.numel() if planes.requires_grad else _CHUNK
    parts = torch.split(where, max(step, 1))
    result = torch.cat([_at_pixels(planes, flat, part, triangle.shape) for part in parts])
    weights = result.new_zeros(flat.numel(), 3).index_copy(0, where, result[:, :3])
    depth = result.new_zeros(flat.numel()).index_copy(0, where, result[:, 3])
    return Fragments(triangle, weights.reshape(*triangle.shape, 3), depth.reshape(triangle.shape))


def _planes(verts_px: Tensor, faces: Tensor) -> Tensor:
    """Per image and triangle (B*F,9): corner 0 (x,y), gradients of weights 1 and 2 (x,y each), 1/z (3)."""
    # Corners that cannot be drawn, and triangles without area, are never gathered from; but 0 * inf in
    # the backward pass would spoil the gradient of the others.
    x, y, z = verts_px.detach().unbind(-1)
    usable = drawable(x, y, z)[..., None]
    corners = torch.where(usable, verts_px, 1.0)[:, faces]  # (B,F,3,3)
    origin, first, second = corners[..., :2].unbind(2)
    edge1, edge2 = first - origin, second - origin
    area = edge1[..., 0] * edge2[..., 1] - edge1[..., 1] * edge2[..., 0]
    area = torch.where(area.abs() > TINY, area, 1.0)[..., None]
    inverse = 1 / corners[..., 2]
    gradient1 = torch.stack((edge2[..., 1], -edge2[..., 0]), dim=-1) / area
    gradient2 = torch.stack((-edge1[..., 1], edge1[..., 0]), dim=-1) / area
    return torch.cat((origin, gradient1, gradient2, inverse), dim=-1).reshape(-1, 9)


def _at_pixels(planes: Tensor, flat: Tensor, where: Tensor, shape: torch.Size) -> Tensor:
    """(n,4) perspective-correct weights and depth at the flat pixel indices ``where`` (n,)."""
    images, height, width = shape
    row = where.div(width, rounding_mode="floor")
    x = (where - row * width).to(planes.dtype) + 0.5
    index = flat.index_select(0, where)
    if images > 1:
        image = row.div(height, rounding_mode="floor")
        row = row - image * height
        index = index + image * (planes.shape[0] // images)
    y = row.to(planes.dtype) + 0.5
    x0, y0, g1x, g1y, g2x, g2y, iz0, iz1, iz2 = planes.index_select(0, index).unbind(1)
    dx, dy = x - x0, y - y0
    weight1, weight2 = dx * g1x + dy * g1y, dx * g2x + dy * g2y
    weight0 = 1 - weight1 - weight2
    # Rounding may leave a centre on an edge a hair outside; a weight is never negative. A corner behind the
    # camera turns two signs, its weight's on the screen and its own.
    scaled = [(w * iz).clamp_min(0) for w, iz in ((weight0, iz0), (weight1, iz1), (weight2, iz2))]
    depth = 1 / (scaled[0] + scaled[1] + scaled[2])
    return torch.stack((scaled[0] * depth, scaled[1] * depth, scaled[2] * depth, depth), dim=1)


def images_of(where: Tensor, fragments: Fragments) -> Tensor | None:
    """Return the image (n,) in the batch of flat pixel indices (n,); None for a batch of one."""
    images, height, width = fragments.triangle.shape
    return where.div(height * width, rounding_mode="floor") if images > 1 else None


#: The rasterizers by name: the module that tells visibility, the package that it needs, and where that comes
#: from. Another one joins by adding a line here.
_MODULES = {
    "numba": ("recon3d.render._raster_numba", "numba", "pip install numba"),
    "torch": ("recon3d.render._raster_torch", "torch", "pip install torch"),
    "triton": ("recon3d.render._raster_triton", "triton", "pip install triton"),
    "pytorch3d": (
        "recon3d.render._raster_pytorch3d",
        "pytorch3d",
        "build it for your version of torch, as its own installation page tells",
    ),
}

#: Names of the rasterizers.
BACKENDS = tuple(_MODULES)
