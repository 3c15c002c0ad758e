"""The sound of one clip carried over into another file, in step with the picture."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.filter
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet

from recon3d.errors import InputError
from recon3d.media import _decode

#: What MP4 holds and every player plays; anything else becomes AAC.
_KEPT = frozenset({"aac", "mp3"})
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000})
_AAC_BITS_PER_CHANNEL = 96_000
_CLOCK = 90_000
#: What a damaged packet raises when it is written; anything else is the disk's fault.
_BAD_PACKET = (av.error.InvalidDataError, av.error.ArgumentError)


_Packets = Iterator["Packet[AudioStream]"]


class Soundtrack:
    """Writes the sound of a clip into a file, bit by bit as the picture is written."""

    def __init__(
        self, source: av.container.InputContainer, target: av.container.OutputContainer, made: _Packets
    ) -> None:
        self._source, self._target, self._packets = source, target, made
        self._next: Packet[AudioStream] | None = None

    def write_until(self, seconds: float) -> None:
        """Write the sound up to a time after the first frame of the picture.

        Raises:
            OSError: The disk is full, or the like.
        """
        while True:
            self._next = self._next or next(self._packets, None)
            if self._next is None or _start(self._next) >= seconds:
                return
            with contextlib.suppress(*_BAD_PACKET):
                self._target.mux(self._next)
            self._next = None

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def open_soundtrack(path: Path, target: av.container.OutputContainer) -> Soundtrack | None:
    """Add the sound of a clip to a file of which nothing has been written yet.

    Returns:
        What writes it; None if the clip has no sound that can be used, for the picture matters more.
    """
    try:
        origin = Fraction(_decode.probe(path).origin).limit_denominator(_CLOCK)
        kept = _can_be_kept(path)
        source = _decode.open_container(path)
    except (InputError, LookupError, av.error.FFmpegError):
        return None
    try:
        made = (_copied if kept else _encoded)(source, _sound(source), target, origin)
        return Soundtrack(source, target, made)
    except (LookupError, av.error.FFmpegError):
        source.close()
        return None


def _sound(source: av.container.InputContainer) -> AudioStream:
    """Return the main sound track.

    Raises:
        LookupError: There is none that can be decoded.
    """
    stream = source.streams.best("audio")
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        raise LookupError("no sound")
    return stream


def _can_be_kept(path: Path) -> bool:
    """Tell whether the packets can go into an MP4 file as they are, by writing one into a file in memory."""
    with _decode.open_container(path) as source:
        stream = _sound(source)
        if stream.codec_context.codec.canonical_name not in _KEPT:
            return False
        first = next(_decode.packets(source, stream), None)
        if first is None:
            raise LookupError("no sound")
        try:
            with av.open(io.BytesIO(), "w", format="mp4") as scratch:
                first.stream = scratch.add_stream_from_template(stream)
                scratch.mux(first)
        except (ValueError, av.error.FFmpegError):
            return False
    return True


def _copied(
    source: av.container.InputContainer,
    stream: AudioStream,
    target: av.container.OutputContainer,
    origin: Fraction,
) -> _Packets:
    """Add a track to ``target`` and return the packets for it, as they are but for their time."""
    track = target.add_stream_from_template(stream)

    def packets() -> _Packets:
        last: int | None = None
        with contextlib.suppress(av.error.FFmpegError):  # the rest cannot be read
            for packet in _decode.packets(source, stream):
                if packet.pts is None or packet.time_base is None:
                    continue
                shift = round(origin / packet.time_base)
                packet.pts = packet.dts = packet.pts - shift
                # One packet from before the picture stays (players skip it): decoders build on it.
                if packet.pts + (packet.duration or 0) < 0 or (last is not None and packet.pts <= last):
                    continue
                last = packet.pts
                packet.stream = track
                yield packet

    return packets()


def _encoded(
    source: av.container.InputContainer,
    stream: AudioStream,
    target: av.container.OutputContainer,
    origin: Fraction,
) -> _Packets:
    """Add an AAC track to ``target`` and return the packets for it.

    Raises:
        LookupError: Nothing of the sound can be decoded.
    """
    heard = _heard(source, stream, origin)
    first = next(heard, None)
    if first is None:
        raise LookupError("no sound")
    rate = first.sample_rate if first.sample_rate in _AAC_RATES else 48_000
    layout = "mono" if first.layout.nb_channels == 1 else "stereo"
    track = target.add_stream("aac", rate=rate, layout=layout)
    assert isinstance(track, AudioStream)
    track.codec_context.bit_rate = _AAC_BITS_PER_CHANNEL * track.codec_context.channels
    graph = _resampler(stream, rate, layout)

    def packets() -> _Packets:
        with contextlib.suppress(ValueError, av.error.FFmpegError):  # the sound changes its format midway
            for frame in itertools.chain([first], heard, [None]):
                graph.push(frame)
                for samples in _pulled(graph):
                    yield from track.encode(samples)
        yield from track.encode(None)

    return packets()


def _resampler(stream: AudioStream, rate: int, layout: str) -> av.filter.Graph:
    """Return filters whose sound begins exactly with the picture and has silence where there is none."""
    graph = av.filter.Graph()
    steps = (
        graph.add_abuffer(template=stream),
        graph.add("aresample", "async=1:first_pts=0"),
        graph.add("aformat", f"sample_fmts=fltp:sample_rates={rate}:channel_layouts={layout}"),
        graph.add("abuffersink"),
    )
    graph.link_nodes(*steps).configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[AudioFrame]:
    """Yield what has gone through the filters."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):  # nothing for now, or for good
            return
        assert isinstance(frame, AudioFrame)
        yield frame


def _heard(
    source: av.container.InputContainer, stream: AudioStream, origin: Fraction
) -> Iterator[AudioFrame]:
    """Yield what of the sound decodes, with its times counted from the first frame of the picture."""
    with contextlib.suppress(av.error.FFmpegError):
        for packet in _decode.packets(source, stream):
            frames: list[AudioFrame] = []
            with contextlib.suppress(av.error.FFmpegError):
                frames = stream.decode(packet)
            for frame in frames:
                if frame.pts is not None and frame.time_base is not None:
                    frame.pts -= round(origin / frame.time_base)
                    yield frame


def _start(packet: Packet[AudioStream]) -> float:
    return float(packet.pts * packet.time_base) if packet.pts is not None and packet.time_base else 0.0
