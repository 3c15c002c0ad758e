"""A numbered series of images read as a clip."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError
from recon3d.media._find import IMAGE_SUFFIXES
from recon3d.media._open import shown, unreadable
from recon3d.media.image import read_image

_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"%(0?)(\d*)d")


def is_pattern(path: Path) -> bool:
    """Tell whether a path is a pattern such as ``frame_%04d.png``, and not a file of that very name."""
    return _PLACEHOLDER.search(path.name) is not None and not path.exists()


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key under which ``take2`` comes before ``take10``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts if part], path.name


def find_sequence(path: Path) -> list[Path]:
    """Return the images of a folder or a pattern, by number.

    Raises:
        InputError: There are none, or those of a folder are not one numbered series.
    """
    return _by_pattern(path) if is_pattern(path) else _in_folder(path)


def read_sequence(
    files: Sequence[Path], fps: float, start: int, on_lost: Callable[[int], None]
) -> Iterator[tuple[int, float, npt.NDArray[np.uint8]]]:
    """Yield (index, seconds from the first frame, (H, W, 3) uint8 RGB) from the frame ``start`` on.

    An image that cannot be read, or is of another size than the first, is lost and leaves its time empty.

    Args:
        files: The images.
        fps: Images per second.
        start: Index of the first frame wanted; those before it are read too, to know which are lost.
        on_lost: Told how many are lost so far, whenever that changes.
    """
    index = lost = 0
    first: int | None = None
    size: tuple[int, int] | None = None
    for position, file in enumerate(files):
        try:
            photo = read_image(file)
        except InputError:
            photo = None
        if photo is None or (size is not None and photo.size != size):
            lost += 1
            on_lost(lost)
            continue
        first, size = position if first is None else first, photo.size
        if index >= start:
            yield index, (position - first) / fps, photo.pixels
        index += 1


def first_size(files: Sequence[Path]) -> tuple[int, int]:
    """Return (width, height) of the first image that can be read.

    Raises:
        InputError: None can; the first one's reason.
    """
    reason: InputError | None = None
    for file in files:
        try:
            return read_image(file).size
        except InputError as error:
            reason = reason or error
    raise reason or InputError("no images")


def _by_pattern(pattern: Path) -> list[Path]:
    match = _PLACEHOLDER.search(pattern.name)
    if match is None:
        raise InputError(f"{shown(pattern)}: no number in this pattern; frame_%04d.png has one")
    before, after = pattern.name[: match.start()], pattern.name[match.end() :]
    width = int(match[2] or 1) if match[1] else 1
    wanted = re.compile(re.escape(before) + rf"(\d{{{width},}})" + re.escape(after))
    try:
        names = [(wanted.fullmatch(file.name), file) for file in pattern.parent.iterdir()]
    except OSError as error:
        raise unreadable(pattern.parent, error) from error
    found = sorted((int(number[1]), file) for number, file in names if number)
    if not found:
        raise InputError(f"{shown(pattern)}: no images match this pattern")
    return [file for _, file in found]


def _in_folder(folder: Path) -> list[Path]:
    try:
        images = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and f.name[0] != "."]
    except OSError as error:
        raise unreadable(folder, error) from error
    if not images:
        raise InputError(f"{shown(folder)}: no videos and no images in this folder")
    numbered = [(_LAST_NUMBER.fullmatch(image.stem), image) for image in images]
    series = {(m[1], m[3], image.suffix.lower()) if m else None for m, image in numbered}
    if len(series) != 1 or None in series:
        raise InputError(
            f"{shown(folder)}: its images are not one numbered series; name one, as in frame_%04d.png"
        )
    return [image for _, image in sorted((int(m[2]), image) for m, image in numbered if m)]
