"""The note in a clip's capture.npz of what was made, from what and how: by it a finished clip is known.

It is one more member of the archive, ``job``, a text in JSON; readers of captures leave it alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.errors import InputError
from recon3d.files import output_error
from recon3d.media._open import shown
from recon3d.media._sequence import find_sequence, is_pattern

_MEMBER = "job.npy"
#: Bytes at both ends of a file that stand for all of it; one of them holds a video's index.
_ENDS = 1 << 16


@dataclass(frozen=True)
class Mark:
    """What was made of a clip.

    Attributes:
        clip: ``clip_digest`` of the clip.
        settings: All that the results depend on, as text.
        formats: The formats written.
        results: Files (and folders) in each result folder, by the folder's name; the main person's first.
        lost: Frames that could not be decoded.
    """

    clip: str
    settings: str
    formats: list[str]
    results: dict[str, list[str]]
    lost: int


def digest(*facts: object) -> str:
    """Return eight digits that change with the facts."""
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def clip_digest(path: Path) -> str:
    """Return digits that change with a clip, wherever it lies: by name, size and both ends of its files.

    Raises:
        InputError: It is neither a file nor a series of images.
        OSError: It cannot be read.
    """
    named = find_sequence(path) if path.is_dir() or is_pattern(path) else [path]
    files = [file for file in named if file.is_file()]  # of a series others are lost: folders, dead links
    if not files:
        raise InputError(f"{shown(path)}: not a file")
    facts = [(file.name, file.stat().st_size) for file in files]
    return digest(path.name, facts, _ends(files[0]), _ends(files[-1]))


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_ENDS)
        file.seek(max(path.stat().st_size - _ENDS, 0))
        return start + file.read(_ENDS)


def write_mark(capture: Path, mark: Mark) -> None:
    """Add a mark to a capture file.

    Raises:
        OutputError: The disk is full, or the like.
    """
    text = io.BytesIO()
    np.lib.format.write_array(text, np.array(json.dumps(asdict(mark))), allow_pickle=False)
    try:
        with zipfile.ZipFile(capture, "a", zipfile.ZIP_DEFLATED) as archive:
            # Without the time of day: the same result gives the same bytes.
            archive.writestr(zipfile.ZipInfo(_MEMBER), text.getvalue(), zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise output_error(capture, error) from error


def read_mark(capture: Path) -> Mark | None:
    """Return the mark of a capture file; None where there is none, or it says something else."""
    try:
        with zipfile.ZipFile(capture) as archive, archive.open(_MEMBER) as member:
            text = np.lib.format.read_array(member, allow_pickle=False)
        values: Mapping[str, Any] = json.loads(str(text))
        kinds = {"clip": str, "settings": str, "formats": list, "results": dict, "lost": int}
        if not all(isinstance(values[f.name], kinds[f.name]) for f in fields(Mark)):
            return None
        return Mark(**{f.name: values[f.name] for f in fields(Mark)})
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
