"""The 68 points of the 300-W annotation among the 478 dense ones.

C. Sagonas et al., "300 Faces In-The-Wild Challenge", 2016. Annotators space points evenly along jaw, brows
and the bridge of the nose, where the dense landmarks lie closer here and farther there; they follow a brow's
upper edge, which at both ends runs into its middle; and an eye ends for them where the lids meet, not in the
corner by the nose. So each of the 68 is a mean of a few dense points, with weights read off a head at rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: The jaw from the subject's right temple to the left; brows from the right end to the left.
_JAW = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152,
        377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356)  # fmt: skip
_BROWS = (
    ((70, 63, 105, 66, 107), (46, 53, 52, 65, 55)),
    ((336, 296, 334, 293, 300), (285, 295, 282, 283, 276)),
)
#: How much of a brow's upper edge its points have, from end to end; the rest is the lower edge's.
_EDGE = (0.5, 0.85, 1.0, 0.85, 0.5)
_RIDGE = (168, 6, 197, 195, 5, 4)
_NOSE = (75, 97, 2, 326, 305)
#: Eyes, lips outside and inside, each point a mean of these.
_EYES: tuple[tuple[int, ...], ...] = (
    (33,), (160, 160, 159), (158,), (173, 155), (153, 153, 145), (144,),
    (398, 382), (385,), (387, 387, 386), (263,), (373,), (380, 380, 374),
)  # fmt: skip
_LIPS: tuple[tuple[int, ...], ...] = (
    (61,), (39, 40), (37,), (0,), (267,), (269, 270), (291,), (405, 321), (314,), (17,), (84,), (181, 91),
    (78, 191, 95), (82,), (13,), (312,), (308, 415, 324), (317,), (14,), (87,),
)  # fmt: skip


def ibug68_weights(points: Tensor) -> Tensor:
    """Return the weights (68,478) with which dense landmarks make the 68 points.

    Args:
        points: (478,3) the dense landmarks of a head at rest.
    """
    rows = [
        *_evenly(points, _JAW, 17),
        *(row for upper, lower in _BROWS for row in _brow(points, upper, lower)),
        *_evenly(points, _RIDGE, 4),
        *(_mean(points, (index,)) for index in _NOSE),
        *(_mean(points, group) for group in _EYES + _LIPS),
    ]
    return torch.stack(rows)


def _mean(points: Tensor, indices: Sequence[int]) -> Tensor:
    row = torch.zeros(len(points), dtype=points.dtype)
    for index in indices:
        row[index] += 1 / len(indices)
    return row


def _evenly(points: Tensor, curve: Sequence[int], count: int) -> list[Tensor]:
    """Weights of ``count`` points that divide a curve through dense points into equal lengths."""
    return _spaced(points, [_mean(points, (index,)) for index in curve], count)


def _brow(points: Tensor, upper: Sequence[int], lower: Sequence[int]) -> list[Tensor]:
    pairs = zip(upper, lower, _EDGE, strict=True)
    rows = [_mean(points, (u,)) * share + _mean(points, (v,)) * (1 - share) for u, v, share in pairs]
    return _spaced(points, rows, len(rows))


def _spaced(points: Tensor, rows: list[Tensor], count: int) -> list[Tensor]:
    """Weights of ``count`` points that divide the curve through weighted means into equal lengths."""
    places = torch.stack(rows) @ points
    length = torch.cat((places.new_zeros(1), (places[1:] - places[:-1]).norm(dim=1).cumsum(0)))
    found = []
    for aim in torch.linspace(0, float(length[-1]), count):
        k = int(torch.searchsorted(length, aim).clamp(1, len(rows) - 1))
        share = float(((aim - length[k - 1]) / (length[k] - length[k - 1])).clamp(0, 1))
        found.append(rows[k - 1] * (1 - share) + rows[k] * share)
    return found
