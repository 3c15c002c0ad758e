"""Axes, units and names that every part of recon3d agrees on. CONVENTIONS.md tells the same in prose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: The 52 ARKit units in Live Link Face order, lowerCamelCase. Left and right are the subject's.
ARKIT_NAMES: tuple[str, ...] = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft",
    "eyeSquintLeft", "eyeWideLeft",
    "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight",
    "eyeSquintRight", "eyeWideRight",
    "jawForward", "jawRight", "jawLeft", "jawOpen",
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthRight", "mouthLeft",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthUpperUpLeft", "mouthUpperUpRight",
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

#: FLAME's joints, in FLAME's order.
JOINT_NAMES: tuple[str, ...] = ("global", "neck", "jaw", "left_eye", "right_eye")

GLOBAL, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)


def mirror_name(name: str) -> str:
    """Return the ARKit unit that ``name`` becomes in a mirror (itself for a central unit)."""
    for side, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(side):
            return name[: -len(side)] + other
    return name


#: ``arkit[:, ARKIT_MIRROR]`` is the mirrored expression.
ARKIT_MIRROR: tuple[int, ...] = tuple(ARKIT_NAMES.index(mirror_name(n)) for n in ARKIT_NAMES)

#: Head space (+Y up, +Z out of the face) to camera space (+Y down, +Z into the scene) for a subject
#: who looks straight at the camera: half a turn about X.
FRONTAL: npt.NDArray[np.float64] = np.diag([1.0, -1.0, -1.0])
