"""Files of FLAME's parameters as captures of a FLAME head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.conventions import FRONTAL, GLOBAL, LEFT_EYE, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.export._livelink_read import FOCAL, IMAGE_SIZE
from recon3d.export.flame_params import FlameParams, is_flame, read_flame_params
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Floats = npt.NDArray[np.floating]

#: Frames per second of a file that does not tell; how far before the camera a head of no known place is, m.
_FPS, _DISTANCE = 25.0, 0.8
_BATCH = 256


def read_flame_capture(path: str | Path, head: HeadModel) -> Capture:
    """Read FLAME's parameters as a capture of a FLAME head; the ARKit units are read off its geometry.

    A file of ours, or one with a camera, is taken as it stands. Others may mean any space: a head that stands
    in a world with +Y up is turned over, and all are put before the camera, where they stand on average.

    Raises:
        InputError: The file cannot be read, the head is not FLAME's, or has fewer components.
    """
    params = read_flame_params(path)
    name = shown(path)
    if not is_flame(head):
        raise InputError(f"{name}: holds parameters of FLAME; name the FLAME file they belong to as the head")
    return _capture(params, head, name)


def _capture(params: FlameParams, head: HeadModel, name: str) -> Capture:
    import torch

    from recon3d.capture import Capture
    from recon3d.fitting import LandmarkSolver
    from recon3d.head.contour import landmarks68
    from recon3d.render.camera import Camera

    shape = _fitted(params.shape[None], head.num_shape, name, "identity")[0]
    expression = _fitted(params.expression, head.num_expression, name, "expression")
    pose, translation = _placed(params, head)
    size = IMAGE_SIZE if params.image_size is None else tuple(params.image_size.tolist())
    principal = np.array(size) / 2 if params.principal is None else params.principal
    focal = FOCAL if params.focal is None else params.focal
    camera = Camera.create(focal, size, tuple(principal.tolist()))
    solver = LandmarkSolver(head)
    rows = [torch.as_tensor(values, dtype=torch.float32) for values in (expression, pose, translation)]
    points = []
    with torch.no_grad():
        for start in range(0, len(params), _BATCH):
            some, turned, moved = (row[start : start + _BATCH] for row in rows)
            person = torch.as_tensor(shape)[None].expand(len(some), -1)
            vertices = head(person, some, turned).vertices + moved[:, None]
            points.append(landmarks68(head, camera.project(vertices)[..., :2]))
    seen = torch.cat(points).numpy()
    units = solver.units_of(solver.controls.joined(rows[0], rows[1]))
    assert units is not None  # heads of FLAME's are given the units when they are loaded
    fps = params.fps or _FPS
    times = np.arange(len(params)) / fps if params.timestamps is None else params.timestamps
    return Capture(
        head=head.id,
        source=name,
        fps=fps if len(params) > 1 else 0.0,
        timestamps=times,
        image_size=np.array(size),
        focal=focal,
        principal=principal,
        shape=shape,
        expression=expression,
        pose=pose.astype(np.float32),
        translation=translation.astype(np.float32),
        arkit=units.numpy(),
        landmarks68=seen,
        box=np.hstack([seen.min(1), seen.max(1)]),
        score=np.ones(len(params), np.float32),
        tracked=np.ones(len(params), bool),
    )


def _fitted(rows: Floats, count: int, name: str, what: str) -> npt.NDArray[np.float32]:
    """Coefficients (T, n) as the head's (T, count); those that are missing are zero."""
    if rows.shape[1] > count and np.abs(rows[:, count:]).max() > 1e-6:
        raise InputError(f"{name}: has {rows.shape[1]} {what} coefficients, and the head has {count}")
    found = np.zeros((len(rows), count), np.float32)
    found[:, : rows.shape[1]] = rows[:, :count]
    return found


def _placed(params: FlameParams, head: HeadModel) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pose (T, J, 3) and translation (T, 3) before our camera."""
    pose, translation = params.pose.astype(np.float64), params.translation.astype(np.float64)
    if params.focal is not None:
        return pose, translation
    turned = Rotation.from_rotvec(pose[:, 0])
    half = Rotation.from_matrix(FRONTAL)
    if turned.apply([0.0, 1.0, 0.0])[:, 1].mean() > 0:  # heads stand upright with +Y up
        turned, translation = half * turned, half.apply(translation)
        pose[:, 0] = turned.as_rotvec()
    eyes = head.rest_joints(head.v_template.new_zeros(1, head.num_shape))[0].double().numpy()
    root, between = eyes[GLOBAL], eyes[[LEFT_EYE, RIGHT_EYE]].mean(0)
    seen = turned.apply(between - root) + root + translation
    return pose, translation + np.array([0.0, 0.0, _DISTANCE]) - seen.mean(0)
