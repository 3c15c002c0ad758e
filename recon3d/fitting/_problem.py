"""Residuals of a batch of faces and their normal equations.

The exact Gauss-Newton matrix costs one product of a 1,000 × 140 Jacobian with itself a face and step,
which would be nearly all of the time. Instead the landmarks are put into groups, and within a group the
3 × 3 matrix that carries projection and robust weight is replaced by its mean. Then every entry of the matrix
is a fixed linear function of those few 3 × 3 matrices, so that the matrices of a whole batch are one product
with a table computed once for the head. The table's pose columns are those of the mean head. The gradient
stays exact, so the solution is the same; only the path to it is a little longer.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recon3d.fitting._basis import LandmarkBasis, chosen_points, slide_jaw
from recon3d.fitting._state import FitState
from recon3d.fitting._terms import landmark_pairs, landmark_weights
from recon3d.fitting.controls import Controls
from recon3d.head.contour import JAW_POINTS

#: Groups of single landmarks, and of pairs.
_GROUPS, _PAIR_GROUPS = 24, 6
#: Entries of a symmetric 3 × 3 matrix.
_UPPER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
#: Where the nine entries of the full matrix stand among them.
_FULL = [0, 3, 4, 3, 1, 5, 4, 5, 2]
#: Points nearer to the camera than this (m) are held there while they are projected.
_NEAR = 1e-2


@dataclass(frozen=True)
class Structure:
    """What all problems on one head share. L = N landmarks + M pairs.

    Attributes:
        basis: The reduced head.
        first: (M,) landmarks of the pairs ...
        second: (M,) ... and their partners.
        weights: (L,) weight of each residual.
        group: (L,) group of each residual.
        mass: (G,) sum of the weights of each group.
        table: (6 G, (6 + P)²) for each group, and entry of a symmetric 3 × 3 matrix, what that entry adds
            to the matrix of the normal equations (rotation and translation in head axes first).
    """

    basis: LandmarkBasis
    first: Tensor
    second: Tensor
    weights: Tensor
    group: Tensor
    mass: Tensor
    table: Tensor
    _columns: dict[tuple[bool, bool], Tensor] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(basis: LandmarkBasis, kind: str) -> Structure:
        """Group the landmarks of ``kind`` and compute the table."""
        first, second, pair_weights = landmark_pairs(kind)
        weights = torch.cat([landmark_weights(kind), pair_weights])
        shift = torch.eye(3).expand(len(basis.template), 3, 3)
        single = torch.cat([spin(basis.template), shift, basis.directions], dim=-1)
        rows = torch.cat([single, single[first] - single[second]])  # (L, 3, 6 + P)
        middles = (basis.template[first] + basis.template[second]) / 2
        group = torch.cat([_cluster(basis.template, _GROUPS), _GROUPS + _cluster(middles, _PAIR_GROUPS)])
        table = []
        for g in range(_GROUPS + _PAIR_GROUPS):
            part = rows[group == g] * weights[group == g].sqrt()[:, None, None]
            for i, j in _UPPER:
                product = part[:, i].mT @ part[:, j]
                table.append(product if i == j else product + product.mT)
        mass = torch.zeros(_GROUPS + _PAIR_GROUPS).index_add_(0, group, weights)
        return Structure(basis, first, second, weights, group, mass, torch.stack(table).flatten(1))

    def columns(self, rigid: bool, fixed_shape: bool) -> Tensor:
        """The columns of the table that belong to the unknowns which are solved for; kept once made."""
        kind = rigid, fixed_shape
        if kind not in self._columns:
            size = 6 + self.basis.count
            free = torch.arange(6 + self.basis.shapes if fixed_shape else 6, size)
            wanted = torch.arange(6) if rigid else torch.cat([torch.arange(6), free])
            table = self.table.view(-1, size, size)
            self._columns[kind] = table[:, wanted][:, :, wanted].flatten(1)
        return self._columns[kind]


@dataclass(frozen=True)
class Evaluation:
    """Everything about one state that steps and decisions need.

    Attributes:
        unposed: (B, N, 3) landmarks in head space, m.
        points: (B, N, 3) in camera space, m.
        residuals: (B, L, 2) standard deviations.
        weights: (B, L) robust weight times the residual's own.
        directions: (1 or B, N, 3, P) as used for this view.
        cost: (B,).
    """

    unposed: Tensor
    points: Tensor
    residuals: Tensor
    weights: Tensor
    directions: Tensor
    cost: Tensor


class Problem:
    """One batch of faces to be fitted."""

    def __init__(
        self,
        structure: Structure,
        pixels: Tensor,
        focal: Tensor,
        principal: Tensor,
        *,
        noise: float,
        outlier: float,
        fixed_shape: bool,
        controls: Controls,
    ) -> None:
        """Args as in :meth:`LandmarkSolver.fit` and :class:`FitSettings`."""
        self.structure, self.basis = structure, structure.basis
        self.pixels, self.focal, self.principal = pixels, focal, principal
        self.unit = noise * face_size(pixels)  # (B,) px: one standard deviation
        self.noise, self.limit = noise, outlier**2
        self.controls = controls
        self.fixed_shape = fixed_shape
        self.free = slice(self.basis.shapes if fixed_shape else 0, None)
        self._tables = {rigid: structure.columns(rigid, fixed_shape) for rigid in (True, False)}

    def subset(self, index: Tensor) -> Problem:
        """The same problem for the faces of ``index`` (n,) alone."""
        part = copy.copy(self)
        part.pixels, part.unit = self.pixels[index], self.unit[index]
        part.focal, part.principal = self.focal[index], self.principal[index]
        return part

    def evaluate(self, state: FitState) -> Evaluation:
        """Project the head of ``state`` and compare it with the landmarks."""
        theta = torch.cat([state.shape, state.expression], dim=-1)
        unposed, directions = self._unposed(state, theta)
        points = unposed @ state.rotation.mT + state.translation[:, None]
        off = (self._to_pixels(points) - self.pixels) / self.unit[:, None, None]
        pairs = off[:, self.structure.first] - off[:, self.structure.second]
        residuals = torch.cat([off, pairs], dim=1)
        squared = residuals.square().sum(-1)
        robust = self.limit / (self.limit + squared)  # Geman and McClure, 1987
        cost = 0.5 * ((robust * squared) @ self.structure.weights)
        return Evaluation(unposed, points, residuals, self.structure.weights * robust**2, directions, cost)

    def _unposed(self, state: FitState, theta: Tensor) -> tuple[Tensor, Tensor]:
        basis = self.basis
        if basis.turning is not None:
            return self._turned(state, theta), basis.directions[None]
        unposed = basis.place(theta)
        if basis.lines is None:
            return unposed, basis.directions[None]
        lines = self._seen(state, basis.lines.place(theta))
        template, directions = slide_jaw(basis, self._seen(state, unposed), lines)
        return template + torch.einsum("bnkp,bp->bnk", directions, theta), directions

    def _turned(self, state: FitState, theta: Tensor) -> Tensor:
        """Landmarks (B, N, 3) of a head with turning joints. Differentiable to ``theta``."""
        unposed = self.basis.place(theta)
        if self.basis.lines is None:
            return unposed
        lines = self.basis.lines.place(theta)
        chosen = chosen_points(self._seen(state, unposed.detach()), self._seen(state, lines.detach()))
        jaw = lines.gather(1, chosen[..., None].expand(-1, -1, 3))
        return torch.cat([jaw, unposed[:, JAW_POINTS:]], dim=1)

    def _seen(self, state: FitState, points: Tensor) -> Tensor:
        """Project points (B, N, 3) of head space."""
        return self._to_pixels(points @ state.rotation.mT + state.translation[:, None])

    def _to_pixels(self, points: Tensor) -> Tensor:
        depth = points[..., 2:].clamp_min(_NEAR)
        return points[..., :2] / depth * self.focal[:, None, None] + self.principal[:, None]

    def gradient(self, state: FitState, seen: Evaluation, rigid: bool) -> Tensor:
        """Exact gradient of the landmarks' cost: (B, 6) or (B, 6 + Q).

        Rotation and translation come first, both as small motions in head axes.
        """
        count = seen.points.shape[1]
        pull = seen.residuals * seen.weights[..., None]  # (B, L, 2)
        on_points = pull[:, :count].clone()
        on_points.index_add_(1, self.structure.first, pull[:, count:])
        on_points.index_add_(1, self.structure.second, -pull[:, count:])
        scale, u, v = self._rays(seen.points)
        along = on_points * scale[..., None]
        depth = -(along[..., 0] * u + along[..., 1] * v)
        force = torch.cat([along, depth[..., None]], dim=-1) @ state.rotation  # (B, N, 3), head axes
        parts = [torch.linalg.cross(seen.unposed, force).sum(1), force.sum(1)]
        if not rigid and self.basis.turning is not None:
            parts.append(self._pulled(state, force)[:, self.free])
        elif not rigid:
            directions = seen.directions[..., self.free]
            if len(directions) == 1:
                parts.append(force.flatten(1) @ directions[0].flatten(0, 1))
            else:
                parts.append(torch.einsum("bnk,bnkp->bp", force, directions))
        return torch.cat(parts, dim=-1)

    @torch.enable_grad()
    def _pulled(self, state: FitState, force: Tensor) -> Tensor:
        """Pull forces (B, N, 3) on the landmarks back to coefficients (B, P); for heads whose joints turn."""
        leaf = torch.cat([state.shape, state.expression], dim=-1).detach().requires_grad_()
        return torch.autograd.grad(self._turned(state, leaf), leaf, force)[0]

    def matrix(self, state: FitState, seen: Evaluation, rigid: bool) -> Tensor:
        """Group-averaged Gauss-Newton matrix (B, 6, 6) or (B, 6 + Q, 6 + Q); positive semi-definite."""
        s = self.structure
        middles = (seen.points[:, s.first] + seen.points[:, s.second]) / 2
        scale, u, v = self._rays(torch.cat([seen.points, middles], dim=1))
        # Aᵀ A of the projection A = scale · [[1, 0, -u], [0, 1, -v]], entry by entry, weighted
        w = seen.weights * scale * scale
        entries = torch.stack([w, w, w * (u * u + v * v), torch.zeros_like(w), -w * u, -w * v], dim=-1)
        total = entries.new_zeros(len(w), len(s.mass), 6).index_add_(1, s.group, entries)
        camera = (total / s.mass[:, None])[..., _FULL].unflatten(-1, (3, 3))
        turned = state.rotation.mT[:, None] @ camera @ state.rotation[:, None]  # (B, G, 3, 3), head axes
        upper = torch.stack([turned[..., i, j] for i, j in _UPPER], dim=-1).flatten(1)
        table = self._tables[rigid]
        size = math.isqrt(table.shape[1])
        return (upper @ table).view(-1, size, size)

    def _rays(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals per metre across the view (B, n), and slopes u, v of the rays to camera-space points."""
        depth = points[..., 2].clamp_min(_NEAR)
        return (self.focal / self.unit)[:, None] / depth, points[..., 0] / depth, points[..., 1] / depth

    def quality(self, seen: Evaluation) -> tuple[Tensor, Tensor]:
        """Root mean square distance (B,) in face sizes, and the share (B,) of landmarks that fit."""
        squared = seen.residuals[:, : self.pixels.shape[1]].square().sum(-1)
        fits = (self.limit / (self.limit + squared)) ** 2 >= 0.5
        return squared.mean(-1).sqrt() * self.noise, fits.to(squared.dtype).mean(-1)


def face_size(pixels: Tensor) -> Tensor:
    """Size of a face, px: half the diagonal of its landmarks' box. (B, N, 2) to (B,)."""
    extent = pixels.amax(1) - pixels.amin(1)
    return 0.5 * extent.norm(dim=-1).clamp_min(1.0)


def spin(points: Tensor) -> Tensor:
    """Derivative of turned points to a small further rotation δ: δ × X, as (..., 3, 3) matrices in δ."""
    x, y, z = points.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, z, -y, -z, zero, x, y, -x, zero], -1).unflatten(-1, (3, 3))


def _cluster(points: Tensor, count: int, steps: int = 10) -> Tensor:
    """k-means groups (N,) of points (N, 3), from the farthest-first start: the same on every run."""
    centres = points[:1]
    while len(centres) < min(count, len(points)):
        farthest = torch.cdist(points, centres).amin(1).argmax()
        centres = torch.cat([centres, points[farthest][None]])
    for _ in range(steps):
        group = torch.cdist(points, centres).argmin(1)
        centres = torch.stack([points[group == g].mean(0) for g in range(len(centres))])
    return torch.cdist(points, centres).argmin(1)
