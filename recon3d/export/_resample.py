"""A capture at other times: a regular rate, or any times at all. Pure functions, nothing is smoothed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.errors import InputError, UsageError

if TYPE_CHECKING:
    from recon3d.capture import Capture

Floats = npt.NDArray[np.floating]
Times = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: No program asks for more; a slip such as ``--fps 60000`` must not fill the memory.
MAX_FPS = 1000.0
#: Times nearer to a frame than this part of the frame's length are that frame's: k / 60 is no exact number.
_SNAP = 1e-6
#: A regular rate may make so many frames of one, and so many besides. Without a bound a clock that leaps by
#: years, in a file of a kilobyte, fills the disk.
_MOST_OF_ONE, _MOST_BESIDES = 250, 100_000
#: Frames that are made in memory, where some 1.3 GB hold so many: four hours at 60 frames a second.
_MOST_AT_ONCE = 1_000_000


def check_fps(fps: float) -> float:
    """Return a frame rate if it is one (0 stands for the source's own).

    Raises:
        UsageError: It is negative, too large or no number.
    """
    if not (math.isfinite(fps) and 0 <= fps <= MAX_FPS):
        raise UsageError(f"the frame rate is {fps:g}; choose 1 to {MAX_FPS:g}, or 0 for the source's own")
    return fps


def at_rate(capture: Capture, fps: float) -> Capture:
    """Return the capture at a regular rate; 0 leaves it as it is, with its true timestamps.

    Raises:
        UsageError: ``fps`` is no frame rate, or makes more frames than memory should hold.
        InputError: The capture's clock leaps.
    """
    if check_fps(fps) == 0:
        return capture
    times = regular_times(capture.timestamps, fps)
    if len(times) > max(_MOST_AT_ONCE, len(capture)):
        raise UsageError(
            f"{len(times)} frames are too many for this format (the limit is {_MOST_AT_ONCE}); "
            "choose a lower --fps"
        )
    return resample(capture, times, fps)


def parts_at_rate(capture: Capture, fps: float, rows: int) -> Iterator[Capture]:
    """Yield the capture at a regular rate, as ``at_rate`` gives it, in parts of at most ``rows`` frames.

    At its own rate (0) it comes in one part.

    Raises:
        UsageError: ``fps`` is no frame rate.
    """
    if check_fps(fps) == 0:
        yield capture
        return
    times = regular_times(capture.timestamps, fps)
    for start in range(0, len(times), rows):
        yield resample(capture, times[start : start + rows], fps)


def regular_times(timestamps: Times, fps: float) -> Times:
    """Return times at a regular rate from the first timestamp to the last: (n,) s.

    Where the last timestamp falls between two of them one more is added, so that the last frame is not lost
    (``resample`` holds it there).

    Raises:
        InputError: They would be far too many for so few timestamps: these leap.
    """
    wanted = (float(timestamps[-1]) - float(timestamps[0])) * fps - _SNAP
    if not wanted <= len(timestamps) * _MOST_OF_ONE + _MOST_BESIDES:
        raise InputError(
            f"its clock leaps: at {fps:g} frames a second its {len(timestamps)} frames would become "
            f"{wanted:.0f}; cut out the gaps, or use --fps 0"
        )
    steps = math.ceil(wanted)
    times: Times = timestamps[0] + np.arange(steps + 1) / fps
    return times


def resample(capture: Capture, times: Times, fps: float) -> Capture:
    """Return the capture at given times.

    Curves, translation, landmarks, box and score are interpolated linearly, rotations along the shortest
    arc, ``tracked`` is the nearest frame's. At the time of a frame the result is that frame, bit by bit;
    before the first and after the last it is that one.

    Args:
        capture: T frames.
        times: (n,) s, never falling, on the clock of ``capture.timestamps``.
        fps: What the result's ``fps`` is to say.
    """
    left, right, share = _brackets(capture.timestamps, times)

    def linear(values: Floats) -> Floats:
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        mixed: Floats = values[left] * (1 - weight) + values[right] * weight
        return mixed.astype(values.dtype)

    nearest = np.where(share < 0.5, left, right)
    return replace(
        capture,
        fps=fps,
        timestamps=times,
        expression=linear(capture.expression),
        pose=slerp(capture.pose[left], capture.pose[right], share),
        translation=linear(capture.translation),
        arkit=linear(capture.arkit),
        landmarks68=linear(capture.landmarks68),
        box=linear(capture.box),
        score=linear(capture.score),
        tracked=capture.tracked[nearest],
    )


def slerp(start: Floats, end: Floats, share: Times) -> Floats:
    """Interpolate rotations (n, J, 3) axis-angle, rad, along the shortest arc by ``share`` (n,)."""
    shape, dtype = start.shape, start.dtype
    first = Rotation.from_rotvec(start.reshape(-1, 3).astype(np.float64))
    last = Rotation.from_rotvec(end.reshape(-1, 3).astype(np.float64))
    weight = np.repeat(share, shape[1])[:, None]
    arc = (first.inv() * last).as_rotvec()
    turned = (first * Rotation.from_rotvec(weight * arc)).as_rotvec().reshape(shape)
    # Rotations near half a turn have two names; at a frame's own time it keeps the one it had.
    weight = weight.reshape(shape[0], shape[1], 1)
    exact = np.where(weight == 0, start, np.where(weight == 1, end, turned))
    return exact.astype(dtype)


def _brackets(timestamps: Times, times: Times) -> tuple[Indices, Indices, Times]:
    """Return the frames before and after each time, and how far it is from the one to the other."""
    last = len(timestamps) - 1
    right = np.searchsorted(timestamps, times, side="right").clip(min(1, last), last)
    left = np.maximum(right - 1, 0)
    gap = timestamps[right] - timestamps[left]
    # Without a gap the time lies at or behind the last frame, which then is the one to show.
    share = np.divide(times - timestamps[left], gap, out=np.ones(len(times)), where=gap > 0).clip(0, 1)
    share[share < _SNAP] = 0.0
    share[share > 1 - _SNAP] = 1.0
    return left, right, share
