"""Smooth outlines, with gradients: the part of a pixel that lies beyond an outline takes the colour there.

The analytic antialiasing of S. Laine et al., "Modular primitives for high-performance differentiable
rendering" (2020): where an edge at which the surface turns away, or ends, passes between the centres of two
neighbouring pixels, one of them is blended with the other by the share of it that lies beyond. The share
follows the edge, so that gradients of the picture reach its position: this is the only way in which a picture
feels its outlines move. Unlike there, outlines are drawn from the mesh's edges, not looked for in the
triangles that are seen: those of a head are often smaller than a pixel, and the last one before an outline
is seldom hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from recon3d.render._raster_torch import drawable
from recon3d.render.camera import NEAR
from recon3d.render.rasterize import Fragments

#: An outline must lie this much in front of what is seen beyond it, relative to its depth.
_IN_FRONT = 1e-4


@dataclass(frozen=True, eq=False)
class Edges:
    """The E edges of a mesh.

    Attributes:
        ends: (E,2) int64 vertices.
        faces: (E,2) int64 the faces on both sides; twice the same where there is but one.
        across: (E,) int64 the third vertex of the first face.
    """

    ends: Tensor
    faces: Tensor
    across: Tensor

    @staticmethod
    def of(faces: Tensor) -> Edges:
        """Find the edges of ``faces`` (F,3). Of an edge with more than two faces, two of them count."""
        corners = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
        owner = torch.arange(len(faces), device=faces.device).repeat(3)
        ends, which = torch.unique(corners.sort(dim=1).values, dim=0, return_inverse=True)
        low = owner.new_full((len(ends),), len(faces)).scatter_reduce_(0, which, owner, "amin")
        high = owner.new_full((len(ends),), -1).scatter_reduce_(0, which, owner, "amax")
        return Edges(ends, torch.stack((low, high), dim=1), faces[low].sum(1) - ends.sum(1))


@dataclass(frozen=True, eq=False)
class _Crossings:
    """Where outlines pass between the centres of two pixels: C crossings, each of another pair.

    Attributes:
        first: (C,) flat index of the left (upper) pixel.
        second: (C,) flat index of the right (lower) one.
        share: (C,) in [0,1] how far from the first centre to the second. Differentiable.
    """

    first: Tensor
    second: Tensor
    share: Tensor


def antialias(image: Tensor, fragments: Fragments, verts_px: Tensor, faces: Tensor) -> Tensor:
    """Blend the pixels along outlines. Differentiable to the picture and to the vertices.

    Args:
        image: (B,H,W,C) any values at the pixels, background included.
        fragments: What is seen in it.
        verts_px: (B,V,3) x px, y px, z m, as they were rasterized.
        faces: (F,3) int64.

    Returns:
        (B,H,W,C).
    """
    depth = torch.where(fragments.mask, fragments.depth.detach(), torch.inf)
    outlines = _outlines(verts_px, faces)
    # Steep edges are followed from row to row, flat ones from column to column: no pixel is blended twice.
    found = [_crossings(verts_px, outlines, depth, along=axis) for axis in (1, 0)]
    first, second = (torch.cat([getattr(one, name) for one in found]) for name in ("first", "second"))
    share = torch.cat([one.share for one in found])[:, None]
    flat = image.reshape(-1, image.shape[-1])
    step = flat.index_select(0, first) - flat.index_select(0, second)
    # Past the middle the second pixel takes some of the first one's colour, before it the other way about.
    taking = torch.where(share[:, 0] > 0.5, second, first)
    return flat.index_add(0, taking, step * (share - 0.5)).reshape(image.shape)


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _edges(faces: Tensor) -> Edges:
    """Return the edges of faces, found but once for each tensor."""
    found: Edges | None = _known.get(faces)
    if found is None:
        found = _known[faces] = Edges.of(faces)
    return found


@torch.no_grad()
def _outlines(verts_px: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges at which the surface turns away or ends.

    Returns:
        ends (2,N) and the vertex on their surface's side (N,), as flat indices into B*V; images (N,).
    """
    edges = _edges(faces)
    count = verts_px.shape[1]
    x, y, z = verts_px.unbind(-1)
    (x0, x1, x2), (y0, y1, y2) = ([part[:, faces[:, k]] for k in range(3)] for part in (x, y))
    front = (x1 - x0) * (y2 - y0) < (x2 - x0) * (y1 - y0)
    left, right = edges.faces.unbind(1)
    turns = (front[:, left] != front[:, right]) | (left == right)
    fit = drawable(x, y, z) & (z > NEAR)
    turns &= fit[:, edges.ends].all(-1) & fit[:, edges.across]
    image, which = turns.nonzero().unbind(1)
    offset = image * count
    return edges.ends[which].T + offset, edges.across[which] + offset, image


def _crossings(
    verts_px: Tensor, outlines: tuple[Tensor, Tensor, Tensor], depth: Tensor, *, along: int
) -> _Crossings:
    """Follow the outlines from line to line of pixels, rows (``along`` 1) or columns (0).

    ``u`` runs along these lines, ``v`` across them.
    """
    height, width = depth.shape[1:]
    length, lines, next_u, next_v = (width, height, 1, width) if along == 1 else (height, width, width, 1)
    ends, across, image = outlines
    points = verts_px.reshape(-1, 3)
    u, v, z = points[:, 1 - along], points[:, along], points[:, 2].detach()
    fall, run = v.detach()[ends].diff(dim=0)[0].abs(), u.detach()[ends].diff(dim=0)[0].abs()
    chosen = torch.nonzero(fall >= run if along == 1 else fall > run).squeeze(1)
    ends, across, image = ends[:, chosen], across[chosen], image[chosen]
    upper = torch.where(v.detach()[ends[0]] <= v.detach()[ends[1]], ends[0], ends[1])
    lower = ends.sum(0) - upper
    # The lines between the ends; one that meets a corner belongs to one of its two edges.
    first_line = (v.detach()[upper] - 0.5).ceil().clamp(0, lines).long()
    counts = ((v.detach()[lower] - 0.5).ceil().clamp(0, lines).long() - first_line).clamp_min(0)
    which = torch.repeat_interleave(counts)
    line = torch.arange(len(which), device=which.device) - (counts.cumsum(0) - counts - first_line)[which]
    upper, lower, across, image = upper[which], lower[which], across[which], image[which]
    part = (line + 0.5 - v[upper]) / (v[lower] - v[upper])
    place = u[upper] + part * (u[lower] - u[upper]) - 0.5
    with torch.no_grad():
        near = 1 / ((1 - part) / z[upper] + part / z[lower])
        # The surface lies on the side of its third corner.
        slope = (u[lower] - u[upper]) / (v[lower] - v[upper])
        after = u[across] > u[upper] + (v[across] - v[upper]) * slope
        begin = place.floor().clamp(-1, length - 1)
        pixel = begin.long()
        inside = (pixel >= 0) & (pixel < length - 1)
        first = image * (height * width) + line * next_v + pixel * next_u
        first = torch.where(inside, first, 0)
        flat = depth.reshape(-1)
        here, there = flat[first], flat[first + next_u]
        own, beyond = torch.where(after, there, here), torch.where(after, here, there)
        shown = inside & (own < beyond) & (near * (1 + _IN_FRONT) < beyond)
        kept = _nearest(first, near, shown, flat.numel())
    first = first[kept]
    return _Crossings(first, first + next_u, place[kept] - begin[kept])


def _nearest(pair: Tensor, near: Tensor, shown: Tensor, pairs: int) -> Tensor:
    """Return which crossings (m,) to keep of those ``shown``: of each pair the nearest one."""
    index = torch.nonzero(shown).squeeze(1)
    bits = near[index].float().view(torch.int32).long()  # positive floats sort like their bits
    key = (bits << 32) + index
    best = torch.full((pairs,), torch.iinfo(torch.int64).max, device=pair.device)
    best.scatter_reduce_(0, pair[index], key, "amin")
    return index[best[pair[index]] == key]
