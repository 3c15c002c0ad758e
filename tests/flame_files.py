"""Writes files in the form of FLAME's own, as Python 2 pickled them: without chumpy, scipy or Python 2."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

VERTICES, FACES, JOINTS = 5023, 9976, 5
#: What the official files hold as chumpy arrays.
CHUMPY = ("v_template", "shapedirs", "posedirs", "weights", "J")


def random_flame(seed: int = 0, *, shapes: int = 300, expressions: int = 100) -> dict[str, np.ndarray]:
    """Return random arrays of FLAME's sizes and types, identity and expression joined."""
    rng = np.random.default_rng(seed)
    regressor = np.zeros((JOINTS, VERTICES))
    for row in regressor:
        row[rng.choice(VERTICES, 40, replace=False)] = rng.dirichlet(np.ones(40))
    return {
        "v_template": rng.normal(0, 0.1, (VERTICES, 3)),
        "f": rng.integers(0, VERTICES, (FACES, 3), dtype=np.uint32),
        "shapedirs": rng.standard_normal((VERTICES, 3, shapes + expressions), np.float32).astype(np.float64),
        "posedirs": rng.normal(0, 1e-4, (VERTICES, 3, 9 * (JOINTS - 1))),
        "J_regressor": regressor,
        "weights": rng.dirichlet(np.ones(JOINTS), VERTICES),
        "kintree_table": np.array([[0xFFFFFFFF, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
    }


def write_flame_pickle(
    path: str | Path, arrays: dict[str, Any], *, chumpy: bool = True, sparse: bool = True
) -> Path:
    """Write a head model as official FLAME files have it: protocol 2, strings of Python 2.

    Args:
        path: Where to.
        arrays: As ``HeadModel`` has them, or as FLAME has: ``exprdirs`` is joined to ``shapedirs``, a root's
            parent of -1 becomes 4,294,967,295. Texts, integers and dictionaries are written as they are.
        chumpy: Whether arrays of numbers are chumpy's, as in most releases, or plain.
        sparse: Whether ``J_regressor`` is a ``csc_matrix``.

    Returns:
        ``path``.
    """
    stored = dict(arrays)
    if "exprdirs" in stored:
        stored["shapedirs"] = np.concatenate([stored["shapedirs"], stored.pop("exprdirs")], axis=2)
    stored.setdefault("bs_style", "lbs")
    stored.setdefault("bs_type", "lrotmin")
    writer = Python2Pickle()
    writer.begin_dict()
    for key, entry in stored.items():
        writer.string(key)
        value = _official(entry)
        if key == "J_regressor" and sparse:
            writer.sparse(value)
        elif key in CHUMPY and chumpy:
            writer.chumpy(value)
        else:
            writer.value(value)
    writer.end_dict()
    path = Path(path)
    with path.open("wb") as file:
        file.writelines([b"\x80\x02", *writer.parts, b"."])
    return path


def _official(value: Any) -> Any:
    """Return numbers in the types of official files: float64 and uint32."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fi":
        return value
    return value.astype(np.float64) if value.dtype.kind == "f" else value.astype(np.int64).astype(np.uint32)


class Python2Pickle:
    """Opcodes as Python 2's ``cPickle`` writes them in protocol 2."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self._remembered: dict[str, int] = {}
        self._next = 1

    def _put(self, known: str = "") -> None:
        """Memoise the topmost value, as Python 2 does with everything."""
        index, self._next = self._next, self._next + 1
        self.parts.append(b"q%c" % index if index < 256 else b"r" + struct.pack("<I", index))
        if known:
            self._remembered[known] = index

    def _again(self, known: str) -> bool:
        index = self._remembered.get(known)
        if index is not None:
            self.parts.append(b"h%c" % index if index < 256 else b"j" + struct.pack("<I", index))
        return index is not None

    def name(self, module: str, name: str) -> None:
        if not self._again(f"{module}.{name}"):
            self.parts.append(f"c{module}\n{name}\n".encode())
            self._put(f"{module}.{name}")

    def string(self, value: str | bytes) -> None:
        raw = value.encode("latin1") if isinstance(value, str) else value
        short = len(raw) < 256
        self.parts += [b"U%c" % len(raw) if short else b"T" + struct.pack("<i", len(raw)), raw]
        self._put()

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.parts.append(b"K%c" % value)
        elif 0 <= value < 65536:
            self.parts.append(b"M" + struct.pack("<H", value))
        else:
            self.parts.append(b"J" + struct.pack("<i", value))

    def integers(self, values: tuple[int, ...]) -> None:
        self.parts += [b"("] if len(values) > 3 else []
        for value in values:
            self.integer(value)
        self.parts.append((b")", b"\x85", b"\x86", b"\x87", b"t")[min(len(values), 4)])
        if values:
            self._put()

    def begin_dict(self) -> None:
        self.parts.append(b"}")
        self._put()
        self.parts.append(b"(")

    def end_dict(self) -> None:
        self.parts.append(b"u")

    def number_type(self, kind: np.dtype[Any]) -> None:
        if self._again(f"dtype {kind.str}"):
            return
        self.name("numpy", "dtype")
        self.string(kind.str[1:])
        self.parts.append(b"K\x00K\x01\x87")
        self._put()
        self.parts.append(b"R")
        self._put(f"dtype {kind.str}")
        self.parts.append(b"(K\x03")
        self.string(kind.str[0])
        self.parts.append(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t")
        self._put()
        self.parts.append(b"b")

    def array(self, value: np.ndarray) -> None:
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        self.name("numpy.core.multiarray", "_reconstruct")
        self.name("numpy", "ndarray")
        self.integers((0,))
        self.string("b")
        self.parts.append(b"\x87")
        self._put()
        self.parts.append(b"R")
        self._put()
        self.parts.append(b"(K\x01")
        self.integers(value.shape)
        self.number_type(value.dtype)
        self.parts.append(b"\x88" if fortran else b"\x89")
        self.string((value.T if fortran else value).tobytes())
        self.parts.append(b"t")
        self._put()
        self.parts.append(b"b")

    def chumpy(self, value: np.ndarray) -> None:
        self.name("chumpy.ch", "Ch")
        self.parts.append(b")\x81")
        self._put()
        self.begin_dict()
        self.string("_dirty_vars")
        self.name("__builtin__", "set")
        self.parts.append(b"]")
        self._put()
        self.string("x")
        self.parts.append(b"a\x85")
        self._put()
        self.parts.append(b"R")
        self._put()
        self.string("_itr")
        self.parts.append(b"N")
        self.string("_depends_on_deps")
        self.parts.append(b"}")
        self._put()
        for flag in ("_make_dense", "_make_sparse"):
            self.string(flag)
            self.parts.append(b"\x89")
        self.string("x")
        self.array(value)
        self.end_dict()
        self.parts.append(b"b")

    def sparse(self, value: np.ndarray) -> None:
        columns, rows = np.nonzero(value.T)
        starts = np.searchsorted(columns, np.arange(value.shape[1] + 1))
        self.name("scipy.sparse.csc", "csc_matrix")
        self.parts.append(b")\x81")
        self._put()
        self.begin_dict()
        self.string("_shape")
        self.integers(value.shape)
        self.string("maxprint")
        self.integer(50)
        for key, part in (("indptr", starts), ("indices", rows), ("data", value[rows, columns])):
            self.string(key)
            self.array(part if key == "data" else part.astype(np.int32))
        self.end_dict()
        self.parts.append(b"b")

    def value(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, str):
            self.string(value)
        elif isinstance(value, int):
            self.integer(value)
        else:
            self.begin_dict()
            for key, entry in value.items():
                self.string(key)
                self.value(entry)
            self.end_dict()
