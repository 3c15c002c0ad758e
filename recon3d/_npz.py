"""Reading other people's ``.npz`` files: nothing is unpickled, and no header is believed that lies."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError
from recon3d.media._open import open_regular, shown

Array = npt.NDArray[Any]

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def member_names(path: str | Path) -> frozenset[str]:
    """Return the names of an ``.npz``'s arrays; empty for whatever is no such file. Never raises."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (InputError, OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return frozenset()


def read_npz(
    path: str | Path, wanted: Collection[str] | None = None, *, what: str, max_bytes: int
) -> dict[str, Array]:
    """Read the arrays of an ``.npz``; what is not wanted is not unpacked.

    Args:
        path: The file.
        wanted: Names of the arrays to read, those of them that are there; None reads all numbers and texts
            and leaves Python objects alone.
        what: What the file should be, for messages: "a GNM head".
        max_bytes: The wanted arrays may unpack to so much.

    Raises:
        InputError: The file is missing, is no ``.npz``, is damaged, unpacks to too much, or a wanted array
            holds Python objects; the message names the file.
    """
    name = shown(path)
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
                chosen = {m.filename.removesuffix(".npy"): m for m in members}
                if wanted is not None:
                    chosen = {key: m for key, m in chosen.items() if key in wanted}
                if sum(m.file_size for m in chosen.values()) > max_bytes:
                    raise InputError(f"{name}: too large: unpacks to more than {max_bytes >> 20} MiB")
                read = {key: _array(archive, m, wanted is None) for key, m in chosen.items()}
        except zipfile.BadZipFile as error:
            raise InputError(f"{name}: not {what} (no .npz file, or an incomplete one)") from error
        except (OSError, EOFError, ValueError, zlib.error, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{name}: damaged ({error})") from error
    return {key: array for key, array in read.items() if array is not None}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, skip_objects: bool) -> Array | None:
    """Read one array after its header agreed with the bytes that follow; None for skipped objects.

    Raises:
        ValueError: The header is none, or claims another size than there is.
        zipfile.BadZipFile: The bytes are not those that were packed.
    """
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as stream:
        try:
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        except (ValueError, KeyError, TypeError, SyntaxError, OverflowError) as error:
            raise ValueError(f"{name} has no readable header") from error
        if dtype.hasobject:
            if skip_objects:
                return None
            raise ValueError(f"{name} holds Python objects")
        if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{name} does not have the size it claims")
    with archive.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def texts(array: Array) -> tuple[str, ...]:
    """Return an array of names as text, whether it holds text or bytes."""
    return tuple(
        v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()
    )
