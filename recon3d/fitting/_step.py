"""Steps of the solver: Levenberg-Marquardt (D. Marquardt, 1963) with bounds, each face at its own pace."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from recon3d.fitting._priors import QuadraticPrior
from recon3d.fitting._problem import Evaluation, Problem
from recon3d.fitting._state import FitState, choose

#: A face whose cost falls by less than this part in a step has arrived.
_SETTLED = 3e-3


def iterate(problem: Problem, prior: QuadraticPrior, state: FitState, steps: int, *, rigid: bool) -> FitState:
    """Take up to ``steps`` damped steps, of the pose alone if ``rigid``.

    A face whose step does not lower its cost keeps its state and is damped more the next time. A face that
    has arrived leaves the batch, so each face takes the same path whatever company it is in.
    """
    arrived, active = state.clone(), torch.arange(len(problem.pixels))
    damping = torch.full((len(active),), 1e-3)
    seen = problem.evaluate(state)
    cost = seen.cost + prior.cost(_theta(state))
    for _ in range(steps):
        matrix, gradient = equations(problem, prior, state, seen, rigid)
        step = _bounded_step(problem, matrix, gradient, state, damping, rigid)
        candidate = state.moved(step, problem.controls)
        found = problem.evaluate(candidate)
        found_cost = found.cost + prior.cost(_theta(candidate))
        better = found_cost <= cost
        settled = better & (cost - found_cost <= _SETTLED * cost)
        state, seen = choose(better, candidate, state), _choose_seen(better, found, seen)
        cost = torch.where(better, found_cost, cost)
        damping = torch.where(better, damping * 0.2, damping * 10).clamp(1e-6, 1e6)
        arrived.put(active, state)
        if bool(settled.any()):
            going = torch.nonzero(~settled)[:, 0]
            if not len(going):
                break
            problem, prior, state = problem.subset(going), prior.subset(going), state.subset(going)
            seen = _subset_seen(seen, going, len(settled))
            active, cost, damping = active[going], cost[going], damping[going]
    return arrived


def _theta(state: FitState) -> Tensor:
    return torch.cat([state.shape, state.expression], dim=-1)


def equations(
    problem: Problem, prior: QuadraticPrior, state: FitState, seen: Evaluation, rigid: bool
) -> tuple[Tensor, Tensor]:
    """Return the normal equations of a state, priors included: matrix and gradient, (B, Q, Q) and (B, Q)."""
    matrix, gradient = problem.matrix(state, seen, rigid), problem.gradient(state, seen, rigid)
    if rigid:
        return matrix, gradient
    theta = _theta(state)
    bent = torch.einsum("bij,bj->bi", prior.hessian.expand(len(theta), -1, -1), theta) + prior.gradient
    matrix[:, 6:, 6:] += prior.hessian[:, problem.free, problem.free]
    gradient[:, 6:] += bent[:, problem.free]
    return matrix, gradient


def _bounded_step(
    problem: Problem, matrix: Tensor, gradient: Tensor, state: FitState, damping: Tensor, rigid: bool
) -> Tensor:
    """Solve for the step; what would leave its limits stops there and the rest is solved again."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += damping[:, None] * diagonal + 1e-6
    if rigid:
        return _solve(matrix, -gradient)
    units = state.expression.shape[1]
    held = torch.zeros_like(gradient)
    stopped = torch.zeros_like(gradient, dtype=torch.bool)
    # Units that rest at a bound and are pushed against it do not move: known before anything is solved.
    push = gradient[:, -units:]
    stopped[:, -units:] = problem.controls.pressed(state.expression, push)
    for _ in range(2):
        step = _solve_with_held(matrix, gradient, held, stopped)
        target = state.expression + step[:, -units:]
        inside = problem.controls.inside(target)
        leaves = (target != inside) & ~stopped[:, -units:]
        if not bool(leaves.any()):
            break
        held[:, -units:] = torch.where(leaves, inside - state.expression, held[:, -units:])
        stopped[:, -units:] |= leaves
    return step


def _solve_with_held(matrix: Tensor, gradient: Tensor, held: Tensor, stopped: Tensor) -> Tensor:
    """Solve ``matrix · step = -gradient`` where the ``stopped`` entries of the step are given by ``held``."""
    right = -gradient - (matrix @ held[..., None]).squeeze(-1)
    free = (~stopped).to(matrix.dtype)
    reduced = matrix * (free[:, :, None] * free[:, None, :])
    reduced.diagonal(dim1=1, dim2=2).add_(1 - free)
    return torch.where(stopped, held, _solve(reduced, right * free))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(
        failed.any()
    ):  # a prior of exclusive units outweighed the data: add to the diagonal what it lacks
        lift = matrix.diagonal(dim1=1, dim2=2).mean(-1) * (failed > 0)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
        factor, _ = torch.linalg.cholesky_ex(matrix + lift[:, None, None] * eye)
    return torch.cholesky_solve(right[..., None], factor).squeeze(-1)


def _choose_seen(mask: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    chosen = {}
    for item in fields(Evaluation):
        a, b = getattr(new, item.name), getattr(old, item.name)
        shared = len(a) != len(mask)  # directions that all faces have in common
        chosen[item.name] = a if shared else torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b)
    return Evaluation(**chosen)


def _subset_seen(seen: Evaluation, index: Tensor, batch: int) -> Evaluation:
    values = {item.name: getattr(seen, item.name) for item in fields(Evaluation)}
    return Evaluation(**{k: v[index] if len(v) == batch else v for k, v in values.items()})
