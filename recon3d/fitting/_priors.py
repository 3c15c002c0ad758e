"""What is known before any landmark is seen: faces are ordinary, and expressions sparse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES, mirror_name
from recon3d.fitting.controls import Controls
from recon3d.resources import resource_path

_MOMENTS = "assets/expression_prior.json"
#: Second moment that a unit has at least, before it is weighted by its own share.
_LEAST = 0.005

#: Units that no face shows together, or that undo each other.
EXCLUSIVE: tuple[tuple[str, str], ...] = (
    ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"),
    ("mouthFunnel", "mouthPucker"),
    ("browInnerUp", "browDownLeft"),
    ("browInnerUp", "browDownRight"),
    *((f"eyeLookUp{s}", f"eyeLookDown{s}") for s in ("Left", "Right")),
    *((f"eyeLookIn{s}", f"eyeLookOut{s}") for s in ("Left", "Right")),
    *((f"eyeBlink{s}", f"eyeWide{s}") for s in ("Left", "Right")),
    *((f"mouthSmile{s}", f"mouthFrown{s}") for s in ("Left", "Right")),
    *((f"browOuterUp{s}", f"browDown{s}") for s in ("Left", "Right")),
)

#: Units that are unlike on both sides as a matter of course.
_FREE_SIDES = ("eyeLook",)


@dataclass(frozen=True)
class PriorSettings:
    """Strength of each prior, as the inverse square of a standard deviation (tuned; see docs/benchmarks).

    Attributes:
        identity: On each identity coefficient (a unit normal has 1).
        sparsity: Slope of the linear cost of an expression unit.
        natural: How much the units that go together on a real face are expected to; 0 expects nothing.
        own: Share in [0, 1] of each unit's variance that is taken to be its own, whatever was recorded.
        sided: Share that the difference between a unit's two sides is allowed besides: recordings hold few
            one-sided expressions, people make many.
        ridge: Quadratic cost of an expression unit.
        exclusive: Cost of the product of two units that exclude each other.
        symmetry: Cost of the squared difference between the sides of a unit.
    """

    identity: float = 1.0
    sparsity: float = 2.0
    natural: float = 0.5
    own: float = 0.1
    sided: float = 0.2
    ridge: float = 0.0
    exclusive: float = 0.0
    symmetry: float = 0.0


#: For expressions of any kind, such as random units: nothing is expected but few and small ones.
SPARSE = PriorSettings(sparsity=2.0, natural=0.0, ridge=2.0, exclusive=4.0, symmetry=4.0)


@dataclass(frozen=True)
class QuadraticPrior:
    """``½ θᵀ H θ + gᵀ θ`` over P coefficients; H (B or 1, P, P), g (B or 1, P)."""

    hessian: Tensor
    gradient: Tensor

    def cost(self, theta: Tensor) -> Tensor:
        """(B, P) to (B,)."""
        bent = torch.einsum("bij,bj->bi", self.hessian.expand(len(theta), -1, -1), theta)
        return 0.5 * (theta * bent).sum(-1) + (self.gradient * theta).sum(-1)

    def subset(self, index: Tensor) -> QuadraticPrior:
        """The prior of the faces of ``index`` (n,); what all faces share stays shared."""
        hessian = self.hessian if len(self.hessian) == 1 else self.hessian[index]
        return QuadraticPrior(hessian, self.gradient if len(self.gradient) == 1 else self.gradient[index])


def build_prior(
    names: tuple[str, ...], controls: Controls, shapes: int, settings: PriorSettings
) -> QuadraticPrior:
    """The prior over identity (first ``shapes`` coefficients) and expression.

    Expressions without names (a PCA's, and joints) get the normal prior of their usual size alone.
    """
    size = shapes + controls.count
    hessian, gradient = torch.zeros(size, size), torch.zeros(size)
    hessian.diagonal()[:shapes] = settings.identity
    hessian.diagonal()[shapes:] = controls.deviation**-2
    if not names:
        return QuadraticPrior(hessian[None], gradient[None])
    hessian.diagonal()[shapes:] += settings.ridge
    gradient[shapes:] = settings.sparsity
    index = {name: shapes + i for i, name in enumerate(names)}
    for a, b in EXCLUSIVE:
        if a in index and b in index:
            hessian[index[a], index[b]] += settings.exclusive
            hessian[index[b], index[a]] += settings.exclusive
    if settings.natural and names == ARKIT_NAMES:
        hessian[shapes:, shapes:] += settings.natural * natural_precision(settings.own, settings.sided)
    for name, i in index.items():
        j = index.get(mirror_name(name), i)
        if i < j and not name.startswith(_FREE_SIDES):
            hessian[i, i] += settings.symmetry
            hessian[j, j] += settings.symmetry
            hessian[i, j] -= settings.symmetry
            hessian[j, i] -= settings.symmetry
    return QuadraticPrior(hessian[None], gradient[None])


def add_guess(prior: QuadraticPrior, guess: Tensor, confidence: Tensor, shapes: int) -> QuadraticPrior:
    """Pull the expression toward a guess, each unit as strongly as its confidence says.

    Args:
        prior: The prior so far.
        guess: (B, C) expression.
        confidence: (B, C) or (C,) inverse variances, or (B, C, C) inverse covariances; 0 where the guess says
            nothing.
        shapes: Number of identity coefficients before the expression.
    """
    hessian = prior.hessian.repeat(len(guess) // len(prior.hessian), 1, 1)
    gradient = prior.gradient.repeat(len(guess) // len(prior.gradient), 1)
    if confidence.ndim == 3:
        hessian[:, shapes:, shapes:] += confidence
        gradient[:, shapes:] -= (confidence @ guess[..., None])[..., 0]
        return QuadraticPrior(hessian, gradient)
    confidence = confidence.expand_as(guess)
    hessian.diagonal(dim1=1, dim2=2)[:, shapes:] += confidence
    gradient[:, shapes:] -= confidence * guess
    return QuadraticPrior(hessian, gradient)


@lru_cache(maxsize=4)
def natural_precision(own: float, sided: float) -> Tensor:
    """Inverse (52, 52) of the second moments of the units on a real face (tools/make_expression_prior.py).

    Args:
        own: Share of each variance that is taken to be the unit's own: it shrinks the others' influence, and
            leaves a unit that the recording hardly shows a little freedom.
        sided: The same for the difference between the two sides of a unit.
    """
    document = json.loads(resource_path(_MOMENTS).read_text())
    moments = torch.tensor(document["moments"], dtype=torch.float64)
    variance = moments.diagonal()
    shrunk = (1 - own) * moments + torch.diag(own * (variance + _LEAST) + 1e-4)
    mirror = torch.tensor(ARKIT_MIRROR)
    apart = torch.diag(sided * (variance + variance[mirror]) / 4)
    return torch.linalg.inv(shrunk + apart - apart[:, mirror]).float()
