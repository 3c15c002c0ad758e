"""Places outside this machine, by fsspec: ``s3://``, ``gs://`` and whatever else has a driver installed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from recon3d.errors import InputError, MissingExtraError, OutputError, Recon3DError, UsageError
from recon3d.media._open import shown

#: Drivers under which a file appears whole or not at all.
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory", "hf"})
#: What changes with a file, under the names that drivers give it; the first that is there counts.
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modify", "created")
_BLOCK = 1 << 20

Info = Mapping[str, Any]


class Unsteady(Exception):
    """A place did not answer as it should; another try may help."""


def is_url(text: str) -> bool:
    """Tell whether a text names a place for fsspec; a drive letter of Windows is none."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)", text) is not None


def local_path(text: str) -> Path | None:
    """Return the path that a text or a ``file://`` URL names, or None for other URLs."""
    if not is_url(text):
        return Path(text)
    if text.startswith(("file://", "local://")):
        path = text.split("://", 1)[1]
        return Path(unquote(path) if "%" in path else path)
    return None


def open_place(url: str) -> tuple[Any, str]:
    """Return the file system and the path in it that a URL names.

    Raises:
        MissingExtraError: Its driver is not installed; the message says what to install.
        UsageError: There is no such driver.
        InputError: The place cannot be reached.
    """
    import fsspec.core

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(f"{shown(url)}: {_what_to_install(url, error)}") from error
    except ValueError as error:
        raise UsageError(f"{shown(url)}: {_one_line(error)}") from error
    except Exception as error:  # drivers have errors of their own
        raise InputError(f"{shown(url)}: cannot be reached ({_one_line(error)})") from error
    return filesystem, path


def _what_to_install(url: str, error: ImportError) -> str:
    told = _one_line(error)
    package = re.search(r"[Ii]nstall ([A-Za-z0-9_\[\].-]+)", told)
    if package is not None:
        return f"its driver is not installed: pip install {package[1].rstrip('.')}"
    protocol = url.split(":", 1)[0]
    return f"the fsspec driver for {protocol} is not installed ({told})"


def mark_of(info: Info) -> str:
    """Return a text that changes with a file, of what its directory says: size and time or digest."""
    mark = next((f"{name} {info[name]}" for name in _MARKS if info.get(name) is not None), "")
    return f"{info.get('size')} {mark}".strip()


@contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn what a driver raises about an input into one line; what may pass by itself into ``Unsteady``."""
    try:
        yield
    except (Recon3DError, Unsteady):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{shown(name)}: no such file") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{shown(name)}: is a folder, not a file") from error
    except PermissionError as error:
        raise InputError(f"{shown(name)}: no permission to read it") from error
    except ImportError as error:
        raise MissingExtraError(f"{shown(name)}: {_what_to_install(name, error)}") from error
    except Exception as error:  # drivers have errors of their own
        raise Unsteady(f"{shown(name)}: {_one_line(error)}") from error


def fetch(url: str, folder: Path, limit: int) -> Path:
    """Copy a file into a folder, under its own name; return its path.

    Args:
        url: The file.
        folder: Where to; private, and somebody else's to remove.
        limit: Most bytes that are taken.

    Raises:
        InputError: Missing, not permitted, a folder, or larger than the limit.
        OutputError: There is no room for it.
        Unsteady: The place did not answer as it should.
    """
    filesystem, path = open_place(url)
    target = folder / _file_name(path)
    with plain_errors(url):
        source = filesystem.open(path, "rb")
    copied = 0
    with source, _room(target), target.open("xb") as file:
        while True:
            with plain_errors(url):
                block = source.read(_BLOCK)
            if not block:
                return target
            copied += len(block)
            if copied > limit:
                raise InputError(f"{shown(url)}: larger than {limit / 1e9:g} GB; see --max-size")
            file.write(block)


def _file_name(path: str) -> str:
    """Return the last part of a path, as a name that every disk takes."""
    name = PurePosixPath(path).name.replace("\x00", "").replace("\\", "_") or "input"
    while len(os.fsencode(name)) > 200:
        name = name[len(name) // 8 + 1 :]
    return name


@contextmanager
def _room(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{target.parent}: no room for {shown(target.name)}; set TMPDIR to a disk with more"
            ) from error
        raise OutputError(f"{target.parent}: cannot be written ({error.strerror})") from error


def publish(files: Sequence[Path], folder: Path, url: str) -> None:
    """Copy files under a folder to a place, in this order.

    The last of them speaks for all: the one that is there already goes first. Files that appear bit by bit at
    such a place are given their names when they are whole.

    Raises:
        OutputError: Not permitted.
        MissingExtraError: The place's driver is not installed.
        Unsteady: The place did not answer as it should.
    """
    filesystem, root = open_place(url)
    targets = [f"{root.rstrip('/')}/{file.relative_to(folder).as_posix()}" for file in files]
    try:
        if filesystem.exists(targets[-1]):
            filesystem.rm_file(targets[-1])
        for file, target in zip(files, targets, strict=True):
            _put(filesystem, file, target)
    except PermissionError as error:
        raise OutputError(f"{shown(url)}: cannot be written (permission); choose another --out") from error
    except Exception as error:  # drivers have errors of their own
        raise Unsteady(f"{shown(url)}: {_one_line(error)}") from error


def remove(names: Iterable[str], url: str) -> None:
    """Remove files from a place, by their paths under it; those that are not there are passed over."""
    filesystem, root = open_place(url)
    for name in names:
        with suppress(Exception):  # drivers have errors of their own; what is left is only in the way
            filesystem.rm_file(f"{root.rstrip('/')}/{name}")


def _put(filesystem: Any, path: Path, target: str) -> None:
    parent, _, name = target.rpartition("/")
    filesystem.makedirs(parent, exist_ok=True)
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    if _WHOLE & set(protocols):
        filesystem.put_file(str(path), target)
        return
    hidden = f"{parent}/.{name}.part"
    filesystem.put_file(str(path), hidden)
    if filesystem.exists(target):
        filesystem.rm_file(target)
    filesystem.mv(hidden, target)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:200]
