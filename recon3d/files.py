"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon3d.errors import OutputError


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an operating system error at ``path`` into one line that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: no space left on the disk; free some or choose another --out")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: cannot be written (permission); choose another --out")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(f"{path}: a file is in the way of the output folder; choose another --out")
    return OutputError(f"{path}: cannot be written ({error.strerror or error})")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        OutputError: It cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    return path


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it onto ``target`` only if the block succeeds.

    The temporary name keeps the suffix, because many writers choose their format by it.

    Raises:
        OutputError: The block or the rename failed with an operating system error.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise output_error(target, error) from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's own mode would keep the file from everybody else
        temporary.replace(target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; give it that name only if the block succeeds.

    Raises:
        OutputError: The block or the renaming failed with an operating system error, or ``target`` is a
            folder of other things; see ``replace``.
    """
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise output_error(target, error) from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)  # mkdtemp's own mode would keep the folder from everybody else
        replace(temporary, target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(source: Path, target: Path) -> None:
    """Give a finished file or folder its name; what has it goes.

    An earlier folder goes as a whole, so that of a longer sequence no frames stay behind; but only if it
    holds the same kinds of files (by their names without suffix and numbers), lest somebody's own are lost.

    Raises:
        OutputError: ``target`` is a folder that holds other things.
        OSError: The renaming failed.
    """
    if not (source.is_dir() and target.is_dir()):
        source.replace(target)
        return
    if not _kinds(target) <= _kinds(source) or any(path.is_dir() for path in target.iterdir()):
        raise OutputError(f"{target}: holds other files; move them away or choose another --out")
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.rename(aside / target.name)
        try:
            source.rename(target)
        except OSError:
            (aside / target.name).rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _kinds(folder: Path) -> set[str]:
    return {re.sub(r"\d+", "0", path.stem) for path in folder.iterdir()}
