"""From a clip to what is seen in it: media → tracks → records on disk (recon3d._records).

The first half of the way; the second is recon3d.clip. Every frame is looked at once, and an interrupted clip
goes on where it was. Nothing here needs torch but the encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
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
    from recon3d.media._landing import Landing
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


@dataclass(frozen=True)
class Stretch:
    """Frames of a clip that are looked at by themselves.

    Attributes:
        start: Index of the first one.
        stop: Index after the last one; None goes on to the end of the clip.
        lead: Frames before ``start`` from which the faces are followed already. They are the first chunk of
            the records, and the encoder is not asked about them.
        landing: Where the first frame that is read lies in the file; None reads the file from its beginning.
    """

    start: int = 0
    stop: int | None = None
    lead: int = 0
    landing: Landing | None = None

    @property
    def first(self) -> int:
        """Index of the first frame that is read."""
        return self.start - self.lead


_WHOLE = Stretch()


def observe(
    clip: Clip,
    records: Records,
    source: DenseSource,
    settings: ClipSettings,
    progress: Progress | None = None,
    *,
    encoder: FaceEncoder | None = None,
    stretch: Stretch = _WHOLE,
) -> None:
    """Follow the faces of a clip into ``records``, going on after what these hold already.

    Args:
        clip: The clip.
        records: Where what is seen goes.
        source: The face networks.
        settings: How.
        progress: Told of the frames done.
        encoder: Asked about every face, beside the tracking; or None.
        stretch: Which frames.

    Raises:
        InputError: The clip cannot be read.
        OutputError: The records cannot be written.
    """
    tracker = FaceTracker(source, max_faces=settings.max_faces)
    if records.last is not None:
        tracker.restore(records.last.state)
        if _is_complete(records, stretch):
            clip.lost = records.last.lost
            return
    begin = stretch.first + records.frames
    read = clip.frames(begin, ahead=_AHEAD, landing=stretch.landing)
    with closing(read):  # type: ignore[type-var]  # a generator
        frames = islice(read, None if stretch.stop is None else stretch.stop - begin)
        done = False
        while not done:
            leading = records.frames < stretch.lead
            wanted = stretch.lead - records.frames if leading else CHUNK
            asked = None if encoder is None or leading else Asked(encoder)
            first = records.frames
            times, cuts, seen = [], [], []
            for frame in islice(frames, wanted):
                sightings, cut = tracker.step(frame.pixels, frame.time)
                times.append(frame.time)
                cuts.append(cut)
                seen.append(sightings)
                if asked is not None:
                    asked.about(frame.pixels, frame.time, sightings)
                if progress is not None:
                    progress(first + len(times))
            done = len(times) < wanted
            if times:
                told = None if asked is None else asked.told()
                state = tracker.save()
                records.append(Chunk.of(stretch.first + first, times, cuts, seen, state, clip.lost, told))


def _is_complete(records: Records, stretch: Stretch) -> bool:
    """Tell whether nothing is left to read: the stretch is full, or its last chunk ended with the clip."""
    if stretch.stop is not None and stretch.first + records.frames >= stretch.stop:
        return True
    wanted = stretch.lead if 0 < records.frames <= stretch.lead else CHUNK
    return records.last is not None and len(records.last.times) < wanted


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
