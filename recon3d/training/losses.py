"""What the encoder is trained to get right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.encoder.network import Encoded
from recon3d.fitting._basis import reduce_head
from recon3d.head import HeadModel
from recon3d.render.shading import vertex_normals
from recon3d.training.synthetic import Faces

#: Pairs of dense landmarks whose distance is an opening: of each eye (three), of the lips (three).
_LIDS = ((159, 145), (160, 144), (158, 153), (386, 374), (385, 380), (387, 373))
_LIPS = ((13, 14), (82, 87), (312, 317))
#: Parts of the face that weigh more: landmarks of lips, lids and brows.
_HEAVY = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375,
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324,
    33, 246, 161, 160, 159, 158, 157, 173, 133, 7, 163, 144, 145, 153, 154, 155,
    263, 466, 388, 387, 386, 385, 384, 398, 362, 249, 390, 373, 374, 380, 381, 382,
    70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285,
)  # fmt: skip
#: Variance that a unit counts as having at least: rare units weigh more, but not without bound.
_LEAST_VARIANCE = 0.004
#: Cosine of the angle between skin and view over which landmarks come to be shown.
_GRAZING = 0.15
#: How far around a landmark skin tells where it looks, m.
_NEAR = 0.01


@dataclass(frozen=True)
class LossWeights:
    """How much each matter counts.

    Attributes:
        expression: Cross entropy of the units, rare ones counting more. (Squared errors reach the shared
            layers so weakly, through the sigmoids, that the landmarks drown them.)
        shape: Squared error of the identity, each coefficient by what it moves.
        spread: Likelihood of those errors under the variances that the encoder tells.
        geometry: Distance of the dense landmarks on the head, mm.
        openings: Error of eyelid and lip distances, mm.
        rotation: Squared error of the rotation matrix.
        projection: Distance of the projected head's landmarks, percent of the cut-out.
        landmarks: The same of the corrected ones, and of their depth.
        presence: Whether a face is there.
        outline: Of photographs: distance of the projected head's landmarks from those that were found.
        outline_by_pose: How far those count less that the head, turned as it is, does not show: 0 not at
            all, 1 fully.
        calm: Of photographs: size of units and identity, which landmarks alone do not tell for sure.
    """

    expression: float = 5.0
    shape: float = 0.3
    spread: float = 0.05
    geometry: float = 0.05
    openings: float = 0.05
    rotation: float = 2.0
    projection: float = 0.05
    landmarks: float = 0.1
    presence: float = 0.05
    outline: float = 0.05
    outline_by_pose: float = 0.0
    calm: float = 0.02


@dataclass(frozen=True)
class SynthesisWeights:
    """How much each matter counts; zero leaves it out.

    Attributes:
        picture: Absolute difference of painted and photographed pixels, the face counting more.
        likeness: How unlike the two look to a network that knows pictures ("perceptual" loss).
        features: The same of what the encoder sees where it reads expressions.
        stay: Squared distance of units and identity from what the first stage told.
        cycle: Cross entropy of the units read out and put in.
        identity: Squared change of the identity read out of the two pictures.
        truth: The first stage's losses, of as many renders again, whose truth is known.
        outline: Of photographs: how far the head's landmarks are from those that were found.
        mouth: Of clips: how far the head's mouth is from moving as the one that was found, percent of the
            face's size.
        outlier_scale: Of painters that tell outliers: how far pixels of the face are usually off, sRGB (the
            scale of Laplace's distribution).
        outlier_share: Share of the face's pixels that are held to be covered before they are looked at.
        outlier_prior: How much that counts against what is seen: as so many observations of every pixel.
    """

    picture: float = 2.0
    likeness: float = 1.0
    features: float = 0.5
    stay: float = 5.0
    cycle: float = 3.0
    identity: float = 0.05
    truth: float = 0.3
    outline: float = 0.0
    mouth: float = 0.0
    outlier_scale: float = 0.1
    outlier_share: float = 0.02
    outlier_prior: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what is no distribution.

        Raises:
            ValueError: Says what.
        """
        if not 0 < self.outlier_share < 1 or not 0 < self.outlier_scale < 0.5 or self.outlier_prior < 0:
            raise ValueError("0 < outlier_share < 1, 0 < outlier_scale < 0.5, outlier_prior >= 0 must hold")


class EncoderLoss(nn.Module):
    """Compares what the encoder tells with the truth."""

    template: Tensor
    directions: Tensor
    heavy: Tensor
    normals: Tensor
    unit_weight: Tensor
    shape_weight: Tensor

    def __init__(
        self, head: HeadModel, shapes: int, unit_variance: Tensor, weights: LossWeights | None = None
    ) -> None:
        """Prepare.

        Args:
            head: The head model.
            shapes: Identity coefficients that the encoder tells.
            unit_variance: (52,) of the units in the training set.
            weights: How much each matter counts.
        """
        super().__init__()
        self.weights = weights or LossWeights()
        basis = reduce_head(head, "mediapipe478", shapes)
        self.register_buffer("template", basis.template)
        self.register_buffer("directions", basis.directions)
        heavy = torch.ones(len(basis.template))
        heavy[list(_HEAVY)] = 3
        self.register_buffer("heavy", heavy / heavy.mean())
        self.register_buffer("normals", _landmark_normals(head, basis.template))
        unit_weight = 1 / unit_variance.clamp_min(_LEAST_VARIANCE)
        self.register_buffer("unit_weight", unit_weight / unit_weight.mean())
        moved = head.shapedirs[..., :shapes].norm(dim=1).mean(0)
        self.register_buffer("shape_weight", moved / moved.mean())

    def forward(self, told: Encoded, truth: Faces) -> dict[str, Tensor]:
        """Return every loss by its name, weighted, means over the batch; ``total`` is their sum."""
        here = truth.present.float()
        count = here.sum().clamp_min(1)

        def mean(values: Tensor) -> Tensor:
            return (values.flatten(1).mean(1) * here).sum() / count

        weights, shape = self.weights, truth.shape[:, : told.shape.shape[1]]
        off = told.expression - truth.expression
        off_shape = told.shape - shape
        points = self._points(told.shape, told.expression)
        true_points = self._points(shape, truth.expression)
        seen = truth.landmarks[..., :2]
        projected = self._project(points, told)
        apart = (points - true_points).norm(dim=-1) * self.heavy * 1000
        losses = {
            "expression": weights.expression * mean(_entropy(told, truth) * self.unit_weight),
            "shape": weights.shape * mean(off_shape.square() * self.shape_weight),
            "spread": weights.spread
            * mean(
                torch.cat(
                    (
                        _likelihood(off, told.expression_spread),
                        0.3 * _likelihood(off_shape, told.shape_spread),
                    ),
                    dim=1,
                )
            ),
            "geometry": weights.geometry * mean(apart),
            "openings": weights.openings * mean((_openings(points) - _openings(true_points)).abs() * 1000),
            "rotation": weights.rotation * mean((told.rotation - truth.rotation).square()),
            "projection": weights.projection * mean((projected - seen).abs() * 100),
            "landmarks": weights.landmarks * mean(self._apart(told.landmarks, truth.landmarks)),
            "presence": weights.presence * F.binary_cross_entropy_with_logits(told.presence, here),
        }
        losses["total"] = torch.stack(list(losses.values())).sum()
        return losses

    def photographs(self, told: Encoded, faces: Faces) -> dict[str, Tensor]:
        """Return the losses of photographs, of which only the detected landmarks are known, as above."""
        weights, seen = self.weights, faces.detected
        off = (self.seen(told) - seen[..., :2]).abs().sum(-1) * self.heavy * 100
        if weights.outline_by_pose:
            off = off * torch.lerp(torch.ones_like(off), self.shown(told.rotation), weights.outline_by_pose)
        calm = told.expression.mean() + 0.1 * (told.shape.square() * self.shape_weight).mean()
        losses = {
            "photographs: outline": weights.outline * off.mean(),
            "photographs: landmarks": weights.landmarks * self._apart(told.landmarks, seen).mean(),
            "photographs: calm": weights.calm * calm,
        }
        losses["total"] = torch.stack(list(losses.values())).sum()
        return losses

    def seen(self, told: Encoded) -> Tensor:
        """Where the dense landmarks of the head that is told lie, (B,478,2), parts of the cut-out."""
        return self._project(self._points(told.shape, told.expression), told)

    def shown(self, rotation: Tensor) -> Tensor:
        """Return how much heads turned so (B,3,3) show of each landmark, (B,478), mean 1. No gradient.

        Where landmarks are hidden, their finder guesses. TEASER (Y. Liu et al., 2025) leaves out those of the
        far side once a head is turned aside by more than some angle; here a weight falls smoothly as the skin
        turns away, about any axis.
        """
        toward = -(rotation.detach()[:, 2] @ self.normals.T)
        weight = torch.sigmoid(toward / _GRAZING)
        return weight / weight.mean(dim=1, keepdim=True)

    def _apart(self, points: Tensor, truth: Tensor) -> Tensor:
        """How far landmarks (B,478,3) are apart, percent of the cut-out; depth counts a quarter."""
        off = (points - truth).abs() * 100
        return (off[..., :2].sum(-1) + 0.25 * off[..., 2]) * self.heavy

    def _points(self, shape: Tensor, expression: Tensor) -> Tensor:
        """Dense landmarks (B,478,3) m, unposed."""
        both = torch.cat((shape, expression), dim=1)
        return self.template + (both @ self.directions.flatten(0, 1).T).unflatten(1, (-1, 3))

    def _project(self, points: Tensor, told: Encoded) -> Tensor:
        """Weak perspective (B,478,2), parts of the cut-out."""
        turned = points @ told.rotation.mT
        return told.place[:, None, :2] + 0.5 + turned[..., :2] * (3 * (1 + told.place[:, None, 2:]))


def _landmark_normals(head: HeadModel, points: Tensor) -> Tensor:
    """Unit normals (478,3) of the mean head at its landmarks, ``points`` (478,3) m.

    Those of neighbours are mixed in: in the corners of the mouth and along the lips' seam skin looks at skin,
    and yet a camera ahead sees it.
    """
    embedding = head.embeddings["mediapipe478"]
    normals = vertex_normals(head.v_template[None], head.faces)[0][head.faces[embedding.triangle]]
    here = (normals * embedding.barycentric[..., None].to(normals)).sum(1)
    near = torch.exp(-0.5 * (torch.cdist(points, points) / _NEAR).square())
    return F.normalize(near @ here, dim=1)


def _openings(points: Tensor) -> Tensor:
    """(B,9) how far lids and lips are apart, m."""
    first, second = (list(side) for side in zip(*(_LIDS + _LIPS), strict=True))
    return (points[:, first] - points[:, second]).norm(dim=-1)


def _entropy(told: Encoded, truth: Faces) -> Tensor:
    """Cross entropy (B,52) of units in [0,1] beyond what the truth itself has; 0 where they are equal."""
    found, true = told.expression.clamp(1e-5, 1 - 1e-5), truth.expression.clamp(1e-5, 1 - 1e-5)
    cross = F.binary_cross_entropy(found, true, reduction="none")
    return cross - F.binary_cross_entropy(true, true, reduction="none")


def _likelihood(off: Tensor, spread: Tensor) -> Tensor:
    """Of errors under a normal distribution; only the variance learns from it."""
    return 0.5 * (off.detach().square() * torch.exp(-spread) + spread)
