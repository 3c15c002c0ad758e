"""Smoothing curves in time without delay: much where a face is still, nothing across a blink.

Local polynomials whose window is chosen anew for every value: the widest window whose estimate agrees with
those of all narrower ones, within their noise (the intersection of confidence intervals: A. Goldenshluger,
A. Nemirovski, "On spatially adaptive estimation of nonparametric regression", 1997; V. Katkovnik, "A new
method for varying adaptive bandwidth selection", 1999). Windows are symmetric, so nothing is delayed; a
sudden movement disagrees with every wide window, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.signal import savgol_coeffs, savgol_filter

Floats = npt.NDArray[np.float64]

#: Half widths of the windows, s.
_HALF_WIDTHS = (0.07, 0.1, 0.17, 0.27, 0.4)
_ORDER = 2
#: Intervals are this many standard deviations wide on either side at strength 1.
_WIDEST = 3.0


def smooth(values: npt.ArrayLike, fps: float, strength: float) -> Floats:
    """Smooth curves of evenly spaced samples.

    Args:
        values: (T, C).
        fps: Samples per second.
        strength: In [0, 1]; 0 returns the values as they are.

    Returns:
        (T, C) float64.
    """
    raw = np.asarray(values, np.float64)
    spread = noise_level(raw)
    if strength <= 0 or len(raw) < 5:
        return raw.copy()
    chosen, gamma = raw.copy(), _WIDEST * strength
    low, high = raw - gamma * spread, raw + gamma * spread
    agrees = np.broadcast_to(spread > 0, raw.shape)
    for half in _windows(fps, len(raw)):
        estimate = savgol_filter(raw, 2 * half + 1, _ORDER, axis=0, mode="interp")
        gain = float(np.sqrt(np.square(savgol_coeffs(2 * half + 1, _ORDER)).sum()))
        low = np.maximum(low, estimate - gamma * gain * spread)
        high = np.minimum(high, estimate + gamma * gain * spread)
        agrees = agrees & (low <= high)
        chosen = np.where(agrees, estimate, chosen)
    return chosen


def smooth_runs(values: npt.ArrayLike, runs: Sequence[slice], fps: float, strength: float) -> Floats:
    """Smooth (T, C) within each run of frames and never across their ends; frames of no run are kept."""
    result = np.array(values, np.float64)
    for run in runs:
        result[run] = smooth(result[run], fps, strength)
    return result


def noise_level(values: Floats) -> Floats:
    """Standard deviation of white noise on smooth curves: (T, C) to (C,).

    From second differences, by their median, which quick movements do not disturb; samples that rest
    exactly (at a bound) tell nothing and are left out.
    """
    if len(values) < 3:
        return np.zeros(values.shape[1])
    bend = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
    moving = np.where(bend > 1e-9, bend, np.nan)
    known = np.isfinite(moving).sum(0) >= 3
    level = np.zeros(values.shape[1])
    level[known] = np.nanmedian(moving[:, known], axis=0) / (0.6745 * np.sqrt(6.0))
    return level


def _windows(fps: float, length: int) -> list[int]:
    """Half widths in samples, each wide enough to smooth at all and not wider than the curve."""
    wanted = sorted({max(2, round(seconds * fps)) for seconds in _HALF_WIDTHS})
    return [half for half in wanted if 2 * half + 1 <= length]
