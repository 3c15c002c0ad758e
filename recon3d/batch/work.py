"""One task after another, in a worker: the source is fetched, the item done, its results published."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d._cli_report import explain
from recon3d._version import __version__
from recon3d._video_mark import digest
from recon3d.batch.lock import Held, locked
from recon3d.batch.options import ItemOptions, Models
from recon3d.batch.source import CAPTURE
from recon3d.batch.storage import Unsteady, fetch, local_path, publish
from recon3d.batch.task import Outcome, Task, Tell
from recon3d.errors import OutputError, Recon3DError, UsageError
from recon3d.files import make_folder
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d._video_job import VideoWorker
    from recon3d.parts import PartJob
    from recon3d.pipeline import Reconstructor

#: Seconds to wait for a worker that was killed, to be gone from an item.
_GONE = 60.0
_TEMPORARY = "recon3d-batch-"


@dataclass(frozen=True)
class Setup:
    """What every worker of a batch is told once; called in the worker, it makes what does the tasks.

    Attributes:
        out: Where the results go: an absolute path, or a URL.
        models: What is loaded.
        max_bytes: Largest remote source.
        probe: Name and text of a file that lies in ``out``, by which a worker knows the folder; or None.
        version: Of the coordinator.
    """

    out: str
    models: Models
    max_bytes: int
    probe: tuple[str, str] | None = None
    version: str = __version__

    def __call__(self) -> Worker:
        """Load everything, so that what is missing shows before any item.

        Raises:
            Recon3DError: Something cannot be had, or this machine is not like the coordinator's.
        """
        if self.version != __version__:
            raise UsageError(
                f"a worker has recon3d {__version__}, this is {self.version}: install the same everywhere"
            )
        if self.probe is not None:
            _check_probe(Path(self.out), *self.probe)
        if self.models.threads is not None:
            import torch

            torch.set_num_threads(self.models.threads)
        worker = Worker(self)
        worker.prepare()
        return worker


def _check_probe(out: Path, name: str, text: str) -> None:
    try:
        found = (out / name).read_text(encoding="utf-8")
    except OSError:
        found = ""
    if found != text:
        raise UsageError(
            f"{shown(out)}: a worker on another machine does not see this folder; "
            "--out must be one that all nodes share, or a URL (s3://...)"
        )


class Worker:
    """Does tasks; what they need is loaded once."""

    def __init__(self, setup: Setup) -> None:
        """Note the setup."""
        self._setup = setup
        self._out = local_path(setup.out)
        self._reconstructors: dict[tuple[object, ...], Reconstructor] = {}

    def prepare(self) -> None:
        """Load what clips need; the photographs' share of it is loaded with the first of them.

        Raises:
            Recon3DError: Something cannot be had.
        """
        self._video.prepare()
        _remove_leftovers()

    @cached_property
    def _video(self) -> VideoWorker:
        from recon3d._video_job import VideoWorker

        return VideoWorker(ItemOptions().video(Path(), self._setup.models, force=False))

    def __call__(self, task: Task, tell: Tell) -> Outcome:
        """Do a task; whatever goes wrong is in what is returned."""
        begun = time.perf_counter()
        try:
            outcome = self._do(task, tell)
        except Unsteady as error:
            outcome = Outcome(error="InputError", reason=str(error), again=True)
        except Recon3DError as error:
            outcome = Outcome(error=type(error).__name__, reason=explain(error))
        except Exception as error:  # a fault in one item must not stop the others
            outcome = Outcome(error=type(error).__name__, reason=explain(error), again=True)
        return replace(outcome, seconds=time.perf_counter() - begun)

    def _do(self, task: Task, tell: Tell) -> Outcome:
        with _temporary_folder(task.uri, self._setup.out) as folder:
            path = local_path(task.uri)
            if path is None:
                tell("fetching", 0, None)
                path = fetch(task.uri, folder, self._setup.max_bytes)
                tell("fetching", 0, 0)
            if self._out is not None:
                with _alone(self._out, task):
                    return self._into(self._out, path, task, tell)
            staged = folder / "out"
            outcome = self._into(staged, path, task, tell)
            publish([staged / name for name in outcome.outputs], staged, self._setup.out)
            return outcome

    def _into(self, out: Path, path: Path, task: Task, tell: Tell) -> Outcome:
        """Do a task into a folder of this machine (or one that it shares)."""
        place = make_folder((out / task.id).parent)
        stem = task.id.rpartition("/")[2]
        if task.kind == "photo":
            return self._photo(out, place, stem, path, task)
        from recon3d._video_job import remove_work

        settings = task.options.video(place, self._setup.models, force=task.force)
        worker = self._video.with_settings(settings)
        done = worker.finished(path, stem)
        if done is None:
            jobs = _parts(path, task)
            if len(jobs) > 1 and task.step == "whole" and self._out is not None:
                return Outcome(parts=len(jobs))
            if task.step == "part":
                worker.observe_part(jobs[task.part], worker.part_folders(jobs, stem)[task.part], tell)
                return Outcome()
            if len(jobs) > 1:
                worker.join(jobs, worker.part_folders(jobs, stem), stem, tell)
            done = worker.run(path, stem, tell)
        else:
            remove_work(place, stem)  # who was killed just before the end left it
        facts = {"lost": done.lost, "tracked": round(done.tracked, 4), "skipped": done.skipped}
        return Outcome(frames=done.frames, facts=facts, outputs=_sizes(done.files, out))

    def _photo(self, out: Path, place: Path, stem: str, path: Path, task: Task) -> Outcome:
        from recon3d._cli_photo import fit_and_write, open_reconstructor
        from recon3d._video_job import publish_folder
        from recon3d.media.image import read_image

        photo = read_image(path)
        # Staged in a folder whose name is known, so that what a killed worker leaves is found and removed.
        staged = place / f"{_hidden_name(stem)}{digest('photo')}"
        shutil.rmtree(staged, ignore_errors=True)
        settings = task.options.photo(staged, self._setup.models)
        key = (settings.landmarks, settings.max_faces, settings.refine)
        if key not in self._reconstructors:
            self._reconstructors[key] = open_reconstructor(settings, quiet=True)
        try:
            faces, written = fit_and_write(self._reconstructors[key], photo, settings, stem)
            pairs = [(one[0].parent, _beside(one, place)) for one in reversed(written)]
            files = [file for folder, target in pairs for file in publish_folder(folder, target)]
        except OutputError as error:
            raise OutputError(str(error).replace(str(staged), str(place))) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return Outcome(frames=1, facts={"faces": len(faces)}, outputs=_sizes(files, out))


def _beside(files: Sequence[Path], place: Path) -> Path:
    """Return the folder that a face's staged files go to."""
    target = place / files[0].parent.name
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: a file is in the way of the output folder; choose another --out")
    return target


def _parts(path: Path, task: Task) -> Sequence[PartJob]:
    from recon3d.parts import plan_clip

    return plan_clip(path, sequence_fps=task.options.sequence_fps)


def _sizes(files: Sequence[Path], out: Path) -> dict[str, int]:
    """Return the size of each file by its path under ``out``, in the order in which they are to be copied.

    Of each folder the capture comes last, because it speaks for the others.
    """
    folders = list(dict.fromkeys(file.parent for file in files))
    ordered = sorted(files, key=lambda file: (folders.index(file.parent), file.name == CAPTURE))
    flat = [one for file in ordered for one in (sorted(file.rglob("*")) if file.is_dir() else [file])]
    return {file.relative_to(out).as_posix(): file.stat().st_size for file in flat if file.is_file()}


@contextmanager
def _alone(out: Path, task: Task) -> Iterator[None]:
    """Keep other workers from this task: one that was just killed, or given up for dead, may yet be at it."""
    place = make_folder((out / task.id).parent)
    name = f"{_hidden_name(task.id.rpartition('/')[2])}{task.step}{task.part}.lock"
    try:
        with locked(place / name, wait=_GONE):
            yield
    except Held as held:
        raise Unsteady(f"{shown(out / task.id)}: another worker is still at it") from held


def _hidden_name(stem: str) -> str:
    """Return what the names of an item's working folders begin with; a clip's are named by its worker."""
    return f".recon3d-{digest(stem)}-"


def clear(out: Path, name: str) -> None:
    """Remove what an item, by its name, has left unfinished."""
    place, stem = (out / name).parent, name.rpartition("/")[2]
    for pattern in (f"{_hidden_name(stem)}*", f".{_hidden_name(stem)}*"):
        for leftover in place.glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with suppress(OSError):
                    leftover.unlink()


@contextmanager
def _temporary_folder(*uris: str) -> Iterator[Path]:
    """Make a private folder that is gone afterwards, if one of the places is on another machine."""
    if all(local_path(uri) is not None for uri in uris):
        yield Path()
        return
    folder = Path(tempfile.gettempdir()) / f"{_TEMPORARY}{secrets.token_hex(8)}"
    # Who holds the lock lives; the folders of the others are removed when the next worker starts.
    with locked(folder.with_name(f"{folder.name}.lock")):
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(
                f"no temporary folder can be made ({reason}); set TMPDIR to one with room"
            ) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the temporary folders of workers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        if folder.suffix == ".lock" or not folder.is_dir() or folder.is_symlink():
            continue
        with suppress(Held, OutputError), locked(folder.with_name(f"{folder.name}.lock")):
            shutil.rmtree(folder, ignore_errors=True)
