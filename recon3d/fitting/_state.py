"""The unknowns of a fit, and their translation into the head model's own terms."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from recon3d.head.model import HeadModel
from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle


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

    def moved(self, step: Tensor, *, bounded: bool) -> FitState:
        """Take a step: rotation and translation (small motions in head axes), identity, expression.

        Differentiable.

        Args:
            step: (B, 6), (B, 6 + E), or (B, 6 + S + E).
            bounded: Keep the expression in [0, 1].
        """
        rotation = self.rotation @ axis_angle_to_matrix(step[:, :3])
        translation = self.translation + torch.einsum("bij,bj->bi", self.rotation, step[:, 3:6])
        shape, expression = self.shape, self.expression
        rest, units = step[:, 6:], expression.shape[1]
        if rest.shape[1]:
            expression = expression + rest[:, -units:]
            if bounded:
                expression = expression.clamp(0, 1)
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
