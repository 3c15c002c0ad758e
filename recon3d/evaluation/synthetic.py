"""The solver against exact truth: landmarks of random known heads, projected and fitted again.

Nothing is rendered: the landmarks are the head's own, so what is measured is how much of identity, expression
and pose the landmarks and the priors tell apart, and nothing of the face stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.errors import InputError
from recon3d.evaluation.metrics import mean_absolute_error, rotation_error_degrees, unit_correlation
from recon3d.fitting import FitResult, LandmarkSolver
from recon3d.head import HeadModel
from recon3d.head.contour import landmarks68
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera

#: Pairs of units that no face shows together; a random expression never has both.
_OPPOSITES = (
    ("jawLeft", "jawRight"), ("mouthLeft", "mouthRight"),
    *((f"eyeLookUp{s}", f"eyeLookDown{s}") for s in ("Left", "Right")),
    *((f"eyeLookIn{s}", f"eyeLookOut{s}") for s in ("Left", "Right")),
)  # fmt: skip
_SIZE = (512, 512)


@dataclass(frozen=True)
class Truth:
    """B known heads in front of a camera.

    Attributes:
        shape: (B, S) standard deviations.
        expression: (B, 52).
        rotation: (B, 3, 3) head to camera.
        translation: (B, 3) m: ``X_camera = R X + t``.
        focal: (B,) px.
        principal: (B, 2) px.
    """

    shape: Tensor
    expression: Tensor
    rotation: Tensor
    translation: Tensor
    focal: Tensor
    principal: Tensor


@dataclass(frozen=True)
class SyntheticReport:
    """How well known heads are found again.

    Attributes:
        faces: How many.
        arkit_mae: Mean absolute error over all units and faces.
        active_mae: The same over the units that are on (above 0.05) in truth.
        correlation: Mean over the units of the correlation over the faces.
        rotation_degrees: Mean error of the head's rotation.
        distance_percent: Mean error of the distance to the camera, in percent of it.
    """

    faces: int
    arkit_mae: float
    active_mae: float
    correlation: float
    rotation_degrees: float
    distance_percent: float


def single_units() -> Tensor:
    """(52, 52): each unit alone, at 0.8."""
    return 0.8 * torch.eye(len(ARKIT_NAMES))


def sparse_expressions(count: int, rng: np.random.Generator, active: int = 5) -> Tensor:
    """(count, 52): a few random units each at 0.2 to 1, never two that exclude each other."""
    values = np.zeros((count, len(ARKIT_NAMES)))
    for row in values:
        chosen = rng.choice(len(ARKIT_NAMES), active, replace=False)
        row[chosen] = rng.uniform(0.2, 1.0, active)
        for a, b in _OPPOSITES:
            i, j = ARKIT_NAMES.index(a), ARKIT_NAMES.index(b)
            if row[i] > 0 and row[j] > 0:
                row[j] = 0
    return torch.tensor(values, dtype=torch.float32)


def read_live_link(path: str | Path, count: int | None = None) -> Tensor:
    """Read the units of a Live Link Face CSV, by its column names; ``count`` rows evenly spread over it.

    Returns:
        (T, 52) in [0, 1].

    Raises:
        InputError: The file cannot be read or lacks a unit.
    """
    import csv

    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        wanted = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
        values = np.array([[float(row[name]) for name in wanted] for row in rows], np.float32)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: not a Live Link Face recording of the 52 ARKit units") from error
    if not len(values):
        raise InputError(f"{path}: the recording holds no frame")
    if count is not None and count < len(values):
        values = values[np.linspace(0, len(values) - 1, count).astype(int)]
    return torch.tensor(values).clamp(0, 1)


def random_truth(
    head: HeadModel,
    expression: Tensor,
    rng: np.random.Generator,
    *,
    shapes: int = 30,
    spread: float = 0.7,
    turn: Sequence[float] = (15.0, 25.0, 10.0),
    distance: tuple[float, float] = (0.6, 1.5),
) -> Truth:
    """Put random people who show given expressions in front of a camera.

    Args:
        head: The head.
        expression: (B, 52).
        rng: Where the rest comes from.
        shapes: Identity coefficients that differ from zero.
        spread: Their standard deviation.
        turn: Largest pitch, yaw and roll, degrees.
        distance: Nearest and farthest, m; the focal length keeps the face about as large.
    """
    batch = len(expression)
    shape = torch.zeros(batch, head.num_shape)
    shapes = min(shapes, head.num_shape)
    shape[:, :shapes] = torch.tensor(rng.normal(0, spread, (batch, shapes)), dtype=torch.float32)
    angles = rng.uniform(-1, 1, (batch, 3)) * np.deg2rad(np.asarray(turn))
    frontal = torch.tensor(FRONTAL, dtype=torch.float32)
    rotation = frontal @ axis_angle_to_matrix(torch.tensor(angles, dtype=torch.float32))
    depth = rng.uniform(*distance, batch)
    aside = rng.uniform(-0.04, 0.04, (batch, 2))
    translation = torch.tensor(np.column_stack([aside, depth]), dtype=torch.float32)
    focal = torch.tensor(0.45 * _SIZE[0] * depth / 0.15, dtype=torch.float32)
    principal = torch.tensor(_SIZE, dtype=torch.float32).expand(batch, 2) / 2
    return Truth(shape, expression.float(), rotation, translation, focal, principal)


@torch.no_grad()
def exact_landmarks(head: HeadModel, truth: Truth, kind: str = "mediapipe478") -> Tensor:
    """Project the landmarks of known heads: (B, N, 2) px; the jaw line of the 68 lies on the silhouette."""
    unposed = head.unposed(truth.shape, truth.expression)
    vertices = unposed @ truth.rotation.mT + truth.translation[:, None]
    camera = Camera(truth.focal, truth.principal, _SIZE)
    if kind == "ibug68":
        return landmarks68(head, camera.project(vertices)[..., :2])
    return camera.project(head.landmarks(vertices, kind))[..., :2]


def compare(result: FitResult, truth: Truth) -> SyntheticReport:
    """Compare a fit with the truth."""
    found: npt.NDArray[np.float32] = result.state.expression.numpy()
    true: npt.NDArray[np.float32] = truth.expression.numpy()
    on = true > 0.05
    correlation = unit_correlation(found, true)
    depth = (result.state.translation[:, 2] / truth.translation[:, 2] - 1).abs()
    turned = rotation_error_degrees(result.state.rotation.numpy(), truth.rotation.numpy())
    return SyntheticReport(
        faces=len(true),
        arkit_mae=mean_absolute_error(found, true),
        active_mae=mean_absolute_error(found[on], true[on]) if on.any() else 0.0,
        correlation=float(np.nanmean(correlation)) if np.isfinite(correlation).any() else float("nan"),
        rotation_degrees=float(turned.mean()),
        distance_percent=100 * float(depth.mean()),
    )


def evaluate_synthetic(
    head: HeadModel,
    solver: LandmarkSolver,
    *,
    kind: str = "mediapipe478",
    recording: str | Path | None = None,
    count: int = 156,
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, SyntheticReport]:
    """Fit the exact landmarks of random known heads.

    Args:
        head: A head whose expression is the 52 ARKit units.
        solver: For landmarks of ``kind``.
        kind: "mediapipe478" or "ibug68".
        recording: A Live Link Face CSV whose frames are the third set of expressions.
        count: Faces in the sets of sparse and recorded expressions.
        noise: Standard deviation, px of a picture of 512, added to the landmarks.
        seed: Of everything random.

    Returns:
        Reports by set: "single" units, "sparse" random ones, and "recorded" frames when there is a recording.

    Raises:
        InputError: The recording cannot be read, or the head's expression is not the ARKit units.
    """
    if not head.speaks_arkit:
        raise InputError(f"{head.id}: its expression is not the 52 ARKit units, so nothing can be compared")
    rng = np.random.default_rng(seed)
    sets = {"single": single_units(), "sparse": sparse_expressions(count, rng)}
    if recording is not None:
        sets["recorded"] = read_live_link(recording, count)
    reports = {}
    for name, expression in sets.items():
        truth = random_truth(head, expression, rng)
        points = exact_landmarks(head, truth, kind)
        points = points + noise * torch.tensor(rng.normal(size=tuple(points.shape)), dtype=points.dtype)
        reports[name] = compare(solver.fit(points, truth.focal, truth.principal), truth)
    return reports
