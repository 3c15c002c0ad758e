"""One task in a worker: real clips and photographs, from this machine and from elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from face_clips import face_frames, face_picture, pair_frames, wall_frames, write_clip
from PIL import Image

import recon3d.batch.work as work_module
from recon3d._video_job import _work_name
from recon3d.batch.lock import locked
from recon3d.batch.options import ItemOptions, Models
from recon3d.batch.task import Outcome, Task
from recon3d.batch.work import Setup, Worker, clear
from recon3d.capture import Capture
from recon3d.errors import UsageError

QUICK = ItemOptions(format=("livelink",), photo_format=("arkit",))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_clip(root / "eve.mp4", face_frames(12, (160, 120)))
    write_clip(root / "pair.mp4", pair_frames(12))
    write_clip(root / "wall.mp4", wall_frames(4))
    Image.fromarray(face_picture(3)).save(root / "eve.png")
    (root / "text.mp4").write_text("no clip\n" * 20)
    return root


@pytest.fixture(scope="module")
def loaded() -> Worker:
    """A worker that has loaded everything; its setup is exchanged in the tests."""
    return Setup("/nowhere", Models(threads=1), 10**9)()


@pytest.fixture
def worker(loaded: Worker, tmp_path: Path) -> Worker:
    return into(loaded, str(tmp_path / "out"))


def into(loaded: Worker, out: str, **changes: int) -> Worker:
    """Return the worker with another place for the results."""
    other = Worker(replace(loaded._setup, out=out, **changes))  # type: ignore[arg-type]
    other.__dict__["_video"] = loaded._video
    other._reconstructors = loaded._reconstructors
    return other


def do(worker: Worker, path: Path | str, name: str, **changes: object) -> Outcome:
    kind = "photo" if str(path).endswith(".png") else "clip"
    task = Task(1, name, str(path), kind, QUICK)  # type: ignore[arg-type]
    return worker(replace(task, **changes), lambda step, done, total: None)  # type: ignore[arg-type]


def files(folder: Path) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}


def test_a_clip_becomes_a_folder_of_its_name(worker: Worker, clips: Path, tmp_path: Path) -> None:
    outcome = do(worker, clips / "eve.mp4", "day 1/eve")
    assert (outcome.error, outcome.frames, outcome.facts["skipped"]) == ("", 12, False)
    assert list(outcome.outputs) == ["day 1/eve/livelink.csv", "day 1/eve/capture.npz"], "the capture last"
    assert files(tmp_path / "out") == set(outcome.outputs)
    assert outcome.outputs["day 1/eve/capture.npz"] == (tmp_path / "out/day 1/eve/capture.npz").stat().st_size
    assert len(Capture.load(tmp_path / "out/day 1/eve/capture.npz")) == 12
    left = tmp_path / "out" / "day 1" / f"{_work_name('eve')}01234567"
    left.mkdir()  # by who was killed just before the end
    assert do(worker, clips / "eve.mp4", "day 1/eve").facts["skipped"] is True
    assert not left.exists()
    assert do(worker, clips / "eve.mp4", "day 1/eve", force=True).facts["skipped"] is False


def test_every_person_has_a_folder_and_the_main_one_comes_last(
    worker: Worker, clips: Path, tmp_path: Path
) -> None:
    outcome = do(worker, clips / "pair.mp4", "pair")
    assert list(outcome.outputs)[-1] == "pair/capture.npz"
    assert {name.split("/")[0] for name in outcome.outputs} == {"pair", "pair.face2"}


def test_a_photograph_is_what_recon3d_photo_makes_of_it(worker: Worker, clips: Path, tmp_path: Path) -> None:
    from recon3d._cli_photo import fit_and_write, open_reconstructor
    from recon3d.media.image import read_image

    outcome = do(worker, clips / "eve.png", "p/eve")
    assert list(outcome.outputs) == ["p/eve/arkit.json", "p/eve/capture.npz"]
    settings = QUICK.photo(tmp_path / "single", worker._setup.models)
    fit_and_write(open_reconstructor(settings, quiet=True), read_image(clips / "eve.png"), settings, "eve")
    for name in ("arkit.json", "capture.npz"):
        ours, theirs = tmp_path / "out" / "p" / "eve" / name, tmp_path / "single" / "eve" / name
        assert ours.read_bytes() == theirs.read_bytes()
    assert files(tmp_path / "out") == set(outcome.outputs)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("wall.mp4", "NoFaceError", "no face"),
        ("text.mp4", "InputError", "text.mp4"),
        ("x.mp4", "InputError", "no such"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_nothing(
    worker: Worker, clips: Path, tmp_path: Path, name: str, error: str, words: str
) -> None:
    outcome = do(worker, clips / name, "sub/x")
    assert (outcome.error, outcome.again, outcome.outputs) == (error, False, {})
    assert words in outcome.reason and "\n" not in outcome.reason
    assert files(tmp_path / "out") == set()


def test_a_fault_of_ours_may_be_tried_again(
    worker: Worker, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(work_module, "_parts", fail)
    outcome = do(worker, clips / "eve.mp4", "x")
    assert (outcome.error, outcome.again) == ("MemoryError", True)


# ---- from and to other places ----


@pytest.fixture
def bucket(clips: Path) -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.pipe("/takes/eve.mp4", (clips / "eve.mp4").read_bytes())
    store.pipe("/takes/eve.png", (clips / "eve.png").read_bytes())
    yield "memory://takes"
    store.rm("/takes", recursive=True)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_from_and_to_elsewhere_the_results_are_the_same(
    worker: Worker, loaded: Worker, clips: Path, tmp_path: Path, bucket: str, scratch: Path
) -> None:
    here = do(worker, clips / "eve.mp4", "eve")
    far = into(loaded, f"{bucket}/out")
    for name, given in (("eve", "eve.mp4"), ("a/p", "eve.png")):
        outcome = do(far, f"{bucket}/{given}", name)
        assert outcome.error == "", outcome.reason
    store = fsspec.filesystem("memory")
    for name in here.outputs:
        assert store.cat(f"/takes/out/{name}") == (tmp_path / "out" / name).read_bytes()
    assert {one.rpartition("/out/")[2] for one in store.find("/takes/out")} == {
        *here.outputs, "a/p/arkit.json", "a/p/capture.npz",
    }  # fmt: skip
    assert do(worker, f"{bucket}/eve.mp4", "eve").facts["skipped"] is True, "the same clip, wherever it lies"
    assert list(scratch.iterdir()) == []


def test_too_large_or_missing_at_a_url_is_told(
    loaded: Worker, tmp_path: Path, bucket: str, scratch: Path
) -> None:
    small = into(loaded, str(tmp_path / "out"), max_bytes=100)
    assert "--max-size" in do(small, f"{bucket}/eve.mp4", "x").reason
    assert "no such file" in do(small, f"{bucket}/gone.mp4", "x").reason
    unsteady = do(small, "http://127.0.0.1:9/a.mp4", "x")
    assert unsteady.error == "InputError" and (unsteady.again or "no such file" in unsteady.reason)
    assert list(scratch.iterdir()) == []


def test_what_a_killed_worker_left_behind_is_removed(loaded: Worker, scratch: Path) -> None:
    dead, live = scratch / "recon3d-batch-00", scratch / "recon3d-batch-11"
    for folder in (dead, live, scratch / "mine"):
        folder.mkdir()
    with locked(live.with_name("recon3d-batch-11.lock")):
        work_module._remove_leftovers()
        assert sorted(one.name for one in scratch.iterdir()) == ["mine", live.name, f"{live.name}.lock"]


# ---- two at one item ----


def test_a_second_worker_waits_for_the_first(worker: Worker, clips: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    lock = place / f"{work_module._hidden_name('eve')}whole0.lock"
    outcomes: list[Outcome] = []
    with locked(lock):
        second = threading.Thread(target=lambda: outcomes.append(do(worker, clips / "eve.mp4", "eve")))
        second.start()
        time.sleep(0.5)
        assert not outcomes and not (place / "eve").exists()
    second.join()
    assert outcomes[0].error == "" and not lock.exists()


def test_what_an_item_left_unfinished_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for stem in ("eve", "adam"):
        (tmp_path / f"{work_module._hidden_name(stem)}01234567").mkdir()
        (tmp_path / stem).mkdir()
    clear(tmp_path, "eve")
    assert {one.name for one in tmp_path.iterdir()} == {
        "eve", "adam", f"{work_module._hidden_name('adam')}01234567",
    }  # fmt: skip


def test_a_worker_that_does_not_see_the_results_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "probe").write_text("same")
    with pytest.raises(UsageError, match="does not see this folder"):
        Setup(str(tmp_path), Models(), 1, ("probe", "other"))()
    with pytest.raises(UsageError, match="does not see this folder"):
        Setup(str(tmp_path / "elsewhere"), Models(), 1, ("probe", "same"))()


def test_a_worker_of_another_version_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"install the same everywhere"):
        Setup(str(tmp_path), Models(), 1, version="0.0.0")()


# ---- long clips ----


@pytest.mark.slow
def test_the_parts_of_a_long_clip_are_done_by_whoever_comes_and_joined(
    worker: Worker, loaded: Worker, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon3d._records import CHUNK
    from recon3d.parts import plan_clip

    long = write_clip(tmp_path / "long.mp4", face_frames(2 * CHUNK + 30, (96, 72)))
    monkeypatch.setattr(work_module, "_parts", lambda path, task: plan_clip(path, length=CHUNK))
    assert do(worker, long, "x/long").parts == 2
    assert not (tmp_path / "out" / "x" / "long").exists()
    for part in (1, 0):
        outcome = do(worker, long, "x/long", step="part", part=part)
        assert (outcome.error, outcome.outputs) == ("", {})
    done = do(worker, long, "x/long", step="finish")
    assert done.error == "" and done.frames == 2 * CHUNK + 30
    assert files(tmp_path / "out") == {"x/long/livelink.csv", "x/long/capture.npz"}
    # Where no folder is shared, one worker does all of it, and the same comes out.
    far = do(into(loaded, f"{bucket}/out"), long, "x/long")
    assert far.error == "" and far.parts == 0
    data = fsspec.filesystem("memory").cat("/takes/out/x/long/capture.npz")
    assert data == (tmp_path / "out" / "x" / "long" / "capture.npz").read_bytes()
