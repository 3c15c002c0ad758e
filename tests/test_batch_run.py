"""The coordinator of a batch over real processes: nothing is lost whoever dies, and nothing done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_tasks import Acts, enter, noted, run

from recon3d.batch.ledger import Ledger, open_ledger, read_ledger
from recon3d.batch.pool import ProcessPool, StartFailed
from recon3d.batch.run import Limits
from recon3d.errors import AssetError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.sqlite") as opened:
        opened.begin_run({})
        yield opened


def pool(folder: Path, workers: int = 2) -> ProcessPool:
    return ProcessPool(Acts(str(folder)), workers)


def states(ledger: Ledger) -> dict[str, str]:
    return {row.id: row.state for row in ledger.rows()}


def test_all_items_are_done_once_and_written_down(ledger: Ledger, tmp_path: Path) -> None:
    names = [f"ok-{k}" for k in range(300)]
    enter(ledger, names)
    told = run(ledger, pool(tmp_path), tmp_path)
    assert sorted(name for name, *_ in noted(tmp_path)) == sorted(names)
    assert set(told.states.values()) == {"done"} and len(told.states) == 300
    assert ledger.counts() == {"waiting": 0, "running": 0, "done": 300, "failed": 0, "poisoned": 0}
    row = next(ledger.rows())
    assert (row.frames, row.seconds, row.attempts, row.reason) == (10, 0.25, 1, "")
    assert row.sizes == {"ok-0/capture.npz": 3}
    assert row.begun is not None and row.ended is not None


def test_there_are_never_more_tasks_out_than_workers(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, [f"slow-{k}" for k in range(6)])
    most = 0
    watched = pool(tmp_path)
    give = watched.give
    running: set[int] = set()

    def counted(task: object) -> None:
        nonlocal most
        give(task)  # type: ignore[arg-type]
        running.clear()
        running.update(id(w) for w in watched._workers if w.task is not None)
        most = max(most, len(running))

    watched.give = counted  # type: ignore[method-assign,assignment]
    run(ledger, watched, tmp_path)
    assert most == 2
    assert ledger.counts()["done"] == 6


def test_an_item_whose_worker_is_killed_is_tried_again(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["once-1", *(f"ok-{k}" for k in range(10))])
    told = run(ledger, pool(tmp_path), tmp_path)
    assert set(states(ledger).values()) == {"done"}
    assert [name for name, *_ in noted(tmp_path)].count("once-1") == 2
    ((name, attempt, reason),) = told.tries
    assert (name, attempt) == ("once-1", 2) and "SIGKILL" in reason
    assert next(row for row in ledger.rows() if row.id == "once-1").attempts == 2


def test_an_item_that_always_kills_is_set_aside_and_the_rest_is_done(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["kill-1", *(f"ok-{k}" for k in range(10)), "kill-2"])
    told = run(ledger, pool(tmp_path), tmp_path, Limits(retries=1))
    assert {name: state for name, state in states(ledger).items() if state != "done"} == {
        "kill-1": "poisoned", "kill-2": "poisoned",
    }  # fmt: skip
    for name in ("kill-1", "kill-2"):
        assert [one for one, *_ in noted(tmp_path)].count(name) == 2
        assert "its worker died (SIGKILL" in told.outcomes[name].reason
    row = next(row for row in ledger.rows() if row.id == "kill-1")
    assert (row.attempts, row.error) == (2, "WorkerDied") and "SIGKILL" in row.reason


def test_an_item_that_hangs_is_ended_after_its_time(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["hangonce-1", "hang-1", "ok-1"])
    begun = time.monotonic()
    told = run(ledger, pool(tmp_path), tmp_path, Limits(retries=1, timeout=0.7))
    assert states(ledger) == {"hangonce-1": "done", "hang-1": "poisoned", "ok-1": "done"}
    assert "took longer than 0.7 s (--timeout)" in told.outcomes["hang-1"].reason
    assert time.monotonic() - begun < 30


def test_an_input_error_is_not_tried_again_and_a_passing_one_is(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["bad-1", "flaky-1", "ok-1"])
    run(ledger, pool(tmp_path, 1), tmp_path)
    assert states(ledger) == {"bad-1": "failed", "flaky-1": "done", "ok-1": "done"}
    tasks = [name for name, *_ in noted(tmp_path)]
    assert (tasks.count("bad-1"), tasks.count("flaky-1")) == (1, 3)
    row = next(row for row in ledger.rows() if row.id == "bad-1")
    assert (row.error, row.reason) == ("InputError", "/clips/bad-1.mp4: not a clip")


def test_a_long_clip_is_done_in_parts_and_finished_last(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["long-1", "ok-1"])
    run(ledger, pool(tmp_path), tmp_path)
    assert states(ledger) == {"long-1": "done", "ok-1": "done"}
    steps = [(step, part) for name, step, part in noted(tmp_path) if name == "long-1"]
    assert steps[0] == ("whole", 0) and steps[-1] == ("finish", 0)
    assert sorted(steps[1:-1]) == [("part", 0), ("part", 1), ("part", 2)]
    assert next(row for row in ledger.rows() if row.id == "long-1").seconds == pytest.approx(1.0)


def test_a_long_clip_with_a_bad_part_fails_as_a_whole(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["longbad-1", "ok-1"])
    run(ledger, pool(tmp_path), tmp_path)
    assert states(ledger) == {"longbad-1": "failed", "ok-1": "done"}
    assert "finish" not in [step for _, step, _ in noted(tmp_path)]


def test_workers_that_cannot_start_end_the_run_in_one_line(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["ok-1"])
    (tmp_path / "no-start").touch()
    with pytest.raises(AssetError, match="the networks are not there"):
        run(ledger, pool(tmp_path), tmp_path)
    assert states(ledger) == {"ok-1": "waiting"}


def test_workers_that_die_at_the_start_end_the_run(ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, ["ok-1"])
    (tmp_path / "die-at-start").touch()
    with pytest.raises(StartFailed, match=r"die while they start \(SIGKILL"):
        run(ledger, pool(tmp_path), tmp_path)
    assert states(ledger) == {"ok-1": "waiting"}


_PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from batch_tasks import Acts, enter, run
from recon3d.batch.ledger import open_ledger
from recon3d.batch.pool import ProcessPool
folder = Path({folder!r})
if __name__ == "__main__":
    with open_ledger(folder / "ledger.sqlite") as ledger:
        ledger.begin_run({{}})
        enter(ledger, [f"slow-{{k}}" for k in range(40)])
        run(ledger, ProcessPool(Acts(str(folder)), 2), folder)
"""


def test_a_killed_run_leaves_no_worker_behind_and_loses_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    process = subprocess.Popen([sys.executable, str(program)])
    while len(noted(tmp_path)) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    workers = {int(line.split()[3]) for line in (tmp_path / "noted").read_text().splitlines()}
    until = time.monotonic() + 5
    while any(_lives(one) for one in workers):
        assert time.monotonic() < until
        time.sleep(0.02)
    with read_ledger(tmp_path / "ledger.sqlite") as left:
        before = left.counts()
        done = {row.id for row in left.rows("done")}
    assert before["running"] >= 1 and before["done"] + before["running"] + before["waiting"] == 40
    (tmp_path / "noted").unlink()
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin_run({})
        assert ledger.counts()["running"] == 0
        assert {row.why for row in ledger.rows("waiting")} == {"new", "interrupted"}
        with ledger._written():  # all of them belong to this run
            ledger._base.execute("UPDATE items SET run = ?, id = REPLACE(id, 'slow', 'ok')", (ledger.run,))
        run(ledger, pool(tmp_path), tmp_path)
        assert ledger.counts()["done"] == 40
    again = {name.replace("ok", "slow") for name, *_ in noted(tmp_path)}
    assert not again & done and len(again) == 40 - len(done)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
