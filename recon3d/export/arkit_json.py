"""arkit.json: the 52 ARKit units by name and the head's place, frame by frame, for any script to read.

``{"format": "recon3d-arkit/1", "generator", "source", "head", "fps", "frames": [...]}``, and in each frame:

* ``time``: seconds; ``tracked``: false where the face was not seen and values are held or eased.
* ``blendShapes``: unit name to weight in [0, 1].
* ``headRotation``: unit quaternion ``[x, y, z, w]``; identity for a head that faces the camera.
* ``headPosition``: ``[x, y, z]`` in metres, of the head model's origin.

Rotation and position are those of a scene with glTF's camera at the origin: +X to the image's right, +Y
up, the camera looks along -Z. A node with these values puts ``mesh.glb`` where the photograph shows it.
The neck's rotation is part of the head's. Numbers have six decimals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d._version import GENERATOR
from recon3d.conventions import ARKIT_NAMES, FRONTAL, NECK
from recon3d.export._still import as_batch, check_head, quaternion
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

FORMAT = "recon3d-arkit/1"


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``arkit.json``; one line a frame, so that it can be read and compared by eye."""
    check_head(capture, head)
    target = folder / "arkit.json"
    with atomic_path(target) as temporary:
        temporary.write_text(document(capture, head), encoding="utf-8")
    return [target]


def document(capture: Capture, head: HeadModel) -> str:
    """Return the text of the file."""
    start = {
        "format": FORMAT,
        "generator": GENERATOR,
        "source": capture.source,
        "head": capture.head,
        "fps": round(capture.fps, 6),
    }
    frames = ",\n".join(_json(frame) for frame in _frames(capture, head))
    return f'{_json(start)[:-1]}, "frames": [\n{frames}\n]}}\n'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _frames(capture: Capture, head: HeadModel) -> list[dict[str, Any]]:
    rotations, positions = placement(capture, head)
    arkit = np.round(capture.arkit.astype(np.float64), 6).tolist()
    return [
        {
            "time": round(float(capture.timestamps[t]), 6),
            "tracked": bool(capture.tracked[t]),
            "blendShapes": dict(zip(ARKIT_NAMES, arkit[t], strict=True)),
            "headRotation": _rounded(rotations[t]),
            "headPosition": _rounded(positions[t]),
        }
        for t in range(len(capture))
    ]


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(x), 6) + 0.0 for x in values]  # + 0.0 turns -0.0 into 0.0


def placement(capture: Capture, head: HeadModel) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where the head is before glTF's camera: quaternions (T, 4) x y z w and positions (T, 3) m.

    A point x of the straight head in head space is at ``rotate(quaternion, x) + position``.
    """
    import torch

    from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle

    joints = head.rest_joints(as_batch(capture.shape, head))[0].double()
    local = axis_angle_to_matrix(torch.as_tensor(capture.pose).double())  # (T, J, 3, 3)
    rotation, position = local[:, 0], joints[0] - local[:, 0] @ joints[0]
    if capture.pose.shape[1] > NECK:
        # The neck joint turns in the frame of the root, about its own place.
        position = position + torch.einsum(
            "tij,tj->ti", rotation, joints[NECK] - local[:, NECK] @ joints[NECK]
        )
        rotation = rotation @ local[:, NECK]
    turn = torch.as_tensor(FRONTAL)  # camera space to glTF's: its own inverse
    position = position + torch.as_tensor(capture.translation).double()
    turned = matrix_to_axis_angle(turn @ rotation).numpy()
    return quaternion(turned), (position @ turn.T).numpy()
