"""What was seen in a clip, kept on disk while the clip is worked on, so that memory stays flat.

A folder of numbered chunks, each written whole or not at all. Each chunk also holds the tracker's state after
its last frame: who is interrupted goes on after the last whole chunk, and gets the same result.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d.face.tracks import Sighting
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.encoder.ask import Hints

Array = npt.NDArray[Any]

#: Frames of a chunk: about 1 MB a face.
CHUNK = 256
_STATE = "tracker_"


@dataclass(frozen=True)
class Chunk:
    """Some consecutive frames, and the n faces seen in them.

    Attributes:
        times: (F,) s, of every frame.
        cuts: (F,) bool, whether a cut lies before the frame.
        frame: (n,) index in the clip of the frame of each face.
        tracklet: (n,) number of its tracklet.
        landmarks: (n, 478, 2) float32 px.
        scores: (n, 52) float32 ARKit scores.
        score: (n,) float32 how sure it is a face.
        sharpness: (n,) float32.
        light: (n,) float32.
        state: The tracker's state after the last frame.
        lost: Packets and frames of the clip that could not be decoded so far.
        told: (n, 52) float32 ARKit units as the encoder sees them, and ...
        variance: ... (n, 52) what it expects of its squared error; None where no encoder was asked.
    """

    times: npt.NDArray[np.float64]
    cuts: npt.NDArray[np.bool_]
    frame: npt.NDArray[np.int64]
    tracklet: npt.NDArray[np.int64]
    landmarks: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    sharpness: npt.NDArray[np.float32]
    light: npt.NDArray[np.float32]
    state: Mapping[str, Array]
    lost: int
    told: npt.NDArray[np.float32] | None = None
    variance: npt.NDArray[np.float32] | None = None

    @staticmethod
    def of(
        first: int,
        times: Sequence[float],
        cuts: Sequence[bool],
        seen: Sequence[Sequence[Sighting]],
        state: Mapping[str, Array],
        lost: int,
        told: Hints | None = None,
    ) -> Chunk:
        """Gather the sightings of consecutive frames, the first of which has the index ``first``.

        ``told`` is what the encoder tells of the faces, one after another, if it was asked.
        """
        rows = [(first + k, one) for k, sightings in enumerate(seen) for one in sightings]
        faces = [one.face for _, one in rows]
        points = [face.landmarks[:, :2] for face in faces]
        scores = [np.zeros(52, np.float32) if face.scores is None else face.scores for face in faces]
        return Chunk(
            np.array(times, np.float64),
            np.array(cuts, bool),
            np.array([frame for frame, _ in rows], np.int64),
            np.array([one.tracklet for _, one in rows], np.int64),
            np.array(points, np.float32).reshape(-1, 478, 2),
            np.array(scores, np.float32).reshape(-1, 52),
            np.array([face.score for face in faces], np.float32),
            np.array([one.sharpness for _, one in rows], np.float32),
            np.array([one.light for _, one in rows], np.float32),
            state,
            lost,
            None if told is None else told.expression,
            None if told is None else told.variance,
        )


#: What reading a chunk that is missing or damaged raises.
_DAMAGE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
_ARRAYS = ("times", "cuts", "frame", "tracklet", "landmarks", "scores", "score", "sharpness", "light")
_TOLD = ("told", "variance")


class Records:
    """The chunks of one clip in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use the chunks in an existing folder, up to the first that is missing or damaged."""
        self._folder = folder
        self.count = 0
        self.frames = 0
        self.last: Chunk | None = None
        while (chunk := self._read(self.count)) is not None:
            self.last = chunk
            self.count += 1
            self.frames += len(chunk.times)

    def append(self, chunk: Chunk) -> None:
        """Write the next chunk.

        Raises:
            OutputError: The disk is full, or the folder not writable.
        """
        arrays = {name: getattr(chunk, name) for name in _ARRAYS}
        arrays |= {name: getattr(chunk, name) for name in _TOLD if getattr(chunk, name) is not None}
        state = {_STATE + name: value for name, value in chunk.state.items()}
        with atomic_path(self._path(self.count)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **state, lost=np.array(chunk.lost))
        self.last = chunk
        self.count += 1
        self.frames += len(chunk.times)

    def __iter__(self) -> Iterator[Chunk]:
        for number in range(self.count):
            chunk = self._read(number)
            assert chunk is not None  # was whole when it was written, or when the folder was opened
            yield chunk

    def _path(self, number: int) -> Path:
        return self._folder / f"seen-{number:05d}.npz"

    def _read(self, number: int) -> Chunk | None:
        try:
            with zipfile.ZipFile(self._path(number)) as archive:
                # Read whole, so that the checksum comes before what the bytes say.
                files = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
            values = {name: _array(data) for name, data in files.items()}
            state = {k.removeprefix(_STATE): v for k, v in values.items() if k.startswith(_STATE)}
            arrays = {name: values[name] for name in (*_ARRAYS, *(k for k in _TOLD if k in values))}
            return Chunk(**arrays, state=state, lost=int(values["lost"]))
        except _DAMAGE:
            return None


def _array(data: bytes) -> Array:
    return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
