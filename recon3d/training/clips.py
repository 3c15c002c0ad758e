"""Clips to train on: windows of frames that follow each other, for losses that look at motion.

As with photographs, nothing is known of the faces but where the landmarks are, and whoever trains on clips
takes over their terms.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon3d.encoder.crop import CutOut, cut_out
from recon3d.errors import InputError
from recon3d.face.dense import DenseSource
from recon3d.face.tracks import FaceTracker
from recon3d.files import atomic_path, make_folder
from recon3d.media.video import Frame, iter_clips, open_clip
from recon3d.training.photographs import SURE, unknown_faces
from recon3d.training.store import Batch, FaceStore

#: Frames of a window: a third of a second, time for a syllable.
WINDOW = 8
#: To be raised when the same clips no longer give the same windows.
_VERSION = 1
#: At most this many frames a second: more of them tell little more.
_RATE = 25.0
#: A frame that comes earlier than planned by this part of the time between two is taken all the same.
_EARLY = 1 / 8
#: Frames farther apart than this, s, do not tell how a mouth moved between them.
_GAP = 0.12
#: Decoded frames that wait while one is looked at.
_AHEAD = 4


class Sight(NamedTuple):
    """A face in a frame of a clip.

    Attributes:
        tracklet: Number of the face in its clip.
        time: s from the clip's first frame.
        face: The face, cut out.
    """

    tracklet: int
    time: float
    face: CutOut

    def follows(self, before: Sight) -> bool:
        """Tell whether it is the same face, shortly after."""
        return self.tracklet == before.tracklet and self.time - before.time <= _GAP


class ClipStore(FaceStore):
    """Windows of ``WINDOW`` frames out of clips, one sub-folder a set of clips.

    Of each shot the most prominent face is followed. A shard holds whole windows, one after the other, their
    frames in order; cuts, gaps and frames without the face lie between windows, never within.

    A clip is known again by its name, size and modification time. Of a numbered series of images that is its
    folder's own time: touch it after changing one.
    """

    def __init__(self, folder: Path, clips: tuple[str, ...], shapes: int, size: int = 1024) -> None:
        """Open a set; nothing is looked at yet.

        Args:
            folder: Where stores are.
            clips: Video files, folders of them, or patterns, as ``recon3d.media.video.iter_clips`` knows.
            shapes: Identity coefficients of the head.
            size: Faces a shard, rounded to whole windows.
        """
        self._given, self._shapes = clips, shapes
        self._found = list(iter_clips(clips))
        size = max(1, size // WINDOW) * WINDOW
        super().__init__(Path(folder) / f"clips-{_digest([path for path, _ in self._found], size)}", size)

    def make(self, say: Callable[[str], None] = lambda line: None) -> int:
        """Find the windows, unless that was done before; return how many shards there are.

        Clips that cannot be read are passed over. What does not fill a shard is left out; if it is all there
        is, it fills one by being repeated.

        Raises:
            InputError: There is not one window.
            OutputError: The folder cannot be written to.
        """
        done = make_folder(self.folder) / "shards.txt"
        if done.exists():
            return int(done.read_text())
        windows, count, wanted = self._windows(say), 0, self.size // WINDOW
        while some := list(itertools.islice(windows, wanted)):
            if count and len(some) < wanted:
                break
            self._keep(count, list(itertools.islice(itertools.cycle(some), wanted)))
            count += 1
            say(f"{self.folder}: {count} shards of clips; {len(some)} windows of {WINDOW} frames in the last")
        if not count:
            raise InputError(
                f"{', '.join(self._given)}: no face is in sight for {WINDOW} frames of any clip there"
            )
        with atomic_path(done) as path:
            path.write_text(str(count))
        return count

    def times(self, batch: Batch) -> Tensor:
        """Return when each face was seen, (B,) s from the first frame of its window."""
        opened = {k: np.load(self._path(k, "times")) for k in np.unique(batch.shard).tolist()}
        places = zip(batch.shard.tolist(), batch.row.tolist(), strict=True)
        return torch.tensor([float(opened[shard][row]) for shard, row in places])

    def _keep(self, number: int, windows: list[list[Sight]]) -> None:
        """Write a shard. The times come first: a shard that has its pictures is whole."""
        times = [[sight.time - window[0].time for sight in window] for window in windows]
        with atomic_path(self._path(number, "times")) as path, path.open("wb") as file:
            np.save(file, np.array(times, np.float32).ravel(), allow_pickle=False)
        faces = [sight.face for window in windows for sight in window]
        self.write(number, unknown_faces(faces, self._shapes))

    def _windows(self, say: Callable[[str], None]) -> Iterator[list[Sight]]:
        source = DenseSource()
        for path, error in self._found:
            try:
                if error is not None:
                    raise error
                yield from split(_sights(path, source))
            except InputError as unreadable:
                say(f"{unreadable}; passed over")


def split(sights: Iterable[Sight | None]) -> Iterator[list[Sight]]:
    """Gather a clip's frames, None where no face is in sight, into windows without a break."""
    window: list[Sight] = []
    for sight in sights:
        if sight is None:
            window = []
            continue
        if window and not sight.follows(window[-1]):
            window = []
        window.append(sight)
        if len(window) == WINDOW:
            yield window
            window = []


def sampled(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Leave out frames so that at most about 25 a second are left, whatever the times of each."""
    period, due = 1 / _RATE, 0.0
    for frame in frames:
        if frame.time < due - _EARLY * period:
            continue
        yield frame
        # One that comes late does not bring the next one forward, but by half a period.
        due = max(due, frame.time - period / 2) + period


def _sights(path: Path, source: DenseSource) -> Iterator[Sight | None]:
    """Follow the most prominent face of a clip."""
    tracker = FaceTracker(source, max_faces=1)
    with open_clip(path) as clip:
        yield from map(partial(_sight, tracker), sampled(clip.frames(ahead=_AHEAD)))


def _sight(tracker: FaceTracker, frame: Frame) -> Sight | None:
    seen, _ = tracker.step(frame.pixels, frame.time)  # a cut begins a new tracklet
    if not seen or seen[0].face.score < SURE:
        return None
    return Sight(seen[0].tracklet, frame.time, cut_out(frame.pixels, seen[0].face.landmarks))


def _digest(clips: list[Path], size: int) -> str:
    """Of names, sizes and times: clips are too large to be read each time."""
    whole = hashlib.sha256(f"{_VERSION} {WINDOW} {size}".encode())
    for path in clips:
        whole.update(f"{path.name} {_state(path)}".encode())
    return whole.hexdigest()[:12]


def _state(path: Path) -> str:
    """Size and time of a file; of a pattern of images, its folder's; nothing of what is not there."""
    try:
        state = (path if path.exists() else path.parent).stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"
