"""Reading what holds an animated head: captures, Live Link Face takes, scores, FLAME parameters, clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.errors import InputError

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def read_take(path: str | Path, head: HeadModel, *, announce: Callable[[str], None] | None = None) -> Capture:
    """Read whatever holds an animated head.

    That is a ``capture.npz``; a Live Link Face ``.csv``, or scores as ``.csv`` or ``.json`` (MediaPipe's, or
    our own exports), which drive the mean person; and for a FLAME head the ``.npz`` of FLAME's parameters.

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
    if Path(path).suffix.lower() in (".csv", ".json"):
        return _curves(path, head)
    if announce is not None:
        from recon3d.media.video import is_clip

        if is_clip(path):
            return _reconstructed(Path(path), head, announce)
    from recon3d.capture import Capture

    try:
        return Capture.load(path)
    except InputError as error:
        if not str(error).endswith("not a capture file"):
            raise
        from recon3d.export.flame_params import looks_like_flame_params

        if looks_like_flame_params(path):
            from recon3d.export._flame_read import read_flame_capture

            return read_flame_capture(path, head)
        if announce is None:
            raise
        raise InputError(f"{error}; give a clip, a capture.npz, or a Live Link Face .csv") from error


def _curves(path: str | Path, head: HeadModel) -> Capture:
    """Read units by themselves; scores have no head's turns."""
    from recon3d.export._scores_read import looks_like_scores, read_scores

    if not looks_like_scores(path):
        from recon3d.export.livelink import read_livelink

        return read_livelink(path, head)
    from scipy.spatial.transform import Rotation

    from recon3d.export._livelink_read import Turns, capture_of

    scores = read_scores(path)
    still = Turns(Rotation.identity(len(scores.units)))
    return capture_of(scores.units, scores.times, scores.tracked, still, head, Path(path).name)


def _reconstructed(path: Path, head: HeadModel, announce: Callable[[str], None]) -> Capture:
    from recon3d._video_api import reconstruct_video
    from recon3d.media._open import shown

    announce(f"{shown(path)}: a clip; its most prominent person is reconstructed first")
    return reconstruct_video(path, head=head, faces="largest")[0]
