"""Visibility in plain torch: triangles to rows, rows to pixels, and one depth-keyed reduction.

Every triangle is cut into the pixel rows it crosses, every row into the pixels between its two edges: only
pixels that are covered are ever listed, whatever the triangle's shape. Depth is carried as 1/z, which is
linear on the picture. The nearest triangle of a pixel is the smallest of 64-bit keys (depth above, triangle
below), found by one ``scatter_reduce``. No gradient passes through here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Corners this far out (px, or m in depth) are beyond float32's whole numbers: their triangles are dropped.
LIMIT = float(1 << 24)

#: Depths (m) and areas (px²) below this cannot be divided by twice in float32.
TINY = 1e-12

#: Area over squared extent of triangles that are too thin to draw: eight units in float32's last place.
THIN = 8 * torch.finfo(torch.float32).eps

#: Triangle rows, and pixels, listed at once: bounds the memory, and keeps the lists in the cache.
_ROWS, _PIXELS = 1 << 17, 1 << 18

EMPTY = 1 << 62


@torch.no_grad()
def visible(
    verts_px: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool, near: float
) -> Tensor:
    """Return the index of the nearest triangle at every pixel centre.

    Args:
        verts_px: (B,V,3) x px, y px, z m.
        faces: (F,3) int64.
        size: Width and height, px.
        cull_backfaces: Leave out triangles seen from behind.
        near: Smallest depth drawn, m.

    Returns:
        (B,H,W) int64, -1 where nothing is seen. Depths are told apart to float32's precision of 1/z
        (6e-8 of the depth), whatever the dtype of the vertices.
    """
    width, height = size
    batch = verts_px.shape[0]
    keys = torch.full((batch * height * width,), EMPTY, dtype=torch.int64, device=verts_px.device)
    corners, index = _candidates(verts_px, faces, size, cull_backfaces, near)
    if index.numel():
        edges, first_row, row_count = _edges(corners, height)
        for low, high, total in _chunks(row_count, _ROWS):
            rows = _rows(edges, index, first_row, row_count, (low, high, total), len(faces), size)
            _fill(keys, *rows)
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF).reshape(batch, height, width)


def drawable(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Return which corners (px, px, m) can be drawn; comparisons with NaN are false, so NaN cannot."""
    return (z.abs() > TINY) & (z.abs() < LIMIT) & (x.abs() < LIMIT) & (y.abs() < LIMIT)


def _candidates(
    verts_px: Tensor, faces: Tensor, size: tuple[int, int], cull_backfaces: bool, near: float
) -> tuple[Tensor, Tensor]:
    """Return corners (3,3,N) [corner, (x, y, 1/z), triangle] of what may be seen, and indices (N,) in B*F."""
    batch, count, _ = verts_px.shape
    width, height = size
    x, y, z = verts_px.detach().reshape(batch * count, 3).t().contiguous()
    usable = drawable(x, y, z)
    ids = faces.t()[:, None]
    if batch > 1:
        ids = ids + torch.arange(0, batch * count, count, device=faces.device)[:, None]
    ids = ids.reshape(3, -1)
    index = torch.nonzero(usable[ids].all(0) & (z > near)[ids].any(0)).squeeze(1)
    ids = ids.index_select(1, index)
    corners = torch.stack((x[ids], y[ids], z[ids]), dim=1)
    corners, index = _cut(corners, index, near)
    xs, ys = corners[:, 0], corners[:, 1]
    (x0, x1, x2), (y0, y1, y2) = xs, ys
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    left, right, top, bottom = xs.amin(0), xs.amax(0), ys.amin(0), ys.amax(0)
    # A sliver so thin that its area is rounding noise has no sides to interpolate between.
    thin = THIN * ((right - left).square() + (bottom - top).square())
    keep = (-area if cull_backfaces else area.abs()) > thin
    # The box must hold a pixel centre: off-screen triangles and most of a distant mesh end here.
    keep &= (left - 0.5).ceil().clamp_min(0) <= (right - 0.5).floor().clamp_max(width - 1)
    keep &= (top - 0.5).ceil().clamp_min(0) <= (bottom - 0.5).floor().clamp_max(height - 1)
    kept = torch.nonzero(keep).squeeze(1)
    corners = corners.index_select(2, kept)
    return torch.stack((corners[:, 0], corners[:, 1], 1 / corners[:, 2]), dim=1), index.index_select(0, kept)


def _cut(corners: Tensor, index: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """Cut off what is nearer than ``near``: corners (3,3,N) [corner, (x, y, z), triangle], and its indices.

    Of a triangle with one corner too near two remain. All others stay as they are, and in their order.
    """
    close = corners[:, 2] <= near
    crossing = torch.nonzero(close.any(0)).squeeze(1)
    if not crossing.numel():
        return corners, index
    part, owner, close = corners[..., crossing], index[crossing], close[:, crossing]
    one = close.sum(0) == 1
    # Turned so that corner 0 is the only one on its side of the plane.
    turn = torch.where(one, close.int().argmax(0), close.int().argmin(0))
    order = (torch.arange(3, device=turn.device)[:, None] + turn) % 3
    part = part.gather(0, order[:, None].expand(-1, 3, -1))
    space = torch.stack((part[:, 0] * part[:, 2], part[:, 1] * part[:, 2], part[:, 2]), dim=1)
    first, second = (_at_near(space[0], space[k], near) for k in (1, 2))
    tip = torch.stack((part[0], first, second))[..., ~one]
    base = [torch.stack(three)[..., one] for three in ((first, part[1], part[2]), (first, part[2], second))]
    whole = torch.ones(corners.shape[2], dtype=torch.bool, device=corners.device)
    whole[crossing] = False
    corners = torch.cat((corners[..., whole], tip, *base), dim=2)
    index = torch.cat((index[whole], owner[~one], owner[one], owner[one]))
    index, sorting = index.sort(stable=True)
    return corners[..., sorting], index


def _at_near(start: Tensor, end: Tensor, near: float) -> Tensor:
    """Where lines (3,N) in the camera's space cross the plane z = ``near``: x px, y px, z m."""
    share = (near - start[2]) / (end[2] - start[2])
    crossing = start + (end - start) * share
    return torch.stack((crossing[0] / near, crossing[1] / near, torch.full_like(share, near)))


def _edges(corners: Tensor, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges of each triangle, from its upper corner down, and the rows that it crosses.

    Two triangles that share an edge get the same numbers for it, bit by bit: no cracks.

    Returns:
        Edges (5,3N) [x, y, 1/z of the upper corner, slopes of x and 1/z per px of y]: first the N long
        edges (top to bottom corner), then top to middle, then middle to bottom; first rows (N,), row
        counts (N,), int64.
    """
    top, middle, bottom = corners
    top, middle = _ordered(top, middle)
    middle, bottom = _ordered(middle, bottom)
    top, middle = _ordered(top, middle)
    upper = torch.stack((top, top, middle), dim=1)
    fall = torch.stack((bottom, middle, bottom), dim=1) - upper
    drop = fall[1]
    # A level edge has no slope; it is only ever read at its own row.
    slopes = torch.where(drop > 0, fall[0::2] / torch.where(drop > 0, drop, 1.0), 0.0)
    edges = torch.cat((upper, slopes)).reshape(5, -1)
    first = (top[1] - 0.5).ceil().clamp_min(0)
    last = (bottom[1] - 0.5).floor().clamp_max(height - 1)
    return edges, first.long(), (last - first).long() + 1


def _ordered(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two corners (3,N) with the upper one first."""
    swap = a[1] > b[1]
    return torch.where(swap, b, a), torch.where(swap, a, b)


def _rows(
    edges: Tensor,
    index: Tensor,
    first_row: Tensor,
    row_count: Tensor,
    chunk: tuple[int, int, int],
    num_faces: int,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cut triangles ``chunk[0]:chunk[1]`` into their ``chunk[2]`` rows.

    Returns:
        Per row: triangle (R,), flat index of its first pixel (R,), pixel count (R,), all int64; 1/z at
        that pixel (R,) and its step per pixel (R,).
    """
    width, height = size
    low, high, total = chunk
    counts = row_count[low:high]
    local = torch.repeat_interleave(counts, output_size=total)
    which = local + low
    begin = (counts.cumsum(0) - counts - first_row[low:high]).index_select(0, local)
    row = torch.arange(total, device=index.device) - begin
    y = row.to(edges.dtype) + 0.5
    triangles = index.numel()
    lower = y >= edges[1].index_select(0, which + 2 * triangles)
    short = which + triangles + lower * triangles
    (x_a, w_a), (x_b, w_b) = _cross(edges, which, y), _cross(edges, short, y)
    left, right = torch.minimum(x_a, x_b), torch.maximum(x_a, x_b)
    swap = x_a > x_b
    w_left = torch.where(swap, w_b, w_a)
    span = right - left
    w_right = torch.where(swap, w_a, w_b)
    step = torch.where(span > 0, (w_right - w_left) / torch.where(span > 0, span, 1.0), 0.0)
    first = (left - 0.5).ceil().clamp_(0, width)
    count = ((right - 0.5).floor().clamp_(-1, width - 1) - first + 1).clamp_min_(0)
    start = w_left + (first + 0.5 - left) * step
    face = index.index_select(0, which)
    if int(index[-1]) >= num_faces:  # more than one image
        image = face.div(num_faces, rounding_mode="floor")
        face = face - image * num_faces
        row = row + image * height
    return face, row * width + first.long(), count.long(), start, step


def _cross(edges: Tensor, which: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and 1/z where the edges ``which`` (R,) cross the heights ``y`` (R,)."""
    x0, y0, w0, slope_x, slope_w = (field.index_select(0, which) for field in edges)
    fall = y - y0
    return x0 + fall * slope_x, w0 + fall * slope_w


def _fill(keys: Tensor, face: Tensor, first: Tensor, count: Tensor, start: Tensor, step: Tensor) -> None:
    """Lower ``keys`` at the pixels of the rows (see ``_rows``)."""
    for low, high, total in _chunks(count, _PIXELS):
        counts = count[low:high]
        which = torch.repeat_interleave(counts, output_size=total)
        offset = torch.arange(total, device=keys.device)
        offset -= (counts.cumsum(0) - counts).index_select(0, which)
        inverse = start[low:high].index_select(0, which) + offset * step[low:high].index_select(0, which)
        # Positive floats sort like their bits. Nearer is a larger 1/z, so a smaller negated key.
        bits = inverse.float().clamp_min_(0).view(torch.int32).long()
        key = face[low:high].index_select(0, which) - (bits << 32)
        pixel = first[low:high].index_select(0, which) + offset
        keys.scatter_reduce_(0, pixel, key, "amin")


def _chunks(counts: Tensor, budget: int) -> Iterator[tuple[int, int, int]]:
    """Split items of ``counts`` (N,) parts into runs of about ``budget`` parts: (first, end, parts)."""
    ends = counts.cumsum(0)
    total = int(ends[-1])
    if total <= budget:
        cuts = [len(counts)]
    else:
        marks = torch.arange(budget, total, budget, device=counts.device)
        cuts = [*torch.searchsorted(ends, marks).add_(1).tolist(), len(counts)]
    low, done = 0, 0
    reached = ends[torch.tensor(cuts, device=counts.device) - 1].tolist()
    for high, end in zip(cuts, reached, strict=True):
        if end > done:
            yield low, high, end - done
        low, done = max(low, high), end
