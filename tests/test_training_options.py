"""What the second stage can do besides: tokens of appearance, weights by pose, a mask of outliers."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_training_stage2 import SIZE, Paths, network_of, reaches, smoke
from torch import Tensor

import recon3d
from recon3d.conventions import FRONTAL
from recon3d.encoder.network import EncoderNetwork
from recon3d.encoder.weights import save_weights
from recon3d.errors import AssetError, InputError
from recon3d.head import HeadModel
from recon3d.synthesis.geometry import Heads
from recon3d.synthesis.painter import FacePainter, PainterConfig
from recon3d.synthesis.repaint import Repainter
from recon3d.synthesis.weights import load_painter, save_painter
from recon3d.training.config import EncoderConfig, Stage2Config, read_stage2_config
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss, LossWeights, SynthesisWeights
from recon3d.training.outliers import doubted
from recon3d.training.stage2 import Stage2, started_painter
from recon3d.training.synthetic import Faces

SMALL = PainterConfig(size=SIZE, width=16, levels=2)
ALL = replace(SMALL, tokens=6, outliers=True)


def all_options(folder: Path) -> Stage2Config:
    config = smoke(folder, passes=1, painting=1)
    data = replace(config.data, renders=16, held_out=16, shard=16)
    losses, truth = replace(config.losses, outline=1.0), replace(config.truth, outline_by_pose=1.0)
    steps = replace(config.painting, batch=8), replace(config.learning, batch=8)
    return replace(
        config, painter=ALL, data=data, painting=steps[0], learning=steps[1], losses=losses, truth=truth
    )


@pytest.fixture(scope="module")
def trained(head: HeadModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage2, Path]:
    """A run of a few steps with all options on, from an encoder that knows nothing yet."""
    folder = tmp_path_factory.mktemp("options")
    torch.manual_seed(0)
    network = EncoderNetwork(EncoderConfig(mixed=64))
    network.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
    save_weights(folder / "start.safetensors", network, head)
    run = Stage2(all_options(folder), folder / "run", folder / "start.safetensors", lambda line: None)
    run.run()
    return run, folder / "run"


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    geometry, shown, appearance = torch.rand(3, batch, 3, SIZE, SIZE).unbind()
    return geometry, shown, torch.ones(batch, 1, SIZE, SIZE), appearance


def awake(painter: FacePainter) -> FacePainter:
    """A painter that reacts to all its inputs, as a trained one."""
    for name, parameter in painter.named_parameters():
        if name.endswith(("second.weight", "change.weight")):
            torch.nn.init.normal_(parameter, std=0.05)
    return painter


def test_painters_without_options_are_as_they_were() -> None:
    plain, full = FacePainter(SMALL), FacePainter(ALL)
    more = set(full.state_dict()) - set(plain.state_dict())
    assert {name.split(".")[0] for name in more} == {"tokens", "modulate"}
    geometry, shown, known, appearance = inputs()
    with torch.inference_mode():
        assert torch.equal(plain(geometry, shown, known), plain(geometry, shown, known, appearance))


def test_tokens_are_few_and_change_the_whole_picture() -> None:
    torch.manual_seed(0)
    painter = awake(FacePainter(replace(SMALL, tokens=6)))
    geometry, shown, known, appearance = inputs()
    assert [token.shape for token in painter.tokens(appearance)] == [(2, 6)] * 3
    with torch.inference_mode():
        first = painter(geometry, shown, known, appearance)
        second = painter(geometry, shown, known, 0.3 * appearance)
        # Where things are does not count: the same face, mirrored, has nearly the same looks.
        mirrored = painter(geometry, shown, known, appearance.flip(-1))
    assert first.shape == (2, 3, SIZE, SIZE)
    changed = (first - second).abs().mean(1)
    assert float((changed > 0).float().mean()) > 0.9
    assert float((first - mirrored).abs().mean()) < 0.2 * float(changed.mean())
    with pytest.raises(ValueError, match="has to be shown the photograph"):
        painter(geometry, shown, known)


def test_a_new_painter_doubts_little_and_paints_the_same_beside() -> None:
    torch.manual_seed(0)
    painter, given = FacePainter(ALL), inputs()
    with torch.inference_mode():
        picture, doubt = painter.paint_and_doubt(*given)
        assert torch.equal(picture, painter(*given))
    assert picture.shape == (2, 3, SIZE, SIZE) and doubt.shape == (2, 1, SIZE, SIZE)
    assert float(doubt.sigmoid().mean()) < 0.15


def rewritten(path: Path, source: Path, config: dict[str, object]) -> Path:
    with safe_open(source, framework="pt") as file:
        about = file.metadata()
    save_file(load_file(source), path, metadata=about | {"config": json.dumps(config)})
    return path


def test_options_are_kept_in_the_file_and_older_files_still_load(head: HeadModel, tmp_path: Path) -> None:
    save_painter(tmp_path / "full.safetensors", FacePainter(ALL), head)
    again = load_painter(tmp_path / "full.safetensors", head)
    assert again.config == ALL and again.paint_and_doubt(*inputs())[1].shape == (2, 1, SIZE, SIZE)

    plain = tmp_path / "plain.safetensors"
    save_painter(plain, FacePainter(SMALL), head)
    old = {"size": SIZE, "patch": 2, "width": 16, "levels": 2, "blocks": 1}
    assert load_painter(rewritten(tmp_path / "old.safetensors", plain, old), head).config == SMALL
    for wrong in ({"tokens": 6}, {"outliers": True}, {"of later": 1}):
        with pytest.raises(AssetError, match="do not fit this version"):
            load_painter(rewritten(tmp_path / "wrong.safetensors", plain, old | wrong), head)


def test_a_run_with_all_options_writes_a_painter_with_them(
    trained: tuple[Stage2, Path], head: HeadModel
) -> None:
    _, out = trained
    assert load_painter(out / "painter.safetensors", head).config == ALL
    scores = json.loads((out / "scores.json").read_text())
    assert math.isfinite(scores["synthesis"]["difference"]) and math.isfinite(scores["synthesis"]["cycle"])


def test_with_tokens_gradients_still_reach_the_encoder_only_through_the_geometry(
    trained: tuple[Stage2, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained
    paths = Paths(run, SynthesisWeights())
    awake(paths.network.painter)
    losses, again = paths.reconstruct()
    assert all(reaches(loss, paths.encoder) > 0 for loss in losses.values())
    assert again.outliers is not None and len(again.columns()) == 5
    learns = torch.autograd.grad(sum(losses.values()), list(paths.network.painter.tokens.parameters()))
    assert all(float(g.abs().sum()) > 0 for g in learns)

    real = FacePainter._channels

    def still(self: FacePainter, geometry: Tensor, *more: Tensor) -> Tensor:
        return real(self, geometry.detach(), *more)

    monkeypatch.setattr(FacePainter, "_channels", still)
    losses, _ = paths.reconstruct()
    assert all(reaches(loss, paths.encoder) == 0 for loss in losses.values())


def test_other_expressions_are_painted_with_the_looks_of_the_photograph(
    trained: tuple[Stage2, Path], head: HeadModel
) -> None:
    run, out = trained
    paths = Paths(run, SynthesisWeights())
    seen: list[Tensor] = []
    paths.network.painter.tokens.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network = network_of(run, out, head)
    network.painter = paths.network.painter
    paths.loss.cycle(network, paths.again.photograph, Heads.of(paths.told), torch.rand(2, 52))
    assert len(seen) == 1 and torch.equal(seen[0], paths.pictures) and not seen[0].requires_grad


def test_painters_with_options_repaint_photographs(head: HeadModel) -> None:
    torch.manual_seed(0)
    photo = skimage.data.astronaut()
    capture = recon3d.reconstruct(photo)[0]
    repainter = Repainter(head, awake(FacePainter(ALL)), 128)
    portrait = repainter.portrait(photo, capture)
    same, other = repainter.paint(portrait, np.stack([capture.expression[0], np.full(52, 0.3, np.float32)]))
    assert np.array_equal(same, photo) and not np.array_equal(other, photo)


def occluded(side: int = 20) -> tuple[Tensor, Tensor]:
    """Faces of one colour and a little noise, (2,3,side,side), and the bright tenth that covers them."""
    torch.manual_seed(0)
    faces = 0.35 + 0.04 * torch.randn(2, 3, side, side)
    cover = torch.zeros(2, 1, side, side, dtype=torch.bool)
    cover[..., :2, :] = True
    return torch.where(cover, 0.9 + 0.04 * torch.randn_like(faces), faces), cover


def test_what_covers_a_face_is_found_and_not_learned_from() -> None:
    pictures, cover = occluded()
    weights = SynthesisWeights()
    # All that can be painted is one colour; it starts between the face's and the cover's.
    colour = torch.full((2, 3, 1, 1), 0.5, requires_grad=True)
    doubt = torch.full((2, 1, 20, 20), -3.0, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [colour], "lr": 0.02}, {"params": [doubt], "lr": 0.3}])
    for _ in range(80):
        optimizer.zero_grad()
        doubted((colour - pictures).abs(), doubt, weights).sum().backward()
        optimizer.step()
    mask = doubt.detach().sigmoid()
    most = (1 + weights.outlier_prior * weights.outlier_share) / (1 + weights.outlier_prior)
    assert float(mask[cover].mean()) == pytest.approx(most, abs=0.02) and most > 0.8
    assert float(mask[~cover].max()) < 0.05
    assert float((colour.detach() - 0.35).abs().max()) < 0.02

    # What reaches the picture: as much as ever where the face is, nearly nothing where it is covered.
    painted = colour.detach().expand_as(pictures).clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(
        doubted((painted - pictures).abs(), doubt.detach(), weights).sum(), [painted]
    )
    (plain,) = torch.autograd.grad((painted - pictures).abs().mean(1).sum(), [painted])
    share = (grad.abs() / plain.abs().clamp_min(1e-9)).mean(1, keepdim=True)
    assert float(share[cover].max()) < 0.01 and float(share[~cover].min()) > 0.9


def test_the_masks_gradient_is_its_distance_from_the_responsibility() -> None:
    torch.manual_seed(0)
    weights = replace(SynthesisWeights(), outlier_prior=0.0)
    off, doubt = torch.rand(1, 3, 8, 8), torch.randn(1, 1, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(doubted(off, doubt, weights).sum(), [doubt])
    scale, mask = weights.outlier_scale, doubt.detach().sigmoid()
    face = (1 - mask) * (-off / scale).exp().prod(1, keepdim=True) / (2 * scale) ** 3
    assert torch.allclose(grad * 3 / scale, mask - mask / (face + mask), atol=1e-5)
    # With nothing to doubt it is the mean difference.
    sure = doubted(0.2 * off, torch.full_like(doubt, -30.0), weights)
    assert torch.allclose(sure, 0.2 * off.mean(1, keepdim=True), atol=1e-4)


def turned(degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    about_y = torch.tensor(((cos, 0.0, sin), (0.0, 1.0, 0.0), (-sin, 0.0, cos)))
    return torch.tensor(FRONTAL, dtype=torch.float32) @ about_y


def test_landmarks_that_a_pose_hides_weigh_less(head: HeadModel) -> None:
    loss = EncoderLoss(head, 60, torch.full((52,), 0.05), replace(LossWeights(), outline_by_pose=1.0))
    rotations = torch.stack([turned(0), turned(60), turned(-60)])
    weights = loss.shown(rotations)
    assert torch.allclose(weights.mean(1), torch.ones(3))
    ahead = weights[0]
    assert float(ahead.min()) > 0.65 and float(ahead.max()) < 1.1 and float(ahead.std()) < 0.1
    deep = loss.template @ rotations.mT
    for k in (1, 2):
        # The cheeks beside the nose; the one that lies deeper is the far one.
        near, far = sorted((50, 280), key=lambda point: float(deep[k, point, 2]))
        assert float(weights[k, far]) < 0.5 * float(weights[k, near])
        jaw_near, jaw_far = sorted((58, 288), key=lambda point: float(deep[k, point, 2]))
        assert float(weights[k, jaw_far]) < 0.1 < 1 < float(weights[k, jaw_near])
    assert torch.allclose(weights[1].sort()[0], weights[2].sort()[0], atol=0.05)


def test_weights_by_pose_change_the_outline_alone_and_by_degrees(
    trained: tuple[Stage2, Path], head: HeadModel
) -> None:
    run, _ = trained
    paths = Paths(run, SynthesisWeights())
    told = paths.told._replace(rotation=turned(50).expand(2, -1, -1).clone().requires_grad_(True))
    kept = run.data.train.shard(0)
    faces = Faces(**{part.name: getattr(kept, part.name)[:2] for part in fields(kept)})

    @torch.no_grad()
    def losses(strength: float) -> dict[str, Tensor]:
        weights = replace(LossWeights(), outline_by_pose=strength)
        return EncoderLoss(head, told.shape.shape[1], torch.full((52,), 0.05), weights).photographs(
            told, faces
        )

    none, half, full = losses(0.0), losses(0.5), losses(1.0)
    name = "photographs: outline"
    assert float(half[name]) == pytest.approx(float(none[name] + full[name]) / 2, rel=1e-4)
    assert float(full[name]) != pytest.approx(float(none[name]), rel=1e-3)
    assert torch.equal(none["photographs: landmarks"], full["photographs: landmarks"])


def test_options_are_switched_on_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text(
        "[painter]\ntokens = 8\noutliers = true\n[losses]\noutlier_share = 0.05\noutline = 1\n"
        "[truth]\noutline_by_pose = 1\n"
    )
    config = read_stage2_config(path)
    assert config.painter.tokens == 8 and config.painter.outliers
    assert config.losses.outlier_share == 0.05 and config.truth.outline_by_pose == 1
    path.write_text("[losses]\noutlier_share = 0\n")
    with pytest.raises(InputError, match="0 < outlier_share < 1"):
        read_stage2_config(path)
    path.write_text("[painter]\ntokens = -1\n")
    with pytest.raises(InputError, match="tokens must not be negative"):
        read_stage2_config(path)


def test_a_painter_may_start_from_one_that_lacks_what_is_new(head: HeadModel, tmp_path: Path) -> None:
    plain, more = PainterConfig(size=32, width=16, levels=1), {"tokens": 4, "outliers": True}
    known = FacePainter(plain).eval()
    save_painter(tmp_path / "plain.safetensors", known, head)
    started = started_painter(tmp_path / "plain.safetensors", replace(plain, **more), head).eval()  # type: ignore[arg-type]
    scene = (torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32))
    with torch.no_grad():
        wanted, found = known(*scene), started(*scene, torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)  # kept in half precision
    with pytest.raises(AssetError, match="a painter of other sizes"):
        started_painter(tmp_path / "plain.safetensors", replace(plain, width=24), head)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[painter]\nsize = 100", r"\[painter\]: a painter's size must be a multiple of 16: 96, not 100"),
        ("share = 0.3\nshare_most = 0.2", "0 < share <= share_most <= 1 must hold"),
        ("[losses]\noutlier_share = 2.0", "0 < outlier_share < 1"),
    ],
)
def test_values_that_cannot_be_are_told_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_stage2_config(path)
