"""The binary part of a glTF file: arrays in, accessor numbers out.

Format: Khronos, "glTF 2.0 Specification", sections 3.6 (buffers, accessors, sparse accessors).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pygltflib import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    Accessor,
    AccessorSparseIndices,
    AccessorSparseValues,
    Buffer,
    BufferView,
    Sparse,
)

_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_COMPONENTS = {np.dtype("u1"): 5121, np.dtype("u2"): 5123, np.dtype("u4"): 5125, np.dtype("f4"): 5126}


class GltfBuffer:
    """Collects the one buffer of a GLB with its views and accessors, aligned to 4 bytes."""

    def __init__(self) -> None:
        self.views: list[BufferView] = []
        self.accessors: list[Accessor] = []
        self._chunks: list[bytes] = []
        self._length = 0

    def view(self, data: bytes, target: int | None = None) -> int:
        """Add bytes as a buffer view; return its number."""
        self.views.append(BufferView(buffer=0, byteOffset=self._length, byteLength=len(data), target=target))
        padded = data + b"\0" * (-len(data) % 4)
        self._chunks.append(padded)
        self._length += len(padded)
        return len(self.views) - 1

    def indices(self, faces: npt.NDArray[np.int64]) -> int:
        """Add (F, 3) triangle corners, in the narrowest type that holds them; return the accessor."""
        # The type's highest value is the primitive restart marker, so it may not occur.
        kind = np.uint16 if faces.max(initial=0) < 0xFFFF else np.uint32
        flat = faces.astype(kind).reshape(-1)
        return self._accessor(flat, self.view(flat.tobytes(), ELEMENT_ARRAY_BUFFER), flat)

    def vertices(
        self, values: npt.NDArray[Any], *, bounds: bool = False, normalized: bool | None = None
    ) -> int:
        """Add a vertex attribute (N,) or (N, C); return the accessor. A row must fill whole words."""
        rows = np.ascontiguousarray(values)
        view = self.view(rows.tobytes(), ARRAY_BUFFER)
        return self._accessor(rows, view, rows if bounds else None, normalized=normalized)

    def plain(self, values: npt.NDArray[Any], *, bounds: bool = False) -> int:
        """Add values that are no vertex attributes (matrices, key frames); return the accessor."""
        rows = np.ascontiguousarray(values)
        return self._accessor(rows, self.view(rows.tobytes()), rows if bounds else None)

    def offsets(self, values: npt.NDArray[np.float32], *, bounds: bool, tiny: float) -> int:
        """Add the (N, 3) offsets of a morph target, sparse where that is smaller; return the accessor.

        Offsets shorter than ``tiny`` in each component become zero.
        """
        beyond = np.abs(values) > tiny
        moved = np.flatnonzero(beyond[:, 0] | beyond[:, 1] | beyond[:, 2])
        kind = np.uint16 if len(values) <= 0xFFFF else np.uint32
        if len(moved) * (values.itemsize * 3 + kind().itemsize) >= values.nbytes:
            return self.vertices(values, bounds=bounds)
        kept = values[moved]
        # Without a view of its own the accessor starts from zeros: there is one, for not all have moved.
        extremes = np.concatenate([kept, np.zeros_like(values[:1])]) if bounds else None
        number = self._accessor(values, None, extremes)
        if len(moved):
            self.accessors[number].sparse = Sparse(
                count=len(moved),
                indices=AccessorSparseIndices(
                    bufferView=self.view(moved.astype(kind).tobytes()),
                    componentType=_COMPONENTS[np.dtype(kind)],
                ),
                values=AccessorSparseValues(bufferView=self.view(kept.tobytes())),
            )
        return number

    def buffers(self) -> list[Buffer]:
        """Return the description of the one buffer."""
        return [Buffer(byteLength=self._length)]

    def blob(self) -> bytes:
        """Return the bytes of the buffer."""
        return b"".join(self._chunks)

    def _accessor(
        self,
        rows: npt.NDArray[Any],
        view: int | None,
        extremes: npt.NDArray[Any] | None,
        *,
        normalized: bool | None = None,
    ) -> int:
        """Describe ``rows``; ``extremes`` are rows that hold their smallest and largest values."""
        bounds = None if extremes is None else extremes.reshape(len(extremes), -1)
        self.accessors.append(
            Accessor(
                bufferView=view,
                byteOffset=None if view is None else 0,
                componentType=_COMPONENTS[rows.dtype],
                normalized=normalized,
                count=len(rows),
                type=_TYPES[int(np.prod(rows.shape[1:]))],
                min=None if bounds is None else bounds.min(axis=0).tolist(),
                max=None if bounds is None else bounds.max(axis=0).tolist(),
            )
        )
        return len(self.accessors) - 1
