"""What a repainted face does: another's performance, or a way to a wanted expression and back."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.capture import Capture
from recon3d.errors import InputError

Floats = npt.NDArray[np.float32]

#: A clip of an edit, s: at rest, to the wanted expression, there, back, at rest.
_STEPS = (0.3, 0.5, 0.9, 0.5, 0.3)
#: Frames a second of such a clip.
EDIT_FPS = 25.0
#: Farther from where it started a head is not turned, radians: what it would show is not on the photograph.
_MOST_TURN = math.radians(25)


def there_and_back(own: Floats, wanted: Floats) -> Floats:
    """Return the way from one expression (52,) to another and back, (T,52) at ``EDIT_FPS``."""
    ends = np.cumsum(_STEPS)
    times = np.arange(round(ends[-1] * EDIT_FPS)) / EDIT_FPS
    share = np.interp(times, ends[:4], (0.0, 1.0, 1.0, 0.0))
    eased = (share * share * (3 - 2 * share))[:, None]
    return np.asarray(own + (wanted - own) * eased, np.float32)


def driven_expressions(driver: Capture, own: Floats | None = None) -> Floats:
    """Return the expressions (T,52) of another's performance.

    Args:
        driver: The performance.
        own: (52,) given, this face keeps its own expression and only the driver's changes are added:
            from how the driver looks most of the time, its median.

    Raises:
        InputError: The performance has no frame in which a face was seen.
    """
    if not driver.tracked.any():
        raise InputError(f"{driver.source}: no frame of it shows a face")
    if own is None:
        return np.asarray(driver.arkit, np.float32)
    usual = np.median(driver.arkit[driver.tracked], axis=0)
    return np.asarray((own + driver.arkit - usual).clip(0, 1), np.float32)


def driven_pose(portrait: Capture, driver: Capture) -> Floats:
    """Return the source's pose (T,J,3), axis-angle, turned as the driver turns from its usual attitude.

    What goes beyond 25° is held there.
    """
    turns = Rotation.from_rotvec(driver.pose[:, 0].astype(np.float64))
    usual = turns[np.flatnonzero(driver.tracked)].mean()
    change = (usual.inv() * turns).as_rotvec()
    angle = np.linalg.norm(change, axis=1, keepdims=True)
    change *= np.minimum(1, _MOST_TURN / np.maximum(angle, 1e-9))
    pose = np.repeat(portrait.pose[:1], len(driver), axis=0)
    own = Rotation.from_rotvec(portrait.pose[0, 0].astype(np.float64))
    pose[:, 0] = (own * Rotation.from_rotvec(change)).as_rotvec().astype(np.float32)
    return pose
