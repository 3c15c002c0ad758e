"""Reading a video from its middle: the very frames of a whole read, or it is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from test_video_io import picture, same, write_clip

from recon3d.errors import InputError
from recon3d.media._landing import Landing, MissedError, find_landings
from recon3d.media.video import Frame, open_clip

FRAMES = 40
PICTURES = [picture(number) for number in range(FRAMES)]


def odd_stamps() -> list[int]:
    return (np.cumsum(np.random.default_rng(0).integers(5, 90, FRAMES)) + 170).tolist()


def read(path: Path, landing: Landing | None = None, start: int | None = None, ahead: int = 0) -> list[Frame]:
    with open_clip(path) as clip:
        first = start if start is not None else 0 if landing is None else landing.index
        return list(clip.frames(first, ahead, landing))


KINDS: dict[str, Callable[[Path], Path]] = {
    "h264 with pictures out of order": lambda folder: write_clip(folder / "clip.mp4", PICTURES),
    "open groups": lambda folder: write_clip(
        folder / "clip.mp4", PICTURES, options={"x264-params": "open-gop=1:keyint=10:bframes=3"}
    ),
    "one group": lambda folder: write_clip(folder / "clip.mov", PICTURES, options={"g": "1000"}),
    "odd times": lambda folder: write_clip(folder / "clip.mkv", PICTURES, odd_stamps()),
    "odd times in mp4": lambda folder: write_clip(folder / "clip.mp4", PICTURES, odd_stamps()),
    "pictures by themselves": lambda folder: write_clip(
        folder / "clip.mov", PICTURES, codec="mjpeg", pix_fmt="yuvj420p"
    ),
    "vp9": lambda folder: write_clip(folder / "clip.webm", PICTURES, codec="libvpx-vp9", options={"g": "9"}),
    "with sound": lambda folder: write_clip(
        folder / "clip.mp4",
        PICTURES,
        sound=(np.sin(np.arange(70_000) / 40) / 4).astype(np.float32),
        sound_from=0.2,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_frames_of_a_whole_read(tmp_path: Path, kind: str) -> None:
    """The same indices, times and pixels, to the last bit, wherever it begins."""
    path = KINDS[kind](tmp_path)
    whole = read(path)
    landings = find_landings(path, range(FRAMES))
    assert landings is not None and len(whole) == FRAMES
    for start, landing in enumerate(landings):
        assert landing.index == start
        assert same(read(path, landing, ahead=start % 3), whole[start:])
    assert same(read(path, landings[12], start=20), whole[20:])


def test_what_comes_before_is_not_decoded(tmp_path: Path) -> None:
    """Else there is nothing to gain: spoilt packets before the key frame are not noticed."""
    path = write_clip(tmp_path / "clip.mp4", PICTURES)
    whole = read(path)
    landings = find_landings(path, [25])
    spoil(path, range(12, 15))
    with open_clip(path) as clip:
        assert sum(1 for _ in clip.frames()) < FRAMES or clip.lost
    assert landings is not None
    assert same(read(path, landings[0]), whole[25:])


def spoil(path: Path, numbers: range) -> None:
    """Put noise in place of some packets."""
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(1)
    with av.open(str(path)) as file:
        for number, packet in enumerate(file.demux(video=0)):
            if number in numbers and packet.pos is not None:
                data[packet.pos : packet.pos + packet.size] = noise.bytes(packet.size)
    path.write_bytes(data)


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", PICTURES)
    landings = find_landings(path, [15])
    assert landings is not None
    spoil(path, range(30, 33))
    with pytest.raises(MissedError, match="read it from its beginning"):
        read(path, landings[0])


def test_a_frame_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", PICTURES)
    landings = find_landings(path, [15])
    assert landings is not None
    for wrong in (replace(landings[0], stamp=landings[0].stamp + 1), replace(landings[0], stamp=10**9)):
        with pytest.raises(MissedError):
            read(path, wrong)
    with pytest.raises(MissedError):
        read(path, replace(landings[0], key=landings[0].stamp * 2))


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def joined(folder: Path) -> Path:
    """Two recordings, one behind the other, with a clock that jumps back."""
    first = write_clip(folder / "first.mkv", PICTURES)
    both = folder / "both.mkv"
    both.write_bytes(first.read_bytes() * 2)
    return both


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: write_clip(folder / "clip.avi", PICTURES, codec="mpeg4"),
        lambda folder: write_clip(folder / "clip.mp4", PICTURES, codec="mpeg4"),
        lambda folder: cut_off(write_clip(folder / "clip.mkv", PICTURES)),
        lambda folder: cut_off(write_clip(folder / "clip.mp4", PICTURES)),
        joined,
    ],
    ids=["avi", "mpeg-4", "cut-off mkv", "cut-off mp4", "joined recordings"],
)
def test_where_it_is_not_sure_it_is_not_done(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert find_landings(make(tmp_path), [0, 30]) is None


def test_nor_beyond_the_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", PICTURES)
    assert find_landings(path, [FRAMES - 1]) is not None
    assert find_landings(path, [FRAMES]) is None
    with pytest.raises(InputError, match="no such file"):
        find_landings(tmp_path / "none.mp4", [0])
