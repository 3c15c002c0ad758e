"""Reading what holds an animated head: captures of ours, takes of Live Link Face, and clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.errors import InputError

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def read_take(path: str | Path, head: HeadModel, *, announce: Callable[[str], None] | None = None) -> Capture:
    """Read ``capture.npz``, or by its ending a Live Link Face ``.csv``, which then drives the mean person.

    Args:
        path: The file.
        head: The head model that it is for.
        announce: Given, a clip is taken as well, by its ending: its most prominent person is reconstructed
            first, which takes a while, as this is told in a line.

    Raises:
        InputError: It is none of these, or damaged.
        NoFaceError: The clip shows no face.
        AssetError: The face networks' file cannot be had.
    """
    if Path(path).suffix.lower() == ".csv":
        from recon3d.export.livelink import read_livelink

        return read_livelink(path, head)
    if announce is not None:
        from recon3d.media.video import is_clip

        if is_clip(path):
            return _reconstructed(Path(path), head, announce)
    from recon3d.capture import Capture

    try:
        return Capture.load(path)
    except InputError as error:
        if announce is None or not str(error).endswith("not a capture file"):
            raise
        raise InputError(f"{error}; give a clip, a capture.npz, or a Live Link Face .csv") from error


def _reconstructed(path: Path, head: HeadModel, announce: Callable[[str], None]) -> Capture:
    from recon3d._video_api import reconstruct_video
    from recon3d.media._open import shown

    announce(f"{shown(path)}: a clip; its most prominent person is reconstructed first")
    return reconstruct_video(path, head=head, faces="largest")[0]
