"""``recon3d video`` end to end: short clips of a real face in, folders out, whatever happens on the way."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.frame import AudioFrame
from face_clips import face_frames, face_picture, pair_frames, wall_frames, write_clip
from glb_reader import Glb
from PIL import Image
from small_disk import files_of_at_most
from test_cli import SCRIPT, Run, recon3d
from test_stream import Receiver, values
from test_video_io import TURNS, set_display_matrix
from test_video_io import write_clip as encode
from typer.testing import CliRunner

from recon3d._records import CHUNK
from recon3d._video_job import _work_name
from recon3d.capture import Capture
from recon3d.cli import app
from recon3d.conventions import ARKIT_NAMES
from recon3d.export.livelink import read_livelink
from recon3d.head import load_head
from recon3d.media.video import open_clip

Pixels = npt.NDArray[np.uint8]
VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
ALL_FILES = {"capture.npz", "livelink.csv", "animation.glb", "overlay.mp4", "report.html"}
FRAMES, RATE = 30, 25
#: Nobody, and then the face, from before the first chunk's end.
EMPTY, LONG = CHUNK - 25, CHUNK + 40
CURVES = ("-f", "livelink")


def here(*arguments: str | Path) -> Run:
    """Run a command line in this process, which has loaded the libraries and the networks already."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    for stream in (done.stdout, done.stderr):
        assert "Traceback" not in stream, stream
        assert "unexpected error" not in stream, stream
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return Run(done.exit_code, done.stdout, done.stderr)


def watched(*arguments: str | Path, cwd: Path) -> Run:
    """Run the script with a terminal as its standard error, in which bars are drawn."""
    ours, theirs = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(ours, 65536):
                seen.append(part)
        except OSError:  # the other end has been closed
            return

    reader = threading.Thread(target=read)
    done = subprocess.Popen(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    reader.start()
    out, _ = done.communicate(timeout=100)
    reader.join()
    os.close(ours)
    return Run(done.returncode, out, b"".join(seen).decode())


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        track = file.add_stream("aac", rate=48000, layout="mono")
        frame = AudioFrame.from_ndarray((hum() * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        file.mux([*track.encode(frame), *track.encode(None)])
    return path


def hum() -> npt.NDArray[np.float32]:
    """A second of a low note."""
    return (np.sin(np.arange(48000) / 40) / 4).astype(np.float32)


def spoil(path: Path, source: Path, numbers: Container[int]) -> Path:
    """Copy a clip, with noise in place of some of its packets."""
    data, noise = bytearray(source.read_bytes()), np.random.default_rng(1)
    with av.open(str(source)) as file:
        for number, packet in enumerate(file.demux(video=0)):
            if number in numbers and packet.pos is not None:
                data[packet.pos : packet.pos + packet.size] = noise.bytes(packet.size)
    path.write_bytes(data)
    return path


def shot(path: Path, count: int, start: int = 0) -> Path:
    """Write numbered images of the moving face."""
    path.mkdir()
    for step in range(count):
        Image.fromarray(face_picture(start + step)).save(path / f"f_{step:02d}.png")
    return path


def long_frames() -> Iterator[Pixels]:
    yield from (np.full((240, 320, 3), 120, np.uint8) for _ in range(EMPTY))
    yield from islice(face_frames(LONG), EMPTY, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good clips and bad ones."""
    root = tmp_path_factory.mktemp("clips")
    eve = encode(root / "eve.mp4", list(face_frames(FRAMES)), rate=RATE, sound=hum())
    write_clip(root / "one.mp4", face_frames(1))
    write_clip(root / "pair.mp4", pair_frames(24))
    write_clip(root / "wall.mp4", wall_frames(10))
    matrix, stored_as = TURNS["90 clockwise"]
    upright = (face_picture(step)[:, 60:240] for step in range(12))
    write_clip(root / "portrait.mp4", (np.ascontiguousarray(stored_as(p)) for p in upright))
    set_display_matrix(root / "portrait.mp4", matrix)
    shot(root / "shot", 10)
    spoil(root / "damaged.mp4", encode(root / "plain.mp4", list(face_frames(FRAMES))), range(12, 15))
    (root / "cut.mp4").write_bytes(eve.read_bytes()[: eve.stat().st_size * 6 // 10])
    sound_only(root / "sound.mp4")
    (root / "text.mp4").write_text("not a clip\n" * 40)
    (root / "zero.mp4").touch()
    (root / "empty").mkdir()
    return root


def mapped(points: npt.NDArray[np.float32], step: float, into: float) -> npt.NDArray[np.float64]:
    """Carry points of the picture at ``step`` to where they are in the picture ``into``."""

    def zoom(t: float) -> float:
        return 1 + 0.08 * float(np.sin(t / 9))

    def moved(t: float) -> npt.NDArray[np.float64]:
        return np.array([12 * np.sin(t / 5), 8 * (1 + np.sin(t / 7))])

    return (points / zoom(step) + moved(step) - moved(into)) * zoom(into)


# ---- one clip, by default ----


@pytest.fixture(scope="module")
def first(folder: Path) -> Run:
    return recon3d("video", "eve.mp4", "--out", "first", cwd=folder)


def test_the_default_run_says_where_it_went(first: Run, folder: Path) -> None:
    assert (first.status, first.err) == (0, "")
    assert re.fullmatch(rf"eve\.mp4 -> first/eve \({FRAMES} frames, [\d.]+ a second\)\n", first.out)
    assert [one.name for one in (folder / "first").iterdir()] == ["eve"]
    assert {one.name for one in (folder / "first" / "eve").iterdir()} == ALL_FILES


def test_every_file_opens_and_agrees(first: Run, folder: Path) -> None:
    files = folder / "first" / "eve"
    capture = Capture.load(files / "capture.npz")
    assert (capture.source, capture.size, capture.fps) == ("eve.mp4", (320, 240), RATE)
    np.testing.assert_allclose(capture.timestamps, np.arange(FRAMES) / RATE, atol=1e-3)
    assert capture.tracked.all()
    take = read_livelink(files / "livelink.csv", load_head())
    length = (FRAMES - 1) / RATE
    assert take.timestamps[-1] == pytest.approx(length, abs=1 / 60)
    curve = np.interp(capture.timestamps, take.timestamps, take.arkit[:, 17])
    np.testing.assert_allclose(curve, capture.arkit[:, 17], atol=0.02)
    glb = Glb((files / "animation.glb").read_bytes())
    assert glb.json["meshes"][0]["extras"]["targetNames"] == list(ARKIT_NAMES)
    assert len(glb.json["animations"]) == 1
    image = glb.json["images"][0]  # its skin is the clip's
    with Image.open(io.BytesIO(glb.view(image["bufferView"]))) as skin:
        assert skin.format == "JPEG" and skin.size[0] == skin.size[1] >= 512
    with open_clip(files / "overlay.mp4") as overlay:
        assert (overlay.size, overlay.has_audio) == ((320, 240), True)
        drawn = [frame.pixels for frame in overlay.frames()]
    assert len(drawn) == FRAMES
    left, top, right, bottom = capture.box[-1].astype(int)
    there = np.abs(drawn[-1].astype(int) - face_picture(FRAMES - 1)).mean(axis=-1)
    assert there[top:bottom, left:right].mean() > 5 * there[:, 300:].mean()  # a head is drawn, over the face
    report = (files / "report.html").read_text()
    assert "eve.mp4" in report
    assert "</html>" in report


def test_the_head_moves_as_the_picture_does(first: Run, folder: Path) -> None:
    """The clip is a photograph moved about: where each of the head's points must be is known."""
    points = Capture.load(folder / "first" / "eve" / "capture.npz").landmarks68
    wanted = np.stack([mapped(points[0], 0, step) for step in range(FRAMES)])
    assert np.abs(wanted - points[0]).max() > 12
    assert np.linalg.norm(points - wanted, axis=-1).mean() < 1.0


def test_what_is_done_is_skipped(first: Run, folder: Path) -> None:
    before = stats(folder / "first")
    left = folder / "first" / f"{_work_name('eve')}01234567"
    left.mkdir()  # by who was killed just before the end
    again = recon3d("video", "eve.mp4", "--out", "first", cwd=folder)
    assert again == Run(0, "eve.mp4 -> first/eve (done before; --force does it again)\n", "")
    assert stats(folder / "first") == before
    (record,) = here("video", folder / "eve.mp4", "--out", folder / "first", "--json").records
    assert {Path(one).name for one in record["outputs"]} == ALL_FILES
    assert (record["skipped"], record["frames"], record["tracked"]) == (True, FRAMES, 1.0)
    assert record["seconds"] < 1
    assert stats(folder / "first") == before


def stats(root: Path) -> dict[Path, tuple[int, int]]:
    return {one: (one.stat().st_ino, one.stat().st_mtime_ns) for one in root.rglob("*")}


# ---- what is done again ----


def test_what_has_changed_is_done_again(folder: Path, tmp_path: Path) -> None:
    clip, files = tmp_path / "eve.mp4", tmp_path / "out" / "eve"
    shutil.copy(folder / "one.mp4", clip)

    def skipped(*options: str) -> bool:
        (record,) = here("video", clip, "--out", tmp_path / "out", "--json", *options).records
        assert all(Path(one).exists() for one in record["outputs"])
        assert not any(one.endswith("notes.txt") for one in record["outputs"])
        assert [one.name for one in (tmp_path / "out").iterdir()] == ["eve"]
        return record["skipped"]

    assert not skipped(*CURVES)
    assert skipped(*CURVES)
    (files / "notes.txt").write_text("mine")
    made = {name: (files / name).read_bytes() for name in ("capture.npz", "livelink.csv")}
    assert not skipped(*CURVES, "--force")
    assert {name: (files / name).read_bytes() for name in made} == made
    assert not skipped(*CURVES, "--focal", "900")
    assert skipped(*CURVES, "--focal", "900")
    assert (files / "livelink.csv").read_bytes() != made["livelink.csv"]
    assert not skipped("-f", "livelink,arkit", "--focal", "900")
    assert skipped("-f", "arkit", "--focal", "900")
    (files / "arkit.json").unlink()
    assert not skipped("-f", "arkit", "--focal", "900")
    (files / "capture.npz").write_bytes(made["capture.npz"][:-900])
    assert not skipped("-f", "arkit", "--focal", "900")
    shutil.copy(folder / "portrait.mp4", clip)
    assert not skipped("-f", "arkit", "--focal", "900")
    assert len(Capture.load(files / "capture.npz")) == 12
    assert (files / "notes.txt").read_text() == "mine"


# ---- interrupted ----


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of two chunks, a second clip, and what comes out undisturbed."""
    root = tmp_path_factory.mktemp("long")
    write_clip(root / "long.mp4", long_frames())
    write_clip(root / "other.mp4", face_frames(8))
    for name in ("long", "other"):
        assert here("video", root / f"{name}.mp4", "--out", root / "whole", *CURVES).status == 0
    return root


@contextmanager
def running(long: Path, out: Path, workers: int) -> Iterator[subprocess.Popen[str]]:
    """The script at work on both clips, in a process group of its own."""
    clips = ("long.mp4", "other.mp4")
    command: list[str | Path] = [SCRIPT, "video", *clips, "--out", out, *CURVES, "--workers", str(workers)]
    process = subprocess.Popen(
        command, cwd=long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(there: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    until = time.monotonic() + 60
    while not (found := there()):
        assert time.monotonic() < until
        assert process is None or process.poll() is None
        time.sleep(0.005)
    return found


def chunks(out: Path, number: int) -> list[Path]:
    """What was seen of long.mp4, and is kept until it is done."""
    return list(out.glob(f"{_work_name('long')}*/seen-{number:05d}.npz"))


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 1),
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 2, marks=pytest.mark.slow),
    ],
)
def test_the_same_command_goes_on(long: Path, tmp_path: Path, number: signal.Signals, workers: int) -> None:
    out = tmp_path / "out"
    with running(long, out, workers) as process:
        (seen,) = wait_for(lambda: chunks(out, 0), process)
        # Ctrl-C reaches all processes of a terminal, other signals the one that is named.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, err = process.communicate(timeout=20)
    if number == signal.SIGINT:
        assert err == "recon3d: interrupted; the same command goes on where it was\n"
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert not (out / "long").exists()
    before = seen.stat()
    with running(long, out, workers) as process:
        wait_for(lambda: chunks(out, 1), process)
        assert (seen.stat().st_ino, seen.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert_same_trees(out, long / "whole")


def test_workers_end_with_their_parent(long: Path, tmp_path: Path) -> None:
    """Even with one that is killed: the next run must find nobody at work on its files."""
    with running(long, tmp_path / "out", 2) as process:
        wait_for(lambda: list(tmp_path.glob("out/.recon3d-*")), process)
        process.kill()
        process.communicate(timeout=20)  # until nobody is left who could write to these pipes


def assert_same_trees(a: Path, b: Path) -> None:
    """The same files in both, byte for byte; hidden ones count."""
    ours, theirs = ({p.relative_to(root): p for root in (r,) for p in r.rglob("*")} for r in (a, b))
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        assert path.is_dir() or path.read_bytes() == theirs[name].read_bytes(), name


def test_the_reference_saw_the_face_come(long: Path) -> None:
    capture = Capture.load(long / "whole" / "long" / "capture.npz")
    assert len(capture) == LONG
    assert not capture.tracked[:EMPTY].any()
    assert capture.tracked[EMPTY + 15 :].all()


# ---- a batch with good and bad clips, one after another and two at a time ----

REASONS = {
    "nothing.mp4": "nothing.mp4: no such file",
    "sound.mp4": "sound.mp4: sound only, no picture",
    "text.mp4": "text.mp4: not a video, or cut off or damaged (Invalid data found when processing input)",
    "zero.mp4": "zero.mp4: is empty (0 bytes)",
    "wall.mp4": "wall.mp4: no face found in the whole clip; show one larger or more from the front",
    "empty": "empty: no videos and no images in this folder",
}
GOOD = ("pair.mp4", "one.mp4", "portrait.mp4", "shot", "damaged.mp4", "cut.mp4")
MIXED = [name for pair in zip(REASONS, GOOD, strict=True) for name in pair]


@pytest.fixture(scope="module")
def batch(folder: Path) -> Run:
    return recon3d("video", *MIXED, "--out", "batch", *CURVES, "--json", cwd=folder)


def results(run: Run) -> dict[str, dict[str, Any]]:
    return {record["input"]: record for record in run.records}


def test_the_bad_are_listed_and_the_others_done(batch: Run, folder: Path) -> None:
    assert batch.status == 1
    lines = batch.err.splitlines()
    assert {line.removeprefix("recon3d: ") for line in lines if "left out" not in line} == {
        *REASONS.values(),
        "6 of 12 inputs failed",
    }
    assert lines[-1] == "recon3d: 6 of 12 inputs failed"
    names = {"pair", "pair.face2", "one", "portrait", "shot", "damaged", "cut"}
    assert {one.name for one in (folder / "batch").iterdir()} == names
    for name in names:
        assert {one.name for one in (folder / "batch" / name).iterdir()} == {"capture.npz", "livelink.csv"}


def test_json_has_one_line_a_clip(batch: Run, folder: Path) -> None:
    records = results(batch)
    assert len(batch.records) == len(records) == len(MIXED)
    for name, reason in REASONS.items():
        assert records[name]["ok"] is False
        assert records[name]["error"] == reason
    assert records["wall.mp4"]["kind"] == "NoFaceError"
    for name in GOOD:
        record = records[name]
        assert (record["ok"], record["skipped"]) == (True, False)
        capture = Capture.load(folder / record["folders"][0] / "capture.npz")
        assert record["frames"] == len(capture)
        assert record["tracked"] == round(float(capture.tracked.mean()), 4) == 1
        assert all((folder / one).is_file() for one in record["outputs"])
    assert records["pair.mp4"]["folders"] == ["batch/pair", "batch/pair.face2"]
    assert len(records["pair.mp4"]["outputs"]) == 4


def test_two_at_a_time_give_the_same_bytes(batch: Run, folder: Path) -> None:
    """Watched this time: the bars of both workers go to the terminal, and JSON to the pipe."""
    both = watched(
        "video", *MIXED, "--out", "batch2", *CURVES, "--json", "--workers", "2", cwd=folder
    )  # fmt: skip
    assert both.status == 1
    assert_same_trees(folder / "batch2", folder / "batch")
    assert results(both).keys() == results(batch).keys()
    for name, record in results(both).items():
        alone = json.loads(json.dumps(results(batch)[name]).replace("batch/", "batch2/"))
        assert {**record, "seconds": 0} == {**alone, "seconds": 0}
    for text in (*REASONS.values(), "6 of 12 inputs failed", "pair: tracking", "12/12"):
        assert text in both.err


@pytest.mark.parametrize("name", ["damaged.mp4", "cut.mp4"])
def test_lost_frames_are_counted_and_said(batch: Run, folder: Path, name: str) -> None:
    record = results(batch)[name]
    assert record["lost"] > 0
    assert record["frames"] + record["lost"] == FRAMES
    verb = "is" if record["lost"] == 1 else "are"
    said = f"recon3d: {name}: {record['lost']} frames could not be decoded and {verb} left out"
    assert said.replace(" 1 frames", " 1 frame") in batch.err.splitlines()
    (again,) = here("video", folder / name, "--out", folder / "batch", *CURVES, "--json").records
    assert (again["skipped"], again["lost"]) == (True, record["lost"])


def test_a_clip_of_one_frame(batch: Run, folder: Path) -> None:
    capture = Capture.load(folder / "batch" / "one" / "capture.npz")
    assert (len(capture), capture.timestamps.tolist()) == (1, [0.0])
    done = here("video", folder / "one.mp4", "--out", folder / "alone")  # all the default formats
    assert (done.status, done.err) == (0, "")
    assert "(1 frame, " in done.out
    still = {"animation.glb"} ^ {"mesh.glb"}  # nothing moves
    assert {one.name for one in (folder / "alone" / "one").iterdir()} == ALL_FILES ^ still


def test_a_portrait_is_turned_upright(batch: Run, folder: Path) -> None:
    capture = Capture.load(folder / "batch" / "portrait" / "capture.npz")
    assert capture.size == (180, 240)
    chin, brows = capture.landmarks68[:, 8], capture.landmarks68[:, 17:27].mean(axis=1)
    down = chin - brows
    assert np.all(down[:, 1] > 4 * np.abs(down[:, 0]))


def test_numbered_images(batch: Run, folder: Path) -> None:
    whole = Capture.load(folder / "batch" / "shot" / "capture.npz")
    assert (len(whole), whole.fps) == (10, 25)
    done = here(
        "video", folder / "shot" / "f_%02d.png", "--out", folder / "slow", *CURVES, "--sequence-fps", "10"
    )  # fmt: skip
    assert done.status == 0
    slow = Capture.load(folder / "slow" / "f_%02d" / "capture.npz")
    assert slow.fps == 10
    np.testing.assert_allclose(slow.timestamps, np.arange(10) / 10)
    np.testing.assert_array_equal(slow.box, whole.box)


# ---- persons ----


def test_two_persons(batch: Run, folder: Path) -> None:
    large, small = (Capture.load(folder / "batch" / n / "capture.npz") for n in ("pair", "pair.face2"))
    assert np.all(large.box[:, 2] < 280) and np.all(small.box[:, 0] > 280)
    size = [float(np.ptp(one.landmarks68, axis=1).mean()) for one in (large, small)]
    assert size[0] > 1.3 * size[1]
    # Both are one person, the second turned round: the heads must be alike.
    assert np.corrcoef(large.shape, small.shape)[0, 1] > 0.5


@pytest.mark.parametrize("who", ["largest", "1"])
def test_who_is_wanted(batch: Run, folder: Path, tmp_path: Path, who: str) -> None:
    done = here("video", folder / "pair.mp4", "--out", tmp_path, *CURVES, "--face", who)
    assert (done.status, done.err) == (0, "")
    assert [one.name for one in tmp_path.iterdir()] == ["pair"]
    ours, all_of_them = (Capture.load(f / "pair" / "capture.npz") for f in (tmp_path, folder / "batch"))
    np.testing.assert_allclose(ours.box, all_of_them.box, atol=1)


def test_a_person_seen_in_two_shots_is_one(tmp_path: Path) -> None:
    """The second shot is the mirror image of another place of the clip, after a picture of nobody."""
    other = (np.ascontiguousarray(face_picture(step)[:, ::-1]) for step in range(40, 60))
    nobody = (np.full((240, 320, 3), 20, np.uint8) for _ in range(4))
    write_clip(tmp_path / "cut.mp4", (*face_frames(20), *nobody, *other))
    done = here("video", tmp_path / "cut.mp4", "--out", tmp_path / "out", *CURVES)
    assert done.status == 0
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["cut"]
    tracked = Capture.load(tmp_path / "out" / "cut" / "capture.npz").tracked
    assert tracked[:20].all() and tracked[26:].all()
    assert not tracked[20:24].any()


# ---- settings ----


def test_calibration(first: Run, folder: Path, tmp_path: Path) -> None:
    """The stretch that is called the face at rest has small units then, and one identity for all frames."""
    arguments = ("video", folder / "eve.mp4", "--out", tmp_path / "out", *CURVES)
    assert here(*arguments, "--calibrate", "0.2:0.6").status == 0
    rested, usual = (
        Capture.load(out / "eve" / "capture.npz") for out in (tmp_path / "out", folder / "first")
    )
    rest = slice(5, 16)
    assert rested.arkit[rest].mean() < 0.5 * usual.arkit[rest].mean()


def test_a_calibration_that_shows_nobody(folder: Path, tmp_path: Path) -> None:
    clip = folder / "eve.mp4"
    done = here("video", clip, "--out", tmp_path / "out", "--calibrate", "90:95")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"recon3d: {clip}: --calibrate 90:95: nobody is seen in this stretch; the clip is 1.2 s long\n"
    )
    assert not (tmp_path / "out").exists()


def test_more_smoothing_is_smoother(folder: Path, tmp_path: Path) -> None:
    rough, smooth = (
        jitter(folder / "shot", tmp_path / amount, amount) for amount in ("0", "1")
    )  # fmt: skip
    assert smooth < 0.8 * rough


def jitter(clip: Path, out: Path, smooth: str) -> float:
    assert here("video", clip, "--out", out, "-f", "arkit", "--smooth", smooth).status == 0
    capture = Capture.load(out / clip.stem / "capture.npz")
    return float(np.abs(np.diff(capture.arkit, 2, axis=0)).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--smooth", "1.5"], "'--smooth'"),
        (["--smooth", "nan"], "smooth"),
        (["--calibrate", "soon"], "recon3d: --calibrate 'soon': seconds are wanted, like 1.5:3"),
        (["--calibrate", "3:1"], "recon3d: --calibrate '3:1': the start must come before the end"),
        (["--calibrate", "-1:1"], "recon3d: --calibrate '-1:1': the start must come before the end"),
        (["--face", "tallest"], "recon3d: --face 'tallest': all, largest, or a number is wanted"),
        (["--face", "0"], "recon3d: --face '0': all, largest, or a number is wanted"),
        (["--focal", "far"], "recon3d: --focal 'far': pixels (1200) or mm"),
        (["--format", "gif"], "recon3d: there is no format 'gif'; choose"),
        (["--fps", "-5"], "'--fps'"),
        (["--sequence-fps", "0"], "'--sequence-fps'"),
        (["--map", "no.toml"], "no.toml"),
        (["--workers", "0"], "'--workers'"),
        (["--head", "no.npz"], "'--head'"),
    ],
)
def test_wrong_usage_is_status_2(folder: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = here("video", folder / "eve.mp4", "--out", tmp_path / "out", *options)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_missing_networks_are_told_once(folder: Path, tmp_path: Path) -> None:
    inputs = (folder / "eve.mp4", folder / "pair.mp4")
    done = here("video", *inputs, "--out", tmp_path / "out", "--weights-dir", folder / "empty", "--json")
    assert done.status == 1
    assert done.err.startswith(f"recon3d: {folder / 'empty' / 'face_landmarker.task'} is not there; ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- outputs that cannot be written ----


def test_out_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    done = here("video", folder / "eve.mp4", "--out", "/proc/recon3d/out")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"recon3d: {folder / 'eve.mp4'}: /proc/recon3d/out: cannot be written")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("place", ["out", "out/eve"])
def test_a_file_is_in_the_way(folder: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / place
    target.parent.mkdir(exist_ok=True)
    target.write_text("mine")
    done = here("video", folder / "eve.mp4", "--out", tmp_path / "out")
    reason = "a file is in the way of the output folder; choose another --out"
    assert done == Run(1, "", f"recon3d: {folder / 'eve.mp4'}: {target}: {reason}\n")
    assert target.read_text() == "mine"
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_while_tracking(folder: Path, tmp_path: Path) -> None:
    with files_of_at_most(20_000):
        done = here("video", folder / "eve.mp4", "--out", tmp_path / "out", *CURVES)
    assert (done.status, done.out) == (1, "")
    file = tmp_path / "out" / "eve" / "seen-00000.npz"
    assert done.err == f"recon3d: {folder / 'eve.mp4'}: {file}: cannot be written (File too large)\n"
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_writing_keeps_what_was_seen(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files_of_at_most(1_000_000):
        done = here("video", folder / "eve.mp4", "--out", out, "-f", "livelink,glb")
    assert (done.status, done.out) == (1, "")
    file = out / "eve" / "animation.glb"
    assert done.err == f"recon3d: {folder / 'eve.mp4'}: {file}: cannot be written (File too large)\n"
    (work,) = out.iterdir()
    assert [one.name for one in work.iterdir()] == ["seen-00000.npz"]
    assert here("video", folder / "eve.mp4", "--out", out, "-f", "livelink,glb").status == 0
    assert [one.name for one in out.iterdir()] == ["eve"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; what is seen of the clip has room on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(folder: Path, small_disk: Path) -> None:
    command = ("video", folder / "eve.mp4", "--out", small_disk / "out", "-f", "overlay", "--side-by-side")
    done = here(*command)
    assert (done.status, done.out) == (1, "")
    file = small_disk / "out" / "eve" / "overlay.mp4"
    reason = "no space left on the disk; free some or choose another --out"
    assert done.err == f"recon3d: {folder / 'eve.mp4'}: {file}: {reason}\n"
    (work,) = (small_disk / "out").iterdir()
    assert len(list(work.iterdir())) == 1
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert here(*command).status == 0
    with open_clip(small_disk / "out" / "eve" / "overlay.mp4") as overlay:
        assert overlay.size == (640, 240)


# ---- what else takes a clip ----


def test_a_clip_can_be_streamed(folder: Path) -> None:
    clip = folder / "shot"
    with Receiver() as receiver:
        endpoint = f"127.0.0.1:{receiver.port}"
        done = here("stream", clip, "--vmc", endpoint, "--fps", "30")
        frames = receiver.frames(5)
    assert done.status == 0
    told, playing = done.err.splitlines()
    assert told == f"recon3d: {clip}: a clip; its most prominent person is reconstructed first"
    assert playing.startswith(f"recon3d: {clip} -> {endpoint}: 0.4 s at 30 frames/s")
    assert re.fullmatch(rf"{clip}: \d+ frames sent\n", done.out)
    assert len(values(frames[0])) == len(ARKIT_NAMES)
    assert max(max(values(frame).values()) for frame in frames) > 0.1
    wall = folder / "wall.mp4"
    nobody = here("stream", wall, "--vmc", "127.0.0.1:9", "--quiet")
    reason = "no face found in the whole clip; show one larger or more from the front"
    assert nobody == Run(1, "", f"recon3d: {wall}: {reason}\n")


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the clips are not here")
def test_a_real_person(tmp_path: Path) -> None:
    """A second of somebody who speaks: the head's points stay near the face, and the mouth moves."""
    smallest = min(VIDEOS.glob("*.mp4"), key=lambda path: path.stat().st_size)
    with open_clip(smallest) as clip:
        write_clip(tmp_path / "real.mp4", (f.pixels for f in islice(clip.frames(), 40)), clip.fps)
    assert here("video", tmp_path / "real.mp4", "--out", tmp_path, "--face", "largest").status == 0
    assert {one.name for one in (tmp_path / "real").iterdir()} == ALL_FILES
    capture = Capture.load(tmp_path / "real" / "capture.npz")
    assert capture.tracked.mean() > 0.95
    middle = (capture.box[:, :2] + capture.box[:, 2:]) / 2
    size = np.linalg.norm(capture.box[:, 2:] - capture.box[:, :2], axis=1)
    nose = capture.landmarks68[:, 30]
    assert np.all(np.linalg.norm(nose - middle, axis=1) < 0.25 * size)
    assert np.ptp(capture.arkit, axis=0).max() > 0.1
