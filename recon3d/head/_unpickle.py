"""Reads the pickles in which FLAME comes, without Python's ``pickle`` and without executing anything.

A pickle is a program for a stack machine. Python's machine imports whatever the program names and calls it,
so that a pickle from elsewhere can do anything. Ours (``_pickle_machine.py``) cannot:

* *Nothing is imported, called or assigned.* What the file names stays a name, and only if it stands in a
  short list or is a class of chumpy or scipy.sparse (``_pickle_names.py``); any other ends the reading.
  "Calling" a name picks a function of ours, which takes plain data and returns plain data. An instance
  becomes an :class:`Instance`: a name and a dictionary, nothing that the file could give methods to. Opcodes
  that no head model needs are refused: old-style instances, the extension registry, persistent ids, buffers
  from outside.
* *Memory is bounded.* A file has at most ``MAX_BYTES``. Strings are cut out of it, each byte once, so that a
  claimed length costs no more than what is there (a text up to four times that: Python's widest letters);
  what turns texts back into bytes is charged against the file's size. Each of at most ``MAX_STEPS`` opcodes
  makes one small object. Memo and containers hold references, and nothing expands them: arrays are views of
  bytes of the file, made only where type, shape and number of bytes agree, and only what somebody asks for by
  name is worked out further, by :func:`numbers`.
* *Time is bounded.* No opcode loops over more than it takes off the stack, and none recurses. Integers are
  short. Keys are texts or integers, whose hashes a file cannot make collide. Of chumpy's expressions, the
  stored array and the selection are worked out, to a depth of ``_MAX_DEPTH``.
* *Arrays hold numbers or text*, of a short list of types; numpy's own ``_reconstruct`` and ``__setstate__``
  take no part. An array of objects is a list that nobody takes for numbers.

Python 2 did not tell text from bytes: its strings stay bytes here, and are read as latin1 where text is
wanted.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recon3d.errors import InputError
from recon3d.head._pickle_machine import Machine
from recon3d.head._pickle_names import (
    SPARSE,
    STORAGES,
    Array,
    Instance,
    Name,
    StoredArray,
    Tensor,
    Unreadable,
    checked_shape,
    count,
    damaged,
    number_type,
    view,
)
from recon3d.media._open import open_regular, shown, unreadable

__all__ = [
    "MAX_BYTES", "TORCH_START", "Array", "Unreadable", "archive_names", "from_npy", "in_file", "loads",
    "npy_shape", "numbers", "read_npy", "read_npz", "read_pickle",
]  # fmt: skip

#: FLAME's own files have 53 MB; written as text (protocol 0) they would have three times as much.
MAX_BYTES = 256 << 20
#: How a torch file, or the storage of a pickled torch tensor, begins.
TORCH_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_TORCH_MAGIC = int.from_bytes(TORCH_START[4:], "little")
_MAX_DEPTH = 8
#: The most elements of a matrix that is stored sparse.
_MAX_CELLS = 1 << 24
_MAX_MEMBERS = 128
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, ValueError, LookupError, struct.error
)  # fmt: skip


def loads(data: bytes) -> object:
    """Read a pickle.

    Returns:
        Plain data: None, numbers, texts, bytes, tuples, lists and dictionaries of it (a file can make these
        hold themselves, so do not recurse), and stand-ins, which :func:`numbers` reads.

    Raises:
        Unreadable: It is damaged, no pickle, too long, or asks for what no head model needs.
    """
    return Machine(data).run()


# --- From what is stored to numbers ------------------------------------------------------------------------


def numbers(value: object, depth: int = _MAX_DEPTH) -> Array:
    """Return a stored value as an array of numbers, often a read-only view of the file's bytes.

    Args:
        value: Something that a reader of this module returned.
        depth: How many expressions of chumpy may still lie in one another.

    Raises:
        Unreadable: It is no array of numbers, or one that is damaged.
    """
    if isinstance(value, StoredArray):
        value = value.values
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return value
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return np.asarray(value)
    try:
        if isinstance(value, Instance) and value.state is not None and depth:
            return _worked_out(value.kind, value.state, depth - 1)
        if isinstance(value, Tensor):
            return _tensor(value)
    except (LookupError, ValueError, TypeError, ArithmeticError, struct.error, MemoryError) as error:
        raise damaged("its parts do not fit together") from error
    raise Unreadable("is not stored as numbers")


def _worked_out(kind: str, state: dict[object, object], depth: int) -> Array:
    """Work out a chumpy array, a selection of one, or a sparse matrix."""
    sparse = SPARSE.fullmatch(kind)
    if sparse:
        return _dense(sparse["form"], state)
    if kind in ("chumpy.ch.Ch", "chumpy.Ch"):
        return numbers(state["x"], depth)
    if kind == "chumpy.reordering.Select":
        picked = numbers(state["a"], depth).ravel()[numbers(state["idxs"], depth).ravel()]
        return picked.reshape(checked_shape(state["preferred_shape"]))
    raise Unreadable(f"is a chumpy expression ({shown(kind)}), not numbers; save its value instead")


def _dense(form: str, state: dict[object, object]) -> Array:
    """Unfold a sparse matrix; float64."""
    shape = checked_shape(state["_shape"] if "_shape" in state else state["shape"])
    if len(shape) != 2 or count(shape) > _MAX_CELLS:
        raise ValueError("shape")
    rows, columns = _places(form, state)
    data = numbers(state["data"])
    if rows.min(initial=0) < 0 or columns.min(initial=0) < 0 or not data.shape == rows.shape == columns.shape:
        raise ValueError("parts")
    unfolded = np.zeros(shape)
    np.add.at(unfolded, (rows, columns), data)
    return unfolded


def _places(form: str, state: dict[object, object]) -> tuple[Array, Array]:
    """Return the row and the column of each stored element of a sparse matrix."""
    if form == "coo":
        coords = state["coords"] if "coords" in state else (state["row"], state["col"])
        if not isinstance(coords, tuple):
            raise TypeError("coords")
        return _integers(coords[0]), _integers(coords[1])
    minor, starts = _integers(state["indices"]), _integers(state["indptr"])
    # Before anything is counted: differences of wild numbers overflow, and would look right.
    if starts[0] != 0 or starts[-1] != len(minor) or starts.min() < 0 or starts.max() > len(minor):
        raise ValueError("starts")
    counts = np.diff(starts)
    if counts.min(initial=0) < 0:
        raise ValueError("starts")
    major = np.repeat(np.arange(len(counts)), counts)
    return (minor, major) if form == "csc" else (major, minor)


def _integers(value: object) -> Array:
    """Return a stored row of integers; int64."""
    found = numbers(value, 0)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise TypeError("integers")
    return found.astype(np.int64)


def _tensor(tensor: Tensor) -> Array:
    """Read a torch tensor: five pickles (the fourth describes the numbers), a count, and the numbers."""
    data, at, parts = tensor.storage.data, 0, []
    for _ in range(5):
        machine = Machine(data, at, storage=True)
        parts.append(machine.run())
        at = machine.at
    described = parts[3]
    if parts[0] != _TORCH_MAGIC or not isinstance(described, tuple) or not isinstance(described[1], Name):
        raise ValueError("storage")
    size = checked_shape((described[4],))
    if struct.unpack("<q", data[at : at + 8]) != size:
        raise ValueError("size")
    stored = view(data[at + 8 :], number_type(STORAGES[described[1].full], "<"), size, False)
    rows = tuple(count(tensor.shape[i + 1 :]) for i in range(len(tensor.shape)))
    if tensor.stride != rows:
        raise ValueError("order")
    return stored[tensor.offset : tensor.offset + count(tensor.shape)].reshape(tensor.shape)


# --- Files -------------------------------------------------------------------------------------------------


class _Archive(io.BufferedReader):
    """A file for ``zipfile``, which while ``most`` is set has to do with pieces of that size.

    The directory of an archive is one piece, and each of its entries takes twenty times its size in memory.
    """

    most: int | None = 1 << 20

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does."""
        if self.most is None:
            return super().read(size)
        piece = super().read(self.most + 1 if size is None or size < 0 else min(size, self.most + 1))
        if len(piece) > self.most:
            raise zipfile.BadZipFile("too many entries")
        return piece


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; whatever is wrong with it then is an ``Unreadable``."""
    with open_regular(path) as file:
        try:
            bounded = _Archive(io.FileIO(file.fileno(), closefd=False))
            with zipfile.ZipFile(bounded) as archive:
                bounded.most = None
                yield archive
        except _ARCHIVE_ERRORS as error:
            raise damaged("the archive is incomplete or altered") from error


@contextmanager
def in_file(path: str | Path) -> Iterator[None]:
    """Turn what is wrong with a file's contents into an ``InputError`` of one line that names the file."""
    try:
        yield
    except Unreadable as error:
        raise InputError(f"{shown(path)}: {error}") from error
    except OSError as error:
        raise unreadable(path, error) from error


def read_pickle(path: str | Path) -> dict[str, object]:
    """Read a pickled dictionary; nothing in it is executed, whatever it holds.

    Returns:
        The stored values by name, for :func:`numbers` and :func:`text`.

    Raises:
        InputError: The file is missing, too large, damaged, no such pickle, or asks for something unsafe.
    """
    with open_regular(path) as file, in_file(path):
        return _entries(loads(_whole(file)))


def read_npy(path: str | Path) -> Array | dict[str, object]:
    """Read an ``.npy``: an array, or the pickled dictionary that ``numpy.save`` makes of one.

    Raises:
        InputError: As of :func:`read_pickle`.
    """
    with open_regular(path) as file, in_file(path):
        value = from_npy(_whole(file))
        return value if isinstance(value, np.ndarray) else _entries(value)


def read_npz(path: str | Path) -> dict[str, object]:
    """Read the arrays of an ``.npz``, those of objects with the same care as a pickle.

    Raises:
        InputError: As of :func:`read_pickle`.
    """
    with in_file(path), _opened(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
            raise Unreadable(f"too large for a head model (unpacks to more than {MAX_BYTES >> 20} MiB)")
        # Other ways of compressing could unpack much at once, before the size can be looked at.
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise Unreadable("is compressed in an unusual way; save it with numpy.savez")
        return {member.filename.removesuffix(".npy"): from_npy(archive.read(member)) for member in members}


def archive_names(path: str | Path) -> list[str]:
    """Return the names of what a zip archive holds, in its order.

    Raises:
        InputError: As of :func:`read_pickle`.
    """
    with in_file(path), _opened(path) as archive:
        return archive.namelist()


def npy_shape(path: str | Path, name: str) -> tuple[int, ...]:
    """Return the shape of one array of an ``.npz`` by its header alone.

    Raises:
        InputError: As of :func:`read_pickle`.
    """
    with in_file(path), _opened(path) as archive, archive.open(f"{name}.npy") as member:
        return _header(member.read(1024))[3]


def from_npy(data: bytes) -> object:
    """Read the contents of an ``.npy``: an array, or what the only element of an array of objects holds.

    Raises:
        Unreadable: It is damaged, or asks for something unsafe.
    """
    start, kind, fortran, shape = _header(data)
    if kind is not None:
        return view(data[start:], kind, shape, fortran)
    value = loads(data[start:])
    return value.items[0] if isinstance(value, StoredArray) and value.items and shape == () else value


def _header(data: bytes) -> tuple[int, np.dtype[Any] | None, bool, tuple[int, ...]]:
    """Read an ``.npy``'s header: where it ends, the type (None: objects), Fortran order, and the shape."""
    start = 10 if data[6:7] == b"\x01" else 12  # later versions have a wider length
    size = int.from_bytes(data[8:start], "little")
    header = data[start : start + min(size, 10_000)].decode("latin1")
    kind = re.search(r"'descr': *'([<>|=]?)(\w+)'", header, re.ASCII)
    order = re.search(r"'fortran_order': *(True|False)", header)
    shape = re.search(r"'shape': *\(([\d, L]*)\)", header, re.ASCII)
    if not data.startswith(b"\x93NUMPY") or kind is None or order is None or shape is None:
        raise damaged("an array without a readable header")
    lengths = re.findall(r"\d{1,18}", shape[1], re.ASCII)
    number = None if kind[2] == "O" else number_type(kind[2], kind[1] or "<")
    return start + size, number, order[1] == "True", checked_shape(tuple(int(n) for n in lengths))


def _whole(file: BinaryIO) -> bytes:
    size = os.fstat(file.fileno()).st_size
    if size > MAX_BYTES:
        raise Unreadable(f"too large for a head model ({size >> 20} MiB; {MAX_BYTES >> 20} MiB are the most)")
    return file.read(MAX_BYTES)


def _entries(value: object) -> dict[str, object]:
    """Return a dictionary's entries that have names."""
    if isinstance(value, StoredArray) and value.items and len(value.items) == 1:
        value = value.items[0]
    if not isinstance(value, dict):
        raise Unreadable("holds no named arrays, which a head model is made of")
    return {key: entry for key, entry in value.items() if isinstance(key, str)}
