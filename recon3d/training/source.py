"""Faces to learn from, one batch after another without end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon3d.encoder.network import images_of
from recon3d.training.mirror import Mirror
from recon3d.training.remembered import RememberedMaps
from recon3d.training.store import FaceStore, batches
from recon3d.training.synthetic import Faces


class Lot(NamedTuple):
    """B faces to learn from at once.

    Attributes:
        faces: What is known of them.
        maps: (B,N) what the trunk sees of them, where that is remembered.
        times: (B,) of clips: when each was seen, s from the first frame of its window.
    """

    faces: Faces
    maps: Tensor | None
    times: Tensor | None = None

    def to(self, device: torch.device) -> Lot:
        """Move all to a device, the pictures only where they have to be looked at."""
        kept = {
            name: value for name, value in vars(self.faces).items() if self.maps is None or name != "images"
        }
        moved = {name: value.to(device, non_blocking=True) for name, value in kept.items()}
        faces = Faces(**({"images": self.faces.images} | moved))
        maps, times = (part if part is None else part.to(device, non_blocking=True) for part in self[1:])
        return Lot(faces, maps, times)

    def present(self) -> Lot:
        """Leave out pictures without a face."""
        here = self.faces.present
        faces = Faces(**{name: column[here.to(column.device)] for name, column in vars(self.faces).items()})
        maps, times = (part if part is None else part[here] for part in self[1:])
        return Lot(faces, maps, times)

    def images(self) -> Tensor | None:
        """What the network reads where no maps are remembered: (B,3,256,256)."""
        if self.maps is not None:
            return None
        return images_of(self.faces.images).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Source:
    """Where batches come from. Which faces come when depends on the seed alone.

    Attributes:
        store: The faces.
        shards: The numbers of those that are used.
        batch: Faces a lot.
        seed: Of their order.
        mirror: Turns every other lot, by chance, left for right.
        maps: What the trunk sees of them, if that is remembered.
        window: Faces that stay together in a lot, in order: the frames of a window of a clip.
    """

    store: FaceStore
    shards: range
    batch: int
    seed: tuple[int, ...]
    mirror: Mirror
    maps: RememberedMaps | None = None
    window: int = 1

    def lots(self, step: int = 0) -> Iterator[Lot]:
        """Lots without end, from a step on."""
        number, round_ = 0, 0
        while True:
            rng = np.random.default_rng((*self.seed, round_))
            for batch in batches(self.store, self.shards, self.batch, rng, window=self.window):
                flip = rng.random() < 0.5
                if number >= step:
                    maps = None if self.maps is None else self.maps.of(batch, flipped=flip)
                    faces = self.mirror(batch.faces) if flip else batch.faces
                    yield Lot(faces, maps, self.store.times(batch))
                number += 1
            round_ += 1
