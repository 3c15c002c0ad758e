"""How mouths move in clips, against what the encoder tells: speech is seen in openings and in their changes.

SPECTRE (P. Filntisis et al., Visual Speech-Informed Perceptual 3D Facial Expression Reconstruction from
Videos, 2022) watches clips beside single photographs, so that a head speaks as its person does, and asks a
network that reads lips. Here no such network is needed: what such a one looks at first, when and how far lips
part and how wide the mouth is, the dense landmarks tell as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Upper and lower point of the inner lips, five times across, and the mouth's corners.
_UPPER, _LOWER = (81, 82, 13, 312, 311), (178, 87, 14, 317, 402)
_CORNERS = (61, 291)
#: Outer eye corners, and top of the forehead to below the nose: what no jaw moves.
_WIDE, _TALL = (33, 263), (10, 2)
#: Velocities are changes within this time, s: a frame's, so that they count about as much as openings.
_MOMENT = 1 / 25
#: Differences up to this, percent of the face's size, are the landmarks' own error, and count squared.
_UNSURE = 1.0
#: Smallest size of a face, in parts of its cut-out: landmarks of nothing may all fall together.
_LEAST_SIZE = 0.03


class MouthMotion(NamedTuple):
    """How far the mouths of two heads are from moving alike.

    Attributes:
        openings: () mean difference of the lips' openings and of the mouth's width, and ...
        velocities: ... that of their changes from frame to frame, within 1/25 s. Both in percent of the
            face's size, small ones counting less.
    """

    openings: Tensor
    velocities: Tensor


def mouth_motion(
    points: Tensor, found: Tensor, window: int, dt: Tensor, rest: Tensor | None = None
) -> MouthMotion:
    """Compare the mouths of a head with those in the pictures, over windows of frames.

    Neither place nor size of either matters, nor a roll: each is measured by its own face.

    Args:
        points: (B,478,2 or more) dense landmarks of the head that the encoder tells, as the camera sees them.
        found: (B,478,2 or more) the same as they were found in the pictures.
        window: Frames of each window; they follow each other in B.
        dt: (B/window,window-1) s from each frame of a window to the next.
        rest: As ``points``, of the same head without its expression: its lips touch, yet their landmarks lie
            some 3 mm apart, one on the edge of the upper lip and one behind it. Openings count from there.
            Where landmarks are found, they meet when the lips do.
    """
    told = _openings(points, rest).unflatten(0, (-1, window))
    seen = _openings(found).unflatten(0, (-1, window))
    pace = (_MOMENT / dt)[..., None]
    return MouthMotion(_apart(told, seen), _apart(told.diff(dim=1) * pace, seen.diff(dim=1) * pace))


def _apart(first: Tensor, second: Tensor) -> Tensor:
    return F.smooth_l1_loss(first, second, beta=_UNSURE)


def _openings(points: Tensor, rest: Tensor | None = None) -> Tensor:
    """(B,6) five openings and the width of mouths (B,478,2 or more), percent of the face's size."""
    lips = _lips(points) if rest is None else _lips(points) - _lips(rest)
    width = _between(points, *_CORNERS).norm(dim=1, keepdim=True) / _size(points)
    return 100 * torch.cat((lips.norm(dim=-1), width), dim=1)


def _lips(points: Tensor) -> Tensor:
    """(B,5,2) from lower to upper lip, in parts of the face's size."""
    return (points[:, _UPPER, :2] - points[:, _LOWER, :2]) / _size(points)[..., None]


def _size(points: Tensor) -> Tensor:
    """(B,1) width and height together, so that a face that turns aside, or nods, still has one."""
    both = torch.cat((_between(points, *_WIDE), _between(points, *_TALL)), dim=1)
    return both.norm(dim=1, keepdim=True).clamp_min(_LEAST_SIZE)


def _between(points: Tensor, first: int, second: int) -> Tensor:
    """(B,2) from one landmark to another."""
    return points[:, first, :2] - points[:, second, :2]
