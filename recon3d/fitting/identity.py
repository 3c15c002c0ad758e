"""One identity, and one focal length, from many frames of one person.

Each frame has its own pose and expression, all share the identity. The joint Gauss-Newton step eliminates
pose and expression frame by frame (the Schur complement of bundle adjustment: B. Triggs et al., "Bundle
adjustment: a modern synthesis", 1999), so its cost grows linearly with the frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from recon3d._threads import side_by_side
from recon3d.fitting._priors import QuadraticPrior
from recon3d.fitting._problem import Problem
from recon3d.fitting._state import FitState
from recon3d.fitting._step import equations
from recon3d.fitting.solver import LandmarkSolver

#: Frames of a clip err together (the landmark network errs the same way on the same face), so that many
#: frames tell no more of the identity than this many independent ones would.
INDEPENDENT = 12.0
_ROUNDS = 6
#: Parts of a joint step that are tried: far from the solution, the whole one may lead away from it.
_PARTS = (1.0, 0.5, 0.25, 0.125)
#: Spread of the logarithm of focal lengths around the guess, and those that are tried.
_FOCAL_SPREAD = 0.35
_FOCALS = (0.55, 0.75, 1.0, 1.35, 1.8)


@dataclass(frozen=True)
class Observations:
    """What was seen of one person in K frames of one camera.

    Attributes:
        pixels: (K, N, 2) landmarks, px.
        principal: (2,) px.
        guess: (K, E) expression from elsewhere, or None.
        confidence: (E,) or (K, E) its inverse variances, or None.
    """

    pixels: Tensor
    principal: Tensor
    guess: Tensor | None = None
    confidence: Tensor | None = None


@dataclass(frozen=True)
class Identity:
    """The shared unknowns.

    Attributes:
        shape: (1, S) standard deviations.
        focal: px.
        cost: Cost of the frames together, robust, priors included; as many as INDEPENDENT count at most.
        hessian: (S, S) curvature of the cost in the shape, pose and expression eliminated.
    """

    shape: Tensor
    focal: float
    cost: float
    hessian: Tensor


@torch.no_grad()
def solve_identity(
    solver: LandmarkSolver,
    seen: Observations,
    focal: float,
    *,
    rounds: int = _ROUNDS,
    shape: Tensor | None = None,
) -> Identity:
    """Solve for the identity that all frames share, at a known focal length (px).

    Args:
        solver: Of the head.
        seen: The frames.
        focal: px.
        rounds: Joint steps, at most.
        shape: (1, S) where to begin; by default the median of the identities of the single frames.
    """
    count = len(seen.pixels)
    camera = torch.full((count,), float(focal)), seen.principal.expand(count, 2)
    fit = partial(solver.fit, seen.pixels, *camera, guess=seen.guess, confidence=seen.confidence)
    if shape is None:
        shape = fit().state.shape.median(0, keepdim=True).values
    prior = solver.prior_with(seen.guess, seen.confidence)
    # The prior on the identity counts once in INDEPENDENT frames; the equations below know only frames.
    share = min(1.0, INDEPENDENT / count)

    def fitted(shape: Tensor, start: FitState | None = None) -> tuple[FitState, float]:
        result = fit(start=start, fixed_shape=shape)
        own = 0.5 * float(shape.square().sum()) * solver.settings.priors.identity
        # Each frame's cost holds the identity's.
        return result.state, share * (float(result.cost.sum()) - count * own) + own

    state, cost = fitted(shape)
    hessian = torch.eye(solver.basis.shapes)
    for _ in range(rounds):
        problem = solver.problem(seen.pixels, *camera)
        step, hessian = _shape_step(problem, prior, replace(state), share)
        near = float(step.norm()) < 0.02 * (1 + float(shape.norm()))
        for part in _PARTS[:1] if near else _PARTS:
            moved = shape + part * step
            found, lower = fitted(moved, replace(state, shape=moved.expand(count, -1)))
            if lower < cost:
                break
        else:
            break
        shape, state, cost = moved, found, lower
        if near:
            break
    return Identity(shape, float(focal), cost, hessian)


@torch.no_grad()
def solve_identity_and_focal(
    solver: LandmarkSolver, seen: Observations, focal: float, threads: int = 1
) -> Identity:
    """Solve for identity and focal length; ``focal`` (px) is the guess that the prior is centred on.

    The cost is taken at a few focal lengths, and its minimum from the parabola through the best three, in
    the logarithm: perspective shows only weakly in landmarks, so the prior must hold the rest.
    """
    few = _thinned(seen, 12)
    logs = torch.tensor(_FOCALS).log()
    begin = solve_identity(solver, few, focal, rounds=2).shape

    def cost(factor: float) -> float:
        return solve_identity(solver, few, focal * factor, rounds=2, shape=begin).cost

    found = list(side_by_side(cost, _FOCALS, threads))
    costs = torch.tensor(found) + 0.5 * (logs / _FOCAL_SPREAD).square()
    best = int(costs.argmin().clamp(1, len(_FOCALS) - 2))
    peak = _parabola(logs[best - 1 : best + 2].tolist(), costs[best - 1 : best + 2].tolist())
    low, high = float(logs[0]), float(logs[-1])
    best_focal = focal * float(torch.tensor(min(max(peak, low), high)).exp())
    return solve_identity(solver, seen, best_focal, shape=begin)


def _shape_step(
    problem: Problem, prior: QuadraticPrior, state: FitState, share: float
) -> tuple[Tensor, Tensor]:
    """The joint step of the identity (1, S), and the matrix (S, S) that it solved."""
    matrix, gradient = equations(problem, prior, state, problem.evaluate(state), rigid=False)
    shapes = state.shape.shape[1]
    identity = slice(6, 6 + shapes)
    own = torch.ones(matrix.shape[1], dtype=torch.bool)
    own[identity] = False
    a, b = matrix[:, own][:, :, own], matrix[:, own][:, :, identity]
    push = gradient[:, own].clone()
    # Units that rest at a limit do not answer to the identity.
    rests = torch.zeros_like(push, dtype=torch.bool)
    rests[:, 6:] = problem.controls.pressed(state.expression, push[:, 6:])
    free = (~rests).to(a.dtype)
    a = a * free[:, :, None] * free[:, None]
    a.diagonal(dim1=1, dim2=2).add_(1 - free)
    b, push = b * free[:, :, None], push * free
    a.diagonal(dim1=1, dim2=2).mul_(1 + 1e-4).add_(1e-6)
    solved = torch.linalg.solve(a, torch.cat([b, push[..., None]], dim=-1))
    strength = prior.hessian[0, :shapes, :shapes]
    frames = len(matrix)
    total = (matrix[:, identity, identity] - b.mT @ solved[..., :-1]).sum(0) - frames * strength
    pull = (gradient[:, identity] - torch.einsum("kos,ko->ks", b, solved[..., -1])).sum(0)
    pull = pull - frames * (strength @ state.shape[0])
    total, pull = share * total + strength, share * pull + strength @ state.shape[0]
    return -torch.linalg.solve(total, pull)[None], total


def _thinned(seen: Observations, count: int) -> Observations:
    if len(seen.pixels) <= count:
        return seen
    index = torch.linspace(0, len(seen.pixels) - 1, count).round().long()
    confidence = seen.confidence
    if confidence is not None and confidence.ndim > 1:
        confidence = confidence[index]
    guess = None if seen.guess is None else seen.guess[index]
    return Observations(seen.pixels[index], seen.principal, guess, confidence)


def _parabola(x: list[float], y: list[float]) -> float:
    """Where the parabola through three points is lowest; the middle one where it has no minimum."""
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    bend = (right - left) / (x[2] - x[0])
    if bend <= 0:
        return x[y.index(min(y))]
    return (x[0] + x[1]) / 2 - left / (2 * bend)
