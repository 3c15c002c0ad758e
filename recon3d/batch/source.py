"""SOURCE → the items of a batch: a folder, a pattern, a file, a manifest, or any of them by an fsspec URL."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from recon3d.batch.ids import ids_of
from recon3d.batch.options import ItemOptions, Kind
from recon3d.batch.storage import Unsteady, is_url, local_path, mark_of, open_place, plain_errors
from recon3d.errors import InputError, Recon3DError
from recon3d.media._find import IMAGE_SUFFIXES
from recon3d.media._find_clips import VIDEO_SUFFIXES
from recon3d.media._open import shown, unreadable
from recon3d.media._sequence import find_sequence, is_pattern, natural_key

#: Which kinds a search takes.
Wanted = Literal["auto", "clip", "photo"]
MANIFESTS = (".csv", ".jsonl", ".ndjson")
#: A folder with this file is one of results.
CAPTURE = "capture.npz"


@dataclass(frozen=True)
class Item:
    """One clip or photograph.

    Attributes:
        id: Where its results go: a relative path, ``/`` between its parts.
        uri: An absolute path, or a URL.
        kind: Clip or photograph.
        mark: Changes with the file: its size and time; empty where that is not known.
        options: How it is done.
    """

    id: str
    uri: str
    kind: Kind
    mark: str
    options: ItemOptions


@dataclass(frozen=True)
class Broken:
    """What a source names and nothing can be done with.

    Attributes:
        name: The source's name for it.
        error: Why.
    """

    name: str
    error: Recon3DError


@dataclass(frozen=True)
class _Found:
    path: str  # relative to what was searched, "/" between the parts
    uri: str
    kind: Kind
    mark: str


def find_items(
    source: str, options: ItemOptions, wanted: Wanted = "auto", leave_out: Path | None = None
) -> Iterator[Item | Broken]:
    """Yield the items of a source, and what of it is broken.

    Folders are searched with all that is in them, in natural order; hidden files and recon3d's own results
    are left out. Images that a search finds are photographs; with ``wanted="clip"`` a folder whose images are
    one numbered series is a clip instead. A file that is named outright is taken for a clip unless its suffix
    is an image's.

    Args:
        source: What the user names.
        options: How items are done, but for what a manifest says.
        wanted: Which kinds of files a search takes.
        leave_out: A folder that is not searched: the results'.

    Raises:
        InputError: The source is not there, cannot be read or reached, or holds nothing.
        MissingExtraError: The driver of a URL is not installed.
        UsageError: There is no such driver, or the manifest as a whole is wrong.
    """
    if source.rsplit("?", 1)[0].lower().endswith(MANIFESTS):
        from recon3d.batch.manifest import read_manifest

        return read_manifest(source, options)
    path = local_path(source)
    found = _remote(source, wanted) if path is None else _local(path, wanted, leave_out)
    if not found:
        raise InputError(f"{shown(source)}: no {_SOUGHT[wanted]} found")
    ids = ids_of([one.path for one in found])
    return (Item(name, one.uri, one.kind, one.mark, options) for name, one in zip(ids, found, strict=True))


_SOUGHT: Mapping[Wanted, str] = {
    "auto": "videos or images",
    "clip": "videos or numbered series of images",
    "photo": "images",
}


def kind_of(name: str, wanted: Wanted = "auto") -> Kind | None:
    """Tell by its suffix whether a file is a clip or a photograph; None: neither, or not wanted."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in VIDEO_SUFFIXES and wanted != "photo":
        return "clip"
    return "photo" if suffix in IMAGE_SUFFIXES and wanted != "clip" else None


def item_kind(name: str) -> Kind:
    """Return what a file that was named outright is taken for."""
    return kind_of(name, "photo") or "clip"


def local_mark(path: Path) -> str:
    """Return a text that changes with a file, or a series of images.

    Raises:
        InputError: It is not there, or cannot be read.
    """
    try:
        if path.is_dir() or is_pattern(path):
            files = find_sequence(path)
            facts = [file.stat() for file in files]
            size, time = sum(f.st_size for f in facts), max(f.st_mtime_ns for f in facts)
            return f"{len(files)} {size} {time}"
        return _stat_mark(path.stat())
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def remote_mark(url: str) -> str:
    """Return a text that changes with a remote file.

    Raises:
        Recon3DError: It is not there, or cannot be reached.
    """
    filesystem, path = open_place(url)
    try:
        with plain_errors(url):
            return mark_of(filesystem.info(path))
    except Unsteady as error:
        raise InputError(str(error)) from error


def any_mark(uri: str) -> str:
    """Return ``local_mark`` or ``remote_mark``."""
    path = local_path(uri)
    return remote_mark(uri) if path is None else local_mark(path)


def _stat_mark(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


# ---- this machine's files ----


def _local(path: Path, wanted: Wanted, leave_out: Path | None) -> list[_Found]:
    try:
        if path.is_dir():
            return list(_in_folder(path, wanted, leave_out))
        if is_pattern(path):
            return [_Found(path.name, str(path.absolute()), "clip", local_mark(path))]
        if glob.has_magic(str(path)) and not os.path.lexists(path):
            return list(_by_pattern(path, wanted, leave_out))
        path.lstat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return [_Found(path.name, str(path.absolute()), item_kind(path.name), local_mark(path))]


def _in_folder(root: Path, wanted: Wanted, leave_out: Path | None) -> Iterator[_Found]:
    """Yield what is in a folder; links to folders are not followed, lest they lead round in a circle."""

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename or root, error) from error

    hidden = None if leave_out is None else leave_out.resolve()
    base = root.absolute()
    for folder, subfolders, names in os.walk(base, onerror=refuse):
        here = Path(folder)
        subfolders[:] = sorted(
            (n for n in subfolders if n[0] != "." and (here / n).resolve() != hidden),
            key=lambda name: natural_key(Path(name)),
        )
        if hidden is not None and here.resolve() == hidden:
            subfolders.clear()
            continue
        yield from _files(here, names, wanted, lambda path: path.relative_to(base).as_posix())


def _files(folder: Path, names: list[str], wanted: Wanted, called: Callable[[Path], str]) -> Iterator[_Found]:
    """Yield the items among the files of one folder."""
    ours = CAPTURE in names
    found = []
    for name in sorted(names, key=lambda name: natural_key(Path(name))):
        kind = kind_of(name, wanted)
        if kind is None or name[0] == "." or (ours and _is_ours(name)):
            continue
        path = folder / name
        if path.is_file():
            found.append(_Found(called(path), str(path), kind, _stat_mark(path.stat())))
    if not found and wanted == "clip" and not ours:
        series = _series(folder, names)
        if series is not None:
            found.append(_Found(called(folder), str(folder), "clip", series))
    yield from found


def _series(folder: Path, names: list[str]) -> str | None:
    """Return the mark of a folder whose images are one numbered series of several, or None."""
    images = [n for n in names if PurePosixPath(n).suffix.lower() in IMAGE_SUFFIXES and n[0] != "."]
    if len(images) < 2:
        return None
    try:
        return local_mark(folder)
    except InputError:
        return None


def _is_ours(name: str) -> bool:
    """Tell whether a picture or video beside a capture is a result, not a source."""
    return name.startswith(("overlay.", "mesh.", "animation.", "capture."))


def _by_pattern(pattern: Path, wanted: Wanted, leave_out: Path | None) -> Iterator[_Found]:
    matches = (Path(p) for p in glob.glob(str(pattern), recursive=True))  # noqa: PTH207  ** and absolute
    ordered = sorted(matches, key=lambda p: [natural_key(Path(part)) for part in p.parts])
    base = _fixed_part(pattern)
    outside = None if leave_out is None else leave_out.resolve()
    for folder, paths in groupby((p for p in ordered if p.is_file()), key=lambda p: p.parent):
        if outside is not None and folder.resolve().is_relative_to(outside):
            continue
        names = [path.name for path in paths]
        if (folder / CAPTURE).is_file():
            names = [name for name in names if not _is_ours(name)]
        yield from _files(
            folder.absolute(), names, wanted, lambda path: path.relative_to(base.absolute()).as_posix()
        )


def _fixed_part(pattern: Path) -> Path:
    """Return the folder above the first part of a pattern that is none."""
    fixed = Path(pattern.anchor)
    for part in pattern.parent.relative_to(fixed).parts if pattern.anchor else pattern.parent.parts:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


# ---- other places ----


def _remote(url: str, wanted: Wanted) -> list[_Found]:
    filesystem, path = open_place(url)
    try:
        with plain_errors(url):
            return list(_by_driver(filesystem, path, wanted))
    except Unsteady as error:
        raise InputError(f"{error}; try again, or see its driver's documentation") from error


def _by_driver(filesystem: Any, path: str, wanted: Wanted) -> Iterator[_Found]:
    if glob.has_magic(path):
        infos, base = filesystem.glob(path, detail=True), str(_fixed_part(Path(path))).rstrip("/")
    elif filesystem.isfile(path):
        infos, base = {path: filesystem.info(path)}, path.rpartition("/")[0]
    else:
        infos, base = filesystem.find(path, detail=True), path.rstrip("/")
    only = len(infos) == 1 and path in infos
    results = {name.rpartition("/")[0] for name in infos if name.endswith(f"/{CAPTURE}")}
    for name, info in sorted(infos.items(), key=lambda pair: natural_key(Path(pair[0]))):
        relative = name[len(base) :].lstrip("/") if base else name.lstrip("/")
        kind = item_kind(name) if only else kind_of(name, wanted)
        folder, _, last = name.rpartition("/")
        if kind is None or info.get("type") == "directory" or _is_hidden(relative):
            continue
        if not (folder in results and _is_ours(last)):
            yield _Found(relative, filesystem.unstrip_protocol(name), kind, mark_of(info))


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def resolved(given: str, beside: str) -> str:
    """Return a manifest's path as an absolute one or a URL; ``beside``: the manifest."""
    if is_url(given):
        return given
    folder = local_path(beside)
    if folder is not None:
        return str(folder.absolute().parent / given)
    return given if given.startswith("/") else f"{beside.rpartition('/')[0]}/{given}"
