"""head.bvh: head, jaw and eyes as a Biovision hierarchy, for programs that animate bones.

Centimetres, +Y up, the face looks along +Z in rest; rotation channels in the order Y, X, Z. The root ``head``
turns about the neck joint and moves as the camera saw it, in the scene of the animated GLB: about the origin,
looking along +Z where the subject faced the camera. The neck's own rotation is part of the head's.
``left_eye`` and ``right_eye`` look where the eyeLook units and the eye joints turn the eyeballs together.
``jaw`` turns with heads that have a jaw joint in their poses (FLAME's); on the open head the units move the
jaw, and this bone rests.

The format knows one frame time, so the frames are resampled to the source's rate (or ``fps``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.conventions import JAW, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.export._angles import eye_rotations
from recon3d.export._motion import motion_of
from recon3d.export._resample import at_rate
from recon3d.export._still import as_array, as_batch, check_head
from recon3d.export.arkit_json import placement
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Floats = npt.NDArray[np.float64]

#: Rate of a photograph's one frame, which has none of its own.
STILL_FPS = 30.0
#: Where the bones end, cm from their joint: the crown, the chin, a bit before the pupils.
_ENDS = {
    "head": (0.0, 18.0, 0.0),
    "jaw": (0.0, -4.0, 8.0),
    "left_eye": (0.0, 0.0, 3.0),
    "right_eye": (0.0, 0.0, 3.0),
}
_ROTATION = "Yrotation Xrotation Zrotation"


@dataclass(frozen=True)
class _Bone:
    """A bone: offset from the root's joint (3,) cm, and its rotation in each of T frames."""

    name: str
    offset: Floats
    rotation: Rotation


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``head.bvh``."""
    check_head(capture, head)
    rate = options.fps or capture.fps
    taken = at_rate(capture, rate)
    place, root, bones = _skeleton(taken, head)
    motion = [place, *(bone.rotation.as_euler("YXZ", degrees=True) for bone in (root, *bones))]
    rows = np.round(np.hstack(motion), 6) + 0.0
    target = folder / "head.bvh"
    with atomic_path(target) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write("\n".join(_hierarchy(root, bones)))
        file.write(f"\nMOTION\nFrames: {len(rows)}\nFrame Time: {1 / (rate or STILL_FPS):.9f}\n")
        np.savetxt(file, rows, fmt="%.6f")
    return [target]


def _skeleton(capture: Capture, head: HeadModel) -> tuple[Floats, _Bone, list[_Bone]]:
    """Return the root's places (T, 3) cm, the root, and the bones that hang on it."""
    joints = 100.0 * as_array(head.rest_joints(as_batch(capture.shape, head))[0]).astype(np.float64)
    quaternions, positions = placement(capture, head)
    turned = Rotation.from_quat(quaternions)
    pivot = joints[min(NECK, len(joints) - 1)]
    camera = motion_of(capture, head, DEFAULTS).camera
    place = 100.0 * (positions + camera) + turned.apply(pivot)
    bones = []
    if head.num_joints > RIGHT_EYE:
        jaw = Rotation.from_rotvec(capture.pose[:, JAW].astype(np.float64))
        rotations = zip((JAW, LEFT_EYE, RIGHT_EYE), (jaw, *eye_rotations(capture, head)), strict=True)
        bones = [_Bone(head.joint_names[j], joints[j] - pivot, rotation) for j, rotation in rotations]
    return place, _Bone("head", np.zeros(3), turned), bones


def _hierarchy(root: _Bone, bones: list[_Bone]) -> list[str]:
    lines = ["HIERARCHY", f"ROOT {root.name}", "{", f"\tOFFSET {_numbers(root.offset)}"]
    lines.append(f"\tCHANNELS 6 Xposition Yposition Zposition {_ROTATION}")
    for bone in bones:
        lines += [f"\tJOINT {bone.name}", "\t{", f"\t\tOFFSET {_numbers(bone.offset)}"]
        lines += [f"\t\tCHANNELS 3 {_ROTATION}", *_end(bone.name, "\t\t"), "\t}"]
    return [*lines, *_end(root.name, "\t"), "}"]


def _end(name: str, indent: str) -> list[str]:
    offset = _numbers(np.array(_ENDS[name], np.float64))
    return [f"{indent}End Site", f"{indent}{{", f"{indent}\tOFFSET {offset}", f"{indent}}}"]


def _numbers(values: Floats) -> str:
    return " ".join(f"{value:.6f}" for value in np.round(values, 6) + 0.0)
