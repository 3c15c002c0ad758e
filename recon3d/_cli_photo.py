"""``recon3d photo``: one photograph after another, whatever happens to one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recon3d._cli_report import Reporter, explain
from recon3d._focal_option import Focal
from recon3d._results import PHOTO_CHOICES, FolderNames, check_formats, write_outputs
from recon3d.errors import Recon3DError, UsageError
from recon3d.export.options import ExportOptions
from recon3d.files import make_folder

if TYPE_CHECKING:
    from recon3d.media.image import Photo
    from recon3d.pipeline import FittedFace, Reconstructor


@dataclass(frozen=True)
class PhotoSettings:
    """The options of the command.

    Attributes:
        out: Folder of the results.
        formats: Of ``PHOTO_CHOICES``.
        head: File of a head model, or None.
        device: A torch device.
        landmarks: The face source.
        weights_dir: Folder of the face networks, or None.
        max_faces: At most this many faces a photograph.
        focal: Focal length, or None.
        landmark_dots: Draw the landmarks over the overlay.
        delight: Take the photographs' light out of the textures.
        raster: Name of the rasterizer, or None.
        refine: Fit the picture's colours after the landmarks.
        encoder: The image encoder: True for the one that comes with recon3d, weights, or False for none.
    """

    out: Path
    formats: Sequence[str]
    head: Path | None
    device: str
    landmarks: Literal["mediapipe", "fan"]
    weights_dir: Path | None
    max_faces: int
    focal: Focal | None
    landmark_dots: bool
    delight: bool = False
    raster: str | None = None
    refine: bool = False
    encoder: Path | bool = True


class _NotReady(Exception):
    """What every photograph needs could not be had; the cause says what."""


class _Batch:
    """The photographs of one command."""

    def __init__(self, settings: PhotoSettings, reporter: Reporter) -> None:
        self._settings, self._reporter = settings, reporter
        self._names = FolderNames()
        self._worker: Reconstructor | None = None

    def run(self, inputs: Sequence[str]) -> int:
        """Do all of them and return the exit status."""
        from recon3d.media.image import iter_images

        found = list(iter_images(inputs))
        self._reporter.begin(len(found), "photos")
        for k, (path, error) in enumerate(found):
            try:
                if error is not None:
                    raise error
                self._one(path)
            except _NotReady as stop:
                cause = stop.__cause__ or stop
                self._reporter.say(explain(cause))
                for other, _ in found[k:]:
                    self._reporter.not_done(other, cause)
                status = self._reporter.exit_status()
                return 2 if isinstance(cause, UsageError) else status
            except BrokenPipeError:
                raise
            except Exception as problem:  # a fault in one photograph must not stop the others
                self._reporter.failed(path, problem)
        return self._reporter.exit_status()

    def _one(self, path: Path) -> None:
        from recon3d.media.image import read_image

        begun = time.perf_counter()
        stem = self._names.claim(path)
        photo = read_image(path)
        faces, outputs = fit_and_write(self._ready(), photo, self._settings, stem)
        seconds = round(time.perf_counter() - begun, 3)
        self._reporter.done(path, _sentence(path, outputs), **_facts(faces, outputs), seconds=seconds)

    def _ready(self) -> Reconstructor:
        """Return the one reconstructor, made for the first photograph that can be read.

        Raises:
            _NotReady: It cannot be made, or the results have nowhere to go: no photograph can be done.
        """
        if self._worker is None:
            settings = self._settings
            try:
                make_folder(settings.out)
                worker = open_reconstructor(settings, quiet=self._reporter.quiet)
            except Recon3DError as error:
                raise _NotReady from error
            self._worker = worker
        return self._worker


def run_photo(inputs: Sequence[str], settings: PhotoSettings, reporter: Reporter) -> int:
    """Do the photographs and return the exit status.

    Raises:
        UsageError: A format is none of a photograph's.
    """
    check_formats(settings.formats, PHOTO_CHOICES)
    return _Batch(settings, reporter).run(inputs)


def open_reconstructor(settings: PhotoSettings, *, quiet: bool) -> Reconstructor:
    """Return the reconstructor of the settings, with all that it needs loaded.

    Raises:
        Recon3DError: Something cannot be had.
    """
    from recon3d.pipeline import Reconstructor
    from recon3d.render.rasterize import use_backend

    use_backend(settings.raster)
    worker = Reconstructor(
        head=settings.head,
        landmarks=settings.landmarks,
        weights_dir=settings.weights_dir,
        max_faces=settings.max_faces,
        refine=settings.refine,
        encoder=settings.encoder,
        device=settings.device,
        quiet=quiet,
    )
    worker.prepare()
    return worker


def fit_and_write(
    worker: Reconstructor, photo: Photo, settings: PhotoSettings, stem: str
) -> tuple[list[FittedFace], list[list[Path]]]:
    """Do one photograph; return its faces and the files of each, the most prominent first.

    Raises:
        Recon3DError: It cannot be done; nothing half-written is left.
    """
    focal = settings.focal
    faces = worker.fit(photo, focal=focal.pixels(photo.size) if focal else None)
    outputs = write_outputs(
        [face.capture for face in faces],
        worker.head,
        photo,
        settings.out,
        stem,
        settings.formats,
        landmark_dots=settings.landmark_dots,
        options=ExportOptions(delight=settings.delight),
    )
    return faces, outputs


def _sentence(path: Path, outputs: Sequence[Sequence[Path]]) -> str:
    from recon3d.media._open import shown

    folders = ", ".join(shown(files[0].parent) for files in outputs)
    return f"{shown(path)} -> {folders}"


def _facts(faces: Sequence[FittedFace], outputs: Sequence[Sequence[Path]]) -> dict[str, Any]:
    described = [
        {
            "folder": str(files[0].parent),
            "box": [round(float(v), 1) for v in face.capture.box[0]],
            "score": round(float(face.capture.score[0]), 4),
            "residual": round(face.residual, 5),
            "inliers": round(face.inliers, 3),
        }
        for face, files in zip(faces, outputs, strict=True)
    ]
    return {"outputs": [str(file) for files in outputs for file in files], "faces": described}
