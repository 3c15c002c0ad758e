"""What the neural renderer is given: a head's geometry, and what may be seen of the photograph around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recon3d.encoder.network import Encoded
from recon3d.head import HeadModel
from recon3d.render.rasterize import Fragments
from recon3d.synthesis.geometry import GeometryPainter, Pose
from recon3d.synthesis.mask import face_mask
from recon3d.synthesis.samples import Samples, draw_samples, place_samples, triangle_odds


@dataclass(frozen=True, eq=False)
class Heads:
    """B heads in their cut-outs.

    Attributes:
        shape: (B,S).
        expression: (B,52).
        pose: Where they stand.
    """

    shape: Tensor
    expression: Tensor
    pose: Pose

    @staticmethod
    def of(told: Encoded) -> Heads:
        """Take them from what the encoder tells."""
        return Heads(told.shape, told.expression, Pose.of(told))

    def detached(self) -> Heads:
        """Return them without gradient."""
        pose = Pose(self.pose.rotation.detach(), self.pose.place.detach())
        return Heads(self.shape.detach(), self.expression.detach(), pose)

    def showing(self, expression: Tensor) -> Heads:
        """Return them with other expressions (B,52)."""
        return Heads(self.shape, expression, self.pose)


class Scene(NamedTuple):
    """Input of ``FacePainter``: see there."""

    geometry: Tensor
    shown: Tensor
    known: Tensor


class Photograph(NamedTuple):
    """Photographs taken apart, to be painted anew.

    Attributes:
        pictures: (B,3,S,S) sRGB in [0,1].
        points: (B,478,2) dense landmarks, parts of the side.
        samples: Some of the faces' pixels.
        drawn: (B,S,S) bool: where the head's face is.
    """

    pictures: Tensor
    points: Tensor
    samples: Samples
    drawn: Tensor


class SceneBuilder:
    """Builds scenes. Gradients reach heads through the geometry alone."""

    def __init__(self, head: HeadModel, size: int, share: float = 0.01) -> None:
        """Build scenes of ``size`` by ``size`` px, which show a ``share`` of their pixels within faces."""
        self.painter = GeometryPainter(head, size)
        self._odds = triangle_odds(head, self.painter.faces)
        self._count = max(1, round(share * size * size))

    def own(
        self, pictures: Tensor, points: Tensor, heads: Heads, generator: torch.Generator | None = None
    ) -> tuple[Scene, Photograph]:
        """Scenes of faces as they are.

        Args:
            pictures: (B,3,S,S) sRGB in [0,1].
            points: (B,478,2 or 3) dense landmarks, parts of the side.
            heads: What is on them.
            generator: Of the random choice of pixels.
        """
        geometry, pixels, fragments = self._draw(heads)
        samples = draw_samples(pictures, fragments, self._odds, self._count, generator)
        photograph = Photograph(pictures, points[..., :2], samples, fragments.mask)
        return self._scene(photograph, geometry, pixels, fragments), photograph

    def other(self, photograph: Photograph, heads: Heads) -> Scene:
        """Scenes of the same photographs with other expressions: their samples are carried over."""
        return self._scene(photograph, *self._draw(heads))

    def _draw(self, heads: Heads) -> tuple[Tensor, Tensor, Fragments]:
        vertices = self.painter.vertices(heads.shape, heads.expression, heads.pose)
        output = self.painter.draw(vertices)
        pixels = self.painter.camera.project(vertices)
        return output.image.movedim(-1, 1), pixels, output.fragments

    def _scene(self, photograph: Photograph, geometry: Tensor, pixels: Tensor, fragments: Fragments) -> Scene:
        # Neither the face that was nor the one that comes: what shows its outline tells the expression.
        hidden = face_mask(photograph.points, photograph.drawn | fragments.mask)
        colors, here = place_samples(photograph.samples, pixels, self.painter.faces, fragments)
        around = photograph.pictures * (1 - hidden)
        return Scene(geometry, around + colors * hidden * here, torch.maximum(1 - hidden, here))
