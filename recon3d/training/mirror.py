"""Faces turned left for right: every picture serves twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.conventions import ARKIT_MIRROR
from recon3d.head import HeadModel
from recon3d.training.synthetic import Faces


@dataclass(frozen=True, eq=False)
class Mirror:
    """What a mirror does to the parameters of a symmetric head model.

    Attributes:
        signs: (S,) 1 for identity coefficients that stay, -1 for those that are turned round.
        landmarks: (478,) int64: the dense landmark that each one becomes.
    """

    signs: Tensor
    landmarks: Tensor

    @staticmethod
    def of(head: HeadModel) -> Mirror:
        """Read it off the head: its identity components are symmetric or antisymmetric."""
        flip = head.v_template.new_tensor((-1.0, 1.0, 1.0))
        turned = head.shapedirs[head.mirror] * flip[:, None]
        points = head.landmarks(head.v_template[None], "mediapipe478")[0]
        return Mirror((turned * head.shapedirs).sum((0, 1)).sign(), _partners(points, flip))

    def __call__(self, faces: Faces) -> Faces:
        """Return the faces mirrored."""
        across = faces.rotation.new_tensor((-1.0, 1.0, 1.0))
        return Faces(
            images=faces.images.flip(2),
            shape=faces.shape * self.signs,
            expression=faces.expression[:, list(ARKIT_MIRROR)],
            rotation=faces.rotation * across * across[:, None],
            landmarks=self._points(faces.landmarks),
            detected=self._points(faces.detected),
            present=faces.present,
        )

    def _points(self, points: Tensor) -> Tensor:
        swapped = points[:, self.landmarks]
        return torch.cat((1 - swapped[..., :1], swapped[..., 1:]), dim=-1)


def _partners(points: Tensor, flip: Tensor) -> Tensor:
    """(N,) nearest mirror image of each landmark (N,3)."""
    return torch.cdist(points * flip, points).argmin(1)
