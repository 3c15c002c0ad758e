"""Long clips cut into parts that are looked at side by side, and solved as one.

Looking takes most of a clip's time, and goes frame by frame: each frame's faces are cut out where those of
the frame before were. So a part begins a few seconds early, with the *lead*. By its end the faces are
followed as if they had been from the start of the clip; and in it they are recognised, as those that the part
before sees at the same places. Joined, the parts are records as ``recon3d.observe`` writes them.

Where the parts lie depends on the clip alone, so the results do not depend on who does which part, and when.
Parts begin to read in the middle of the file where that promises the same frames (recon3d.media._landing).
That it kept the promise shows where they are joined, by the times of the lead's frames and the last one's
thumbnail.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d._records import CHUNK, Chunk, Records
from recon3d.errors import InputError
from recon3d.face.dense import shared_area
from recon3d.face.source import bounds
from recon3d.files import atomic_folder, atomic_path, make_folder
from recon3d.media._landing import MissedError, find_landings
from recon3d.media._open import shown
from recon3d.media.video import open_clip
from recon3d.observe import ClipSettings, Progress, Stretch, observe, open_records

if TYPE_CHECKING:
    from recon3d.encoder.encoder import FaceEncoder
    from recon3d.face.dense import DenseSource

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

#: Frames of a part, at least: two and a half minutes at 30 a second. Clips of less than two are not cut.
LENGTH = 18 * CHUNK
#: Parts of a clip, at most; and where each has to decode all that comes before it.
MOST_PARTS, MOST_UNLANDED = 64, 8
#: A part begins so much early, s: longer than a lost face is remembered (recon3d.face.tracks), and then long
#: enough to find it again and to come to rest on it.
LEAD = 3.0
#: Two faces of a frame that share more than this part of the smaller box are one; as for the tracker.
_SAME_FACE = 0.6
_NOTE = "part.json"


@dataclass(frozen=True)
class PartJob:
    """One part of a clip, for whoever is to look at it.

    Attributes:
        path: The clip.
        index: Which part, counted from 0.
        stretch: Its frames.
        sequence_fps: Frames per second of image sequences, or None.
    """

    path: Path
    index: int
    stretch: Stretch
    sequence_fps: float | None = None

    @property
    def name(self) -> str:
        """Name of the part's folder among those of its clip."""
        return f"part-{self.index:03d}"


def plan_parts(
    frames: int | None, fps: float, *, length: int = LENGTH, most: int = MOST_PARTS
) -> list[Stretch]:
    """Say where a clip is to be cut: into one part, or into about equal ones at whole chunks.

    Args:
        frames: Of the clip; an estimate will do, because the last part goes on to the true end, and one that
            begins after it is empty. None: unknown.
        fps: Frames per second.
        length: Frames of a part, at least.
        most: How many parts, at most.
    """
    count = min((frames or 0) // length, most)
    if frames is None or count < 2:
        return [Stretch()]
    size = math.ceil(frames / count / CHUNK) * CHUNK
    starts = range(0, frames, size)
    lead = min(math.ceil(LEAD * fps), size)
    return [
        Stretch(start, start + size if start + size < frames else None, lead if start else 0)
        for start in starts
    ]


def plan_clip(path: Path, *, sequence_fps: float | None = None, length: int = LENGTH) -> list[PartJob]:
    """Return the parts of a clip; a single one where it is best looked at whole.

    Series of images are: to know which of them are lost, all are read.

    Raises:
        InputError: The clip cannot be opened.
    """
    with open_clip(path, fps=sequence_fps) as clip:
        frames, fps = clip.frame_count, clip.fps
    stretches = [Stretch()] if not path.is_file() else plan_parts(frames, fps, length=length)
    if len(stretches) > 1:
        landings = find_landings(path, [one.first for one in stretches[1:]])
        if landings is None:
            stretches = plan_parts(frames, fps, length=length, most=MOST_UNLANDED)
        else:
            landed = zip(stretches[1:], landings, strict=True)
            stretches[1:] = [changed(one, landing=landing) for one, landing in landed]
    return [PartJob(path, index, stretch, sequence_fps) for index, stretch in enumerate(stretches)]


def from_beginning(job: PartJob) -> PartJob:
    """Return a part that reads the clip from its beginning, whatever the file is like."""
    return changed(job, stretch=changed(job.stretch, landing=None))


def observe_part(
    job: PartJob,
    folder: Path,
    source: DenseSource,
    settings: ClipSettings,
    *,
    encoder: FaceEncoder | None = None,
    progress: Progress | None = None,
) -> None:
    """Look at a part; go on where an interrupted one stopped, or where its files are damaged.

    Args:
        job: Which.
        folder: Where what is seen goes; of this part alone, made if missing.
        source: The face networks.
        settings: How.
        encoder: Asked about every face; or None.
        progress: Told of the frames done, the lead included.

    Raises:
        InputError: The clip cannot be read.
        OutputError: The folder cannot be written.
    """
    if part_records(job, folder) is not None:
        return
    make_folder(folder)
    note = _read_note(folder / _NOTE)
    if note is not None and note["job"] != _facts(job):  # another plan's
        shutil.rmtree(folder)
    (folder / _NOTE).unlink(missing_ok=True)
    with open_clip(job.path, fps=job.sequence_fps) as clip:
        for stretch in (job.stretch, from_beginning(job).stretch):
            records = open_records(folder)
            try:
                observe(clip, records, source, settings, progress, encoder=encoder, stretch=stretch)
                break
            except MissedError:
                if stretch.landing is None:
                    raise
                shutil.rmtree(folder)
    with atomic_path(folder / _NOTE) as temporary:
        temporary.write_text(json.dumps({"job": _facts(job), "frames": records.frames}), encoding="utf-8")


def part_records(job: PartJob, folder: Path) -> Records | None:
    """Return what was seen in a part; None where it is not complete, or damaged."""
    note = _read_note(folder / _NOTE)
    if note is None or note["job"] != _facts(job):
        return None
    records = Records(folder)
    return records if records.frames == note["frames"] else None


def join_parts(jobs: Sequence[PartJob], folders: Sequence[Path], target: Path) -> int:
    """Put the parts of a clip together: the folder ``target`` then holds the records of the whole clip.

    A face that lies at the end of a lead where the part before sees one goes on as that one; all others are
    numbered on. Memory does not grow with the clip.

    Args:
        jobs: All parts, in order.
        folders: Of the parts.
        target: Appears whole; what is there goes.

    Returns:
        Frames of the clip.

    Raises:
        InputError: A part is not complete, or is damaged: ``observe_part`` does it again. Or they are not
            of one clip.
        OutputError: The folder cannot be written.
    """
    for leftover in (target, *target.parent.glob(f".{target.name}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    make_folder(target.parent)
    with atomic_folder(target) as temporary:
        joiner = _Joiner(Records(temporary), shown(jobs[0].path))
        leads = [*(job.stretch.first for job in jobs[1:]), None]
        for job, folder, lead in zip(jobs, folders, leads, strict=True):
            records = part_records(job, folder)
            if records is None:
                raise InputError(
                    f"{shown(job.path)}: what was seen of its part {job.index + 1} is damaged; do it again"
                )
            joiner.add(records, job.stretch, lead)
        return joiner.joined.frames


class _Joiner:
    """Puts parts together, one after another."""

    def __init__(self, joined: Records, name: str) -> None:
        """Append to empty records; ``name`` is what errors call the clip."""
        self.joined, self._name = joined, name
        self._tail: list[Chunk] = []
        self._count = self._lost = 0

    def add(self, records: Records, stretch: Stretch, lead: int | None) -> None:
        """Append a part. ``lead``: where the next one's begins; None after the last.

        Raises:
            InputError: It does not fit to those before.
            OutputError: The disk is full, or the like.
        """
        chunks = iter(records)
        led = next(chunks, None) if stretch.lead else None
        if led is None and self._tail:  # the part before did see frames there
            raise self._misfit()
        numbers = _Numbers(self._count, {} if led is None else self._recognised(led))
        self._tail = []
        if records.last is not None:
            # Whoever began in the middle knows of no losses before.
            if records.last.lost < self._lost:
                raise self._misfit()
            self._lost = records.last.lost
        for chunk in chunks:
            if self.joined.frames < stretch.start:
                raise self._misfit()
            counted = numbers.of(chunk)
            self.joined.append(counted)
            self._count = int(counted.state["scalars"][0])
            if lead is not None and self.joined.frames > lead:
                self._tail.append(_from(counted, self.joined.frames - len(counted.times), lead))

    def _recognised(self, led: Chunk) -> dict[int, int]:
        """Return as whom the faces of a lead go on: its numbers, and those of the clip.

        Each goes on as who lay at its place where both were seen last. Nobody goes on who is not followed any
        more, be it for a cut.

        Raises:
            InputError: The lead shows other frames than the end of the part before.
        """
        times = [chunk.times for chunk in self._tail]
        if not np.array_equal(led.times, np.concatenate([*times, np.zeros(0)])):
            raise self._misfit()
        if not self._tail:
            return {}
        if not np.array_equal(led.state["thumbnail"], self._tail[-1].state["thumbnail"]):
            raise self._misfit()
        before = _Faces.of(self._tail).only(self._tail[-1].state["numbers"])
        after = _Faces.of([led]).only(led.state["numbers"])
        met = [
            (meeting, number)
            for number in np.unique(after.tracklet)
            if (meeting := after.meets(before, number))
        ]
        found: dict[int, int] = {}
        for (_, other), number in sorted(met, reverse=True):
            if other not in found.values():
                found[int(number)] = other
        return found

    def _misfit(self) -> InputError:
        return InputError(f"{self._name}: its parts do not fit together; was the file changed meanwhile?")


@dataclass(frozen=True)
class _Faces:
    """Faces of some frames: (n,) frame and tracklet, (n, 478, 2) landmarks, px."""

    frame: Ints
    tracklet: Ints
    landmarks: Floats

    @staticmethod
    def of(chunks: Sequence[Chunk]) -> _Faces:
        """Gather those of some chunks."""
        columns = zip(*((c.frame, c.tracklet, c.landmarks) for c in chunks), strict=True)
        return _Faces(*(np.concatenate(column) for column in columns))

    def only(self, numbers: Ints) -> _Faces:
        """Return those of some tracklets."""
        rows = np.isin(self.tracklet, numbers)
        return _Faces(self.frame[rows], self.tracklet[rows], self.landmarks[rows])

    def meets(self, others: _Faces, number: int) -> tuple[int, int] | None:
        """Return the last frame in which a tracklet lies where one of others does, and the number of that."""
        for row in np.flatnonzero(self.tracklet == number)[::-1]:
            points = self.landmarks[row]
            near = [
                (float(np.linalg.norm(others.landmarks[k] - points, axis=1).mean()), int(others.tracklet[k]))
                for k in np.flatnonzero(others.frame == self.frame[row])
                if shared_area(bounds(others.landmarks[k]), bounds(points)) > _SAME_FACE
            ]
            if near:
                return int(self.frame[row]), min(near)[1]
        return None


@dataclass(frozen=True)
class _Numbers:
    """How a part's tracklets are numbered in the whole clip.

    Attributes:
        base: Numbers given before.
        known: Those that go on as one of these; the others are numbered on.
    """

    base: int
    known: Mapping[int, int]

    def of(self, chunk: Chunk) -> Chunk:
        """Return a chunk with the numbers of the whole clip."""
        state = dict(chunk.state)
        scalars = state["scalars"].copy()
        scalars[0] = self._new(scalars[:1])[0]
        state |= {"numbers": self._renumbered(state["numbers"]), "scalars": scalars}
        return changed(chunk, tracklet=self._renumbered(chunk.tracklet), state=state)

    def _renumbered(self, numbers: Ints) -> Ints:
        found = self._new(numbers)
        for own, clips in self.known.items():
            found[numbers == own] = clips
        return found

    def _new(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Number on, without holes for those that are known."""
        return np.asarray(self.base + numbers - np.searchsorted(sorted(self.known), numbers))


def _from(chunk: Chunk, first: int, start: int) -> Chunk:
    """Return a chunk, which begins at frame ``first``, without what lies before ``start``."""
    rows = chunk.frame >= start
    times = chunk.times[max(start - first, 0) :]
    return changed(
        chunk,
        times=times,
        frame=chunk.frame[rows],
        tracklet=chunk.tracklet[rows],
        landmarks=chunk.landmarks[rows],
    )


def _facts(job: PartJob) -> list[int | None]:
    """Return what a part's records depend on, but for the clip and the settings."""
    stretch = job.stretch
    return [job.index, stretch.start, stretch.stop, stretch.lead, int(stretch.landing is not None)]


def _read_note(path: Path) -> dict[str, Any] | None:
    """Return what was noted of a finished part; None where nothing, or something else, is there."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and {"job", "frames"} <= note.keys() else None
