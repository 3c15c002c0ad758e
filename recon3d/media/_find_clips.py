"""From what a user names (files, folders, patterns) to the list of clips."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from recon3d.errors import InputError
from recon3d.media._find import each_once
from recon3d.media._open import shown, unreadable
from recon3d.media._sequence import find_sequence, is_pattern, natural_key

#: What counts as a video where a folder is searched; a file named outright is judged by content.
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts",
    ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".vob", ".y4m", ".ivf",
})  # fmt: skip


def is_clip(path: str | Path) -> bool:
    """Tell by its name whether a path is a clip: a video, or images that are one (folder, pattern)."""
    path = Path(path)
    try:
        if path.is_dir() or is_pattern(path):
            return bool(find_sequence(path))
    except (InputError, OSError, ValueError):
        return False
    return _is_video(path)


def iter_clips(inputs: Iterable[str | Path]) -> Iterator[tuple[Path, InputError | None]]:
    """Yield (path, None) for each clip, and (input, error) for each input that names none.

    So that one bad input does not stop the others. An input is

    - a file, yielded as it is;
    - a folder: its own videos by suffix (hidden ones left out, subfolders not searched), or, where it has
      none, the folder itself as one clip if its images are one numbered series;
    - a pattern with a number, ``frame_%04d.png``: one clip;
    - a pattern with ``*``, ``?``, ``[]`` and ``**``: the videos and the folders (as above) that match.

    In natural order (``take2`` before ``take10``); a clip that is reached twice is yielded once.
    """
    return each_once(inputs, _expand)


def _expand(given: str | Path) -> list[Path]:
    path = Path(given)
    try:
        if path.is_dir():
            return _in_folder(path)
        if is_pattern(path):
            return [path] if find_sequence(path) else []
        if glob.has_magic(str(given)) and not os.path.lexists(path):
            return _by_pattern(str(given))
        path.lstat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    return [path]


def _in_folder(folder: Path) -> list[Path]:
    videos = sorted((p for p in folder.iterdir() if _is_video(p) and p.is_file()), key=natural_key)
    return videos or ([folder] if find_sequence(folder) else [])


def _by_pattern(pattern: str) -> list[Path]:
    found: list[Path] = []
    matches = (Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207  ** and absolute
    for path in sorted(matches, key=lambda p: [natural_key(Path(part)) for part in p.parts]):
        if path.is_dir():
            found += _in_folder(path) if is_clip(path) or _holds_videos(path) else []
        elif _is_video(path):
            found.append(path)
    if not found:
        raise InputError(f"{shown(pattern)}: no videos match this pattern")
    return found


def _holds_videos(folder: Path) -> bool:
    return any(_is_video(p) and p.is_file() for p in folder.iterdir())


def _is_video(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in VIDEO_SUFFIXES
