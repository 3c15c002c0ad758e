"""Photographs as the head's texture: baked into its UV layout, and completed where nothing was seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recon3d.render.camera import NEAR, Camera
from recon3d.render.lighting import fit_light, irradiance
from recon3d.render.rasterize import blend, rasterize, seen
from recon3d.render.shading import CLAY, vertex_normals

Pixels = npt.NDArray[np.uint8]

#: Surfaces turned this far from the viewer (cosine) are not used; from the second figure on, fully.
_GRAZING = (0.15, 0.45)
#: Larger side, px, of the depth picture that tells what is hidden.
_DEPTH_SIDE = 384
#: A point this far (m) behind the nearest surface is hidden.
_BEHIND = 0.004
#: Pull of every vertex to the typical colour, against 1 of an edge: seen colours fade in about 1/sqrt of it.
_PRIOR = 0.004


@dataclass(frozen=True)
class _Layout:
    """The n texels that the UV layout covers: the surface points that they show, and where they go.

    Attributes:
        triangle: (n,) int64.
        weights: (n,3) barycentric.
        quads: (m,4) int32, for each cell of 2×2 texels the covered ones among them; n where there is none.
        area: (m,1) texels that the cell has: 4, less at the border of an odd size.
        cover: (m,1) part of them that is covered.
        source: (size²,) int32, what a texel shows: covered texel k, or n + the cell that it lies in.
    """

    triangle: Tensor
    weights: Tensor
    quads: Tensor
    area: Tensor
    cover: Tensor
    source: Tensor


@dataclass(frozen=True, eq=False)
class View:
    """One photograph of the head, or one frame of a clip.

    Attributes:
        pixels: (H,W,3) uint8.
        vertices_cam: (V,3) camera space, m.
        camera: Its camera (batch 1).
    """

    pixels: Pixels
    vertices_cam: Tensor
    camera: Camera


def unwrap(
    pixels: Pixels,
    vertices_cam: Tensor,
    faces: Tensor,
    camera: Camera,
    uv: Tensor,
    faces_uv: Tensor,
    **options: Any,
) -> Pixels:
    """Bake one photograph into the head's texture; see ``unwrap_views``."""
    return unwrap_views([View(pixels, vertices_cam, camera)], faces, uv, faces_uv, **options)


def unwrap_views(
    views: Iterable[View],
    faces: Tensor,
    uv: Tensor,
    faces_uv: Tensor,
    *,
    size: int = 1024,
    colors: Tensor | None = None,
    skin: Tensor | None = None,
    mirror: Tensor | None = None,
    delight: bool = False,
) -> Pixels:
    """Bake photographs of one head into its texture.

    Texels whose surface a camera saw take the photographs' colours, those seen most squarely counting most,
    and fading out toward grazing angles and the pictures' borders. Skin that was not seen takes what the
    other side of the head shows, in the light of this one; where that was not seen either, the model's own
    colours, multiplied by the ratio of photograph to model, continued smoothly over the mesh to end in the
    typical ratio of the whole face. Eyeballs, teeth and tongue that were not seen keep the model's own
    colours. Texels outside the layout continue their neighbours, so that no seam shows.

    Args:
        views: At least one. They are taken one at a time: memory does not grow with them.
        faces: (F,3) int64 corners.
        uv: (U,2) in [0,1], v upward: row 0 of the texture is v = 1.
        faces_uv: (F,3) int64 corners of the same triangles in ``uv``.
        size: Side of the texture, px.
        colors: (V,3) sRGB vertex colours; None takes clay.
        skin: (V,) bool, vertices that follow the photograph's colour where they were not seen; None takes
            the largest connected part of the mesh.
        mirror: (V,) int64 vertex that is each one's mirror image; None completes without the other side.
        delight: Take the photographs' light out: what is left is the colour under even light
            (recon3d.render.lighting).

    Returns:
        (size, size, 3) uint8.
    """
    layout = _lay_out(_bytes(torch.as_tensor(uv).float()), _bytes(faces_uv.long()), size)
    sides = (False,) if mirror is None else (False, True)
    sums = {mirrored: torch.zeros(len(layout.triangle), 4) for mirrored in sides}
    count = 0
    for view in views:
        verts = torch.as_tensor(view.vertices_cam).detach().float()
        model = torch.as_tensor(CLAY if colors is None else colors).detach().float().expand_as(verts)
        count = len(verts)
        shade = _light_ratio(view, verts, faces, model, skin) if delight else None
        for mirrored, total in sums.items():
            order = mirror if mirrored else None
            total += _observe(view, verts, faces, layout, order, shade)
    photo, seen_part = _mean(sums[False])
    own = blend(model[None], faces, layout.triangle, layout.weights)
    is_skin = (_largest_part(faces, count) if skin is None else torch.as_tensor(skin)).float()[:, None]
    skin_part = blend(is_skin[None], faces, layout.triangle, layout.weights)
    ratio = _continued_ratio(photo, own, (seen_part * skin_part)[:, 0], layout, faces, count)
    tint = torch.lerp(torch.ones_like(model), ratio, is_skin)
    texels = own * blend(tint[None], faces, layout.triangle, layout.weights)
    if mirror is not None:
        other, other_part = _mean(sums[True])
        light = blend((tint / tint[mirror])[None], faces, layout.triangle, layout.weights)
        texels = torch.lerp(texels, other * light, other_part * skin_part)
    return _finish(torch.lerp(texels, photo, seen_part), layout, size)


def _observe(
    view: View, verts: Tensor, faces: Tensor, layout: _Layout, order: Tensor | None, shade: Tensor | None
) -> Tensor:
    """Look every texel up in a photograph: (n,4) colour times weight, and weight in [0,1].

    Args:
        view: The photograph.
        verts: (V,3) its head.
        faces: (F,3).
        layout: Of n texels.
        order: (V,) vertex whose place each vertex takes (its mirror image), or None.
        shade: (V,3) what the colours are divided by, or None.
    """
    carried = torch.cat((verts, _facing(verts, faces)[:, None]), dim=1)
    if shade is not None:
        carried = torch.cat((carried, shade), dim=1)
    if order is not None:
        carried = carried[order]
    values = blend(carried[None], faces, layout.triangle, layout.weights)
    front = torch.nonzero(values[:, 3] > _GRAZING[0]).squeeze(1)  # the camera cannot have seen the others
    points, facing = values[front, :3], values[front, 3]
    part = _ramp(facing, *_GRAZING) * _unhidden(points, verts, faces, view.camera)
    colour, inside = _sample(view.pixels, points, view.camera)
    if shade is not None:
        colour = (colour / values[front, 4:].clamp_min(0.1)).clamp(0, 1)
    weight = (part * inside)[:, None]
    return torch.zeros(len(values), 4).index_copy_(0, front, torch.cat((colour * weight, weight), dim=1))


def _mean(total: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (n,3), and how surely they were seen (n,1): once squarely is enough."""
    return total[:, :3] / total[:, 3:].clamp_min(1e-6), total[:, 3:].clamp(0, 1)


def _light_ratio(view: View, verts: Tensor, faces: Tensor, model: Tensor, skin: Tensor | None) -> Tensor:
    """(V,3) how much brighter than under even light each vertex shows (sRGB), by light fitted to the skin."""
    normals = vertex_normals(verts[None], faces)[0]
    is_skin = _largest_part(faces, len(verts)) if skin is None else torch.as_tensor(skin)
    weight = _ramp(_facing(verts, faces), *_GRAZING) * is_skin
    near = torch.nonzero(weight > 0).squeeze(1)
    colour, inside = _sample(view.pixels, verts[near], view.camera)
    weight = weight[near] * inside * _unhidden(verts[near], verts, faces, view.camera)
    if not bool((weight > 0).any()):
        return torch.ones_like(verts)
    light = fit_light(normals[near], model[near].square(), colour.square(), weight)
    falls = irradiance(normals, light)
    even = (falls[near] * weight[:, None]).sum(0) / weight.sum()
    return (falls / even.clamp_min(1e-3)).clamp(0.05, 4).sqrt()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


# A head's layout is the same for every photograph, and takes as long as all the rest. Kept by content, so
# that it cannot be out of date; three, because textures have three sizes; tens of MB each, never changed.
@lru_cache(maxsize=3)
def _lay_out(uv: bytes, faces_uv: bytes, size: int) -> _Layout:
    """Lay the texture out, from the bytes of (U,2) float32 and (F,3) int64."""
    points = torch.from_numpy(np.frombuffer(uv, np.float32).reshape(-1, 2).copy())
    corners = torch.from_numpy(np.frombuffer(faces_uv, np.int64).reshape(-1, 3).copy())
    flat = torch.stack((points[:, 0] * size, (1 - points[:, 1]) * size, torch.ones(len(points))), dim=1)
    where, triangle, weights = seen(rasterize(flat[None], corners, (size, size)))
    count, half = len(where), (size + 1) // 2
    texel = torch.full((2 * half, 2 * half), count, dtype=torch.int32)
    row = where.div(size, rounding_mode="floor")
    texel[row, where - row * size] = torch.arange(count, dtype=torch.int32)
    quads = texel.reshape(half, 2, half, 2).transpose(1, 2).reshape(half * half, 4)
    cell = torch.arange(half * half, dtype=torch.int32).reshape(half, half) + count
    cell = cell.repeat_interleave(2, 0).repeat_interleave(2, 1)
    source = torch.where(texel < count, texel, cell)[:size, :size].reshape(-1)
    side = torch.full((half,), 2.0)
    side[-1] -= size % 2
    area = (side[:, None] * side).reshape(-1, 1)
    return _Layout(triangle, weights, quads, area, (quads < count).sum(1, keepdim=True) / area, source)


def _facing(verts: Tensor, faces: Tensor) -> Tensor:
    """(V,) cosine between each vertex's normal and the direction to the camera."""
    return -(vertex_normals(verts[None], faces)[0] * F.normalize(verts, dim=1)).sum(1)


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    """Smooth step from 0 at ``low`` to 1 at ``high``."""
    t = ((values - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _unhidden(points: Tensor, verts: Tensor, faces: Tensor, camera: Camera) -> Tensor:
    """(n,) 1 where a surface point (n,3) is the nearest in its direction, falling to 0 where it is hidden.

    Compared with the nearest depth of the 3×3 depth pixels around, so that no colour leaks past a contour.
    """
    view = _around(verts, camera, _DEPTH_SIDE)
    depth = rasterize(view.project(verts[None]), faces, view.size).depth
    depth = torch.where(depth > 0, depth, torch.inf)
    nearest = -F.max_pool2d(-depth[None], 3, 1, 1)[0, 0]
    found = view.project(points[None])[0]
    column = found[:, 0].long().clamp(0, view.size[0] - 1)
    row = found[:, 1].long().clamp(0, view.size[1] - 1)
    behind = found[:, 2] - nearest.reshape(-1).index_select(0, row * view.size[0] + column)
    return 1 - _ramp(behind, _BEHIND, 2 * _BEHIND)


def _around(verts: Tensor, camera: Camera, side: int) -> Camera:
    """Return a camera that sees just the whole head, ``side`` px on its larger side."""
    pixels = camera.project(verts[None])[0]
    pixels = pixels[pixels.isfinite().all(1) & (pixels[:, 2] > 0)]
    if not len(pixels):
        return camera.cropped(0, 0, (1, 1))
    low, high = pixels[:, :2].amin(0), pixels[:, :2].amax(0)
    scale = (side - 4) / float((high - low).max().clamp_min(1e-3))
    size = [math.ceil(extent * scale) + 4 for extent in (high - low).tolist()]
    left, top = low.tolist()
    corner = camera.cropped(left - 2 / scale, top - 2 / scale, (1, 1)).scaled(scale)
    return corner.cropped(0, 0, (size[0], size[1]))


def _sample(pixels: Pixels, points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Return the photograph's colours (n,3) in [0,1] at surface points (n,3), and how far inside it (n,)."""
    height, width = pixels.shape[:2]
    found, depth = camera.project(points[None])[0].split((2, 1), dim=1)
    edge = torch.minimum(found, found.new_tensor((width, height)) - found).amin(1)
    inside = (edge / (0.01 * max(width, height))).clamp(0, 1) * (depth[:, 0] > NEAR)
    used = found[inside > 0]
    if not len(used):
        return torch.zeros_like(points), inside
    left, top = (used.amin(0) - 2).floor().clamp_min(0).int().tolist()
    right, bottom = (used.amax(0) + 3).int().tolist()
    window = pixels[top : min(bottom, height), left : min(right, width)]
    image, scale = _reduced(window)
    grid = (found - found.new_tensor((left, top))) * scale
    grid = grid * 2 / grid.new_tensor((image.shape[3], image.shape[2])) - 1
    colors = F.grid_sample(image, grid[None, None], padding_mode="border", align_corners=False)
    return colors[0, :, 0].T.contiguous(), inside


def _reduced(window: Pixels) -> tuple[Tensor, Tensor]:
    """Return the window as (1,3,h,w) in [0,1], box-reduced by a whole factor if huge, and its scale (2,)."""
    factor = max(1, min(window.shape[:2]) // 1024)
    image = Image.fromarray(np.ascontiguousarray(window))
    small = np.asarray(image.reduce(factor) if factor > 1 else image)
    tensor = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() / 255
    return tensor, torch.full((2,), 1 / factor)


def _continued_ratio(
    photo: Tensor, own: Tensor, part: Tensor, layout: _Layout, faces: Tensor, count: int
) -> Tensor:
    """(V,3) ratio of photograph to model colour, known where ``part`` (n,) is not 0, continued over the mesh.

    The membrane that is pulled to the seen ratios, and, weakly, to their median everywhere: on the mesh
    rather than on the texture, because there it knows no seams.
    """
    few = slice(None, None, 5)  # a vertex has about a hundred texels: a fifth of them give its mean
    part, ratio = part[few], (photo[few] / own[few].clamp_min(0.05)).clamp(0, 4)
    known = part > 0.5
    if not known.any():
        return torch.ones(count, 3)
    typical = ratio[known].median(dim=0).values
    # Hair, a beard, a collar: what is far from the typical ratio is continued less eagerly.
    odd = (ratio / typical.clamp_min(0.05) - 1).abs().amax(1)
    weight = part * (1 - odd).clamp_min(0.02)
    share = weight[:, None] * layout.weights[few]
    corner = faces.index_select(0, layout.triangle[few]).reshape(-1)
    row = torch.cat(((ratio - typical), torch.ones_like(weight)[:, None]), dim=1)
    shares = (row[:, None] * share[:, :, None]).reshape(-1, 4)
    total = torch.zeros(count, 4).index_add(0, corner, shares)
    sure = total[:, 3:] / total[:, 3].max()
    pull = total[:, :3] / total[:, 3:].clamp_min(1e-8) * sure
    return (_membrane(faces, sure[:, 0], pull) + typical).clamp(0.1, 3)


def _membrane(faces: Tensor, sure: Tensor, pull: Tensor) -> Tensor:
    """Solve (V,C) x: sure·x + prior·x + Laplacian·x = pull, over the mesh's edges; far from pulls x is 0."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    links = _links(faces, len(sure))
    degree = np.asarray(links.sum(axis=1)).reshape(-1)
    system = diags(degree + sure.double().numpy() + _PRIOR) - links
    factors = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return torch.from_numpy(factors.solve(pull.double().numpy())).float()


def _pyramid(level: Tensor) -> Tensor:
    """Fill (1,C+1,h,w), values times weight and weight, to (1,C,h,w): push down, pull up."""
    values, weight = level[:, :-1], level[:, -1:]
    filled = values / weight.clamp_min(1e-8)
    height, width = level.shape[-2:]
    if max(height, width) <= 2:
        return filled
    coarse = _pyramid(F.avg_pool2d(level, 2, ceil_mode=True, count_include_pad=False))
    spread = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.lerp(spread[..., :height, :width], filled, (weight * 4).clamp(0, 1))


def _finish(texels: Tensor, layout: _Layout, size: int) -> Pixels:
    """Put the texels (n,3) into the texture, and continue them into the gaps of the layout."""
    texels = F.pad(texels.clamp(0, 1), (0, 0, 0, 1))  # and a black one, for those that are not covered
    half = (size + 1) // 2
    mean = F.embedding_bag(layout.quads, texels, mode="sum") / layout.area
    level = torch.cat((mean, layout.cover), dim=1).T.reshape(1, 4, half, half)
    cells = (_pyramid(level)[0] * 255 + 0.5).byte().reshape(3, -1).T
    shown = torch.cat(((texels[:-1] * 255 + 0.5).byte(), cells))
    return shown.index_select(0, layout.source).reshape(size, size, 3).numpy()


def _links(faces: Tensor, count: int) -> Any:
    """Return the symmetric (V,V) sparse matrix that is 1 where two vertices share an edge."""
    from scipy.sparse import coo_matrix

    start, end = faces.reshape(-1).numpy(), faces.roll(1, dims=1).reshape(-1).numpy()
    both = np.concatenate((start, end)), np.concatenate((end, start))
    links = coo_matrix((np.ones(len(both[0])), both), shape=(count, count)).tocsr()
    links.data[:] = 1.0
    return links


def _largest_part(faces: Tensor, count: int) -> Tensor:
    """(V,) bool: vertices of the connected part of the mesh with the most vertices."""
    from scipy.sparse.csgraph import connected_components

    label = connected_components(_links(faces, count), directed=False)[1]
    return torch.from_numpy(label == np.bincount(label).argmax())
