"""Expressions that the cycle path puts in."""

from __future__ import annotations

import numpy as np
import torch

from recon3d.conventions import ARKIT_NAMES
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.perturb import perturbed


def test_they_are_expressions_and_differ_from_those_at_hand() -> None:
    own = torch.rand(64, 52, generator=torch.Generator().manual_seed(0)) * 0.3
    own.requires_grad_()
    other = perturbed(own, ExpressionSampler(), np.random.default_rng(0))
    assert other.shape == own.shape and other.dtype == own.dtype and not other.requires_grad
    assert float(other.min()) >= 0 and float(other.max()) <= 1
    assert float((other - own.detach()).abs().mean(1).median()) > 0.05
    again = perturbed(own, ExpressionSampler(), np.random.default_rng(0))
    assert torch.equal(other, again)
    # Some come to rest but for jaw and lids, some show units that nobody at hand shows so strongly.
    lids = [
        k for k, name in enumerate(ARKIT_NAMES) if not name.startswith(("eyeBlink", "eyeWide", "jawOpen"))
    ]
    assert int((other[:, lids].amax(1) == 0).sum()) > 5
    assert int((other.amax(1) > 0.6).sum()) > 5
