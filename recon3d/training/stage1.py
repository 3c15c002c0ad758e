"""The first stage of training: the encoder learns from renders, whose every parameter is known.

The trunk starts from MediaPipe's landmark network. First all else learns to read what that sees; then the
whole learns. Weights are averaged while they are trained, and the average is what is kept. A run that was cut
off goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recon3d.encoder.network import EncoderNetwork, images_of
from recon3d.encoder.weights import save_weights
from recon3d.evaluation.metrics import rotation_error_degrees, unit_correlation
from recon3d.files import atomic_path, make_folder
from recon3d.head import load_head
from recon3d.media._ahead import prefetched
from recon3d.training.config import OptimizerConfig, Stage1Config
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.mirror import Mirror
from recon3d.training.photographs import PhotographStore
from recon3d.training.remembered import RememberedMaps
from recon3d.training.run import (
    CHECKPOINT_SECONDS,
    LOG_EVERY,
    Log,
    Progress,
    adamw,
    open_fabric,
    rate_share,
    set_rates,
)
from recon3d.training.source import Lot, Source
from recon3d.training.store import FaceStore, RenderStore, StoreSpec, batches
from recon3d.training.synthetic import OTHER, TRAINING

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Renders that tell what the trunk usually sees.
_SETTLED = 512
Say = Callable[[str], None]


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
        self.head = load_head()
        self.mirror = Mirror.of(self.head)
        data = config.data
        recording = data.recording or None
        self._train = RenderStore(
            Path(data.folder), StoreSpec(TRAINING, data.seed, recording, shard=data.shard)
        )
        self._held_out = {
            "same": StoreSpec(TRAINING, data.seed + 1, recording, odd=True, shard=data.shard),
            "other": StoreSpec(OTHER, data.seed + 2, recording, odd=True, shard=data.shard),
        }

    def run(self) -> dict[str, Score]:
        """Draw what is to be drawn, train, write ``encoder.safetensors``; return the scores at the end."""
        fabric = open_fabric(self.config.reading.precision)
        self._draw(fabric)
        torch.manual_seed(self.config.data.seed)
        network = EncoderNetwork(self.config.network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
        loss = EncoderLoss(
            self.head, self.config.network.shapes, self._unit_variance(), self.config.losses
        ).to(fabric.device)
        self._settle(network)
        for name, options in (("reading", self.config.reading), ("whole", self.config.whole)):
            if options.passes and options.minutes:
                network.load_state_dict(self._learn(fabric, network, loss, name, options))
        scores = {name: self.score(network, loss, name) for name in self._held_out}
        if fabric.is_global_zero:
            save_weights(self.folder / "encoder.safetensors", network, self.head)
            with atomic_path(self.folder / "scores.json") as path:
                path.write_text(json.dumps({k: asdict(v) for k, v in scores.items()}, indent=1))
        return scores

    def score(self, network: EncoderNetwork, loss: EncoderLoss, name: str) -> Score:
        """Judge a network by held-out renders, "same" or "other"."""
        store = RenderStore(Path(self.config.data.folder), self._held_out[name])
        return score(network, loss, store, self._shards(self.config.data.held_out))

    def _shards(self, pictures: int) -> int:
        return math.ceil(pictures / self.config.data.shard)

    def _draw(self, fabric: Fabric) -> None:
        data = self.config.data
        if fabric.is_global_zero:
            jobs = [(self._train, data.renders)]
            jobs += [(RenderStore(Path(data.folder), s), data.held_out) for s in self._held_out.values()]
            for store, pictures in jobs:
                store.make(self._shards(pictures), data.workers, self._say)
        fabric.barrier()

    def _unit_variance(self) -> Tensor:
        first = [
            self._train.shard(k).expression for k in range(min(4, self._shards(self.config.data.renders)))
        ]
        return torch.cat(first).var(0)

    @torch.inference_mode()
    def _settle(self, network: EncoderNetwork) -> None:
        """Show the network what faces usually are."""
        faces = self._train.shard(0)
        images, points = faces.images[:_SETTLED].split(32), faces.detected[:_SETTLED]
        parts = zip(images, points.split(32), strict=True)
        maps = torch.cat([network.trunk_maps(images_of(image), point) for image, point in parts])
        network.settle(maps, points[faces.present[:_SETTLED]])

    def _learn(
        self, fabric: Fabric, network: EncoderNetwork, loss: EncoderLoss, name: str, options: OptimizerConfig
    ) -> dict[str, Tensor]:
        """Train; return the averaged weights."""
        shards = self._shards(self.config.data.renders)
        renders = self._source(fabric, network, options, self._train, shards, options.batch)
        photographs = self._photographs(fabric, network, options)
        network.trunk.requires_grad_(bool(options.trunk_rate))
        network.trunk.stages[: options.frozen].requires_grad_(False)
        optimizer = adamw(network, options.rate, options.trunk_rate, options.decay)
        model, optimizer = fabric.setup(network, optimizer)
        a_pass = shards * (self.config.data.shard // (options.batch * fabric.world_size))
        steps = max(1, int(options.passes * a_pass))
        checkpoint = self.folder / f"{name}.pt"
        progress = Progress.start(checkpoint, network, optimizer)
        log = Log(self.folder / "log" / name, progress.step) if fabric.is_global_zero else None
        clock, saved = time.monotonic() - progress.seconds, time.monotonic()
        none = itertools.repeat(None)
        photos = none if photographs is None else photographs.lots(progress.step)
        for lot, photo in prefetched(zip(renders.lots(progress.step), photos, strict=False), 3):
            progress.seconds = time.monotonic() - clock
            if progress.step >= steps or progress.seconds > options.minutes * 60:
                break
            set_rates(optimizer, rate_share(progress, steps, options.warm_up, options.minutes * 60))
            # Dropout by the step's number, so that a run that was cut off goes on with the same.
            torch.manual_seed(hash((self.config.data.seed, progress.step, fabric.global_rank)))
            lot, photo = lot.to(fabric.device), None if photo is None else photo.to(fabric.device)
            losses = _losses(model, loss, lot, photo)
            optimizer.zero_grad()
            fabric.backward(losses["total"])
            fabric.clip_gradients(model, optimizer, max_norm=5.0)
            optimizer.step()
            progress.step += 1
            progress.average(network, options.average)
            if log is not None and progress.step % LOG_EVERY == 0:
                self._say(f"{name}: {log.write(progress, losses, optimizer, lot.faces.images[:16])}")
            if fabric.is_global_zero and time.monotonic() - saved > CHECKPOINT_SECONDS:
                progress.save(checkpoint, network, optimizer)
                saved = time.monotonic()
        if fabric.is_global_zero:
            progress.save(checkpoint, network, optimizer)
        return progress.averaged

    def _source(
        self, fabric: Fabric, network: EncoderNetwork, options: OptimizerConfig, store: FaceStore,
        shards: int, batch: int,
    ) -> Source:  # fmt: skip
        """Faces of a store for this process; what a trunk that stays sees of them is remembered."""
        maps = None
        if not options.trunk_rate:
            maps = RememberedMaps(store, network.to(fabric.device), self.mirror)
            if fabric.is_global_zero:
                maps.make(shards, self._say)
            fabric.barrier()
        rank, processes = fabric.global_rank, fabric.world_size
        mine = range(rank, shards, processes) if shards >= processes else range(shards)
        return Source(store, mine, batch, (self.config.data.seed, rank), self.mirror, maps)

    def _photographs(
        self, fabric: Fabric, network: EncoderNetwork, options: OptimizerConfig
    ) -> Source | None:
        data = self.config.data
        archives = tuple(part.strip() for part in data.photographs.split(",") if part.strip())
        if not archives:
            return None
        store = PhotographStore(Path(data.folder), archives, self.head.num_shape, data.shard)
        if fabric.is_global_zero:
            store.make(self._say)
        fabric.barrier()
        batch = max(1, round(options.batch * data.photographs_share))
        return self._source(fabric, network, options, store, store.make(), batch)


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
