"""Eyeballs of our own: spheres whose rings follow pupil, iris and limbus, so that gaze reads well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from open_head.source import Array, Index
from recon3d.head.rotation import axis_angle_to_matrix

#: Ring angles from the optical axis, degrees: pupil, iris, limbus, then the white.
RINGS = (4.0, 9.5, 17.0, 23.5, 26.0, 34.0, 46.0, 62.0, 80.0, 100.0, 125.0, 152.0)
PUPIL_RING, IRIS_RING = 1, 3
SEGMENTS = 24

#: Turn of the eye at unit strength, rad. Measured on the recorded take of the shared data: its own eye
#: angles over its own unit values, frames in which the opposite unit rests, least squares through zero.
UNIT_ANGLES = {"Out": 0.665, "In": 0.54, "Up": 0.453, "Down": 0.611}


#: The balls are this much smaller than the source's, so that a lid halfway through a blink, which moves on a
#: straight line, does not cut into them.
_SLACK = 0.975


@dataclass(frozen=True)
class Eyeball:
    """Unit sphere around the origin that looks along +Z."""

    directions: Array
    """(n, 3) unit vectors."""
    triangles: Index
    """(m, 3)."""
    ring: Index
    """(n,) ring of each vertex: 0 front pole, then RINGS, then the back pole."""


def make_eyeball() -> Eyeball:
    """Build the sphere: a pole, rings of SEGMENTS vertices, a pole."""
    theta = np.deg2rad(np.array(RINGS))
    phi = np.arange(SEGMENTS) / SEGMENTS * 2 * np.pi
    rings = np.stack(
        [
            np.sin(theta)[:, None] * np.cos(phi),
            np.sin(theta)[:, None] * np.sin(phi),
            np.repeat(np.cos(theta)[:, None], SEGMENTS, 1),
        ],
        -1,
    ).reshape(-1, 3)
    directions = np.concatenate([[[0, 0, 1.0]], rings, [[0, 0, -1.0]]])
    number = np.concatenate(
        [[0], np.repeat(np.arange(1, len(RINGS) + 1), SEGMENTS), [len(RINGS) + 1]]
    ).astype(np.int64)
    return Eyeball(directions, _sphere_triangles(len(RINGS)), number)


def _sphere_triangles(rings: int) -> Index:
    k = np.arange(SEGMENTS)
    nxt = (k + 1) % SEGMENTS
    first = 1 + k
    parts = [np.stack([np.zeros_like(k), first, 1 + nxt], -1)]
    for r in range(rings - 1):
        a, b = 1 + r * SEGMENTS + k, 1 + r * SEGMENTS + nxt
        c, d = a + SEGMENTS, b + SEGMENTS
        parts += [np.stack([a, c, d], -1), np.stack([a, d, b], -1)]
    last = 1 + (rings - 1) * SEGMENTS
    pole = 1 + rings * SEGMENTS
    parts.append(np.stack([last + k, np.full_like(k, pole), last + nxt], -1))
    return np.concatenate(parts).astype(np.int64)


def fit_spheres(points: Array) -> tuple[Array, Array]:
    """Centre and radius of MakeHuman's eyes: (..., n, 3) points to (..., 3) and (...)."""
    centre = points.mean(-2)
    radius = _SLACK * np.linalg.norm(points - centre[..., None, :], axis=-1).mean(-1)
    return centre, radius


def gaze_offsets(eyeball: Eyeball, radius: float, side: str, direction: str) -> Array:
    """Offsets (n, 3) m of an eyeball's vertices for ``eyeLook<direction><side>`` at unit strength."""
    import torch

    angle = UNIT_ANGLES[direction]
    outward = 1.0 if side == "Left" else -1.0  # +X is the subject's left
    axis = {
        "Up": (-angle, 0.0, 0.0),
        "Down": (angle, 0.0, 0.0),
        "Out": (0.0, outward * angle, 0.0),
        "In": (0.0, -outward * angle, 0.0),
    }[direction]
    rotation = axis_angle_to_matrix(torch.tensor(axis, dtype=torch.float64)).numpy()
    turned: Array = radius * (eyeball.directions @ rotation.T - eyeball.directions)
    return turned
