"""Smoothing curves in time without delay: much where a face is still, nothing across a blink.

Local polynomials whose window is chosen anew for every value: the widest window whose estimate agrees with
those of all narrower ones, within their noise (the intersection of confidence intervals: A. Goldenshluger,
A. Nemirovski, "On spatially adaptive estimation of nonparametric regression", 1997; V. Katkovnik, "A new
method for varying adaptive bandwidth selection", 1999). Windows are symmetric, so nothing is delayed; a
sudden movement disagrees with every wide window, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d

Floats = npt.NDArray[np.float64]

#: Half width of the widest window, s, and how many times as wide each is as the one before. The narrowest
#: has five samples at every rate: a wider one would leave what disagrees with it as noisy as it is.
_LONGEST, _GROWTH = 0.4, 1.5
_ORDER = 2
#: Order of the differences that tell noise: lower ones take speech at 24 frames a second for it.
_DIFFERENCE = 4
#: Intervals are this many standard deviations wide on either side at strength 1.
_WIDEST = 3.0
#: Curves that rest but for less than this share of the time, and how many times as noisy as the others these
#: may be.
_RARE, _NOISIER = 0.4, 2.0


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
        estimate, gain = _local_polynomials(raw, half)
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

    From high differences, by their median, which quick movements do not disturb; samples that rest
    exactly (at a bound) tell nothing and are left out. What hardly ever leaves its rest shows its movement
    there (a blink), and not its noise: that is bounded by the usual one of the other curves.
    """
    order = min(_DIFFERENCE, max(2, len(values) - 3))
    bend = np.abs(np.diff(values, n=order, axis=0))
    moving = np.where(bend > 1e-9, bend, np.nan)
    count = np.isfinite(moving).sum(0)
    known, rare = count >= 3, count < _RARE * len(bend)
    level = np.zeros(values.shape[1])
    level[known] = np.nanmedian(moving[:, known], axis=0) / (0.6745 * np.sqrt(comb(2 * order, order)))
    usual = level[known & ~rare]
    level[rare] = level[rare].clip(max=_NOISIER * np.median(usual) if len(usual) else 0.0)
    return level


def _local_polynomials(raw: Floats, half: int) -> tuple[Floats, Floats]:
    """Fit a polynomial around each sample of (T, C); the ends are read off the outermost windows'.

    Returns:
        The estimates (T, C), and how much of the noise is left in each (T, 1): the most near the ends.
    """
    powers = np.vander(np.linspace(-1, 1, 2 * half + 1), _ORDER + 1)
    basis = np.linalg.qr(powers)[0]
    project, width = basis @ basis.T, len(basis)
    estimate = correlate1d(raw, project[half], axis=0)
    estimate[:half] = project[:half] @ raw[:width]
    estimate[-half:] = project[half + 1 :] @ raw[-width:]
    inside = np.linalg.norm(basis, axis=1)  # the roots of the projection's diagonal
    gain = np.full(len(raw), inside[half])
    gain[:half], gain[-half:] = inside[:half], inside[half + 1 :]
    return estimate, gain[:, None]


def _windows(fps: float, length: int) -> list[int]:
    """Half widths in samples, rising; none where so long a time holds less than five samples."""
    longest = min(round(_LONGEST * fps), (length - 1) // 2)
    if longest < 2:
        return []
    steps = int(np.log(longest / 2) / np.log(_GROWTH))
    return sorted({*(round(2 * _GROWTH**k) for k in range(steps + 1)), longest})
