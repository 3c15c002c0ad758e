"""Reading and writing video: frames with their true times, upright, one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.errors import OutputError, UsageError
from recon3d.files import atomic_path
from recon3d.media._ahead import prefetched
from recon3d.media._find_clips import VIDEO_SUFFIXES, is_clip, iter_clips
from recon3d.media._sequence import find_sequence, first_size, is_pattern, read_sequence

if TYPE_CHECKING:
    from recon3d.media._landing import Landing

__all__ = [
    "VIDEO_SUFFIXES", "Clip", "Frame", "VideoWriter", "is_clip", "iter_clips", "open_clip", "prefetched",
]  # fmt: skip

#: Images per second of a numbered series, where the user does not tell.
SEQUENCE_FPS = 25.0

_Read = Callable[[int, Callable[[int], None]], Iterator[tuple[int, float, npt.NDArray[np.uint8]]]]


@dataclass(frozen=True)
class Frame:
    """One picture of a clip.

    Attributes:
        index: 0-based, in order of presentation, without holes where frames are lost.
        time: Seconds from the clip's first frame by its own time stamps; always rises.
        pixels: (H, W, 3) uint8 RGB, upright, C-contiguous.
    """

    index: int
    time: float
    pixels: npt.NDArray[np.uint8]


@dataclass
class Clip:
    """A video, or a numbered series of images; see ``open_clip``. A context manager.

    Attributes:
        path: The file, the folder, or the pattern.
        size: (width, height) upright, with square pixels; the same for all frames.
        fps: Average frames per second.
        frame_count: Frames the file announces; an estimate, None if unknown.
        duration: Seconds the file announces; an estimate, None if unknown.
        has_audio: There is a sound track.
        lost: Frames that could not be decoded, in the latest read so far.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    frame_count: int | None
    duration: float | None
    has_audio: bool
    _read: _Read = field(repr=False)
    lost: int = 0
    _closed: bool = field(default=False, repr=False)

    def frames(self, start: int = 0, ahead: int = 0, landing: Landing | None = None) -> Iterator[Frame]:
        """Yield the frames from index ``start`` on: the very ones that a read of the whole clip gives.

        Only what the caller keeps stays in memory. Each call reads anew.

        Args:
            start: Index of the first frame.
            ahead: How many frames a second thread decodes in advance; 0 decodes in the calling thread.
            landing: Where ``start`` is in the file (recon3d.media._landing); what lies before is not decoded.

        Raises:
            InputError: The file has become unreadable since it was opened; a MissedError where only reading
                it from its beginning would do.
            UsageError: The clip was closed.
        """
        if self._closed:
            raise UsageError(f"{self.path}: this clip was closed")
        frames = self._frames(start, landing)
        return prefetched(frames, ahead) if ahead > 0 else frames

    def _frames(self, start: int, landing: Landing | None) -> Iterator[Frame]:
        self.lost = 0
        if landing is None:
            reading = self._read(start, self._set_lost)
        else:
            from recon3d.media._landing import read_from

            reading = read_from(self.path, self.fps, landing, start)
        with closing(reading) as read:  # type: ignore[type-var]  # a generator
            for index, time, pixels in read:
                if self._closed:
                    return
                yield Frame(index, time, pixels)

    def _set_lost(self, count: int) -> None:
        self.lost = count

    def close(self) -> None:
        """End the reads that are going on; the files they hold are released at their next frame."""
        self._closed = True

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_clip(path: str | Path, *, fps: float | None = None) -> Clip:
    """Open a video file, a folder of numbered images, or a pattern such as ``frame_%04d.png``.

    Any format that FFmpeg decodes: variable frame rates, rotation marks, odd sizes, 10 bit. Frames that
    cannot be decoded are left out and counted.

    Args:
        path: What to open.
        fps: Images per second of a series of images (default 25); a video knows its own.

    Raises:
        InputError: Missing, not a regular file, empty, not a video, sound only, too large, or nothing of
            it can be decoded; one message each, of one line.
        UsageError: ``fps`` is no rate.
    """
    path = Path(path)
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"{fps}: frames per second must be above 0")
    if path.is_dir() or is_pattern(path):
        return _open_sequence(path, fps or SEQUENCE_FPS)
    from recon3d.media import _decode  # PyAV takes a moment to load

    info = _decode.probe(path)
    read = partial(_decode.read_frames, path, info.fps)
    return Clip(path, info.size, info.fps, info.frame_count, info.duration, info.has_audio, read)


def _open_sequence(path: Path, fps: float) -> Clip:
    files = find_sequence(path)
    read = partial(read_sequence, files, fps)
    return Clip(path, first_size(files), fps, len(files), len(files) / fps, False, read)


class VideoWriter:
    """Writes an MP4 file: H.264, 8 bit, BT.709, each picture at its own time; it may begin to play early.

    A context manager. The file appears under its name when the block ends well; otherwise nothing is left.
    Odd sides are made even by repeating the last row or column. Where FFmpeg has no H.264 encoder, MPEG-4.

    Example:
        with VideoWriter(Path("out.mp4"), clip.size, clip.fps, audio_from=clip.path) as writer:
            for frame in clip.frames():
                writer.write(frame.pixels, frame.time)
    """

    def __init__(
        self,
        target: Path,
        size: tuple[int, int],
        fps: float,
        *,
        audio_from: Path | None = None,
        crf: int = 20,
        preset: str = "veryfast",
        finished: Callable[[Path], None] | None = None,
    ) -> None:
        """Say what is to be written; the file is opened where the ``with`` block begins.

        Args:
            target: The file; its folder exists.
            size: (width, height) of all pictures.
            fps: Average frames per second; the encoder plans with it, and the last picture lasts 1 / fps.
            audio_from: A clip whose sound is put under the picture: copied (AAC, MP3) or made AAC, time 0
                being its own first frame, cut off after the last picture. No sound, or broken sound: none.
            crf: Constant quality of x264: 18 cannot be told from the original, 28 is small.
            preset: Speed of x264, "ultrafast" to "veryslow".
            finished: Given the whole file before it appears under its name, to add to it.
        """
        self._target, self._size, self._fps = Path(target), size, fps
        self._audio_from, self._crf, self._preset = audio_from, crf, preset
        self._finished = finished
        self._last = -1
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        """Open the file.

        Raises:
            OutputError: It cannot be written, or not in this size.
        """
        from recon3d.media import _encode  # PyAV takes a moment to load

        self._ticks = _encode.TICKS
        with ExitStack() as stack:
            self._file = file = stack.enter_context(atomic_path(self._target))
            stack.enter_context(_encode.plain_errors(self._target))
            self._encoder = _encode.Encoder(
                file, self._size, self._fps, self._crf, self._preset, self._audio_from
            )
            self._stack = stack.pop_all()
        return self

    def write(self, pixels: npt.NDArray[np.uint8], time: float) -> None:
        """Add a picture.

        Args:
            pixels: (H, W, 3) uint8 RGB of the writer's size.
            time: Seconds at which it is shown; one that is not above the last picture's is put right after.

        Raises:
            OSError: The disk is full, or the like; an OutputError by the time it leaves the block.
            ValueError: The picture has another size.
        """
        if pixels.shape != (self._size[1], self._size[0], 3) or pixels.dtype != np.uint8:
            raise ValueError(f"a picture of {pixels.shape} {pixels.dtype} in a video of {self._size}")
        self._last = max(round(time * self._ticks), self._last + 1)
        self._encoder.add(pixels, self._last)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or remove it.

        Raises:
            OutputError: It could not be written, or there was not one picture.
        """
        if error is not None:
            self._encoder.abandon()
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._finish()

    def _finish(self) -> None:
        try:
            if self._last < 0:
                raise OutputError(f"{self._target}: not one picture to write")
            self._encoder.finish()
            if self._finished is not None:
                self._finished(self._file)
        except BaseException:
            self._encoder.abandon()
            raise
