"""The neural renderer that comes with recon3d paints what the geometry says, and has it from nowhere else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.encoder.network import images_of
from recon3d.head import HeadModel
from recon3d.resources import resource_path
from recon3d.synthesis.geometry import Heads, Pose
from recon3d.synthesis.painter import FacePainter
from recon3d.synthesis.scene import Photograph, Scene, SceneBuilder
from recon3d.synthesis.weights import SHIPPED, load_painter
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.synthetic import TRAINING, Faces, SyntheticFaces


@pytest.fixture(scope="module")
def painter(head: HeadModel) -> FacePainter:
    return load_painter(resource_path(SHIPPED), head)


@pytest.fixture(scope="module")
def faces(head: HeadModel) -> Faces:
    """Persons that no training saw."""
    return SyntheticFaces(head, ExpressionSampler(None), TRAINING, seed=11).batch(range(64))


@pytest.fixture(scope="module")
def taken(head: HeadModel, painter: FacePainter, faces: Faces) -> tuple[Scene, Photograph]:
    """Them taken apart, with one in a hundred of their pixels shown, none of eyes and mouth."""
    builder = SceneBuilder(head, painter.config.size, telling=False)
    pose = Pose(faces.rotation, torch.zeros(len(faces.rotation), 3))
    heads = builder.painter.settled(Heads(faces.shape, faces.expression, pose), faces.landmarks)
    size = (painter.config.size, painter.config.size)
    pictures = F.interpolate(images_of(faces.images), size, mode="area")
    chance = torch.Generator().manual_seed(0)
    return builder.own(pictures, faces.landmarks, builder.painter.vertices(heads), chance)


def openings(points: Tensor) -> Tensor:
    """How far lips and lids are apart, (B,2), in parts of the face's height."""
    height = (points[:, 10, :2] - points[:, 152, :2]).norm(dim=1)
    pairs = ((13, 14), (159, 145))
    return torch.stack([(points[:, a, :2] - points[:, b, :2]).norm(dim=1) / height for a, b in pairs], 1)


@torch.inference_mode()
def seen_openings(painter: FacePainter, geometry: Tensor, scene: Scene) -> Tensor:
    """What the landmark network sees of them in painted pictures."""
    painted = painter(geometry, scene.shown, scene.known)
    trunk, landmarks = pretrained_trunk()
    images = F.interpolate(painted, (256, 256), mode="bilinear", align_corners=False)
    return openings(landmarks(trunk(images)).landmarks)


def test_the_expression_comes_from_the_geometry_alone(
    painter: FacePainter, taken: tuple[Scene, Photograph], faces: Faces
) -> None:
    scene, here = taken[0], faces.present
    true = openings(faces.landmarks)[here]

    def agreement(geometry: Tensor) -> list[float]:
        found = seen_openings(painter, geometry, scene)[here]
        return [float(torch.corrcoef(torch.stack((found[:, k], true[:, k])))[0, 1]) for k in (0, 1)]

    (lips, lids), (blind_lips, blind_lids) = agreement(scene.geometry), agreement(scene.geometry * 0)
    print(f"lips {lips:.2f}, lids {lids:.2f}; without the geometry {blind_lips:.2f}, {blind_lids:.2f}")
    # In the true pictures the landmark network sees .79 and .85.
    assert lips > 0.5 and lids > 0.7
    assert blind_lips < 0.3 and blind_lids < 0.3


def test_nothing_of_eyes_and_mouth_is_shown(taken: tuple[Scene, Photograph]) -> None:
    scene, photograph = taken
    known, hidden = scene.known[:, 0], scene.hidden[:, 0] > 0
    assert not bool((photograph.telling & ~hidden).any())
    assert float(known[photograph.telling].sum()) == 0
    assert 0.002 < float(known[hidden].mean()) < 0.08
