"""Broken, lying and nasty clips; see corpus.py."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from corpus import (
    DAMAGES,
    Case,
    Maker,
    archive,
    damaged,
    face,
    irregular,
    long_name,
    noisy,
    odd_name,
    of_bytes,
    picture,
    png,
    renamed,
    spliced_of,
    truncated,
)

#: Small and short: what matters is what is wrong with them.
SIZE, FRAMES, RATE = (128, 96), 10, 25
#: Container and codec by ending.
_KINDS = {
    ".mp4": ("mp4", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".mov": ("mov", "mpeg4"),
    ".avi": ("avi", "mjpeg"),
    ".webm": ("webm", "libvpx"),
    ".ts": ("mpegts", "mpeg2video"),
}
_ENDINGS = tuple(_KINDS)


@cache
def clip(ending: str, frames: int = FRAMES, size: tuple[int, int] = SIZE, sound: bool = False) -> bytes:
    """Return a whole clip of the moving face, as bytes, by its ending."""
    file = io.BytesIO()
    name, codec = _KINDS[ending]
    with av.open(file, "w", format=name) as container:
        track = container.add_stream(codec, rate=RATE)
        assert isinstance(track, VideoStream)
        track.width, track.height = size
        track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        track.thread_count = 1
        voice = container.add_stream("aac", rate=48_000, layout="mono") if sound else None
        for step in range(frames):
            frame = VideoFrame.from_ndarray(face(step, size), format="rgb24")
            frame.pts, frame.time_base = step, Fraction(1, RATE)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        if isinstance(voice, AudioStream):
            container.mux(_hum(voice, frames / RATE))
    return file.getvalue()


def _hum(voice: AudioStream, seconds: float) -> list[av.packet.Packet[AudioStream]]:
    tone = (np.sin(np.arange(int(48_000 * seconds)) / 40) * 8000).astype(np.int16)
    frame = AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    return [*voice.encode(frame), *voice.encode(None)]


FORMATS: Mapping[str, Callable[[], bytes]] = {
    ending: lambda ending=ending: clip(ending)  # type: ignore[misc]
    for ending in _KINDS
}
_WITH_SOUND: Mapping[str, Callable[[], bytes]] = {
    ".mp4": lambda: clip(".mp4", sound=True),
    ".mkv": lambda: clip(".mkv", sound=True),
}


def _valid(rng: Random) -> Case:
    ending = rng.choice(_ENDINGS)
    return of_bytes(ending, clip(ending), "done")


def _damaged_sound(rng: Random) -> Case:
    ending = rng.choice(list(_WITH_SOUND))
    return of_bytes(ending, rng.choice(list(DAMAGES.values()))(_WITH_SOUND[ending](), rng))


#: Boxes of MP4 and MOV whose fields are worth a lie.
_BOXES = (
    b"mvhd", b"tkhd", b"mdhd", b"stsd", b"stts", b"stsc", b"stsz", b"stco", b"ctts", b"elst", b"avc1",
    b"avcC", b"hdlr", b"moov", b"mdat", b"ftyp", b"stss",
)  # fmt: skip
_WILD = (0, 1, 7, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _lying_boxes(rng: Random) -> Case:
    """MP4 and MOV whose tables and sizes are lies."""
    ending = rng.choice((".mp4", ".mov"))
    data = bytearray(clip(ending))
    for _ in range(rng.randrange(1, 4)):
        box = rng.choice([name for name in _BOXES if name in data])
        at = data.index(box) + rng.choice((-4, 4, 8, 12, 16, 20, 28))
        if 0 <= at <= len(data) - 4:
            struct.pack_into(">I", data, at, rng.choice(_WILD))
    return of_bytes(ending, bytes(data))


#: EBML names: sides, length, unit of time, and of a cluster and a block.
_ELEMENTS = (
    b"\xb0",
    b"\xba",
    b"\x44\x89",
    b"\x2a\xd7\xb1",
    b"\x1f\x43\xb6\x75",
    b"\xe7",
    b"\xa3",
    b"\x53\xab",
)


def _lying_elements(rng: Random) -> Case:
    """Matroska and WebM whose elements claim other sizes, sides and times."""
    ending = rng.choice((".mkv", ".webm"))
    data = bytearray(clip(ending))
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice([name for name in _ELEMENTS if name in data])
        at = data.index(name) + len(name)
        length = rng.choice((1, 2, 3, 8))
        data[at : at + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return of_bytes(ending, bytes(data))


def _lying_avi(rng: Random) -> Case:
    """AVI whose headers claim other sides, rates, counts and lengths."""
    data = bytearray(clip(".avi"))
    for _ in range(rng.randrange(1, 5)):
        names = (b"avih", b"strh", b"strf", b"hdrl", b"movi", b"idx1", b"00dc")
        name = rng.choice([name for name in names if name in data])  # the last lie may have hit one
        at = data.index(name) + rng.choice((4, 8, 12, 16, 24, 28, 32, 36, 40))
        if at <= len(data) - 4:
            struct.pack_into("<I", data, at, rng.choice(_WILD))
    return of_bytes(".avi", bytes(data))


def _changing(rng: Random) -> Case:
    """A stream whose pictures change their size on the way, and whose clock starts anew."""
    other = clip(".ts", size=rng.choice(((64, 48), (320, 240), (16, 16))))
    return of_bytes(".ts", clip(".ts") + other + clip(".ts"))


def _playlist(rng: Random) -> Case:
    """Lists of other files, which a player would open."""
    made = [
        (".m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        (".mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"),
        (".txt", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        (".mp4", b"ffconcat version 1.0\nfile '/etc/hostname'\nduration 10\n"),
        (".sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"),
        (".mpd", b"<?xml version='1.0'?><MPD><Period><BaseURL>file:///etc/</BaseURL></Period></MPD>"),
        (".srt", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"),
        (".avs", b'Version()\n'),
        (".mp4", b"P6 64 64 255\n" + bytes(64 * 64 * 3)),
        (".y4m", b"YUV4MPEG2 W99999 H99999 F25:1\nFRAME\n" + bytes(100)),
        (".y4m", b"YUV4MPEG2 W64 H64 F0:0\n" + (b"FRAME\n" + bytes(64 * 96)) * 4),
    ]  # fmt: skip
    return of_bytes(*rng.choice(made))


def _sound_only(rng: Random) -> Case:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=48_000, layout="mono")
        assert isinstance(voice, AudioStream)
        container.mux(_hum(voice, 0.5))
    return of_bytes(rng.choice((".mp4", ".mov", ".m4a")), file.getvalue(), "refused")


def _short(rng: Random) -> Case:
    """One frame, or two, or tiny ones."""
    ending = rng.choice((".mp4", ".mkv", ".avi"))
    size = rng.choice((SIZE, (2, 2), (16, 16), (4000, 2)))
    return of_bytes(ending, clip(ending, rng.choice((1, 2)), size))


def _nobody(rng: Random) -> Case:
    data = clip(".avi", size=(64, 48))
    return of_bytes(".avi", noisy(data, rng))


def _images(rng: Random) -> Case:
    """Numbered images, some of them missing, broken, of another size, or no files at all."""

    def place(path: Path) -> None:
        path.mkdir()
        for number in range(6):
            file = path / f"frame_{number:04d}.png"
            what = chance.randrange(8)
            if what == 0:
                file.write_bytes(truncated(picture(".png"), chance))
            elif what == 1:
                file.mkdir()
            elif what == 2:
                file.write_bytes(png(90_000, 90_000, picture(".png")[33:]))
            elif what == 3:
                file.symlink_to(rng.choice(("/dev/zero", file.name, "..")))
            elif what > 3:
                file.write_bytes(picture(".png"))

    chance = Random(rng.random())
    return Case("", " images", place)


def _many_images(rng: Random) -> Case:
    """A folder whose numbers are not a series, or too long to be numbers."""
    names = rng.choice(
        (("a1.png", "b2.jpg"), ("9" * 200 + ".png",), ("x.png",), ("٣.png", "²3.png"), ("-1.png", "1.png"))
    )

    def place(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_bytes(picture(".png"))

    return Case("", " series", place)


def _noise(rng: Random) -> Case:
    start = rng.choice(
        (b"", b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", b"RIFF\xff\xff\xff\xffAVI ", b"OggS", b"FLV\1")
    )
    return of_bytes(rng.choice(_ENDINGS), start + rng.randbytes(rng.choice((1, 20, 300, 20_000))))


def _archive(rng: Random) -> Case:
    return of_bytes(rng.choice(_ENDINGS), archive(rng), "refused")


def _rotated(rng: Random) -> Case:
    """An MP4 whose display matrix is nonsense."""
    data = bytearray(clip(".mp4"))
    at = data.index(b"tkhd") + 44
    numbers = [rng.choice((0, 1, 0x10000, -0x10000, 2**31 - 1, -(2**31), 46341)) for _ in range(9)]
    struct.pack_into(">9i", data, at, *numbers)
    return of_bytes(".mp4", bytes(data))


def _odd_times(rng: Random) -> Case:
    """Time stamps that stand still, jump, or are missing."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        track = container.add_stream("mjpeg", rate=RATE)
        assert isinstance(track, VideoStream)
        track.width, track.height, track.pix_fmt = *SIZE, "yuvj420p"
        stamp = 0
        for step in range(FRAMES):
            frame = VideoFrame.from_ndarray(face(step, SIZE), format="rgb24")
            frame.pts, frame.time_base = step, Fraction(1, RATE)
            for packet in track.encode(frame):
                stamp += rng.choice((0, 1, 40, 10_000, 10**8))
                packet.pts = packet.dts = stamp
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    return of_bytes(".mkv", file.getvalue())


CLIPS: Mapping[str, Maker] = {
    "valid": _valid,
    **{name: damaged(name, FORMATS) for name in DAMAGES},
    "damaged with sound": _damaged_sound,
    "two files in one": spliced_of(FORMATS),
    "another format's ending": renamed(FORMATS, (*_ENDINGS, ".jpg", ".txt", ".npz", ""), "done"),
    "lying MP4 boxes": _lying_boxes,
    "lying Matroska elements": _lying_elements,
    "lying AVI headers": _lying_avi,
    "changing size and clock": _changing,
    "playlist": _playlist,
    "sound only": _sound_only,
    "one or two frames": _short,
    "damaged, small": _nobody,
    "numbered images": _images,
    "no series": _many_images,
    "noise": _noise,
    "zip bomb": _archive,
    "nonsense rotation": _rotated,
    "odd time stamps": _odd_times,
    **irregular(_ENDINGS, lambda: clip(".mp4")),
    "odd name": odd_name(lambda rng: rng.choice((".mp4", ".mp4", "")), lambda: clip(".mp4")),
    "longest name": long_name(".mp4", lambda: clip(".mp4")),
}
