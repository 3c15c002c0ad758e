"""Opening an input file so that nothing a user can name makes the program hang or show a traceback."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from recon3d.errors import InputError


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as one printable line: control characters and broken encodings are escaped."""
    text = os.fspath(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> InputError:
    """Turn what the operating system says about an input path into one line that says what to do."""
    name = shown(path)
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT:
        return InputError(f"{name}: no such file")
    if code in (errno.EACCES, errno.EPERM):
        return InputError(f"{name}: no permission to read it")
    if code == errno.ENOTDIR:
        return InputError(f"{name}: no such file (a part of its path is not a folder)")
    if code == errno.ELOOP:
        return InputError(f"{name}: a symbolic link that leads to itself")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError(f"{name}: cannot be read ({reason})")


def _irregular(mode: int) -> str | None:
    """Say what a file that is not a regular one is, or None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    if stat.S_ISFIFO(mode):
        return "is a pipe; save it to a file first"
    if stat.S_ISSOCK(mode):
        return "is a socket, not a file"
    return "is a device, not a file"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular, non-empty file for reading; never block on a pipe or a device.

    Raises:
        InputError: Missing, a folder, a pipe, a device, empty, or not permitted; one message each.
    """
    try:
        # Asked before opening, because opening a device can already have an effect;
        # opened without blocking and asked again, because the name may have changed hands.
        problem = _irregular(Path(path).stat().st_mode)
        if problem is None:
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            handle = os.fdopen(os.open(path, flags), "rb")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if problem is None:
        status = os.fstat(handle.fileno())
        problem = _irregular(status.st_mode) or ("is empty (0 bytes)" if status.st_size == 0 else None)
        if problem is None:
            return handle
        handle.close()
    raise InputError(f"{shown(path)}: {problem}")
