"""What mesh formats share: normals, and vertices doubled along texture seams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.export._still import Floats, as_array

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


def normals(vertices: Floats, head: HeadModel) -> Floats:
    """Return unit vertex normals: (B, V, 3) m to (B, V, 3); +Z where a vertex has no surface."""
    import torch

    from recon3d.render.shading import vertex_normals

    found = as_array(vertex_normals(torch.as_tensor(vertices).to(head.v_template), head.faces))
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    forward = np.array([0.0, 0.0, 1.0], np.float32)
    return np.where(length > 0.5, found / np.maximum(length, 1e-9), forward).astype(np.float32)
