"""Beginning to read a video in its middle, where that is sure to give the very frames of a whole read.

What a file's frames are is known for certain only once all before them is decoded. But where every packet has
its own time, none is damaged, and the format is one whose key frames stand by themselves, the n-th frame is
the one with the n-th time; and whoever lands on another one notices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError
from recon3d.media import _decode
from recon3d.media._open import shown

#: Formats, by FFmpeg's names, whose packets hold one picture each and whose key frames need no other.
_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "prores", "dnxhd"})
_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})


class MissedError(InputError):
    """Reading in the middle did not give the frame that was wanted, or something is damaged: read it all."""


@dataclass(frozen=True)
class Landing:
    """Where to begin reading.

    Attributes:
        index: Of the first frame wanted.
        stamp: Its time stamp.
        key: Time stamp of the key frame from which on it can be decoded.
        origin: Time stamp of the clip's first frame.
    """

    index: int
    stamp: int
    key: int
    origin: int


def find_landings(path: Path, starts: Sequence[int]) -> list[Landing] | None:
    """Return where to begin reading for some frames; None where only a whole read is sure to be right.

    The file is read through once, and one frame of it decoded.

    Args:
        path: A video.
        starts: Indices of the frames.

    Raises:
        InputError: It cannot be read.
    """
    first = _decode.probe(path).origin
    with _decode.opened(path) as (container, stream):
        names = set(container.format.name.split(","))
        unit = stream.time_base
        if not (names & _CONTAINERS) or stream.codec_context.name not in _CODECS or unit is None:
            return None
        stamps, keys = [], []
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    break
                if packet.is_corrupt or packet.is_discard or packet.pts is None:
                    return None
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.error.FFmpegError:
            return None
        if _decode.cut_off(container, stream):
            return None
    shown_at = np.sort(np.array(stamps, np.int64))
    if not len(shown_at) or not keys or keys[0] != shown_at[0] or float(shown_at[0] * unit) != first:
        return None
    if len(shown_at) > 1 and float(np.diff(shown_at).min() * unit) <= _decode.SHORTEST_STEP:
        return None
    if max(starts, default=0) >= len(shown_at):
        return None
    return [_landing(start, shown_at, keys) for start in starts]


def _landing(start: int, stamps: npt.NDArray[np.int64], keys: Sequence[int]) -> Landing:
    wanted = int(stamps[start])
    return Landing(start, wanted, max(key for key in keys if key <= wanted), int(stamps[0]))


def read_from(
    path: Path, fps: float, landing: Landing, start: int
) -> Iterator[tuple[int, float, _decode.Pixels]]:
    """Yield the frames from ``start`` on, which is not before the landing, as ``_decode.read_frames`` does.

    Raises:
        MissedError: They may not be those.
        InputError: See ``_decode.probe``.
    """
    missed = MissedError(f"{shown(path)}: it cannot be read from the middle; read it from its beginning")
    losses: list[int] = []
    index = landing.index
    with _decode.opened(path) as (container, stream):
        unit = stream.time_base
        try:
            container.seek(landing.key, stream=stream, backward=True)
        except av.error.FFmpegError as error:
            raise missed from error
        clock = _decode.Clock(fps, origin=_seconds(landing.origin, unit))
        convert: _decode.Converter | None = None
        for picture in _decode.Decoder(container, stream, losses.append).pictures():
            if losses or picture.is_corrupt or picture.pts is None:
                raise missed
            if picture.pts < landing.stamp:
                continue
            if index == landing.index and picture.pts != landing.stamp:
                raise missed
            seconds = clock.read(picture.pts, unit)
            convert = convert or _decode.Converter(_decode.layout_of(stream, picture, path))
            if index >= start:
                yield index, seconds, convert(picture)
            index += 1
    if losses or index == landing.index:
        raise missed


def _seconds(stamp: int, unit: Fraction | None) -> float:
    return float(stamp * (unit or Fraction(0)))
