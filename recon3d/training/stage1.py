"""The first stage of training: the encoder learns from renders, whose every parameter is known.

The trunk starts from MediaPipe's landmark network. First all else learns to read what that sees; then the
whole learns. Weights are averaged while they are trained, and the average is what is kept. A run that was cut
off goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recon3d.encoder.network import EncoderNetwork, images_of
from recon3d.encoder.weights import save_weights
from recon3d.evaluation.metrics import rotation_error_degrees, unit_correlation
from recon3d.files import atomic_path, make_folder
from recon3d.head import load_head
from recon3d.training.config import OptimizerConfig, Stage1Config
from recon3d.training.data import TrainingData
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.run import Losses, Say, adamw, learn, open_fabric
from recon3d.training.source import Lot
from recon3d.training.store import RenderStore, batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Renders that tell what the trunk usually sees.
_SETTLED = 512


@dataclass(frozen=True)
class Score:
    """How well an encoder does on held-out renders.

    Attributes:
        correlation: Mean over the units of the correlation with the truth.
        mae: Mean absolute error of the units.
        rotation: Mean error, degrees.
        loss: Total loss.
        units: Correlation of each unit, ARKit order.
    """

    correlation: float
    mae: float
    rotation: float
    loss: float
    units: tuple[float, ...]


class Stage1:
    """One run."""

    def __init__(self, config: Stage1Config, folder: Path, say: Say = print) -> None:
        """Prepare a run that keeps its checkpoints, logs and weights in a folder."""
        self.config, self.folder, self._say = config, make_folder(folder), say
        self.head = load_head(config.data.head or None).in_units
        self.data = TrainingData(config.data, self.head, say)

    def run(self) -> dict[str, Score]:
        """Draw what is to be drawn, train, write ``encoder.safetensors``; return the scores at the end."""
        fabric = open_fabric(self.config.reading.precision)
        self.data.draw(fabric)
        torch.manual_seed(self.config.data.seed)
        network = EncoderNetwork(self.config.network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
        loss = EncoderLoss(
            self.head, self.config.network.shapes, self.data.unit_variance(), self.config.losses
        ).to(fabric.device)
        self._settle(network)
        for name, options in (("reading", self.config.reading), ("whole", self.config.whole)):
            if options.passes and options.minutes:
                network.load_state_dict(self._learn(fabric, network, loss, name, options))
        scores = {name: self.score(network, loss, name) for name in self.data.held_out}
        if fabric.is_global_zero:
            save_weights(self.folder / "encoder.safetensors", network, self.head)
            with atomic_path(self.folder / "scores.json") as path:
                path.write_text(json.dumps({k: asdict(v) for k, v in scores.items()}, indent=1))
        return scores

    def score(self, network: EncoderNetwork, loss: EncoderLoss, name: str) -> Score:
        """Judge a network by held-out renders, "same" or "other"."""
        return score(network, loss, self.data.held_out[name], self.data.held_out_shards)

    @torch.inference_mode()
    def _settle(self, network: EncoderNetwork) -> None:
        """Show the network what faces usually are."""
        faces = self.data.train.shard(0)
        images, points = faces.images[:_SETTLED].split(32), faces.detected[:_SETTLED]
        parts = zip(images, points.split(32), strict=True)
        maps = torch.cat([network.trunk_maps(images_of(image), point) for image, point in parts])
        network.settle(maps, points[faces.present[:_SETTLED]])

    def _learn(
        self, fabric: Fabric, network: EncoderNetwork, loss: EncoderLoss, name: str, options: OptimizerConfig
    ) -> dict[str, Tensor]:
        """Train; return the averaged weights."""
        network.trunk.requires_grad_(bool(options.trunk_rate))
        network.trunk.stages[: options.frozen].requires_grad_(False)
        remember = None if options.trunk_rate else network
        renders = self.data.renders(fabric, options.batch, remember)
        share = self.config.data.photographs_share
        photographs = self.data.photographs(fabric, max(1, round(options.batch * share)), remember)

        def lots(step: int) -> Iterator[tuple[Lot, Lot | None]]:
            photos = itertools.repeat(None) if photographs is None else photographs.lots(step)
            return zip(renders.lots(step), photos, strict=False)

        def losses_of(model: nn.Module, both: tuple[Lot, Lot | None], _: int) -> Losses:
            lot, photos = (one and one.to(fabric.device) for one in both)
            assert lot is not None
            return Losses(_losses(model, loss, lot, photos), lambda: lot.faces.images[:16])

        a_pass = self.data.shards * (self.config.data.shard // (options.batch * fabric.world_size))
        return learn(
            fabric, network, adamw(network, options.rate, options.trunk_rate, options.decay), options,
            lots, losses_of, steps=max(1, int(options.passes * a_pass)), seed=self.config.data.seed,
            checkpoint=self.folder / f"{name}.pt", say=self._say,
        )  # fmt: skip


def _losses(model: Any, loss: EncoderLoss, lot: Lot, photos: Lot | None) -> dict[str, Tensor]:
    """What the network says of renders and of photographs, judged."""
    losses = loss(model(lot.images(), lot.faces.detected, lot.maps), lot.faces)
    if photos is not None:
        more = loss.photographs(model(photos.images(), photos.faces.detected, photos.maps), photos.faces)
        losses |= more | {"total": losses["total"] + more["total"]}
    return losses


@torch.no_grad()
def score(network: EncoderNetwork, loss: EncoderLoss, store: RenderStore, shards: int) -> Score:
    """Judge a network by the first shards of a store."""
    was, device = network.training, next(network.parameters()).device
    network.eval()
    told, truth, total = [], [], []
    for batch in batches(store, range(shards), 64, np.random.default_rng(0)):
        lot = Lot(batch.faces, None).to(device)
        faces = lot.faces
        found = network(lot.images(), faces.detected)
        total.append(float(loss(found, faces)["total"]))
        here = faces.present
        told.append((found.expression[here], found.rotation[here]))
        truth.append((faces.expression[here], faces.rotation[here]))
    network.train(was)
    units, turns = (torch.cat(column).cpu().numpy() for column in zip(*told, strict=True))
    true_units, true_turns = (torch.cat(column).cpu().numpy() for column in zip(*truth, strict=True))
    correlation = unit_correlation(units, true_units)
    return Score(
        correlation=float(np.nanmean(correlation)),
        mae=float(np.abs(units - true_units).mean()),
        rotation=float(rotation_error_degrees(turns, true_turns).mean()),
        loss=float(np.mean(total)),
        units=tuple(round(float(x), 4) for x in correlation),
    )
