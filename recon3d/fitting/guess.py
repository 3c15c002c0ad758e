"""A first guess of the expression, from the encoder or the face stage's scores, and how far to trust it.

The score network was trained on other faces than the head's, so its scores are rescaled by what they
turned out to be on renders of the head with known expressions (tools/calibrate_scores.py).
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES
from recon3d.resources import resource_path

_CALIBRATION = "assets/score_calibration.json"
#: How much the encoder's own idea of its certainty counts, and the variance that its error has at least.
_TRUST, _LEAST_VARIANCE = 16.0, 0.002


def guess_from_scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Turn scores (B, 52) of the face stage into an expression (B, 52) in [0, 1] and its confidence (52,).

    The confidence is an inverse variance; it is 0 for units of which the scores tell nothing.
    """
    rest, gain, confidence = _calibration()
    return (gain * (scores - rest).clamp_min(0)).clamp(0, 1), confidence


def guess_from_encoder(told: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Turn what the encoder tells (B, 52), and the variance that it expects, into a guess and its confidence.

    The landmarks were seen by the encoder, too, so that it tells all that they do of most units; no one error
    is as small as it believes where a face is unlike its renders. On held-out renders more trust is always
    better, on photographs it does not matter to the landmarks' error (docs/benchmarks/encoder.md).
    """
    return told, _TRUST / (variance + _LEAST_VARIANCE)


@lru_cache(maxsize=1)
def _calibration() -> tuple[Tensor, Tensor, Tensor]:
    units = json.loads(resource_path(_CALIBRATION).read_text())["units"]
    columns = [[units[name][key] for name in ARKIT_NAMES] for key in ("rest", "gain", "confidence")]
    rest, gain, confidence = torch.tensor(columns, dtype=torch.float32)
    return rest, gain, confidence
