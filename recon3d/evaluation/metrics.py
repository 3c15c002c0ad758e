"""The figures by which a reconstruction is judged. Plain numpy, float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon3d.errors import UsageError

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.floating]

#: Outer corners of the right and the left eye among the 68 points.
OUTER_EYES = (36, 45)
#: Points of the jaw line among the 68; the other 51 are brows, nose, eyes and mouth.
JAW = 17


def nme_outer_eye(found: AnyArray, marked: AnyArray, *, jaw: bool = True) -> Array:
    """Normalised mean error of each face, in percent: the measure of the 300-W challenge.

    Mean distance of the points over the distance of the marked outer eye corners (C. Sagonas et al.,
    "300 Faces In-The-Wild Challenge", Image and Vision Computing 47, 2016).

    Args:
        found: (B, 68, 2) px.
        marked: (B, 68, 2) px, by hand.
        jaw: Count the 17 points of the jaw line too (NME68), or the 51 inner ones alone (NME51).

    Returns:
        (B,) percent.

    Raises:
        UsageError: The arrays are not of 68 points each, or not of the same faces.
    """
    a, b = np.asarray(found, np.float64), np.asarray(marked, np.float64)
    if a.shape != b.shape or a.ndim != 3 or a.shape[1:] != (68, 2):
        raise UsageError(f"two (B, 68, 2) arrays are wanted, not {a.shape} and {b.shape}")
    between = np.linalg.norm(b[:, OUTER_EYES[0]] - b[:, OUTER_EYES[1]], axis=-1)
    distance = np.linalg.norm(a - b, axis=-1)[:, 0 if jaw else JAW :]
    return np.asarray(100 * distance.mean(1) / between)


def rotation_error_degrees(found: AnyArray, true: AnyArray) -> Array:
    """Angle of the rotation between two rotations: (..., 3, 3) matrices to (...) degrees in [0, 180].

    Taken from the sine and the cosine, so that small angles are as exact as large ones.
    """
    between = np.swapaxes(np.asarray(found, np.float64), -1, -2) @ np.asarray(true, np.float64)
    skew = np.stack(
        [
            between[..., 2, 1] - between[..., 1, 2],
            between[..., 0, 2] - between[..., 2, 0],
            between[..., 1, 0] - between[..., 0, 1],
        ],
        axis=-1,
    )
    cosine = np.trace(between, axis1=-2, axis2=-1) - 1
    return np.asarray(np.rad2deg(np.arctan2(np.linalg.norm(skew, axis=-1), cosine)))


def mean_absolute_error(found: AnyArray, true: AnyArray) -> float:
    """Mean of |found - true| over everything; the arrays have one shape."""
    a, b = np.asarray(found, np.float64), np.asarray(true, np.float64)
    if a.shape != b.shape:
        raise UsageError(f"two arrays of one shape are wanted, not {a.shape} and {b.shape}")
    return float(np.abs(a - b).mean())


def unit_correlation(found: AnyArray, true: AnyArray, *, still: float = 1e-3) -> Array:
    """Pearson's correlation of each expression unit over the samples.

    Args:
        found: (B, E) units.
        true: (B, E) units.
        still: A unit whose true values have a smaller standard deviation says nothing.

    Returns:
        (E,) in [-1, 1]; NaN for units that stand still in truth, 0 where only the result stands still.
    """
    a, b = np.asarray(found, np.float64), np.asarray(true, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise UsageError(f"two (B, E) arrays are wanted, not {a.shape} and {b.shape}")
    a, b = a - a.mean(0), b - b.mean(0)
    deviation_a, deviation_b = np.sqrt((a * a).mean(0)), np.sqrt((b * b).mean(0))
    scale = np.where(deviation_a > 1e-9, deviation_a, np.inf) * np.where(deviation_b > 0, deviation_b, 1.0)
    correlation = (a * b).mean(0) / scale
    return np.where(deviation_b > still, correlation, np.nan)


def curve_jitter(curves: AnyArray, *, still: float = 0.02) -> float:
    """How much curves tremble: mean absolute second difference over the standard deviation.

    Noise without movement has 1.95, a smooth movement next to nothing.

    Args:
        curves: (T, E) units, frame after frame, T of at least 3.
        still: Units whose standard deviation is smaller are left out.

    Returns:
        The mean over the units that move; NaN if none does.
    """
    values = np.asarray(curves, np.float64)
    if values.ndim != 2 or len(values) < 3:
        raise UsageError(f"a (T, E) array of at least 3 frames is wanted, not {values.shape}")
    deviation = values.std(0)
    moving = deviation > still
    if not moving.any():
        return float("nan")
    bends = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])[:, moving].mean(0)
    return float((bends / deviation[moving]).mean())
