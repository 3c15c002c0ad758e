"""Head, pose and expression from landmarks: a damped Gauss-Newton solver with bounds, batched over faces.

The unknowns of a face are the rotation and translation of the head in camera space, identity coefficients β
and expression units ψ. Before posing, landmarks are linear in (β, ψ), so derivatives are written down, not
traced (_problem.py). On heads without units jaw and eyeballs turn about their joints, too (controls.py).
Expression units stay in [0, 1], and joints within their limits, by an active set, and each face has its own
Levenberg-Marquardt damping (_step.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from recon3d.fitting._basis import reduce_head
from recon3d.fitting._priors import PriorSettings, QuadraticPrior, add_guess, build_prior
from recon3d.fitting._problem import Problem, Structure
from recon3d.fitting._start import starting_pose
from recon3d.fitting._state import FitState
from recon3d.fitting._step import equations, iterate
from recon3d.fitting.controls import Controls
from recon3d.fitting.units import UnitMap
from recon3d.head.model import HeadModel


@dataclass(frozen=True)
class FitSettings:
    """How to solve.

    Attributes:
        shapes: Identity coefficients that are solved for; the others stay zero.
        noise: Standard deviation of a landmark, in parts of the face's size.
        outlier: Distance in standard deviations from which a landmark loses influence.
        rigid_steps: Iterations of the pose alone, first.
        steps: Iterations of everything, at most.
        priors: Strength of the priors.
    """

    shapes: int = 80
    noise: float = 0.02
    outlier: float = 4.0
    rigid_steps: int = 4
    steps: int = 14
    priors: PriorSettings = field(default_factory=PriorSettings)


@dataclass(frozen=True)
class Observed:
    """What a solution is made of, for B faces; see ``LandmarkSolver.fit``.

    Attributes:
        pixels: (B, N, 2) landmarks, px.
        focal: (B,) px.
        principal: (B, 2) px.
        guess: (B, C) an expression from elsewhere, or None.
        confidence: (B, C) or (C,) its inverse variances, (B, C, C) inverse covariances, or None.
    """

    pixels: Tensor
    focal: Tensor
    principal: Tensor
    guess: Tensor | None = None
    confidence: Tensor | None = None

    def face(self, k: int) -> Observed:
        """The one face k."""
        rows = slice(k, k + 1)
        guess = None if self.guess is None else self.guess[rows]
        confidence = self.confidence
        if confidence is not None and confidence.ndim > 1:
            confidence = confidence[rows]
        return Observed(self.pixels[rows], self.focal[rows], self.principal[rows], guess, confidence)


@dataclass(frozen=True)
class FitResult:
    """The solution for B faces.

    Attributes:
        state: The unknowns.
        residual: (B,) root mean square distance of the landmarks, in parts of the face's size.
        inliers: (B,) share of the landmarks that kept at least half their weight.
        cost: (B,) what was minimised: robust landmark distances and priors.
    """

    state: FitState
    residual: Tensor
    inliers: Tensor
    cost: Tensor


class LandmarkSolver:
    """Fits a head to landmarks. Holds the reduced head, so make one and use it for many faces."""

    def __init__(
        self, head: HeadModel, kind: str = "mediapipe478", settings: FitSettings | None = None
    ) -> None:
        """Reduce the head to the landmarks of ``kind`` ("mediapipe478" or "ibug68")."""
        settings = settings or FitSettings()
        self.settings = replace(settings, shapes=min(settings.shapes, head.num_shape))
        self.head = head
        self.basis = reduce_head(head, kind, self.settings.shapes)
        self.structure = Structure.of(self.basis, kind)
        self.controls = Controls.of(head)
        names = head.expression_names if head.speaks_arkit else ()
        self.prior = build_prior(names, self.controls, self.settings.shapes, self.settings.priors)

    @torch.no_grad()
    def fit(
        self,
        pixels: Tensor,
        focal: Tensor,
        principal: Tensor,
        *,
        start: FitState | None = None,
        guess: Tensor | None = None,
        confidence: Tensor | None = None,
        fixed_shape: Tensor | None = None,
    ) -> FitResult:
        """Solve for B faces at once.

        Args:
            pixels: (B, N, 2) landmarks, px.
            focal: (B,) px.
            principal: (B, 2) px.
            start: Where to start; from a mean face in the best rigid pose when None.
            guess: (B, C) an expression from elsewhere (an encoder, the face stage's scores; ``guess_of``) ...
            confidence: (B, C) or (C,) ... and its inverse variances, or (B, C, C) its inverse covariances;
                both or neither.
            fixed_shape: (B, S) or (1, S) identity that is known; then only pose and expression are solved.
        """
        problem = self.problem(pixels, focal, principal, fixed_shape=fixed_shape is not None)
        prior = self.prior_with(guess, confidence)
        state = start if start is not None else self._start(pixels, focal, principal, fixed_shape)
        if fixed_shape is not None:
            state = replace(state, shape=fixed_shape.expand(len(pixels), -1)[:, : self.basis.shapes])
        if start is None:
            state = iterate(problem, prior, state, self.settings.rigid_steps, rigid=True)
        state = iterate(problem, prior, state, self.settings.steps, rigid=False)
        seen = problem.evaluate(state)
        cost = seen.cost + prior.cost(torch.cat([state.shape, state.expression], dim=-1))
        return FitResult(state, *problem.quality(seen), cost)

    def guess_of(self, units: Tensor, confidence: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Say a guess of the ARKit units in the head's own terms, as ``fit`` wants it.

        Args:
            units: (B, 52).
            confidence: (B, 52) or (52,) inverse variances.

        Returns:
            Guess and confidence; None and None for a head that does not know the units.
        """
        if not self.head.knows_arkit:
            return None, None
        return (units, confidence) if self._units is None else self._units.guess_of(units, confidence)

    def units_of(self, expression: Tensor, guess: Tensor | None = None) -> Tensor | None:
        """Read the ARKit units (B, 52) off expressions (B, C); None if the head does not know them.

        Args:
            expression: As ``fit`` finds them.
            guess: (B, 52) what was seen of the units: of those that the head hardly shows, more is known so.
        """
        if not self.head.knows_arkit:
            return None
        return expression if self._units is None else self._units.units_of(expression, guess)

    @cached_property
    def _units(self) -> UnitMap | None:
        return None if self.head.speaks_arkit else UnitMap.of(self.head)

    def problem(
        self, pixels: Tensor, focal: Tensor, principal: Tensor, *, fixed_shape: bool = False
    ) -> Problem:
        """The residuals and normal equations behind ``fit``, for what builds on them."""
        return Problem(
            self.structure,
            pixels,
            focal,
            principal,
            noise=self.settings.noise,
            outlier=self.settings.outlier,
            fixed_shape=fixed_shape,
            controls=self.controls,
        )

    def prior_with(self, guess: Tensor | None, confidence: Tensor | None) -> QuadraticPrior:
        """The prior, and a guess of the expression if there is one; see ``fit``."""
        if guess is None or confidence is None:
            return self.prior
        return add_guess(self.prior, guess, confidence, self.basis.shapes)

    def normal_equations(self, seen: Observed, state: FitState) -> tuple[Problem, Tensor]:
        """The problem, and the matrix (B, Q, Q) of its normal equations at a state, priors included.

        Q counts rotation and translation (small motions in head axes), identity and expression.
        """
        problem = self.problem(seen.pixels, seen.focal, seen.principal)
        prior = self.prior_with(seen.guess, seen.confidence)
        return problem, equations(problem, prior, state, problem.evaluate(state), rigid=False)[0]

    def _start(self, pixels: Tensor, focal: Tensor, principal: Tensor, shape: Tensor | None) -> FitState:
        batch = len(pixels)
        points = self.basis.template
        zero = pixels.new_zeros(batch, self.basis.shapes)
        if shape is not None:
            zero = shape.expand(batch, -1)[:, : self.basis.shapes]
            points = points + torch.einsum(
                "nks,bs->bnk", self.basis.directions[..., : self.basis.shapes], zero
            )
        rotation, translation = starting_pose(points, pixels, focal, principal)
        return FitState(rotation, translation, zero, pixels.new_zeros(batch, self.controls.count))
