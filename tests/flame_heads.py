"""A made-up head of FLAME's size: as many vertices, joints and components, but not its shape."""

from __future__ import annotations

import numpy as np

from recon3d.capture import Capture
from recon3d.export.flame_params import VERTICES
from recon3d.head import HeadModel


def flame_sized_head(shape: int = 300, expression: int = 100) -> HeadModel:
    """Return it; random numbers all through."""
    random = np.random.default_rng(0)
    regressor = random.uniform(0, 1, (5, VERTICES))
    weights = random.uniform(0, 1, (VERTICES, 5))
    arrays = {
        "v_template": random.normal(0, 0.1, (VERTICES, 3)),
        "f": np.array([[0, 1, 2]]),
        "shapedirs": random.normal(0, 1e-3, (VERTICES, 3, shape)),
        "exprdirs": random.normal(0, 1e-3, (VERTICES, 3, expression)),
        "posedirs": random.normal(0, 1e-3, (VERTICES, 3, 36)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], range(5)]),
    }
    return HeadModel(arrays, name="generic_model", digest="abcd1234").requires_grad_(False)


def flame_capture(head: HeadModel, frames: int = 4) -> Capture:
    """Return a capture of it, every joint turned."""
    random = np.random.default_rng(1)
    pose = random.normal(0, 0.3, (frames, 5, 3))
    pose[:, 0, 0] += np.pi
    return Capture(
        head=head.id,
        source="take.mp4",
        fps=25.0,
        timestamps=np.arange(frames) / 25,
        image_size=np.array([640, 480]),
        focal=900.0,
        principal=np.array([320.0, 240.0]),
        shape=random.normal(0, 1, head.num_shape),
        expression=random.normal(0, 1, (frames, head.num_expression)),
        pose=pose,
        translation=random.normal([0, 0, 1], 0.1, (frames, 3)),
        arkit=random.uniform(0, 1, (frames, 52)),
        landmarks68=random.uniform(0, 480, (frames, 68, 2)),
        box=np.tile([100.0, 50.0, 300.0, 280.0], (frames, 1)),
        score=np.full(frames, 0.9),
        tracked=np.ones(frames, bool),
    )
