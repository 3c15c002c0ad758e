"""ARKit units said in a head's own terms, and read off them: by what both do to the face.

A head that shows expressions by a PCA and turning joints (FLAME's) also has the 52 units, carried over from
the open head as displacements. The numbers that come nearest to them are least squares over points of the
face; the way back is least squares with bounds. Both take whole clips at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.fitting._basis import LandmarkBasis, embedded_basis
from recon3d.fitting._priors import natural_precision
from recon3d.fitting.controls import Controls
from recon3d.head.model import HeadModel, LandmarkEmbedding

#: Points of the face, and of each eyeball, at which displacements are compared.
_FACE_POINTS, _EYE_POINTS = 700, 40
#: How near they are to come, m; the priors stand against that. Of as many points as ``_INDEPENDENT`` each by
#: itself: neighbours tell the same.
_CLOSE, _INDEPENDENT = 0.0005, 60.0
#: Cost of a unit, that what no face needs stays at zero, and how much faces as they are recorded count.
_SPARSE, _NATURAL = 0.5, 0.05
_STEPS, _SWEEPS = 12, 60
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

        Gauss-Newton with the matrix of the head at rest and exact gradients: joints turn little enough.
        """
        wanted = self.basis.template + torch.einsum("nku,tu->tnk", self.units, units)
        step = torch.linalg.inv(self._matrix())
        values = self.controls.inside(units @ self._begun().T)
        for _ in range(_STEPS):
            moved = self.controls.inside(values - self._gradient(values, wanted) @ step)
            settled = bool((moved - values).abs().max() < 1e-4) if len(units) else True
            values = moved
            if settled:
                break
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
        moved = self.basis.place(values) - self.basis.template
        flat = self.units.flatten(0, 1)
        matrix = self.weight * flat.T @ flat + _NATURAL * natural_precision(0.1, 0.2)
        right = self.weight * moved.flatten(1) @ flat - _SPARSE
        if guess is not None:
            matrix = matrix + _GUESSED * torch.eye(len(matrix))
            right = right + _GUESSED * guess
        return bounded_least_squares(matrix, right)

    def _gradient(self, values: Tensor, wanted: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            apart = (self.basis.place(leaf) - wanted).square().sum()
            (gradient,) = torch.autograd.grad(0.5 * self.weight * apart, leaf)
        return gradient + values / self.controls.deviation.square()

    def _matrix(self) -> Tensor:
        """(C, C) at rest, the prior included."""
        flat = self.basis.directions.flatten(0, 1)
        return self.weight * flat.T @ flat + torch.diag(self.controls.deviation**-2)

    def _begun(self) -> Tensor:
        """(C, 52): controls of units that have hardly begun."""
        flat = self.basis.directions.flatten(0, 1)
        return torch.linalg.solve(self._matrix(), self.weight * flat.T @ self.units.flatten(0, 1))


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
    return _at_vertices(head, torch.cat(chosen))


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


def _at_vertices(head: HeadModel, index: Tensor) -> LandmarkEmbedding:
    """An embedding whose points are vertices."""
    flat = head.faces.flatten()
    first = torch.full((head.num_vertices,), -1).scatter_(0, flat.flip(0), torch.arange(len(flat)).flip(0))
    place = first[index]
    place = place[place >= 0]
    return LandmarkEmbedding(place // 3, torch.eye(3)[place % 3])
