"""The first stage of training: the encoder learns from renders, whose every parameter is known.

The trunk starts from MediaPipe's landmark network. First all else learns to read what that sees; then the
whole learns. Weights are averaged while they are trained, and the average is what is kept. A run that was cut
off goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import itertools
import json
import math
import pickle
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
from recon3d.errors import InputError, MissingExtraError
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
from recon3d.training.source import Lot, Source
from recon3d.training.store import FaceStore, RenderStore, StoreSpec, batches
from recon3d.training.synthetic import OTHER, TRAINING, Faces

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_LOG_EVERY, _CHECKPOINT_SECONDS = 50, 300.0
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
        fabric = _fabric(self.config.reading.precision)
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
        optimizer = _optimizer(network, options.rate, options.trunk_rate, options.decay)
        model, optimizer = fabric.setup(network, optimizer)
        a_pass = shards * (self.config.data.shard // (options.batch * fabric.world_size))
        steps = max(1, int(options.passes * a_pass))
        checkpoint = self.folder / f"{name}.pt"
        progress = _Progress.start(checkpoint, network, optimizer)
        log = _Log(self.folder / "log" / name, progress.step) if fabric.is_global_zero else None
        clock, saved = time.monotonic() - progress.seconds, time.monotonic()
        none = itertools.repeat(None)
        photos = none if photographs is None else photographs.lots(progress.step)
        for lot, photo in prefetched(zip(renders.lots(progress.step), photos, strict=False), 3):
            progress.seconds = time.monotonic() - clock
            if progress.step >= steps or progress.seconds > options.minutes * 60:
                break
            _set_rates(optimizer, _rate(progress, steps, options.warm_up, options.minutes * 60))
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
            if log is not None and progress.step % _LOG_EVERY == 0:
                self._say(f"{name}: {log.write(progress, losses, optimizer, lot.faces)}")
            if fabric.is_global_zero and time.monotonic() - saved > _CHECKPOINT_SECONDS:
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


class _Progress:
    """Where a run is: its step, the time it took, and the averaged weights."""

    def __init__(self, step: int, seconds: float, averaged: dict[str, Tensor]) -> None:
        self.step, self.seconds, self.averaged = step, seconds, averaged

    @staticmethod
    def start(path: Path, network: EncoderNetwork, optimizer: Any) -> _Progress:
        """Begin, or go on from a checkpoint."""
        if not path.exists():
            return _Progress(0, 0.0, {k: v.detach().clone() for k, v in network.state_dict().items()})
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict(kept["network"])
            optimizer.load_state_dict(kept["optimizer"])
            return _Progress(kept["step"], kept["seconds"], kept["averaged"])
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise InputError(
                f"{path}: not a checkpoint of this configuration; remove it, or choose another --out"
            ) from error

    def average(self, network: EncoderNetwork, decay: float) -> None:
        """Move the averaged weights toward the present ones, faster at first."""
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                kept = self.averaged[name] = self.averaged[name].to(value.device)
                if value.is_floating_point():
                    kept.lerp_(value, share)
                else:
                    kept.copy_(value)

    def save(self, path: Path, network: EncoderNetwork, optimizer: Any) -> None:
        with atomic_path(path) as temporary:
            torch.save(
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "averaged": self.averaged,
                    "step": self.step,
                    "seconds": self.seconds,
                },
                temporary,
            )


class _Log:
    """TensorBoard's curves and pictures, and a line for the console."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step)
        self._mean: dict[str, float] = {}

    def write(self, progress: _Progress, losses: dict[str, Tensor], optimizer: Any, faces: Faces) -> str:
        for name, value in losses.items():
            now = float(value.detach())
            self._mean[name] = 0.7 * self._mean.get(name, now) + 0.3 * now
            self._writer.add_scalar(f"loss/{name}", now, progress.step)
        self._writer.add_scalar("rate", optimizer.param_groups[0]["lr"], progress.step)
        if progress.step % (20 * _LOG_EVERY) == 0:
            self._writer.add_images("faces", faces.images[:16], progress.step, dataformats="NHWC")
        parts = " ".join(f"{name} {value:.3f}" for name, value in self._mean.items())
        return f"step {progress.step}, {progress.seconds / 60:.1f} min: {parts}"


def _fabric(precision: str) -> Fabric:
    try:
        from lightning_fabric import Fabric
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training needs more packages: pip install 'recon3d[train]'") from error
    fabric = Fabric(precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def _optimizer(network: EncoderNetwork, rate: float, trunk_rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW (I. Loshchilov, F. Hutter, 2019); the pretrained part learns more slowly, no vector decays."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        pretrained = name.startswith("trunk.")
        # The pretrained layers' scales are far apart (their batch norm was folded in): no decay there.
        key = (trunk_rate if pretrained else rate, 0.0 if pretrained or parameter.ndim == 1 else decay)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": r, "top": r, "weight_decay": d} for (r, d), p in groups.items()]
    )


def _rate(progress: _Progress, steps: int, warm_up: int, seconds: float) -> float:
    """Share of the highest rate: up, then down along a cosine as the run nears its end."""
    done = max(progress.step / steps, progress.seconds / seconds)
    return min(1.0, (progress.step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _set_rates(optimizer: Any, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * share
