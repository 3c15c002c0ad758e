"""flame_params.npz: a capture of a FLAME head as FLAME-based avatar tools read it; and their reader.

Names and sizes are those of VHAP and GaussianAvatars (S. Qian et al., "GaussianAvatars: Photorealistic Head
Avatars with Rigged 3D Gaussians", CVPR 2024; their code: ``vhap/export_as_nerf_dataset.py`` and
``scene/flame_gaussian_model.py``), with T frames, float32:

=================== =============== ================================================================
``shape``           (S,)            identity, in standard deviations (FLAME: 300)
``expr``            (T, E)          expression, in standard deviations (FLAME: 100)
``rotation``        (T, 3)          of joint 0 (global), axis-angle, rad
``neck_pose``       (T, 3)          of the neck, relative to joint 0
``jaw_pose``        (T, 3)          of the jaw, relative to the neck
``eyes_pose``       (T, 6)          of the left eye, then the right, relative to the neck
``translation``     (T, 3)          m, added after all rotations
``static_offset``   (1, 5023, 3)    zero: a capture has no offsets from the model
=================== =============== ================================================================

and, in float64 and int64, so that readers of float32 arrays leave them alone: ``fps`` and ``timestamps``
(T,) s, ``focal`` px, ``principal`` (2,) px, ``image_size`` (2,) width and height px.

**Space.** Vertices are ``FLAME(shape, expr, rotation, neck, jaw, eyes) + translation`` as in VHAP (there with
``zero_centered_at_root_node=False``), in OpenCV's camera space: metres, +X right, +Y down, +Z into the scene.
The camera stands at the origin: its extrinsics are the identity, and pixels ``focal * X / Z + principal``.
So a face that looks into the camera has half a turn about X in ``rotation``. VHAP's own files have +Y up, and
the camera elsewhere: who mixes both takes the half turn out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d._npz import member_names, read_npz
from recon3d.conventions import GLOBAL, JAW, JOINT_NAMES, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.export._resample import at_rate
from recon3d.export._still import check_head
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

#: FLAME's mesh, in all its versions.
VERTICES = 5023
#: An hour of 60 frames a second is a tenth of this.
MAX_BYTES = 1 << 30

#: How tools spell what a file holds, the commonest first. VHAP and GaussianAvatars; smplx; DECA, EMOCA and
#: SMIRK; and what scripts around them save.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "shape": ("shape", "betas", "shape_params", "shape_code", "shapecode"),
    "expr": ("expr", "expression", "exp", "expression_params", "expr_params", "expcode", "exp_code", "psi"),
    "rotation": ("rotation", "global_orient", "global_pose", "global_rot", "global_rotation", "root_pose"),
    "neck_pose": ("neck_pose", "neck", "neck_pose_params"),
    "jaw_pose": ("jaw_pose", "jaw", "jaw_params", "jaw_pose_params"),
    "eyes_pose": ("eyes_pose", "eye_pose", "eyes", "eye_pose_params"),
    "translation": ("translation", "transl", "trans"),
    "static_offset": ("static_offset",),
    "pose": ("pose", "full_pose", "pose_params", "posecode"),
    "leye_pose": ("leye_pose", "left_eye_pose"),
    "reye_pose": ("reye_pose", "right_eye_pose"),
    "fps": ("fps",),
    "timestamps": ("timestamps",),
    "focal": ("focal",),
    "principal": ("principal",),
    "image_size": ("image_size",),
}
_WANTED = frozenset(spelling for spellings in _SPELLINGS.values() for spelling in spellings)
#: Which joints a pose in one array holds, by its width.
_POSES: Mapping[int, tuple[int, ...]] = {
    3: (GLOBAL,),
    6: (GLOBAL, JAW),
    15: (GLOBAL, NECK, JAW, LEFT_EYE, RIGHT_EYE),
}
_JOINTS: Mapping[str, tuple[int, ...]] = {
    "rotation": (GLOBAL,),
    "neck_pose": (NECK,),
    "jaw_pose": (JAW,),
    "eyes_pose": (LEFT_EYE, RIGHT_EYE),
    "leye_pose": (LEFT_EYE,),
    "reye_pose": (RIGHT_EYE,),
}


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``flame_params.npz``; reads the option ``fps`` (by default the source's own timestamps).

    Raises:
        InputError: The capture is not of this head, or the head is not FLAME's.
        UsageError: The frame rate is none.
    """
    check_head(capture, head)
    if not is_flame(head):
        raise InputError(
            f"{capture.source}: captured with the head model {head.id}, and these parameters are those of "
            "FLAME's heads; convert it first: recon3d convert CAPTURE --head generic_model.pkl"
        )
    taken = at_rate(capture, options.fps or 0.0)
    pose = taken.pose.reshape(len(taken), -1)
    arrays: dict[str, Array] = {
        "shape": taken.shape,
        "expr": taken.expression,
        **{
            key: pose[:, _columns(_JOINTS[key])] for key in ("rotation", "neck_pose", "jaw_pose", "eyes_pose")
        },
        "translation": taken.translation,
        "static_offset": np.zeros((1, VERTICES, 3), np.float32),
        "fps": np.float64(taken.fps),
        "timestamps": taken.timestamps,
        "focal": np.float64(taken.focal),
        "principal": taken.principal,
        "image_size": taken.image_size,
    }
    target = folder / "flame_params.npz"
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return [target]


def is_flame(head: HeadModel) -> bool:
    """Tell whether a head's coefficients are FLAME's: its mesh, its joints, and no units for expressions."""
    return head.num_vertices == VERTICES and head.num_joints == len(JOINT_NAMES) and not head.speaks_arkit


def _columns(joints: Sequence[int]) -> list[int]:
    """Return where joints stand in a pose of all joints in one row."""
    return [3 * joint + axis for joint in joints for axis in range(3)]


@dataclass(frozen=True, kw_only=True, eq=False)
class FlameParams:
    """The parameters of a FLAME head over T frames, in whatever space the file has; ``len(params)`` is T.

    Attributes:
        shape: (S,) float32 identity, in standard deviations.
        expression: (T, E) float32, in standard deviations.
        pose: (T, 5, 3) float32 axis-angle, rad, of FLAME's joints, each relative to its parent.
        translation: (T, 3) float32 m, added after all rotations.
        static_offset: (V, 3) float32 m, added to the template, or None.
        timestamps: (T,) float64 s, never falling, or None.
        fps: Frames per second, or None.
        focal: Focal length, px, or None.
        principal: (2,) float64 principal point, px, or None.
        image_size: (2,) int64 width and height, px, or None.
    """

    shape: Floats
    expression: Floats
    pose: Floats
    translation: Floats
    static_offset: Floats | None = None
    timestamps: npt.NDArray[np.float64] | None = None
    fps: float | None = None
    focal: float | None = None
    principal: npt.NDArray[np.float64] | None = None
    image_size: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.expression)


def read_flame_params(path: str | Path) -> FlameParams:
    """Read FLAME parameters from an ``.npz``, of this exporter, of VHAP, or with names like theirs.

    There has to be an expression; all other arrays may be missing. A pose may be in one array: (T, 3) of
    joint 0, (T, 6) with the jaw (DECA, EMOCA), or (T, 15) of all joints. Where an array has one row it holds
    for all frames. An identity a frame is averaged: a person has one.

    Raises:
        InputError: The file is missing, damaged, holds no such parameters, or an array has the wrong size or
            a value that is not finite; the message names it.
    """
    name = shown(path)
    file = read_npz(path, _WANTED, what="a file of FLAME parameters", max_bytes=MAX_BYTES)
    found = _named(file, name)
    if "expr" not in found:
        raise InputError(f"{name}: holds no FLAME parameters (no expression, which should be called 'expr')")
    expression = _rows(found["expr"], "expr", name, None)
    frames = len(expression)
    offset = found.get("static_offset")
    if offset is not None and (offset.ndim not in (2, 3) or offset.shape[-1] != 3 or len(offset[..., 0]) < 1):
        raise InputError(f"{name}: static_offset is {offset.shape}, (1, V, 3) is wanted")
    return FlameParams(
        shape=_rows(found.get("shape", np.zeros((1, 0))), "shape", name, None).mean(0),
        expression=expression,
        pose=_pose(found, frames, name),
        translation=_rows(found.get("translation", np.zeros((1, 3))), "translation", name, 3, frames),
        static_offset=None if offset is None else offset.reshape(-1, 3).astype(np.float32),
        timestamps=_timestamps(found, frames, name),
        fps=_number(found, "fps", name, lowest=0.0),
        focal=_number(found, "focal", name, lowest=1e-6),
        principal=_pair(found, "principal", name),
        image_size=_pair(found, "image_size", name, whole=True),
    )


def _named(file: Mapping[str, Array], name: str) -> dict[str, Array]:
    """Return a file's arrays by our names.

    Raises:
        InputError: One holds no numbers, or one that is not finite.
    """
    found: dict[str, Array] = {}
    for key, spellings in _SPELLINGS.items():
        spelling = next((spelling for spelling in spellings if spelling in file), None)
        if spelling is None:
            continue
        array = file[spelling]
        if array.dtype.kind not in "fiu":
            raise InputError(f"{name}: {spelling} holds {array.dtype}, numbers are wanted")
        if not np.isfinite(array).all():
            raise InputError(f"{name}: {spelling} holds a value that is not finite")
        found[key] = array
    return found


def _rows(array: Array, key: str, name: str, width: int | None, frames: int | None = None) -> Floats:
    """Return an array as one row a frame, (T, width).

    Args:
        array: It.
        key: What it is called.
        name: Of the file.
        width: How many numbers a frame it should have; None takes any.
        frames: T; None takes any number of rows.

    Raises:
        InputError: It has no rows, another width, or neither one row nor one a frame.
    """
    array = np.atleast_1d(array)
    if array.ndim > 2 and len(array) == 1 and array.shape[1] == (frames or array.shape[1]):
        array = array[0]  # a batch of one, as networks leave it
    rows = array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim > 1 else array[None]
    if not len(rows):
        raise InputError(f"{name}: {key} has no rows")
    if width is not None and rows.shape[1] != width:
        rest = " (axis-angle)" if key.endswith(("rotation", "pose")) else ""
        raise InputError(f"{name}: {key} has {rows.shape[1]} numbers a frame, {width} are wanted{rest}")
    if frames is not None and len(rows) not in (1, frames):
        raise InputError(f"{name}: {key} has {len(rows)} rows, expr has {frames}")
    if frames is not None and len(rows) < frames:
        rows = np.repeat(rows, frames, axis=0)
    return np.ascontiguousarray(rows, np.float32)


def _pose(found: Mapping[str, Array], frames: int, name: str) -> Floats:
    """Return the pose of all joints, (T, 5, 3); an array of one joint's counts more than one of several."""
    pose = np.zeros((frames, 3 * len(JOINT_NAMES)), np.float32)
    if "pose" in found:
        rows = _rows(found["pose"], "pose", name, None, frames)
        if rows.shape[1] not in _POSES:
            raise InputError(f"{name}: pose has {rows.shape[1]} numbers a frame, 3, 6 or 15 are wanted")
        pose[:, _columns(_POSES[rows.shape[1]])] = rows
    for key, joints in _JOINTS.items():
        if key in found:
            pose[:, _columns(joints)] = _rows(found[key], key, name, 3 * len(joints), frames)
    return pose.reshape(frames, len(JOINT_NAMES), 3)


def _timestamps(found: Mapping[str, Array], frames: int, name: str) -> npt.NDArray[np.float64] | None:
    if "timestamps" not in found:
        return None
    times = found["timestamps"].astype(np.float64).ravel()
    if len(times) != frames:
        raise InputError(f"{name}: timestamps has {len(times)} rows, expr has {frames}")
    if (np.diff(times) < 0).any():
        raise InputError(f"{name}: timestamps run backwards")
    return times


def _number(found: Mapping[str, Array], key: str, name: str, *, lowest: float) -> float | None:
    if key not in found:
        return None
    if found[key].size != 1 or float(found[key].ravel()[0]) < lowest:
        raise InputError(f"{name}: {key} is no single number of at least {lowest:g}")
    return float(found[key].ravel()[0])


def _pair(found: Mapping[str, Array], key: str, name: str, *, whole: bool = False) -> Array | None:
    if key not in found:
        return None
    if found[key].size != 2:
        raise InputError(f"{name}: {key} has {found[key].size} numbers, 2 are wanted")
    return found[key].ravel().astype(np.int64 if whole else np.float64)


def looks_like_flame_params(path: str | Path) -> bool:
    """Tell from the names in it whether a file could be one that :func:`read_flame_params` reads."""
    names = member_names(path)
    return not names.isdisjoint(_SPELLINGS["expr"]) and "arkit_names" not in names
