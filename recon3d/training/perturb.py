"""Other expressions for faces at hand: what the cycle path puts in, and wants read out again.

After SMIRK (G. Retsinas et al., 2024): random changes, expressions of others in the batch, recorded and posed
ones, and a face at rest; of all, the jaw and the lids are changed a little more.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES
from recon3d.expressions import settle
from recon3d.training.expressions import ExpressionSampler, Floats

_COUNT = len(ARKIT_NAMES)
_JAW = ARKIT_NAMES.index("jawOpen")
_LIDS = [ARKIT_NAMES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]


def perturbed(expression: Tensor, sampler: ExpressionSampler, rng: np.random.Generator) -> Tensor:
    """Return other expressions (B,52) in [0,1] for faces that show these, without gradient."""
    rows = expression.detach().cpu().numpy().astype(np.float32)
    kinds = rng.integers(0, 4, len(rows))
    strangers = rng.permutation(len(rows))
    changed = [_changed(int(kind), rows[k], rows[strangers[k]], sampler, rng) for k, kind in enumerate(kinds)]
    return torch.from_numpy(np.stack([settle(_tweaked(row, rng)) for row in changed])).to(expression)


def _changed(
    kind: int, own: Floats, stranger: Floats, sampler: ExpressionSampler, rng: np.random.Generator
) -> Floats:
    if kind == 0:
        chosen = rng.random(_COUNT) < 0.3
        return (own + chosen * rng.normal(0, rng.uniform(0.1, 0.5), _COUNT)).astype(np.float32)
    if kind == 1:
        return (stranger * rng.uniform(0.25, 1.5)).astype(np.float32)
    if kind == 2:
        return sampler.draw(rng)
    return np.zeros(_COUNT, np.float32)


def _tweaked(row: Floats, rng: np.random.Generator) -> Floats:
    row = row.copy()
    if rng.random() < 0.5:
        row[_JAW] += rng.normal(0, 0.2)
    row[_LIDS] += rng.uniform(-0.25, 0.25)
    return row
