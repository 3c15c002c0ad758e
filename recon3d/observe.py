"""From a clip to what is seen in it: media → tracks → records on disk (recon3d._records).

The first half of the way; the second is recon3d.clip. Every frame is looked at once, and an interrupted clip
goes on where it was. Nothing here needs torch but the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recon3d._focal_option import Focal
from recon3d._records import CHUNK, Chunk, Records
from recon3d.encoder.ask import Asked
from recon3d.errors import AssetError, UsageError
from recon3d.face.dense import DenseSource
from recon3d.face.source import MAX_FACES
from recon3d.face.tracks import FaceTracker

if TYPE_CHECKING:
    from recon3d.encoder.encoder import FaceEncoder
    from recon3d.media.video import Clip

Faces = Literal["all", "largest"] | int
#: Called with the number of frames done so far.
Progress = Callable[[int], None]

#: Decoded frames that wait while one is looked at.
_AHEAD = 6


@dataclass(frozen=True)
class ClipSettings:
    """How a clip is solved.

    Attributes:
        faces: Who: ``"all"``, the ``"largest"`` (most prominent) person, or at most so many.
        smooth: Strength of the smoothing in time, in [0, 1].
        calibrate: Start and end, s, of a stretch in which the person's face is at rest; or None.
        focal: Focal length as the user gives it: ``"1200"`` px or ``"50mm"`` on 36 x 24 mm film; None
            estimates it for each person.
    """

    faces: Faces = "all"
    smooth: float = 0.5
    calibrate: tuple[float, float] | None = None
    focal: str | None = None

    def __post_init__(self) -> None:
        """Check the settings, so that what is wrong shows before any work.

        Raises:
            UsageError: One is out of range.
        """
        if self.faces not in ("all", "largest") and not (isinstance(self.faces, int) and self.faces > 0):
            raise UsageError(f"faces is {self.faces!r}: all, largest, or a number is wanted")
        if not 0 <= self.smooth <= 1:
            raise UsageError(f"smooth is {self.smooth}: a number from 0 to 1 is wanted")
        if self.calibrate is not None and not 0 <= self.calibrate[0] < self.calibrate[1]:
            raise UsageError(f"calibrate is {self.calibrate}: the start, s, must come before the end")
        if self.focal is not None:
            Focal.parse(self.focal)

    @property
    def max_faces(self) -> int:
        """How many faces are followed at a time."""
        return self.faces if isinstance(self.faces, int) else MAX_FACES


def observe(
    clip: Clip,
    records: Records,
    source: DenseSource,
    settings: ClipSettings,
    progress: Progress | None = None,
    *,
    encoder: FaceEncoder | None = None,
) -> None:
    """Follow the faces of a clip into ``records``, going on after what these hold already.

    Args:
        clip: The clip.
        records: Where what is seen goes.
        source: The face networks.
        settings: How.
        progress: Told of the frames done.
        encoder: Asked about every face, beside the tracking; or None.

    Raises:
        InputError: The clip cannot be read.
        OutputError: The records cannot be written.
    """
    tracker = FaceTracker(source, max_faces=settings.max_faces)
    if records.last is not None:
        tracker.restore(records.last.state)
    frames = clip.frames(records.frames, ahead=_AHEAD)
    done = False
    while not done:
        asked = None if encoder is None else Asked(encoder)
        first = records.frames
        times, cuts, seen = [], [], []
        for frame in frames:
            sightings, cut = tracker.step(frame.pixels, frame.time)
            times.append(frame.time)
            cuts.append(cut)
            seen.append(sightings)
            if asked is not None:
                asked.about(frame.pixels, frame.time, sightings)
            if progress is not None:
                progress(first + len(times))
            if len(times) == CHUNK:
                break
        done = len(times) < CHUNK
        if times:
            told = None if asked is None else asked.told()
            records.append(Chunk.of(first, times, cuts, seen, tracker.save(), clip.lost, told))


def open_records(folder: Path) -> Records:
    """Return the records in a folder, which is made if missing; what an interrupted write left is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".seen-*"):
        leftover.unlink(missing_ok=True)
    return Records(folder)


def open_source(weights_dir: str | Path | None, threads: int | None = None) -> DenseSource:
    """Open the face networks, from a folder or from the download cache.

    Raises:
        AssetError: Their file cannot be had.
    """
    from recon3d.assets import FACE_LANDMARKER, fetch

    if weights_dir is None:
        return DenseSource(path=fetch(FACE_LANDMARKER.name), threads=threads)
    path = Path(weights_dir) / FACE_LANDMARKER.filename
    if not path.is_file():
        raise AssetError(f"{path} is not there; leave out the weights folder, or put the file into it")
    return DenseSource(path=path, threads=threads)
