"""From a photograph to captures: media → face → fitting → capture; and from there to files, by export.

``reconstruct`` does one picture. For many, keep a ``Reconstructor``: it loads head, face networks and solver
once, when they are first needed, and every further photograph takes a fraction of the first one's time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d._results import OVERLAY, PHOTO_FORMATS, FolderNames, write_outputs
from recon3d._threads import one_thread
from recon3d.capture import Capture
from recon3d.encoder.crop import cut_out
from recon3d.errors import AssetError, InputError, NoFaceError, UsageError
from recon3d.face import Face, FaceSource, open_face_source
from recon3d.face.source import MAX_FACES, check_pixels
from recon3d.fitting import (
    FitResult,
    LandmarkSolver,
    Observed,
    default_focal,
    guess_from_encoder,
    guess_from_scores,
)
from recon3d.head import HeadModel, load_head
from recon3d.head.contour import landmarks68
from recon3d.media._open import shown
from recon3d.media.image import Photo, read_image
from recon3d.render.camera import Camera

if TYPE_CHECKING:
    from recon3d.encoder.encoder import FaceEncoder
    from recon3d.fitting.refine import PhotoRefiner

__all__ = [
    "OVERLAY",
    "PHOTO_FORMATS",
    "FittedFace",
    "FolderNames",
    "Reconstructor",
    "reconstruct",
    "write_outputs",
]

Image = str | Path | Photo | npt.NDArray[np.uint8]
Landmarks = Literal["mediapipe", "fan"]

#: Which landmarks of the head model each face source speaks of.
_EMBEDDINGS = {"mediapipe": "mediapipe478", "fan": "ibug68"}


@dataclass(frozen=True)
class FittedFace:
    """One face of a photograph, fitted.

    Attributes:
        capture: The result.
        residual: Root mean square distance of the head's landmarks from those found, in parts of the
            face's size: about 0.01 for a good fit.
        inliers: Share of the landmarks that the fit agrees with, in [0, 1]; small for a bad fit.
    """

    capture: Capture
    residual: float
    inliers: float


class Reconstructor:
    """Reconstructs the heads of one photograph after another. Not thread-safe: use one a thread."""

    def __init__(
        self,
        *,
        head: str | Path | HeadModel | None = None,
        landmarks: Landmarks = "mediapipe",
        weights_dir: str | Path | None = None,
        max_faces: int = MAX_FACES,
        refine: bool = False,
        encoder: str | Path | bool = True,
        device: str = "cpu",
        quiet: bool = True,
    ) -> None:
        """Note the settings; files are read when the first photograph needs them, or by ``prepare``.

        Args:
            head: A head model, or its file; the open head that ships with recon3d when None.
            landmarks: ``"mediapipe"`` (478 points, the default) or ``"fan"`` (68 points, an extra).
            weights_dir: Folder that holds the face networks' files, instead of the download cache.
            max_faces: At most this many faces of a picture, the most prominent first.
            refine: After the landmarks, fit the picture's colours (recon3d.fitting.refine).
            encoder: The image encoder, which guesses the expression from the pixels: True for the one that
                comes with recon3d, the file of another (docs/training.md), or False for the face stage's
                scores instead. It needs the 478 points.
            device: Where torch's networks run. That is those of ``"fan"``: the default's small networks
                and the solver are fastest on the CPU.
            quiet: Show no progress while a model file is downloaded.

        Raises:
            UsageError: A setting does not exist.
        """
        if landmarks not in _EMBEDDINGS:
            raise UsageError(f"there is no face source called {landmarks!r}; choose mediapipe or fan")
        if max_faces < 1:
            raise UsageError(f"max_faces is {max_faces}; at least 1 is wanted")
        _check_device(device)
        self._given_head, self._landmarks, self._device = head, landmarks, device
        self._weights = None if weights_dir is None else Path(weights_dir)
        self._max_faces, self._refine, self._quiet = max_faces, refine, quiet
        self._encoder = encoder

    @cached_property
    def head(self) -> HeadModel:
        """The head model."""
        given = self._given_head
        head = given if isinstance(given, HeadModel) else load_head(given)
        needed = {"ibug68", "contour" if self._landmarks == "fan" else "mediapipe478"}
        missing = sorted(needed - set(head.embeddings))
        if missing:
            raise InputError(f"the head model {head.id} has no landmark embedding {' and '.join(missing)}")
        return head

    @cached_property
    def faces(self) -> FaceSource:
        """What finds the faces."""
        return _open_faces(self._landmarks, self._weights, self._device, quiet=self._quiet)

    @cached_property
    def solver(self) -> LandmarkSolver:
        """What fits the head to landmarks."""
        return LandmarkSolver(self.head, _EMBEDDINGS[self._landmarks])

    @cached_property
    def encoder(self) -> FaceEncoder | None:
        """What guesses expressions from pixels; None where it is not wanted, or cannot help."""
        if self._landmarks != "mediapipe":
            return None
        from recon3d.encoder.encoder import choose_encoder

        return choose_encoder(self._encoder, self.head)

    @cached_property
    def refiner(self) -> PhotoRefiner:
        """What refines a fit by the picture."""
        from recon3d.fitting.refine import PhotoRefiner

        return PhotoRefiner(self.head, self.solver)

    def prepare(self) -> None:
        """Load head, networks and solver now, so that what is wrong with them shows before any photograph.

        Raises:
            InputError: The head model cannot be used.
            AssetError: The face networks' file cannot be had.
            MissingExtraError: The face source needs a package that is not installed.
        """
        with one_thread():
            _ = self.solver, self.faces, self.encoder

    def reconstruct(self, image: Image, *, focal: float | None = None) -> list[Capture]:
        """Return one capture a face, the most prominent face first; see ``fit``."""
        return [found.capture for found in self.fit(image, focal=focal)]

    def fit(self, image: Image, *, focal: float | None = None) -> list[FittedFace]:
        """Fit the head to every face of a photograph, the most prominent face first.

        Args:
            image: A file, a ``Photo``, or upright (H, W, 3) uint8 RGB pixels.
            focal: Focal length in px; by default what EXIF tells, or else a guess from the largest face.

        Raises:
            InputError: The picture cannot be read.
            NoFaceError: It shows no face.
            AssetError: The face networks' file cannot be had.
            UsageError: ``focal`` is no length; or the face source has no scores for a head that needs them.
        """
        if focal is not None and not (math.isfinite(focal) and focal > 0):
            raise UsageError(f"the focal length is {focal}; a positive number of pixels is wanted")
        photo = _as_photo(image)
        faces = self.faces.find(photo.pixels, max_faces=self._max_faces)
        if not faces:
            raise NoFaceError(f"{_label(photo)}: no face found; show one larger or more from the front")
        camera = _camera(photo, faces, focal)
        with one_thread():
            guess, confidence = self._guess(photo, faces)
            seen = self._observed(faces, camera, guess, confidence)
            result = self._solve(seen)
            if self._refine:
                result = self._refined(photo, seen, result)
            units = self._units(faces, result, guess)
            found = self._captures(photo, faces, camera, result, units)
        if not found:
            raise NoFaceError(f"{_label(photo)}: no face could be fitted; try a larger or sharper picture")
        return found

    def _observed(
        self, faces: Sequence[Face], camera: Camera, guess: Tensor | None, confidence: Tensor | None
    ) -> Observed:
        """State what the faces show, for the solver; ``guess`` (B, 52) is of the ARKit units."""
        points = torch.from_numpy(np.stack([face.landmarks[:, :2] for face in faces]))
        if guess is not None and confidence is not None:
            guess, confidence = self.solver.guess_of(guess, confidence)
        batch = len(faces)
        return Observed(
            points, camera.focal.expand(batch), camera.principal.expand(batch, 2), guess, confidence
        )

    def _guess(self, photo: Photo, faces: Sequence[Face]) -> tuple[Tensor | None, Tensor | None]:
        """Guess the ARKit units by the encoder, or else by the face stage's scores, if it has any."""
        if self.encoder is not None:
            told = self.encoder.tell([cut_out(photo.pixels, face.landmarks) for face in faces])
            return guess_from_encoder(torch.from_numpy(told.expression), torch.from_numpy(told.variance))
        scores = [face.scores for face in faces if face.scores is not None]
        if len(scores) < len(faces):
            return None, None
        return guess_from_scores(torch.from_numpy(np.stack(scores)))

    def _solve(self, seen: Observed) -> FitResult:
        """Fit all faces of the picture in one batch."""
        return self.solver.fit(
            seen.pixels, seen.focal, seen.principal, guess=seen.guess, confidence=seen.confidence
        )

    def _refined(self, photo: Photo, seen: Observed, result: FitResult) -> FitResult:
        """Let the picture correct the faces, one after the other."""
        state = result.state.clone()
        for k in range(len(seen.pixels)):
            index = torch.tensor([k])
            found = self.refiner.refine(photo.pixels, seen.face(k), state.subset(index))
            state.put(index, found.state)
        problem = self.solver.problem(seen.pixels, seen.focal, seen.principal)
        residual, inliers = problem.quality(problem.evaluate(state))
        return replace(result, state=state, residual=residual, inliers=inliers)

    def _units(self, faces: Sequence[Face], result: FitResult, guess: Tensor | None) -> Tensor:
        """Return the ARKit units (B, 52): fitted, where the head knows them."""
        units = self.solver.units_of(result.state.expression, guess)
        if units is not None:
            return units.clamp(0, 1)
        scores = [face.scores for face in faces if face.scores is not None]
        if len(scores) < len(faces):
            raise UsageError(
                f"the head model {self.head.id} has no ARKit units, and the face source no scores"
            )
        return torch.from_numpy(np.stack(scores)).clamp(0, 1)

    def _captures(
        self, photo: Photo, faces: Sequence[Face], camera: Camera, result: FitResult, units: Tensor
    ) -> list[FittedFace]:
        """State the solution in the head model's own terms; a face whose fit fell apart is left out."""
        with torch.no_grad():
            shape, expression, pose, translation = result.state.posed(self.head)
            vertices = self.head(shape, expression, pose).vertices + translation[:, None]
            points = landmarks68(self.head, camera.project(vertices)[..., :2])
        numbers = torch.cat([t.flatten(1) for t in (shape, pose, translation, expression, points)], dim=1)
        found = []
        for k in numbers.isfinite().all(1).nonzero()[:, 0].tolist():
            capture = Capture(
                head=self.head.id,
                source=_name(photo),
                fps=0.0,
                timestamps=np.zeros(1),
                image_size=np.array(photo.size, np.int64),
                focal=float(camera.focal[0]),
                principal=camera.principal[0].double().numpy(),
                shape=shape[k].numpy(),
                expression=_row(expression, k),
                pose=_row(pose, k),
                translation=_row(translation, k),
                arkit=_row(units, k),
                landmarks68=_row(points, k),
                box=faces[k].box[None],
                score=np.array([faces[k].score], np.float32).clip(0, 1),
                tracked=np.ones(1, bool),
            )
            found.append(FittedFace(capture, float(result.residual[k]), float(result.inliers[k])))
        return found


def reconstruct(
    image: Image,
    *,
    head: str | Path | HeadModel | None = None,
    landmarks: Landmarks = "mediapipe",
    weights_dir: str | Path | None = None,
    max_faces: int = MAX_FACES,
    focal: float | None = None,
    refine: bool = False,
    encoder: str | Path | bool = True,
    device: str = "cpu",
) -> list[Capture]:
    """Reconstruct the heads in a photograph: one capture a face, the most prominent face first.

    The ARKit units of the captures are the fitted expression where the head model's coefficients are those
    units (the open head's are), or read off it where the head knows them; else the face networks' own scores.

    Args:
        image: A file, a ``Photo``, or upright (H, W, 3) uint8 RGB pixels.
        head: A head model, or its file; the open head that ships with recon3d when None.
        landmarks: ``"mediapipe"`` (478 points) or ``"fan"`` (68 points; the extra ``recon3d[fan]``).
        weights_dir: Folder that holds the face networks' files, instead of the download cache.
        max_faces: At most this many faces.
        focal: Focal length in px; by default what EXIF tells, or else a guess from the largest face.
        refine: After the landmarks, fit the picture's colours.
        encoder: Weights of an image encoder; see ``Reconstructor``.
        device: Where torch's networks run; see ``Reconstructor``.

    Raises:
        InputError: The picture or the head model cannot be used.
        NoFaceError: The picture shows no face.
        AssetError: The face networks' file cannot be had.
        MissingExtraError: The face source needs a package that is not installed.
        UsageError: A setting does not exist.
    """
    worker = Reconstructor(
        head=head,
        landmarks=landmarks,
        weights_dir=weights_dir,
        max_faces=max_faces,
        refine=refine,
        encoder=encoder,
        device=device,
    )
    return worker.reconstruct(image, focal=focal)


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=torch.device(name))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"there is no device {name!r} here; choose cpu, or cuda where torch has it"
        ) from error


def _open_faces(name: Landmarks, folder: Path | None, device: str, *, quiet: bool) -> FaceSource:
    """Open a face source; its networks come from ``folder`` where that has them."""
    from recon3d.assets import FACE_LANDMARKER, fetch

    path = None if folder is None else folder / FACE_LANDMARKER.filename
    if name == "fan":
        if path is None or not path.is_file():
            path = fetch(FACE_LANDMARKER.name, quiet=quiet)
        return open_face_source("fan", path=path, weights_dir=folder, device=device)
    if path is not None and not path.is_file():
        raise AssetError(f"{path} is not there; leave out the weights folder, or put the file into it")
    return open_face_source("mediapipe", path=path or fetch(FACE_LANDMARKER.name, quiet=quiet))


def _as_photo(image: Image) -> Photo:
    if isinstance(image, Photo):
        return image
    if isinstance(image, (str, Path)):
        return read_image(image)
    return Photo(check_pixels(np.asarray(image)))


def _name(photo: Photo) -> str:
    return "image" if photo.path is None else shown(photo.path.name)


def _label(photo: Photo) -> str:
    return "image" if photo.path is None else shown(photo.path)


def _camera(photo: Photo, faces: Sequence[Face], focal: float | None) -> Camera:
    """Return the photograph's camera: the principal point is its centre."""
    if focal is None:
        largest = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
        focal = photo.focal_px or default_focal(largest.landmarks, photo.size)
    return Camera.create(focal, photo.size)


def _row(values: Tensor, k: int) -> npt.NDArray[np.float32]:
    return values[k : k + 1].numpy()
