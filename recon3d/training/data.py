"""What the stages of training learn from and are judged by: renders, and photographs and clips, if any."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recon3d.encoder.network import EncoderNetwork
from recon3d.head import HeadModel
from recon3d.training.clips import WINDOW, ClipStore
from recon3d.training.config import DataConfig
from recon3d.training.mirror import Mirror
from recon3d.training.photographs import PhotographStore
from recon3d.training.remembered import RememberedMaps
from recon3d.training.source import Source
from recon3d.training.store import FaceStore, RenderStore, StoreSpec
from recon3d.training.synthetic import OTHER, TRAINING, SyntheticSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingData:
    """The faces of a configuration.

    Attributes:
        train: Renders to learn from.
        held_out: Renders to be judged by: of the same settings, and of others.
        shards: How many there are to learn from.
        held_out_shards: How many of each to be judged by.
    """

    def __init__(self, config: DataConfig, head: HeadModel, say: Callable[[str], None]) -> None:
        """Open the stores; nothing is drawn yet."""
        self._config, self._head, self._say = config, head, say
        self._mirror = Mirror.of(head)
        folder = Path(config.folder)

        def spec(settings: SyntheticSettings, seed: int, odd: bool) -> StoreSpec:
            recording, file = config.recording or None, config.head or None
            return StoreSpec(settings, seed, recording, odd, config.shard, file)

        def store(settings: SyntheticSettings, seed: int, odd: bool) -> RenderStore:
            return RenderStore(folder, spec(settings, seed, odd))

        self.train = store(TRAINING, config.seed, odd=False)
        self.held_out = {
            "same": store(TRAINING, config.seed + 1, odd=True),
            "other": store(OTHER, config.seed + 2, odd=True),
        }
        self.shards = math.ceil(config.renders / config.shard)
        self.held_out_shards = math.ceil(config.held_out / config.shard)

    def draw(self, fabric: Fabric) -> None:
        """Draw what is missing."""
        if fabric.is_global_zero:
            self.train.make(self.shards, self._config.workers, self._say)
            for store in self.held_out.values():
                store.make(self.held_out_shards, self._config.workers, self._say)
        fabric.barrier()

    def unit_variance(self) -> Tensor:
        """Return how much each unit varies, (52,)."""
        return torch.cat([self.train.shard(k).expression for k in range(min(4, self.shards))]).var(0)

    def renders(self, fabric: Fabric, batch: int, remember: EncoderNetwork | None) -> Source:
        """Return the renders of this process, in lots of ``batch``.

        Args:
            fabric: Which process this is.
            batch: Renders a lot.
            remember: What this network's trunk sees of them is remembered, and comes with them.
        """
        return self._source(fabric, self.train, self.shards, batch, remember)

    def photographs(self, fabric: Fabric, batch: int, remember: EncoderNetwork | None) -> Source | None:
        """Return the photographs of this process, as ``renders``; None if there are none."""
        return self._found(PhotographStore, self._config.photographs, fabric, batch, remember)

    def clips(self, fabric: Fabric, batch: int, remember: EncoderNetwork | None) -> Source | None:
        """Return the frames of clips of this process, as ``renders``, in whole windows; None if none."""
        return self._found(ClipStore, self._config.clips, fabric, batch, remember, WINDOW)

    def _found(
        self,
        kind: type[PhotographStore] | type[ClipStore],
        places: tuple[str, ...],
        fabric: Fabric,
        batch: int,
        remember: EncoderNetwork | None,
        window: int = 1,
    ) -> Source | None:
        """Return faces that are looked for in files; None if none are named."""
        if not places:
            return None
        config = self._config
        store = kind(Path(config.folder), places, self._head.num_shape, config.shard)
        if fabric.is_global_zero:
            store.make(self._say)
        fabric.barrier()
        return self._source(fabric, store, store.make(), batch, remember, window)

    def _source(
        self,
        fabric: Fabric,
        store: FaceStore,
        shards: int,
        batch: int,
        remember: EncoderNetwork | None,
        window: int = 1,
    ) -> Source:
        maps = None
        if remember is not None:
            maps = RememberedMaps(store, remember.to(fabric.device), self._mirror)
            if fabric.is_global_zero:
                maps.make(shards, self._say)
            fabric.barrier()
        rank, processes = fabric.global_rank, fabric.world_size
        mine = range(rank, shards, processes) if shards >= processes else range(shards)
        return Source(store, mine, batch, (self._config.seed, rank), self._mirror, maps, window)
