"""From what a user names (files, folders, patterns) to the list of photographs."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from recon3d.errors import InputError
from recon3d.media._open import shown, unreadable

#: What counts as a photograph where a folder is searched; a file named outright is judged by content.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm",
})  # fmt: skip


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the photographs that the inputs name, in order, each once. See ``iter_images``.

    Raises:
        InputError: One of the inputs names none.
    """
    found = []
    for path, error in iter_images(inputs):
        if error is not None:
            raise error
        found.append(path)
    return found


def iter_images(inputs: Iterable[str | Path]) -> Iterator[tuple[Path, InputError | None]]:
    """Yield (path, None) for each photograph, and (input, error) for each input that names none.

    So that one bad input does not stop the others. An input is a file (yielded as it is), a folder (its
    own images by suffix, sorted, hidden ones left out, subfolders not searched), or a pattern with
    ``*``, ``?``, ``[]`` and ``**``. A pattern that ends in a suffix takes every file that matches;
    another (``shoot/*``) only images. A file that is reached twice is yielded once.
    """
    return each_once(inputs, _expand)


def each_once(
    inputs: Iterable[str | Path], expand: Callable[[str | Path], list[Path]]
) -> Iterator[tuple[Path, InputError | None]]:
    """Yield (path, None) for what inputs expand to, each file once; (input, error) where that fails."""
    seen: set[str] = set()
    for given in inputs:
        try:
            paths = expand(given)
        except InputError as error:
            yield Path(given), error
            continue
        for path in paths:
            real = os.path.realpath(path)  # Path.resolve() raises at links in a circle
            if real not in seen:
                seen.add(real)
                yield path, None


def _expand(given: str | Path) -> list[Path]:
    path = Path(given)
    try:
        if path.is_dir():
            return _in_folder(path)
        if glob.has_magic(str(given)) and not os.path.lexists(path):
            return _by_pattern(str(given))
        path.lstat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return [path]


def _in_folder(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if _is_image(p))
    if not found:
        raise InputError(f"{shown(folder)}: no images in this folder (subfolders are not searched)")
    return found


def _by_pattern(pattern: str) -> list[Path]:
    matches = sorted(Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207  ** and absolute
    named = not glob.has_magic(Path(pattern).suffix) and Path(pattern).suffix != ""
    found = [p for p in matches if (p.is_file() if named else _is_image(p))]
    if not found:
        raise InputError(f"{shown(pattern)}: no images match this pattern")
    return found


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
