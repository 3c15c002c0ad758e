"""The ledger of a batch: what is to be done and why, who may write, and what is no ledger."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_disk import files_of_at_most

import recon3d.batch.ledger as ledger_module
import recon3d.batch.plan as plan_module
from recon3d.batch.ledger import Changes, Row, is_at_work, open_ledger, read_ledger
from recon3d.batch.lock import Held, locked
from recon3d.batch.options import ItemOptions, Models
from recon3d.batch.plan import Plan, Planned
from recon3d.batch.source import Broken, Item
from recon3d.batch.status import read_status
from recon3d.errors import InputError, OutputError, UsageError


def item(name: str, mark: str = "1", uri: str | None = None, **options: object) -> Item:
    return Item(name, uri or f"/clips/{name}.mp4", "clip", mark, ItemOptions(**options))  # type: ignore[arg-type]


def register(out: Path, *items: Item | Broken, **plan: bool) -> Planned:
    """Begin a run and register items."""
    with open_ledger(out / "ledger.sqlite") as ledger:
        ledger.begin_run({"out": str(out)})
        return Plan(str(out), Models(), **plan).register(ledger, items)


def rows(out: Path) -> dict[str, Row]:
    with read_ledger(out / "ledger.sqlite") as ledger:
        return {row.id: row for row in ledger.rows()}


def end(out: Path, name: str, state: str = "done", error: str = "", begun: bool = True) -> None:
    """Write down that an item is done (with results that lie there), or failed."""
    with open_ledger(out / "ledger.sqlite") as ledger:
        place = next(row.place for row in ledger.rows() if row.id == name)
        changes = Changes([(place, 1)])
        sizes = {f"{name}/capture.npz": 4}
        if state == "done":
            (out / name).mkdir(parents=True, exist_ok=True)
            (out / name / "capture.npz").write_bytes(b"npz!")
        if state != "running":
            changes.ended.append({
                "place": place, "state": state, "attempts": 1, "error": error, "reason": error,
                "seconds": 1.5, "frames": 9, "facts": "{}",
                "outputs": json.dumps(sizes) if state == "done" else None,
            })  # fmt: skip
        ledger.write(changes)


def test_new_items_wait_in_the_order_of_the_source(tmp_path: Path) -> None:
    planned = register(tmp_path, item("b"), item("a"), Broken("m.csv:3", InputError("no path")))
    assert (planned.total, planned.due, len(planned.broken)) == (3, {"new": 2}, 1)
    assert [(row.id, row.state, row.why) for row in rows(tmp_path).values()] == [
        ("b", "waiting", "new"), ("a", "waiting", "new"),
    ]  # fmt: skip


def test_what_is_done_stays_done(tmp_path: Path) -> None:
    register(tmp_path, item("a"), item("b"))
    end(tmp_path, "a")
    planned = register(tmp_path, item("a"), item("b"), item("c"))
    assert planned.due == {"new": 2}
    assert {name: row.state for name, row in rows(tmp_path).items()} == {
        "a": "done", "b": "waiting", "c": "waiting",
    }  # fmt: skip


def test_why_a_done_item_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def due(given: Item, **plan: bool) -> dict[str, int]:
        end(tmp_path, "a")
        return dict(register(tmp_path, given, **plan).due)

    register(tmp_path, item("a"))
    assert due(item("a")) == {}
    assert due(item("a", mark="2")) == {"changed": 1}
    assert due(item("a", mark="2", smooth=0.1)) == {"options": 1}
    assert due(item("a", mark="2", smooth=0.1, refine=True)) == {}, "no clip depends on this one"
    assert due(item("a", mark="2", smooth=0.1), force=True) == {"forced": 1}
    end(tmp_path, "a")
    (tmp_path / "a" / "capture.npz").write_bytes(b"")
    assert register(tmp_path, item("a", mark="2", smooth=0.1)).due == {"missing": 1}
    end(tmp_path, "a")
    monkeypatch.setattr(plan_module, "__version__", "9.9")
    assert register(tmp_path, item("a", mark="2", smooth=0.1)).due == {"version": 1}
    monkeypatch.setattr(ledger_module, "__version__", "9.9")
    assert due(item("a", mark="2", smooth=0.1)) == {}


def test_a_failed_item_is_left_alone_unless_another_day_may_help(tmp_path: Path) -> None:
    names = {"input": "NoFaceError", "disk": "OutputError", "killer": "WorkerDied"}
    items = [item(name) for name in names]
    register(tmp_path, *items)
    for name, error in names.items():
        end(tmp_path, name, "poisoned" if name == "killer" else "failed", error)
    planned = register(tmp_path, *items)
    assert (planned.due, planned.aside) == ({"failed": 1}, 2)
    assert rows(tmp_path)["disk"].state == "waiting"
    assert register(tmp_path, *items, retry_failed=True).due == {"failed": 3}
    for name, error in names.items():
        end(tmp_path, name, "failed", error)
    assert register(tmp_path, *(replace(one, mark="2") for one in items)).due == {"changed": 3}


def test_what_a_killed_run_left_half_done_waits_again(tmp_path: Path) -> None:
    register(tmp_path, item("a"), item("b"))
    end(tmp_path, "a", "running")
    assert rows(tmp_path)["a"].state == "running"
    assert register(tmp_path, item("a"), item("b")).due == {"interrupted": 1, "new": 1}
    register(tmp_path, item("a"), force=True)
    end(tmp_path, "a", "running")
    assert register(tmp_path, item("a")).due == {"forced": 1}, "what lies there is still not to be believed"


def test_results_of_another_source_are_not_written_over(tmp_path: Path) -> None:
    register(tmp_path, item("a"))
    end(tmp_path, "a")
    with pytest.raises(UsageError, match=r"a is the result of /clips/a.mp4, not of /other/a.mp4"):
        register(tmp_path, item("new"), item("a", mark="2", uri="/other/a.mp4"))
    assert set(rows(tmp_path)) == {"a"}, "nothing of that run is taken down"
    assert register(tmp_path, item("a", uri="/moved/a.mp4")).due == {}, "moved, and not changed"
    assert rows(tmp_path)["a"].uri == "/moved/a.mp4"


def test_items_of_other_sources_stay_in_the_ledger_and_are_not_done(tmp_path: Path) -> None:
    register(tmp_path, item("a"))
    register(tmp_path, item("b"))
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        assert [row.id for row in ledger.waiting(-1, 10)] == ["b"]
        assert ledger.counts()["waiting"] == 2 and ledger.counts(this_run=True)["waiting"] == 1


def test_only_one_run_at_a_time_and_readers_always(tmp_path: Path) -> None:
    register(tmp_path, item("a"))
    path = tmp_path / "ledger.sqlite"
    assert not is_at_work(path)
    with open_ledger(path):
        assert is_at_work(path)
        with pytest.raises(
            UsageError, match=rf"another recon3d batch is at work on it \(process {os.getpid()}\)"
        ):
            open_ledger(path)
        assert set(rows(tmp_path)) == {"a"}
    assert not is_at_work(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ledger.sqlite"]


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from recon3d.batch.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True); input()"
    )
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    with pytest.raises(Held), locked(path):
        pass
    process.kill()
    process.communicate()
    assert path.exists()
    with locked(path, wait=1.0):
        pass
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"", b"text, not a database" * 50, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_what_is_no_ledger_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(InputError, match="damaged, or no ledger") as told:
            open_ledger(path)
        assert "\n" not in str(told.value)
        assert path.read_bytes() == content
    with pytest.raises(InputError):
        read_ledger(path)
    with pytest.raises(InputError, match="no such ledger"):
        read_ledger(tmp_path / "other.sqlite")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE mine (x)")
    base.close()
    before = path.read_bytes()
    for opener in (open_ledger, read_ledger):
        with pytest.raises(InputError, match="no ledger of recon3d"):
            opener(path)
    assert path.read_bytes() == before


def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    register(tmp_path, *(item(f"clip-{k}") for k in range(400)))
    path = tmp_path / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 8 * 4096] = bytes(5 * 4096)
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged, or no ledger"), open_ledger(path) as ledger:
        list(ledger.rows())
    with pytest.raises(InputError, match="damaged, or no ledger"):
        read_status(str(tmp_path))


def test_a_full_disk_is_told_and_the_ledger_stays_whole(tmp_path: Path) -> None:
    register(tmp_path, item("a"))
    with files_of_at_most(40_000), pytest.raises(OutputError, match=r"ledger\.sqlite"):
        register(tmp_path, *(item(f"clip-{k}") for k in range(1000)))
    assert set(rows(tmp_path)) == {"a"}


def test_a_ledger_that_a_killed_process_was_writing_is_read(tmp_path: Path) -> None:
    register(tmp_path, item("a"))
    program = (
        "import os, sys; from pathlib import Path; from recon3d.batch.ledger import open_ledger\n"
        "ledger = open_ledger(Path(sys.argv[1]) / 'ledger.sqlite'); base = ledger._base\n"
        "base.execute('PRAGMA cache_size = 1'); base.execute('BEGIN IMMEDIATE')\n"
        "for k in range(3000):\n"
        '    base.execute("INSERT INTO items (id, uri, kind, mark, options, settings, run, state, why) "\n'
        "                 \"VALUES (?, 'u', 'clip', '', '', '', 1, 'waiting', 'new')\", (f'x{k}',))\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert (tmp_path / "ledger.sqlite-journal").stat().st_size > 0
    assert set(rows(tmp_path)) == {"a"}


def test_status_says_what_would_be_done_again(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    from recon3d.batch.source import local_mark

    items = []
    for name in ("fine", "changed", "gone", "missing", "killer", "wait"):
        (clips / f"{name}.mp4").write_bytes(b"clip")
        items.append(item(name, local_mark(clips / f"{name}.mp4"), str(clips / f"{name}.mp4")))
    register(tmp_path, *items)
    for name in ("fine", "changed", "gone", "missing"):
        end(tmp_path, name)
    end(tmp_path, "killer", "poisoned", "WorkerDied")
    (clips / "changed.mp4").write_bytes(b"another")
    for path in (tmp_path / "missing" / "capture.npz", tmp_path / "gone" / "capture.npz", clips / "gone.mp4"):
        path.unlink()
    status = read_status(str(tmp_path))
    assert status.counts == {"waiting": 1, "running": 0, "done": 4, "failed": 0, "poisoned": 1}
    assert status.due == {"changed": 1, "source gone": 1, "missing": 1, "new": 1}
    assert [row.id for row in status.failed] == ["killer"]
    assert (status.seconds, status.frames, status.at_work, status.checked) == (6.0, 36, False, True)
