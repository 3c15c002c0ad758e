"""The unknowns of a fit, and their translation into the head model's own terms."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.fitting.controls import Controls
from recon3d.head.model import HeadModel
from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle


class Posed(NamedTuple):
    """A state of B faces in the head model's own terms."""

    shape: Tensor
    """(B, all) standard deviations."""
    expression: Tensor
    """(B, E)."""
    pose: Tensor
    """(B, J, 3) rad."""
    translation: Tensor
    """(B, 3) m."""


@dataclass(frozen=True)
class FitState:
    """The unknowns of B faces.

    Attributes:
        rotation: (B, 3, 3) head to camera.
        translation: (B, 3) m: ``X_camera = R X + t`` (about the head's origin, not about a joint).
        shape: (B, S) standard deviations.
        expression: (B, C) ``Controls``: the head's coefficients, and its joints if they turn.
    """

    rotation: Tensor
    translation: Tensor
    shape: Tensor
    expression: Tensor

    def posed(self, head: HeadModel) -> Posed:
        """Say it in the head model's own terms.

        FLAME turns the head about its root joint, so the translation differs by what that joint moves.
        """
        shape = self.whole_shape(head)
        expression, pose = Controls.of(head).split(self.expression, head.num_joints)
        pose[:, 0] = matrix_to_axis_angle(self.rotation)
        root = head.rest_joints(shape, expression)[:, 0]
        turned = torch.einsum("bij,bj->bi", self.rotation, root)
        return Posed(shape, expression, pose, self.translation + turned - root)

    def vertices(self, head: HeadModel) -> Tensor:
        """Return the head's vertices (B, V, 3) in camera space, m. Differentiable."""
        controls, shape = Controls.of(head), self.whole_shape(head)
        expression, pose = controls.split(self.expression, head.num_joints)
        still = head(shape, expression, pose).vertices if controls.joints else head.unposed(shape, expression)
        return still @ self.rotation.mT + self.translation[:, None]

    def whole_shape(self, head: HeadModel) -> Tensor:
        """Return all of the head's identity coefficients (B, S); those that were not solved for are zero."""
        return F.pad(self.shape, (0, head.num_shape - self.shape.shape[1]))

    def moved(self, step: Tensor, controls: Controls) -> FitState:
        """Take a step: rotation and translation (small motions in head axes), identity, expression.

        Differentiable.

        Args:
            step: (B, 6), (B, 6 + C), or (B, 6 + S + C).
            controls: Keep the expression within its limits.
        """
        rotation = self.rotation @ axis_angle_to_matrix(step[:, :3])
        translation = self.translation + torch.einsum("bij,bj->bi", self.rotation, step[:, 3:6])
        shape, expression = self.shape, self.expression
        rest, units = step[:, 6:], expression.shape[1]
        if rest.shape[1]:
            expression = controls.inside(expression + rest[:, -units:])
        if rest.shape[1] > units:
            shape = shape + rest[:, :-units]
        return FitState(rotation, translation, shape, expression)

    def clone(self) -> FitState:
        """A copy that shares no memory."""
        return FitState(*(getattr(self, f.name).clone() for f in fields(self)))

    def subset(self, index: Tensor) -> FitState:
        """The faces of ``index`` (n,)."""
        return FitState(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: Tensor, other: FitState) -> None:
        """Overwrite the faces of ``index`` (n,) in place."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(other, f.name)


def choose(mask: Tensor, new: FitState, old: FitState) -> FitState:
    """Take ``new`` for the faces of ``mask`` (B,), ``old`` for the others."""
    return FitState(
        torch.where(mask[:, None, None], new.rotation, old.rotation),
        torch.where(mask[:, None], new.translation, old.translation),
        torch.where(mask[:, None], new.shape, old.shape),
        torch.where(mask[:, None], new.expression, old.expression),
    )
