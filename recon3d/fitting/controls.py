"""What shows an expression on a head: its own coefficients, and the joints that turn, if units do not.

On a head whose coefficients are the ARKit units these move jaw and eyeballs, too, so they are all there is.
On others (FLAME's) the jaw and the eyeballs turn about their joints. The solver knows one row of numbers, C
of them: the coefficients, then three axis-angle numbers a joint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.conventions import JAW, LEFT_EYE, RIGHT_EYE
from recon3d.head.model import HeadModel

#: How far joints turn about X, Y and Z, rad: least, most, and usual (standard deviations). A jaw opens about
#: +X; the values are an adult's, the eyes' those of a recorded take (CONVENTIONS.md).
_JAW = ((-0.06, 0.6), (-0.2, 0.2), (-0.12, 0.12)), (0.2, 0.04, 0.03)
_EYE = ((-0.6, 0.6), (-0.8, 0.8), (0.0, 0.0)), (0.2, 0.25, 0.05)
_TURNS = {JAW: _JAW, LEFT_EYE: _EYE, RIGHT_EYE: _EYE}
#: Shapes that close an eye, among a PCA's components.
_EYELID = "eyelid"


@dataclass(frozen=True)
class Controls:
    """The numbers that the solver finds for an expression.

    Attributes:
        coefficients: E, the head's own.
        joints: Those that turn, three numbers each.
        lower: (C,) least value of each; -inf where there is none.
        upper: (C,) most.
        deviation: (C,) usual size, where a normal prior is to hold it; inf where others do.
    """

    coefficients: int
    joints: tuple[int, ...]
    lower: Tensor
    upper: Tensor
    deviation: Tensor

    @staticmethod
    def of(head: HeadModel) -> Controls:
        """Return those of a head; units live in [0, 1], coefficients of a PCA are unit normals."""
        count = head.num_expression
        if head.speaks_arkit:
            return Controls.units(count)
        joints = tuple(joint for joint in _TURNS if joint < head.num_joints and head.weights[:, joint].any())
        limits = torch.tensor([limit for joint in joints for limit in _TURNS[joint][0]]).view(-1, 2)
        usual = torch.tensor([one for joint in joints for one in _TURNS[joint][1]])
        names = head.expression_names or ("",) * count
        closing = torch.tensor([name.startswith(_EYELID) for name in names], dtype=torch.bool)
        free = torch.full((count,), math.inf)
        return Controls(
            count,
            joints,
            torch.cat([torch.where(closing, 0.0, -free), limits[:, 0]]),
            torch.cat([torch.where(closing, 1.0, free), limits[:, 1]]),
            torch.cat([torch.where(closing, 0.5, torch.ones(count)), usual]),
        )

    @staticmethod
    def units(count: int) -> Controls:
        """Return coefficients in [0, 1], and no joints."""
        return Controls(count, (), torch.zeros(count), torch.ones(count), torch.full((count,), math.inf))

    @property
    def count(self) -> int:
        """C."""
        return len(self.lower)

    def inside(self, values: Tensor) -> Tensor:
        """Hold values (..., C) within their limits. Differentiable."""
        return values.clamp(self.lower.to(values), self.upper.to(values))

    def pressed(self, values: Tensor, push: Tensor) -> Tensor:
        """Tell which values (..., C) rest at a limit, and are pushed against it by a gradient (..., C)."""
        below = (values <= self.lower.to(values)) & (push > 0)
        return below | ((values >= self.upper.to(values)) & (push < 0))

    def split(self, values: Tensor, joints: int) -> tuple[Tensor, Tensor]:
        """Return coefficients (B, E), and the pose (B, joints, 3) of a head that does not turn, rad."""
        pose = values.new_zeros(len(values), joints, 3)
        if self.joints:
            pose[:, list(self.joints)] = values[:, self.coefficients :].unflatten(1, (-1, 3))
        return values[:, : self.coefficients], pose

    def joined(self, expression: Tensor, pose: Tensor) -> Tensor:
        """Return values (B, C) of coefficients (B, E) and a pose (B, J, 3); the inverse of ``split``."""
        if not self.joints:
            return expression
        return torch.cat([expression, pose[:, list(self.joints)].flatten(1)], dim=1)
