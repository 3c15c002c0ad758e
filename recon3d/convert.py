"""A capture of one head model, said in the terms of another: FLAME's, an artist's rig's, the open head's.

Both faces are compared point by point: it is known of every vertex of another head where on the open head it
lies (``HeadModel.on_open``). The identity is the one that brings the other head's surface nearest to the
person's, wherever that is; the expression goes by the ARKit units, which both heads know; the head stands
where it stood before the camera.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d._threads import one_thread
from recon3d.capture import Capture
from recon3d.errors import InputError
from recon3d.export._still import check_head
from recon3d.fitting import FitState
from recon3d.fitting._problem import spin
from recon3d.fitting.controls import Controls
from recon3d.fitting.units import UnitMap, at_vertices
from recon3d.head import HeadModel, load_head
from recon3d.head.contour import landmarks68
from recon3d.head.model import LandmarkEmbedding
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera

#: How near two surfaces are to come, m, of as many points as these each by itself: neighbours tell the same.
_CLOSE, _INDEPENDENT = 0.0002, 120.0
#: What counts how much besides the face.
_ELSEWHERE = {"ears": 0.2, "scalp": 0.1, "neck": 0.05}
_ROUNDS = 4
_FRAMES = 256


@dataclass(frozen=True)
class Identity:
    """A person on another head.

    Attributes:
        shape: (1, S) standard deviations.
        rotation: (3, 3) and ...
        shift: (3,) m: ``x = rotation x' + shift`` takes the other head's space to the first one's.
    """

    shape: Tensor
    rotation: Tensor
    shift: Tensor


class Converter:
    """Converts captures of one head model to another. Not thread-safe."""

    def __init__(self, source: HeadModel, target: HeadModel, open_head: HeadModel | None = None) -> None:
        """Prepare.

        Args:
            source: The captures'.
            target: What they are to be said in.
            open_head: What both know their places on; loaded when None.

        Raises:
            InputError: One of the heads does not know the ARKit units, or its place on the open head.
        """
        self.source, self.target = source, target
        self._open = open_head or load_head()
        for head in (source, target):
            if not head.knows_arkit or (head.on_open is None and head.form != self._open.form):
                raise InputError(f"the head model {head.id} does not know the ARKit units, or its own points")

    def convert(self, capture: Capture) -> Capture:
        """Return the capture in the target's terms.

        Raises:
            InputError: It is not the source's.
        """
        check_head(capture, self.source)
        if self.source.id == self.target.id:
            return capture
        with one_thread(), torch.no_grad():
            units = self.units(capture)
            identity = self._identity(torch.from_numpy(capture.shape)[None])
            return self._said(capture, units, identity)

    def units(self, capture: Capture) -> Tensor:
        """Return the ARKit units (T, 52) of a capture of the source."""
        expression = torch.from_numpy(capture.expression)
        if self.source.speaks_arkit:
            return expression.clamp(0, 1)
        values = Controls.of(self.source).joined(expression, torch.from_numpy(capture.pose))
        return UnitMap.of(self.source).units_of(values, torch.from_numpy(capture.arkit))

    def _identity(self, shape: Tensor) -> Identity:
        """Find the person, by way of the open head if neither head is that."""
        if self.source.form != self._open.form and self.target.form != self._open.form:
            first = nearest_identity(self.source, self._open, self._open, shape)
            then = nearest_identity(self._open, self.target, self._open, first.shape)
            shift = first.rotation @ then.shift + first.shift
            return Identity(then.shape, first.rotation @ then.rotation, shift)
        return nearest_identity(self.source, self.target, self._open, shape)

    def _said(self, capture: Capture, units: Tensor, identity: Identity) -> Capture:
        head, controls = self.target, Controls.of(self.target)
        values = units if head.speaks_arkit else UnitMap.of(head).controls_of(units)
        expression, pose = controls.split(values, head.num_joints)
        state = self._placed(capture, values, identity)
        pose[:, 0] = state.posed(head).pose[:, 0]
        joints = min(head.num_joints, capture.pose.shape[1], 2)
        pose[:, 1:joints] = torch.from_numpy(capture.pose[:, 1:joints])
        translation = state.posed(head).translation
        camera = Camera.create(capture.focal, capture.size, tuple(capture.principal.tolist()))

        def points(part: slice) -> Tensor:
            shapes = identity.shape.expand(len(expression[part]), -1)
            vertices = head(shapes, expression[part], pose[part]).vertices + translation[part, None]
            return landmarks68(head, camera.project(vertices)[..., :2])

        parts = [points(slice(k, k + _FRAMES)) for k in range(0, len(units), _FRAMES)]
        return replace(
            capture,
            head=head.id,
            shape=identity.shape[0].numpy(),
            expression=expression.numpy(),
            pose=pose.numpy(),
            translation=translation.numpy(),
            arkit=units.numpy(),
            landmarks68=torch.cat(parts).numpy(),
        )

    def _placed(self, capture: Capture, values: Tensor, identity: Identity) -> FitState:
        """Where the target's head stands in the camera's space, so that the surfaces lie on each other."""
        rotation = axis_angle_to_matrix(torch.from_numpy(capture.pose[:, 0]))
        own = torch.from_numpy(capture.shape).expand(len(rotation), -1)
        root = self.source.rest_joints(own, torch.from_numpy(capture.expression))[:, 0]
        moved = torch.from_numpy(capture.translation) + root - torch.einsum("tij,tj->ti", rotation, root)
        return FitState(
            rotation @ identity.rotation,
            moved + torch.einsum("tij,j->ti", rotation, identity.shift),
            identity.shape.expand(len(values), -1),
            values,
        )


def nearest_identity(source: HeadModel, target: HeadModel, open_head: HeadModel, shape: Tensor) -> Identity:
    """Find the identity of a head whose surface at rest lies nearest to another head's.

    Least squares over corresponding points, with a unit normal prior; the head may move rigidly meanwhile,
    because no two models agree on where a head's origin is.

    Args:
        source: The head that is known, and ...
        target: ... the other; one of them is the open head.
        open_head: The open head.
        shape: (1, S) of the source.
    """
    first, second, weight = _pairs(source, target, open_head)
    still = torch.zeros(1, source.num_expression)
    wanted = _at(source.unposed(shape, still)[0], source, first)
    template, directions = _at(target.v_template, target, second), _at(target.shapedirs, target, second)
    weight = weight * (_INDEPENDENT / weight.sum() / _CLOSE**2)
    shapes = target.num_shape
    prior = torch.cat([torch.ones(shapes), torch.zeros(6)])
    found, (rotation, shift) = torch.zeros(shapes), _rigid(template, wanted, weight)
    for _ in range(_ROUNDS):
        points = template + directions @ found
        # Rows of the Jacobian, in the target's space: identity, small turns, small shifts.
        rows = torch.cat([directions, spin(points), torch.eye(3).expand(len(points), 3, 3)], dim=-1)
        apart = (wanted - shift) @ rotation - points
        scaled = rows * weight[:, None, None]
        matrix = torch.einsum("nkp,nkq->pq", rows, scaled) + torch.diag(prior)
        pull = torch.einsum("nkp,nk->p", scaled, apart) - prior * F.pad(found, (0, 6))
        step = torch.linalg.solve(matrix, pull)
        found = found + step[:shapes]
        turn = axis_angle_to_matrix(step[None, shapes : shapes + 3])[0]
        shift = shift + rotation @ step[shapes + 3 :]
        rotation = rotation @ turn
    return Identity(found[None], rotation, shift)


def _pairs(
    source: HeadModel, target: HeadModel, open_head: HeadModel
) -> tuple[LandmarkEmbedding, LandmarkEmbedding, Tensor]:
    """Return points on the source, the same ones on the target, and what each counts."""
    other = source if target.form == open_head.form else target
    assert other.on_open is not None
    weight = _weights(other)
    index = torch.nonzero(weight)[:, 0]
    own = at_vertices(other, index)
    on_open = LandmarkEmbedding(other.on_open.triangle[index], other.on_open.barycentric[index])
    pair = (own, on_open) if other is source else (on_open, own)
    return *pair, weight[index]


def _weights(head: HeadModel) -> Tensor:
    """(V,) what each vertex counts: by the surface around it, and where it is."""
    hidden = head.within("eyeballs", "mouth_inside", "eye_sockets", "teeth", "tongue")
    share = (head.within("face") & ~hidden).float()
    for region, value in _ELSEWHERE.items():
        share = torch.where(head.within(region) & (share == 0) & ~hidden, value, share)
    corners = head.v_template[head.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    around = torch.zeros(head.num_vertices).index_add_(0, head.faces.flatten(), area.repeat_interleave(3))
    return share * around


def _at(values: Tensor, head: HeadModel, points: LandmarkEmbedding) -> Tensor:
    """Interpolate values (V, ...) at points: (N, ...)."""
    weights = points.barycentric.to(values)
    return torch.einsum("nc,nc...->n...", weights, values[head.faces[points.triangle]])


def _rigid(points: Tensor, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation and shift that take points (N, 3) nearest to others (W. Kabsch, 1976)."""
    share = (weight / weight.sum())[:, None]
    middle, aim = (points * share).sum(0), (wanted * share).sum(0)
    u, _, vt = torch.linalg.svd(((wanted - aim) * share).T @ (points - middle))
    sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ vt).sign())]))
    rotation = u @ sign @ vt
    return rotation, aim - rotation @ middle
