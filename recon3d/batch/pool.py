"""Workers on this machine: one process each, with a pipe of its own, so that a death is that of one task.

(A ProcessPoolExecutor breaks as a whole when one of its processes dies, and does not tell at what.)
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from recon3d._cli_report import explain
from recon3d._processes import interrupt_put_off
from recon3d.batch.task import Outcome, Start, Task
from recon3d.errors import Recon3DError

#: Seconds between two messages of a worker about the same step.
_TELL_EVERY = 0.5
#: So many workers may die one after another while they start, before that is taken for the machine's fault.
_START_DEATHS = 3
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """A task has been done, or has failed."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True)
class Died:
    """A worker has died at a task.

    Attributes:
        task: The task.
        reason: What is known.
        blamed: The task may have killed it; otherwise the machine is gone.
    """

    task: Task
    reason: str
    blamed: bool = True


@dataclass(frozen=True)
class Told:
    """A worker tells how far it is."""

    task: Task
    step: str
    done: int
    total: int | None


Event = Ended | Died | Told


class Pool(Protocol):
    """Workers that do tasks, one each at a time; dead ones are replaced."""

    def want(self, count: int) -> None:
        """See to it that so many workers are there, or start: no more than the pool may have."""

    def workers(self) -> int:
        """Return how many workers there are, those that start included."""

    def idle(self) -> bool:
        """Tell whether any worker has nothing to do."""

    def takes(self, task: Task) -> bool:
        """Tell whether a worker can be given a task now."""

    def give(self, task: Task) -> None:
        """Give a task to a worker that takes it."""

    def events(self, seconds: float) -> list[Event]:
        """Wait for something to happen, so long at most; return it.

        Raises:
            Recon3DError: Workers cannot start.
        """

    def kill(self, task: Task, reason: str) -> None:
        """Kill the worker that is at a task; that it has died is among the next events."""

    def close(self) -> None:
        """End all workers at once."""


class StartFailed(Recon3DError):
    """Workers die while they start."""


class ProcessPool:
    """A pool of processes of this machine; ``Pool`` tells what the methods do."""

    def __init__(self, start: Start, most: int) -> None:
        """Say what is called in each process first, and how many there may be."""
        self._start, self._most = start, most
        self._context = multiprocessing.get_context("spawn")
        self._deaths = 0
        self._workers: list[_Worker] = []

    def want(self, count: int) -> None:
        """See to it that so many workers are there, or start: no more than the pool may have."""
        while len(self._workers) < min(count, self._most):
            self._workers.append(self._new())

    def workers(self) -> int:
        """Return how many workers there are, those that start included."""
        return len(self._workers)

    def idle(self) -> bool:
        """Tell whether any worker has nothing to do."""
        return any(one.ready and one.task is None for one in self._workers)

    def takes(self, task: Task) -> bool:
        """Tell whether a worker can be given a task now: any task, if one is idle."""
        return self.idle()

    def give(self, task: Task) -> None:
        """Give a task to a worker that takes it."""
        worker = next(one for one in self._workers if one.ready and one.task is None)
        worker.task = task
        with suppress(OSError):  # it has just died; that is seen at the next wait
            worker.pipe.send(task)

    def events(self, seconds: float) -> list[Event]:
        """Wait for something to happen, so long at most; return it.

        Raises:
            Recon3DError: Workers cannot start.
        """
        ready = set(wait([one.pipe for one in self._workers], seconds))
        found: list[Event] = []
        for number, worker in enumerate(self._workers):
            if worker.pipe in ready:
                found += self._read(number, worker)
        return found

    def kill(self, task: Task, reason: str) -> None:
        """Kill the worker that is at a task; that it has died is among the next events."""
        for worker in self._workers:
            if worker.task is not None and worker.task.key == task.key:
                worker.reason = reason
                worker.process.kill()

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def _read(self, number: int, worker: _Worker) -> list[Event]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return self._replace(number, worker)
        match message:
            case "ready", _:
                worker.ready = True
                self._deaths = 0
            case "unable", error:
                raise error
            case "told", (step, done, total) if worker.task is not None:
                return [Told(worker.task, step, done, total)]
            case "ended", outcome if worker.task is not None:
                task, worker.task = worker.task, None
                return [Ended(task, outcome)]
        return []

    def _replace(self, number: int, worker: _Worker) -> list[Event]:
        """Put a new worker in the place of one that has died; tell at which task."""
        worker.process.join(5)
        worker.process.kill()  # its pipe is closed, so it is of no use, even if it lives
        worker.process.join()
        worker.pipe.close()
        reason = worker.reason or f"its worker died ({_how(worker.process.exitcode)})"
        if not worker.ready:
            self._deaths += 1
            if self._deaths >= _START_DEATHS:
                how = _how(worker.process.exitcode)
                raise StartFailed(f"workers die while they start ({how}); try fewer --workers")
        self._workers[number] = self._new()
        return [] if worker.task is None else [Died(worker.task, reason)]

    def _new(self) -> _Worker:
        with interrupt_put_off():  # and for good in the process that is started meanwhile
            return _Worker(self._context, self._start)


class _Worker:
    """One process, seen from outside."""

    def __init__(self, context: Any, start: Start) -> None:
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_live, args=(theirs, start), name="recon3d-batch-worker", daemon=True
        )
        self.process.start()
        theirs.close()  # so that its end is seen here
        self.ready = False
        self.task: Task | None = None
        self.reason = ""


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name}, perhaps not enough memory" if name == "SIGKILL" else name


def _live(pipe: Connection, start: Start) -> None:
    """Run in a worker process to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _end_with_parent()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody is there any more
        try:
            work = start()
        except Exception as error:  # also a package that is broken
            pipe.send(("unable", _portable(error)))
            return
        pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            pipe.send(("ended", work(task, _teller(pipe))))


def _portable(error: Exception) -> Recon3DError:
    """Return an error that can be sent: its class and its line."""
    if isinstance(error, Recon3DError):
        return type(error)(str(error))
    return StartFailed(f"a worker cannot start: {explain(error)}")


def _teller(pipe: Connection) -> Any:
    """Return what a task tells its progress to, which passes on a little of it."""
    told = 0.0
    last = ""

    def tell(step: str, done: int, total: int | None) -> None:
        nonlocal told, last
        now = time.monotonic()
        if now - told > _TELL_EVERY or (step != last and done != total):
            told, last = now, step
            pipe.send(("told", (step, done, total)))

    return tell


def _end_with_parent() -> None:
    """Let this process end when the parent is gone, even killed: the next run must find nobody at work."""
    if sys.platform == "linux":
        # The kernel does it at once, whatever this process is doing.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
