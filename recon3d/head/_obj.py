"""Reading meshes that are shapes of each other from OBJ files: vertex k of each is its k-th ``v`` line.

Format: Wavefront, "Object Files (.obj)". Read here and not by trimesh, because its reader leaves out vertices
without faces, splits files by material, and keeps one texture point a vertex: then the vertices of two files
need not be each other's, and texture seams are lost.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError
from recon3d.media._open import open_regular, shown

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: A file of so many bytes holds millions of vertices; a head has some ten thousand.
MAX_BYTES = 256 << 20
#: 52 shapes of so many vertices take 160 MB.
MAX_VERTICES = 250_000

_CONTINUED = re.compile(rb"\\\n")
_LINES = {
    key: re.compile(rb"^[ \t]*" + key + rb"[ \t]+([^\n]*)", re.MULTILINE) for key in (b"v", b"vt", b"f")
}


class ObjMesh(NamedTuple):
    """A mesh; ``uv`` and ``faces_uv`` are None where not all faces have texture coordinates."""

    vertices: Floats
    """(V, 3), in the file's unit of length."""
    faces: Indices
    """(F, 3), polygons cut into fans."""
    uv: Floats | None
    """(U, 2), v up."""
    faces_uv: Indices | None
    """(F, 3)."""


def read_obj(path: str | Path) -> ObjMesh:
    """Read a mesh; groups, materials, normals, lines and points are left alone.

    Raises:
        InputError: The file cannot be read, is too large, has no vertices or faces, or a line is wrong.
    """
    name, data = shown(path), _read(path)
    vertices, places = _rows(data, b"v", 3, name)
    uv, uv_places = _rows(data, b"vt", 2, name)
    corners, uv_corners = [], []
    for match in _LINES[b"f"].finditer(data):
        words = [word.split(b"/") for word in match[1].split(b"#")[0].split()]
        try:
            polygon = [_index(word[0], places, match.start()) for word in words]
            textured = [_index(word[1], uv_places, match.start()) for word in words if any(word[1:2])]
        except ValueError as error:
            raise _wrong(data, match.start(), name, f"{error}") from error
        if len(polygon) < 3:
            raise _wrong(data, match.start(), name, "a face has fewer than three corners")
        corners += [(polygon[0], *polygon[k : k + 2]) for k in range(1, len(polygon) - 1)]
        if len(textured) == len(polygon):
            uv_corners += [(textured[0], *textured[k : k + 2]) for k in range(1, len(textured) - 1)]
    if not corners:
        raise InputError(f"{name}: holds no faces")
    if len(uv_corners) < len(corners):
        return ObjMesh(vertices, np.array(corners), None, None)
    return ObjMesh(vertices, np.array(corners), uv, np.array(uv_corners))


def read_obj_vertices(path: str | Path) -> Floats:
    """Read the vertices alone, (V, 3); faces are not looked at.

    Raises:
        InputError: The file cannot be read, is too large, has no vertices, or one is wrong.
    """
    return _rows(_read(path), b"v", 3, shown(path))[0]


def _read(path: str | Path) -> bytes:
    """Return the file with unix line ends and broken lines joined."""
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{shown(path)}: too large for an OBJ file of a head (over {MAX_BYTES >> 20} MiB)")
    return _CONTINUED.sub(b" ", data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


def _rows(data: bytes, key: bytes, width: int, name: str) -> tuple[Floats, list[int]]:
    """Return the numbers of all lines of one kind (N, width), and where in the file they start."""
    matches = list(_LINES[key].finditer(data))
    if key == b"v" and not matches:
        raise InputError(f"{name}: not an OBJ file (it has no vertices)")
    if len(matches) > MAX_VERTICES:
        raise InputError(f"{name}: has {len(matches)} {key.decode()} lines, {MAX_VERTICES} are allowed")
    words = [match[1].split(None, width)[:width] for match in matches]
    starts = [match.start() for match in matches]
    try:
        numbers = np.array(words, dtype=bytes).astype(np.float64).reshape(-1, width)
    except ValueError:
        numbers = np.zeros((0, width))
    wrong = np.flatnonzero(~np.isfinite(numbers).all(1))
    if len(numbers) < len(words) or wrong.size:
        first = (
            int(wrong[0]) if wrong.size else next(k for k, row in enumerate(words) if not _good(row, width))
        )
        raise _wrong(data, starts[first], name, f"{width} finite numbers are wanted")
    return numbers, starts


def _good(words: list[bytes], width: int) -> bool:
    try:
        return len([float(word) for word in words]) == width
    except ValueError:
        return False


def _index(word: bytes, places: Sequence[int], line: int) -> int:
    """Return what a corner names, from 0.

    Args:
        word: The number as it stands there; negative ones count back from the face's own line.
        places: Where in the file stands what is counted.
        line: Where the face's line starts.

    Raises:
        ValueError: It names nothing.
    """
    try:
        given = int(word)
    except ValueError as error:
        raise ValueError("a corner of a face is no number") from error
    index = given - 1 if given > 0 else bisect_left(places, line) + given
    if given == 0 or not 0 <= index < len(places):
        raise ValueError(f"a face names number {given} of {len(places)}")
    return index


def _wrong(data: bytes, start: int, name: str, what: str) -> InputError:
    line = data.count(b"\n", 0, start) + 1
    return InputError(f"{name}: line {line}: {what}")
