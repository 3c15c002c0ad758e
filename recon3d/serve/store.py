"""The queue: one row a job in SQLite. Whatever has been answered to a client survives a restart."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from recon3d.errors import OutputError, UsageError
from recon3d.media._open import shown
from recon3d.serve.schema import Kind, Options, State
from recon3d.serve.storage import Stored

#: Of the table's layout, and of what its JSON holds; files of another one are refused.
_LAYOUT = 1
_TABLE = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    options TEXT NOT NULL,
    state TEXT NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    error TEXT,
    frames INTEGER NOT NULL DEFAULT 0,
    files TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX by_state ON jobs (state, number);
"""
#: A job that was running this often when the server was killed may be the reason.
_CHANCES = 3
_FATAL = ": the server was killed while it worked on this, again and again"
_OPEN = (State.waiting.value, State.running.value)


@dataclass(frozen=True)
class NewJob:
    """A job that is to be queued; ``size`` is in bytes."""

    id: str
    name: str
    kind: Kind
    size: int
    options: Options


@dataclass(frozen=True)
class Record:
    """A row of the queue; the times are seconds since 1970."""

    number: int
    id: str
    name: str
    kind: Kind
    size: int
    options: Options
    state: State
    deleted: bool
    attempts: int
    created: float
    started: float | None
    finished: float | None
    error: str | None
    frames: int
    files: tuple[Stored, ...]


class QueueFull(Exception):
    """As many jobs wait as may."""


class Store:
    """The queue. Thread-safe; every change outlives this process, however that ends."""

    def __init__(self, path: Path) -> None:
        """Open the queue, making it if need be. Jobs that were running when the last server ended wait again.

        Raises:
            UsageError: The file is something else, or of another version.
            OutputError: It cannot be written.
        """
        self._lock = threading.Lock()
        try:
            self._queue = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._queue.row_factory = sqlite3.Row
            self._queue.execute("PRAGMA journal_mode = WAL")
            self._queue.execute("PRAGMA synchronous = NORMAL")
            self._begin(path)
        except sqlite3.OperationalError as error:
            raise OutputError(f"{shown(path)}: cannot be used ({error}); choose another --data") from error
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{shown(path)}: not a queue of recon3d; choose another --data") from error

    def _begin(self, path: Path) -> None:
        with self._change() as queue:
            layout = queue.execute("PRAGMA user_version").fetchone()[0]
            if layout == 0:
                for statement in filter(None, map(str.strip, _TABLE.split(";"))):
                    queue.execute(statement)
                queue.execute(f"PRAGMA user_version = {_LAYOUT}")
            elif layout != _LAYOUT:
                raise UsageError(f"{shown(path)}: of another version; choose another folder for --data")
            queue.execute(
                "UPDATE jobs SET state = ?, finished = ?, error = name || ? "
                "WHERE state = ? AND attempts >= ?",
                (State.failed.value, time.time(), _FATAL, State.running.value, _CHANCES),
            )
            queue.execute(
                "UPDATE jobs SET state = ?, started = NULL WHERE state = ?",
                (State.waiting.value, State.running.value),
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._queue.close()

    # ---- changes ----

    def add(self, jobs: Sequence[NewJob], limit: int) -> None:
        """Queue jobs, all or none.

        Raises:
            QueueFull: With them more than ``limit`` jobs would wait or run.
        """
        now = time.time()
        with self._change() as queue:
            if _count_open(queue) + len(jobs) > limit:
                raise QueueFull
            queue.executemany(
                "INSERT INTO jobs (id, name, kind, size, options, state, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        job.id, job.name, job.kind.value, job.size, job.options.model_dump_json(),
                        State.waiting.value, now,
                    )
                    for job in jobs
                ],
            )  # fmt: skip

    def claim(self) -> Record | None:
        """Take the job that has waited longest; it runs from now on."""
        with self._change() as queue:
            found = queue.execute(
                "SELECT id FROM jobs WHERE state = ? AND NOT deleted ORDER BY number LIMIT 1",
                (State.waiting.value,),
            ).fetchone()
            if found is None:
                return None
            queue.execute(
                "UPDATE jobs SET state = ?, started = ?, attempts = attempts + 1 WHERE id = ?",
                (State.running.value, time.time(), found["id"]),
            )
            return _record(queue.execute("SELECT * FROM jobs WHERE id = ?", (found["id"],)).fetchone())

    def put_back(self, job: str, *, tried: bool) -> None:
        """Let a running job wait again, at its old place; ``tried``: that was one of its chances."""
        with self._change() as queue:
            queue.execute(
                "UPDATE jobs SET state = ?, started = NULL, attempts = attempts - ? "
                "WHERE id = ? AND state = ?",
                (State.waiting.value, int(not tried), job, State.running.value),
            )

    def finish(self, job: str, files: Sequence[Stored], frames: int) -> bool:
        """Note that a running job is done; False if it was no longer wanted."""
        listed = json.dumps([asdict(stored) for stored in files])
        return self._set(
            job, (State.running,), state=State.done.value, files=listed, frames=frames, finished=time.time()
        )

    def fail(self, job: str, error: str) -> bool:
        """Note that a running job has failed; False if it was no longer wanted."""
        return self._set(job, (State.running,), state=State.failed.value, error=error, finished=time.time())

    def cancel(self, job: str) -> bool:
        """Give up a job that waits or runs; False if there is none such."""
        return self._set(
            job, (State.waiting, State.running), state=State.cancelled.value, finished=time.time()
        )

    def delete(self, job: str) -> bool:
        """Hide a job for good; its row goes with its files. False if there is none such."""
        with self._change() as queue:
            queue.execute(
                "UPDATE jobs SET state = ?, finished = ? WHERE id = ? AND state IN (?, ?)",
                (State.cancelled.value, time.time(), job, *_OPEN),
            )
            done = queue.execute("UPDATE jobs SET deleted = 1 WHERE id = ? AND NOT deleted", (job,))
            return done.rowcount > 0

    def delete_old(self, finished_before: float) -> None:
        """Hide all jobs that were finished before a time."""
        with self._change() as queue:
            queue.execute(
                "UPDATE jobs SET deleted = 1 WHERE finished < ? AND state NOT IN (?, ?)",
                (finished_before, *_OPEN),
            )

    def forget(self, job: str) -> None:
        """Remove the row of a deleted job."""
        with self._change() as queue:
            queue.execute("DELETE FROM jobs WHERE id = ? AND deleted", (job,))

    def _set(self, job: str, states: Sequence[State], **values: object) -> bool:
        columns = ", ".join(f"{name} = ?" for name in values)  # names of our own, never a client's
        marks = ", ".join("?" for _ in states)
        with self._change() as queue:
            done = queue.execute(
                f"UPDATE jobs SET {columns} WHERE id = ? AND NOT deleted AND state IN ({marks})",
                (*values.values(), job, *(state.value for state in states)),
            )
            return done.rowcount > 0

    # ---- questions ----

    def get(self, job: str) -> Record | None:
        """Return a job, if there is one that is not deleted."""
        rows = self._ask("SELECT * FROM jobs WHERE id = ? AND NOT deleted", job)
        return _record(rows[0]) if rows else None

    def newest(self, limit: int, offset: int = 0) -> list[Record]:
        """Return jobs, the newest first."""
        rows = self._ask(
            "SELECT * FROM jobs WHERE NOT deleted ORDER BY number DESC LIMIT ? OFFSET ?", limit, offset
        )
        return [_record(row) for row in rows]

    def count(self, state: State | None = None) -> int:
        """Count the jobs (in a state)."""
        if state is None:
            return int(self._ask("SELECT COUNT(*) FROM jobs WHERE NOT deleted")[0][0])
        asked = "SELECT COUNT(*) FROM jobs WHERE state = ? AND NOT deleted"
        return int(self._ask(asked, state.value)[0][0])

    def open_jobs(self) -> int:
        """Count the jobs that wait or run."""
        with self._lock:
            return _count_open(self._queue)

    def waiting_numbers(self) -> list[int]:
        """Return the numbers of the jobs that wait, in the order in which they will be done."""
        rows = self._ask(
            "SELECT number FROM jobs WHERE state = ? AND NOT deleted ORDER BY number", State.waiting.value
        )
        return [row[0] for row in rows]

    def ids(self) -> list[str]:
        """Return the ids of all jobs, deleted ones included."""
        return [row[0] for row in self._ask("SELECT id FROM jobs")]

    def deleted_ids(self) -> list[str]:
        """Return the ids of the jobs whose files have to go."""
        return [row[0] for row in self._ask("SELECT id FROM jobs WHERE deleted")]

    def _ask(self, question: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._queue.execute(question, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within a transaction."""
        with self._lock:
            self._queue.execute("BEGIN IMMEDIATE")
            try:
                yield self._queue
            except BaseException:
                self._queue.execute("ROLLBACK")
                raise
            self._queue.execute("COMMIT")


def _count_open(queue: sqlite3.Connection) -> int:
    question = "SELECT COUNT(*) FROM jobs WHERE state IN (?, ?) AND NOT deleted"
    return int(queue.execute(question, _OPEN).fetchone()[0])


def _record(row: sqlite3.Row) -> Record:
    return Record(
        number=row["number"],
        id=row["id"],
        name=row["name"],
        kind=Kind(row["kind"]),
        size=row["size"],
        options=Options.model_validate_json(row["options"]),
        state=State(row["state"]),
        deleted=bool(row["deleted"]),
        attempts=row["attempts"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        error=row["error"],
        frames=row["frames"],
        files=tuple(Stored(**stored) for stored in json.loads(row["files"])),
    )
