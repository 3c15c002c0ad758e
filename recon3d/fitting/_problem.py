"""Residuals of a batch of faces and their normal equations.

The exact Gauss-Newton matrix costs one product of a 1,000 × 180 Jacobian with itself a face and step, which
is most of the time. Instead the landmarks are put into a few groups, and within a group the 3 × 3 matrix that
carries projection and robust weight is replaced by its mean. Then the matrix of identity and expression is a
sum of a few matrices computed once for the head. The gradient stays exact, so the solution is the same; only
the path to it differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.fitting._basis import LandmarkBasis, slide_jaw
from recon3d.fitting._state import FitState
from recon3d.fitting._terms import landmark_pairs, landmark_weights

#: Groups of single landmarks; pairs of landmarks form one more group of each kind.
_GROUPS = 8
#: Entries of a symmetric 3 × 3 matrix.
_UPPER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
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
        rows: (L, 3, P) directions of the landmarks, and differences of directions for the pairs.
        products: (G · 6, P · P): for each group and entry of a symmetric 3 × 3 matrix the weighted sum
            of outer products of ``rows``.
    """

    basis: LandmarkBasis
    first: Tensor
    second: Tensor
    weights: Tensor
    group: Tensor
    rows: Tensor
    products: Tensor

    @staticmethod
    def of(basis: LandmarkBasis, kind: str) -> Structure:
        """Group the landmarks of ``kind`` and precompute their products."""
        first, second, pair_weights = landmark_pairs(kind)
        weights = torch.cat([landmark_weights(kind), pair_weights])
        rows = torch.cat([basis.directions, basis.directions[first] - basis.directions[second]])
        middles = (basis.template[first] + basis.template[second]) / 2
        group = torch.cat([_cluster(basis.template, _GROUPS), _GROUPS + _cluster(middles, 3)])
        count = int(group.max()) + 1
        products = []
        for g in range(count):
            part = rows[group == g] * weights[group == g].sqrt()[:, None, None]
            for i, j in _UPPER:
                product = part[:, i].mT @ part[:, j]
                products.append(product if i == j else product + product.mT)
        return Structure(basis, first, second, weights, group, rows, torch.stack(products).flatten(1))


@dataclass(frozen=True)
class Evaluation:
    """Everything about one state that steps and decisions need.

    Attributes:
        turned: (B, N, 3) landmarks after the rotation, m.
        points: (B, N, 3) in camera space, m.
        residuals: (B, L, 2) standard deviations.
        weights: (B, L) robust weight times the residual's own.
        directions: (1 or B, N, 3, P) as used for this view.
        cost: (B,).
    """

    turned: Tensor
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
        bounded: bool,
    ) -> None:
        """Args as in :meth:`LandmarkSolver.fit` and :class:`FitSettings`."""
        self.structure, self.basis = structure, structure.basis
        self.pixels, self.focal, self.principal = pixels, focal, principal
        self.unit = noise * face_size(pixels)  # (B,) px: one standard deviation
        self.noise, self.limit = noise, outlier**2
        self.bounded = bounded
        self.fixed_shape = fixed_shape
        self.free = slice(self.basis.shapes if fixed_shape else 0, None)
        size = self.basis.count
        chosen = structure.products.view(-1, size, size)[:, self.free, self.free]
        self._free_products = chosen.reshape(len(chosen), -1)
        self._free_rows = structure.rows[..., self.free].reshape(-1, size - self.free.start)

    def evaluate(self, state: FitState) -> Evaluation:
        """Project the head of ``state`` and compare it with the landmarks."""
        theta = torch.cat([state.shape, state.expression], dim=-1)
        unposed, directions = self._unposed(state, theta)
        turned = unposed @ state.rotation.mT
        points = turned + state.translation[:, None]
        off = (self._to_pixels(points) - self.pixels) / self.unit[:, None, None]
        pairs = off[:, self.structure.first] - off[:, self.structure.second]
        residuals = torch.cat([off, pairs], dim=1)
        squared = residuals.square().sum(-1)
        robust = self.limit / (self.limit + squared)  # Geman and McClure, 1987
        cost = 0.5 * ((robust * squared) @ self.structure.weights)
        return Evaluation(turned, points, residuals, self.structure.weights * robust**2, directions, cost)

    def _unposed(self, state: FitState, theta: Tensor) -> tuple[Tensor, Tensor]:
        basis = self.basis
        unposed = _linear(basis, theta)
        if basis.lines is None:
            return unposed, basis.directions[None]
        fixed = self._to_pixels(unposed @ state.rotation.mT + state.translation[:, None])
        lines = _linear(basis.lines, theta) @ state.rotation.mT + state.translation[:, None]
        template, directions = slide_jaw(basis, fixed, self._to_pixels(lines))
        return template + torch.einsum("bnkp,bp->bnk", directions, theta), directions

    def _to_pixels(self, points: Tensor) -> Tensor:
        depth = points[..., 2:].clamp_min(_NEAR)
        return points[..., :2] / depth * self.focal[:, None, None] + self.principal[:, None]

    def _projection(self, points: Tensor) -> Tensor:
        """Derivative of the residuals to the camera-space points: (B, n, 2, 3) per metre."""
        depth = points[..., 2].clamp_min(_NEAR)
        scale = (self.focal / self.unit)[:, None] / depth
        zero = torch.zeros_like(scale)
        u, v = points[..., 0] / depth, points[..., 1] / depth
        rows = torch.stack([scale, zero, -scale * u, zero, scale, -scale * v], dim=-1)
        return rows.unflatten(-1, (2, 3))

    def gradient(self, state: FitState, seen: Evaluation, rigid: bool) -> Tensor:
        """Exact gradient of the landmarks' cost: (B, 6) or (B, 6 + Q), rotation and translation first."""
        count = seen.points.shape[1]
        pull = seen.residuals * seen.weights[..., None]  # (B, L, 2)
        on_points = pull[:, :count].clone()
        on_points.index_add_(1, self.structure.first, pull[:, count:])
        on_points.index_add_(1, self.structure.second, -pull[:, count:])
        force = (self._projection(seen.points).mT @ on_points[..., None]).squeeze(-1)  # (B, N, 3)
        torque = torch.linalg.cross(seen.turned, force).sum(1)
        parts = [torque, force.sum(1)]
        if not rigid:
            in_head = force @ state.rotation
            directions = seen.directions[..., self.free]
            if len(directions) == 1:
                parts.append(in_head.flatten(1) @ directions[0].flatten(0, 1))
            else:
                parts.append(torch.einsum("bnk,bnkp->bp", in_head, directions))
        return torch.cat(parts, dim=-1)

    def matrix(self, state: FitState, seen: Evaluation, rigid: bool) -> Tensor:
        """Group-averaged Gauss-Newton matrix (B, 6, 6) or (B, 6 + Q, 6 + Q); positive semi-definite."""
        s = self.structure
        middles = (seen.points[:, s.first] + seen.points[:, s.second]) / 2
        projection = self._projection(torch.cat([seen.points, middles], dim=1))  # (B, L, 2, 3)
        single = (projection.mT @ projection) * seen.weights[..., None, None]
        groups = int(s.group[-1]) + 1 if len(s.first) else _GROUPS
        total = single.new_zeros(len(single), groups, 3, 3).index_add_(1, s.group, single)
        mass = s.weights.new_zeros(groups).index_add_(0, s.group, s.weights)
        mean = total / mass[:, None, None]  # (B, G, 3, 3), camera space
        spin = _spin(torch.cat([seen.turned, seen.turned[:, s.first] - seen.turned[:, s.second]], dim=1))
        shift = torch.eye(3).expand_as(spin) * (torch.arange(spin.shape[1]) < seen.points.shape[1])[:, None, None]
        rigid_rows = torch.cat([spin, shift], dim=-1)  # (B, L, 3, 6)
        carried = (mean[:, s.group] * s.weights[:, None, None]) @ rigid_rows  # (B, L, 3, 6)
        pose = torch.einsum("blki,blkj->bij", rigid_rows, carried)
        if rigid:
            return pose
        in_head = (state.rotation.mT[:, None] @ carried).permute(0, 3, 1, 2).flatten(2)  # (B, 6, L · 3)
        coupling = in_head @ self._free_rows  # (B, 6, Q)
        turned_mean = state.rotation.mT[:, None] @ mean @ state.rotation[:, None]
        entries = torch.stack([turned_mean[..., i, j] for i, j in _UPPER], dim=-1).flatten(1)
        size = self._free_rows.shape[1]
        linear = (entries @ self._free_products).view(-1, size, size)
        top = torch.cat([pose, coupling], dim=2)
        return torch.cat([top, torch.cat([coupling.mT, linear], dim=2)], dim=1)

    def quality(self, seen: Evaluation) -> tuple[Tensor, Tensor]:
        """Root mean square distance (B,) in face sizes, and the share (B,) of landmarks that fit."""
        squared = seen.residuals[:, : self.pixels.shape[1]].square().sum(-1)
        fits = (self.limit / (self.limit + squared)) ** 2 >= 0.5
        return squared.mean(-1).sqrt() * self.noise, fits.to(squared.dtype).mean(-1)


def face_size(pixels: Tensor) -> Tensor:
    """Size of a face, px: half the diagonal of its landmarks' box. (B, N, 2) to (B,)."""
    extent = pixels.amax(1) - pixels.amin(1)
    return 0.5 * extent.norm(dim=-1).clamp_min(1.0)


def _linear(basis: LandmarkBasis, theta: Tensor) -> Tensor:
    """(B, P) coefficients to (B, N, 3) unposed landmarks."""
    offsets = theta @ basis.directions.flatten(0, 1).T
    return basis.template + offsets.view(len(theta), -1, 3)


def _spin(points: Tensor) -> Tensor:
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
