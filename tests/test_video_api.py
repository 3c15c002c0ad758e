"""``recon3d.reconstruct_video``: from a clip to captures in one call; and what reads clips as takes."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_clips import face_frames, face_picture, pair_frames, wall_frames, write_clip
from moving_head import write_bare_head
from PIL import Image
from test_cli import recon3d as script
from toy_head import toy_arrays

import recon3d
from recon3d._takes import read_take
from recon3d.assets import fetch
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import AssetError, InputError, NoFaceError, OutputError, UsageError
from recon3d.head import HeadModel
from recon3d.resources import OPEN_HEAD, resource_path

FRAMES = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_clip(root / "eve.mp4", face_frames(FRAMES))
    write_clip(root / "pair.mp4", pair_frames(FRAMES))
    write_clip(root / "wall.mp4", wall_frames(5))
    (root / "text.mp4").write_text("not a clip\n" * 40)
    (root / "shot").mkdir()
    for step in range(4):
        Image.fromarray(face_picture(step)).save(root / "shot" / f"f_{step:02d}.png")
    return root


@pytest.fixture(scope="module")
def eve(folder: Path, head: HeadModel) -> Capture:
    (capture,) = recon3d.reconstruct_video(folder / "eve.mp4", head=head)
    return capture


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def assert_equal(a: Capture, b: Capture) -> None:
    for one in fields(Capture):
        np.testing.assert_array_equal(getattr(a, one.name), getattr(b, one.name), err_msg=one.name)


def test_it_gives_what_the_command_writes(eve: Capture, folder: Path, tmp_path: Path) -> None:
    done = script("video", folder / "eve.mp4", "--out", tmp_path, "--format", "livelink")
    assert (done.status, done.err) == (0, "")
    assert_equal(eve, Capture.load(tmp_path / "eve" / "capture.npz"))


def test_the_head_may_be_a_file(eve: Capture, folder: Path, scratch: Path) -> None:
    (again,) = recon3d.reconstruct_video(str(folder / "eve.mp4"), head=resource_path(OPEN_HEAD), faces=1)
    assert_equal(again, eve)
    assert list(scratch.iterdir()) == []


def test_who_is_wanted(folder: Path, head: HeadModel) -> None:
    everybody = recon3d.reconstruct_video(folder / "pair.mp4", head=head)
    assert len(everybody) == 2
    assert everybody[0].box[:, 2].max() < everybody[1].box[:, 0].min()
    (largest,) = recon3d.reconstruct_video(folder / "pair.mp4", head=head, faces="largest")
    assert_equal(largest, everybody[0])


@pytest.mark.parametrize(("focal", "pixels"), [(700, 700), ("50mm", 50 * 400 / np.hypot(36, 24))])
def test_a_focal_length_that_is_known(
    folder: Path, head: HeadModel, focal: float | str, pixels: float
) -> None:
    (capture,) = recon3d.reconstruct_video(folder / "shot", head=head, focal=focal)
    assert capture.focal == pytest.approx(pixels)
    assert len(capture) == 4


def test_a_pattern_of_images(folder: Path, head: HeadModel) -> None:
    (capture,) = recon3d.reconstruct_video(folder / "shot" / "f_%02d.png", head=head, smooth=0.0)
    assert (capture.source, capture.fps, capture.size) == ("f_%02d.png", 25, (320, 240))
    np.testing.assert_allclose(capture.timestamps, np.arange(4) / 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faces": 0}, "faces is 0: all, largest, or a number is wanted"),
        ({"faces": "some"}, "faces is 'some': all, largest, or a number is wanted"),
        ({"smooth": 1.5}, "smooth is 1.5: a number from 0 to 1 is wanted"),
        ({"smooth": float("nan")}, "smooth is nan: a number from 0 to 1 is wanted"),
        ({"calibrate": (3, 1)}, r"calibrate is \(3, 1\): the start, s, must come before the end"),
        ({"focal": "far"}, "'far': pixels"),
        ({"focal": -3}, "'-3': "),
    ],
)
def test_wrong_settings_are_told_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recon3d.reconstruct_video("nothing.mp4", **options)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing.mp4", InputError, "nothing.mp4: no such file"),
        ("text.mp4", InputError, "text.mp4: not a video, or cut off or damaged"),
        ("wall.mp4", NoFaceError, "wall.mp4: no face found in the whole clip; show one larger"),
    ],
)
def test_clips_that_cannot_be_used(
    folder: Path, head: HeadModel, scratch: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        recon3d.reconstruct_video(folder / name, head=head)
    assert str(caught.value).startswith(f"{folder}/{message}")
    assert len(str(caught.value).splitlines()) == 1
    assert list(scratch.iterdir()) == []


def test_a_calibration_that_shows_nobody(folder: Path, head: HeadModel) -> None:
    with pytest.raises(UsageError, match=r"eve.mp4: .*90:95: nobody is seen in this stretch"):
        recon3d.reconstruct_video(folder / "eve.mp4", head=head, calibrate=(90, 95))


def test_the_networks_file_may_lie_elsewhere(eve: Capture, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"face_landmarker\.task is not there; leave out the weights folder"):
        recon3d.reconstruct_video(folder / "eve.mp4", weights_dir=tmp_path)
    shutil.copy(fetch("face_landmarker"), tmp_path / "face_landmarker.task")
    (again,) = recon3d.reconstruct_video(folder / "eve.mp4", weights_dir=tmp_path)
    assert_equal(again, eve)


def test_a_head_without_the_landmarks(folder: Path, tmp_path: Path) -> None:
    arrays = {name: array for name, array in toy_arrays().items() if "mediapipe478" not in name}
    np.savez(tmp_path / "toy.npz", allow_pickle=False, **arrays)
    with pytest.raises(InputError, match=r"the head model toy/.* has no landmark embedding mediapipe478"):
        recon3d.reconstruct_video(folder / "eve.mp4", head=tmp_path / "toy.npz")


def test_a_head_without_arkit_units_has_the_networks_scores(folder: Path, tmp_path: Path) -> None:
    bare = write_bare_head(tmp_path / "bare.npz")
    (capture,) = recon3d.reconstruct_video(folder / "shot", head=bare)
    assert capture.expression.shape == (4, 20)
    smile = capture.arkit[:, ARKIT_NAMES.index("mouthSmileLeft")]
    assert np.all(smile > 0.3) and np.all(smile <= 1)


def test_no_room_for_what_is_seen(folder: Path, head: HeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/recon3d")
    with pytest.raises(OutputError, match=r"no temporary folder can be made .*; set TMPDIR"):
        recon3d.reconstruct_video(folder / "eve.mp4", head=head)


# ---- takes ----


def test_a_clip_is_a_take_where_that_is_announced(eve: Capture, folder: Path, head: HeadModel) -> None:
    said: list[str] = []
    assert_equal(read_take(folder / "eve.mp4", head, announce=said.append), eve)
    assert said == [f"{folder / 'eve.mp4'}: a clip; its most prominent person is reconstructed first"]
    with pytest.raises(InputError, match=r"eve.mp4: not a capture"):
        read_take(folder / "eve.mp4", head)


def test_a_capture_is_a_take(eve: Capture, head: HeadModel, tmp_path: Path) -> None:
    eve.save(tmp_path / "capture.npz")
    said: list[str] = []
    assert_equal(read_take(tmp_path / "capture.npz", head, announce=said.append), eve)
    assert said == []
