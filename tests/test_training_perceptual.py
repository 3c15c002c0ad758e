"""The perceptual network in torch against the file that its weights come from, run by LiteRT."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from skimage.filters import gaussian
from torch import Tensor

from recon3d.assets import EFFICIENTNET_LITE0, TRAINING_MANIFEST, fetch, list_assets, read_member
from recon3d.errors import AssetError
from recon3d.face._task import LANDMARKS
from recon3d.training.perceptual import (
    STRIDES,
    WIDTHS,
    PerceptualNetwork,
    perceptual_distance,
    pretrained_perceptual,
)

Floats = npt.NDArray[np.float32]
#: What the file calls the maps of strides 4, 8 and 16.
_INNER = tuple(f"efficientnet-lite0/model/blocks_{block}/Add" for block in (2, 4, 10))


@pytest.fixture(scope="module")
def network() -> PerceptualNetwork:
    return pretrained_perceptual()


@pytest.fixture(scope="module")
def face() -> Floats:
    """(224,224,3) sRGB in [0, 1]."""
    return skimage.data.astronaut()[:224, 110:334].astype(np.float32) / 255


@pytest.fixture(scope="module")
def flatbuffer() -> bytes:
    return fetch("efficientnet_lite0").read_bytes()


def _images(*pictures: Floats) -> Tensor:
    return torch.from_numpy(np.stack(pictures).astype(np.float32)).permute(0, 3, 1, 2)


def _blurred(picture: Floats, sigma: float) -> Floats:
    return gaussian(picture, sigma, channel_axis=-1).astype(np.float32)


def _litert(picture: Floats) -> list[Floats]:
    """Return the file's own inner maps (H,W,C) of a picture (224,224,3) in [0, 1]."""
    from ai_edge_litert.interpreter import Interpreter

    path = str(fetch("efficientnet_lite0"))
    with pytest.warns(UserWarning, match="debugging"):
        interpreter = Interpreter(path, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    values = (picture[None] * 255 - 127) / 128
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values.astype(np.float32))
    interpreter.invoke()
    places = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    return [interpreter.get_tensor(places[name])[0] for name in _INNER]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_maps_are_those_of_litert(
    network: PerceptualNetwork, face: Floats, layout: torch.memory_format
) -> None:
    ours = network(_images(face).contiguous(memory_format=layout))
    for mine, theirs in zip(ours, _litert(face), strict=True):
        apart = np.abs(mine[0].permute(1, 2, 0).numpy() - theirs).max()
        assert apart < 3e-4 * theirs.std()


@pytest.mark.parametrize(("height", "width"), [(128, 128), (160, 224), (16, 32)])
def test_maps_have_the_size_that_their_strides_say(
    network: PerceptualNetwork, height: int, width: int
) -> None:
    maps = network(torch.rand(2, 3, height, width))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(WIDTHS, STRIDES, strict=True)
    ]


def test_a_larger_picture_has_the_same_features_inside(network: PerceptualNetwork) -> None:
    torch.manual_seed(0)
    large = torch.rand(1, 3, 192, 192)
    whole, inside = network(large), network(large[..., 32:160, 32:160])
    for stride, margin, a, b in zip(STRIDES[:2], (4, 5), whole, inside, strict=False):
        start, end = 32 // stride, 160 // stride
        cut = a[..., start:end, start:end]
        inner = slice(margin, -margin)  # the padding reaches that far in
        torch.testing.assert_close(cut[..., inner, inner], b[..., inner, inner], atol=1e-3, rtol=1e-3)


def test_the_network_is_frozen(network: PerceptualNetwork) -> None:
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_other_shapes_are_refused(network: PerceptualNetwork) -> None:
    for shape in [(1, 3, 120, 128), (1, 3, 0, 32), (1, 1, 128, 128), (3, 128, 128)]:
        with pytest.raises(ValueError, match="multiples of 16"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="cannot be compared"):
        perceptual_distance(network, torch.zeros(1, 3, 32, 32), torch.zeros(2, 3, 32, 32))


# ---- the distance ----


def test_pictures_are_no_distance_from_themselves(network: PerceptualNetwork, face: Floats) -> None:
    picture = _images(face)
    assert float(perceptual_distance(network, picture, picture)) == 0


def test_the_distance_grows_with_blur(network: PerceptualNetwork, face: Floats) -> None:
    picture = _images(face)
    apart = [
        float(perceptual_distance(network, _images(_blurred(face, s)), picture)) for s in (0.5, 1, 2, 4, 8)
    ]
    assert apart == sorted(apart)
    assert 0 < apart[0] < 0.1 and 0.3 < apart[2] < apart[4] < 2


def test_blur_counts_more_than_light(network: PerceptualNetwork, face: Floats) -> None:
    """Which is not so pixel by pixel."""
    picture, dark, blurred = _images(face), _images(face * 0.9), _images(_blurred(face, 1))
    assert (dark - picture).square().mean() > (blurred - picture).square().mean()
    light, detail = (perceptual_distance(network, other, picture) for other in (dark, blurred))
    assert 5 * light < detail


def test_a_batch_is_the_mean_of_its_pictures(network: PerceptualNetwork, face: Floats) -> None:
    one, other = _images(face, _blurred(face, 2)), _images(face[:, ::-1], face)
    alone = [perceptual_distance(network, one[k : k + 1], other[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(perceptual_distance(network, one, other), torch.stack(alone).mean())


def test_only_the_painted_picture_gets_gradients(network: PerceptualNetwork, face: Floats) -> None:
    painted, picture = _images(_blurred(face, 2)).requires_grad_(), _images(face).requires_grad_()
    perceptual_distance(network, painted, picture).backward()
    assert picture.grad is None
    assert painted.grad is not None and painted.grad.isfinite().all()
    assert (painted.grad != 0).float().mean() > 0.99
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_gradient_is_that_of_the_distance(network: PerceptualNetwork, face: Floats) -> None:
    picture, start = _images(face[32:160, 32:160]), _images(_blurred(face, 2)[32:160, 32:160])
    painted = start.clone().requires_grad_()
    perceptual_distance(network, painted, picture).backward()
    assert painted.grad is not None
    way = painted.grad / painted.grad.norm()
    step = 2e-4  # the distance bends within a hundred times that
    ahead, behind = (perceptual_distance(network, start + s * way, picture) for s in (step, -step))
    assert float(ahead - behind) / (2 * step) == pytest.approx(float(painted.grad.norm()), rel=0.05)


def test_descending_brings_a_blurred_picture_nearer(network: PerceptualNetwork, face: Floats) -> None:
    picture = _images(face[32:160, 32:160])
    painted = _images(_blurred(face, 1.5)[32:160, 32:160]).requires_grad_()
    optimizer = torch.optim.Adam([painted], lr=5e-3)
    apart = []
    for _ in range(12):
        distance = perceptual_distance(network, painted, picture)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        apart.append(float(distance.detach()))
    assert apart[-1] < 0.5 * apart[0]


def test_flat_pictures_give_finite_gradients(network: PerceptualNetwork, face: Floats) -> None:
    for value in (0.0, 0.5, 1.0):
        painted = torch.full((1, 3, 224, 224), value, requires_grad=True)
        perceptual_distance(network, painted, _images(face)).backward()
        assert painted.grad is not None and painted.grad.isfinite().all()


def test_bfloat16_is_near(network: PerceptualNetwork, face: Floats) -> None:
    painted, picture = _images(_blurred(face, 2)).requires_grad_(), _images(face)
    exact = float(perceptual_distance(network, painted, picture).detach())
    with torch.autocast("cpu", torch.bfloat16):
        distance = perceptual_distance(network, painted, picture)
    distance.backward()
    assert distance.dtype == torch.float32
    assert float(distance.detach()) == pytest.approx(exact, rel=0.08)
    assert painted.grad is not None and painted.grad.isfinite().all()


# ---- the file ----


def test_the_file_is_known_but_left_to_who_trains(flatbuffer: bytes) -> None:
    assert hashlib.sha256(flatbuffer).hexdigest() == EFFICIENTNET_LITE0.sha256
    assert TRAINING_MANIFEST["efficientnet_lite0"] is EFFICIENTNET_LITE0
    assert EFFICIENTNET_LITE0 not in [status.asset for status in list_assets()]
    # The file's own metadata: its licence, and what is taken from values of 0 to 255 and they are divided by.
    assert b"Apache License. Version 2.0" in flatbuffer[:4096]
    assert np.array([128], "<f4").tobytes() + b"\x01\0\0\0" + np.array([127], "<f4").tobytes() in flatbuffer


def test_a_copy_elsewhere_is_read_as_well(
    network: PerceptualNetwork, flatbuffer: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "copy.tflite"
    path.write_bytes(flatbuffer)
    copied = pretrained_perceptual(path).state_dict()
    assert all(torch.equal(value, copied[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("keep", [0, 6, 40, 5_000, 1_000_000, 10_000_000, 18_000_000])
def test_a_truncated_file_is_refused(flatbuffer: bytes, keep: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(flatbuffer[:keep])
    with pytest.raises(AssetError) as caught:
        pretrained_perceptual(path)
    wrong = "is not a TFLite network" if keep < 8 else "is damaged, or not a TFLite network; fetch it anew"
    assert str(caught.value) == f"cut.tflite: {wrong}"


def test_values_that_are_not_numbers_are_refused(flatbuffer: bytes, tmp_path: Path) -> None:
    stem = pretrained_perceptual().stem.weight.flip(2, 3).permute(0, 2, 3, 1).contiguous().numpy()
    start = flatbuffer.index(stem.astype("<f4").tobytes())
    path = tmp_path / "nan.tflite"
    path.write_bytes(flatbuffer[:start] + np.array([np.nan], "<f4").tobytes() + flatbuffer[start + 4 :])
    with pytest.raises(AssetError) as caught:
        pretrained_perceptual(path)
    assert str(caught.value) == "nan.tflite: stem.weight holds values that are not numbers; fetch it anew"


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.tflite"
    path.write_bytes(read_member(fetch("face_landmarker"), LANDMARKS, max_bytes=32_000_000))
    with pytest.raises(AssetError) as caught:
        pretrained_perceptual(path)
    assert str(caught.value) == (
        "landmarks.tflite: holds another network or version (175 layers with weights instead of 49); "
        "EfficientNet-Lite0 float32/1 is wanted"
    )
    with pytest.raises(AssetError, match=r"^face_landmarker\.task: is not a TFLite network$"):
        pretrained_perceptual(fetch("face_landmarker"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"^none\.tflite: cannot be read \(No such file or directory\)$"):
        pretrained_perceptual(tmp_path / "none.tflite")
