"""Synthetic faces: the truth that comes with them is that of the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon3d.conventions import ARKIT_NAMES
from recon3d.expressions import settle
from recon3d.face._task import LANDMARKS, load_network
from recon3d.head import HeadModel
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.mirror import Mirror
from recon3d.training.synthetic import OTHER, TRAINING, Faces, SyntheticFaces
from recon3d.training.synthetic.canvas import Canvas, lookup, unroll
from recon3d.training.synthetic.people import Identifier, draw_people

CLEAN = replace(
    TRAINING, wear=0.0, close=0.0, covered=0.0, nothing=0.0, glasses=0.0, framing=0.0, yaw=15.0, pitch=8.0
)
K = {name: k for k, name in enumerate(ARKIT_NAMES)}


@pytest.fixture(scope="module")
def made(head: HeadModel) -> Faces:
    network = load_network(LANDMARKS, threads=1)
    return SyntheticFaces(head, settings=CLEAN, seed=3, landmarks=network).batch(range(16))


def test_same_seed_same_picture_whatever_else_is_made(head: HeadModel) -> None:
    maker = SyntheticFaces(head, seed=7)
    together, alone = maker.batch(range(3)), maker.batch([2])
    assert torch.equal(together.images[2], alone.images[0])
    assert torch.equal(together.expression[2], alone.expression[0])
    other = SyntheticFaces(head, seed=8).batch([2])
    assert not torch.equal(other.images, alone.images)


def test_shapes_and_ranges(made: Faces) -> None:
    assert made.images.shape == (16, 256, 256, 3) and made.images.dtype == torch.uint8
    assert made.expression.shape == (16, 52) and float(made.expression.min()) >= 0
    assert float(made.expression.max()) <= 1
    eye = made.rotation @ made.rotation.mT
    torch.testing.assert_close(eye, torch.eye(3).expand(16, 3, 3), atol=1e-5, rtol=0)
    assert bool(made.present.all())
    assert float(made.images.float().std(dim=(1, 2, 3)).min()) > 3  # none is blank


def test_the_truth_is_where_a_landmark_network_sees_it(made: Faces) -> None:
    """An independent network, which knows nothing of our truth, finds the landmarks near it."""
    apart = (made.detected - made.landmarks)[..., :2].norm(dim=-1).mean(1)
    assert float(apart.median()) < 0.02
    depth = torch.corrcoef(torch.stack((made.detected[..., 2].flatten(), made.landmarks[..., 2].flatten())))
    assert float(depth[0, 1]) > 0.8


def test_eyes_are_level_and_the_face_fills_its_share(made: Faces) -> None:
    eyes = made.landmarks[:, 263, :2] - made.landmarks[:, 33, :2]
    assert float(torch.atan2(eyes[:, 1], eyes[:, 0]).abs().max()) < 0.01
    low, high = made.landmarks[..., :2].amin(1), made.landmarks[..., :2].amax(1)
    torch.testing.assert_close((high - low).amax(1), torch.full((16,), 1 / 1.5), atol=0.01, rtol=0)
    torch.testing.assert_close((low + high) / 2, torch.full((16, 2), 0.5), atol=0.01, rtol=0)


def test_a_closed_eye_and_an_open_mouth_show_in_the_landmarks(head: HeadModel) -> None:
    maker = SyntheticFaces(head, settings=CLEAN, seed=11)
    faces = maker.batch(range(48))
    eye = (faces.landmarks[:, 159, :2] - faces.landmarks[:, 145, :2]).norm(dim=1)
    mouth = (faces.landmarks[:, 13, :2] - faces.landmarks[:, 14, :2]).norm(dim=1)
    blink, jaw = faces.expression[:, K["eyeBlinkRight"]], faces.expression[:, K["jawOpen"]]
    assert float(torch.corrcoef(torch.stack((eye, blink)))[0, 1]) < -0.7
    assert float(torch.corrcoef(torch.stack((mouth, jaw)))[0, 1]) > 0.6


def test_pictures_without_a_face_are_marked(head: HeadModel) -> None:
    nothing = SyntheticFaces(head, settings=replace(TRAINING, nothing=1.0), seed=1).batch(range(4))
    assert not bool(nothing.present.any())


def test_other_settings_reach_beyond_the_training_range(head: HeadModel) -> None:
    rngs = [np.random.default_rng(k) for k in range(40)]
    inside = draw_people(head, TRAINING, rngs).shape.std(1)
    outside = draw_people(head, OTHER, [np.random.default_rng(k) for k in range(40)]).shape.std(1)
    assert float(outside.min()) > float(inside.median())
    assert float(outside.mean()) > float(inside.max())


def test_identity_is_found_again_where_the_head_can_show_it(head: HeadModel) -> None:
    people = draw_people(head, replace(TRAINING, warp=0.0), [np.random.default_rng(k) for k in range(3)])
    torch.testing.assert_close(Identifier(head).nearest(people), people.shape)


def test_expressions_reach_every_unit_and_forbid_what_no_face_shows() -> None:
    rng, sampler = np.random.default_rng(0), ExpressionSampler()
    rows = np.stack([sampler.draw(rng) for _ in range(3000)])
    assert rows.min() >= 0 and rows.max() <= 1
    often = (rows > 0.2).mean(0)
    assert often.min() > 0.015, ARKIT_NAMES[int(often.argmin())]
    for a, b in (
        ("jawLeft", "jawRight"),
        ("eyeLookUpLeft", "eyeLookDownLeft"),
        ("eyeBlinkLeft", "eyeWideLeft"),
    ):
        assert not ((rows[:, K[a]] > 0) & (rows[:, K[b]] > 0)).any()
    assert (rows[:, K["mouthClose"]] <= rows[:, K["jawOpen"]] + 1e-6).all()


def test_recordings_are_shared_between_training_and_evaluation() -> None:
    """Rows of a recording that training draws from are never those of evaluation."""
    recorded = np.zeros((1000, 52), np.float32)
    recorded[:, K["jawOpen"]] = np.arange(1000) // 100 % 2  # 1 in odd stretches
    for odd in (False, True):
        sampler = ExpressionSampler(recorded, odd)
        rng = np.random.default_rng(0)
        drawn = np.stack([sampler._recorded(recorded, rng) for _ in range(200)])
        assert ((drawn[:, K["jawOpen"]] > 0) == odd).all()


def test_settle_keeps_the_stronger_of_two_that_undo_each_other() -> None:
    values = np.zeros(52, np.float32)
    values[[K["mouthSmileLeft"], K["mouthFrownLeft"]]] = 0.7, 0.3
    values[K["mouthClose"]] = 0.5
    settled = settle(values)
    assert settled[K["mouthSmileLeft"]] == pytest.approx(0.7) and settled[K["mouthFrownLeft"]] == 0
    assert settled[K["mouthClose"]] == 0


def test_mirror_turns_truth_and_picture_alike(head: HeadModel, made: Faces) -> None:
    mirror = Mirror.of(head)
    twice = mirror(mirror(made))
    for name in ("images", "shape", "expression", "rotation"):
        assert torch.equal(getattr(twice, name), getattr(made, name)), name
    turned = mirror(made)
    # The mirrored parameters draw the mirrored landmarks.
    verts = head.unposed(turned.shape, turned.expression)
    straight = head.unposed(made.shape, made.expression)
    flip = torch.tensor((-1.0, 1.0, 1.0))
    torch.testing.assert_close(verts, straight[:, head.mirror] * flip, atol=2e-4, rtol=0)
    torch.testing.assert_close(
        (verts @ turned.rotation.mT)[..., 1:],
        (straight[:, head.mirror] @ made.rotation.mT)[..., 1:],
        atol=3e-4,
        rtol=0,
    )
    assert float((turned.landmarks[:, 33, 0] - (1 - made.landmarks[:, 263, 0])).abs().max()) < 1e-6


def test_paint_lands_where_it_belongs(head: HeadModel) -> None:
    canvas = Canvas.of(head)
    points = unroll(head.landmarks(head.v_template[None], "mediapipe478")[0])
    places = {
        "cheeks": (canvas.cheeks, 50, 10), "nose": (canvas.nose, 1, 50), "chin": (canvas.chin, 199, 1),
        "moustache": (canvas.moustache, 164, 152),
    }  # fmt: skip
    for name, (mask, inside, outside) in places.items():
        there, elsewhere = lookup(mask[None], points[[inside, outside]])[:, 0].tolist()
        assert there > 0.5 > 0.2 > elsewhere, name
    for side, index in (("Right", 105), ("Left", 334)):
        curve = canvas.brows[side]
        off = torch.full((256, 256), 1.0)
        off[curve.window] = curve.off.abs()
        assert float(lookup(off[None], points[[index]])) < 0.005
