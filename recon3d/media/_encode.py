"""Pictures to an H.264 MP4 file through FFmpeg (PyAV), with the sound of another clip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.codec.codec
import av.error
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from recon3d._version import GENERATOR
from recon3d.errors import OutputError
from recon3d.media._audio import Soundtrack, open_soundtrack

#: Time stamps per second: a multiple of the common frame rates, and no more than MPEG-4 can count.
TICKS = 60_000
#: Encoders in order of preference; the last is in every build of FFmpeg.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
#: Bits per pixel for encoders that know no constant quality; ample for faces.
_BITS_PER_PIXEL = 0.15
_AVCOL_SPC_BT709 = 1


class Encoder:
    """One MP4 file in the making: pictures in, ``finish`` or ``abandon`` at the end."""

    def __init__(
        self, file: Path, size: tuple[int, int], fps: float, crf: int, preset: str, sound: Path | None
    ) -> None:
        # Even sides, for colour is stored at half the resolution.
        self._pad = size[1] % 2, size[0] % 2
        self._even = size[0] + self._pad[1], size[1] + self._pad[0]
        self._fps = fps
        self._end = 0.0
        self._scaler = VideoReformatter()
        self._file = av.open(str(file), "w", format="mp4", options={"movflags": "+faststart"})
        self._file.metadata["comment"] = GENERATOR
        try:
            self._stream = _add_video(self._file, self._even, fps, crf, preset)
            self._sound: Soundtrack | None = None if sound is None else open_soundtrack(sound, self._file)
        except BaseException:
            self.abandon()
            raise

    def add(self, pixels: npt.NDArray[np.uint8], stamp: int) -> None:
        """Encode (H, W, 3) uint8 RGB pixels, shown from ``stamp`` on (in ``TICKS``, above the last one)."""
        if any(self._pad):
            pixels = np.pad(pixels, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        rgb = VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
        picture = self._scaler.reformat(
            rgb,
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU709,
            threads=1,
        )
        picture.pts, picture.time_base = stamp, Fraction(1, TICKS)
        picture.duration = round(TICKS / self._fps)
        self._file.mux(self._stream.encode(picture))
        self._end = stamp / TICKS + 1.0 / self._fps
        if self._sound is not None:
            self._sound.write_until(stamp / TICKS)

    def finish(self) -> None:
        """Write what is still to be written, and close the file."""
        self._file.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.write_until(self._end)
            self._sound.close()
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file, which is then not whole."""
        if getattr(self, "_sound", None) is not None:
            self._sound.close()  # type: ignore[union-attr]
        with contextlib.suppress(Exception):  # it fails again for the reason it failed before
            self._file.close()


@contextlib.contextmanager
def plain_errors(target: Path) -> Iterator[None]:
    """Turn what FFmpeg says of an output into one line; errors of the system pass.

    Raises:
        OutputError: FFmpeg cannot encode or write it.
    """
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        reason = " ".join((error.strerror or str(error)).split())
        raise OutputError(f"{target}: the video cannot be encoded ({reason})") from error


def _add_video(
    file: av.container.OutputContainer, size: tuple[int, int], fps: float, crf: int, preset: str
) -> VideoStream:
    name = _encoder()
    rate = Fraction(fps).limit_denominator(1001)
    stream = file.add_stream(name, rate=rate, width=size[0], height=size[1], time_base=Fraction(1, TICKS))
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.pix_fmt = "yuv420p"
    context.colorspace = _AVCOL_SPC_BT709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    context.thread_count = 0  # as many as there are cores
    if name == "libx264":
        # Without B-frames: they are decoded out of order, and players that add up the decoding times get
        # the length of a clip with a variable rate wrong.
        context.options = {"crf": str(crf), "preset": preset, "bf": "0"}
    else:
        context.bit_rate = round(size[0] * size[1] * fps * _BITS_PER_PIXEL)
    return stream


def _encoder() -> str:
    """Return the best encoder that this build of FFmpeg has.

    Raises:
        OutputError: It has none.
    """
    for name in ENCODERS:
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            av.codec.Codec(name, "w")
            return name
    raise OutputError("this build of PyAV cannot write video; install it with: pip install av")
