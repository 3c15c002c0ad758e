"""The worker processes and who looks after them: one thread each, and one that deletes what is old."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Literal

from recon3d.serve.schema import Progress, State
from recon3d.serve.settings import ServeSettings
from recon3d.serve.storage import Storage
from recon3d.serve.store import Record, Store
from recon3d.serve.worker import Done, Failed, Message, Ready, Step, Task, run_worker

#: How often a job is tried whose worker dies.
ATTEMPTS = 2
#: Seconds that a worker has to stop by itself, once its job is cancelled.
_GRACE = 3.0
#: Seconds between two looks at what nobody tells.
_LOOK = 0.5
#: Seconds that a worker has to load its networks; they may have to be downloaded.
_LOADING = 600.0
#: Seconds between two tries to write into a queue that cannot be written.
_SETTLE = 5.0


@dataclass
class _Process:
    """A worker process that runs."""

    process: BaseProcess
    pipe: Connection
    cancelled: Event

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process.close()


@dataclass
class Attendant:
    """Looks after one worker process at a time, and takes jobs for it."""

    number: int
    state: Literal["starting", "idle", "busy", "stopped"] = "stopped"
    restarts: int = 0
    problem: str | None = None
    job: str | None = None
    thread: threading.Thread | None = field(default=None, repr=False)
    running: _Process | None = field(default=None, repr=False)


class Pool:
    """Does the jobs of a store."""

    def __init__(self, store: Store, storage: Storage, settings: ServeSettings) -> None:
        """Note what it works for."""
        self._store, self._storage, self._settings = store, storage, settings
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._progress: dict[str, Progress] = {}
        self._janitor = threading.Thread(target=self._clean, name="recon3d-janitor", daemon=True)
        self.attendants = [Attendant(number) for number in range(settings.workers)]

    def start(self) -> None:
        """Start everything; returns at once, while the workers load."""
        self._storage.remove_strangers(self._store.ids())
        self._janitor.start()
        for one in self.attendants:
            one.thread = threading.Thread(
                target=self._attend, args=(one,), name=f"recon3d-worker-{one.number}", daemon=True
            )
            one.thread.start()

    def stop(self) -> None:
        """Stop everything; jobs that are running will wait for the next server."""
        self._stopping.set()
        self.tell()
        for one in self.attendants:
            if one.thread is not None:
                one.thread.join()
        if self._janitor.is_alive():
            self._janitor.join()

    def tell(self) -> None:
        """Say that the queue has changed."""
        with self._news:
            self._news.notify_all()

    def progress(self, job: str) -> Progress | None:
        """Return how far a running job is."""
        return self._progress.get(job)

    # ---- one worker ----

    def _attend(self, one: Attendant) -> None:
        while not self._stopping.is_set():
            try:
                self._work(one)
            except Exception as error:  # of the machine: no processes, no disk; the server must live on
                one.problem = f"{type(error).__name__}: {error}"
                self._stopping.wait(5)
        self._replace(one)

    def _work(self, one: Attendant) -> None:
        """Do one job, or wait for one for a while."""
        if one.running is None or not one.running.process.is_alive():
            self._begin(one)
        job = None if one.running is None else self._store.claim()
        if job is not None:
            try:
                self._do(one, job)
            except BaseException:
                self._settle(job)
                raise
            return
        with self._news:
            self._news.wait(_LOOK)

    def _begin(self, one: Attendant) -> None:
        """Start a worker process and wait until it has loaded everything."""
        if one.running is not None:
            self._replace(one)
        one.state = "starting"
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        cancelled = context.Event()
        process = context.Process(
            target=run_worker,
            args=(theirs, cancelled, self._settings.head, self._threads()),
            name=f"recon3d-worker-{one.number}",
            daemon=True,
        )
        process.start()
        theirs.close()  # so that the pipe ends when the worker does
        one.running = _Process(process, ours, cancelled)
        message = self._next(one.running, time.monotonic() + _LOADING)
        if isinstance(message, Ready):
            one.state, one.problem = "idle", message.problem
            return
        if not self._stopping.is_set():
            one.problem = f"the worker process {_fate(process)} while it loaded"
        self._replace(one)
        self._stopping.wait(2)

    def _threads(self) -> int | None:
        return max(1, (os.cpu_count() or 1) // self._settings.workers) if self._settings.workers > 1 else None

    def _next(self, running: _Process, until: float) -> Message | None:
        """Return what a worker says next; None if it dies, if time is up, or if all is to stop."""
        while not self._stopping.is_set() and time.monotonic() < until:
            if running.pipe in wait([running.pipe, running.process.sentinel], _LOOK):
                try:
                    message: Message = running.pipe.recv()
                    return message
                except (EOFError, OSError):
                    return None
            if not running.process.is_alive() and not running.pipe.poll():
                return None
        return None

    def _do(self, one: Attendant, job: Record) -> None:
        """Do a job whatever becomes of the worker."""
        assert one.running is not None
        one.state, one.job = "busy", job.id
        self._progress[job.id] = Progress(step="loading", done=0, total=None)
        try:
            one.running.cancelled.clear()
            one.running.pipe.send(self._task(job))
            outcome = self._follow(one.running, job)
        except (EOFError, OSError, ValueError):  # the pipe: the worker is gone
            outcome = None
        finally:
            self._progress.pop(job.id, None)
        if self._stopping.is_set() and not isinstance(outcome, Done):
            self._store.put_back(job.id, tried=False)
            return
        if isinstance(outcome, Done):
            self._store.finish(job.id, outcome.files, outcome.frames)
            one.problem = None
        elif isinstance(outcome, Failed):
            self._store.fail(job.id, outcome.error)
        else:
            self._worker_lost(one, job)
        one.state, one.job = "stopped" if one.running is None else "idle", None
        self._clean_up_after(job)

    def _settle(self, job: Record) -> None:
        """Let a job wait again whose end could not be noted, as soon as that can: the disk may be full."""
        while True:
            with suppress(sqlite3.Error):
                self._store.put_back(job.id, tried=False)
                return
            if self._stopping.wait(_SETTLE):  # the next server does the same
                return

    def _task(self, job: Record) -> Task:
        return Task(
            job.id,
            job.kind,
            job.name,
            self._storage.upload(job.id),
            self._storage.results(job.id),
            job.options,
            self._settings.max_duration,
        )

    def _follow(self, running: _Process, job: Record) -> Done | Failed | None:
        """Listen to a worker until its job is over; None if it is lost, or has to be."""
        heard = time.monotonic()
        give_up = None
        while not self._stopping.is_set():
            now = time.monotonic()
            if give_up is None and not self._wanted(job):
                running.cancelled.set()
                give_up = now + _GRACE
            if now > heard + self._settings.stall or (give_up is not None and now > give_up):
                return None
            if running.pipe in wait([running.pipe, running.process.sentinel], _LOOK):
                message = running.pipe.recv()
                heard = time.monotonic()
                if isinstance(message, Step):
                    self._progress[job.id] = Progress(
                        step=message.step, done=message.done, total=message.total
                    )
                elif isinstance(message, (Done, Failed)):
                    return message
            elif not running.process.is_alive():
                return None
        return None

    def _wanted(self, job: Record) -> bool:
        record = self._store.get(job.id)
        return record is not None and record.state is State.running

    def _worker_lost(self, one: Attendant, job: Record) -> None:
        """Replace the worker; try its job once more, unless nobody wants it, or it has had its chances."""
        alive = one.running is not None and one.running.process.is_alive()
        fate = "said nothing any more" if alive or one.running is None else _fate(one.running.process)
        self._replace(one)
        if not self._wanted(job):
            return
        if job.attempts < ATTEMPTS:
            self._store.put_back(job.id, tried=True)
        else:
            self._store.fail(job.id, f"{job.name}: its worker process {fate}, twice; is the file sound?")

    def _replace(self, one: Attendant) -> None:
        if one.running is not None:
            if not self._stopping.is_set():
                one.restarts += 1
            one.running.end()
            one.running = None
        one.state = "stopped"

    def _clean_up_after(self, job: Record) -> None:
        """Remove what is left of a job that was cancelled or deleted meanwhile, or has failed."""
        record = self._store.get(job.id)
        if record is None:
            self.remove_files(job.id)  # even if its row went before the worker began
            self._purge()
        elif record.state in (State.cancelled, State.failed):
            self.remove_files(job.id)

    # ---- what goes ----

    def remove_files(self, job: str) -> None:
        """Remove upload and results of a job; what cannot go now goes with the job."""
        with suppress(OSError):
            self._storage.remove(job)

    def _clean(self) -> None:
        """Delete what is old, until all is to stop."""
        pause = min(60.0, max(0.2, self._settings.keep / 10))
        while not self._stopping.wait(pause):
            with suppress(Exception):  # tried again after the pause
                self._store.delete_old(time.time() - self._settings.keep)
                self._purge()

    def _purge(self) -> None:
        """Remove deleted jobs, but for those that somebody is working on."""
        for job in self._store.deleted_ids():
            if job in self._progress:
                continue
            with suppress(OSError):
                self._storage.remove(job)
                self._store.forget(job)

    def purge(self) -> None:
        """Remove deleted jobs as far as they can go now."""
        self._purge()


def _fate(process: BaseProcess) -> str:
    """Say how a process ended."""
    process.join(1)
    code = process.exitcode
    if code is None:
        return "said nothing any more"
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
