"""Visibility on GPUs: one Triton program a triangle, and the nearest one by an atomic minimum of 64-bit keys.

The same steps in float64 as ``_raster_numba``, which see; tested through Triton's interpreter on a CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recon3d.render._raster_torch import EMPTY, LIMIT, THIN, TINY

#: Pixels that a program looks at together, across and down: most triangles of a head are smaller.
_ACROSS, _DOWN = 8, 4


@torch.no_grad()
def visible(
    verts_px: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool, near: float
) -> Tensor:
    """Return the nearest triangle at every pixel centre, (B,H,W) int64; see ``rasterize``."""
    width, height = size
    batch, count, _ = verts_px.shape
    keys = torch.full((batch, height, width), EMPTY, dtype=torch.int64, device=verts_px.device)
    if batch and len(faces):
        _draw[(batch * len(faces),)](
            verts_px.contiguous(),
            faces.contiguous(),
            keys,
            len(faces),
            count,
            width,
            height,
            torch.tensor([near, LIMIT, THIN, TINY], dtype=torch.float64, device=verts_px.device),
            CULL=cull_backfaces,
            ACROSS=_ACROSS,
            DOWN=_DOWN,
        )
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF)


@triton.jit
def _point(points, row):  # type: ignore[no-untyped-def]
    first = points + 3 * row
    x, y, z = tl.load(first), tl.load(first + 1), tl.load(first + 2)
    return x.to(tl.float64), y.to(tl.float64), z.to(tl.float64)


@triton.jit
def _kind(x, y, z, near, limit, tiny):  # type: ignore[no-untyped-def]
    """What can be drawn of a vertex: 2 all, 1 only what is in front of it (it is too near), 0 nothing."""
    fit = (tl.abs(x) < limit) & (tl.abs(y) < limit) & (tl.abs(z) < limit) & (tl.abs(z) > tiny)
    return tl.where(fit, tl.where(z > near, 2, 1), 0)


@triton.jit
def _weight(a, b, xa, ya, xb, yb, px, py):  # type: ignore[no-untyped-def]
    """Twice the area between an edge and points, from its lower to its higher vertex: no cracks."""
    forward = a < b
    x0, y0 = tl.where(forward, xa, xb), tl.where(forward, ya, yb)
    dx, dy = tl.where(forward, xb - xa, xa - xb), tl.where(forward, yb - ya, ya - yb)
    value = dx * (py - y0) - dy * (px - x0)
    return tl.where(forward, value, -value)


@triton.jit  # type: ignore[untyped-decorator]
def _draw(  # type: ignore[no-untyped-def]
    points,
    faces,
    keys,
    num_faces,
    num_verts,
    width,
    height,
    limits,
    CULL: tl.constexpr,
    ACROSS: tl.constexpr,
    DOWN: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    image, face = program // num_faces, program % num_faces
    near, limit = tl.load(limits), tl.load(limits + 1)
    thin, tiny = tl.load(limits + 2), tl.load(limits + 3)
    a, b, c = tl.load(faces + 3 * face), tl.load(faces + 3 * face + 1), tl.load(faces + 3 * face + 2)
    xa, ya, za = _point(points, image * num_verts + a)
    xb, yb, zb = _point(points, image * num_verts + b)
    xc, yc, zc = _point(points, image * num_verts + c)
    ka, kb, kc = (
        _kind(xa, ya, za, near, limit, tiny),
        _kind(xb, yb, zb, near, limit, tiny),
        _kind(xc, yc, zc, near, limit, tiny),
    )
    least = tl.minimum(ka, tl.minimum(kb, kc))
    most = tl.maximum(ka, tl.maximum(kb, kc))
    left, right = tl.minimum(xa, tl.minimum(xb, xc)), tl.maximum(xa, tl.maximum(xb, xc))
    top, bottom = tl.minimum(ya, tl.minimum(yb, yc)), tl.maximum(ya, tl.maximum(yb, yc))
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    extent = (right - left) * (right - left) + (bottom - top) * (bottom - top)
    drawn = (least > 0) & (most == 2) & (tl.abs(area) > thin * extent)
    if CULL:
        turned = (za < 0) ^ (zb < 0) ^ (zc < 0)
        drawn = drawn & ((area > 0) == turned)
    if drawn:
        whole = least == 2
        x0 = tl.where(whole, tl.maximum(tl.ceil(left - 0.5), 0.0), 0.0).to(tl.int32)
        x1 = tl.where(whole, tl.minimum(tl.floor(right - 0.5), width - 1.0), width - 1.0).to(tl.int32)
        y0 = tl.where(whole, tl.maximum(tl.ceil(top - 0.5), 0.0), 0.0).to(tl.int32)
        y1 = tl.where(whole, tl.minimum(tl.floor(bottom - 0.5), height - 1.0), height - 1.0).to(tl.int32)
        for y_block in range(y0, y1 + 1, DOWN):
            for x_block in range(x0, x1 + 1, ACROSS):
                y = y_block + tl.arange(0, DOWN)[:, None]
                x = x_block + tl.arange(0, ACROSS)[None, :]
                px, py = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
                wa = _weight(b, c, xb, yb, xc, yc, px, py) / (area * za)
                wb = _weight(c, a, xc, yc, xa, ya, px, py) / (area * zb)
                wc = _weight(a, b, xa, ya, xb, yb, px, py) / (area * zc)
                inverse = (wa + wb + wc).to(tl.float32)
                inside = (wa >= 0) & (wb >= 0) & (wc >= 0) & (x <= x1) & (y <= y1)
                inside = inside & (inverse > 0) & (inverse * near <= 1)
                # Positive floats sort like their bits. Nearer is a larger 1/z, so a smaller negated key.
                bits = inverse.to(tl.int32, bitcast=True).to(tl.int64)
                place = (image * height + y) * width + x
                tl.atomic_min(keys + place, face - (bits << 32), mask=inside)
