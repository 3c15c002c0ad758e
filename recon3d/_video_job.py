"""One clip from file to result folders, in steps that survive an interruption.

While a clip is worked on, a hidden folder beside its results holds what was seen so far (recon3d._records).
Its name carries a fingerprint of the clip and of the settings that matter for it, so the same command goes on
where it was, and another one starts anew. The result folders appear whole, the main person's last: where that
one lies complete, and was made of this very clip with these settings (recon3d._video_mark), the clip is done.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from dataclasses import replace as changed
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d._results import OVERLAY, folder_names
from recon3d._threads import one_thread
from recon3d._version import __version__
from recon3d._video_mark import Mark, clip_digest, digest, read_mark, write_mark
from recon3d.errors import InputError, OutputError, Recon3DError
from recon3d.export import FORMATS, ExportOptions, export
from recon3d.export.options import DEFAULTS
from recon3d.files import make_folder, output_error, replace
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d.clip import ClipSolver, Person
    from recon3d.encoder.encoder import FaceEncoder
    from recon3d.export.clip_texture import Keeper
    from recon3d.export.texture import Pixels
    from recon3d.face.dense import DenseSource
    from recon3d.head import HeadModel
    from recon3d.media.video import Clip
    from recon3d.observe import ClipSettings
    from recon3d.parts import PartJob

#: What ``recon3d video`` writes unless told otherwise; ``capture.npz`` is always written.
VIDEO_FORMATS = ("livelink", "glb", OVERLAY, "report")
#: Names of the files that are written here, whatever the capture's source is called.
_FILES = {
    "livelink": "livelink.csv",
    OVERLAY: "overlay.mp4",
    "report": "report.html",
    "capture": "capture.npz",
}

#: Of x264: the slower presets would take longer than all the rest of the command.
_PRESET = "superfast"

#: Called with a step's name, the frames done, and how many there are (None: unknown).
Notify = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class VideoSettings:
    """The options of ``recon3d video``.

    Attributes:
        out: Folder of the results.
        formats: Of ``VIDEO_FORMATS`` or ``recon3d.export.FORMATS``.
        clip: How clips are solved.
        head: File of a head model, or None.
        weights_dir: Folder of the face networks, or None.
        side_by_side: Show the clip beside the overlay.
        sequence_fps: Frames per second of image sequences, or None.
        force: Do again what is done.
        options: What the exporters are told.
        threads: LiteRT's and torch's threads of one worker, or None for the machine's.
        raster: Name of the rasterizer, or None.
        encoder: The image encoder: True for the one that comes with recon3d, weights, or False for none.
    """

    out: Path
    formats: Sequence[str]
    clip: ClipSettings
    head: Path | None = None
    weights_dir: Path | None = None
    side_by_side: bool = False
    sequence_fps: float | None = None
    force: bool = False
    options: ExportOptions = field(default=DEFAULTS)
    threads: int | None = None
    raster: str | None = None
    encoder: Path | bool = True


@dataclass(frozen=True)
class ClipReport:
    """What became of a clip.

    Attributes:
        folders: Result folders, the main person's first.
        files: All files (and folders) written into them.
        frames: Frames of the clip.
        lost: Packets and frames that could not be decoded.
        tracked: Share of the frames in which the main person was seen.
        skipped: It was done already.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    frames: int
    lost: int
    tracked: float
    skipped: bool = False


@dataclass(frozen=True)
class ClipModels:
    """Head, networks and solver, each loaded when first needed; workers with other settings may share them.

    Attributes:
        file: Of a head model, or None.
        weights_dir: Folder of the face networks, or None.
        threads: LiteRT's threads, or None for the machine's.
        wanted: The image encoder: True for the one that comes with recon3d, weights, or False for none.
    """

    file: Path | None = None
    weights_dir: Path | None = None
    threads: int | None = None
    wanted: Path | bool = True

    @cached_property
    def head(self) -> HeadModel:
        """The head model."""
        from recon3d.head import load_head

        return load_head(self.file)

    @cached_property
    def solver(self) -> ClipSolver:
        """What solves clips."""
        from recon3d._video_api import open_solver

        return open_solver(self.head)

    @cached_property
    def source(self) -> DenseSource:
        """The face networks."""
        from recon3d.observe import open_source

        return open_source(self.weights_dir, self.threads)

    @cached_property
    def encoder(self) -> FaceEncoder | None:
        """The image encoder, if there is to be one."""
        from recon3d.encoder.encoder import choose_encoder

        return choose_encoder(self.wanted, self.head)


class VideoWorker:
    """Does one clip after another; head, networks and solver are loaded once. Not thread-safe."""

    def __init__(self, settings: VideoSettings, models: ClipModels | None = None) -> None:
        """Note the settings; ``models``: those of another worker, to be used by this one, too."""
        self._settings = settings
        self.models = models or ClipModels(
            settings.head, settings.weights_dir, settings.threads, settings.encoder
        )

    @property
    def head(self) -> HeadModel:
        """The head model."""
        return self.models.head

    def prepare(self) -> None:
        """Load everything, so that what is missing shows before any clip.

        Raises:
            Recon3DError: Something cannot be had.
        """
        from recon3d.render.rasterize import use_backend

        use_backend(self._settings.raster)
        _ = self.models.solver, self.models.source, self.models.encoder
        threading.Thread(target=_warm_up, name="recon3d-warm-up", daemon=True).start()

    def with_settings(self, settings: VideoSettings) -> VideoWorker:
        """Return a worker with other settings that shares what is loaded: for the same head and networks."""
        other = copy(self)
        other._settings = settings
        return other

    def run(self, path: Path, stem: str, notify: Notify, *, source: str | None = None) -> ClipReport:
        """Do one clip.

        Args:
            path: The clip.
            stem: Name of its result folder.
            notify: Told of the progress.
            source: What the results are to call the clip; its file name by default.

        Raises:
            Recon3DError: It cannot be done; nothing half-written is left. What was seen is kept for the next
                try only where the results could not be written.
        """
        from recon3d.media.video import open_clip

        settings = self._settings
        finished = self.finished(path, stem)
        if finished is not None:
            remove_work(settings.out, stem)  # who was killed just before the end left it
            return finished
        with open_clip(path, fps=settings.sequence_fps) as clip:
            _check_way(settings.out / stem)
            make_folder(settings.out)
            made_of = clip_digest(path)
            work = self._work(made_of, stem)
            try:
                report = self._run(clip, made_of, work, stem, notify, source)
            except OutputError as error:
                _remove_staged(work)
                target = settings.out / stem
                raise OutputError(str(error).replace(str(work), str(target))) from error
            except Exception:
                shutil.rmtree(work, ignore_errors=True)
                shutil.rmtree(_parts_of(work), ignore_errors=True)
                raise
        remove_work(settings.out, stem)
        return report

    def part_folders(self, jobs: Sequence[PartJob], stem: str) -> list[Path]:
        """Return where the parts of a clip go that is cut: beside its results, and gone when these are there.

        Raises:
            InputError: The clip is gone, or is none.
            OSError: It cannot be read.
        """
        parts = _parts_of(self._work(clip_digest(jobs[0].path), stem))
        return [parts / job.name for job in jobs]

    def observe_part(self, job: PartJob, folder: Path, notify: Notify) -> None:
        """Look at one part of a clip that is cut (recon3d.parts); at once where that has been done.

        An interrupted part goes on where it was.

        Args:
            job: Which.
            folder: Where what is seen goes: of ``part_folders``, or another one for this part alone.
            notify: Told of the progress.

        Raises:
            Recon3DError: It cannot be done.
        """
        from recon3d.parts import observe_part

        stretch = job.stretch
        total = None if stretch.stop is None else stretch.stop - stretch.first

        def tell(done: int) -> None:
            notify("tracking", done, total)

        observe_part(
            job, folder, self.models.source, self._settings.clip, encoder=self.models.encoder, progress=tell
        )

    def join(self, jobs: Sequence[PartJob], folders: Sequence[Path], stem: str, notify: Notify) -> None:
        """Put the parts of a clip together, so that ``run`` goes on with solving it.

        What is missing or damaged in a part is looked at first. Where parts that began in the middle of the
        file turn out not to fit together, all are done again, from the beginning of the file.

        Args:
            jobs: All parts, in order.
            folders: Of the parts.
            stem: Name of the clip's result folder.
            notify: Told of the progress.

        Raises:
            Recon3DError: It cannot be done. Parts that do not fit together are gone then.
        """
        from recon3d.parts import from_beginning, join_parts

        work = self._work(clip_digest(jobs[0].path), stem)
        for tried in (jobs, [from_beginning(job) for job in jobs]):
            for job, folder in zip(tried, folders, strict=True):
                self.observe_part(job, folder, notify)
            try:
                join_parts(tried, folders, work)
                return
            except InputError:
                if all(job.stretch.landing is None for job in tried):
                    for folder in folders:
                        shutil.rmtree(folder, ignore_errors=True)
                    raise

    def _work(self, made_of: str, stem: str) -> Path:
        """Return the hidden folder of what is seen in a clip with these settings."""
        settings = self._settings
        seen_by = digest(
            __version__, made_of, settings.clip.max_faces, settings.sequence_fps, settings.encoder
        )
        return settings.out / f"{_work_name(stem)}{seen_by}"

    def finished(self, path: Path, stem: str) -> ClipReport | None:
        """Return the report of a clip whose results lie there complete; None where it is to be done."""
        return None if self._settings.force else self._finished(path, stem)

    def _finished(self, path: Path, stem: str) -> ClipReport | None:
        from recon3d.capture import Capture

        out, wanted = self._settings.out, set(self._settings.formats)
        file = out / stem / _FILES["capture"]
        mark = read_mark(file)
        try:
            if mark is None or mark.clip != clip_digest(path) or mark.settings != self._facts():
                return None
            files = [out / folder / name for folder, names in mark.results.items() for name in names]
            if not (wanted <= set(mark.formats) and all(one.exists() for one in files)):
                return None
            capture = Capture.load(file)
        except (InputError, OSError):
            return None
        folders = tuple(out / name for name in mark.results)
        tracked = float(capture.tracked.mean())
        return ClipReport(folders, tuple(files), len(capture), mark.lost, tracked, skipped=True)

    def _facts(self) -> str:
        """Return all settings that the results depend on, but for the formats."""
        settings = self._settings
        return repr((
            self.head.id, settings.clip, settings.side_by_side, settings.sequence_fps, settings.options,
            settings.encoder,
        ))  # fmt: skip

    def _run(
        self, clip: Clip, made_of: str, work: Path, stem: str, notify: Notify, source: str | None
    ) -> ClipReport:
        from recon3d.observe import observe, open_records

        settings = self._settings
        try:
            records = open_records(work)
        except OSError as error:
            raise output_error(settings.out, error) from error
        total = clip.frame_count

        def tell(done: int) -> None:
            notify("tracking", done, total)

        observe(clip, records, self.models.source, settings.clip, tell, encoder=self.models.encoder)
        notify("tracking", records.frames, records.frames)
        lost = clip.lost  # by now all of it has been read, even where most was seen before an interruption
        name = shown(clip.path)
        source = source or shown(clip.path.name)
        if not records.frames:
            raise InputError(f"{name}: not one frame could be decoded; is the file complete?")
        notify("solving", 0, None)
        try:
            persons = self.models.solver.solve(records, clip.size, clip.fps, source, settings.clip)
        except Recon3DError as error:
            raise type(error)(f"{name}: {error}") from error
        notify("solving", 0, 0)
        with one_thread():
            staged = self._stage(clip, persons, work, stem, lost, notify)
        results = {target.name: sorted(file.name for file in folder.iterdir()) for folder, target in staged}
        mark = Mark(made_of, self._facts(), list(settings.formats), results, lost)
        write_mark(staged[0][0] / _FILES["capture"], mark)
        files = [file for folder, target in reversed(staged) for file in publish_folder(folder, target)]
        folders = tuple(target for _, target in staged)
        tracked = float(persons[0].capture.tracked.mean())
        return ClipReport(folders, tuple(files), records.frames, lost, tracked)

    def _stage(
        self, clip: Clip, persons: Sequence[Person], work: Path, stem: str, lost: int, notify: Notify
    ) -> list[tuple[Path, Path]]:
        """Write every person's files into folders under ``work``; return these and where they shall go."""
        from recon3d.export.clip_texture import Keeper

        settings = self._settings
        staged = []
        overlay: Path | None = None
        textured = any(name in FORMATS and FORMATS[name].textured for name in settings.formats)
        keeper = Keeper(person.capture for person in persons if textured)
        for number, (person, name) in enumerate(zip(persons, folder_names(stem, len(persons)), strict=True)):
            folder, target = work / f"out-{number}", settings.out / name
            _check_way(target)
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
            try:
                if OVERLAY in settings.formats:
                    overlay = self._overlay(clip, persons, folder, overlay, keeper, notify)
                self._export(person, keeper.kept(clip), folder, _notes(person, lost))
            except OutputError as error:
                raise OutputError(str(error).replace(str(folder), str(target))) from error
            except OSError as error:
                raise output_error(target, error) from error
            staged.append((folder, target))
        return staged

    def _overlay(
        self,
        clip: Clip,
        persons: Sequence[Person],
        folder: Path,
        done: Path | None,
        keeper: Keeper,
        notify: Notify,
    ) -> Path:
        """Write the overlay video of all persons, or copy it where it has been written for another one."""
        target = folder / _FILES[OVERLAY]
        if done is not None:
            shutil.copyfile(done, target)
            return target
        from recon3d.media._ahead import prefetched
        from recon3d.media.video import VideoWriter
        from recon3d.render.overlay_video import OverlayArtist

        captures = [person.capture for person in persons]
        artist = OverlayArtist(captures, self.head, side_by_side=self._settings.side_by_side)
        sound = clip.path if clip.has_audio else None
        total = len(captures[0])
        with VideoWriter(target, artist.size, clip.fps, audio_from=sound, preset=_PRESET) as video:
            # Decoding, drawing and encoding go on side by side.
            drawn = prefetched(artist.draw(keeper.watch(clip.frames(ahead=8))))
            for count, (picture, time) in enumerate(drawn, 1):
                video.write(picture, time)
                notify("overlay", min(count, total - 1), total)
        notify("overlay", total, total)
        return target

    def _export(
        self, person: Person, pictures: Mapping[int, Pixels], folder: Path, notes: Sequence[str]
    ) -> None:
        from recon3d.export.clip_texture import bake_clip_texture
        from recon3d.export.livelink import write_livelink
        from recon3d.export.report import write_report

        settings, capture = self._settings, person.capture
        capture.save(folder / _FILES["capture"])
        delight = settings.options.delight
        texture = bake_clip_texture(pictures, capture, self.head, delight=delight) if pictures else None
        for name in settings.formats:
            if name == "livelink":
                write_livelink(capture, self.head, folder / _FILES[name], settings.options)
            elif name == "report":
                write_report(capture, folder, notes=notes)
            elif name in FORMATS:
                export(capture, self.head, folder, name, texture=texture, options=settings.options)


def _warm_up() -> None:
    """Load what only the results need while the first clip is looked at: half a second, of a second core."""
    import torch

    from recon3d.render.rasterize import interpolate, rasterize

    for name in ("scipy.sparse.linalg", "recon3d.export.glb_animation", "recon3d.export.report"):
        import_module(name)
    verts, faces = torch.tensor([[[0.0, 0, 1], [4, 0, 1], [0, 4, 1]]]), torch.tensor([[0, 1, 2]])
    interpolate(verts, faces, rasterize(verts, faces, (2, 2)))


def known_formats() -> tuple[str, ...]:
    """Return all formats that ``recon3d video`` can be asked for."""
    return (*FORMATS, OVERLAY)


def lost_note(lost: int) -> str:
    """Say how many frames could not be decoded."""
    return f"{counted(lost)} could not be decoded and {'is' if lost == 1 else 'are'} left out"


def counted(frames: int) -> str:
    """Return "1 frame", "2 frames"."""
    return f"{frames} frame" + "s" * (frames != 1)


def _check_way(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: a file is in the way of the output folder; choose another --out")


def _notes(person: Person, lost: int) -> list[str]:
    notes = []
    if lost:
        notes.append(lost_note(lost))
    if person.cuts:
        where = ", ".join(f"{time:.2f}" for time in person.cuts[:20])
        notes.append(f"cuts at {where} s" + (" and later" if len(person.cuts) > 20 else ""))
    return notes


def publish_folder(folder: Path, target: Path) -> list[Path]:
    """Give a finished folder its name, in place of the one that an earlier run left; return what was in it.

    Files that recon3d did not write in that one are kept.
    """
    try:
        new = sorted(file.name for file in folder.iterdir())
        if target.is_dir():
            # The capture speaks for the others, so it goes first and comes back last.
            (target / _FILES["capture"]).unlink(missing_ok=True)
            for name in sorted(new, key=lambda name: name == _FILES["capture"]):
                replace(folder / name, target / name)
        else:
            folder.rename(target)
        return [target / name for name in new]
    except OSError as error:
        raise output_error(target, error) from error


def _work_name(stem: str) -> str:
    """Return what the names of a clip's working folders begin with; short, whatever the clip's name is."""
    return f".recon3d-{digest(stem)}-"


def _remove_staged(work: Path) -> None:
    """Remove results that could not be published: they fill the disk; what was seen is kept."""
    for folder in work.glob("out-*"):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # there is more in it
        work.rmdir()


def _parts_of(work: Path) -> Path:
    """Return the folder of a clip's parts, where it is cut."""
    return work.with_name(f"{work.name}-parts")


def remove_work(out: Path, stem: str) -> None:
    """Remove what this run, and interrupted runs of this clip with other settings, left."""
    name = _work_name(stem)
    for pattern in (f"{name}????????", f"{name}????????-parts", f".{name}????????.*"):
        for folder in out.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def with_threads(settings: VideoSettings, workers: int) -> VideoSettings:
    """Share the machine's cores among workers."""
    if settings.threads is not None or workers < 2:
        return settings
    return changed(settings, threads=max(1, (os.cpu_count() or 1) // workers))
