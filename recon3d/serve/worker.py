"""A worker process: takes one task after another through a pipe, with head and networks loaded once.

It says ``Ready``, during a task ``Step``, and at its end ``Done`` or ``Failed``. It ends when the pipe does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.errors import InputError, Recon3DError
from recon3d.serve.schema import Kind, Options
from recon3d.serve.storage import STEM, Stored, list_results

if TYPE_CHECKING:
    from recon3d._video_job import VideoSettings, VideoWorker
    from recon3d.head import HeadModel
    from recon3d.pipeline import Reconstructor

#: Seconds between two reports on one step.
_REPORT_SECONDS = 0.2
#: Pixels of a clip's frame.
_MAX_FRAME_PIXELS = 4096 * 4096
#: Frames a second that a clip may have before they count against its duration.
_MOST_FPS = 240.0
#: Workers give way to the server, which has to answer at once.
_NICE = 5


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes:
        job: Its id.
        kind: What the upload is.
        name: What its sender calls it.
        upload: Its path.
        results: Folder of the result folders; may hold what an earlier try left.
        options: How.
        max_duration: Seconds of a clip.
    """

    job: str
    kind: Kind
    name: str
    upload: Path
    results: Path
    options: Options
    max_duration: float


@dataclass(frozen=True)
class Ready:
    """All is loaded; or not, for a reason that the next task will meet again."""

    problem: str | None


@dataclass(frozen=True)
class Step:
    """How far a task is."""

    step: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Done:
    """A task is done."""

    files: tuple[Stored, ...]
    frames: int


@dataclass(frozen=True)
class Failed:
    """A task cannot be done."""

    error: str


Message = Ready | Step | Done | Failed
Notify = Callable[[str, int, int | None], None]


class Cancelled(Exception):
    """Nobody wants the task any more."""


def run_worker(pipe: Connection, cancelled: Event, head: Path | None, threads: int | None) -> None:
    """Do what comes through the pipe until it ends. The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(AttributeError, OSError):  # not on Windows
        os.nice(_NICE)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    engine = Engine(head, threads)
    problem = None
    try:
        engine.prepare()
    except Recon3DError as error:
        problem = _one_line(error)
    pipe.send(Ready(problem))
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_result(engine, task, pipe, cancelled))


def _end_with_parent() -> None:
    """End this process when the server is gone, even killed: its successor must find nobody at work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _result(engine: Engine, task: Task, pipe: Connection, cancelled: Event) -> Done | Failed:
    told, last = 0.0, ""

    def notify(step: str, done: int, total: int | None) -> None:
        nonlocal told, last
        if cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if step != last or now - told > _REPORT_SECONDS:
            told, last = now, step
            pipe.send(Step(step, done, total))

    try:
        return engine.run(task, notify)
    except Cancelled:
        return Failed("cancelled")
    except Recon3DError as error:
        return Failed(_for_client(error, task))
    except MemoryError:
        return Failed(f"{task.name}: not enough memory; make it smaller")
    except Exception as error:  # a fault in one job must not stop the others
        from recon3d._cli_report import explain

        return Failed(f"{task.name}: {explain(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _for_client(error: BaseException, task: Task) -> str:
    """Return an error's text in the client's terms: it knows nothing of our paths."""
    text = _one_line(error).replace(str(task.upload), task.name).replace(str(task.results), "results")
    text = text.replace("choose another --out", "choose another --data")
    return text if task.name in text else f"{task.name}: {text}"


class Engine:
    """What does photographs and clips; everything is loaded once."""

    def __init__(self, head: Path | None, threads: int | None) -> None:
        """Note the settings."""
        self._head_file, self._threads = head, threads
        self._reconstructors: dict[tuple[int, bool], Reconstructor] = {}

    @cached_property
    def head(self) -> HeadModel:
        """The head model."""
        from recon3d.head import load_head

        return load_head(self._head_file)

    @cached_property
    def _videos(self) -> VideoWorker:
        from recon3d._video_job import VideoSettings, VideoWorker
        from recon3d.observe import ClipSettings

        worker = VideoWorker(
            VideoSettings(Path(), (), ClipSettings(), head=self._head_file, threads=self._threads)
        )
        worker.prepare()
        return worker

    def prepare(self) -> None:
        """Load what every job needs.

        Raises:
            Recon3DError: Something cannot be had.
        """
        _ = self._videos, self._reconstructor(Options())

    def run(self, task: Task, notify: Notify) -> Done:
        """Do a task.

        Raises:
            Recon3DError: It cannot be done.
            Cancelled: ``notify`` said so.
        """
        notify("loading", 0, None)
        frames = self._photo(task, notify) if task.kind is Kind.photo else self._clip(task, notify)
        return Done(tuple(list_results(task.results)), frames)

    def _photo(self, task: Task, notify: Notify) -> int:
        from recon3d._focal_option import Focal
        from recon3d._results import write_outputs
        from recon3d.export import ExportOptions
        from recon3d.media.image import read_image

        options = task.options
        photo = read_image(task.upload)
        worker = self._reconstructor(options)
        notify("solving", 0, 1)
        focal = Focal.parse(options.focal).pixels(photo.size) if options.focal else None
        faces = worker.fit(photo, focal=focal)
        notify("writing", 0, 1)
        write_outputs(
            [replace(face.capture, source=task.name) for face in faces],
            worker.head,
            photo,
            task.results,
            STEM,
            options.formats_of(task.kind),
            options=ExportOptions(delight=options.delight),
        )
        return 1

    def _reconstructor(self, options: Options) -> Reconstructor:
        """Return one for these options; the latest two are kept."""
        from recon3d.pipeline import Reconstructor

        key = options.faces, options.refine
        found = self._reconstructors.pop(key, None)
        if found is None:
            found = Reconstructor(head=self.head, max_faces=options.faces, refine=options.refine)
            found.prepare()
        self._reconstructors[key] = found
        if len(self._reconstructors) > 2:
            del self._reconstructors[next(iter(self._reconstructors))]
        return found

    def _clip(self, task: Task, notify: Notify) -> int:
        most = _check_clip(task)

        def counted(step: str, done: int, total: int | None) -> None:
            if done > most:  # whatever the file says of itself
                raise _too_long(task)
            notify(step, done, total)

        worker = self._videos.with_settings(self._settings(task))
        return worker.run(task.upload, STEM, counted, source=task.name).frames

    def _settings(self, task: Task) -> VideoSettings:
        from recon3d._video_job import VideoSettings
        from recon3d.export import ExportOptions
        from recon3d.observe import ClipSettings

        options = task.options
        return VideoSettings(
            out=task.results,
            formats=options.formats_of(task.kind),
            clip=ClipSettings(faces=options.faces, smooth=options.smooth, focal=options.focal or None),
            head=self._head_file,
            options=ExportOptions(delight=options.delight),
            threads=self._threads,
        )


def _check_clip(task: Task) -> int:
    """Return how many frames a clip may have.

    Raises:
        InputError: It cannot be read, or is too large or too long by what it says of itself.
    """
    from recon3d.media.video import open_clip

    with open_clip(task.upload) as clip:
        width, height = clip.size
        if width * height > _MAX_FRAME_PIXELS:
            raise InputError(f"{task.name}: {width} x {height} pixels are too many; make it smaller")
        if clip.duration is not None and clip.duration > task.max_duration:
            raise _too_long(task)
        return int(task.max_duration * min(max(clip.fps, 1.0), _MOST_FPS) * 1.05) + 10


def _too_long(task: Task) -> InputError:
    return InputError(f"{task.name}: longer than the {task.max_duration:g} s allowed here; cut it")
