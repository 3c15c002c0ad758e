"""The second stage of training, small: both paths learn, and gradients go where they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recon3d.encoder.network import EncoderNetwork
from recon3d.encoder.weights import load_weights, save_weights
from recon3d.errors import AssetError, InputError
from recon3d.head import HeadModel
from recon3d.synthesis.geometry import Heads
from recon3d.synthesis.painter import FacePainter
from recon3d.synthesis.weights import load_painter
from recon3d.training.config import EncoderConfig, Stage2Config, read_stage2_config
from recon3d.training.cycle import Repainted, SynthesisLoss, SynthesisNetwork
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import SynthesisWeights
from recon3d.training.stage2 import Stage2
from recon3d.training.store import FaceStore

SIZE = 64


@pytest.fixture(scope="module")
def encoder(head: HeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that knows nothing yet but sees a face in the middle."""
    torch.manual_seed(0)
    network = EncoderNetwork(EncoderConfig(mixed=64))
    network.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_weights(path, network, head)
    return path


def smoke(folder: Path, passes: float = 8, painting: float = 6) -> Stage2Config:
    config = read_stage2_config("smoke2")
    return replace(
        config,
        data=replace(config.data, folder=str(folder)),
        painting=replace(config.painting, passes=painting),
        learning=replace(config.learning, passes=passes),
    )


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage2, Path]:
    renders, out = tmp_path_factory.mktemp("renders"), tmp_path_factory.mktemp("run")
    run = Stage2(smoke(renders), out, encoder, lambda line: None)
    run.run()
    return run, out


def network_of(run: Stage2, out: Path, head: HeadModel) -> SynthesisNetwork:
    painter = load_painter(out / "painter.safetensors", head)
    return SynthesisNetwork(load_weights(out / "encoder.safetensors", head), pretrained_trunk(), painter)


def test_painting_and_reading_get_better(trained: tuple[Stage2, Path], head: HeadModel) -> None:
    run, out = trained
    store: FaceStore = run.data.held_out["same"]
    torch.manual_seed(1)
    before = SynthesisNetwork(run._before, pretrained_trunk(), FacePainter(run.config.painter))
    first, last = run.score(before, store), run.score(network_of(run, out, head), store)
    assert last.difference < 0.6 * first.difference
    assert {
        "encoder.safetensors",
        "painter.safetensors",
        "scores.json",
        "painting.pt",
        "learning.pt",
        "log",
    } == {p.name for p in out.iterdir()}


def test_a_run_goes_on_where_it_was_cut_off(
    trained: tuple[Stage2, Path], encoder: Path, tmp_path: Path, head: HeadModel
) -> None:
    run, _ = trained
    renders = Path(run.config.data.folder)
    Stage2(smoke(renders, 1), tmp_path / "whole", encoder, lambda line: None).run()
    Stage2(smoke(renders, 0.5), tmp_path / "cut", encoder, lambda line: None).run()
    said: list[str] = []
    Stage2(smoke(renders, 1), tmp_path / "cut", encoder, said.append).run()
    kept = torch.load(tmp_path / "cut" / "learning.pt", weights_only=True)
    assert kept["step"] == 4
    assert load_painter(tmp_path / "cut" / "painter.safetensors", head).config.size == SIZE


class Paths:
    """Both paths on two renders, with a painter that is not trained but reacts to all its inputs."""

    def __init__(self, run: Stage2, weights: SynthesisWeights) -> None:
        torch.manual_seed(3)
        painter = FacePainter(run.config.painter)
        for name, parameter in painter.named_parameters():
            if name.endswith("second.weight"):
                torch.nn.init.normal_(parameter, std=0.05)
        self.encoder = load_weights_trainable(run)
        self.network = SynthesisNetwork(self.encoder, pretrained_trunk(), painter)
        faces = run.data.train.shard(0)
        self.images = images = faces.images[:2].permute(0, 3, 1, 2).float() / 255
        self.points = faces.detected[:2]
        self.pictures = torch.nn.functional.interpolate(images, (SIZE, SIZE), mode="area")
        self.told = self.encoder(images, self.points)
        self.loss = SynthesisLoss(run.head, SIZE, weights, likeness=run.loss._likeness)
        self.losses, self.again = self.reconstruct()

    def reconstruct(self) -> tuple[dict[str, Tensor], Repainted]:
        maps = self.encoder.trunk_maps(self.images, self.points)
        heads = Heads.of(self.told)
        return self.loss.reconstruct(self.network, self.pictures, self.points, heads, maps)


def load_weights_trainable(run: Stage2) -> EncoderNetwork:
    import copy

    network: EncoderNetwork = copy.deepcopy(run._before).requires_grad_(True)
    network.trunk.requires_grad_(False)
    return network


def reaches(loss: Tensor, network: EncoderNetwork) -> float:
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


def test_gradients_reach_the_encoder_only_through_the_geometry(
    trained: tuple[Stage2, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained
    paths = Paths(run, SynthesisWeights())
    assert all(reaches(loss, paths.encoder) > 0 for loss in paths.losses.values())
    # The same without the way through the drawing: nothing is left.
    real = FacePainter.forward

    def still(self: FacePainter, geometry: Tensor, *more: Tensor) -> Tensor:
        return real(self, geometry.detach(), *more)

    monkeypatch.setattr(FacePainter, "forward", still)
    losses, _ = paths.reconstruct()
    assert set(losses) == {"picture", "likeness", "features"}
    assert all(reaches(loss, paths.encoder) == 0 for name, loss in losses.items())


def test_the_cycle_teaches_the_encoder_by_what_it_reads(trained: tuple[Stage2, Path]) -> None:
    run, _ = trained
    paths = Paths(run, SynthesisWeights())
    expression = torch.rand(2, 52)
    losses, painted, read = paths.loss.cycle(
        paths.network, paths.again.photograph, Heads.of(paths.told), expression
    )
    assert painted.shape == (2, 3, SIZE, SIZE) and read.expression.shape == (2, 52)
    assert reaches(losses["cycle"], paths.encoder) > 0
    painter = [p for p in paths.network.painter.parameters() if p.requires_grad]
    grads = torch.autograd.grad(losses["cycle"], painter, allow_unused=True)
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0


def test_losses_that_are_no_numbers_end_the_run(
    trained: tuple[Stage2, Path], encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained
    real = Stage2._losses

    def broken(self, network, lot, known, step):  # type: ignore[no-untyped-def]
        losses = real(self, network, lot, known, step)
        if step == 2:
            losses["total"] = losses["total"] * float("nan")
        return losses

    monkeypatch.setattr(Stage2, "_losses", broken)
    renders = Path(run.config.data.folder)
    with pytest.raises(InputError, match="became no numbers at step 2: lower the rates"):
        Stage2(smoke(renders), tmp_path, encoder, lambda line: None).run()
    Stage2(smoke(renders, 0.5), tmp_path, encoder, lambda line: None).run()  # two steps, and a checkpoint
    with pytest.raises(InputError, match=r"at step 2; .*learning\.pt is from before: lower the rates"):
        Stage2(smoke(renders), tmp_path, encoder, lambda line: None).run()


def test_wrong_painters_are_refused(trained: tuple[Stage2, Path], head: HeadModel, tmp_path: Path) -> None:
    _, out = trained
    with pytest.raises(AssetError, match="no painter weights there"):
        load_painter(tmp_path / "none.safetensors", head)
    with pytest.raises(AssetError, match=r"painter weights of recon3d-encoder/.; recon3d-painter"):
        load_painter(out / "encoder.safetensors", head)
