"""The two paths of the second stage: a photograph painted again, and another expression read out again.

SMIRK's losses (G. Retsinas et al., 3D Facial Expressions through Analysis-by-Neural-Synthesis, 2024) around
our own encoder, rasterizer and painter. Gradients reach the encoder only through the geometry that is drawn
of what it tells, never through the pixels that the painter is shown.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.encoder.crop import CROP_SIZE
from recon3d.encoder.network import Encoded, EncoderNetwork
from recon3d.encoder.trunk import FaceMaps, LandmarkHead
from recon3d.head import HeadModel
from recon3d.synthesis.painter import FacePainter
from recon3d.synthesis.scene import Heads, Photograph, SceneBuilder
from recon3d.training.losses import SynthesisWeights


class SynthesisNetwork(nn.Module):
    """What the second stage trains: the encoder, its trunk left as it is, and the painter."""

    def __init__(self, encoder: EncoderNetwork, landmarks: LandmarkHead, painter: FacePainter) -> None:
        """Start from a trained encoder, the landmark network's last layer, and a painter."""
        super().__init__()
        self.encoder, self.landmarks, self.painter = encoder, landmarks, painter
        self.encoder.trunk.requires_grad_(False)
        self.landmarks.requires_grad_(False)

    def read(self, pictures: Tensor) -> Encoded:
        """Read painted pictures (B,3,S,S): find the landmarks in them, then ask the encoder.

        Differentiable to the pictures.
        """
        images = F.interpolate(pictures, (CROP_SIZE, CROP_SIZE), mode="bilinear", align_corners=False)
        maps: FaceMaps = self.encoder.trunk(images)
        points = self.landmarks(maps).landmarks / CROP_SIZE
        told: Encoded = self.encoder(None, points, self.encoder.windows(maps, points))
        return told


class SynthesisLoss:
    """Both paths, and what is wanted of them."""

    def __init__(self, head: HeadModel, size: int, weights: SynthesisWeights, share: float = 0.01) -> None:
        """Prepare for pictures of ``size`` px that show a ``share`` of their pixels within the face."""
        self.scenes, self.weights = SceneBuilder(head, size, share), weights

    def reconstruct(
        self, network: SynthesisNetwork, pictures: Tensor, points: Tensor, told: Encoded, before: Encoded
    ) -> tuple[dict[str, Tensor], Tensor, Photograph]:
        """Paint photographs again.

        Args:
            network: Painter and trunk.
            pictures: (B,3,S,S) sRGB in [0,1].
            points: (B,478,3) detected landmarks, parts of the cut-out.
            told: What the encoder tells of them now, and ...
            before: ... what it told after the first stage.

        Returns:
            Losses by name, the painted pictures (B,3,S,S), and the photographs taken apart.
        """
        weights = self.weights
        scene, photograph = self.scenes.own(pictures, points, Heads.of(told))
        painted = network.painter(*scene)
        heavy = 1 + 2 * photograph.drawn[:, None].to(painted)
        losses = {
            "picture": weights.picture * ((painted - pictures).abs() * heavy).mean(),
            "stay": weights.stay
            * (
                (told.expression - before.expression).square().mean()
                + 0.02 * (told.shape - before.shape).square().mean()
            ),
        }
        if weights.likeness:
            losses["likeness"] = weights.likeness * self._unlike(network, painted, pictures)
        return losses, painted, photograph

    def cycle(
        self, network: SynthesisNetwork, photograph: Photograph, heads: Heads, expression: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Encoded]:
        """Paint photographs with other expressions (B,52), and read these out again.

        Returns:
            Losses by name, the painted pictures, and what was read.
        """
        heads = heads.detached()
        painted = network.painter(*self.scenes.other(photograph, heads.showing(expression)))
        read = network.read(painted)
        found, wanted = read.expression.clamp(1e-4, 1 - 1e-4), expression.clamp(1e-4, 1 - 1e-4)
        entropy = F.binary_cross_entropy(found, wanted) - F.binary_cross_entropy(wanted, wanted)
        losses = {
            "cycle": self.weights.cycle * entropy,
            "identity": self.weights.identity * (read.shape - heads.shape).square().mean(),
        }
        return losses, painted, read

    @staticmethod
    def _unlike(network: SynthesisNetwork, painted: Tensor, pictures: Tensor) -> Tensor:
        """How far the trunk's finer maps of two sets of pictures are apart, each channel by its spread."""
        apart = []
        found, wanted = painted, pictures
        for stage in network.encoder.trunk.stages[:_LIKE]:
            found = stage(found)
            with torch.no_grad():
                wanted = stage(wanted)
                spread = wanted.std(dim=(0, 2, 3), keepdim=True) + 1e-3
            apart.append(((found - wanted) / spread).abs().mean())
        return torch.stack(apart[1:]).mean()


#: Stages of the trunk, finest first, that tell how alike two pictures are; the first sees edges alone.
_LIKE = 4
