from __future__ import annotations

import os
import random
import resource
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from PIL import Image
from small_disk import files_of_at_most

from recon3d.errors import InputError, OutputError, UsageError
from recon3d.media import _decode, _encode
from recon3d.media.video import Frame, VideoWriter, is_clip, iter_clips, open_clip, prefetched

Pixels = npt.NDArray[np.uint8]
VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
NEAR = 12.0  # mean difference that lossy coding of these smooth pictures stays well under


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Pixels:
    """Four quarters of different colour, so that every turn shows, and a bar that moves with the number."""
    width, height = size
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 200, 40, 40
    pixels[: height // 2, width // 2 :] = 40, 200, 40
    pixels[height // 2 :, : width // 2] = 40, 40, 200
    pixels[height // 2 :, width // 2 :] = 220, 220, 220
    column = number * 4 % max(width - 8, 1)
    pixels[:, column : column + 8] = 10
    return pixels


def write_clip(
    path: Path,
    pictures: Sequence[Pixels],
    stamps: Sequence[int] | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    unit: Fraction = Fraction(1, 1000),
    rate: int = 25,
    options: dict[str, str] | None = None,
    sound: npt.NDArray[np.float32] | None = None,
    sound_codec: str = "aac",
    sound_from: float = 0.0,
    aspect: Fraction | None = None,
) -> Path:
    """Write pictures with their stamps (in ``unit``), and mono sound of 48 kHz, by PyAV alone."""
    stamps = stamps if stamps is not None else [round(k / rate / unit) for k in range(len(pictures))]
    height, width = pictures[0].shape[:2]
    if codec == "libx264":
        options = {"preset": "ultrafast", "crf": "10", "g": "10", "bf": "2"} | (options or {})
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        stream: Any = file.add_stream(codec, rate=rate, width=width, height=height, options=options or {})
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = unit
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        track: Any = None
        if sound is not None:
            track = file.add_stream(sound_codec, rate=48000, layout="mono")
        for pixels, stamp in zip(pictures, stamps, strict=True):
            frame = VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = stamp, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if track is not None and sound is not None:
            frame_of = AudioFrame.from_ndarray(
                (sound * 32767).astype(np.int16)[None], format="s16", layout="mono"
            )
            frame_of.sample_rate, frame_of.pts = 48000, round(sound_from * 48000)
            frame_of.time_base = Fraction(1, 48000)
            file.mux(track.encode(frame_of))
            file.mux(track.encode(None))
    return path


def read(path: Path, start: int = 0, ahead: int = 0) -> list[Frame]:
    with open_clip(path) as clip:
        return list(clip.frames(start, ahead))


def message(path: Path | str) -> str:
    """What a bad input says: always an InputError of one line that names the file."""
    with pytest.raises(InputError) as caught:
        open_clip(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert Path(path).name in text
    return text


def same(a: Sequence[Frame], b: Sequence[Frame]) -> bool:
    return len(a) == len(b) and all(
        x.index == y.index and x.time == y.time and np.array_equal(x.pixels, y.pixels)
        for x, y in zip(a, b, strict=True)
    )


def close(a: Pixels, b: Pixels) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(int) - b).mean()) < NEAR


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "plain.mp4", [picture(k) for k in range(60)])


# Reading


def test_frames_are_upright_rgb_in_order_with_their_times(plain: Path) -> None:
    with open_clip(plain) as clip:
        assert (clip.size, clip.fps, clip.frame_count, clip.has_audio) == ((96, 64), 25.0, 60, False)
        assert clip.duration == pytest.approx(2.4)
        frames = list(clip.frames())
        assert clip.lost == 0
    assert [f.index for f in frames] == list(range(60))
    assert [f.time for f in frames] == pytest.approx([k / 25 for k in range(60)], abs=1e-6)
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        assert close(frame.pixels, picture(frame.index))
        assert not close(frame.pixels, picture(frame.index + 3))  # the bar tells pictures apart


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_keeps_every_stamp_and_starts_at_zero(tmp_path: Path, suffix: str) -> None:
    stamps = [700, 733, 800, 801, 1200, 1216, 1233, 3000]
    path = write_clip(tmp_path / f"vfr{suffix}", [picture(k) for k in range(8)], stamps)
    frames = read(path)
    assert [f.time for f in frames] == pytest.approx([(s - 700) / 1000 for s in stamps], abs=6e-4)
    assert all(close(f.pixels, picture(f.index)) for f in frames)


#: ISO 14496-12: a stored point (x, y) is shown at (a x + c y, b x + d y), moved back into the picture.
#: Beside it what numpy does to the upright picture to get the stored one.
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[Pixels], Pixels]]] = {
    "90 clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, 1)),
    "180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "90 counterclockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, -1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transposed, 180": ((0, -1, -1, 0), lambda p: np.rot90(p.swapaxes(0, 1), 2)),
}


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write the matrix into the track header by hand, as a phone does."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (v * 0x10000 for v in matrix)
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_marks_are_applied(tmp_path: Path, turn: str) -> None:
    matrix, stored_as = TURNS[turn]
    upright = [picture(k, (90, 62)) for k in range(3)]
    path = write_clip(tmp_path / "turned.mp4", [np.ascontiguousarray(stored_as(p)) for p in upright])
    set_display_matrix(path, matrix)
    with open_clip(path) as clip:
        frames = list(clip.frames())
        assert clip.size == (90, 62)
    assert len(frames) == 3
    for frame, wanted in zip(frames, upright, strict=True):
        assert frame.pixels.flags.c_contiguous
        assert close(frame.pixels, wanted)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv444p", ".mp4"),
        ("ffv1", "yuv420p", ".mkv"),
        ("ffv1", "gray", ".mkv"),
        ("ffv1", "yuva420p", ".mkv"),
        ("ffv1", "gbrp10le", ".mkv"),
        ("libx264", "yuv444p10le", ".mp4"),
        ("mjpeg", "yuvj422p", ".avi"),
    ],
)
def test_odd_sizes_and_pixel_formats(tmp_path: Path, codec: str, pix_fmt: str, suffix: str) -> None:
    wanted = [picture(k, (61, 47)) for k in range(4)]
    if pix_fmt == "gray":
        wanted = [
            np.repeat(p.astype(float) @ [[0.299], [0.587], [0.114]], 3, axis=2).astype(np.uint8)
            for p in wanted
        ]
    path = write_clip(tmp_path / f"odd{suffix}", wanted, codec=codec, pix_fmt=pix_fmt)
    with open_clip(path) as clip:
        assert clip.size == (61, 47)
        frames = list(clip.frames())
    assert len(frames) == 4
    for frame in frames:
        assert close(frame.pixels, wanted[frame.index])


BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


def by_formula(yuv: tuple[int, int, int], matrix: tuple[float, float], full: bool, bits: int) -> Pixels:
    """ITU-R BT.601/709/2020: one colour to 8-bit RGB."""
    scale = 2 ** (bits - 8)
    low, luma, chroma = (0, 2**bits - 1, 2**bits - 1) if full else (16 * scale, 219 * scale, 224 * scale)
    y, u, v = (yuv[0] - low) / luma, (yuv[1] - 128 * scale) / chroma, (yuv[2] - 128 * scale) / chroma
    red, blue = y + 2 * (1 - matrix[0]) * v, y + 2 * (1 - matrix[1]) * u
    green = (y - matrix[0] * red - matrix[1] * blue) / (1 - sum(matrix))
    return np.rint(np.clip([red, green, blue], 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("named", "matrix", "size"),
    [
        (6, BT601, (64, 48)), (1, BT709, (64, 48)), (9, BT2020, (64, 48)),
        (2, BT601, (64, 48)), (2, BT709, (1280, 720)),
    ],
)  # fmt: skip
def test_colours_are_those_of_the_standard(
    tmp_path: Path, named: int, matrix: tuple[float, float], size: tuple[int, int], full: bool, bits: int
) -> None:
    yuv = (150, 100, 170) if bits == 8 else (603, 401, 679)
    path = tmp_path / "colour.mp4"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, width=size[0], height=size[1], options={"qp": "0"})
        stream.pix_fmt = pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
        stream.codec_context.colorspace, stream.codec_context.color_range = named, 2 if full else 1
        frame = VideoFrame(*size, pix_fmt)
        for plane, value in zip(frame.planes, yuv, strict=True):
            np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)[:] = value
        frame.colorspace, frame.color_range, frame.pts = named, 2 if full else 1, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    (only,) = read(path)
    difference = only.pixels.astype(int) - by_formula(yuv, matrix, full, bits)
    assert np.abs(difference).max() <= 3  # FFmpeg's fast conversion; a wrong matrix or range is off by 10


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "wide.mp4", [picture(0, (48, 64))], aspect=Fraction(2))
    with open_clip(path) as clip:
        assert clip.size == (96, 64)
        (frame,) = clip.frames()
    assert frame.pixels.shape == (64, 96, 3)
    assert np.abs(frame.pixels[5, 90].astype(int) - (40, 200, 40)).max() < 30


@pytest.mark.parametrize("ahead", [0, 4])
@pytest.mark.parametrize("start", [0, 1, 17, 59, 60, 500])
def test_a_read_from_the_middle_gives_the_same_frames(plain: Path, start: int, ahead: int) -> None:
    assert same(read(plain, start, ahead), read(plain)[start:])


def test_a_single_frame_is_a_clip(tmp_path: Path) -> None:
    (frame,) = read(write_clip(tmp_path / "one.mp4", [picture(0)]))
    assert (frame.index, frame.time) == (0, 0.0)


def test_a_clip_that_was_closed_gives_no_more(plain: Path) -> None:
    with open_clip(plain) as clip:
        frames = clip.frames()
        next(frames)
    assert list(frames) == []
    with pytest.raises(UsageError, match="closed"):
        clip.frames()


# Damage


def damaged(path: Path, source: Path, seed: int) -> Path:
    """Overwrite three stretches in the second half of the picture data."""
    data = bytearray(source.read_bytes())
    chance = random.Random(seed)
    begin = data.index(b"mdat") + 4
    for _ in range(3):
        at = chance.randrange(begin + (len(data) - begin) // 3, len(data) - 600)
        data[at : at + 300] = chance.randbytes(300)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("seed", range(4))
def test_damage_in_the_middle_is_read_over_and_counted(tmp_path: Path, plain: Path, seed: int) -> None:
    path = damaged(tmp_path / "damaged.mp4", plain, seed)
    with open_clip(path) as clip:
        frames = list(clip.frames())
        assert clip.lost > 0
        assert len(frames) + clip.lost == 60
        lost = clip.lost
        assert same(list(clip.frames()), frames)  # the same each time, though pictures had to be mended
        middle = len(frames) // 2
        assert same(list(clip.frames(middle)), frames[middle:])
        assert clip.lost == lost
    assert [f.index for f in frames] == list(range(len(frames)))
    times = [f.time for f in frames]
    assert np.all(np.diff(times) > 0)
    assert set(np.round(np.array(times) * 25).astype(int)) <= set(range(60))
    whole = read(plain)
    assert same(frames[:10], whole[:10])  # the first group of pictures was left alone
    assert times[-1] > 1.5  # and the rest did not stop the read


def test_a_file_cut_off_gives_what_is_there_and_counts_the_rest(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(plain.read_bytes()[: plain.stat().st_size * 6 // 10])
    with open_clip(path) as clip:
        frames = list(clip.frames())
        assert 10 < len(frames) < 50
        assert len(frames) + clip.lost == 60
    assert same(frames[:-2], read(plain)[: len(frames) - 2])


def test_joined_recordings_go_on_where_the_first_ends(tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{k}.ts", [picture(k * 20 + n) for n in range(20)], unit=Fraction(1, 90000))
        for k in range(2)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    times = [f.time for f in read(path)]
    assert len(times) >= 38
    assert np.all(np.diff(times) > 0)
    assert times[-1] == pytest.approx((len(times) - 1) / 25, abs=0.1)


def test_the_clock_bridges_stamps_that_are_missing_or_stand_still() -> None:
    clock = _decode.Clock(fps=10.0)
    stamps = [50, None, None, 80, 80, 79, 90, -500, -490]
    times = [clock.read(stamp, Fraction(1, 100)) for stamp in stamps]
    assert np.all(np.diff(times) > 0)
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.3, 0.3, 0.4, 0.5, 0.6], abs=1e-3)
    assert [_decode.Clock(10.0).read(None, None) for _ in range(2)] == [0.0, 0.0]


# What is not a clip


def sine(seconds: float) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(np.arange(round(seconds * 48000)) * 2 * np.pi * 440 / 48000)).astype(np.float32)


def write_sound(path: Path, cover: bool = False) -> Path:
    """A sound file, with a cover picture where wanted."""
    with av.open(str(path), "w") as file:
        track: Any = file.add_stream("libmp3lame", rate=48000, layout="mono")
        art: Any = None
        if cover:
            art = file.add_stream("mjpeg", width=64, height=64, pix_fmt="yuvj420p")
            art.disposition = av.stream.Disposition.attached_pic
        frame = AudioFrame.from_ndarray(
            (sine(1.0) * 9999).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = 48000
        packets = track.encode(frame) + track.encode(None)
        if cover:
            image = VideoFrame.from_ndarray(picture(0, (64, 64)), format="rgb24")
            packets = art.encode(image) + art.encode(None) + packets
        file.mux(packets)
    return path


def test_each_bad_input_has_its_own_line(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such file" in message(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "empty" in message(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 200)
    assert "not a video" in message(tmp_path / "text.mp4")
    (tmp_path / "notes.txt").write_text("hello\n" * 200)  # FFmpeg would draw this text as a picture
    assert "not a video" in message(tmp_path / "notes.txt")
    (tmp_path / "noise.mp4").write_bytes(random.Random(1).randbytes(50_000))
    assert "not a video" in message(tmp_path / "noise.mp4")
    assert "sound only" in message(write_sound(tmp_path / "sound.mp3"))
    assert "sound only" in message(write_sound(tmp_path / "cover.mp3", cover=True))
    Image.fromarray(picture(0)).save(tmp_path / "photo.png")
    assert "not a video; for images" in message(tmp_path / "photo.png")
    (tmp_path / "folder").mkdir()
    assert "no videos and no images" in message(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "pipe" in message(tmp_path / "pipe.mp4")
    assert "device" in message("/dev/zero")
    head = plain.read_bytes()
    (tmp_path / "head.mp4").write_bytes(head[: head.index(b"mdat") + 40])
    assert "not one frame" in message(tmp_path / "head.mp4")
    (tmp_path / "stub.mp4").write_bytes(head[:500])
    assert "cut off" in message(tmp_path / "stub.mp4")
    monkeypatch.setattr(_decode, "MAX_PIXELS", 96 * 63)
    assert "too large: 96 x 64" in message(plain)


def test_a_playlist_opens_no_other_file(tmp_path: Path, plain: Path) -> None:
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {plain.name}\n")
    (tmp_path / plain.name).write_bytes(plain.read_bytes())
    assert "not a video" in message(tmp_path / "list.mp4")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2.4,\n{plain.name}\n#EXT-X-ENDLIST\n")
    assert "not a video" in message(tmp_path / "list.m3u8")


def test_a_cover_picture_beside_a_video_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as file:
        art: Any = file.add_stream("mjpeg", width=200, height=200, pix_fmt="yuvj420p")
        art.disposition = av.stream.Disposition.attached_pic
        stream: Any = file.add_stream("libx264", rate=25, width=96, height=64)
        image = VideoFrame.from_ndarray(picture(0, (200, 200)), format="rgb24")
        file.mux(art.encode(image) + art.encode(None))
        for number in range(5):
            file.mux(stream.encode(VideoFrame.from_ndarray(picture(number), format="rgb24")))
        file.mux(stream.encode(None))
    with open_clip(path) as clip:
        assert clip.size == (96, 64)
        assert len(list(clip.frames())) == 5


def test_a_name_that_looks_like_an_address_is_a_file(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "http:x.mp4", "größe 100%.mp4", "-y.mp4"):
        Path(name).write_bytes(plain.read_bytes())
        assert len(read(Path(name))) == 60


# Series of images


def write_series(folder: Path, numbers: Sequence[int], name: str = "frame_{:04d}.png") -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.fromarray(picture(number)).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize("by", ["folder", "pattern"])
def test_numbered_images_are_a_clip(tmp_path: Path, by: str) -> None:
    folder = write_series(
        tmp_path / "shot", [8, 9, 10, 11], "take2_{}.png" if by == "folder" else "f{:03d}.png"
    )
    with open_clip(folder if by == "folder" else folder / "f%03d.png", fps=10) as clip:
        assert (clip.size, clip.fps, clip.frame_count, clip.has_audio) == ((96, 64), 10.0, 4, False)
        frames = list(clip.frames())
        assert same(list(clip.frames(2, ahead=2)), frames[2:])
    assert [f.time for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
    for frame, number in zip(frames, [8, 9, 10, 11], strict=True):
        assert np.array_equal(frame.pixels, picture(number))
    assert open_clip(folder if by == "folder" else folder / "f%03d.png").fps == 25.0


def test_images_that_do_not_fit_are_lost(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "shot", range(6))
    (folder / "frame_0000.png").write_bytes(b"no image")
    Image.fromarray(picture(0, (32, 32))).save(folder / "frame_0003.png")
    with open_clip(folder) as clip:
        frames = list(clip.frames())
        assert clip.lost == 2
        assert same(list(clip.frames(2)), frames[2:])
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert [f.time for f in frames] == pytest.approx([0, 0.04, 0.12, 0.16])


def test_bad_series_say_what_is_wrong(tmp_path: Path) -> None:
    folder = write_series(write_series(tmp_path / "two", [1, 2], "a{}.png"), [1, 2], "b{}.png")
    assert "not one numbered series" in message(folder)
    assert "no images match" in message(folder / "c%d.png")
    with pytest.raises(InputError, match="nowhere: no such file"):
        open_clip(tmp_path / "nowhere" / "c%d.png")
    with pytest.raises(UsageError, match="above 0"):
        open_clip(folder / "a%d.png", fps=0)
    (folder / "a1.png").write_bytes(b"")
    (folder / "a2.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a1\.png: is empty"):
        open_clip(folder / "a%d.png")


def test_inputs_are_found_in_natural_order(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("take10.mp4", "take2.MOV", "take1.mkv", ".hidden.mp4", "notes.txt", "still.png"):
        (clips / name).write_bytes(b"x")
    series = write_series(tmp_path / "series", [1, 2])
    empty = tmp_path / "empty"
    empty.mkdir()

    def found(*inputs: Path | str) -> list[str]:
        return [p.name if e is None else f"! {e}" for p, e in iter_clips([str(i) for i in inputs])]

    takes = ["take1.mkv", "take2.MOV", "take10.mp4"]
    assert found(clips) == takes
    assert found(clips / "take*") == takes
    assert found(clips / "take10.mp4", clips) == ["take10.mp4", "take1.mkv", "take2.MOV"]
    assert found(series, series / "frame_%04d.png") == ["series", "frame_%04d.png"]
    assert found(tmp_path / "*") == [*takes, "series"]
    problems = found(tmp_path / "missing.mp4", empty, clips / "*.avi", clips / "x%d.png", clips)
    assert [p for p in problems if p[0] != "!"] == takes
    for problem, text in zip(
        problems, ("no such", "no videos and no", "no videos match", "no images match"), strict=False
    ):
        assert text in problem
    assert is_clip(clips / "take2.MOV")
    assert is_clip(series)
    assert is_clip(series / "frame_%04d.png")
    assert not any(is_clip(p) for p in (clips / "still.png", empty, clips / "x%d.png", "bad\0name"))


# Ahead and flat


def threads() -> int:
    return sum(t.name == "recon3d-prefetch" for t in threading.enumerate())


def test_prefetched_keeps_order_bounds_the_queue_and_ends() -> None:
    made = 0

    def numbers() -> Iterator[int]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield number

    assert list(prefetched(range(50), 3)) == list(range(50))
    items = prefetched(numbers(), 4)
    assert list(islice(items, 10)) == list(range(10))
    assert made <= 10 + 4 + 2
    items.close()  # type: ignore[attr-defined]
    assert threads() == 0


def test_prefetched_passes_errors_on_and_closes_its_source() -> None:
    closed = []

    def failing() -> Iterator[int]:
        try:
            yield 1
            raise InputError("broken here")
        finally:
            closed.append(True)

    items = prefetched(failing())
    assert next(items) == 1
    with pytest.raises(InputError, match="broken here"):
        next(items)
    assert closed == [True]
    with pytest.raises(RuntimeError, match="consumer"):
        for _ in prefetched(failing(), 1):
            raise RuntimeError("consumer")
    assert closed == [True, True]
    assert threads() == 0


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A clip whose frames together take 550 MB."""
    pixels = picture(3, (1280, 720))
    path = write_clip(tmp_path / "long.mp4", [pixels] * 200, options={"bf": "0"})
    alive: weakref.WeakSet[Pixels] | list[weakref.ref[Pixels]] = []
    most = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_clip(path) as clip:
        for frame in clip.frames(ahead=4):
            alive = [r for r in alive if r() is not None] + [weakref.ref(frame.pixels)]
            most = max(most, len(alive))
        assert frame.index == 199
    assert most <= 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB


# Writing


def write_video(
    path: Path, frames: Sequence[tuple[Pixels, float]], fps: float = 25.0, **options: Any
) -> Path:
    height, width = frames[0][0].shape[:2]
    with VideoWriter(path, (width, height), fps, **options) as writer:
        for pixels, time in frames:
            writer.write(pixels, time)
    return path


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    times = [0, 0.04, 0.0733, 0.5, 0.5, 0.51, 2.0]
    path = write_video(tmp_path / "out.mp4", [(picture(k), t) for k, t in enumerate(times)])
    frames = read(path)
    assert [f.time for f in frames] == pytest.approx(times, abs=2e-4)
    assert all(close(f.pixels, picture(f.index)) for f in frames)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == (
            "h264",
            "yuv420p",
            1,
            1,
        )
        assert (context.color_primaries, context.color_trc) == (1, 1)
        assert float(file.duration or 0) / av.time_base == pytest.approx(2.04, abs=0.01)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("size", [(61, 64), (64, 47), (61, 47), (1, 1)])
def test_odd_sides_are_made_even_by_repeating_the_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), (60, 120, 180), np.uint8)
    frame = read(write_video(tmp_path / "out.mp4", [(pixels, 0.0)]))[0]
    assert frame.pixels.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert np.abs(frame.pixels.astype(int) - (60, 120, 180)).max() < 8


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(p) for p in file.demux(file.streams.audio[0]) if p.size]


def clicks(path: Path) -> list[float]:
    """Times of the clicks in the sound, s after the first video frame, as a player hears them."""
    with av.open(str(path)) as file:
        origin = min(float(p.pts * p.time_base) for p in file.demux(video=0) if p.pts is not None)
    with av.open(str(path)) as file:
        loud: list[float] = []
        for frame in file.decode(audio=0):
            level = np.abs(frame.to_ndarray().astype(np.float32)).max(axis=0)
            level /= 32768 if frame.format.name.startswith("s16") else 1
            loud += (frame.time - origin + np.flatnonzero(level > 0.3) / frame.sample_rate).tolist()
    return [t for before, t in pairwise([-1.0, *loud]) if t - before > 0.05]


def clicking(seconds: float, at: Sequence[float]) -> npt.NDArray[np.float32]:
    sound = np.zeros(round(seconds * 48000), np.float32)
    for time in at:
        sound[round(time * 48000) :][:240] = 0.9
    return sound


SOUNDS = [
    ("aac", ".mp4", True), ("libmp3lame", ".mp4", True), ("aac", ".ts", True),
    ("pcm_s16le", ".mov", False), ("libopus", ".mkv", False),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "suffix", "kept"), SOUNDS)
@pytest.mark.parametrize(("video_from", "sound_from"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4)])
def test_sound_is_carried_over_in_step(
    tmp_path: Path, codec: str, suffix: str, kept: bool, video_from: float, sound_from: float
) -> None:
    stamps = [round(video_from * 1000) + 40 * k for k in range(50)]
    source = write_clip(
        tmp_path / f"source{suffix}", [picture(k) for k in range(50)], stamps,
        sound=clicking(3.0, (0.6, 1.1)), sound_codec=codec, sound_from=sound_from,
    )  # fmt: skip
    with open_clip(source) as clip:
        assert clip.has_audio
        frames = [(f.pixels, f.time) for f in clip.frames()]
    path = write_video(tmp_path / "out.mp4", frames, audio_from=source)
    wanted = [t + sound_from - video_from for t in (0.6, 1.1)]
    assert clicks(source) == pytest.approx(wanted, abs=0.03)
    assert clicks(path) == pytest.approx(wanted, abs=0.03)
    assert [f.time for f in read(path)] == pytest.approx([k / 25 for k in range(50)], abs=1e-4)
    with av.open(str(path)) as file:
        assert file.streams.audio[0].codec_context.name in ("aac", "mp3", "mp3float")
        assert float(file.duration or 0) / av.time_base == pytest.approx(
            2.0, abs=0.1
        )  # cut off with the picture
    if kept and suffix == ".mp4":
        theirs = set(packets(source))
        assert all(packet in theirs for packet in packets(path))


def test_no_sound_where_there_is_none_or_it_is_broken(tmp_path: Path, plain: Path) -> None:
    frames = [(picture(k), k / 25) for k in range(10)]
    series = write_series(tmp_path / "series", [1, 2])
    for source in (plain, series, tmp_path / "missing.mp4"):
        path = write_video(tmp_path / "out.mp4", frames, audio_from=source)
        with open_clip(path) as clip:
            assert not clip.has_audio
            assert len(list(clip.frames())) == 10


@pytest.mark.parametrize("codec", ["aac", "libopus"])
def test_broken_sound_does_not_harm_the_picture(tmp_path: Path, codec: str) -> None:
    pictures = [picture(k) for k in range(50)]
    source = write_clip(tmp_path / "source.mkv", pictures, sound=sine(2.0), sound_codec=codec)
    data = bytearray(source.read_bytes())
    for packet in packets(source)[10:60]:
        at = data.index(packet)
        data[at : at + len(packet)] = random.Random(at).randbytes(len(packet))
    source.write_bytes(data)
    path = write_video(tmp_path / "out.mp4", [(p, k / 25) for k, p in enumerate(pictures)], audio_from=source)
    frames = read(path)
    assert len(frames) == 50
    assert all(close(f.pixels, picture(f.index)) for f in frames)


def test_nothing_is_left_of_a_video_that_failed(tmp_path: Path, plain: Path) -> None:
    target = tmp_path / "out.mp4"
    with (
        pytest.raises(RuntimeError, match="stop"),
        VideoWriter(target, (96, 64), 25, audio_from=plain) as writer,
    ):
        writer.write(picture(0), 0.0)
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="video of"), VideoWriter(target, (96, 64), 25) as writer:
        writer.write(picture(0, (64, 64)), 0.0)
    with pytest.raises(OutputError, match="not one picture"), VideoWriter(target, (96, 64), 25):
        pass
    with pytest.raises(OutputError, match="cannot be encoded"):
        write_video(target, [(picture(0), 0.0)], preset="no such preset")
    with pytest.raises(OutputError, match="cannot be written"):
        write_video(tmp_path / "missing" / "out.mp4", [(picture(0), 0.0)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [2_000, 40_000])
def test_a_full_disk_is_one_line(tmp_path: Path, limit: int) -> None:
    """A limit on file sizes stands in for the disk: it, too, fails in the middle of a write."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    refused = pytest.raises(OutputError, match=r"out\.mp4: cannot be written \(File too large\)")
    with files_of_at_most(limit), refused:
        write_video(tmp_path / "out.mp4", [(np.roll(noise, k, 0), k / 25) for k in range(200)], crf=1)
    assert list(tmp_path.iterdir()) == []


def test_another_encoder_stands_in_for_x264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encode, "ENCODERS", ("no_such_encoder", "mpeg4"))
    frames = read(write_video(tmp_path / "out.mp4", [(picture(k), k / 25) for k in range(10)]))
    assert [f.time for f in frames] == pytest.approx([k / 25 for k in range(10)], abs=1e-3)
    assert all(close(f.pixels, picture(f.index)) for f in frames)


# Real clips


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the shared clips are not here")
def test_real_clips_read_whole(tmp_path: Path) -> None:
    for path in sorted(VIDEOS.glob("*.mp4"))[:4]:
        with open_clip(path) as clip:
            frames = list(clip.frames(ahead=8))
            assert clip.lost == 0
            assert len(frames) == clip.frame_count
            assert {f.pixels.shape for f in frames} == {(clip.size[1], clip.size[0], 3)}
            assert frames[-1].time == pytest.approx((len(frames) - 1) / clip.fps, abs=0.5 / clip.fps)
            assert same(list(clip.frames(len(frames) - 3)), frames[-3:])
        if clip.has_audio:
            out = write_video(tmp_path / path.name, [(f.pixels, f.time) for f in frames], audio_from=path)
            with open_clip(out) as copy:
                assert copy.has_audio
                assert len(list(copy.frames())) == len(frames)
