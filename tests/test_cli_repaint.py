"""``recon3d edit`` and ``recon3d reenact``, as a user runs them, and what can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
from face_clips import pair_frames
from PIL import Image

import recon3d
from recon3d._cli_repaint import Performance, RepaintSettings, Wanted, run_edit, run_reenact
from recon3d._cli_report import Reporter
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import AssetError, InputError, NoFaceError, OutputError, Recon3DError, UsageError
from recon3d.media.video import VideoWriter
from recon3d.synthesis.marks import SOURCE_TYPE, read_mark

SCRIPT = Path(sys.executable).with_name("recon3d")
JAW = ARKIT_NAMES.index("jawOpen")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a mouth that opens, as a capture."""
    (still,) = recon3d.reconstruct(skimage.data.astronaut())
    frames = 10
    many = {
        name: np.repeat(getattr(still, name), frames, axis=0)
        for name in ("expression", "pose", "translation", "arkit", "landmarks68", "box", "score", "tracked")
    }
    many["arkit"][:, JAW] = np.linspace(0, 0.8, frames)
    path = tmp_path_factory.mktemp("driver") / "capture.npz"
    replace(still, fps=10.0, timestamps=np.arange(frames) / 10, **many).save(path)
    return path


def script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False
    )
    assert "Traceback" not in done.stderr
    return done


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def edit(photo: Path, out: Path, units: str = "jawOpen=.6", **options: object) -> int:
    settings = RepaintSettings(out, **options)  # type: ignore[arg-type]
    return run_edit(photo, Wanted(units), settings, Reporter(quiet=True))


def test_a_photograph_is_edited(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "open.png"
    done = script("edit", photo, "--set", "jawOpen=.6", "--emotion", "happy", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"] == [str(out)]
    picture = np.asarray(Image.open(out))
    assert picture.shape == (512, 512, 3)
    changed = (picture != skimage.data.astronaut()).any(2)
    assert 1000 < int(changed.sum()) < 40_000 and not changed[250:].any()
    assert read_mark(out) == SOURCE_TYPE
    assert list(out.parent.iterdir()) == [out]


def test_an_edit_as_a_clip_with_a_visible_mark(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "open.mp4"
    assert edit(photo, out, visible=True, size=256) == 0
    frames = frames_of(out)
    assert len(frames) == 62 and frames[0].shape == (256, 256, 3)
    assert read_mark(out) == SOURCE_TYPE
    # The corner shows the mark; the mouth opens in the middle of the clip.
    small = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((256, 256), Image.Resampling.LANCZOS))
    assert np.abs(frames[0][-12:, -40:].astype(int) - small[-12:, -40:]).mean() > 20
    assert np.abs(frames[30].astype(int) - frames[0])[60:90, 95:130].mean() > 5


def test_a_photograph_is_reenacted(photo: Path, driver: Path, tmp_path: Path) -> None:
    out = tmp_path / "played.mp4"
    done = script("reenact", photo, driver, "--pose", "--relative", "--size", "256", "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(frames_of(out)) == 10 and read_mark(out) == SOURCE_TYPE
    with av.open(str(out)) as file:
        assert float(file.streams.video[0].average_rate or 0) == pytest.approx(10, abs=0.6)


def test_a_live_link_take_drives(photo: Path, driver: Path, tmp_path: Path) -> None:
    take = script("export", driver, "--format", "livelink", "--out", tmp_path)
    assert take.returncode == 0, take.stderr
    (csv,) = tmp_path.rglob("*.csv")
    out = tmp_path / "played.mp4"
    assert run_reenact(photo, csv, Performance(), RepaintSettings(out, size=128), Reporter(quiet=True)) == 0
    assert 9 <= len(frames_of(out)) <= 61  # a take has its own rate


def test_of_several_faces_the_most_prominent_or_the_one_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (both,) = pair_frames(1)
    photo = tmp_path / "both.png"
    Image.fromarray(both).save(photo)
    changed = {}
    for face in (None, 2):
        out = tmp_path / f"{face}.png"
        settings = RepaintSettings(out, face=face)
        assert run_edit(photo, Wanted("jawOpen=.6"), settings, Reporter()) == 0
        changed[face] = np.nonzero((np.asarray(Image.open(out)) != both).any(2))[1]
    assert changed[None].max() < 280 <= changed[2].min()
    assert "both.png: 2 faces; the most prominent is taken, --face 2 is the next" in capsys.readouterr().err
    with pytest.raises(UsageError, match="there is no face 3; 2 found"):
        edit(photo, tmp_path / "third.png", face=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "jawOpn=.5"), "no unit 'jawOpn'; 'jawOpen' perhaps"),
        (("--set", "jawOpen=2"), "write NAME=VALUE with a value from 0 to 1"),
        (("--emotion", "hungry"), "no emotion 'hungry'"),
        (("--au", "11=.5"), "no action unit '11'"),
        ((), "say what is to change"),
    ],
)
def test_what_does_not_exist_is_told_before_any_work(
    photo: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = script("edit", photo, *arguments, "--out", tmp_path / "x.png")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def broken_inputs(folder: Path) -> dict[str, Path]:
    wall, text, empty = folder / "wall.png", folder / "text.jpg", folder / "empty.png"
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(wall)
    text.write_text("no picture")
    empty.touch()
    return {"wall": wall, "text": text, "empty": empty, "missing": folder / "none.png"}


def test_photographs_that_cannot_be_used(tmp_path: Path) -> None:
    given = broken_inputs(tmp_path)
    wanted = {"wall": "no face", "text": "not an image", "empty": "empty", "missing": "no such"}
    for name, said in wanted.items():
        with pytest.raises((InputError, NoFaceError), match=rf"{given[name].name}: .*{said}"):
            edit(given[name], tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_drivers_that_cannot_be_used(photo: Path, driver: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "wall.mp4", (64, 64), 10) as writer:
        for k in range(5):
            writer.write(np.full((64, 64, 3), 90, np.uint8), k / 10)
    lost = replace(Capture.load(driver), tracked=np.zeros(10, bool))
    lost.save(tmp_path / "lost.npz")
    (tmp_path / "noise.npz").write_bytes(b"PK no capture")
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    settings, quiet = RepaintSettings(tmp_path / "x.mp4"), Reporter(quiet=True)
    wanted = {"wall.mp4": "no face", "lost.npz": "no frame of it shows", "noise.npz": "noise"}
    wanted["photo.jpg"] = "give a clip, a capture.npz, or a Live Link Face .csv"
    for name, said in wanted.items():
        with pytest.raises((InputError, NoFaceError), match=said):
            run_reenact(photo, tmp_path / name, Performance(), settings, quiet)
    assert not list(tmp_path.glob("x.mp4*"))


def test_results_that_have_nowhere_to_go(photo: Path, driver: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.gif: give --out a file that ends in one of \.jpg .*\.mp4"):
        edit(photo, tmp_path / "x.gif")
    with pytest.raises(UsageError, match="this would replace what is read"):
        edit(photo, photo)
    with pytest.raises(UsageError, match=r"let --out end in \.mp4"):
        run_reenact(photo, driver, Performance(), RepaintSettings(tmp_path / "x.png"), Reporter())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        edit(photo, tmp_path / "file" / "x.png")


def test_weights_that_are_none(photo: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(b"noise")
    with pytest.raises(AssetError, match="damaged, or not a safetensors file"):
        edit(photo, tmp_path / "x.png", painter=noise)
    with pytest.raises(Recon3DError):
        edit(photo, tmp_path / "x.png", head=noise)
