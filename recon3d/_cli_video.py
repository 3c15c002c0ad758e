"""``recon3d video``: one clip after another, or several at a time, whatever happens to one of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

from recon3d._cli_report import Reporter
from recon3d._processes import interrupt_put_off
from recon3d._results import FolderNames, check_formats
from recon3d._video_job import (
    ClipReport,
    VideoSettings,
    VideoWorker,
    counted,
    known_formats,
    lost_note,
    with_threads,
)
from recon3d.errors import InputError, Recon3DError, UsageError
from recon3d.export import check_installed


@dataclass(frozen=True)
class _Job:
    path: Path
    stem: str


def run_video(inputs: Sequence[str], settings: VideoSettings, workers: int, reporter: Reporter) -> int:
    """Do the clips and return the exit status.

    Raises:
        UsageError: A format does not exist.
        Recon3DError: What every clip needs cannot be had.
    """
    settings = replace(settings, formats=check_formats(settings.formats, known_formats()))
    check_installed(settings.formats)
    from recon3d.media.video import iter_clips

    named = {Path(given) for given in inputs}
    found = [(path, error) for path, error in iter_clips(inputs) if path in named or not _is_ours(path)]
    names = FolderNames()
    jobs = [(_Job(path, names.claim(path)), error) for path, error in found]
    good = [job for job, error in jobs if error is None]
    worker = VideoWorker(settings)
    if good:
        worker.prepare()
    reporter.begin_clips(len(jobs))
    for job, error in jobs:
        if error is not None:
            reporter.failed(job.path, error)
    with _no_empty_folder(settings.out), _interruption_told(reporter):
        if workers > 1 and len(good) > 1:
            _run_parallel(good, with_threads(settings, workers), min(workers, len(good)), reporter)
        else:
            for job in good:
                _run_one(worker, job, reporter)
    return reporter.exit_status()


def _is_ours(path: Path) -> bool:
    """Tell whether a clip that a pattern found is an overlay that an earlier run wrote."""
    return path.name == "overlay.mp4" and (path.parent / "capture.npz").is_file()


@contextmanager
def _no_empty_folder(out: Path) -> Iterator[None]:
    """Remove the folder of the results afterwards if there are none, and it was not there before."""
    before = out.exists()
    try:
        yield
    finally:
        if not before:
            with suppress(OSError):  # it holds something
                out.rmdir()


@contextmanager
def _interruption_told(reporter: Reporter) -> Iterator[None]:
    """Say at Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if not reporter.quiet:
            reporter.say("interrupted; the same command goes on where it was")
        raise


def _run_one(worker: VideoWorker, job: _Job, reporter: Reporter) -> None:
    begun = time.perf_counter()

    def notify(step: str, done: int, total: int | None) -> None:
        reporter.frames_done(job.stem, step, done, total)

    try:
        report = worker.run(job.path, job.stem, notify)
        reporter.clip_over(job.stem)
        _tell(reporter, job, report, time.perf_counter() - begun)
    except BrokenPipeError:
        raise
    except Exception as error:  # a fault in one clip must not stop the others
        reporter.clip_over(job.stem)
        reporter.failed(job.path, error)


def _tell(reporter: Reporter, job: _Job, report: ClipReport, seconds: float) -> None:
    from recon3d.media._open import shown

    folders = ", ".join(shown(folder) for folder in report.folders)
    if report.skipped:
        text = f"{shown(job.path)} -> {folders} (done before; --force does it again)"
    else:
        rate = report.frames / seconds
        speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
        text = f"{shown(job.path)} -> {folders} ({counted(report.frames)}, {speed} a second)"
    if report.lost:
        reporter.say(f"{shown(job.path)}: {lost_note(report.lost)}")
    reporter.done(
        job.path,
        text,
        outputs=[str(file) for file in report.files],
        folders=[str(folder) for folder in report.folders],
        frames=report.frames,
        lost=report.lost,
        tracked=round(report.tracked, 4),
        skipped=report.skipped,
        seconds=round(seconds, 3),
    )


_worker: VideoWorker | None = None
_messages: Any = None


def _start_worker(settings: VideoSettings, messages: Any) -> None:
    """Run in every worker process before its first clip."""
    from recon3d.render.rasterize import use_backend

    global _worker, _messages  # a process pool hands state to its workers this way
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    messages.cancel_join_thread()  # at the end nobody reads the last ones
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker, _messages = VideoWorker(settings), messages
    use_backend(settings.raster)
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)


def _end_with_parent() -> None:
    """End this process when the parent is gone, even killed: the next run must find nobody at work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(job: _Job) -> tuple[ClipReport | None, str, str, float]:
    """Return report, or the error's class name and text: exceptions of other processes do not travel well."""
    begun, told = time.perf_counter(), 0.0
    assert _worker is not None

    def notify(step: str, done: int, total: int | None) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > 0.2 or done == total:
            told = now
            _messages.put((job.stem, step, done, total))

    try:
        return _worker.run(job.path, job.stem, notify), "", "", time.perf_counter() - begun
    except Recon3DError as error:
        return None, type(error).__name__, str(error), 0.0


def _run_parallel(jobs: Sequence[_Job], settings: VideoSettings, workers: int, reporter: Reporter) -> None:
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        with interrupt_put_off():  # and for good in the processes that are started meanwhile
            messages = context.Queue()
            pool = stack.enter_context(
                ProcessPoolExecutor(
                    workers, mp_context=context, initializer=_start_worker, initargs=(settings, messages)
                )
            )
            waiting: dict[Future[Any], _Job] = {pool.submit(_run_in_worker, job): job for job in jobs}
            processes = list((pool._processes or {}).values())
        try:
            while waiting:
                _show(messages, reporter)
                for future in [f for f in waiting if f.done()]:
                    _collect(future, waiting.pop(future), reporter)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise


def _show(messages: Any, reporter: Reporter) -> None:
    """Pass on what the workers tell, for a moment."""
    until = time.perf_counter() + 0.2
    while (left := until - time.perf_counter()) > 0:
        try:
            reporter.frames_done(*messages.get(timeout=left))
        except Empty:
            return


def _collect(future: Future[Any], job: _Job, reporter: Reporter) -> None:
    import recon3d.errors as errors

    reporter.clip_over(job.stem)
    try:
        report, kind, text, seconds = future.result()
    except BrokenProcessPool as error:
        reporter.failed(
            job.path, InputError(f"{job.path}: its worker process died ({error}); try --workers 1")
        )
    except Exception as error:  # a fault in one clip must not stop the others
        reporter.failed(job.path, error)
    else:
        if report is None:
            reporter.failed(job.path, getattr(errors, kind)(text))
        else:
            _tell(reporter, job, report, seconds)


def parse_stretch(text: str) -> tuple[float, float]:
    """Read ``START:END`` in seconds.

    Raises:
        UsageError: It is none.
    """
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise UsageError(f"--calibrate {text!r}: seconds are wanted, like 1.5:3") from error
    if not 0 <= start < end:
        raise UsageError(f"--calibrate {text!r}: the start must come before the end")
    return start, end


def parse_faces(text: str) -> Any:
    """Read ``all``, ``largest`` or a number.

    Raises:
        UsageError: It is none.
    """
    if text in ("all", "largest"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--face {text!r}: all, largest, or a number is wanted")
