"""``recon3d batch`` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from face_clips import face_frames, face_picture, wall_frames, write_clip
from PIL import Image
from test_cli import SCRIPT, Run, recon3d
from test_cli_video import here, watched

from recon3d.batch.ledger import open_ledger, read_ledger

QUICK = ("-f", "livelink", "--photo-format", "arkit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips and a photograph of a face, and a clip of nobody."""
    root = tmp_path_factory.mktemp("batch")
    (root / "in" / "day 1").mkdir(parents=True)
    write_clip(root / "in" / "a.mp4", face_frames(14, (160, 120)))
    write_clip(root / "in" / "day 1" / "b.mp4", face_frames(12, (160, 120)))
    write_clip(root / "in" / "wall.mp4", wall_frames(4))
    Image.fromarray(face_picture(3)).save(root / "in" / "p.png")
    return root


@pytest.fixture(scope="module")
def first(folder: Path) -> Run:
    return recon3d("batch", "in", "--out", "first", "--workers", "2", "--json", *QUICK, cwd=folder)


def files(root: Path) -> dict[str, bytes]:
    """Return what is in every file under a folder, but for the ledger."""
    found = {one.relative_to(root).as_posix(): one.read_bytes() for one in root.rglob("*") if one.is_file()}
    return {name: data for name, data in found.items() if name != "ledger.sqlite"}


def test_what_can_be_done_is_done_and_the_rest_is_told(first: Run, folder: Path) -> None:
    assert first.status == 1
    told = {record["id"]: record for record in first.records}
    assert {name: record["state"] for name, record in told.items()} == {
        "a": "done", "day 1/b": "done", "p": "done", "wall": "failed",
    }  # fmt: skip
    assert (told["a"]["frames"], told["a"]["ok"], told["wall"]["ok"]) == (14, True, False)
    assert told["wall"]["kind"] == "NoFaceError" and "no face" in told["wall"]["error"]
    assert told["day 1/b"]["outputs"] == ["first/day 1/b/livelink.csv", "first/day 1/b/capture.npz"]
    assert set(files(folder / "first")) == {
        "a/capture.npz", "a/livelink.csv", "day 1/b/capture.npz", "day 1/b/livelink.csv", "p/capture.npz",
        "p/arkit.json",
    }  # fmt: skip
    lines = first.err.splitlines()
    assert lines[0] == "recon3d: 4 to do, 2 workers on this machine"
    assert "wall.mp4: no face found" in first.err
    assert "1 of 4 items failed; recon3d batch status first lists them" in lines[-1]


@pytest.mark.slow  # the test with a killed worker compares a run of one worker, too
def test_one_worker_makes_the_same_bytes(first: Run, folder: Path) -> None:
    done = recon3d("batch", "in", "--out", "single", "--workers", "1", "-q", *QUICK, cwd=folder)
    assert (done.status, done.out) == (1, "")
    assert files(folder / "single") == files(folder / "first")


def test_recon3d_video_makes_the_same_capture(
    first: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    here("video", "in/a.mp4", "--out", "video", "-f", "livelink")
    assert files(folder / "video") == {k: v for k, v in files(folder / "first").items() if k.startswith("a/")}


def test_a_rerun_does_only_what_is_missing(first: Run, folder: Path) -> None:
    before = files(folder / "first")
    seconds = time.monotonic()
    again = recon3d("batch", "in", "--out", "first", "--json", *QUICK, cwd=folder)
    assert time.monotonic() - seconds < 15
    assert (again.status, again.out) == (1, "")
    assert "3 of 4 are done already" in again.err
    assert "1 failed before and are left out; --retry-failed tries them again" in again.err
    (folder / "first" / "day 1" / "b" / "livelink.csv").unlink()
    again = recon3d("batch", "in", "--out", "first", "--json", *QUICK, cwd=folder)
    assert [record["id"] for record in again.records] == ["day 1/b"]
    assert "1 (their results are missing)" in again.err
    assert files(folder / "first") == before


def test_status_tells_what_has_become_of_it(
    first: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    told = here("batch", "status", "first")
    assert told.status == 0
    lines = told.out.splitlines()
    assert lines[0] == "4 items: 3 done, 1 failed"
    assert "items an hour and worker" in lines[1]
    assert lines[2] == "nothing is left to be done"
    assert lines[3].startswith("failed: wall: ") and "no face" in lines[3]
    facts = json.loads(here("batch", "status", "first", "--json").out)
    assert facts["counts"] == {"waiting": 0, "running": 0, "done": 3, "failed": 1, "poisoned": 0}
    assert (facts["due"], facts["frames"], facts["failed"][0]["id"]) == ({}, 27, "wall")
    nothing = here("batch", "status", "in")
    assert nothing.status == 1
    assert nothing.err.endswith("/in/ledger.sqlite: no such ledger; is this the folder of a batch?\n")


def test_a_second_run_on_the_same_folder_is_refused(
    first: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with open_ledger(folder / "first" / "ledger.sqlite"):
        done = here("batch", "in", "--out", "first")
        assert (done.status, done.out) == (2, "")
        assert f"another recon3d batch is at work on it (process {os.getpid()})" in done.err
        assert "(a run is going on)" in here("batch", "status", "first").out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nothing", "--out", "x"), 1, "nothing: no such file"),
        (("in", "--out", "x", "-f", "mp5"), 2, "there is no format 'mp5'"),
        (("in", "--out", "x", "--face", "none"), 2, "--face"),
        (("in", "--out", "x", "--cluster", "some where"), 2, "ray://host:port"),
        (("in", "--out", "nonsense://x"), 2, "nonsense"),
        (("in", "--out", "x", "--cluster", "127.0.0.1:9"), 1, "nobody answers there"),
        (("in",), 2, "--out"),
        (("in", "--out", "in/a.mp4"), 1, "file is in the way"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, words: str
) -> None:
    monkeypatch.chdir(folder)
    done = here("batch", *arguments)
    assert done.status == status, done.err
    assert words in done.err.splitlines()[-1]
    assert not (folder / "x" / "a").exists()


def test_a_source_may_have_the_name_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "status").mkdir()
    done = here("batch", "./status", "--out", "x")
    assert done.err == "recon3d: ./status: no videos or images found\n"
    assert not (tmp_path / "x").exists()
    assert "SOURCE" in here("batch", "run", "--help").out
    assert "status" in here("batch", "--help").out


def test_broken_rows_of_a_manifest_are_told_and_the_rest_is_done(folder: Path) -> None:
    (folder / "m.csv").write_text("path,id,smooth\nin/a.mp4,hero,0\nin/gone.mp4,,\nin/a.mp4,x,high\n")
    done = recon3d("batch", "m.csv", "--out", "listed", "--json", *QUICK, cwd=folder)
    assert done.status == 1
    assert [(one["id"], one["ok"]) for one in done.records] == [
        ("m.csv:3", False), ("m.csv:4", False), ("hero", True),
    ]  # fmt: skip
    assert "m.csv:4: smooth 'high': a number is wanted" in done.err
    assert set(files(folder / "listed")) == {"hero/capture.npz", "hero/livelink.csv"}
    with read_ledger(folder / "listed" / "ledger.sqlite") as ledger:
        assert json.loads(next(ledger.rows()).options) == {
            "smooth": 0.0, "format": ["livelink"], "photo_format": ["arkit"],
        }  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the workers in /proc")
def test_a_worker_that_is_killed_at_a_clip_changes_nothing(first: Run, folder: Path) -> None:
    process = subprocess.Popen(
        [SCRIPT, "batch", "in", "--out", "killed", "--workers", "1", *QUICK],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _kill_a_worker_at_work(process, folder / "killed")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "its worker died (SIGKILL" in err and "Traceback" not in err
    assert files(folder / "killed") == files(folder / "first")


def _kill_a_worker_at_work(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until a clip is being looked at, and kill who does it."""
    until = time.monotonic() + 60
    while not any(one.is_dir() for one in out.glob(".recon3d-*")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    for child in _children(process.pid):
        if b"multiprocessing.spawn" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
            return
    raise AssertionError("no worker found")


def _children(process: int) -> list[int]:
    return [
        int(child)
        for thread in Path(f"/proc/{process}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]


@pytest.mark.slow
def test_interrupted_it_says_that_nothing_is_lost_and_goes_on(first: Run, folder: Path) -> None:
    process = subprocess.Popen(
        [SCRIPT, "batch", "in", "--out", "stopped", "--workers", "1", *QUICK],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert "a.mp4 -> stopped/a" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "recon3d: interrupted; nothing is lost, the same command goes on"
    with sqlite3.connect(folder / "stopped" / "ledger.sqlite") as base:
        assert base.execute("SELECT COUNT(*) FROM items WHERE state = 'running'").fetchone() == (0,)
    base.close()
    done = recon3d("batch", "in", "--out", "stopped", "--json", *QUICK, cwd=folder)
    assert "a" not in [record["id"] for record in done.records]
    assert files(folder / "stopped") == files(folder / "first")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_on_a_terminal_a_bar_is_drawn(first: Run, folder: Path) -> None:
    done = watched("batch", "in/a.mp4", "--out", "bar", *QUICK, cwd=folder)
    assert done.status == 0 and "items" in done.err and "items/min" in done.err
    assert done.out.startswith(str(folder / "in" / "a.mp4"))
