"""A small generated head in the head models' file format, for tests that need a head and not its looks.

An egg with two eyeballs, ARKit's 52 units as local bumps, five joints, and texture coordinates that have
a seam down the back of the egg, as real heads have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.head import HeadModel

Array = npt.NDArray[Any]
EYES = ((0.032, 0.03, 0.068), (-0.032, 0.03, 0.068))


def _ball(rings: int, segments: int) -> tuple[Array, Array, Array, Array]:
    """A unit sphere: vertices, faces, texture points (one column more: the seam) and texture faces."""
    points, texture = [[0.0, 1.0, 0.0]], []
    for r in range(1, rings):
        for s in range(segments):
            polar, azimuth = np.pi * r / rings, 2 * np.pi * s / segments - np.pi
            points.append([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)])
    points.append([0.0, -1.0, 0.0])
    for r in range(rings + 1):
        texture += [[s / segments, 1 - r / rings] for s in range(segments + 1)]

    def vertex(r: int, s: int) -> int:
        return 0 if r == 0 else len(points) - 1 if r == rings else 1 + (r - 1) * segments + s % segments

    faces, texture_faces = [], []
    for r in range(rings):
        for s in range(segments):
            square = [(r, s), (r + 1, s), (r + 1, s + 1), (r, s + 1)]
            for triangle in ((0, 1, 2), (0, 2, 3)):
                corners = [square[i] for i in triangle]
                if len({vertex(*c) for c in corners}) == 3:
                    faces.append([vertex(*c) for c in corners])
                    texture_faces.append([c[0] * (segments + 1) + c[1] for c in corners])
    return np.array(points), np.array(faces), np.array(texture), np.array(texture_faces)


def toy_arrays(num_shape: int = 8, seed: int = 0) -> dict[str, Array]:
    """The arrays of the file; see DESIGN's head model contract."""
    random = np.random.default_rng(seed)
    parts = [
        ((18, 24), (0.075, 0.11, 0.085), (0.0, 0.0, 0.0), (0.0, 0.2, 1.0, 0.8)),
        ((6, 8), (0.013,) * 3, EYES[0], (0.0, 0.0, 0.2, 0.18)),
        ((6, 8), (0.013,) * 3, EYES[1], (0.5, 0.0, 0.2, 0.18)),
    ]
    vertices, faces, uv, faces_uv, owner = [], [], [], [], []
    for index, (grid, scale, centre, window) in enumerate(parts):
        p, f, t, ft = _ball(*grid)
        faces.append(f + sum(map(len, vertices)))
        faces_uv.append(ft + sum(map(len, uv)))
        vertices.append(p * scale + np.array(centre))
        uv.append(t * np.array(window[2:]) + np.array(window[:2]))
        owner += [index] * len(p)
    v, part = np.concatenate(vertices), np.array(owner)

    centres = np.column_stack(
        [random.uniform(-0.05, 0.05, 52), random.uniform(-0.08, 0.08, 52), np.full(52, 0.07)]
    )
    distance = np.linalg.norm(v[:, None] - centres[None], axis=-1)
    bump = np.where(distance < 0.04, np.exp(-((distance / 0.02) ** 2)), 0.0) * (part == 0)[:, None]
    exprdirs = bump[:, None, :] * random.normal(0, 0.006, (1, 3, 52))
    waves = np.stack([np.sin(v @ random.normal(0, 20, (3, 3))) for _ in range(num_shape)], axis=-1)

    weights = np.zeros((len(v), 5))
    jaw = np.clip((-v[:, 1] - 0.02) / 0.04, 0, 1) * (v[:, 2] > 0)
    neck = np.clip((v[:, 1] + 0.11) / 0.03, 0, 1)
    weights[:, 2], weights[:, 1], weights[:, 0] = jaw, neck * (1 - jaw), (1 - neck) * (1 - jaw)
    for index in (1, 2):
        weights[part == index] = np.eye(5)[2 + index]
    regressor = np.zeros((5, len(v)))
    for j, rows in enumerate([v[:, 1] < -0.09, v[:, 1] < -0.05, jaw > 0.9, part == 1, part == 2]):
        regressor[j, rows] = 1.0 / rows.sum()
    f = np.concatenate(faces)
    colors = np.where(part[:, None] == 0, (0.8, 0.6, 0.5), (0.95, 0.95, 0.97))
    arrays = {
        "v_template": v.astype(np.float32),
        "f": f.astype(np.int32),
        "shapedirs": (0.002 * waves).astype(np.float32),
        "exprdirs": exprdirs.astype(np.float32),
        "posedirs": np.zeros((len(v), 3, 0), np.float32),
        "J_regressor": regressor.astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "expression_names": np.array(ARKIT_NAMES),
        "uv": np.concatenate(uv).astype(np.float32),
        "f_uv": np.concatenate(faces_uv).astype(np.int32),
        "colors": colors.astype(np.float32),
        "region_face": (part == 0) & (v[:, 2] > 0),
    }
    front = np.flatnonzero((v[f].mean(1)[:, 2] > 0.03) & (part[f[:, 0]] == 0))
    for name, count in (("ibug68", 68), ("mediapipe478", 478)):
        arrays[f"lmk_{name}_triangle"] = random.choice(front, count)
        arrays[f"lmk_{name}_barycentric"] = np.full((count, 3), 1 / 3, np.float32)
    return arrays


def write_toy_head(path: Path, **options: int) -> Path:
    """Write the toy head where ``load_head`` can read it; returns ``path``."""
    np.savez(path, allow_pickle=False, **toy_arrays(**options))
    return path


def toy_capture(
    head: HeadModel, /, frames: int = 1, size: tuple[int, int] = (512, 512), **changes: Any
) -> Capture:
    """A capture of a head half a metre before the camera, turned a little, with a different face a frame."""
    random = np.random.default_rng(3)
    pose = np.zeros((frames, head.num_joints, 3))
    pose[:, 0] = [np.pi - 0.1, 0.15, 0.2]  # about half a turn about X: facing the camera
    pose[:, 1] = [0.1, -0.2, 0.05]
    expression = random.uniform(0, 1, (frames, head.num_expression))
    units = expression if head.speaks_arkit else random.uniform(0, 1, (frames, 52))
    values = {
        "head": head.id,
        "source": "astronaut.png",
        "fps": 25.0 if frames > 1 else 0.0,
        "timestamps": np.arange(frames) / 25,
        "image_size": np.array(size),
        "focal": 900.0,
        "principal": np.array(size) / 2,
        "shape": random.normal(0, 1, head.num_shape),
        "expression": expression,
        "pose": pose,
        "translation": np.tile([0.0, 0.2, 0.8], (frames, 1)),
        "arkit": units,
        "landmarks68": random.uniform(0, 512, (frames, 68, 2)),
        "box": np.tile([100.0, 50.0, 300.0, 280.0], (frames, 1)),
        "score": np.full(frames, 0.9),
        "tracked": np.ones(frames, bool),
    }
    return Capture(**{**values, **changes})
