"""A made-up clip for tests of the animated exporters: a head that turns, moves and speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from toy_head import Array, toy_arrays, toy_capture

from recon3d.capture import Capture
from recon3d.conventions import FRONTAL
from recon3d.head import HeadModel


def write_bare_head(path: Path) -> Path:
    """Write a head as FLAME's files are: no texture, no names, 20 expressions; returns ``path``."""
    arrays = toy_arrays()
    for name in ("uv", "f_uv", "colors", "expression_names"):
        del arrays[name]
    arrays["exprdirs"] = arrays["exprdirs"][..., :20]
    np.savez(path, allow_pickle=False, **arrays)
    return path


def moving_capture(head: HeadModel, /, frames: int = 40, fps: float = 30.0, **changes: Any) -> Capture:
    """A clip that starts at 3.5 s: smooth motion, all joints turned, off-centre camera.

    The head faces the camera about half a turn from the axis-angle's zero, so that both signs of the angle
    and of the quaternion occur.
    """
    random = np.random.default_rng(7)
    seconds = np.arange(frames) / fps

    def waves(columns: int, size: float) -> Array:
        speed, phase = random.uniform(0.5, 6.0, columns), random.uniform(0, 6.28, columns)
        return size * np.sin(seconds[:, None] * speed + phase)

    pose = np.zeros((frames, head.num_joints, 3))
    facing = Rotation.from_matrix(FRONTAL) * Rotation.from_euler("YXZ", waves(3, 0.6))
    pose[:, 0] = facing.as_rotvec()
    pose[:, 1:] = waves((head.num_joints - 1) * 3, 0.15).reshape(frames, -1, 3)
    expression = waves(head.num_expression, 0.5) + 0.5
    values = {
        "source": "clip of someone.mp4",
        "fps": fps,
        "timestamps": 3.5 + seconds,
        "size": (640, 480),
        "principal": np.array([300.0, 250.0]),
        "pose": pose,
        "translation": waves(3, 0.05) + np.array([0.02, 0.15, 0.8]),
        "expression": expression,
        "arkit": expression if head.speaks_arkit else np.zeros((frames, 52)),
    }
    return toy_capture(head, frames, **{**values, **changes})


def seen(capture: Capture, head: HeadModel) -> Array:
    """(T, V, 3) m: the head in front of a camera at the origin that looks along -Z with +Y up."""
    shape = torch.as_tensor(capture.shape).expand(len(capture), -1)
    posed = head(shape, torch.as_tensor(capture.expression), torch.as_tensor(capture.pose)).vertices
    return (posed.numpy() + capture.translation[:, None]) @ FRONTAL


def pixels(capture: Capture, points: Array) -> Array:
    """(…, 2) px of points (…, 3) before such a camera."""
    x, y, depth = points[..., 0], -points[..., 1], -points[..., 2]
    return capture.focal * np.stack([x / depth, y / depth], axis=-1) + capture.principal
