"""A first guess of the expression from the face stage's scores, and how far to trust it."""

from __future__ import annotations

import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES

#: Inverse variance of each score, by the start of the unit's name; the others say nothing that the landmarks
#: do not say better.
_CONFIDENCE: dict[str, float] = {}


def guess_from_scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Turn scores (B, 52) of the face stage into an expression (B, 52) and its confidence (52,)."""
    confidence = [next((c for p, c in _CONFIDENCE.items() if n.startswith(p)), 0.0) for n in ARKIT_NAMES]
    return scores, torch.tensor(confidence, dtype=scores.dtype)
