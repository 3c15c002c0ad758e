"""The encoder at work: what is cut out, what it tells, and how photographs and clips use it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from recon3d.conventions import ARKIT_NAMES
from recon3d.encoder.ask import Asked
from recon3d.encoder.crop import CROP_MARGIN, CROP_SIZE, cut_out, face_region
from recon3d.encoder.encoder import FaceEncoder
from recon3d.encoder.network import (
    MAPS,
    EncoderConfig,
    EncoderNetwork,
    FaceFrame,
    Usual,
    Window,
    _cut,
    images_of,
)
from recon3d.face import Face, open_face_source
from recon3d.face.tracks import Sighting

ASTRONAUT: np.ndarray = skimage.data.astronaut()


@pytest.fixture(scope="module")
def face() -> Face:
    (found,) = open_face_source("mediapipe").find(ASTRONAUT)
    return found


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    """An encoder with random weights: its answers mean nothing, but they are answers."""
    torch.manual_seed(0)
    return FaceEncoder(EncoderNetwork(EncoderConfig(mixed=64)).eval())


def turned(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The astronaut turned about the picture's middle, and the matrix that turns points."""
    picture = np.asarray(Image.fromarray(ASTRONAUT).rotate(degrees, Image.Resampling.BILINEAR))
    angle = np.deg2rad(-degrees)
    return picture, np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))


@pytest.mark.parametrize("degrees", [0.0, 25.0, -60.0])
def test_the_cut_out_shows_the_face_level_whatever_its_roll(face: Face, degrees: float) -> None:
    picture, turn = turned(degrees)
    points = face.landmarks.copy()
    points[:, :2] = (points[:, :2] - 256) @ turn.T + 256
    cut = cut_out(picture, points)
    assert cut.pixels.shape == (CROP_SIZE, CROP_SIZE, 3) and cut.points.shape == (478, 3)
    eyes = cut.points[263, :2] - cut.points[33, :2]
    assert abs(np.arctan2(eyes[1], eyes[0])) < 1e-4
    low, high = cut.points[:, :2].min(0), cut.points[:, :2].max(0)
    np.testing.assert_allclose((low + high) / 2, 0.5, atol=1e-4)
    assert (high - low).max() == pytest.approx(1 / CROP_MARGIN, abs=1e-4)
    straight = cut_out(ASTRONAUT, face.landmarks)
    np.testing.assert_allclose(cut.points, straight.points, atol=1e-3)
    apart = np.abs(cut.pixels.astype(float) - straight.pixels)[40:216, 40:216]
    assert apart.mean() < 8  # two interpolations


@pytest.mark.parametrize("scale", [1, 3, 8])
def test_the_cut_out_does_not_depend_on_the_picture_s_size(face: Face, scale: int) -> None:
    large = np.asarray(Image.fromarray(ASTRONAUT).resize((512 * scale,) * 2, Image.Resampling.BICUBIC))
    cut, same = cut_out(large, face.landmarks * np.float32(scale)), cut_out(ASTRONAUT, face.landmarks)
    np.testing.assert_allclose(cut.points, same.points, atol=1e-4)
    assert np.abs(cut.pixels.astype(float) - same.pixels).mean() < 5


def test_a_face_at_the_edge_is_cut_out_all_the_same(face: Face) -> None:
    moved = face.landmarks + np.float32([-400, 300, 0])
    cut = cut_out(ASTRONAUT, moved)
    assert cut.pixels.shape == (256, 256, 3)
    large = np.asarray(Image.fromarray(ASTRONAUT).resize((4096, 4096)))
    assert cut_out(large, moved * np.float32(8)).pixels.shape == (256, 256, 3)


def test_the_region_encloses_the_landmarks(face: Face) -> None:
    region = face_region(face.landmarks)
    corners = region.to_image([[0, 0], [1, 0], [1, 1], [0, 1]])
    low, high = corners.min(0), corners.max(0)
    assert (face.landmarks[:, :2] > low).all() and (face.landmarks[:, :2] < high).all()


def test_what_is_told_has_its_ranges(encoder: FaceEncoder, face: Face) -> None:
    told = encoder.tell([cut_out(ASTRONAUT, face.landmarks)] * 3)
    assert told.expression.shape == told.variance.shape == (3, 52)
    assert told.expression.min() >= 0 and told.expression.max() <= 1 and (told.variance > 0).all()
    np.testing.assert_allclose(
        told.rotation @ told.rotation.transpose(0, 2, 1), np.eye(3)[None].repeat(3, 0), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(told.rotation), 1, atol=1e-5)
    assert ((told.presence >= 0) & (told.presence <= 1)).all()


def test_nobody_to_tell_of(encoder: FaceEncoder) -> None:
    told = encoder.tell([])
    assert told.expression.shape == (0, 52) and told.rotation.shape == (0, 3, 3)


def test_batches_do_not_matter(encoder: FaceEncoder, face: Face) -> None:
    cuts = [cut_out(ASTRONAUT, face.landmarks + np.float32([k, 0, 0])) for k in range(19)]
    together = encoder.tell(cuts)
    alone = np.concatenate([encoder.tell([cut]).expression for cut in cuts])
    np.testing.assert_allclose(together.expression, alone, atol=1e-4)


def test_a_clip_s_faces_are_told_of_in_their_order(encoder: FaceEncoder, face: Face) -> None:
    asked = Asked(encoder)
    moved = [Face(face.box, 1.0, face.landmarks + np.float32([3 * k, 0, 0]), face.kind) for k in range(40)]
    for k in range(0, 40, 2):
        both = [Sighting(one, moved[k + one], 1.0, 1.0) for one in (0, 1)]
        asked.about(ASTRONAUT, k * 0.2, both)
    asked.about(ASTRONAUT, 9.0, [])
    told = asked.told()
    wanted = encoder.tell([cut_out(ASTRONAUT, one.landmarks) for one in moved])
    np.testing.assert_allclose(told.expression, wanted.expression, atol=1e-4)
    np.testing.assert_allclose(told.variance, wanted.variance, atol=1e-4, rtol=1e-3)


def test_between_the_frames_asked_about_what_was_told_is_carried_over(
    encoder: FaceEncoder, face: Face
) -> None:
    asked = Asked(encoder)
    moved = [Face(face.box, 1.0, face.landmarks + np.float32([9 * k, 0, 0]), face.kind) for k in range(5)]
    for k, one in enumerate(moved):  # every second one is asked about
        newcomer = [Sighting(7, face, 1.0, 1.0)] if k == 3 else []
        asked.about(ASTRONAUT, k / 15, [Sighting(0, one, 1.0, 1.0), *newcomer])
    told, variance = asked.told()
    alone = encoder.tell([cut_out(ASTRONAUT, one.landmarks) for one in (moved[0], moved[2], moved[4], face)])
    first, second, third, other = alone.expression
    wanted = [first, (first + second) / 2, second, (second + third) / 2, other, third]
    np.testing.assert_allclose(told, wanted, atol=1e-4)
    doubt = (alone.variance[0] + alone.variance[1]) / 2 + (first - second) ** 2 / 4
    slow = np.array([not name.startswith("eyeBlink") for name in ARKIT_NAMES])
    np.testing.assert_allclose(variance[1][slow], doubt[slow], rtol=1e-3, atol=1e-6)
    # A blink may have come and gone in a fifteenth of a second.
    assert (variance[1][~slow] > doubt[~slow] + 0.2).all()
    np.testing.assert_allclose(variance[0], alone.variance[0], rtol=1e-3, atol=1e-6)


def test_nobody_in_a_clip_to_ask_about(encoder: FaceEncoder) -> None:
    asked = Asked(encoder)
    asked.about(ASTRONAUT, 0.0, [])
    assert asked.told().expression.shape == (0, 52)


def test_the_frame_of_a_face_is_left_as_it_was_entered(face: Face) -> None:
    points = torch.from_numpy(cut_out(ASTRONAUT, face.landmarks).points)[None]
    frame = FaceFrame.of(points)
    inside = frame.enter(points)
    assert inside.abs().max() < 4 and inside.std() > 0.3
    torch.testing.assert_close(frame.leave(inside), points)


def test_close_looks_are_where_the_landmarks_are() -> None:
    """A map that holds its own coordinates is read at known places."""
    cells = (torch.arange(32) + 0.5) / 32
    fine = torch.stack(torch.meshgrid(cells, cells, indexing="xy"))[None].expand(2, -1, -1, -1)
    middle, unit = torch.tensor([[0.4, 0.5], [0.6, 0.45]]), torch.tensor([0.3, 0.4])
    window = Window((0,), 4, 6, 0.5)
    seen = _cut(fine, middle, unit, window)
    assert seen.shape == (2, 2, 4, 6)
    torch.testing.assert_close(seen.mean((2, 3)), middle)
    step = unit * window.width / window.columns
    torch.testing.assert_close(seen[:, 0, 0, 1] - seen[:, 0, 0, 0], step)
    torch.testing.assert_close(seen[:, 1, 1, 0] - seen[:, 1, 0, 0], step)


def test_what_the_trunk_saw_serves_in_place_of_the_picture(encoder: FaceEncoder, face: Face) -> None:
    network = encoder._network
    cut = cut_out(ASTRONAUT, face.landmarks)
    images, points = images_of(torch.from_numpy(cut.pixels)[None]), torch.from_numpy(cut.points)[None]
    with torch.no_grad():
        maps = network.trunk_maps(images, points)
        first, second = network(images, points), network(torch.zeros_like(images), points, maps)
    assert maps.shape == (1, MAPS)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_noise_is_for_training_alone(face: Face) -> None:
    torch.manual_seed(0)
    network = EncoderNetwork(EncoderConfig(mixed=64, noise=0.5, dropout=0.0)).eval()
    cut = cut_out(ASTRONAUT, face.landmarks)
    images, points = images_of(torch.from_numpy(cut.pixels)[None]), torch.from_numpy(cut.points)[None]
    with torch.no_grad():
        calm = [network(images, points).shape for _ in range(2)]
        rough = [network.train()(images, points).shape for _ in range(2)]
    torch.testing.assert_close(calm[0], calm[1], atol=0, rtol=0)
    assert not torch.equal(rough[0], rough[1])


def test_numbers_are_measured_by_what_is_usual() -> None:
    usual = Usual(3)
    numbers = torch.randn(1000, 3) * torch.tensor([0.1, 1.0, 10.0]) + 5
    torch.testing.assert_close(usual(numbers), numbers.clamp(-10, 10))
    usual.settle(numbers)
    measured = usual(numbers)
    torch.testing.assert_close(measured.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(measured.std(0), torch.ones(3), atol=0.1, rtol=0)
    assert usual(numbers * 1e6).abs().max() == 10


def test_a_crop_without_a_face_is_doubted(encoder: FaceEncoder, face: Face) -> None:
    """The less sure the encoder is that there is a face, the larger the error that it expects."""
    told = encoder.tell([cut_out(ASTRONAUT, face.landmarks)])
    network = copy.deepcopy(encoder._network)
    with torch.no_grad():
        network.out.bias[-1] -= 12
    doubted = FaceEncoder(network).tell([cut_out(ASTRONAUT, face.landmarks)])
    assert doubted.presence[0] < 0.01 < told.presence[0]
    np.testing.assert_allclose(doubted.expression, told.expression, atol=1e-6)
    assert (doubted.variance > 10 * told.variance).all()


def test_the_onnx_file_tells_the_same(encoder: FaceEncoder, tmp_path: Path) -> None:
    import onnxruntime

    from recon3d.encoder.onnx import INPUTS, OUTPUTS, export_onnx

    network = encoder._network
    export_onnx(network, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for count in (1, 4):  # neither is what it was exported with
        images, points = torch.rand(count, 3, 256, 256), torch.rand(count, 478, 3)
        told = session.run(None, dict(zip(INPUTS, (images.numpy(), points.numpy()), strict=True)))
        with torch.no_grad():
            wanted = network(images, points)
        for name, found, right in zip(OUTPUTS, told, wanted, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-4, err_msg=name)
