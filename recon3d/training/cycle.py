"""The two paths of the second stage: a photograph painted again, and another expression read out again.

SMIRK's losses (G. Retsinas et al., 3D Facial Expressions through Analysis-by-Neural-Synthesis, 2024) around
our own encoder, rasterizer and painter. Gradients reach the encoder only through the geometry that is drawn
of what it tells, never through the pixels that the painter is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.encoder.crop import CROP_SIZE
from recon3d.encoder.network import Encoded, EncoderNetwork
from recon3d.encoder.trunk import FaceMaps, FaceTrunk, LandmarkHead
from recon3d.head import HeadModel
from recon3d.synthesis.geometry import Heads
from recon3d.synthesis.painter import FacePainter
from recon3d.synthesis.scene import Photograph, Scene, SceneBuilder
from recon3d.training.losses import SynthesisWeights
from recon3d.training.outliers import doubted

#: How unlike two sets of pictures (B,3,S,S) are.
Likeness = Callable[[Tensor, Tensor], Tensor]


class LandmarkFinder(nn.Module):
    """Finds landmarks in cut-outs whose first maps another trunk has computed already."""

    def __init__(self, trunk: FaceTrunk, landmarks: LandmarkHead, beside: FaceTrunk) -> None:
        """Take the landmark network, and leave out the first stages that it shares with ``beside``."""
        super().__init__()
        self._shared = _equal_stages(trunk, beside)
        self.stages = nn.ModuleList(list(trunk.stages)[self._shared :])
        self.landmarks = landmarks

    def forward(self, images: Tensor, maps: FaceMaps) -> Tensor:
        """Return landmarks (B,478,3) in parts of the cut-out's side.

        Args:
            images: (B,3,256,256).
            maps: What the trunk ``beside`` saw in them.
        """
        seen = list(maps[: self._shared])
        x = seen[-1] if seen else images
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        found: Tensor = self.landmarks(FaceMaps(*seen)).landmarks
        return found / CROP_SIZE


class SynthesisNetwork(nn.Module):
    """What the second stage trains: the encoder, its trunk left as it is, and the painter."""

    def __init__(
        self,
        encoder: EncoderNetwork,
        landmarks: tuple[FaceTrunk, LandmarkHead],
        painter: FacePainter,
        precision: torch.dtype | None = None,
    ) -> None:
        """Start from a trained encoder, the landmark network, and a painter.

        Args:
            encoder: Its trunk is not to learn.
            landmarks: Of ``pretrained_trunk``.
            painter: It alone is computed with another ``precision``, if one is given: it takes most of the
                time, and needs no exact numbers.
            precision: bfloat16 or float16.
        """
        super().__init__()
        self._precision = precision
        self.encoder, self.painter = encoder, painter
        self.finder = LandmarkFinder(*landmarks, beside=encoder.trunk)
        self.encoder.trunk.requires_grad_(False)
        self.finder.requires_grad_(False)

    def paint(self, scene: Scene) -> Tensor:
        """Paint (B,3,S,S)."""
        with self._autocast(scene):
            painted: Tensor = self.painter(scene.geometry, scene.shown, scene.known, scene.appearance)
        return painted.float()

    def paint_and_doubt(self, scene: Scene) -> tuple[Tensor, Tensor | None]:
        """Paint, and return the logit of outliers (B,1,S,S), too, if the painter tells it."""
        if not self.painter.config.outliers:
            return self.paint(scene), None
        with self._autocast(scene):
            painted, doubt = self.painter.paint_and_doubt(
                scene.geometry, scene.shown, scene.known, scene.appearance
            )
        return painted.float(), doubt.float()

    def _autocast(self, scene: Scene) -> torch.autocast:
        return torch.autocast(scene.shown.device.type, self._precision, enabled=self._precision is not None)

    def read(self, pictures: Tensor) -> Encoded:
        """Read painted pictures (B,3,S,S): find the landmarks in them, then ask the encoder.

        Differentiable to the pictures.
        """
        images = _enlarged(pictures)
        maps = self.encoder.trunk(images)
        points = self.finder(images, maps)
        told: Encoded = self.encoder(None, points, self.encoder.windows(maps, points))
        return told

    def seen(self, pictures: Tensor, points: Tensor) -> Tensor:
        """Return what the encoder sees of pictures (B,3,S,S) at landmarks (B,478,3), usual things small."""
        windows = self.encoder.windows(self.encoder.trunk(_enlarged(pictures)), points)
        usual: Tensor = self.encoder.maps(windows)
        return usual


class Repainted(NamedTuple):
    """What came of photographs.

    Attributes:
        pictures: (B,3,S,S) painted, sRGB in [0,1].
        scene: What the painter was given.
        photograph: The photographs taken apart.
        outliers: (B,1,S,S) how likely pixels of the face are to be none of it, [0,1], if the painter tells.
    """

    pictures: Tensor
    scene: Scene
    photograph: Photograph
    outliers: Tensor | None = None

    def columns(self) -> list[Tensor]:
        """Return what shows how well it went, each (B,3,S,S)."""
        columns = [self.photograph.pictures, self.scene.geometry, self.scene.shown, self.pictures]
        return columns if self.outliers is None else [*columns, self.outliers.expand(-1, 3, -1, -1)]


class SynthesisLoss:
    """Both paths, and what is wanted of them."""

    def __init__(
        self,
        head: HeadModel,
        size: int,
        weights: SynthesisWeights,
        share: tuple[float, float] = (0.01, 0.01),
        likeness: Likeness | None = None,
    ) -> None:
        """Prepare.

        Args:
            head: The head model.
            size: Of the pictures, px.
            weights: What counts how much.
            share: Least and most of the pixels that are shown within a face.
            likeness: Needed if its weight is not zero.
        """
        self.scenes, self.weights = SceneBuilder(head, size, share), weights
        self._likeness = likeness

    def reconstruct(
        self,
        network: SynthesisNetwork,
        pictures: Tensor,
        points: Tensor,
        heads: Heads,
        maps: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Repainted]:
        """Paint photographs again.

        Args:
            network: Painter and trunk.
            pictures: (B,3,S,S) sRGB in [0,1].
            points: (B,478,3) landmarks, parts of the cut-out.
            heads: What is on them.
            maps: (B,N) what the trunk sees of them; without, the features do not count.

        Returns:
            Losses by name, and what came of it.
        """
        weights = self.weights
        vertices = self.scenes.painter.vertices(self.scenes.painter.settled(heads, points))
        scene, photograph = self.scenes.own(pictures, points, vertices)
        painted, doubt = network.paint_and_doubt(scene)
        heavy = 1 + 2 * photograph.drawn[:, None].to(painted) + 6 * photograph.telling[:, None].to(painted)
        compared, outliers, off = painted, None, (painted - pictures).abs()
        if doubt is not None:
            face = photograph.drawn[:, None]
            outliers = (doubt.sigmoid() * face).detach()
            off = torch.where(face, doubted(off, doubt, weights), off.mean(1, keepdim=True))
            # Networks that compare pictures are not shown what is not to be painted, as in FOCUS.
            compared = torch.lerp(painted, pictures, outliers)
        losses = {"picture": weights.picture * (off * heavy).mean()}
        if weights.likeness and self._likeness is not None:
            losses["likeness"] = weights.likeness * self._likeness(compared, pictures)
        if weights.features and maps is not None:
            off = network.seen(compared, points) - network.encoder.maps(maps)
            losses["features"] = weights.features * F.smooth_l1_loss(off, torch.zeros_like(off))
        return losses, Repainted(painted, scene, photograph, outliers)

    def cycle(
        self, network: SynthesisNetwork, photograph: Photograph, heads: Heads, expression: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Encoded]:
        """Paint photographs with other expressions (B,52), and read these out again.

        Returns:
            Losses by name, the painted pictures, and what was read.
        """
        heads = heads.detached()
        settled = self.scenes.painter.settled(heads, photograph.points)
        vertices = self.scenes.painter.vertices(settled.showing(expression))
        painted = network.paint(self.scenes.other(photograph, vertices))
        read = network.read(painted)
        found, wanted = read.expression.clamp(1e-4, 1 - 1e-4), expression.clamp(1e-4, 1 - 1e-4)
        entropy = F.binary_cross_entropy(found, wanted) - F.binary_cross_entropy(wanted, wanted)
        losses = {
            "cycle": self.weights.cycle * entropy,
            "identity": self.weights.identity * (read.shape - heads.shape).square().mean(),
        }
        return losses, painted, read

    def stay(self, told: Encoded, before: Encoded) -> dict[str, Tensor]:
        """Losses of an encoder that moves away from what it told after the first stage."""
        off, shape = told.expression - before.expression, told.shape - before.shape
        return {"stay": self.weights.stay * (off.square().mean() + 0.02 * shape.square().mean())}


def trunk_likeness(trunk: FaceTrunk) -> Likeness:
    """Compare pictures by a trunk's finer maps, each channel by its spread.

    For where no perceptual network can be had.
    """

    def unlike(painted: Tensor, pictures: Tensor) -> Tensor:
        apart = []
        found, wanted = painted, pictures
        for stage in trunk.stages[:_LIKE]:
            found = stage(found)
            with torch.no_grad():
                wanted = stage(wanted)
                spread = wanted.std(dim=(0, 2, 3), keepdim=True) + 1e-3
            apart.append(((found - wanted) / spread).abs().mean())
        return torch.stack(apart[1:]).mean()

    return unlike


#: Stages of the trunk, finest first, that tell how alike two pictures are; the first sees edges alone.
_LIKE = 4


def _enlarged(pictures: Tensor) -> Tensor:
    enlarged = F.interpolate(pictures, (CROP_SIZE, CROP_SIZE), mode="bilinear", align_corners=False)
    return enlarged.contiguous(memory_format=torch.channels_last)


def _equal_stages(first: FaceTrunk, second: FaceTrunk) -> int:
    """How many stages of two trunks, from the finest on, hold the same weights."""
    count = 0
    for mine, other in zip(first.stages, second.stages, strict=True):
        if not _equal(list(mine.parameters()), list(other.parameters())):
            break
        count += 1
    return count


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    # Weights on disk are of half precision.
    return all(torch.equal(a.half(), b.half()) for a, b in zip(first, second, strict=True))
