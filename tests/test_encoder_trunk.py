"""The encoder's trunk in torch against the landmark network that its weights come from, run by LiteRT."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from torch import Tensor, nn

from recon3d.assets import fetch, read_member
from recon3d.encoder.trunk import FaceMaps, FacePoints, FaceTrunk, LandmarkHead, PReLU, _PReLUFunction
from recon3d.errors import AssetError
from recon3d.face import open_face_source
from recon3d.face._crop import warp
from recon3d.face._task import BLENDSHAPES, LANDMARKS, Network, load_network
from recon3d.face.landmarks import INPUT_SIZE, region_around
from recon3d.training.landmark_weights import load_landmark_weights, parse_landmark_weights, pretrained_trunk

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def networks() -> tuple[FaceTrunk, LandmarkHead]:
    return pretrained_trunk()


@pytest.fixture(scope="module")
def reference() -> Network:
    return load_network(LANDMARKS, threads=1)


@pytest.fixture(scope="module")
def flatbuffer() -> bytes:
    return read_member(fetch("face_landmarker"), LANDMARKS, max_bytes=32_000_000)


@pytest.fixture(scope="module")
def crops() -> Floats:
    """(6,256,256,3) in [0, 1]: a real face, mirrored, turned, half out of the crop; noise; grey."""
    pixels = np.array(skimage.data.astronaut())
    (face,) = open_face_source().find(pixels)
    crop = warp(pixels, region_around(face.landmarks), INPUT_SIZE) / np.float32(255)
    noise = np.random.default_rng(5).random(crop.shape, np.float32)
    turned = np.rot90(crop).copy()
    return np.stack((crop, crop[:, ::-1], turned, np.roll(crop, 90, axis=1), noise, np.full_like(crop, 0.5)))


def _images(crops: Floats) -> Tensor:
    """(B,3,H,W) in channels_last, as (B,H,W,3) arrays lie in memory anyway."""
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)


@torch.inference_mode()
def _predict(networks: tuple[FaceTrunk, LandmarkHead], images: Tensor) -> FacePoints:
    trunk, head = networks
    points: FacePoints = head(trunk(images))
    return points


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_landmarks_and_logits_are_those_of_litert(
    networks: tuple[FaceTrunk, LandmarkHead],
    reference: Network,
    crops: Floats,
    layout: torch.memory_format,
) -> None:
    ours = _predict(networks, _images(crops).contiguous(memory_format=layout))
    for index in range(len(crops)):
        theirs = reference(np.ascontiguousarray(crops[index : index + 1]))
        landmarks = theirs["Identity"].reshape(478, 3)
        assert np.abs(ours.landmarks[index].numpy() - landmarks).max() / INPUT_SIZE < 1e-4
        assert float(ours.presence[index]) == pytest.approx(float(theirs["Identity_1"].item()), abs=1e-3)
        tongue = torch.sigmoid(ours.tongue[index])
        assert float(tongue) == pytest.approx(float(theirs["Identity_2"].item()), abs=1e-4)


def test_a_face_is_told_from_noise(networks: tuple[FaceTrunk, LandmarkHead], crops: Floats) -> None:
    presence = _predict(networks, _images(crops)).presence
    assert presence[:2].min() > 2 and presence[4:].max() < -2


def test_a_batch_gives_what_single_images_give(
    networks: tuple[FaceTrunk, LandmarkHead], crops: Floats
) -> None:
    images = _images(crops)
    together = _predict(networks, images)
    alone = [_predict(networks, image[None]) for image in images]
    torch.testing.assert_close(together.landmarks, torch.cat([p.landmarks for p in alone]), atol=1e-3, rtol=0)
    torch.testing.assert_close(together.presence, torch.cat([p.presence for p in alone]), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (192, 192), (256, 256), (320, 192)])
def test_maps_have_the_size_that_their_names_say(
    networks: tuple[FaceTrunk, LandmarkHead], height: int, width: int
) -> None:
    images = torch.rand(2, 3, height, width).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        maps: FaceMaps = networks[0](images)
    assert maps._fields == tuple(f"stride{2**k}" for k in range(1, 8))
    for name, channels in zip(maps._fields, (16, 32, 64, 128, 128, 128, 128), strict=True):
        stride = int(name.removeprefix("stride"))
        values: Tensor = getattr(maps, name)
        assert values.shape == (2, channels, height // stride, width // stride)
        assert values.isfinite().all()


def test_a_larger_crop_has_the_same_features_inside(networks: tuple[FaceTrunk, LandmarkHead]) -> None:
    torch.manual_seed(0)
    large = torch.rand(1, 3, 320, 320)
    with torch.inference_mode():
        inside = networks[0](large[..., 64:, 64:]).stride4
        whole = networks[0](large).stride4[..., 16:, 16:]
    # Away from the cut, whose padding reaches ten cells in.
    torch.testing.assert_close(whole[..., 12:, 12:], inside[..., 12:, 12:], atol=1e-3, rtol=1e-3)


def test_every_weight_feels_the_landmarks(flatbuffer: bytes, crops: Floats) -> None:
    weights = parse_landmark_weights(flatbuffer)
    trunk, head = FaceTrunk(), LandmarkHead()
    trunk.load_state_dict(weights.trunk)
    head.load_state_dict(weights.head)
    images = _images(crops[:2]).requires_grad_()
    points = head(trunk(images))
    (points.landmarks.square().mean() + points.presence.sum() + points.tongue.sum()).backward()
    for name, parameter in [*trunk.named_parameters(), *head.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert images.grad is not None and images.grad.any()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_prelu_has_the_gradients_of_torchs_own(layout: torch.memory_format) -> None:
    torch.manual_seed(1)
    ours, theirs = PReLU(8), nn.PReLU(8)
    values = torch.randn(8)
    grads = []
    x = torch.randn(2, 8, 6, 5).contiguous(memory_format=layout)
    x[0, 0, 0, 0] = 0
    for module in (ours, theirs):
        module.weight.data.copy_(values)
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        assert module.weight.grad is not None and leaf.grad is not None
        grads.append((leaf.grad, module.weight.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_prelu_passes_gradcheck() -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    module = PReLU(3).double()
    assert torch.autograd.gradcheck(module, (x,))
    assert torch.autograd.gradcheck(lambda w: _PReLUFunction.apply(x.detach(), w), (module.weight,))


def test_training_in_bfloat16_gives_float32_gradients(
    networks: tuple[FaceTrunk, LandmarkHead], crops: Floats
) -> None:
    trunk = copy.deepcopy(networks[0])
    with torch.autocast("cpu", torch.bfloat16):
        maps = trunk(_images(crops[:2]))
    maps.stride128.float().square().mean().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_sizes_that_do_not_fit_are_refused(networks: tuple[FaceTrunk, LandmarkHead]) -> None:
    trunk, head = networks
    for shape in [(1, 3, 200, 256), (1, 3, 64, 64), (1, 1, 256, 256), (3, 256, 256)]:
        with pytest.raises(ValueError, match="multiples of 32"):
            trunk(torch.zeros(shape))
    with pytest.raises(ValueError, match="256²"):
        head(trunk(torch.zeros(1, 3, 192, 192)))


# ---- the reader ----


def test_the_inner_file_is_read_as_well(flatbuffer: bytes, tmp_path: Path) -> None:
    path = tmp_path / "landmarks.tflite"
    path.write_bytes(flatbuffer)
    bare, packed = load_landmark_weights(path), load_landmark_weights()
    for one, other in ((bare.trunk, packed.trunk), (bare.head, packed.head)):
        assert one.keys() == other.keys()
        assert all(value.dtype == torch.float32 and torch.equal(value, other[k]) for k, value in one.items())


def test_another_network_is_refused() -> None:
    model = read_member(fetch("face_landmarker"), BLENDSHAPES, max_bytes=32_000_000)
    with pytest.raises(AssetError, match=r"another network or version .* is wanted") as caught:
        parse_landmark_weights(model, label="scores.tflite")
    _one_line(caught.value, "scores.tflite")


@pytest.mark.parametrize("keep", [0, 6, 40, 5_000, 100_000, 1_000_000, 2_400_000])
def test_a_truncated_network_is_refused(flatbuffer: bytes, keep: int) -> None:
    with pytest.raises(AssetError) as caught:
        parse_landmark_weights(flatbuffer[:keep], label="cut.tflite")
    _one_line(caught.value, "cut.tflite")


def test_damage_never_gives_a_traceback(flatbuffer: bytes) -> None:
    """Random bytes among the tables are refused, or hit something that is not read (names, quantisation)."""
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        damaged = np.frombuffer(flatbuffer, np.uint8).copy()
        start = int(rng.integers(len(damaged) - 140_000, len(damaged) - 200))  # the weights come before
        damaged[start : start + 200] = rng.integers(0, 256, 200)
        try:
            parse_landmark_weights(damaged.tobytes(), label="damaged")
        except AssetError as error:
            _one_line(error, "damaged")
            refused += 1
    assert refused > 10


def test_files_that_are_no_task_file_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.task"
    text.write_text("not a network")
    empty = tmp_path / "empty.task"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    for path in (text, empty, tmp_path / "missing.task", tmp_path):
        with pytest.raises(AssetError) as caught:
            load_landmark_weights(path)
        _one_line(caught.value, path.name)


def _one_line(error: AssetError, label: str) -> None:
    assert str(error).startswith(f"{label}: ") and "\n" not in str(error)
