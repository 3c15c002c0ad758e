"""The landmark benchmark: 805 photographs of LFPW with 68 points marked by hand.

P. Belhumeur, D. Jacobs, D. Kriegman, N. Kumar, "Localizing parts of faces using a consensus of exemplars",
CVPR 2011; the points are those of the 300-W challenge. The first 605 photographs by name are for tuning, the
last 200 are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.errors import InputError
from recon3d.evaluation.archives import read_pictures
from recon3d.evaluation.metrics import nme_outer_eye
from recon3d.face import Face, FaceSource
from recon3d.fitting import FitState, LandmarkSolver, default_focal, guess_from_scores
from recon3d.head import HeadModel, load_head
from recon3d.head.contour import landmarks68
from recon3d.head.ibug68 import ibug68_weights
from recon3d.render.camera import Camera

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Split = Literal["tune", "report", "all"]

MARKS = "landmarks68.json"
#: Photographs, by name, that are for tuning; the others are reported.
TUNE = 605
_BATCH = 64


@dataclass(frozen=True)
class Marked:
    """One photograph and its points.

    Attributes:
        name: File name within the archive.
        pixels: (H, W, 3) uint8 RGB.
        points: (68, 2) px, in recon3d's convention (the first pixel's centre is at 0.5).
    """

    name: str
    pixels: Pixels
    points: Floats


@dataclass(frozen=True)
class Detected:
    """What the face stage found on one photograph, kept small so that many fits can be tried.

    Attributes:
        name: Of the photograph.
        size: Width and height, px.
        face: The face whose landmarks lie nearest to the marked ones; None where none was found.
        points: (68, 2) px, marked by hand.
    """

    name: str
    size: tuple[int, int]
    face: Face | None
    points: Floats


@dataclass(frozen=True)
class LfpwReport:
    """Figures over the photographs of a split on which the face was found. NME in percent of the outer eyes.

    Attributes:
        photographs: In the split.
        found: Of them with a face.
        raw51: The face stage's own landmarks, inner points.
        raw68: The same with the jaw line.
        mesh51: The fitted head's landmarks, inner points.
        mesh68: The same with the jaw line.
        failures: Share of all photographs without a face or with NME68 of the mesh above 8 %.
        worst: Names of the five photographs with the largest NME68 of the mesh.
    """

    photographs: int
    found: int
    raw51: float
    raw68: float
    mesh51: float
    mesh68: float
    failures: float
    worst: tuple[str, ...]


def split_names(names: Sequence[str], split: Split) -> list[str]:
    """Sort photographs by name and return those of a split."""
    ordered = sorted(names)
    return {"tune": ordered[:TUNE], "report": ordered[TUNE:], "all": ordered}[split]


def read_lfpw(archive: str | Path, split: Split = "all", limit: int | None = None) -> Iterator[Marked]:
    """Read the photographs of a split, in the order of their names, one at a time.

    The file is said to count from the centre of the first pixel; half a pixel is added to the points. (On
    photographs and their mirror images together, where a detector's own sideways error cancels, they then lie
    0.8 px too far to the right and 0.6 too low, whatever the face's size.)

    Raises:
        InputError: The archive is missing, damaged, or is another one.
    """

    def choose(names: list[str]) -> list[str]:
        return split_names(names, split)[:limit]

    for name, pixels, marks in read_pictures(archive, MARKS, "lfpw_train.zip", choose):
        try:
            points = np.asarray(marks, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"{archive}: the marks of {name} are not numbers") from error
        if points.shape != (68, 2):
            raise InputError(f"{archive}: {name} has {points.shape} marks; (68, 2) are wanted")
        yield Marked(name, pixels, points + np.float32(0.5))


def detect(photograph: Marked, source: FaceSource) -> Detected:
    """Run the face stage on one photograph; of several faces keep the one that was marked."""
    faces = source.find(photograph.pixels)
    height, width = photograph.pixels.shape[:2]
    middle = photograph.points.mean(0)

    def distance(face: Face) -> float:
        return float(np.linalg.norm(raw_landmarks68(face).mean(0) - middle))

    face = min(faces, key=distance, default=None)
    if face is not None and distance(face) > 0.5 * float(np.ptp(photograph.points[:, 0])):
        face = None  # another person's
    return Detected(photograph.name, (width, height), face, photograph.points)


def raw_landmarks68(face: Face) -> Floats:
    """The face stage's landmarks as 68 points (68, 2) px."""
    points = face.landmarks[:, :2]
    return points if face.kind == "ibug68" else _weights() @ points


@cache
def _weights() -> Floats:
    """(68,478) with which the dense landmarks make the 68 points."""
    head = load_head()
    weights: Floats = ibug68_weights(head.landmarks(head.v_template[None], "mediapipe478")[0]).numpy()
    return weights


def fit_landmarks68(found: Sequence[Detected], head: HeadModel, solver: LandmarkSolver) -> Floats:
    """Fit the head to found faces, and return its own 68 points as seen in the pictures: (B, 68, 2) px."""
    parts = []
    for start in range(0, len(found), _BATCH):
        batch = found[start : start + _BATCH]
        faces = [item.face for item in batch if item.face is not None]
        pixels = torch.from_numpy(np.stack([face.landmarks[:, :2] for face in faces]))
        focal = [default_focal(face.landmarks, item.size) for face, item in zip(faces, batch, strict=True)]
        principal = torch.tensor([item.size for item in batch], dtype=torch.float32) / 2
        guess, confidence = _guess(faces, solver)
        result = solver.fit(pixels, torch.tensor(focal), principal, guess=guess, confidence=confidence)
        parts.append(project68(head, result.state, torch.tensor(focal), principal).numpy())
    return np.concatenate(parts)


@torch.no_grad()
def project68(head: HeadModel, state: FitState, focal: Tensor, principal: Tensor) -> Tensor:
    """The 68 points of fitted heads in their pictures: (B, 68, 2) px, the jaw line on the silhouette."""
    return landmarks68(head, Camera(focal, principal, (1, 1)).project(state.vertices(head))[..., :2])


def _guess(faces: Sequence[Face], solver: LandmarkSolver) -> tuple[Tensor | None, Tensor | None]:
    scores = [face.scores for face in faces if face.scores is not None]
    if len(scores) < len(faces):
        return None, None
    return solver.guess_of(*guess_from_scores(torch.from_numpy(np.stack(scores))))


def evaluate_lfpw(
    archive: str | Path,
    head: HeadModel,
    source: FaceSource,
    solver: LandmarkSolver,
    *,
    split: Split = "report",
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LfpwReport:
    """Find and fit the faces of a split, and compare both with the points marked by hand.

    Args:
        archive: ``lfpw_train.zip``.
        head: The head.
        source: The face stage.
        solver: For the landmarks of that face stage.
        split: Which photographs.
        limit: At most this many of them.
        progress: Called with the number of photographs done after each.

    Raises:
        InputError: The archive cannot be read, or shows no face at all.
    """
    detected = []
    for photograph in read_lfpw(archive, split, limit):
        detected.append(detect(photograph, source))
        if progress is not None:
            progress(len(detected))
    return score(detected, head, solver)


def score(detected: Sequence[Detected], head: HeadModel, solver: LandmarkSolver) -> LfpwReport:
    """Fit the detected faces and compute the figures.

    Raises:
        InputError: No face was found at all.
    """
    found = [item for item in detected if item.face is not None]
    if not found:
        raise InputError(f"no face was found on any of {len(detected)} photographs")
    marked = np.stack([item.points for item in found])
    raw = np.stack([raw_landmarks68(item.face) for item in found if item.face is not None])
    mesh = fit_landmarks68(found, head, solver)
    mesh68 = nme_outer_eye(mesh, marked)
    failed = len(detected) - len(found) + int((mesh68 > 8).sum())
    return LfpwReport(
        photographs=len(detected),
        found=len(found),
        raw51=float(nme_outer_eye(raw, marked, jaw=False).mean()),
        raw68=float(nme_outer_eye(raw, marked).mean()),
        mesh51=float(nme_outer_eye(mesh, marked, jaw=False).mean()),
        mesh68=float(mesh68.mean()),
        failures=failed / len(detected),
        worst=tuple(found[k].name for k in np.argsort(-mesh68)[:5]),
    )
