"""One video file through FFmpeg (PyAV): which stream, which way up, true times, and what is damaged."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av
import av.container
import av.error
import av.filter
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from recon3d.errors import InputError
from recon3d.media._open import open_regular, shown

Pixels = npt.NDArray[np.uint8]
Track = TypeVar("Track", VideoStream, AudioStream)

#: Larger pictures are refused before one of them is decoded.
MAX_PIXELS = 8192 * 8192
#: What FFmpeg would also "play": photographs, text drawn as a picture, and lists of other files.
_NOT_VIDEO = frozenset({
    "image2", "ico", "alias_pix", "brender_pix", "tty", "bin", "xbin", "adf", "idf", "txd",
    "hls", "dash", "concat", "imf",
})  # fmt: skip
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
#: FFmpeg's AVCOL_SPC numbers of BT.709, FCC, BT.601 (twice), SMPTE 240M and BT.2020.
_KNOWN_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
#: Two frames are at least this far apart, s: a stamp that stands still is moved on by it.
SHORTEST_STEP = 1e-4
#: A stamp that falls back by more than this, s, starts a new clock (joined recordings).
_NEW_CLOCK = 0.5
#: Rates outside are a container's default, not a camera's.
_RATES = (0.1, 1000.0)
#: A demuxer that finds no packet this many times in a row will find none any more.
_PATIENCE = 32


@dataclass(frozen=True)
class StreamInfo:
    """What is known of a clip before it is read.

    Attributes:
        size: (width, height) upright, with square pixels.
        fps: Average frames per second.
        frame_count: Frames the container announces, or None.
        duration: Seconds the container announces, or None.
        has_audio: There is a sound track.
        origin: Time stamp of the first frame, s on the container's clock.
    """

    size: tuple[int, int]
    fps: float
    frame_count: int | None
    duration: float | None
    has_audio: bool
    origin: float


@dataclass(frozen=True)
class Layout:
    """How decoded pictures become upright ones with square pixels.

    Attributes:
        stored: (width, height) with square pixels, as stored.
        swapped: Rows become columns first.
        mirrored: Left and right are exchanged, after that.
        flipped: Top and bottom are exchanged, after that.
    """

    stored: tuple[int, int]
    swapped: bool = False
    mirrored: bool = False
    flipped: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) upright."""
        return (self.stored[1], self.stored[0]) if self.swapped else self.stored


def probe(path: Path) -> StreamInfo:
    """Open a video and decode its first frame.

    Raises:
        InputError: Missing, not a regular file, empty, not a video, sound only, too large, or nothing of
            it can be decoded.
    """
    with opened(path) as (container, stream):
        first = next(Decoder(container, stream).pictures(), None)
        if first is None:
            raise InputError(f"{shown(path)}: not one frame can be decoded; the file is damaged or cut off")
        fps = _frame_rate(stream)
        duration = _duration(container, stream)
        count = stream.frames or (round(duration * fps) if duration else None)
        origin = float(first.pts * stream.time_base) if first.pts is not None and stream.time_base else 0.0
        size = layout_of(stream, first, path).size
        return StreamInfo(size, fps, count, duration, bool(container.streams.audio), origin)


def read_frames(
    path: Path, fps: float, start: int, on_lost: Callable[[int], None]
) -> Iterator[tuple[int, float, Pixels]]:
    """Yield (index, seconds from the first frame, (H, W, 3) uint8 RGB) of each frame from ``start`` on.

    Everything before ``start`` is decoded as well, because that alone gives the same frames as a whole
    read whatever the file is like; only the conversion to RGB is saved. One thread decodes: with several,
    FFmpeg repairs damaged pictures differently each time.

    Args:
        path: The file.
        fps: Stands in where time stamps are missing.
        start: Index of the first frame wanted.
        on_lost: Told how many frames are lost so far, whenever that changes.

    Raises:
        InputError: See ``probe``.
    """
    with opened(path) as (container, stream):
        clock = Clock(fps)
        convert: Converter | None = None
        for index, picture in enumerate(Decoder(container, stream, on_lost).pictures()):
            seconds = clock.read(picture.pts, stream.time_base)
            convert = convert or Converter(layout_of(stream, picture, path))
            if index < start:
                continue
            try:
                pixels = convert(picture)
            except av.error.FFmpegError as error:
                what = f"its pixels ({picture.format.name}) cannot be converted; convert it to H.264"
                raise InputError(f"{shown(path)}: {what}") from error
            yield index, seconds, pixels


class Decoder:
    """Decodes one stream from its beginning, over what is damaged."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: VideoStream,
        on_lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._container, self._stream, self._on_lost = container, stream, on_lost
        self._sent = self._shown = self._errors = 0

    def pictures(self) -> Iterator[VideoFrame]:
        """Yield what decodes, in order of presentation."""
        try:
            for packet in packets(self._container, self._stream):
                self._sent += not packet.is_discard
                yield from self._decoded(packet)
        except av.error.FFmpegError:
            self._count_error()
        yield from self._decoded(None)
        self._count_silent_losses()

    def _decoded(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            pictures = self._stream.decode(packet)
        except av.error.FFmpegError:
            self._count_error()
            return []
        self._shown += len(pictures)
        return pictures

    def _count_error(self) -> None:
        self._errors += 1
        self._on_lost(self._errors)

    def _count_silent_losses(self) -> None:
        """Count what was dropped without an error: pictures whose references are lost, a cut-off end.

        Not in an intact file, where packets and pictures may differ for good reasons.
        """
        missing = cut_off(self._container, self._stream)
        if self._errors or missing:
            self._on_lost(max(self._errors, self._sent + missing - self._shown))


def cut_off(container: av.container.InputContainer, stream: VideoStream) -> int:
    """Count the packets that the container's index has beyond the end of the file."""
    end = container.size
    return sum(entry.pos >= end for entry in stream.index_entries)


def packets(container: av.container.InputContainer, stream: Track) -> Iterator[Packet[Track]]:
    """Yield the packets of one stream; a broken one does not end the file.

    Raises:
        FFmpegError: There is no getting past what is broken.
    """
    failures = 0
    while True:
        try:
            for packet in container.demux(stream):
                if packet.size == 0:  # the sign that the file is at its end
                    return
                failures = 0
                yield packet
            return
        except av.error.FFmpegError:
            failures += 1
            if failures == _PATIENCE:
                raise


class Converter:
    """Decoded pictures to upright 8-bit RGB; keeps what FFmpeg has set up for one picture for the next."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._scaler = VideoReformatter()
        self._turner = _turner(layout)

    def __call__(self, picture: VideoFrame) -> Pixels:
        """Return (H, W, 3) uint8, C-contiguous.

        Within 2 levels of the exact colours; the exact ones take 6 times as long.
        """
        width, height = self._layout.stored
        rgb = self._scaler.reformat(
            picture,
            width,
            height,
            "rgb24",
            src_colorspace=_colour_matrix(picture),
            dst_color_range=ColorRange.JPEG,
            threads=1,  # more are slower at this size
        )
        pixels = (rgb if self._turner is None else self._turner(rgb)).to_ndarray()
        return np.ascontiguousarray(pixels[::-1] if self._layout.flipped else pixels)


def _turner(layout: Layout) -> Callable[[VideoFrame], VideoFrame] | None:
    """Return what exchanges columns, or rows and columns, of an RGB picture; FFmpeg's is 8 times as fast."""
    if not (layout.swapped or layout.mirrored):
        return None
    name, way = (
        ("transpose", "clock" if layout.mirrored else "cclock_flip") if layout.swapped else ("hflip", None)
    )
    graph = av.filter.Graph()
    width, height = layout.stored
    steps = (
        graph.add_buffer(
            width=width,
            height=height,
            format=VideoFormat("rgb24", width, height),
            time_base=Fraction(1, 1000),
        ),
        graph.add(name, way),
        graph.add("buffersink"),
    )
    graph.link_nodes(*steps).configure()

    def turn(picture: VideoFrame) -> VideoFrame:
        graph.vpush(picture)
        return graph.vpull()

    return turn


def _colour_matrix(picture: VideoFrame) -> Colorspace | None:
    """Return the colour matrix where the file names none that is known: HD is BT.709, as players take it."""
    if picture.format.is_rgb or picture.colorspace in _KNOWN_MATRICES:
        return None
    return Colorspace.ITU709 if picture.width >= 1280 or picture.height > 576 else Colorspace.ITU601


class Clock:
    """Turns time stamps into seconds from the first frame, which always rise."""

    def __init__(self, fps: float, origin: float | None = None) -> None:
        """Start at the first stamp, or at an ``origin`` before, s."""
        self._period = 1.0 / fps
        self._offset = None if origin is None else -origin
        self._last = -math.inf

    def read(self, stamp: int | None, unit: Fraction | None) -> float:
        """Return the time of the next frame, s.

        Without a stamp it is one period after the frame before. A stamp that does not rise is moved on
        by the least step, and one that falls far back belongs to a recording appended to this one.
        """
        if stamp is None or unit is None:
            return self._advance(self._last + self._period if self._last >= 0 else 0.0)
        own = float(stamp * unit)
        if self._offset is None:
            self._offset = -own if self._last < 0 else self._last + self._period - own
        if own + self._offset < self._last - _NEW_CLOCK:
            self._offset = self._last + self._period - own
        return self._advance(own + self._offset)

    def _advance(self, seconds: float) -> float:
        self._last = max(seconds, self._last + SHORTEST_STEP)
        return self._last


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """Open a file and choose its video stream.

    Raises:
        InputError: See ``probe``.
    """
    with open_container(path) as container:
        yield container, _choose_stream(container, path)


def open_container(path: Path) -> av.container.InputContainer:
    """Open a regular file, and nothing else that a playlist in it may name.

    Raises:
        InputError: Missing, not a regular file, empty, or not a video or sound file.
    """
    open_regular(path).close()
    try:
        # An absolute path, lest a colon in the name makes it an address.
        return av.open(
            os.fspath(path.absolute()),
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file"},
        )
    except av.error.FFmpegError as error:
        raise InputError(f"{shown(path)}: not a video, or cut off or damaged ({_reason(error)})") from error


def _reason(error: av.error.FFmpegError) -> str:
    return " ".join((error.strerror or str(error)).split())


def _choose_stream(container: av.container.InputContainer, path: Path) -> VideoStream:
    """Return the main video stream; cover pictures do not count.

    Raises:
        InputError: There is none, it cannot be decoded, or it is too large.
    """
    names = set(container.format.name.split(","))
    if names & _NOT_VIDEO or any(name.endswith("_pipe") for name in names):
        raise InputError(f"{shown(path)}: not a video; for images name their folder, or frame_%04d.png")
    moving = [s for s in container.streams.video if not s.disposition & _COVER]
    if not moving:
        what = "sound only, no picture" if container.streams.audio else "no video stream in it"
        raise InputError(f"{shown(path)}: {what}")
    usable = [s for s in moving if s.codec_context is not None]
    if not usable:
        raise InputError(f"{shown(path)}: its video format cannot be decoded; convert it to H.264")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in usable else usable[0]
    _check_size((stream.codec_context.width, stream.codec_context.height), path)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a size that grows later
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _check_size(size: tuple[int, int], path: Path) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        limit = f"the limit is {MAX_PIXELS // 1_000_000} megapixels"
        raise InputError(f"{shown(path)}: too large: {size[0]} x {size[1]} pixels, {limit}; make it smaller")


def _frame_rate(stream: VideoStream) -> float:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and _RATES[0] <= rate <= _RATES[1]:
            return float(rate)
    return 25.0


def _duration(container: av.container.InputContainer, stream: VideoStream) -> float | None:
    """Return the announced length of the video, or else of the whole file, s."""
    if stream.duration and stream.time_base and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    return None


def layout_of(stream: VideoStream, picture: VideoFrame, path: Path) -> Layout:
    """Return how the stream's pictures are to be turned and scaled.

    Raises:
        InputError: With square pixels they are too large.
    """
    ratio = stream.sample_aspect_ratio or Fraction(1)
    width = max(1, round(picture.width * ratio)) if Fraction(1, 16) <= ratio <= 16 else picture.width
    stored = width, picture.height
    _check_size(stored, path)
    matrix = _display_matrix(picture)
    if matrix is None:
        return Layout(stored)
    # The file says where a stored point goes: x' = a x + c y, y' = b x + d y. Quarter turns only.
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Layout(stored, swapped=True, mirrored=c < 0, flipped=b < 0)
    return Layout(stored, mirrored=a < 0, flipped=d < 0)


def _display_matrix(picture: VideoFrame) -> tuple[int, int, int, int] | None:
    """Return (a, b, c, d) of FFmpeg's display matrix [[a, b, u], [c, d, v], [x, y, w]], or None."""
    # PyAV's annotation lists one kind of side data only.
    data = cast("Mapping[str, SideData]", picture.side_data).get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    return a, b, c, d
