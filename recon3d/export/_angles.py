"""Head and gaze as yaw, pitch and roll, for the formats that want angles.

All angles are of the subject's own axes: X to the subject's left, Y up, Z out of the face. A rotation is
``R_y(yaw) R_x(-pitch) R_z(roll)``: turned to the own left, then up, then tilted so that the left ear rises.
So yaw is positive to the subject's left, pitch up, and roll toward the right shoulder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.conventions import ARKIT_NAMES, LEFT_EYE, RIGHT_EYE
from recon3d.export.arkit_json import placement

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Floats = npt.NDArray[np.floating]
Angles = npt.NDArray[np.float64]

#: What the eyeLook units turn the eyeballs by at unit strength, rad (see CONVENTIONS.md).
GAZE_OUT, GAZE_IN, GAZE_UP, GAZE_DOWN = 0.665, 0.54, 0.453, 0.611

_SIGNS = np.array([1.0, -1.0, 1.0])


def to_angles(rotation: Rotation) -> Angles:
    """Return yaw, pitch and roll of rotations: (T, 3) rad."""
    angles: Angles = rotation.as_euler("YXZ") * _SIGNS
    return angles


def from_angles(angles: Floats) -> Rotation:
    """Return the rotations of yaw, pitch and roll (T, 3) rad."""
    return Rotation.from_euler("YXZ", np.asarray(angles, np.float64) * _SIGNS)


def head_rotation(capture: Capture, head: HeadModel) -> Rotation:
    """Return how the head is turned against one that faces the camera squarely: T rotations."""
    return Rotation.from_quat(placement(capture, head)[0])


def eye_rotations(capture: Capture, head: HeadModel) -> tuple[Rotation, Rotation]:
    """Return where left and right eye look, against the head: T rotations each.

    On a head whose expression is the ARKit units, the eyeLook units turn the eyeballs and the eye joints
    turn them further. On others the eye joints say it all; where those rest (no solver has turned them), the
    eyeLook units of ``capture.arkit`` do.
    """
    joints = [_joint(capture, index) for index in (LEFT_EYE, RIGHT_EYE)]
    resting = not any(joint.magnitude().any() for joint in joints)
    if not (head.speaks_arkit or resting):
        return joints[0], joints[1]
    left, right = (unit_gaze(capture.arkit, side) for side in ("Left", "Right"))
    return joints[0] * left, joints[1] * right


def unit_gaze(arkit: Floats, side: str) -> Rotation:
    """Return the rotation that the eyeLook units (T, 52) give the ``"Left"`` or ``"Right"`` eye.

    Sideways first, then up or down about the head's own axis, as ARKit's eyes turn.
    """
    out, inward, up, down = (
        arkit[:, ARKIT_NAMES.index(f"eyeLook{way}{side}")].astype(np.float64)
        for way in ("Out", "In", "Up", "Down")
    )
    outward = 1.0 if side == "Left" else -1.0
    turn = outward * (GAZE_OUT * out - GAZE_IN * inward)
    return Rotation.from_euler("XY", np.stack([GAZE_DOWN * down - GAZE_UP * up, turn], axis=1))


def _joint(capture: Capture, index: int) -> Rotation:
    if capture.pose.shape[1] <= index:
        return Rotation.identity(len(capture))
    return Rotation.from_rotvec(capture.pose[:, index].astype(np.float64))
