"""The second stage of training: analysis by neural synthesis (G. Retsinas et al., SMIRK, 2024).

The encoder tells what it sees in a face, the rasterizer draws that in grey, and a painter paints the face
again from the drawing, its surroundings and a few of its pixels. Only what the drawing shows of the
expression can come out right, so the encoder learns to tell all of it. In the cycle path an expression that
is known is put in instead and has to be read out of the painted picture; there encoder and painter learn in
turn, so that they do not agree on a secret.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.encoder.encoder import SHIPPED
from recon3d.encoder.network import Encoded, EncoderNetwork, images_of
from recon3d.encoder.weights import load_weights, save_weights
from recon3d.evaluation.synthetic import read_live_link
from recon3d.files import atomic_path, make_folder
from recon3d.head import load_head
from recon3d.resources import resource_path
from recon3d.synthesis.painter import FacePainter
from recon3d.synthesis.scene import Heads
from recon3d.synthesis.weights import save_painter
from recon3d.training.config import Stage2Config
from recon3d.training.cycle import SynthesisLoss, SynthesisNetwork
from recon3d.training.data import TrainingData
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.perturb import perturbed
from recon3d.training.run import Losses, Say, learn, open_fabric
from recon3d.training.source import Lot, Source
from recon3d.training.stage1 import Score, score
from recon3d.training.store import FaceStore, batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Faces that a run is judged by.
_JUDGED = 256


@dataclass(frozen=True)
class SynthesisScore:
    """How well faces are painted and read.

    Attributes:
        difference: Mean absolute difference of painted and given pictures, sRGB in [0,1].
        cycle: Mean absolute difference of the units put in and read out.
    """

    difference: float
    cycle: float


class Stage2:
    """One run."""

    def __init__(self, config: Stage2Config, folder: Path, encoder: Path | None, say: Say = print) -> None:
        """Prepare.

        Args:
            config: What to do.
            folder: Of checkpoints, logs and weights.
            encoder: Weights to start from; None takes those that come with recon3d.
            say: Told where the run is.

        Raises:
            AssetError: The encoder's weights cannot be used.
            OutputError: The folder cannot be written to.
        """
        self.config, self.folder, self._say = config, make_folder(folder), say
        self.head = load_head()
        self.data = TrainingData(config.data, self.head, say)
        self.loss = SynthesisLoss(self.head, config.painter.size, config.losses, config.share)
        self._before = load_weights(encoder or resource_path(SHIPPED), self.head)
        recording = config.data.recording
        rows = read_live_link(recording).numpy() if recording else None
        self._sampler = ExpressionSampler(rows)

    def run(self) -> tuple[SynthesisScore, dict[str, Score]]:
        """Train; write ``encoder.safetensors`` and ``painter.safetensors``; return the scores at the end."""
        config = self.config
        fabric = open_fabric(config.learning.precision)
        self.data.draw(fabric)
        torch.manual_seed(config.data.seed)
        network = self._network()
        self._before.to(fabric.device)
        batch = config.learning.batch
        source, judged = self._faces(fabric, batch)

        def lots(step: int) -> Iterator[Lot]:
            return source.lots(step)

        def losses_of(model: nn.Module, lot: Lot, step: int) -> Losses:
            return self._losses(network, lot.to(fabric.device), step)

        a_pass = len(source.shards) * (source.store.size // batch)
        averaged = learn(
            fabric, network, self._optimizer(network), config.learning, lots, losses_of,
            steps=max(1, int(config.learning.passes * a_pass)), seed=config.data.seed,
            checkpoint=self.folder / "synthesis.pt", say=self._say,
        )  # fmt: skip
        network.load_state_dict(averaged)
        scores = self.score(network, *judged), self._encoder_scores(network.encoder)
        if fabric.is_global_zero:
            self._write(network, *scores)
        return scores

    def _faces(self, fabric: Fabric, batch: int) -> tuple[Source, tuple[FaceStore, int]]:
        """What is learnt from, and the shard that is judged by, which is not among it.

        Of photographs that fill no more than one shard, the same ones.
        """
        photographs = self.data.photographs(fabric, batch, self._before)
        if photographs is None:
            return self.data.renders(fabric, batch, self._before), (self.data.held_out["same"], 0)
        kept = photographs.shards[-1]
        learnt = photographs.shards[:-1] or photographs.shards
        return replace(photographs, shards=learnt), (photographs.store, kept)

    def _network(self) -> SynthesisNetwork:
        _, landmarks = pretrained_trunk()
        encoder = copy.deepcopy(self._before).requires_grad_(True)
        network = SynthesisNetwork(encoder, landmarks, FacePainter(self.config.painter))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _optimizer(self, network: SynthesisNetwork) -> torch.optim.AdamW:
        groups = (
            (network.painter.parameters(), self.config.learning.rate),
            ((p for p in network.encoder.parameters() if p.requires_grad), self.config.encoder),
        )
        return torch.optim.AdamW(
            [{"params": list(p), "lr": rate, "top": rate} for p, rate in groups if rate],
            weight_decay=self.config.learning.decay,
        )

    def _losses(self, network: SynthesisNetwork, lot: Lot, step: int) -> Losses:
        # Dropout would shake the geometry that is drawn.
        network.encoder.eval()
        points = lot.faces.detected
        pictures = _small(lot, self.config.painter.size)
        told: Encoded = network.encoder(None, points, lot.maps)
        with torch.no_grad():
            before = self._before(None, points, lot.maps)
        losses, painted, photograph = self.loss.reconstruct(network, pictures, points, told, before)
        shown = [pictures, painted]
        if self.config.losses.cycle:
            other = perturbed(
                told.expression, self._sampler, np.random.default_rng((self.config.data.seed, step))
            )
            frozen = network.painter if step % 2 else network.encoder
            with _resting(frozen):
                more, repainted, _ = self.loss.cycle(network, photograph, Heads.of(told), other)
            losses |= more
            shown.append(repainted)
        losses["total"] = torch.stack(list(losses.values())).sum()
        return Losses(losses, lambda: _sheet(shown))

    @torch.no_grad()
    def score(self, network: SynthesisNetwork, store: FaceStore, shard: int = 0) -> SynthesisScore:
        """Judge by faces of a store's shard: painted again, and with other expressions."""
        network.eval()
        device = next(network.parameters()).device
        differences, cycles = [], []
        for number, batch in enumerate(batches(store, range(shard, shard + 1), 32, np.random.default_rng(1))):
            if number * 32 >= _JUDGED:
                break
            lot = Lot(batch.faces, None).to(device)
            points, pictures = lot.faces.detected, _small(lot, self.config.painter.size)
            told = network.encoder(lot.images(), points)
            _, painted, photograph = self.loss.reconstruct(network, pictures, points, told, told)
            differences.append((painted - pictures).abs().mean(dim=(1, 2, 3)))
            other = perturbed(told.expression, self._sampler, np.random.default_rng(number))
            _, _, read = self.loss.cycle(network, photograph, Heads.of(told), other)
            cycles.append((read.expression - other).abs().mean(1))
        return SynthesisScore(float(torch.cat(differences).mean()), float(torch.cat(cycles).mean()))

    def _encoder_scores(self, encoder: EncoderNetwork) -> dict[str, Score]:
        """Judge the encoder as the first stage does."""
        loss = EncoderLoss(self.head, encoder.config.shapes, self.data.unit_variance())
        loss.to(next(encoder.parameters()).device)
        shards = self.data.held_out_shards
        return {name: score(encoder, loss, store, shards) for name, store in self.data.held_out.items()}

    def _write(self, network: SynthesisNetwork, painted: SynthesisScore, read: dict[str, Score]) -> None:
        save_weights(self.folder / "encoder.safetensors", network.encoder, self.head)
        save_painter(self.folder / "painter.safetensors", network.painter, self.head)
        report: dict[str, Any] = {"synthesis": asdict(painted)}
        report |= {name: asdict(one) for name, one in read.items()}
        with atomic_path(self.folder / "scores.json") as path:
            path.write_text(json.dumps(report, indent=1))


class _resting:
    """For a while, a network does not learn; gradients still go through it."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def _small(lot: Lot, size: int) -> Tensor:
    """The faces' pictures (B,3,size,size)."""
    images = images_of(lot.faces.images.to(lot.faces.detected.device))
    return F.interpolate(images, (size, size), mode="area")


def _sheet(columns: list[Tensor]) -> Tensor:
    """Pictures (n,H,W,3) uint8, each row side by side."""
    rows = torch.cat([column[:8].detach() for column in columns], dim=3)
    return (rows.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).cpu()
