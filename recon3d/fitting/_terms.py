"""Which landmarks count how much, and the openings that get terms of their own."""

from __future__ import annotations

import torch
from torch import Tensor

#: The face's outline among the 478 points: it drifts with hair and view, so it counts less.
_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
#: The irises, each a centre and four points of the rim.
_IRIS = tuple(range(468, 478))

#: Upper against lower eyelid, right eye then left.
_EYELIDS = (
    (159, 145), (158, 153), (160, 144), (157, 154), (161, 163), (173, 155), (246, 7),
    (386, 374), (385, 380), (387, 373), (384, 381), (388, 390), (398, 382), (466, 249),
)  # fmt: skip
#: Upper against lower lip, along the inner edge.
_LIPS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318))
#: Mouth corners against each other, and each iris centre against its eye's corners.
_SPANS = ((61, 291), (468, 33), (468, 133), (473, 263), (473, 362))

_PAIRS68 = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65), (48, 54))


def landmark_weights(kind: str) -> Tensor:
    """(N,) weight of each landmark in the sum of squares."""
    if kind == "ibug68":
        weights = torch.ones(68)
        weights[:17] = 0.3
        return weights * 4.0  # fewer points, so that the priors keep their proportion
    weights = torch.ones(478)
    weights[list(_OVAL)] = 0.25
    weights[list(_IRIS)] = 2.0
    return weights


def landmark_pairs(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs (M,), (M,) whose difference vector is a residual of its own, and the weight (M,) of each."""
    if kind == "ibug68":
        pairs, weights = list(_PAIRS68), [8.0] * 6 + [4.0, 4.0]
    else:
        pairs = [*_EYELIDS, *_LIPS, *_SPANS]
        weights = [4.0] * len(_EYELIDS) + [4.0] * len(_LIPS) + [4.0] * len(_SPANS)
    index = torch.tensor(pairs)
    return index[:, 0], index[:, 1], torch.tensor(weights)
