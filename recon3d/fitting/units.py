"""ARKit units said in a head's own terms, and read off them: by what both do to the face.

A head that shows expressions by a PCA and turning joints (FLAME's) also has the 52 units, carried over from
the open head as displacements. The numbers that come nearest to them are least squares over points of the
face; the way back is least squares with bounds. Both take whole clips at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recon3d.fitting._basis import LandmarkBasis, embedded_basis
from recon3d.fitting._priors import natural_precision
from recon3d.fitting._problem import spin
from recon3d.fitting.controls import Controls
from recon3d.head.model import HeadModel, LandmarkEmbedding
from recon3d.head.rotation import axis_angle_to_matrix

#: Points of the face, and of each eyeball, at which displacements are compared.
_FACE_POINTS, _EYE_POINTS = 700, 40
#: How near they are to come, m; the priors stand against that. Of as many points as ``_INDEPENDENT`` each by
#: itself: neighbours tell the same.
_CLOSE, _INDEPENDENT = 0.0005, 60.0
#: Cost of a unit, that what no face needs stays at zero, and how much faces as they are recorded count.
_SPARSE, _NATURAL = 0.5, 0.05
_STEPS, _SWEEPS = 12, 60
#: A step that lowers the cost by less than this share is the last.
_SETTLED = 1e-3
#: So many frames are held at once, that memory does not grow with a clip.
_FRAMES = 256
#: Trust in a guess while units are read off a head, an inverse variance.
_GUESSED = 50.0
#: What a guess in units cannot tell of the controls, in parts of their usual size.
_UNTOLD = 0.4


@dataclass(frozen=True)
class UnitMap:
    """Translates for one head. T frames, C controls, N points of the face.

    Attributes:
        controls: Of the head.
        basis: N points of the face, no identity.
        units: (N, 3, 52) m, what the units do to them.
        weight: Of each squared distance.
    """

    controls: Controls
    basis: LandmarkBasis
    units: Tensor
    weight: float

    @staticmethod
    def of(head: HeadModel) -> UnitMap:
        """Choose points of a head that knows the units."""
        embedding = face_points(head)
        basis = embedded_basis(head, embedding, 0)
        corners = head.faces[embedding.triangle]
        units = (head.arkitdirs[corners] * embedding.barycentric[..., None, None]).sum(1)
        return UnitMap(Controls.of(head), basis, units, _INDEPENDENT / len(units) / _CLOSE**2)

    @torch.no_grad()
    def controls_of(self, units: Tensor) -> Tensor:
        """Return the controls (T, C) that do what units (T, 52) do, within their limits.

        Levenberg-Marquardt, each frame with a damping of its own, from what the units are as they begin.
        """
        return torch.cat([self._nearest(some) for some in units.split(_FRAMES)])

    def _nearest(self, units: Tensor) -> Tensor:
        """Do ``controls_of`` for a few frames."""
        values = self.controls.inside(units @ self._begun().T)
        going, damping = torch.arange(len(units)), torch.full((len(units),), 1e-3)
        for _ in range(_STEPS):
            if not len(going):
                break
            wanted = self.basis.template + torch.einsum("nku,tu->tnk", self.units, units[going])
            before = values[going]
            cost, gradient = self._cost(before, wanted)
            matrix = self._matrix(before)
            matrix.diagonal(dim1=1, dim2=2).mul_(1 + damping[going, None])
            moved = self.controls.inside(before - torch.linalg.solve(matrix, gradient))
            lower = self._cost(moved, wanted, gradient=False)[0]
            better = lower < cost
            values[going] = torch.where(better[:, None], moved, before)
            damping[going] *= torch.where(better, 0.2, 10.0)
            going = going[((cost - lower).abs() > _SETTLED * cost) & (damping[going] < 1e3)]
        return values

    @torch.no_grad()
    def guess_of(self, units: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a guess of units into one of the controls.

        Args:
            units: (T, 52).
            confidence: (T, 52) or (52,) inverse variances.

        Returns:
            Controls (T, C), and inverse covariances (T, C, C).
        """
        variance = 1 / confidence.expand_as(units).clamp_min(1e-3)
        begun = self._begun()
        own = (_UNTOLD * self.controls.deviation).square().clamp_min(1e-6)
        covariance = torch.einsum("cu,tu,du->tcd", begun, variance, begun) + torch.diag(own)
        return self.controls_of(units), torch.linalg.inv(covariance)

    @torch.no_grad()
    def units_of(self, values: Tensor, guess: Tensor | None = None) -> Tensor:
        """Read the units (T, 52) in [0, 1] off controls (T, C).

        Args:
            values: (T, C).
            guess: (T, 52) what others say of them: the head does not show all units equally well.
        """
        flat = self.units.flatten(0, 1)
        matrix = self.weight * flat.T @ flat + _NATURAL * natural_precision(0.1, 0.2)
        moved = [
            (self.basis.place(some) - self.basis.template).flatten(1) @ flat for some in values.split(_FRAMES)
        ]
        right = self.weight * torch.cat(moved) - _SPARSE
        if guess is not None:
            matrix = matrix + _GUESSED * torch.eye(len(matrix))
            right = right + _GUESSED * guess
        return bounded_least_squares(matrix, right)

    def _cost(self, values: Tensor, wanted: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
        """What is minimised (T,), and its exact gradient (T, C) if that is asked for, else nothing."""
        with torch.set_grad_enabled(gradient):
            leaf = values.detach().requires_grad_(gradient)
            apart = (self.basis.place(leaf) - wanted).square().sum((1, 2))
            cost = 0.5 * (self.weight * apart + (leaf / self.controls.deviation).square().sum(1))
            slope = torch.autograd.grad(cost.sum(), leaf)[0] if gradient else torch.empty(0)
        return cost.detach(), slope

    def _matrix(self, values: Tensor) -> Tensor:
        """(T, C, C) nearly the Gauss-Newton matrix: without correctives, and of turns from where they are.

        The coefficients' part is a fixed linear function of the turns, so no Jacobian is formed.
        """
        turning, count = self.basis.turning, self.controls.coefficients
        prior = torch.diag(self.controls.deviation**-2)
        if turning is None:
            return (self._products[0] * self.weight + prior).expand(len(values), -1, -1).clone()
        straight, mixed, carried = self._products
        turns = axis_angle_to_matrix(values[:, count:].unflatten(1, (-1, 3)))
        extra = turns - torch.eye(3)
        first = torch.einsum("jabpq,tjab->tpq", mixed, extra)
        second = torch.einsum("jbcpq,tjbc->tpq", carried, extra.mT @ extra)
        block = straight + first + first.mT + second
        columns = self._turning_columns(values, turns)  # (T, 3, N · 3 J)
        cross = _products_of(self.basis.directions[..., :count], columns)
        for j in range(turning.joints):
            if bool(turning.lever_directions[j].any()):  # eyeballs do not change as they turn
                cross += _products_of(turning.lever_directions[j], extra[:, j].mT @ columns)
        flat = columns.view(len(values), 3 * len(self.basis.template), -1)
        own = flat.mT @ flat
        upper, lower = torch.cat([block, cross], dim=2), torch.cat([cross.mT, own], dim=2)
        return torch.cat([upper, lower], dim=1) * self.weight + prior

    def _turning_columns(self, values: Tensor, turns: Tensor) -> Tensor:
        """What small turns of the joints do to the points: (T, 3, N · 3 J) m."""
        turning = self.basis.turning
        assert turning is not None
        straight = values[:, : self.controls.coefficients]
        added = straight @ turning.lever_directions.flatten(0, 2).T
        lever = turning.lever + added.view(-1, *turning.lever.shape)
        spun = spin(lever @ turns.mT)  # (T, J, N, 3, 3), the last is the axis
        return spun.permute(0, 3, 2, 1, 4).flatten(2)

    @cached_property
    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over the points of products of directions (E, E), mixed with levers, and of levers alone."""
        turning, count = self.basis.turning, self.controls.coefficients
        straight = self.basis.directions[..., :count]
        flat = straight.flatten(0, 1)
        if turning is None:
            return flat.T @ flat, flat[:0], flat[:0]
        lever = turning.lever_directions
        mixed = torch.einsum("nap,jnbq->jabpq", straight, lever)
        carried = torch.einsum("jnbp,jncq->jbcpq", lever, lever)
        return flat.T @ flat, mixed, carried

    def _begun(self) -> Tensor:
        """(C, 52): controls of units that have hardly begun."""
        flat = self.basis.directions.flatten(0, 1)
        matrix = self.weight * flat.T @ flat + torch.diag(self.controls.deviation**-2)
        return torch.linalg.solve(matrix, self.weight * flat.T @ self.units.flatten(0, 1))


def _products_of(directions: Tensor, columns: Tensor) -> Tensor:
    """Sum over the points: directions (N, 3, E) and columns (T, 3, N · K) to (T, E, K)."""
    points, _, count = directions.shape
    wide = columns.view(len(columns), 3 * points, -1).permute(1, 0, 2)
    found = directions.permute(2, 1, 0).reshape(count, -1) @ wide.flatten(1)
    return found.view(count, len(columns), -1).transpose(0, 1)


def bounded_least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """Minimise ``½ xᵀ A x − bᵀ x`` for x in [0, 1], many b at a time, by coordinate descent.

    Args:
        matrix: (U, U) A, positive definite.
        right: (T, U) b.

    Returns:
        (T, U).
    """
    diagonal = matrix.diagonal().clamp_min(1e-9)
    values = (right / diagonal).clamp(0, 1)
    gradient = values @ matrix - right
    for _ in range(_SWEEPS):
        largest = 0.0
        for k in range(matrix.shape[0]):
            moved = (values[:, k] - gradient[:, k] / diagonal[k]).clamp(0, 1)
            change = moved - values[:, k]
            gradient += change[:, None] * matrix[k]
            values[:, k] = moved
            largest = max(largest, float(change.abs().max())) if len(change) else 0.0
        if largest < 1e-4:
            break
    return values


def face_points(head: HeadModel) -> LandmarkEmbedding:
    """Choose vertices of the face's skin and of the eyeballs, evenly spread; lids and lips more densely."""
    eyes = [head.within(f"{side}_eyeball") for side in ("left", "right")]
    inner = head.within("eyeballs", "mouth_inside", "eye_sockets", "teeth", "tongue")
    skin = head.within("face") & ~inner
    fine = head.within("lips", "eyelids") & skin
    chosen = [_spread(head, skin & ~fine, _FACE_POINTS * 2 // 3), _spread(head, fine, _FACE_POINTS // 3)]
    chosen += [_spread(head, eye, _EYE_POINTS) for eye in eyes]
    return at_vertices(head, torch.cat(chosen))


def _spread(head: HeadModel, inside: Tensor, count: int) -> Tensor:
    """Choose at most ``count`` vertices of a region that lie far from one another."""
    index = torch.nonzero(inside)[:, 0]
    if len(index) <= count:
        return index
    points = head.v_template[index]
    distance = torch.full((len(index),), torch.inf)
    chosen = [0]
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=1))
        chosen.append(int(distance.argmax()))
    return index[chosen]


def at_vertices(head: HeadModel, index: Tensor) -> LandmarkEmbedding:
    """An embedding whose points are vertices."""
    flat = head.faces.flatten()
    first = torch.full((head.num_vertices,), -1).scatter_(0, flat.flip(0), torch.arange(len(flat)).flip(0))
    place = first[index]
    place = place[place >= 0]
    return LandmarkEmbedding(place // 3, torch.eye(3)[place % 3])
