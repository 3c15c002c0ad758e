"""The curves of one person through a clip: identity once, then every frame, then time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from recon3d._threads import side_by_side
from recon3d.fitting.controls import Controls
from recon3d.fitting.smooth import smooth_runs
from recon3d.fitting.solver import FitResult, LandmarkSolver

Floats = npt.NDArray[np.floating]

#: Where a face is out of sight for long, its curves rest, and ease to where they go on within this time, s.
_EASE = 0.5
_BATCH = 128


@dataclass(frozen=True)
class Curves:
    """What changes from frame to frame, for T frames.

    Attributes:
        expression: (T, E).
        rotation: (T, 3, 3) head to camera.
        translation: (T, 3) m: ``X_camera = R X + t`` about the head's origin.
        residual: (T,) root mean square landmark distance, in face sizes; 0 where not tracked.
        tracked: (T,) bool.
    """

    expression: npt.NDArray[np.float32]
    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]
    residual: npt.NDArray[np.float32]
    tracked: npt.NDArray[np.bool_]

    @staticmethod
    def empty(frames: int, units: int) -> Curves:
        """Curves of which nothing is known yet."""
        return Curves(
            np.zeros((frames, units), np.float32),
            np.broadcast_to(np.eye(3), (frames, 3, 3)).copy(),
            np.zeros((frames, 3)),
            np.zeros(frames, np.float32),
            np.zeros(frames, bool),
        )


@dataclass(frozen=True)
class Sights:
    """Some frames of one person.

    Attributes:
        frame: (n,) index in the clip.
        pixels: (n, N, 2) landmarks, px.
        guess: (n, E) expression from elsewhere, or None.
        confidence: (E,) or (n, E) its inverse variances, or None.
    """

    frame: npt.NDArray[np.int64]
    pixels: Tensor
    guess: Tensor | None
    confidence: Tensor | None


def solve_frames(
    solver: LandmarkSolver,
    sights: Iterable[Sights],
    curves: Curves,
    shape: Tensor,
    focal: float,
    principal: Tensor,
    threads: int = 1,
) -> None:
    """Solve pose and expression of every frame, identity fixed, and write them into ``curves``.

    Args:
        solver: Of the head.
        sights: The frames, in batches of any size: a few are held at a time.
        curves: Where the results go.
        shape: (1, S) identity.
        focal: px.
        principal: (2,) px.
        threads: Batches that are solved side by side.
    """

    def fit(batch: Sights) -> FitResult:
        count = len(batch.frame)
        return solver.fit(
            batch.pixels,
            torch.full((count,), float(focal)),
            principal.expand(count, 2),
            guess=batch.guess,
            confidence=batch.confidence,
            fixed_shape=shape,
        )

    batches, solved = tee(part for batch in sights for part in _parts(batch))
    for batch, result in zip(batches, side_by_side(fit, solved, threads), strict=True):
        good = torch.isfinite(result.state.translation).all(1) & torch.isfinite(result.cost)
        frame = batch.frame[good.numpy()]
        curves.expression[frame] = result.state.expression[good].numpy()
        curves.rotation[frame] = result.state.rotation[good].numpy()
        curves.translation[frame] = result.state.translation[good].numpy()
        curves.residual[frame] = result.residual[good].numpy()
        curves.tracked[frame] = True


def _parts(batch: Sights) -> Iterator[Sights]:
    for start in range(0, len(batch.frame), _BATCH):
        rows = slice(start, start + _BATCH)
        guess = None if batch.guess is None else batch.guess[rows]
        confidence = batch.confidence
        if confidence is not None and confidence.ndim > 1:
            confidence = confidence[rows]
        yield Sights(batch.frame[rows], batch.pixels[rows], guess, confidence)


def smoothed(
    curves: Curves,
    times: npt.NDArray[np.float64],
    breaks: npt.NDArray[np.bool_],
    strength: float,
    *,
    controls: Controls,
) -> Curves:
    """Smooth the curves within each stretch in which the face was in sight, and fill the gaps between.

    Args:
        curves: As solved.
        times: (T,) s.
        breaks: (T,) bool: nothing is smoothed across the start of such a frame (a cut, another tracklet).
        strength: In [0, 1].
        controls: Limits of the expression.
    """
    runs = unbroken(curves.tracked, breaks)
    fps = _rate(times)
    expression = smooth_runs(curves.expression, runs, fps, strength)
    translation = smooth_runs(curves.translation, runs, fps, strength)
    rotation = curves.rotation.copy()
    for run in runs:
        rotation[run] = _smooth_rotation(rotation[run], fps, strength)
    expression = expression.clip(controls.lower.numpy(), controls.upper.numpy())
    held = Curves(expression.astype(np.float32), rotation, translation, curves.residual, curves.tracked)
    return _filled(held, times)


def unbroken(tracked: npt.NDArray[np.bool_], breaks: npt.NDArray[np.bool_]) -> list[slice]:
    """Return the runs of consecutive tracked frames, split at breaks."""
    starts = tracked & (~np.r_[False, tracked[:-1]] | breaks)
    ends = tracked & (~np.r_[tracked[1:], False] | np.r_[breaks[1:], False])
    return [slice(a, b + 1) for a, b in zip(np.flatnonzero(starts), np.flatnonzero(ends), strict=True)]


def gaps(tracked: npt.NDArray[np.bool_]) -> list[slice]:
    """Return the runs of frames in which the face was not seen."""
    return unbroken(~tracked, np.zeros(len(tracked), bool))


def _rate(times: npt.NDArray[np.float64]) -> float:
    steps = np.diff(times)
    steps = steps[steps > 1e-6]
    return float(1 / np.median(steps)) if len(steps) else 30.0


def _smooth_rotation(matrices: npt.NDArray[np.float64], fps: float, strength: float) -> Floats:
    """Smooth (n, 3, 3) as rotation vectors about their mean, where they are far from π."""
    if len(matrices) < 5 or strength <= 0:
        return matrices
    turns = Rotation.from_matrix(matrices)
    middle = turns.mean()
    vectors = (middle.inv() * turns).as_rotvec()
    smooth = smooth_runs(vectors, [slice(0, len(vectors))], fps, strength)
    matrix: Floats = (middle * Rotation.from_rotvec(smooth)).as_matrix()
    return matrix


def _filled(curves: Curves, times: npt.NDArray[np.float64]) -> Curves:
    """Fill the frames without the face: held at the clip's ends, else eased from side to side."""
    known = np.flatnonzero(curves.tracked)
    missing = np.flatnonzero(~curves.tracked)
    if not len(missing) or not len(known):
        return curves
    place = np.searchsorted(known, missing)
    before, after = known[(place - 1).clip(min=0)], known[place.clip(max=len(known) - 1)]
    part = _eased(times[missing], times[before], times[after])
    part = np.where(before == after, 0.0, part)
    expression, translation = curves.expression.copy(), curves.translation.copy()
    for values in (expression, translation):
        values[missing] = values[before] + (values[after] - values[before]) * part[:, None]
    rotation = curves.rotation.copy()
    start = Rotation.from_matrix(rotation[before])
    turn = (start.inv() * Rotation.from_matrix(rotation[after])).as_rotvec()
    rotation[missing] = (start * Rotation.from_rotvec(turn * part[:, None])).as_matrix()
    return Curves(expression, rotation, translation, curves.residual, curves.tracked)


def _eased(now: Floats, start: Floats, end: Floats) -> Floats:
    """Share of the way from one side of a gap to the other: a smooth step, at most _EASE long, at its end."""
    length = np.minimum(np.maximum(end - start, 1e-6), _EASE)
    x = ((now - (end - length)) / length).clip(0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def best_frames(quality: Floats, count: int) -> npt.NDArray[np.int64]:
    """Choose rows of a person's frames for the identity: the best one of each of ``count`` stretches of time.

    Args:
        quality: (n,) of each row, larger is better; n > 0.
        count: How many, at most.

    Returns:
        Rows, rising.
    """
    parts = np.array_split(np.arange(len(quality)), min(count, len(quality)))
    return np.array([part[int(np.argmax(quality[part]))] for part in parts], np.int64)
