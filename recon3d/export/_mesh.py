"""What mesh formats share: normals, influences, colours, names, and vertices doubled along
texture seams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.export._still import Floats, as_array
from recon3d.export.options import DEFAULTS, ExportOptions

if TYPE_CHECKING:
    from recon3d.head import HeadModel

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitMesh:
    """Triangles with one texture point a vertex, as GPUs want them: seam vertices are doubled.

    Attributes:
        vertex: (N,) index of the head model's vertex, ascending.
        texture: (N,) index of the head model's texture point; empty for a head without.
        faces: (F, 3) indices into the N.
    """

    vertex: Integers
    texture: Integers
    faces: Integers


def split_seams(faces: Integers, faces_uv: Integers) -> SplitMesh:
    """Double the vertices that have several texture points; drop those that no triangle uses."""
    if len(faces_uv) == 0:
        used, inverse = np.unique(faces, return_inverse=True)
        return SplitMesh(used, np.zeros(0, np.int64), inverse.reshape(-1, 3))
    stride = int(faces_uv.max()) + 1
    pairs, inverse = np.unique(faces.astype(np.int64) * stride + faces_uv, return_inverse=True)
    return SplitMesh(pairs // stride, pairs % stride, inverse.reshape(-1, 3))


def target_names(head: HeadModel, options: ExportOptions = DEFAULTS) -> list[str]:
    """Return the names of the E morph targets: the units, or numbers where the head model has no names.

    A name map that merely renames is followed (units that it drops keep their own names, for a target
    cannot go without its name); one that scales or combines cannot be, for its curves are no targets.
    """
    if len(head.expression_names) != head.num_expression:
        return [f"expression{e:03d}" for e in range(head.num_expression)]
    renames = options.names.renames if options.names is not None and head.speaks_arkit else None
    names = [(renames or {}).get(name, name) for name in head.expression_names]
    return names if len(set(names)) == len(names) else list(head.expression_names)


def normals(vertices: Floats, head: HeadModel) -> Floats:
    """Return unit vertex normals: (B, V, 3) m to (B, V, 3); +Z where a vertex has no surface."""
    import torch

    from recon3d.render.shading import vertex_normals

    found = as_array(vertex_normals(torch.as_tensor(vertices).to(head.v_template), head.faces))
    return _unit(found, shortest=0.5)


def normal_changes(neutral: Floats, offsets: Floats, head: HeadModel) -> Floats:
    """Return how each unit turns the normals: (V, 3) m and (E, V, 3) m to (E, V, 3).

    An offset moves a part of the face as a rule, so only the triangles around it are looked at.
    """
    units, count, _ = offsets.shape
    faces = head.faces.cpu().numpy()
    moved = (offsets[..., 0] != 0) | (offsets[..., 1] != 0) | (offsets[..., 2] != 0)
    unit, face = np.nonzero(_touched(moved, faces))
    turned = np.zeros((units, count), bool)
    turned[unit[:, None], faces[face]] = True
    unit, face = np.nonzero(_touched(turned, faces))
    # All units as one mesh; a unit's vertices follow those of the one before.
    corners = faces[face] + unit[:, None] * count
    where = np.flatnonzero(turned)
    after = _unit(_area_normals((neutral + offsets).reshape(-1, 3), corners, where), shortest=1e-12)
    changes = np.zeros((units * count, 3), np.float32)
    changes[where] = after - normals(neutral[None], head)[0][where % count]
    return changes.reshape(offsets.shape)


def influences(weights: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Return the four strongest joints of each vertex (N, 4) and their weights (N, 4), sum 1."""
    count = min(4, weights.shape[1])
    strongest = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    joints = np.zeros((len(weights), 4), np.uint8)
    kept = np.zeros((len(weights), 4), np.float64)
    kept[:, :count] = np.take_along_axis(weights, strongest, axis=1).clip(min=0)
    joints[:, :count] = strongest
    joints[kept < 1e-5] = 0  # an unused influence must name joint 0
    kept[kept < 1e-5] = 0.0
    return joints, (kept / kept.sum(axis=1, keepdims=True)).astype(np.float32)


def linear_rgba(colors: Floats) -> npt.NDArray[np.uint16]:
    """sRGB (N, 3) in [0, 1] to linear, opaque, as 16-bit RGBA (N, 4): IEC 61966-2-1."""
    srgb = colors.clip(0, 1).astype(np.float64)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    opaque = np.concatenate([linear, np.ones((len(linear), 1))], axis=1)
    colour: npt.NDArray[np.uint16] = np.rint(opaque * 65535).astype(np.uint16)
    return colour


def _touched(vertices: npt.NDArray[np.bool_], faces: Integers) -> npt.NDArray[np.bool_]:
    """Return (E, F) which triangles have one of the vertices (E, V) as a corner."""
    touched: npt.NDArray[np.bool_] = vertices[:, faces[:, 0]]
    return touched | vertices[:, faces[:, 1]] | vertices[:, faces[:, 2]]


def _area_normals(vertices: Floats, faces: Integers, where: Integers) -> npt.NDArray[np.float64]:
    """Return the sum of the triangles' normals, twice their area long, at the vertices ``where``: (n, 3).

    As ``vertex_normals``, which is made for many shapes of the same triangles, and slow on many triangles.
    """
    x, y, z = np.ascontiguousarray(vertices.T, np.float64)
    first, second, third = np.ascontiguousarray(faces.T)
    ax, ay, az = (line[second] - line[first] for line in (x, y, z))
    bx, by, bz = (line[third] - line[first] for line in (x, y, z))
    corner = np.concatenate([first, second, third])
    cross = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    sums = [np.bincount(corner, np.tile(part, 3), len(x))[where] for part in cross]
    return np.stack(sums, axis=1)


def _unit(vectors: npt.NDArray[np.floating], shortest: float) -> Floats:
    """Return (..., 3) vectors with length 1; +Z for those not longer than ``shortest``."""
    length = np.sqrt(np.einsum("...k,...k->...", vectors, vectors))[..., None]
    forward = np.array([0.0, 0.0, 1.0], np.float32)
    return np.where(length > shortest, vectors / np.maximum(length, 1e-15), forward).astype(np.float32)
