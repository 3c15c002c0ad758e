"""How well expressions, poses and identities are read off renders whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon3d.evaluation.expressions import Reader, Reading
from recon3d.evaluation.metrics import mean_absolute_error, rotation_error_degrees, unit_correlation
from recon3d.face._task import BLENDSHAPES, LANDMARKS, load_network
from recon3d.face.blendshapes import BlendshapeScorer
from recon3d.face.source import Face, bounds
from recon3d.head import HeadModel
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.synthetic import Faces, SyntheticFaces, SyntheticSettings

#: Dense landmarks whose distance is an opening: of the eyelids, of the lips.
_LIDS, _LIPS = ((159, 145), (386, 374)), ((13, 14),)
_BATCH = 16


@dataclass(frozen=True)
class RenderScore:
    """How well one way did. NaN: it does not tell that.

    Attributes:
        correlation: Mean over the units of the correlation with the truth over the faces.
        mae: Mean absolute error of the units.
        units: (52,) correlation of each unit.
        lids: Mean error of the eyelids' distance on the head, mm.
        lips: The same of the lips.
        rotation: Mean error of the head's rotation, degrees.
        shape: Mean distance of the face's vertices from the truth, at rest, after rigid alignment, mm.
    """

    correlation: float
    mae: float
    units: tuple[float, ...]
    lids: float
    lips: float
    rotation: float
    shape: float


def draw_renders(
    head: HeadModel, settings: SyntheticSettings, expressions: ExpressionSampler, count: int, seed: int
) -> Faces:
    """Draw faces to judge by, with the landmarks that the face stage finds in them."""
    network = load_network(LANDMARKS, threads=1)
    maker = SyntheticFaces(head, expressions, settings, seed=seed, landmarks=network)
    parts = [maker.batch(range(k, min(k + _BATCH, count))) for k in range(0, count, _BATCH)]
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Faces(*(torch.cat(column) for column in columns))


def score_renders(faces: Faces, head: HeadModel, reader: Reader) -> dict[str, RenderScore]:
    """Read the faces in every way and compare with the truth."""
    pictures = list(faces.images.numpy())
    scorer = BlendshapeScorer(load_network(BLENDSHAPES, threads=1))
    seen = [_face(points, scorer) for points in faces.detected * faces.images.shape[1]]
    return {name: _score(reading, faces, head) for name, reading in reader.read(pictures, seen).items()}


def _face(points: Tensor, scorer: BlendshapeScorer) -> Face:
    landmarks = points.numpy()
    return Face(bounds(landmarks), 1.0, landmarks, "mediapipe478", scorer.score(landmarks))


def _score(reading: Reading, faces: Faces, head: HeadModel) -> RenderScore:
    found, true = reading.expression.numpy(), faces.expression.numpy()
    units = unit_correlation(found, true)
    neutral = torch.zeros_like(faces.shape)
    openings = [
        (
            _openings(head, neutral, reading.expression, pairs)
            - _openings(head, neutral, faces.expression, pairs)
        )
        .abs()
        .mean()
        for pairs in (_LIDS, _LIPS)
    ]
    rotation = shape = float("nan")
    if reading.rotation is not None:
        rotation = float(rotation_error_degrees(reading.rotation.numpy(), faces.rotation.numpy()).mean())
    if reading.shape is not None:
        shape = shape_error(head, reading.shape, faces.shape)
    return RenderScore(
        correlation=float(np.nanmean(units)),
        mae=mean_absolute_error(found, true),
        units=tuple(round(float(x), 3) for x in units),
        lids=float(openings[0]) * 1000,
        lips=float(openings[1]) * 1000,
        rotation=rotation,
        shape=shape,
    )


def _openings(head: HeadModel, shape: Tensor, expression: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """(n,P) how far lids or lips are apart, m."""
    parts = zip(shape.split(64), expression.split(64), strict=True)
    points = torch.cat([head.landmarks(head.unposed(s, e), "mediapipe478") for s, e in parts])
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return (points[:, first] - points[:, second]).norm(dim=-1)


def shape_error(head: HeadModel, found: Tensor, true: Tensor) -> float:
    """Mean distance of the face's vertices of two identities (n,S) after rigid alignment, mm.

    Alignment by least squares (W. Kabsch, 1976), no change of scale.
    """
    face = torch.from_numpy(head.regions["face"])
    basis = head.shapedirs[face]
    template = head.v_template[face]

    def points(shape: Tensor) -> Tensor:
        verts = template + torch.einsum("vks,bs->bvk", basis[..., : shape.shape[1]], shape)
        return verts - verts.mean(1, keepdim=True)

    distances = []
    for a, b in zip(found.split(64), true.split(64), strict=True):
        p, q = points(a), points(b)
        u, _, vt = torch.linalg.svd(p.mT @ q)
        sign = torch.det(u @ vt).sign()
        fix = torch.ones(len(p), 3)
        fix[:, 2] = sign
        distances.append((p @ (u * fix[:, None]) @ vt - q).norm(dim=-1).mean(1))
    return float(torch.cat(distances).mean()) * 1000


def worst_units(
    scores: Mapping[str, RenderScore], name: str, names: Sequence[str], count: int = 8
) -> list[str]:
    """Units that one way reads worst, with their correlations."""
    units = np.array(scores[name].units)
    return [f"{names[k]} {units[k]:.2f}" for k in np.argsort(units)[:count]]
