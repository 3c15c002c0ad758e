"""What the pretrained trunk sees in faces, kept on disk: while it stays, it need look only once.

The trunk takes most of an encoder's time. Learning to read its maps goes several times as fast without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon3d.encoder.network import WINDOWS, EncoderNetwork, images_of
from recon3d.files import atomic_path
from recon3d.training.mirror import Mirror
from recon3d.training.store import Batch, FaceStore
from recon3d.training.synthetic import Faces

_BATCH = 32


class RememberedMaps:
    """Maps (``EncoderNetwork.trunk_maps``) of a store's faces, as they are and mirrored; half precision."""

    def __init__(self, store: FaceStore, network: EncoderNetwork, mirror: Mirror) -> None:
        """Remember what this network's trunk sees; nothing is looked at yet."""
        self._store, self._network, self._mirror = store, network, mirror
        self._name = f"maps-{_digest(network)}"

    def make(self, shards: int, say: Callable[[str], None] = lambda line: None) -> None:
        """Look at what was not looked at before of the first ``shards`` shards.

        Raises:
            OutputError: The folder cannot be written to.
        """
        missing = [k for k in range(shards) if not self._path(k).exists()]
        for count, shard in enumerate(missing, shards - len(missing) + 1):
            with atomic_path(self._path(shard)) as path, path.open("wb") as file:
                np.save(file, self._see(shard).numpy(), allow_pickle=False)
            say(f"{self._store.folder}: the trunk has seen {count} of {shards} shards")

    def of(self, batch: Batch, *, flipped: bool) -> Tensor:
        """Return what is remembered of a batch, (B,N); ``flipped``: of its mirror image."""
        opened = {k: np.load(self._path(k), mmap_mode="r") for k in np.unique(batch.shard).tolist()}
        rows = [
            opened[k][row, int(flipped)]
            for k, row in zip(batch.shard.tolist(), batch.row.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(rows)).float()

    @torch.inference_mode()
    def _see(self, shard: int) -> Tensor:
        """(n,2,N) half."""
        faces = self._store.shard(shard)
        device = next(self._network.parameters()).device
        seen = []
        for start in range(0, len(faces.images), _BATCH):
            part = Faces(**{name: column[start : start + _BATCH] for name, column in vars(faces).items()})
            both = [self._maps(one, device) for one in (part, self._mirror(part))]
            seen.append(torch.stack(both, dim=1))
        return torch.cat(seen)

    def _maps(self, faces: Faces, device: torch.device) -> Tensor:
        images = images_of(faces.images.to(device)).contiguous(memory_format=torch.channels_last)
        return self._network.trunk_maps(images, faces.detected.to(device)).half().cpu()

    def _path(self, shard: int) -> Path:
        return self._store.folder / f"{shard:05d}.{self._name}.npy"


def _digest(network: EncoderNetwork) -> str:
    """Of the trunk's weights, and where it is read."""
    whole = hashlib.sha256(repr(WINDOWS).encode())
    for name, value in sorted(network.trunk.state_dict().items()):
        whole.update(name.encode())
        whole.update(value.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()[:10]
