"""What fuzzing found, one test each."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trust_tools import corpus_takes

from recon3d._video_mark import clip_digest
from recon3d.capture import Capture
from recon3d.errors import InputError, UsageError
from recon3d.export._resample import at_rate, regular_times
from recon3d.media.image import iter_images, read_image
from recon3d.media.video import iter_clips, open_clip


def test_links_in_a_circle_are_one_bad_input_among_others(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "one.png").symlink_to("two.png")
    (tmp_path / "two.png").symlink_to("one.png")
    inputs = [tmp_path / "one.png", tmp_path / "good.png"]
    assert [path for path, error in iter_images(inputs) if error is None][-1] == tmp_path / "good.png"
    assert len(list(iter_clips(inputs))) == 2
    with pytest.raises(InputError, match="leads to itself"):
        read_image(tmp_path / "one.png")


def test_an_endless_strip_is_refused_unread(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 70_000, 8, 2, 0, 0, 0))
    (tmp_path / "strip.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="1 x 70000 pixels, the limit is 65535 a side"):
        read_image(tmp_path / "strip.png")


def test_a_program_is_not_run_whatever_it_is_called(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "portrait.jpg").write_bytes(eps)
    with pytest.raises(InputError, match=r"a program \(EPS\), not a photograph"):
        read_image(tmp_path / "portrait.jpg")


def test_libtiff_does_not_speak_for_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 60, 3), np.uint8)).save(
        tmp_path / "x.tif", compression="tiff_lzw"
    )
    data = bytearray((tmp_path / "x.tif").read_bytes())
    data[200:4000] = rng.bytes(3800)
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(InputError, match="damaged"), Image.open(tmp_path / "x.tif") as bare:
        with pytest.raises(OSError):
            bare.load()
        assert capfd.readouterr().err  # so it has something to say
        read_image(tmp_path / "x.tif")
    assert capfd.readouterr().err == ""


def test_numbered_images_that_lead_nowhere_are_lost(tmp_path: Path) -> None:
    for number in (1, 3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"a{number}.png")
    (tmp_path / "a0.png").symlink_to("a0.png")
    (tmp_path / "a2.png").mkdir()
    (tmp_path / "a4.png").symlink_to("/dev/zero")
    assert len(clip_digest(tmp_path)) == 8
    with open_clip(tmp_path) as clip:
        assert [frame.index for frame in clip.frames()] == [0, 1]
        assert clip.lost == 3


def test_a_series_of_nothing_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "a0.png").mkdir()
    with pytest.raises(InputError, match="not a file"):
        clip_digest(tmp_path)


@pytest.mark.parametrize("leap", [1e5, 1e12, 1e300])
def test_a_clock_that_leaps_does_not_fill_the_disk(leap: float) -> None:
    times = np.array([0.0, 0.04, 0.08, leap])
    with pytest.raises(InputError, match="its clock leaps: at 60 frames a second its 4 frames would become"):
        regular_times(times, 60.0)


def test_long_gaps_are_filled_as_before() -> None:
    assert len(regular_times(np.array([0.0, 1200.0]), 60.0)) == 72_001


@pytest.mark.parametrize("fps", [5e-324, 1e300])
def test_a_rate_that_is_none_is_a_damaged_capture(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "take.npz"
    path.write_bytes(corpus_takes.npz({**corpus_takes.fields(), "fps": np.array(fps)}))
    with pytest.raises(InputError, match="which is no frame rate"):
        Capture.load(path)
    path.write_bytes(corpus_takes.npz({**corpus_takes.fields(), "fps": np.array(0.01)}))
    assert Capture.load(path).fps == 0.01


def test_a_rate_that_would_fill_the_memory_is_refused() -> None:
    arrays = corpus_takes.fields(5000)  # 200 s
    take = Capture(**{name: v.item() if v.ndim == 0 else v for name, v in arrays.items()})
    slow = replace(take, timestamps=take.timestamps * 6)
    with pytest.raises(UsageError, match="too many for this format"):
        at_rate(slow, 1000.0)
    assert len(at_rate(slow, 25.0)) == 29_995
