"""``recon3d edit`` and ``recon3d reenact``: a face of a photograph, painted with other expressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d._cli_report import Reporter
from recon3d.errors import UsageError
from recon3d.files import make_folder
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel
    from recon3d.media.image import Photo
    from recon3d.synthesis.repaint import Portrait, Repainter

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Endings of clips.
_CLIPS = (".mp4",)


@dataclass(frozen=True)
class RepaintSettings:
    """Options that both commands share.

    Attributes:
        out: File of the result.
        face: Which of several faces, the most prominent being 1; None takes that, and says so.
        visible: Draw a visible mark.
        size: Longest side of a clip, px.
        painter: Weights of another neural renderer, or None.
        head: File of a head model, or None.
        encoder: The image encoder: True for the one that comes with recon3d, weights, or False for none.
        weights_dir: Folder of the face networks, or None.
    """

    out: Path
    face: int | None = None
    visible: bool = False
    size: int = 1280
    painter: Path | None = None
    head: Path | None = None
    encoder: Path | bool = True
    weights_dir: Path | None = None

    @property
    def is_clip(self) -> bool:
        """Whether a clip is asked for."""
        return self.out.suffix.lower() in _CLIPS


@dataclass(frozen=True)
class Wanted:
    """The expression that is asked for: see ``recon3d.synthesis.wanted.wanted_expression``."""

    units: str = ""
    emotion: str = ""
    action_units: str = ""

    def expression(self, own: Floats) -> Floats:
        """Return it, (52,), for a face that shows ``own``.

        Raises:
            UsageError: Something that does not exist is asked for, or nothing.
        """
        from recon3d.synthesis.wanted import wanted_expression

        if not (self.units or self.emotion or self.action_units):
            raise UsageError("say what is to change: --set mouthSmile=.8, --emotion happy, or --au 12=.7")
        return wanted_expression(self.units, self.emotion, self.action_units, own)

    def __str__(self) -> str:
        """Return it as it was asked for."""
        return " ".join(part for part in (self.units, self.emotion, self.action_units) if part)


class _Studio:
    """Loads what both commands need, once."""

    def __init__(self, settings: RepaintSettings, reporter: Reporter) -> None:
        self._settings, self._reporter = settings, reporter

    @cached_property
    def head(self) -> HeadModel:
        from recon3d.head import load_head

        return load_head(self._settings.head)

    @cached_property
    def repainter(self) -> Repainter:
        from recon3d.resources import resource_path
        from recon3d.synthesis.repaint import LARGEST, LARGEST_IN_CLIPS, Repainter
        from recon3d.synthesis.weights import SHIPPED, load_painter

        painter = load_painter(self._settings.painter or resource_path(SHIPPED), self.head)
        return Repainter(self.head, painter, LARGEST_IN_CLIPS if self._settings.is_clip else LARGEST)

    def portrait(self, path: Path) -> Portrait:
        """Take a photograph apart.

        Raises:
            InputError: It cannot be read.
            NoFaceError: It shows no face.
            UsageError: It has not as many faces.
        """
        from recon3d.media.image import read_image
        from recon3d.pipeline import Reconstructor

        settings = self._settings
        photo = read_image(path)
        if settings.is_clip:
            photo = _shrunk(photo, settings.size)
        worker = Reconstructor(
            head=self.head, weights_dir=settings.weights_dir, encoder=settings.encoder,
            quiet=self._reporter.quiet,
        )  # fmt: skip
        return self.repainter.portrait(photo.pixels, self._chosen(worker.reconstruct(photo), path))

    def _chosen(self, found: list[Capture], path: Path) -> Capture:
        face = self._settings.face
        if face is None and len(found) > 1:
            self._reporter.say(
                f"{shown(path)}: {len(found)} faces; the most prominent is taken, --face 2 is the next"
            )
        if (face or 1) > len(found):
            raise UsageError(f"{shown(path)}: there is no face {face}; {len(found)} found")
        return found[(face or 1) - 1]


def run_edit(photo: Path, wanted: Wanted, settings: RepaintSettings, reporter: Reporter) -> int:
    """Give a face of a photograph another expression; return the exit status.

    Raises:
        UsageError: Something that does not exist is asked for.
        Recon3DError: The photograph cannot be used, or the result not be written.
    """
    from recon3d.synthesis.motion import EDIT_FPS, there_and_back

    _check_out(settings.out, photo)
    wanted.expression(np.zeros(52, np.float32))  # what cannot be meant is told before any work
    reporter.total = 1
    studio = _Studio(settings, reporter)
    portrait = studio.portrait(photo)
    own = portrait.capture.arkit[0]
    asked = wanted.expression(own)
    what = f"face repainted: {wanted}"
    if settings.is_clip:
        frames = studio.repainter.paint(portrait, there_and_back(own, asked))
        _write_clip(frames, portrait, EDIT_FPS, settings, what)
    else:
        from recon3d.synthesis.marks import save_marked_picture

        (pixels,) = studio.repainter.paint(portrait, asked[None])
        save_marked_picture(settings.out, pixels, what, settings.visible)
    reporter.done(photo, f"{shown(photo)} -> {shown(settings.out)}", outputs=[str(settings.out)])
    return 0


@dataclass(frozen=True)
class Performance:
    """How a driver is followed.

    Attributes:
        pose: Its head's turns, too.
        relative: Only its changes, added to the source's own expression.
    """

    pose: bool = False
    relative: bool = False


def run_reenact(
    source: Path, driver: Path, how: Performance, settings: RepaintSettings, reporter: Reporter
) -> int:
    """Let a photograph's face do what another does; return the exit status.

    Raises:
        UsageError: A setting is out of range.
        Recon3DError: Source or driver cannot be used, or the result not be written.
    """
    from recon3d._takes import read_take
    from recon3d.media.video import is_clip
    from recon3d.synthesis.motion import driven_expressions, driven_pose

    _check_out(settings.out, source, driver)
    if not settings.is_clip:
        raise UsageError(f"{shown(settings.out)}: a clip is written; let --out end in .mp4")
    reporter.begin_clips(1)
    studio = _Studio(settings, reporter)
    portrait = studio.portrait(source)
    take = read_take(driver, studio.head, announce=reporter.say)
    rows = driven_expressions(take, portrait.capture.arkit[0] if how.relative else None)
    pose = driven_pose(portrait.capture, take) if how.pose else None
    frames = studio.repainter.paint(portrait, rows, pose)
    counted = _counted(frames, len(rows), source, reporter)
    sound = driver if is_clip(driver) else None
    what = f"face repainted with the expressions of {driver.name}"
    _write_clip(counted, portrait, take.fps or 25.0, settings, what, take.timestamps, sound)
    reporter.done(source, f"{shown(source)} -> {shown(settings.out)}", outputs=[str(settings.out)])
    return 0


def _write_clip(
    frames: Iterator[Pixels], portrait: Portrait, fps: float, settings: RepaintSettings, what: str,
    times: npt.NDArray[np.float64] | None = None, sound: Path | None = None,
) -> None:  # fmt: skip
    from recon3d.media.video import VideoWriter
    from recon3d.synthesis.marks import draw_mark, mark_clip

    height, width = portrait.frame.shape[:2]
    mark = partial(mark_clip, what=what)
    with VideoWriter(settings.out, (width, height), fps, audio_from=sound, crf=17, finished=mark) as writer:
        for number, pixels in enumerate(frames):
            time = number / fps if times is None else float(times[number])
            writer.write(draw_mark(pixels) if settings.visible else pixels, time)


def _counted(frames: Iterator[Pixels], count: int, source: Path, reporter: Reporter) -> Iterator[Pixels]:
    for number, pixels in enumerate(frames):
        yield pixels
        reporter.frames_done(str(source), "painted", number + 1, count)


def _check_out(out: Path, *inputs: Path) -> None:
    from recon3d.synthesis.marks import PICTURES

    known = (*PICTURES, *_CLIPS)
    if out.suffix.lower() not in known:
        raise UsageError(f"{shown(out)}: give --out a file that ends in one of {' '.join(known)}")
    if any(out.resolve() == path.resolve() for path in inputs):
        raise UsageError(f"{shown(out)}: this would replace what is read; choose another --out")
    make_folder(out.parent)


def _shrunk(photo: Photo, size: int) -> Photo:
    """A photograph whose longer side is ``size`` at most."""
    from PIL import Image

    share = size / max(photo.size)
    if share >= 1:
        return photo
    width, height = (max(2, round(side * share)) for side in photo.size)
    pixels = np.asarray(Image.fromarray(photo.pixels).resize((width, height), Image.Resampling.LANCZOS))
    focal = None if photo.focal_px is None else photo.focal_px * share
    return replace(photo, pixels=np.ascontiguousarray(pixels), focal_px=focal)
