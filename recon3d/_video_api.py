"""From a clip to captures in one call; and what that call shares with ``recon3d video``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.clip import ClipSolver
from recon3d.encoder.encoder import choose_encoder
from recon3d.errors import InputError, NoFaceError, OutputError, UsageError
from recon3d.fitting import LandmarkSolver
from recon3d.head import HeadModel, load_head
from recon3d.media._open import shown
from recon3d.observe import ClipSettings, Faces, observe, open_records, open_source

if TYPE_CHECKING:
    from recon3d.capture import Capture


def reconstruct_video(
    path: str | Path,
    *,
    head: str | Path | HeadModel | None = None,
    faces: Faces = "all",
    smooth: float = 0.5,
    calibrate: tuple[float, float] | None = None,
    focal: float | str | None = None,
    weights_dir: str | Path | None = None,
    encoder: str | Path | bool = True,
) -> list[Capture]:
    """Reconstruct the heads in a clip: one capture a person, the most prominent person first.

    Memory stays flat however long the clip is, but for the captures: what is seen is kept in a temporary
    folder meanwhile, about 4 kB a frame and face.

    Args:
        path: A video, a folder of numbered images, or a pattern such as ``frame_%04d.png`` (25 a second).
        head: A head model, or its file; the open head that ships with recon3d when None.
        faces: Who: ``"all"``, the ``"largest"`` (most prominent) person, or at most so many.
        smooth: Strength of the smoothing in time, in [0, 1].
        calibrate: Start and end, s, of a stretch in which the face is at rest, from which its neutral is
            taken.
        focal: Focal length, px, or ``"50mm"`` on 36 x 24 mm film; None estimates it for each person.
        weights_dir: Folder that holds the face networks' files, instead of the download cache.
        encoder: The image encoder, which guesses the expressions: True for the one that comes with recon3d,
            the file of another (docs/training.md), or False for the face stage's scores instead.

    Raises:
        InputError: The clip or the head model cannot be used.
        NoFaceError: The clip shows no face.
        AssetError: The face networks' file cannot be had.
        OutputError: There is no room for what is seen.
        UsageError: A setting is out of range, or the stretch for the calibration shows nobody.
    """
    from recon3d.media.video import open_clip

    settings = ClipSettings(faces, smooth, calibrate, None if focal is None else str(focal))
    name = shown(path)
    with open_clip(path) as clip, _temporary_folder() as folder:
        model = head if isinstance(head, HeadModel) else load_head(head)
        solver = open_solver(model)
        records = open_records(folder)
        asked = choose_encoder(encoder, model)
        observe(clip, records, open_source(weights_dir), settings, encoder=asked)
        if not records.frames:
            raise InputError(f"{name}: not one frame could be decoded; is the file complete?")
        try:
            persons = solver.solve(records, clip.size, clip.fps, shown(clip.path.name), settings)
        except (NoFaceError, UsageError) as error:
            raise type(error)(f"{name}: {error}") from error
    return [person.capture for person in persons]


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a folder that is gone afterwards.

    Raises:
        OutputError: There is no place for it.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="recon3d-")
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"no temporary folder can be made ({reason}); set TMPDIR to one with room"
        ) from error
    with folder as name:
        yield Path(name)


def open_solver(head: HeadModel) -> ClipSolver:
    """Return the solver of a head model's clips.

    Raises:
        InputError: The head model lacks the landmarks that are needed.
    """
    if "mediapipe478" not in head.embeddings:
        raise InputError(f"the head model {head.id} has no landmark embedding mediapipe478")
    return ClipSolver(head, LandmarkSolver(head))
