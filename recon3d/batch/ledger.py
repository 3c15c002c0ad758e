"""The ledger of a batch: an SQLite file with a row an item: what is to be done, and what was done, how.

One process writes, the coordinator, which holds a lock beside the file; others may read meanwhile. There is a
rollback journal and no write-ahead log, because a log needs memory that all its users share, and the folder
may lie on another machine. What is committed has reached the disk. Nothing is ordered by the time of day.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from recon3d._version import __version__
from recon3d.batch.lock import Held, locked
from recon3d.errors import InputError, OutputError, Recon3DError, UsageError
from recon3d.media._open import shown

State = Literal["waiting", "running", "done", "failed", "poisoned"]
#: Why an item is to be done (again).
Why = Literal["new", "interrupted", "changed", "options", "version", "missing", "failed", "forced"]
STATES: tuple[State, ...] = ("waiting", "running", "done", "failed", "poisoned")
#: For these the results that lie there are not to be believed.
ANEW: tuple[Why, ...] = ("version", "forced")

FORMAT = "recon3d-ledger/1"
#: Marks the file as ours, for SQLite's own tools and for us: "rc3d".
_APPLICATION = 0x72633364
#: Seconds that a reader and the writer wait for each other.
_PATIENCE = 30.0
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    place INTEGER PRIMARY KEY,      -- the order in which they are done
    id TEXT NOT NULL UNIQUE,
    uri TEXT NOT NULL,
    kind TEXT NOT NULL,
    mark TEXT NOT NULL,             -- changes with the source file
    options TEXT NOT NULL,          -- JSON: what the item asks for
    settings TEXT NOT NULL,         -- JSON: all that the results depend on
    run INTEGER NOT NULL,           -- the last run whose source named it
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '', -- name of the error's class
    reason TEXT NOT NULL DEFAULT '',
    version TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0,
    frames INTEGER NOT NULL DEFAULT 0,
    facts TEXT NOT NULL DEFAULT '{}',
    outputs TEXT NOT NULL DEFAULT '{}', -- JSON: size by path under the folder of the results
    begun REAL,                     -- seconds since 1970, for people to read
    ended REAL
);
CREATE INDEX by_state ON items (run, state, place);
"""
_RELEASE = """
UPDATE items SET state = 'waiting', attempts = 0,
    why = CASE WHEN why IN ('version', 'forced') THEN why ELSE 'interrupted' END
WHERE state = 'running'
"""


@dataclass(frozen=True)
class Row:
    """An item in the ledger; the names are those of its columns."""

    place: int
    id: str
    uri: str
    kind: str
    mark: str
    options: str
    settings: str
    run: int
    state: State
    why: Why
    attempts: int
    error: str
    reason: str
    version: str
    seconds: float
    frames: int
    facts: str
    outputs: str
    begun: float | None
    ended: float | None

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size of each file written, by its path under the folder of the results."""
        return dict(json.loads(self.outputs))


_COLUMNS = ", ".join(Row.__dataclass_fields__)


@dataclass(frozen=True)
class Wish:
    """An item as a source names it.

    Attributes:
        id: Its name.
        uri: Where it is.
        kind: Clip or photo.
        mark: Changes with the file.
        options: What it asks for, as JSON.
        settings: All that the results depend on, as JSON.
    """

    id: str
    uri: str
    kind: str
    mark: str
    options: str
    settings: str


@dataclass
class Changes:
    """What is written at once."""

    begun: list[tuple[int, int]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.begun or self.ended)


class Ledger:
    """An open ledger. A context manager; what it raises is one line, an ``OutputError`` or ``InputError``."""

    def __init__(self, path: Path, base: sqlite3.Connection, stack: ExitStack) -> None:
        """Use ``open_ledger`` or ``read_ledger`` instead."""
        self.path, self._base, self._stack = path, base, stack
        self.run = int(self.fact("run") or 0)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def fact(self, name: str) -> str | None:
        """Return a fact about the whole batch."""
        with _plain(self.path):
            row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def begin_run(self, facts: Mapping[str, str]) -> None:
        """Count a run, and note facts about it. What an earlier one left half-done is to be done again."""
        with self._written():
            self.run += 1
            for name, value in {**facts, "run": str(self.run)}.items():
                self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
            self._base.execute(_RELEASE)

    def release(self) -> None:
        """Note that nothing is worked on any more: what was not finished waits again."""
        with self._written():
            self._base.execute(_RELEASE)

    @contextmanager
    def registration(self) -> Iterator[Registration]:
        """Register the items of a run: all of them, or, where the block raises, none."""
        with self._written():
            yield Registration(self._base, self.run)

    def write(self, changes: Changes) -> None:
        """Write down what was begun and what became of it."""
        if not changes:
            return
        with self._written():
            self._base.executemany(
                "UPDATE items SET state = 'running', attempts = ?2, begun = ?3 WHERE place = ?1",
                [(place, attempts, time.time()) for place, attempts in changes.begun],
            )
            self._base.executemany(
                "UPDATE items SET state = :state, attempts = :attempts, error = :error, reason = :reason, "
                "version = :version, seconds = :seconds, frames = :frames, facts = :facts, "
                "outputs = COALESCE(:outputs, outputs), ended = :ended WHERE place = :place",
                [{"version": __version__, "ended": time.time(), **one} for one in changes.ended],
            )

    def waiting(self, after: int, count: int) -> list[Row]:
        """Return the next items of this run that wait, beyond a place, in order."""
        return self._rows(
            "WHERE run = ? AND state = 'waiting' AND place > ? ORDER BY place LIMIT ?", self.run, after, count
        )

    def rows(self, state: State | None = None) -> Iterator[Row]:
        """Yield all items, or those in a state, in order; a few hundred at a time are read."""
        after = -1
        while True:
            if state is None:
                page = self._rows("WHERE place > ? ORDER BY place LIMIT 500", after)
            else:
                page = self._rows("WHERE place > ? AND state = ? ORDER BY place LIMIT 500", after, state)
            yield from page
            if not page:
                return
            after = page[-1].place

    def counts(self, *, this_run: bool = False) -> dict[State, int]:
        """Return how many items are in each state."""
        where, given = ("WHERE run = ?", (self.run,)) if this_run else ("", ())
        with _plain(self.path):
            found = dict(
                self._base.execute(f"SELECT state, COUNT(*) FROM items {where} GROUP BY state", given)
            )
        return {state: found.get(state, 0) for state in STATES}

    def sums(self) -> tuple[float, int]:
        """Return the workers' seconds and the frames of all that is done."""
        with _plain(self.path):
            row = self._base.execute(
                "SELECT TOTAL(seconds), COALESCE(SUM(frames), 0) FROM items WHERE state = 'done'"
            ).fetchone()
        return float(row[0]), int(row[1])

    def _rows(self, rest: str, *given: object) -> list[Row]:
        with _plain(self.path):
            return [Row(*row) for row in self._base.execute(f"SELECT {_COLUMNS} FROM items {rest}", given)]

    @contextmanager
    def _written(self) -> Iterator[None]:
        with _plain(self.path):
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise


class Registration:
    """Takes down the items of a run, in the order in which they are to be done."""

    def __init__(self, base: sqlite3.Connection, run: int) -> None:
        self._base, self._run = base, run
        self._next = int(base.execute("SELECT COALESCE(MAX(place), 0) FROM items").fetchone()[0]) + 1

    def known(self, name: str) -> Row | None:
        """Return what is known of an item."""
        row = self._base.execute(f"SELECT {_COLUMNS} FROM items WHERE id = ?", (name,)).fetchone()
        return None if row is None else Row(*row)

    def add(self, wish: Wish, known: Row | None, why: Why | None) -> None:
        """Take down an item; ``why`` it is to be done, or None if it is not."""
        facts = (wish.uri, wish.kind, wish.mark, wish.options, wish.settings, self._run)
        if known is None:
            self._base.execute(
                "INSERT INTO items (place, id, uri, kind, mark, options, settings, run, state, why) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?)",
                (self._next, wish.id, *facts, why or "new"),
            )
            self._next += 1
        elif why is None:
            self._base.execute(
                "UPDATE items SET uri = ?, kind = ?, mark = ?, options = ?, settings = ?, run = ? "
                "WHERE place = ?",
                (*facts, known.place),
            )
        else:
            self._base.execute(
                "UPDATE items SET uri = ?, kind = ?, mark = ?, options = ?, settings = ?, run = ?, "
                "state = 'waiting', why = ?, attempts = 0, error = '', reason = '' WHERE place = ?",
                (*facts, why, known.place),
            )


def open_ledger(path: Path) -> Ledger:
    """Open a ledger to write, creating it where there is none. While it is open nobody else can.

    Raises:
        UsageError: Another run has it open.
        InputError: The file is damaged, or not ours.
        OutputError: It cannot be written.
    """
    stack = ExitStack()
    try:
        lock = path.with_name(path.name + ".lock")
        try:
            stack.enter_context(locked(lock, f"process {os.getpid()}", wait=1.0))
        except Held as held:
            raise UsageError(
                f"{shown(path.parent)}: another recon3d batch is at work on it ({held or 'unknown'}); "
                "wait for its end, or end it"
            ) from held
        base = _connect(path, "rwc", stack)
        with _plain(path):
            base.execute("PRAGMA journal_mode = DELETE")
            base.execute("PRAGMA synchronous = FULL")
            _create_or_check(path, base)
        return Ledger(path, base, stack)
    except BaseException:
        stack.close()
        raise


def read_ledger(path: Path) -> Ledger:
    """Open a ledger to read, also while a run writes it.

    Raises:
        InputError: There is none, it is damaged, or not ours.
    """
    if not path.is_file():
        raise InputError(f"{shown(path)}: no such ledger; is this the folder of a batch?")
    stack = ExitStack()
    try:
        # To be able to roll back what a killed run left; where the disk is read-only, as it is.
        base = _connect(path, "rw" if os.access(path, os.W_OK) else "ro", stack)
        with _plain(path):
            _check(path, base)
        return Ledger(path, base, stack)
    except BaseException:
        stack.close()
        raise


def is_at_work(path: Path) -> bool:
    """Tell whether a run has the ledger open."""
    lock = path.with_name(path.name + ".lock")
    if not lock.is_file():
        return False
    try:
        with locked(lock):
            return False
    except Held:
        return True
    except Recon3DError:
        return False


def _connect(path: Path, mode: str, stack: ExitStack) -> sqlite3.Connection:
    with _plain(path):
        name = f"{path.absolute().as_uri()}?mode={mode}"
        base = sqlite3.connect(name, uri=True, timeout=_PATIENCE, isolation_level=None)
    stack.callback(base.close)
    return base


def _create_or_check(path: Path, base: sqlite3.Connection) -> None:
    base.execute("BEGIN IMMEDIATE")
    try:
        empty = base.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty:
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    base.execute(statement)
            base.execute("INSERT INTO facts VALUES ('format', ?)", (FORMAT,))
            base.execute(f"PRAGMA application_id = {_APPLICATION}")
        else:
            _check(path, base)
        base.execute("COMMIT")
    except BaseException:
        if base.in_transaction:
            base.execute("ROLLBACK")
        raise


def _check(path: Path, base: sqlite3.Connection) -> None:
    """Find out whether a database is a ledger, and whole.

    Raises:
        InputError: It is not.
    """
    if base.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
        raise InputError(f"{shown(path)}: an SQLite file, but no ledger of recon3d; choose another place")
    told = base.execute("SELECT value FROM facts WHERE name = 'format'").fetchone()
    if told is None or told[0] != FORMAT:
        said = None if told is None else told[0]
        raise InputError(f"{shown(path)}: a ledger of format {said!r}, this is {FORMAT}; update recon3d")
    found = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _damaged(path, found)


@contextmanager
def _plain(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line each."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            raise OutputError(f"{shown(path)}: no space left on the disk; free some and run again") from error
        if "malformed" in text:
            raise _damaged(path, text) from error
        if "readonly" in text or "unable to open" in text or "disk I/O" in text:
            raise OutputError(
                f"{shown(path)}: cannot be written ({text}); choose another --ledger"
            ) from error
        if "locked" in text:
            raise OutputError(f"{shown(path)}: another program keeps it locked; close that") from error
        raise _damaged(path, text) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, detail: object) -> InputError:
    return InputError(
        f"{shown(path)}: damaged, or no ledger ({detail}); move it away and run again: what lies there "
        "complete is found, and not done twice"
    )
