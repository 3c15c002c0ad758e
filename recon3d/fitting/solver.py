"""Head, pose and expression from landmarks: damped Gauss-Newton with bounds, batched over faces.

The unknowns of a face are the rotation and translation of the head in camera space, identity coefficients β
and expression units ψ. Before posing, landmarks are linear in (β, ψ), so the Jacobian is written down, not
traced. Expression units stay in [0, 1] by an active set; outliers lose weight by iterated reweighting
(D. Geman and D. McClure's function, 1987); each face has its own Levenberg-Marquardt damping (Marquardt, 1963).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recon3d.fitting._basis import LandmarkBasis, reduce_head, slide_jaw
from recon3d.fitting._priors import PriorSettings, QuadraticPrior, add_guess, build_prior
from recon3d.fitting._start import starting_pose
from recon3d.fitting._terms import landmark_pairs, landmark_weights
from recon3d.head.model import HeadModel
from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle


@dataclass(frozen=True)
class FitSettings:
    """How to solve.

    Attributes:
        shapes: Identity coefficients that are solved for; the others stay zero.
        noise: Standard deviation of a landmark, in parts of the face's size.
        outlier: Distance in standard deviations from which a landmark loses influence.
        rigid_steps: Iterations of the pose alone, first.
        steps: Iterations of everything.
        priors: Strength of the priors.
    """

    shapes: int = 80
    noise: float = 0.02
    outlier: float = 4.0
    rigid_steps: int = 4
    steps: int = 8
    priors: PriorSettings = field(default_factory=PriorSettings)


@dataclass(frozen=True)
class FitState:
    """The unknowns of B faces.

    Attributes:
        rotation: (B, 3, 3) head to camera.
        translation: (B, 3) m: ``X_camera = R X + t`` (about the head's origin, not about a joint).
        shape: (B, S) standard deviations.
        expression: (B, E).
    """

    rotation: Tensor
    translation: Tensor
    shape: Tensor
    expression: Tensor

    def posed(self, head: HeadModel) -> tuple[Tensor, Tensor, Tensor]:
        """In the head model's own terms: shape (B, all), pose (B, J, 3) rad and translation (B, 3) m.

        FLAME turns the head about its root joint, so the translation differs by what that joint moves.
        """
        shape = self.shape.new_zeros(len(self.shape), head.num_shape)
        shape[:, : self.shape.shape[1]] = self.shape
        pose = shape.new_zeros(len(shape), head.num_joints, 3)
        pose[:, 0] = matrix_to_axis_angle(self.rotation)
        root = head.rest_joints(shape)[:, 0]
        turned = torch.einsum("bij,bj->bi", self.rotation, root)
        return shape, pose, self.translation + turned - root


@dataclass(frozen=True)
class FitResult:
    """The solution for B faces.

    Attributes:
        state: The unknowns.
        residual: (B,) root mean square distance of the landmarks, in parts of the face's size.
        inliers: (B,) share of the landmarks that kept at least half their weight.
    """

    state: FitState
    residual: Tensor
    inliers: Tensor


class LandmarkSolver:
    """Fits a head to landmarks. Holds the reduced head, so make one and use it for many faces."""

    def __init__(
        self, head: HeadModel, kind: str = "mediapipe478", settings: FitSettings | None = None
    ) -> None:
        """Reduce the head to the landmarks of ``kind`` ("mediapipe478" or "ibug68")."""
        settings = settings or FitSettings()
        self.settings = replace(settings, shapes=min(settings.shapes, head.num_shape))
        self.basis = reduce_head(head, kind, self.settings.shapes)
        self.weights = landmark_weights(kind)
        self.first, self.second, self.pair_weights = landmark_pairs(kind)
        names = head.expression_names or ("",) * head.num_expression
        self.prior = build_prior(names, self.settings.shapes, self.settings.priors, self.basis.template)
        self.bounded = head.speaks_arkit

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
            guess: (B, E) an expression from elsewhere (an encoder, the face stage's scores) ...
            confidence: (B, E) or (E,) ... and its inverse variances; both or neither.
            fixed_shape: (B, S) or (1, S) identity that is known; then only pose and expression are solved.
        """
        problem = _Problem(self, pixels, focal, principal, fixed_shape is not None)
        prior = self.prior
        if guess is not None and confidence is not None:
            prior = add_guess(prior, guess, confidence, self.basis.shapes)
        state = start if start is not None else self._start(pixels, focal, principal, fixed_shape)
        if fixed_shape is not None:
            state = replace(state, shape=fixed_shape.expand(len(pixels), -1)[:, : self.basis.shapes])
        if start is None:
            state = _iterate(problem, prior, state, self.settings.rigid_steps, rigid=True)
        state = _iterate(problem, prior, state, self.settings.steps, rigid=False)
        distance, kept = problem.quality(state)
        return FitResult(state, distance, kept)

    def _start(self, pixels: Tensor, focal: Tensor, principal: Tensor, shape: Tensor | None) -> FitState:
        batch = len(pixels)
        points = self.basis.template
        units = self.basis.count - self.basis.shapes
        zero = pixels.new_zeros(batch, self.basis.shapes)
        if shape is not None:
            zero = shape.expand(batch, -1)[:, : self.basis.shapes]
            points = points + torch.einsum("nks,bs->bnk", self.basis.directions[..., : self.basis.shapes], zero)
        rotation, translation = starting_pose(points, pixels, focal, principal)
        return FitState(rotation, translation, zero, pixels.new_zeros(batch, units))


class _Problem:
    """Residuals and Jacobian of one batch of faces."""

    def __init__(
        self, solver: LandmarkSolver, pixels: Tensor, focal: Tensor, principal: Tensor, fixed_shape: bool
    ) -> None:
        self.solver, self.basis = solver, solver.basis
        self.pixels, self.focal, self.principal = pixels, focal, principal
        self.size = face_size(pixels)
        self.free = slice(self.basis.shapes, None) if fixed_shape else slice(0, None)
        self.bounded = solver.bounded

    def theta(self, state: FitState) -> Tensor:
        """(B, P) identity and expression in one vector."""
        return torch.cat([state.shape, state.expression], dim=-1)

    def camera_points(self, state: FitState) -> tuple[Tensor, Tensor, Tensor]:
        """Turned landmarks (B, N, 3), without and with translation, and the directions used (·, N, 3, P)."""
        theta = self.theta(state)
        template, directions = self.basis.template, self.basis.directions[None]
        if self.basis.lines is not None:
            fixed = self._project(state, _linear(template, self.basis.directions, theta))
            lines = self._project(
                state, _linear(self.basis.lines.template, self.basis.lines.directions, theta)
            )
            template, directions = slide_jaw(self.basis, fixed, lines)
            unposed = template + torch.einsum("bnkp,bp->bnk", directions, theta)
        else:
            unposed = _linear(template, self.basis.directions, theta)
        turned = unposed @ state.rotation.mT
        return turned, turned + state.translation[:, None], directions

    def _project(self, state: FitState, unposed: Tensor) -> Tensor:
        points = unposed @ state.rotation.mT + state.translation[:, None]
        return self.to_pixels(points)

    def to_pixels(self, points: Tensor) -> Tensor:
        """(B, N, 3) m to (B, N, 2) px; points behind the camera are held just in front of it."""
        depth = points[..., 2:].clamp_min(1e-2)
        return points[..., :2] / depth * self.focal[:, None, None] + self.principal[:, None]

    def residuals(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted residuals (B, N + M, 2), in standard deviations, and their robust weights (B, N + M)."""
        unit = self.solver.settings.noise * self.size[:, None, None]
        off = (self.to_pixels(points) - self.pixels) / unit
        rows = torch.cat([off, off[:, self.solver.first] - off[:, self.solver.second]], dim=1)
        limit = self.solver.settings.outlier**2
        base = torch.cat([self.solver.weights, self.solver.pair_weights])
        return rows, base * (limit / (limit + rows.square().sum(-1))) ** 2

    def cost(self, state: FitState, prior: QuadraticPrior) -> Tensor:
        """(B,) what is minimised."""
        rows, _ = self.residuals(self.camera_points(state)[1])
        squared = rows.square().sum(-1)
        limit = self.solver.settings.outlier**2
        base = torch.cat([self.solver.weights, self.solver.pair_weights])
        data = 0.5 * (base * limit * squared / (limit + squared)).sum(-1)
        return data + prior.cost(self.theta(state))

    def normal_equations(self, state: FitState, rigid: bool) -> tuple[Tensor, Tensor]:
        """Gauss-Newton's matrix (B, Q, Q) and gradient (B, Q) of the landmarks; 6 pose columns come first."""
        turned, points, directions = self.camera_points(state)
        rows, weights = self.residuals(points)
        unit = self.solver.settings.noise * self.size
        projection = self._projection_jacobian(points) / unit[:, None, None, None]  # (B, N, 2, 3)
        x, y, z = turned.unbind(-1)
        zero = torch.zeros_like(x)
        spin = torch.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).unflatten(-1, (3, 3))
        columns = [projection @ spin, projection]
        if not rigid:
            head_space = projection @ state.rotation[:, None]  # (B, N, 2, 3)
            columns.append(head_space @ directions[..., self.free])
        jacobian = torch.cat(columns, dim=-1)
        pairs = jacobian[:, self.solver.first] - jacobian[:, self.solver.second]
        root = weights.sqrt()[..., None]
        weighted = (torch.cat([jacobian, pairs], dim=1) * root[..., None]).flatten(1, 2)
        right = (rows * root).flatten(1)
        return weighted.mT @ weighted, (weighted.mT @ right[..., None]).squeeze(-1)

    def _projection_jacobian(self, points: Tensor) -> Tensor:
        """(B, N, 2, 3) px per metre."""
        depth = points[..., 2].clamp_min(1e-2)
        scale = self.focal[:, None] / depth
        zero = torch.zeros_like(scale)
        u, v = points[..., 0] / depth, points[..., 1] / depth
        rows = torch.stack([scale, zero, -scale * u, zero, scale, -scale * v], dim=-1)
        return rows.unflatten(-1, (2, 3))

    def quality(self, state: FitState) -> tuple[Tensor, Tensor]:
        """Root mean square distance (B,) in face sizes, and the share (B,) of landmarks that fit."""
        rows, _ = self.residuals(self.camera_points(state)[1])
        squared = rows[:, : self.pixels.shape[1]].square().sum(-1)
        limit = self.solver.settings.outlier**2
        fits = (limit / (limit + squared)) ** 2 >= 0.5
        return squared.mean(-1).sqrt() * self.solver.settings.noise, fits.to(squared.dtype).mean(-1)


def face_size(pixels: Tensor) -> Tensor:
    """Size of a face, px: half the diagonal of its landmarks' box. (B, N, 2) to (B,)."""
    extent = pixels.amax(1) - pixels.amin(1)
    return 0.5 * extent.norm(dim=-1).clamp_min(1.0)


def _linear(template: Tensor, directions: Tensor, theta: Tensor) -> Tensor:
    count = directions.shape[-1]
    return template + (theta @ directions.reshape(-1, count).T).view(len(theta), -1, 3)


def _iterate(problem: _Problem, prior: QuadraticPrior, state: FitState, steps: int, *, rigid: bool) -> FitState:
    """Take ``steps`` damped steps; a face whose step does not help keeps its state and is damped more."""
    damping = torch.full((len(problem.pixels),), 1e-3)
    cost = problem.cost(state, prior)
    for _ in range(steps):
        matrix, gradient = problem.normal_equations(state, rigid)
        if not rigid:
            matrix, gradient = _with_prior(matrix, gradient, problem, prior, state)
        step = _bounded_step(problem, matrix, gradient, state, damping, rigid)
        candidate = _move(problem, state, step, rigid)
        new_cost = problem.cost(candidate, prior)
        better = new_cost <= cost
        state = _choose(better, candidate, state)
        cost = torch.where(better, new_cost, cost)
        damping = torch.where(better, damping * 0.2, damping * 10).clamp(1e-6, 1e6)
    return state


def _with_prior(
    matrix: Tensor, gradient: Tensor, problem: _Problem, prior: QuadraticPrior, state: FitState
) -> tuple[Tensor, Tensor]:
    theta = problem.theta(state)
    bent = torch.einsum("bij,bj->bi", prior.hessian.expand(len(theta), -1, -1), theta) + prior.gradient
    matrix[:, 6:, 6:] += prior.hessian[:, problem.free, problem.free]
    gradient[:, 6:] += bent[:, problem.free]
    return matrix, gradient


def _bounded_step(
    problem: _Problem, matrix: Tensor, gradient: Tensor, state: FitState, damping: Tensor, rigid: bool
) -> Tensor:
    """Solve for the step; units that would leave [0, 1] stop at the bound and the rest is solved again."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += damping[:, None] * diagonal + 1e-6
    if rigid or not problem.bounded:
        return _solve(matrix, -gradient)
    units = state.expression.shape[1]
    held = torch.zeros_like(gradient)
    stopped = torch.zeros_like(gradient, dtype=torch.bool)
    for _ in range(3):
        step = _solve_with_held(matrix, gradient, held, stopped)
        target = state.expression + step[:, -units:]
        inside = target.clamp(0, 1)
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
    reduced = matrix * free[:, :, None] * free[:, None, :]
    reduced.diagonal(dim1=1, dim2=2).add_(1 - free)
    return torch.where(stopped, held, _solve(reduced, right * free))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):  # an indefinite prior term outweighed the data: add to the diagonal what it lacks
        lift = matrix.diagonal(dim1=1, dim2=2).mean(-1) * (failed > 0)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
        factor, _ = torch.linalg.cholesky_ex(matrix + lift[:, None, None] * eye)
    return torch.cholesky_solve(right[..., None], factor).squeeze(-1)


def _move(problem: _Problem, state: FitState, step: Tensor, rigid: bool) -> FitState:
    rotation = axis_angle_to_matrix(step[:, :3]) @ state.rotation
    # The translation's step was taken in camera axes, after the turn about the head's origin.
    translation = state.translation + step[:, 3:6]
    if rigid:
        return replace(state, rotation=rotation, translation=translation)
    units = state.expression.shape[1]
    expression = state.expression + step[:, -units:]
    if problem.bounded:
        expression = expression.clamp(0, 1)
    shape = state.shape
    if problem.free.start == 0:
        shape = shape + step[:, 6 : 6 + problem.basis.shapes]
    return FitState(rotation, translation, shape, expression)


def _choose(mask: Tensor, new: FitState, old: FitState) -> FitState:
    return FitState(
        torch.where(mask[:, None, None], new.rotation, old.rotation),
        torch.where(mask[:, None], new.translation, old.translation),
        torch.where(mask[:, None], new.shape, old.shape),
        torch.where(mask[:, None], new.expression, old.expression),
    )
