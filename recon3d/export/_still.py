"""One frame of a capture as arrays, and the checks that every exporter needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.conventions import GLOBAL, NECK
from recon3d.errors import InputError

if TYPE_CHECKING:
    import torch

    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Still:
    """A person in one frame, in head space: metres, +Y up, looking along +Z.

    Attributes:
        frame: Index of the frame.
        neutral: (V, 3) m: this person's identity without expression or pose.
        vertices: (V, 3) m: with the frame's expression, jaw and eyes; head and neck straight.
        joints: (J, 3) m, of the neutral head.
        expression: (E,) coefficients of the frame.
        rotations: (J, 3) axis-angle, rad, each joint to its parent; zero for head and neck.
    """

    frame: int
    neutral: Floats
    vertices: Floats
    joints: Floats
    expression: Floats
    rotations: Floats


def check_head(capture: Capture, head: HeadModel) -> None:
    """Refuse a head model other than the one that the capture's numbers belong to.

    Raises:
        InputError: They do not belong together.
    """
    if capture.head != head.id:
        raise InputError(
            f"{capture.source}: captured with the head model {capture.head}, not {head.id}; "
            "name the right one with --head"
        )
    sizes = capture.shape.shape[0], capture.expression.shape[1], capture.pose.shape[1]
    if sizes != (head.num_shape, head.num_expression, head.num_joints):
        raise InputError(f"{capture.source}: the capture does not fit the head model {head.id}")


def still(capture: Capture, head: HeadModel) -> Still:
    """Return the frame that stands for the capture: its first tracked one (a photograph has only one).

    Head and neck rotation are left out, because who animates wants a head that stands straight; jaw and
    eyes stay, because with FLAME's own files they are part of the expression.
    """
    import torch

    frame = int(np.argmax(capture.tracked))
    rotations = capture.pose[frame].copy()
    rotations[[j for j in (GLOBAL, NECK) if j < len(rotations)]] = 0.0
    with torch.no_grad():
        shape = as_batch(capture.shape, head)
        expression = as_batch(capture.expression[frame], head)
        neutral = head.unposed(shape, torch.zeros_like(expression))
        posed = head(shape, expression, as_batch(rotations, head)).vertices
        joints = head.rest_joints(shape)
    return Still(
        frame,
        as_array(neutral[0]),
        as_array(posed[0]),
        as_array(joints[0]),
        capture.expression[frame],
        rotations,
    )


def camera_vertices(capture: Capture, head: HeadModel, frame: int) -> torch.Tensor:
    """Return the head as the camera saw it in a frame: (V, 3) m, camera space."""
    import torch

    with torch.no_grad():
        posed = head(
            as_batch(capture.shape, head),
            as_batch(capture.expression[frame], head),
            as_batch(capture.pose[frame], head),
        )
        seen: torch.Tensor = posed.vertices[0] + as_batch(capture.translation[frame], head)
    return seen


def as_batch(values: Floats, head: HeadModel) -> torch.Tensor:
    """Return an array as a batch of one, with the head's dtype and device."""
    import torch

    return torch.as_tensor(values).to(head.v_template)[None]


def as_array(tensor: torch.Tensor) -> Floats:
    """Return a tensor as a float32 array."""
    array: Floats = tensor.detach().cpu().numpy().astype(np.float32)
    return array


def quaternion(rotation: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Axis-angle (..., 3) rad to unit quaternions (..., 4) in glTF's order x, y, z, w."""
    vector = rotation.astype(np.float64)
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    half = np.sinc(angle / (2 * np.pi)) / 2  # sin(a/2)/a, right at zero too
    return np.concatenate([vector * half, np.cos(angle / 2)], axis=-1)
