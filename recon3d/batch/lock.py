"""Locks on files that go when their process does, however that ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recon3d.errors import OutputError
from recon3d.files import output_error

#: What a system says that has no locks for this folder.
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
#: Seconds between two looks at a lock that another process holds.
_LOOK = 0.05


class Held(Exception):
    """Another process holds the lock; ``str`` is what it wrote into it."""


@contextmanager
def locked(path: Path, note: str = "", wait: float = 0.0) -> Iterator[None]:
    """Hold a lock during the block; the file is there as long.

    Args:
        path: The file; its folder exists.
        note: What others that want the lock are told.
        wait: Seconds to wait for it.

    Raises:
        Held: Another process has it.
        OutputError: The file cannot be made, or the folder's disk has no locks.
    """
    handle = _take(path, wait)
    try:
        with suppress(OSError):  # a full disk: the note is only a note
            os.truncate(handle, 0)
            os.pwrite(handle, note.encode("utf-8", "backslashreplace"), 0) if note else None
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _take(path: Path, wait: float) -> int:
    until = time.monotonic() + wait
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            if _lock(handle, path) and _is_still(handle, path):
                return handle
            note = os.read(handle, 200).decode("utf-8", "replace")
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= until:
            raise Held(note)
        time.sleep(_LOOK)


def _is_still(handle: int, path: Path) -> bool:
    """Tell whether the file that was locked still has the name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, path: Path) -> bool:
        try:
            os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the note, which stays readable
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(handle: int, path: Path) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NONE:
                raise OutputError(
                    f"{path.parent}: this disk has no file locks; choose a --ledger on another"
                ) from error
            return False
        return True
