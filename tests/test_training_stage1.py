"""The first stage of training, small: it learns, goes on where it was cut off, and refuses what is wrong."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from recon3d.encoder.network import EncoderNetwork
from recon3d.encoder.weights import load_weights, save_weights
from recon3d.errors import AssetError, InputError
from recon3d.head import HeadModel
from recon3d.training.config import DataConfig, Stage1Config, read_config, read_stage2_config
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.source import Source
from recon3d.training.stage1 import Stage1, score
from recon3d.training.store import RenderStore, StoreSpec, batches
from recon3d.training.synthetic import TRAINING


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("renders")


def smoke(renders: Path, *, batch: int = 32, passes: float = 4) -> Stage1Config:
    config = read_config("smoke")
    data = replace(config.data, folder=str(renders), renders=128, held_out=32, shard=32)
    reading = replace(config.reading, batch=batch, passes=passes)
    return replace(config, data=data, reading=reading, whole=replace(config.whole, batch=batch))


@pytest.fixture(scope="module")
def trained(renders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage1, Path, list[str]]:
    out, said = tmp_path_factory.mktemp("run"), list[str]()
    run = Stage1(smoke(renders, passes=8), out, said.append)
    run.run()
    return run, out, said


def fresh(config: Stage1Config) -> EncoderNetwork:
    torch.manual_seed(0)
    network = EncoderNetwork(config.network)
    network.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
    return network


def test_the_loss_falls_on_faces_it_never_saw(
    trained: tuple[Stage1, Path, list[str]], head: HeadModel
) -> None:
    run, out, _ = trained
    loss = EncoderLoss(head, run.config.network.shapes, run.data.unit_variance())
    before = run.score(fresh(run.config), loss, "same")
    after = run.score(load_weights(out / "encoder.safetensors", head), loss, "same")
    assert after.loss < 0.85 * before.loss
    assert after.rotation < before.rotation


def test_what_a_run_leaves_behind(trained: tuple[Stage1, Path, list[str]]) -> None:
    _, out, _ = trained
    assert {"encoder.safetensors", "scores.json", "reading.pt", "whole.pt", "log"} == {
        p.name for p in out.iterdir()
    }
    assert any((out / "log").iterdir())


@pytest.mark.parametrize("part", ["reading", "whole"])
def test_a_run_that_was_cut_off_goes_on_as_if_nothing_had_happened(
    renders: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke(renders, passes=2)  # 8 steps
    config = replace(config, **{"whole" if part == "reading" else "reading": replace(config.whole, passes=0)})
    whole = Stage1(config, tmp_path / "whole", lambda line: None)
    whole.run()

    cut = Stage1(config, tmp_path / "cut", lambda line: None)
    real = Source.lots
    with monkeypatch.context() as patch:
        patch.setattr(Source, "lots", lambda self, step: islice(real(self, step), 5))
        cut.run()  # ends after five steps, its checkpoint written
    again = Stage1(config, tmp_path / "cut", lambda line: None)
    again.run()
    first = load_weights(tmp_path / "whole" / "encoder.safetensors").state_dict()
    second = load_weights(tmp_path / "cut" / "encoder.safetensors").state_dict()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=2e-3, rtol=2e-3, msg=name)


def test_a_checkpoint_of_another_network_is_refused(renders: Path, tmp_path: Path) -> None:
    (tmp_path / "reading.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint of this configuration; remove it"):
        Stage1(smoke(renders), tmp_path, lambda line: None).run()


def test_renders_are_kept_and_made_once(renders: Path, trained: tuple[Stage1, Path, list[str]]) -> None:
    run, _, _ = trained
    files = {p: p.stat().st_mtime_ns for p in renders.rglob("*.npy")}
    said: list[str] = []
    run.data.train.make(4, 1, said.append)
    assert not said and files == {p: p.stat().st_mtime_ns for p in renders.rglob("*.npy")}


def test_batches_go_through_everything_once(renders: Path, trained: tuple[Stage1, Path, list[str]]) -> None:
    run, _, _ = trained
    seen = [
        row
        for b in batches(run.data.train, range(4), 16, np.random.default_rng(0))
        for row in b.faces.shape[:, 0].tolist()
    ]
    every = [row for k in range(4) for row in run.data.train.shard(k).shape[:, 0].tolist()]
    assert sorted(seen) == sorted(every)
    again = [
        row
        for b in batches(run.data.train, range(4), 16, np.random.default_rng(0))
        for row in b.faces.shape[:, 0].tolist()
    ]
    assert seen == again


def test_a_store_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    spec = StoreSpec(TRAINING, 1)
    names = {spec.digest(), replace(spec, seed=2).digest(), replace(spec, odd=True).digest()}
    names.add(replace(spec, settings=replace(TRAINING, hair=0.1)).digest())
    assert len(names) == 4
    assert RenderStore(tmp_path, spec).folder == RenderStore(tmp_path, replace(spec)).folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nrendrs = 3\n", "'rendrs' does not exist; choose of"),
        ("[reading]\nbatch = 'many'\n", "'batch' must be of type int, not 'many'"),
        ("[reading]\nbatch = true\n", "'batch' must be of type int"),
        ("data = 3\n", "'data' must be a table"),
        ("[data]\nphotographs = 'a.zip, b'\n", "'photographs' must be a list of texts, not 'a.zip, b'"),
        ("[data]\nphotographs = ['a.zip', 3]\n", "'photographs' must be a list of texts, not"),
        ("data = [\n", "not a TOML file"),
    ],
)
def test_a_wrong_configuration_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config(tmp_path / "wrong.toml")
    assert "\n" not in str(caught.value).strip()


def test_a_missing_configuration_names_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"one of smoke, stage1$"):
        read_config("nonesuch")
    with pytest.raises(InputError, match=r"one of smoke2, stage2$"):
        read_stage2_config("nonesuch")
    assert read_config("stage1").data != DataConfig(renders=1)


# ---- weights ----


def test_weights_come_back_as_they_were(head: HeadModel, tmp_path: Path) -> None:
    network = fresh(read_config("smoke")).eval()
    save_weights(tmp_path / "w.safetensors", network, head)
    again = load_weights(tmp_path / "w.safetensors", head)
    images, points = torch.rand(2, 3, 256, 256), torch.rand(2, 478, 3)
    with torch.no_grad():
        first, second = network(images, points), again(images, points)
    torch.testing.assert_close(second.expression, first.expression, atol=5e-3, rtol=0)
    assert not any(p.requires_grad for p in again.parameters())


def test_wrong_weights_are_refused_in_one_line(head: HeadModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = fresh(read_config("smoke"))
    good = tmp_path / "good.safetensors"
    save_weights(good, network, head)
    with safe_open(good, framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    truncated, other, older, less = (tmp_path / f"{n}.safetensors" for n in ("cut", "other", "older", "less"))
    truncated.write_bytes(good.read_bytes()[:-1000])
    save_file(tensors, other, metadata=about | {"head": "00000000"})
    save_file(tensors, older, metadata=about | {"format": "recon3d-encoder/0"})
    save_file(dict(list(tensors.items())[5:]), less, metadata=about)
    for path, message in (
        (tmp_path / "none.safetensors", "no encoder weights there"),
        (truncated, "damaged, or not a safetensors file; train or fetch it anew"),
        (other, f"encoder weights for the head 00000000; {head.form} is wanted"),
        (older, "encoder weights of recon3d-encoder/0; recon3d-encoder/3 is wanted"),
        (less, "do not fit this version of recon3d"),
    ):
        with pytest.raises(AssetError, match=message) as caught:
            load_weights(path, head)
        assert "\n" not in str(caught.value)


def test_score_tells_a_perfect_encoder_from_a_bad_one(
    trained: tuple[Stage1, Path, list[str]], head: HeadModel
) -> None:
    run, _, _ = trained

    class Knowing(EncoderNetwork):
        """Tells the truth, which it looks up by the landmarks."""

        def forward(self, images, points, maps=None):  # type: ignore[no-untyped-def]
            told = super().forward(images, points, maps)
            truth = run_store.shard(0)
            rows = torch.stack([(truth.detected - p).abs().sum((1, 2)).argmin() for p in points])
            return told._replace(expression=truth.expression[rows], rotation=truth.rotation[rows])

    run_store = RenderStore(renders_of(run), run.data.held_out["same"].spec)
    loss = EncoderLoss(head, run.config.network.shapes, run.data.unit_variance())
    found = score(Knowing(run.config.network), loss, run_store, 1)
    assert found.correlation == pytest.approx(1) and found.mae == pytest.approx(0, abs=1e-6)
    assert found.rotation == pytest.approx(0, abs=0.05)


def renders_of(run: Stage1) -> Path:
    return Path(run.config.data.folder)
