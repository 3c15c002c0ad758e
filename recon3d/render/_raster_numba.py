"""The rasterizer for CPUs, compiled by numba at its first use and kept on disk.

What ``_raster_torch`` and ``rasterize`` do in bulk with torch is done here pixel by pixel, in float64
whatever the vertices are. Every kernel works on some of the images, rows or points, and lets go of Python's
lock: ``_shared`` gives each thread its part. (numba's own threads may not be used by several at a time.)

A picture in homogeneous coordinates needs no clipping (M. Olano, T. Greer, "Triangle scan conversion using
2D homogeneous coordinates", 1997): with w the screen's weight of a corner, a point of the triangle's plane in
front of the camera lies inside where all w / z >= 0, and their sum is 1 / depth. A corner behind the camera
only turns signs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.render._raster_torch import LIMIT, THIN, TINY

Array = npt.NDArray[Any]

#: Less work than this (triangles and pixels) is done in the calling thread.
_WORTH_SHARING = 30_000

_LIMIT, _THIN, _TINY = float(LIMIT), float(THIN), float(TINY)
_compile = numba.njit(cache=True, nogil=True, error_model="numpy")


def visible(
    verts_px: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool, near: float
) -> Tensor:
    """Return the index of the nearest triangle at every pixel centre, (B,H,W) int64; see ``rasterize``."""
    width, height = size
    verts, corners = _array(verts_px), _array(faces)
    batch = len(verts)
    triangle = np.empty((batch, height, width), np.int64)
    nearest = np.empty((batch, height, width), np.float32)
    bands = 1 if batch >= _threads() else -(-_threads() // max(batch, 1))

    def draw(first: int, last: int) -> None:
        for unit in range(first, last):
            image, band = divmod(unit, bands)
            rows = height * band // bands, height * (band + 1) // bands
            _draw(verts[image], corners, cull_backfaces, near, rows, triangle[image], nearest[image])

    _shared(draw, batch * bands, batch * (len(corners) + width * height))
    return torch.from_numpy(triangle)


class Locate(torch.autograd.Function):
    """Weights (B,H,W,3) and depths (B,H,W): of verts_px (B,V,3), faces (F,3) and triangle (B,H,W)."""

    @staticmethod
    def forward(ctx: Any, verts_px: Tensor, faces: Tensor, triangle: Tensor) -> tuple[Tensor, Tensor]:
        """Compute them."""
        ctx.save_for_backward(verts_px, faces, triangle)
        verts, corners, seen = _array(verts_px), _array(faces), _array(triangle)
        weights, depth = np.zeros((*seen.shape, 3), verts.dtype), np.zeros(seen.shape, verts.dtype)
        lines = seen.shape[0] * seen.shape[1]
        _shared(lambda a, b: _locate(verts, corners, seen, a, b, weights, depth), lines, seen.size)
        return torch.from_numpy(weights), torch.from_numpy(depth)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, on_weights: Tensor, on_depth: Tensor) -> tuple[Tensor | None, ...]:
        """Bring the gradient to the vertices."""
        verts_px, faces, triangle = ctx.saved_tensors
        verts, corners, seen = _array(verts_px), _array(faces), _array(triangle)
        push, deep = _array(on_weights), _array(on_depth)

        def back(a: int, b: int, total: Array) -> None:
            _locate_back(verts, corners, seen, a, b, push, deep, total)

        total = _summed(back, seen.shape[0] * seen.shape[1], seen.size, verts.shape)
        return torch.from_numpy(total).to(verts_px.dtype), None, None


class Blend(torch.autograd.Function):
    """Attributes (n,C) at n points: of (table (M,C), corner rows (n,3), weights (n,3))."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """Compute them."""
        ctx.save_for_backward(table, rows, weights)
        source, index, parts = _array(table), _array(rows), _array(weights)
        found = np.empty((len(index), source.shape[1]), source.dtype)
        _shared(lambda a, b: _blend(source, index[a:b], parts[a:b], found[a:b]), len(index))
        return torch.from_numpy(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Bring the gradient to the attributes and to the weights."""
        table, rows, weights = ctx.saved_tensors
        source, index, parts = _array(table), _array(rows), _array(weights)
        push, grad_weights = _array(grad), np.empty_like(parts)

        def back(a: int, b: int, total: Array) -> None:
            _blend_back(source, index[a:b], parts[a:b], push[a:b], total, grad_weights[a:b])

        total = _summed(back, len(index), len(index), source.shape)
        return torch.from_numpy(total).to(table.dtype), None, torch.from_numpy(grad_weights)


class FaceNormalSums(torch.autograd.Function):
    """Sums (B,V,3) of the faces' normals, twice their area long, at the vertices: of verts, faces."""

    @staticmethod
    def forward(ctx: Any, verts: Tensor, faces: Tensor) -> Tensor:
        """Compute them."""
        ctx.save_for_backward(verts, faces)
        points, corners = _array(verts), _array(faces)
        total = np.zeros(points.shape)
        _shared(lambda a, b: _normals(points, corners, a, b, total), len(points), len(points) * len(corners))
        return torch.from_numpy(total).to(verts.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Bring the gradient to the vertices."""
        verts, faces = ctx.saved_tensors
        points, corners, push = _array(verts), _array(faces), _array(grad)
        total = np.zeros(points.shape)
        size = len(points) * len(corners)
        _shared(lambda a, b: _normals_back(points, corners, a, b, push, total), len(points), size)
        return torch.from_numpy(total).to(verts.dtype), None


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().contiguous().numpy()
    return array


def _threads() -> int:
    return torch.get_num_threads()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="recon3d-raster")


def _shared(work: Callable[[int, int], None], units: int, size: int | None = None) -> None:
    """Call ``work(first, last)`` for parts of ``units``, in several threads where that is worth it."""
    threads = min(_threads(), units)
    if threads < 2 or (units if size is None else size) < _WORTH_SHARING:
        work(0, units)
        return
    cuts = [units * k // threads for k in range(threads + 1)]
    list(_pool(threads).map(work, cuts[:-1], cuts[1:]))


def _summed(work: Callable[[int, int, Array], None], units: int, size: int, shape: tuple[int, ...]) -> Array:
    """Call ``work(first, last, total)`` for parts of ``units`` and return the sum of their totals."""
    threads = max(1, min(_threads(), units, size // _WORTH_SHARING))
    cuts = [units * k // threads for k in range(threads + 1)]
    totals = [np.zeros(shape) for _ in range(threads)]
    if threads == 1:
        work(0, units, totals[0])
    else:
        list(_pool(threads).map(work, cuts[:-1], cuts[1:], totals))
    for other in totals[1:]:
        totals[0] += other
    return totals[0]


@_compile
def _directed(a: int, b: int, xa: float, ya: float, xb: float, yb: float) -> tuple[float, ...]:
    """An edge as (x, y, dx, dy), from its lower to its higher vertex, turned by the sign that comes last.

    So two triangles get the same numbers for the edge that they share, bit by bit: no cracks.
    """
    if a < b:
        return xa, ya, xb - xa, yb - ya, 1.0
    return xb, yb, xa - xb, ya - yb, -1.0


@_compile
def _kinds(verts: Array, near: float) -> Array:
    """What can be drawn of each vertex: 2 all, 1 only what is in front of it (it is too near), 0 nothing."""
    kinds = np.zeros(verts.shape[0], np.uint8)
    for k in range(verts.shape[0]):
        x, y, z = verts[k, 0], verts[k, 1], verts[k, 2]
        # Written so that NaN fails.
        if abs(x) < _LIMIT and abs(y) < _LIMIT and _TINY < abs(z) < _LIMIT:
            kinds[k] = 2 if z > near else 1
    return kinds


@_compile
def _draw(
    verts: Array,
    faces: Array,
    cull: bool,
    near: float,
    rows: tuple[int, int],
    triangle: Array,
    nearest: Array,
) -> None:
    """Fill the rows ``rows`` of one image: the z-buffer holds 1/z, rounded to float32."""
    width = triangle.shape[1]
    first, last = rows
    triangle[first:last] = -1
    nearest[first:last] = 0.0
    farthest = 1.0 / near if near > 0 else np.inf
    kinds = _kinds(verts, near)
    points = verts.astype(np.float64)
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        least, most = min(kinds[a], kinds[b], kinds[c]), max(kinds[a], kinds[b], kinds[c])
        if least == 0 or most == 1:
            continue
        xa, ya, xb, yb, xc, yc = (
            points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        )  # fmt: skip
        left, right, top, bottom = min(xa, xb, xc), max(xa, xb, xc), min(ya, yb, yc), max(ya, yb, yc)
        x0, x1, y0, y1 = 0, width - 1, first, last - 1
        if least == 2:
            x0, x1 = max(x0, int(np.ceil(left - 0.5))), min(x1, int(np.floor(right - 0.5)))
            y0, y1 = max(y0, int(np.ceil(top - 0.5))), min(y1, int(np.floor(bottom - 0.5)))
        if x0 > x1 or y0 > y1:
            continue
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        # A sliver so thin that its area is rounding noise has no sides to interpolate between.
        if not abs(area) > _THIN * ((right - left) ** 2 + (bottom - top) ** 2):
            continue
        za, zb, zc = points[a, 2], points[b, 2], points[c, 2]
        if cull and (area > 0) != ((za < 0) != ((zb < 0) != (zc < 0))):
            continue
        oxa, oya, dxa, dya, sa = _directed(b, c, xb, yb, xc, yc)
        oxb, oyb, dxb, dyb, sb = _directed(c, a, xc, yc, xa, ya)
        oxc, oyc, dxc, dyc, sc = _directed(a, b, xa, ya, xb, yb)
        sa, sb, sc = sa / (area * za), sb / (area * zb), sc / (area * zc)
        for y in range(y0, y1 + 1):
            py = y + 0.5
            ra, rb, rc = dxa * (py - oya), dxb * (py - oyb), dxc * (py - oyc)
            inside = False
            for x in range(x0, x1 + 1):
                px = x + 0.5
                wa = (ra - dya * (px - oxa)) * sa
                wb = (rb - dyb * (px - oxb)) * sb
                wc = (rc - dyc * (px - oxc)) * sc
                if min(wa, wb, wc) >= 0:
                    inside = True
                    inverse = np.float32(wa + wb + wc)
                    if inverse > nearest[y, x] and inverse <= farthest:
                        nearest[y, x] = inverse
                        triangle[y, x] = face
                elif inside:
                    break  # triangles are convex


@_compile
def _corner(verts: Array, image: int, vertex: int, x: int, y: int) -> tuple[float, float, float]:
    """A vertex as seen from a pixel: x and y from its centre, and z."""
    return (
        np.float64(verts[image, vertex, 0]) - (x + 0.5),
        np.float64(verts[image, vertex, 1]) - (y + 0.5),
        np.float64(verts[image, vertex, 2]),
    )


@_compile
def _locate(
    verts: Array, faces: Array, triangle: Array, first: int, last: int, weights: Array, depth: Array
) -> None:
    """Fill ``weights`` and ``depth`` in the lines ``first`` to ``last``, counted through all images."""
    height, width = triangle.shape[1], triangle.shape[2]
    for line in range(first, last):
        image, y = line // height, line % height
        for x in range(width):
            face = triangle[image, y, x]
            if face < 0:
                continue
            xa, ya, za = _corner(verts, image, faces[face, 0], x, y)
            xb, yb, zb = _corner(verts, image, faces[face, 1], x, y)
            xc, yc, zc = _corner(verts, image, faces[face, 2], x, y)
            ea, eb, ec = xb * yc - yb * xc, xc * ya - yc * xa, xa * yb - ya * xb
            area = ea + eb + ec
            # Rounding may leave a centre on an edge a hair outside; a weight is never negative.
            sa, sb, sc = max(ea / (area * za), 0.0), max(eb / (area * zb), 0.0), max(ec / (area * zc), 0.0)
            z = 1 / (sa + sb + sc)
            depth[image, y, x] = z
            weights[image, y, x, 0], weights[image, y, x, 1], weights[image, y, x, 2] = sa * z, sb * z, sc * z


@_compile
def _locate_back(
    verts: Array,
    faces: Array,
    triangle: Array,
    first: int,
    last: int,
    push: Array,
    deep: Array,
    total: Array,
) -> None:
    """Add to ``total`` (B,V,3) what the gradients on weights and depth in these lines mean for vertices."""
    height, width = triangle.shape[1], triangle.shape[2]
    for line in range(first, last):
        image, y = line // height, line % height
        for x in range(width):
            face = triangle[image, y, x]
            if face < 0:
                continue
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            xa, ya, za = _corner(verts, image, a, x, y)
            xb, yb, zb = _corner(verts, image, b, x, y)
            xc, yc, zc = _corner(verts, image, c, x, y)
            ea, eb, ec = xb * yc - yb * xc, xc * ya - yc * xa, xa * yb - ya * xb
            area = ea + eb + ec
            sa, sb, sc = max(ea / (area * za), 0.0), max(eb / (area * zb), 0.0), max(ec / (area * zc), 0.0)
            z = 1 / (sa + sb + sc)
            pa, pb, pc = push[image, y, x, 0], push[image, y, x, 1], push[image, y, x, 2]
            # weight = s * z, z = 1 / sum(s): both fall when any s grows.
            common = (pa * sa + pb * sb + pc * sc + deep[image, y, x]) * z * z
            ga = pa * z - common if sa > 0 else 0.0
            gb = pb * z - common if sb > 0 else 0.0
            gc = pc * z - common if sc > 0 else 0.0
            on_area = -(ga * sa + gb * sb + gc * sc) / area
            total[image, a, 2] -= ga * sa / za
            total[image, b, 2] -= gb * sb / zb
            total[image, c, 2] -= gc * sc / zc
            ga, gb, gc = (
                ga / (area * za) + on_area,
                gb / (area * zb) + on_area,
                gc / (area * zc) + on_area,
            )
            total[image, a, 0] += gc * yb - gb * yc
            total[image, a, 1] += gb * xc - gc * xb
            total[image, b, 0] += ga * yc - gc * ya
            total[image, b, 1] += gc * xa - ga * xc
            total[image, c, 0] += gb * ya - ga * yb
            total[image, c, 1] += ga * xb - gb * xa


@_compile
def _blend(table: Array, rows: Array, weights: Array, found: Array) -> None:
    for k in range(rows.shape[0]):
        for channel in range(table.shape[1]):
            found[k, channel] = (
                weights[k, 0] * table[rows[k, 0], channel]
                + weights[k, 1] * table[rows[k, 1], channel]
                + weights[k, 2] * table[rows[k, 2], channel]
            )


@_compile
def _blend_back(
    table: Array, rows: Array, weights: Array, push: Array, total: Array, grad_weights: Array
) -> None:
    for k in range(rows.shape[0]):
        for corner in range(3):
            row, weight, along = rows[k, corner], weights[k, corner], 0.0
            for channel in range(table.shape[1]):
                total[row, channel] += weight * push[k, channel]
                along += push[k, channel] * table[row, channel]
            grad_weights[k, corner] = along


@_compile
def _normals(points: Array, faces: Array, first: int, last: int, total: Array) -> None:
    for image in range(first, last):
        for face in range(faces.shape[0]):
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            ux, uy, uz, vx, vy, vz = _sides(points, image, a, b, c)
            nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
            for vertex in (a, b, c):
                total[image, vertex, 0] += nx
                total[image, vertex, 1] += ny
                total[image, vertex, 2] += nz


@_compile
def _normals_back(points: Array, faces: Array, first: int, last: int, push: Array, total: Array) -> None:
    for image in range(first, last):
        for face in range(faces.shape[0]):
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            ux, uy, uz, vx, vy, vz = _sides(points, image, a, b, c)
            gx = np.float64(push[image, a, 0]) + push[image, b, 0] + push[image, c, 0]
            gy = np.float64(push[image, a, 1]) + push[image, b, 1] + push[image, c, 1]
            gz = np.float64(push[image, a, 2]) + push[image, b, 2] + push[image, c, 2]
            # The normal is u × v: its gradient on u is v × g, on v g × u.
            bx, by, bz = vy * gz - vz * gy, vz * gx - vx * gz, vx * gy - vy * gx
            cx, cy, cz = gy * uz - gz * uy, gz * ux - gx * uz, gx * uy - gy * ux
            total[image, b, 0] += bx
            total[image, b, 1] += by
            total[image, b, 2] += bz
            total[image, c, 0] += cx
            total[image, c, 1] += cy
            total[image, c, 2] += cz
            total[image, a, 0] -= bx + cx
            total[image, a, 1] -= by + cy
            total[image, a, 2] -= bz + cz


@_compile
def _sides(points: Array, image: int, a: int, b: int, c: int) -> tuple[float, ...]:
    """The sides of a triangle from its first corner to the second and to the third."""
    x, y, z = (
        np.float64(points[image, a, 0]),
        np.float64(points[image, a, 1]),
        np.float64(points[image, a, 2]),
    )
    return (
        points[image, b, 0] - x,
        points[image, b, 1] - y,
        points[image, b, 2] - z,
        points[image, c, 0] - x,
        points[image, c, 1] - y,
        points[image, c, 2] - z,
    )
