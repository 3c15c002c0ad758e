"""The coordinator of a batch: gives tasks to a pool's workers and writes down what becomes of them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from recon3d.batch.ledger import ANEW, Changes, Ledger, Row, State
from recon3d.batch.options import ItemOptions, Kind
from recon3d.batch.pool import Died, Ended, Event, Pool, Told
from recon3d.batch.storage import local_path, remove
from recon3d.batch.task import Outcome, Step, Task
from recon3d.batch.work import clear
from recon3d.errors import Recon3DError

#: Rows that are read from the ledger at a time: so much of a batch is in memory.
_PAGE = 200
#: Seconds between two looks at the clock while nothing happens.
_LOOK = 0.5
#: Seconds without a worker after which that is told.
_HELD_UP = 60.0
#: An item may lose so many workers to machines that vanish, beside those that it may have killed itself.
_VANISHED = 20


@dataclass(frozen=True)
class Limits:
    """When a coordinator gives up on an item.

    Attributes:
        retries: Tries after the first one, where another may help.
        timeout: Seconds that a task may take, or None.
    """

    retries: int = 2
    timeout: float | None = None


class Listener(Protocol):
    """Who is told how a batch goes on."""

    def told(self, name: str, step: str, done: int, total: int | None) -> None:
        """A worker is so far with an item."""

    def held_up(self) -> None:
        """No worker has had time for anything yet."""

    def again(self, row: Row, attempt: int, reason: str) -> None:
        """An item is tried again."""

    def over(self, row: Row, state: State, outcome: Outcome) -> None:
        """An item is done, or given up."""


@dataclass
class _Job:
    """An item that is being worked on."""

    row: Row
    options: ItemOptions
    deaths: dict[tuple[int, Step, int], int] = field(default_factory=dict)
    tries: int = 1
    vanished: int = 0
    parts_left: set[int] = field(default_factory=set)
    seconds: float = 0.0
    over: bool = False

    def task(self, step: Step = "whole", part: int = 0) -> Task:
        """Return a task of the item."""
        kind: Kind = "clip" if self.row.kind == "clip" else "photo"
        force = self.row.why in ANEW
        return Task(self.row.place, self.row.id, self.row.uri, kind, self.options, force, step, part)


@dataclass
class _Given:
    """A task that a worker has."""

    task: Task
    job: _Job
    until: float | None


class Coordinator:
    """Does all items of a run that wait in the ledger. There are never more tasks out than workers."""

    def __init__(self, ledger: Ledger, pool: Pool, out: str, limits: Limits, listener: Listener) -> None:
        """Use an open ledger, whose items are registered, and a pool; ``out`` is where results go."""
        self._ledger, self._pool, self._out = ledger, pool, out
        self._limits, self._listener = limits, listener
        self._jobs: dict[int, _Job] = {}
        self._given: dict[tuple[int, Step, int], _Given] = {}
        self._ready: deque[tuple[Task, _Job]] = deque()
        self._page: deque[Row] = deque()
        self._after = -1
        self._left = ledger.counts(this_run=True)["waiting"]
        self._changes = Changes()

    def run(self) -> None:
        """Do the items.

        Raises:
            Recon3DError: Workers cannot start, or the ledger cannot be written.
        """
        begun: float | None = time.monotonic()
        try:
            while self._feed() or self._given:
                if self._given:
                    begun = None
                elif begun is not None and time.monotonic() - begun > _HELD_UP:
                    begun = None
                    self._listener.held_up()
                for event in self._pool.events(self._wait()):
                    self._take(event)
                self._feed()  # before the disk is waited for
                self._end_late_ones()
                self._write()
        finally:
            with suppress(Recon3DError):  # the run ends for a reason of its own
                self._write()
                self._ledger.release()

    def _feed(self) -> bool:
        """Give tasks to all idle workers; tell whether some are left."""
        self._pool.want(self._left + len(self._ready) + len(self._given))
        while self._pool.idle() and (following := self._next()) is not None:
            task, job = following
            if not self._pool.takes(task):
                self._ready.appendleft(following)
                break
            limit = self._limits.timeout
            until = None if limit is None else time.monotonic() + limit
            self._given[task.key] = _Given(task, job, until)
            self._pool.give(task)
        return bool(self._left or self._ready)

    def _next(self) -> tuple[Task, _Job] | None:
        if self._ready:
            return self._ready.popleft()
        if not self._page:
            self._page.extend(self._ledger.waiting(self._after, _PAGE))
        if not self._page:
            self._left = 0
            return None
        row = self._page.popleft()
        self._after, self._left = row.place, self._left - 1
        job = _Job(row, ItemOptions().changed(json.loads(row.options)))
        self._jobs[row.place] = job
        self._changes.begun.append((row.place, 1))
        return job.task(), job

    def _wait(self) -> float:
        untils = [one.until for one in self._given.values() if one.until is not None]
        return _LOOK if not untils else max(0.0, min(_LOOK, min(untils) - time.monotonic()))

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for one in self._given.values():
            if one.until is not None and now > one.until:
                one.until = None
                self._pool.kill(one.task, f"took longer than {self._limits.timeout:g} s (--timeout)")

    def _take(self, event: Event) -> None:
        if isinstance(event, Told):
            self._listener.told(event.task.id, event.step, event.done, event.total)
            return
        given = self._given.pop(event.task.key, None)
        if given is None or given.job.over:
            return
        if isinstance(event, Died):
            self._lost(given.job, event)
        else:
            self._ended(given.job, event)

    def _ended(self, job: _Job, event: Ended) -> None:
        task, outcome = event.task, event.outcome
        job.seconds += outcome.seconds
        if outcome.error:
            if outcome.again:
                self._again(job, task, outcome)
            else:
                self._over(job, "failed", outcome)
        elif outcome.parts:
            job.parts_left = set(range(outcome.parts))
            self._ready.extend((job.task("part", part), job) for part in range(outcome.parts))
        elif task.step == "part":
            job.parts_left.discard(task.part)
            if not job.parts_left:
                self._ready.append((job.task("finish"), job))
        else:
            self._over(job, "done", outcome)

    def _lost(self, job: _Job, event: Died) -> None:
        outcome = Outcome(error="WorkerDied", reason=event.reason)
        if event.blamed:
            self._again(job, event.task, outcome)
            return
        job.vanished += 1
        if job.vanished > _VANISHED:
            self._over(job, "poisoned", outcome)
        else:
            self._ready.append((event.task, job))

    def _again(self, job: _Job, task: Task, outcome: Outcome) -> None:
        """Try a task again, or set its item aside."""
        job.deaths[task.key] = failed = job.deaths.get(task.key, 0) + 1
        if failed > self._limits.retries:
            self._over(job, "poisoned", outcome)
            return
        job.tries += 1
        self._changes.begun.append((job.row.place, job.tries))
        self._listener.again(job.row, job.tries, outcome.reason)
        self._ready.append((task, job))

    def _over(self, job: _Job, state: State, outcome: Outcome) -> None:
        job.over = True
        self._ready = deque(pair for pair in self._ready if pair[1] is not job)
        for one in self._given.values():  # other parts of it
            if one.job is job:
                self._pool.kill(one.task, "another part has failed")
        del self._jobs[job.row.place]
        if state == "done":
            self._remove_stale(job.row.sizes, outcome.outputs)
        elif state == "poisoned" and (out := local_path(self._out)) is not None:
            clear(out, job.row.id)
        self._changes.ended.append({
            "place": job.row.place,
            "state": state,
            "attempts": job.tries,
            "error": outcome.error,
            "reason": outcome.reason,
            "seconds": round(job.seconds, 3),
            "frames": outcome.frames,
            "facts": json.dumps(dict(outcome.facts)),
            "outputs": json.dumps(dict(outcome.outputs)) if state == "done" else None,
        })  # fmt: skip
        self._listener.over(job.row, state, outcome)

    def _remove_stale(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """Remove files that an earlier run wrote for the item, and this one did not."""
        names = [name for name in before if name not in now]
        out = local_path(self._out)
        if out is None:
            if names:
                remove(names, self._out)
            return
        for path in (out / name for name in names):
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()  # if it was the last one in it

    def _write(self) -> None:
        changes, self._changes = self._changes, Changes()
        self._ledger.write(changes)
