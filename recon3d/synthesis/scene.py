"""What the neural renderer is given: a head's geometry, and what may be seen of the photograph around it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recon3d.head import HeadModel
from recon3d.render.rasterize import Fragments
from recon3d.synthesis.geometry import GeometryPainter
from recon3d.synthesis.mask import face_mask
from recon3d.synthesis.samples import Samples, draw_samples, place_samples, triangle_odds

#: Where people look first.
_TELLING = ("lips", "mouth_inside", "teeth", "tongue", "eyeballs", "left_eyeball", "right_eyeball", "eyelids")


class Scene(NamedTuple):
    """What ``FacePainter`` is given, see there; and where it has to paint.

    Attributes:
        hidden: (B,1,S,S) 1 where the photograph is hidden but for the samples.
        appearance: (B,3,S,S) the photograph itself, for painters that tell its looks from it.
    """

    geometry: Tensor
    shown: Tensor
    known: Tensor
    hidden: Tensor
    appearance: Tensor


class Photograph(NamedTuple):
    """Photographs taken apart, to be painted anew.

    Attributes:
        pictures: (B,3,S,S) sRGB in [0,1].
        points: (B,478,2) dense landmarks, parts of the side.
        samples: Some of the faces' pixels.
        drawn: (B,S,S) bool: where the head's face is, and ...
        telling: (B,S,S) bool: ... of that, eyes and mouth.
    """

    pictures: Tensor
    points: Tensor
    samples: Samples
    drawn: Tensor
    telling: Tensor


class SceneBuilder:
    """Builds scenes. Gradients reach heads through the geometry alone."""

    def __init__(
        self, head: HeadModel, size: int, share: tuple[float, float] = (0.01, 0.01), *, telling: bool = True
    ) -> None:
        """Build scenes of ``size`` by ``size`` px.

        Args:
            head: The head model.
            size: Of the pictures.
            share: Least and most of the pictures' pixels that are shown within a face; drawn by chance for
                each picture, evenly on a logarithmic scale.
            telling: Show pixels of lids and lips, too. Where a head does not lie exactly on its face, they
                are of the teeth or the eye beside.
        """
        self.painter = GeometryPainter(head, size)
        self._telling = head.within(*_TELLING)[self.painter.faces].any(1)
        self._odds = triangle_odds(head, self.painter.faces)
        if not telling:
            self._odds = self._odds * ~self._telling
        self._share = share

    def own(
        self, pictures: Tensor, points: Tensor, vertices: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Scene, Photograph]:
        """Scenes of faces as they are.

        Args:
            pictures: (B,3,S,S) sRGB in [0,1].
            points: (B,478,2 or 3) dense landmarks, parts of the side.
            vertices: (B,V,3) the heads on them, of ``GeometryPainter.vertices``.
            generator: Of the random choice of pixels.
        """
        geometry, pixels, fragments = self._draw(vertices)
        counts = self._counts(pictures, generator)
        samples = draw_samples(pictures, fragments, self._odds, counts, generator)
        telling = self._telling.to(pictures.device)[fragments.triangle.clamp_min(0)] & fragments.mask
        photograph = Photograph(pictures, points[..., :2], samples, fragments.mask, telling)
        return self._scene(photograph, geometry, pixels, fragments), photograph

    def other(self, photograph: Photograph, vertices: Tensor) -> Scene:
        """Scenes of the same photographs with other expressions: their samples are carried over."""
        return self._scene(photograph, *self._draw(vertices))

    def _counts(self, pictures: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,) how many pixels are shown of each picture's face."""
        least, most = self._share
        chance = torch.rand(len(pictures), generator=generator, device=pictures.device)
        share = least * (most / least) ** chance
        return (share * pictures.shape[-2] * pictures.shape[-1]).round().long().clamp_min(1)

    def _draw(self, vertices: Tensor) -> tuple[Tensor, Tensor, Fragments]:
        output = self.painter.draw(vertices)
        pixels = self.painter.camera.project(vertices)
        return output.image.movedim(-1, 1), pixels, output.fragments

    def _scene(self, photograph: Photograph, geometry: Tensor, pixels: Tensor, fragments: Fragments) -> Scene:
        # Neither the face that was nor the one that comes: what shows its outline tells the expression.
        hidden = face_mask(photograph.points, photograph.drawn | fragments.mask)
        colors, here = place_samples(photograph.samples, pixels, self.painter.faces, fragments)
        around = photograph.pictures * (1 - hidden)
        shown, known = around + colors * hidden * here, torch.maximum(1 - hidden, here)
        return Scene(geometry, shown, known, hidden, photograph.pictures)
