"""The numbers of the report: every curve of a capture, and the summary of what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.conventions import ARKIT_NAMES, FRONTAL, GLOBAL, NECK
from recon3d.export._angles import to_angles
from recon3d.export._report.regions import ANGLES, CONFIDENCE, POSITION, REGIONS, Row

if TYPE_CHECKING:
    from recon3d.capture import Capture

Floats = npt.NDArray[np.float64]

#: How many of the most active plots the summary names, and how much one must move to be named.
MOST_ACTIVE, ACTIVE = 8, 0.05


def curves(capture: Capture) -> dict[str, Floats]:
    """Return every curve of the report by its key, each (T,): units, confidence, head angles and place."""
    found = {name: capture.arkit[:, k].astype(np.float64) for k, name in enumerate(ARKIT_NAMES)}
    found[CONFIDENCE] = capture.score.astype(np.float64)
    found.update(zip(ANGLES, head_angles(capture).T, strict=True))
    found.update(zip(POSITION, head_shift(capture).T, strict=True))
    return found


def head_angles(capture: Capture) -> Floats:
    """Return yaw, pitch and roll (T, 3) in degrees; zero for a face that looks into the camera.

    Signs as everywhere (``recon3d.export._angles``): to the subject's left, up, left ear raised. The neck's
    rotation is part of the head's. Unwrapped, so that no curve jumps at half a turn.
    """
    turn = Rotation.from_matrix(FRONTAL) * Rotation.from_rotvec(capture.pose[:, GLOBAL])
    if capture.pose.shape[1] > NECK:
        turn = turn * Rotation.from_rotvec(capture.pose[:, NECK])
    return np.degrees(np.unwrap(to_angles(turn), axis=0))


def head_shift(capture: Capture) -> Floats:
    """Return where the base of the neck is (T, 3) in cm from its middle place in the clip.

    To the image's right, up, and toward the camera.
    """
    place = capture.translation.astype(np.float64)
    seen = place[capture.tracked] if capture.tracked.any() else place
    shift: Floats = (place - np.median(seen, axis=0)) * [100.0, -100.0, -100.0]
    return shift


def lost_stretches(tracked: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and the last frame of every stretch without the face."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], tracked, [True]]).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def duration(capture: Capture) -> float:
    """Return the length of the clip in seconds: to the end of its last frame, where the rate is known."""
    span = float(capture.timestamps[-1] - capture.timestamps[0])
    return span + (1.0 / capture.fps if capture.fps > 0 else 0.0)


def summary(capture: Capture, values: Mapping[str, Floats]) -> dict[str, Any]:
    """Return what the top of the page says, as plain numbers."""
    seen = capture.tracked if capture.tracked.any() else np.ones(len(capture), bool)
    return {
        "duration": duration(capture),
        "tracked": float(capture.tracked.mean()),
        "confidence": float(np.median(capture.score[seen])),
        "range": {key: [float(values[key][seen].min()), float(values[key][seen].max())] for key in ANGLES},
        "lost": lost_stretches(capture.tracked),
        "active": most_active(values, seen),
    }


def most_active(values: Mapping[str, Floats], seen: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the plots of units that move most, by the spread between their 5th and 95th percentile."""
    rows = [(row, region.title) for region in REGIONS for row in region.rows if row.curves[0] in ARKIT_NAMES]
    spreads = [_spread(row, values, seen) for row, _ in rows]
    order = np.argsort(spreads, kind="stable")[::-1][:MOST_ACTIVE]
    return [
        {"label": rows[k][0].label, "region": rows[k][1], "key": rows[k][0].curves[0], "spread": spreads[k]}
        for k in order
        if spreads[k] >= ACTIVE
    ]


def _spread(row: Row, values: Mapping[str, Floats], seen: npt.NDArray[np.bool_]) -> float:
    stacked = np.stack([values[key][seen] for key in row.curves])
    low, high = np.percentile(stacked, [5, 95], axis=1)
    return float((high - low).max())
