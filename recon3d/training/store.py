"""Training sets on disk: made once, read many times.

On two cores it takes longer to draw a face than to learn from it, so pictures are kept: in shards of raw
arrays, which are read by memory mapping. Any shard can be made again from its number.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d.face._task import LANDMARKS, load_network
from recon3d.files import atomic_path, make_folder
from recon3d.head import load_head
from recon3d.training.synthetic import Faces, SyntheticFaces, SyntheticSettings

#: To be raised when the same specification no longer gives the same pictures.
VERSION = 5
#: Pictures drawn at once.
_BATCH = 16


@dataclass(frozen=True)
class StoreSpec:
    """What a set of renders is made of; two equal ones hold the same pictures.

    Attributes:
        settings: How varied they are.
        seed: Of everything random.
        recording: Live Link CSV that expressions are drawn from, or None.
        odd: Use the stretches of the recording that training leaves to evaluation.
        shard: Pictures a shard.
        head: File of the head model, or None for the open head.
    """

    settings: SyntheticSettings
    seed: int
    recording: str | None = None
    odd: bool = False
    shard: int = 1024
    head: str | None = None

    def maker(self) -> SyntheticFaces:
        """Return what draws the pictures."""
        from recon3d.evaluation.synthetic import read_live_link
        from recon3d.training.expressions import ExpressionSampler

        rows = None if self.recording is None else read_live_link(self.recording).numpy()
        expressions = ExpressionSampler(rows, self.odd)
        network = load_network(LANDMARKS, threads=1)
        head = load_head(self.head).in_units
        return SyntheticFaces(head, expressions, self.settings, seed=self.seed, landmarks=network)

    def digest(self) -> str:
        """Return a short hash of the specification."""
        told = asdict(self) | {"recording": _fingerprint(self.recording), "version": VERSION}
        told["head"] = None if self.head is None else load_head(self.head).form
        if told["head"] is None:  # as before there was a choice, so that what was drawn stays good
            del told["head"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _fingerprint(path: str | None) -> str | None:
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Batch(NamedTuple):
    """B faces, and which they are.

    Attributes:
        faces: The faces.
        shard: (B,) the shard of each, and ...
        row: (B,) ... its place there.
    """

    faces: Faces
    shard: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]


class FaceStore:
    """Faces on disk, in shards of equal size.

    Attributes:
        folder: Where they are.
        size: Faces a shard.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Open a set, whatever of it there is."""
        self.folder, self.size = Path(folder), size

    def has(self, number: int) -> bool:
        """Tell whether a shard is there, whole."""
        return self._path(number, "images").exists()

    def shard(self, number: int) -> Faces:
        """Open a shard; its pictures stay on the disk until they are looked at."""
        columns = {
            field.name: torch.from_numpy(_open(self._path(number, field.name), field.name == "images"))
            for field in fields(Faces)
        }
        return Faces(**columns)

    def times(self, batch: Batch) -> Tensor | None:
        """Return when each face was seen, (B,) s; None where that means nothing."""
        return None

    def write(self, number: int, faces: Faces) -> None:
        """Keep a shard.

        Raises:
            OutputError: The folder cannot be written to.
        """
        # The pictures come last: a shard that has them is whole.
        for name in sorted(vars(faces), key=lambda name: name == "images"):
            with atomic_path(self._path(number, name)) as path, path.open("wb") as file:
                np.save(file, getattr(faces, name).numpy(), allow_pickle=False)

    def _path(self, number: int, name: str) -> Path:
        return self.folder / f"{number:05d}.{name}.npy"


class RenderStore(FaceStore):
    """A set of renders in a folder, one sub-folder a specification."""

    def __init__(self, folder: Path, spec: StoreSpec) -> None:
        """Open a set; nothing is drawn yet."""
        super().__init__(Path(folder) / spec.digest(), spec.shard)
        self.spec = spec

    def make(self, shards: int, workers: int = 1, say: Callable[[str], None] = lambda line: None) -> None:
        """Draw what is missing of the first ``shards`` shards, in processes of their own.

        Raises:
            OutputError: The folder cannot be written to.
        """
        missing = [k for k in range(shards) if not self.has(k)]
        if not missing:
            return
        with atomic_path(make_folder(self.folder) / "spec.json") as temporary:
            temporary.write_text(json.dumps(asdict(self.spec), indent=1))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
            jobs = [pool.submit(_make_shard, self.folder.parent, self.spec, k) for k in missing]
            for count, job in enumerate(as_completed(jobs), shards - len(missing) + 1):
                job.result()
                say(f"{self.folder}: {count} of {shards} shards drawn")


def batches(
    store: FaceStore,
    shards: range,
    size: int,
    rng: np.random.Generator,
    *,
    together: int = 4,
    window: int = 1,
) -> Iterator[Batch]:
    """Go once through shards in random order, ``together`` of them mixed, in batches of one size.

    Rows that make a ``window`` stay together and in order; a batch holds as many windows as fit into it.
    """
    fit = max(1, size // window)
    order = rng.permutation(np.array(shards))
    for start in range(0, len(order), together):
        opened = [store.shard(int(k)) for k in order[start : start + together]]
        places = rng.permutation(len(opened) * store.size // window)
        for some in np.array_split(places, max(1, len(places) // fit)):
            rows = (some[:fit, None] * window + np.arange(window)).ravel()
            lot, row = rows // store.size, rows % store.size
            yield Batch(_gather(opened, lot, row), order[start + lot], row)


def _gather(opened: list[Faces], lot: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> Faces:
    """Collect rows from several shards."""
    places, columns = torch.from_numpy(row), {}
    for field in fields(Faces):
        parts = [getattr(opened[k], field.name)[p] for k, p in zip(lot.tolist(), places, strict=True)]
        columns[field.name] = torch.stack(parts)
    return Faces(**columns)


def _open(path: Path, mapped: bool) -> npt.NDArray[np.generic]:
    # Copy on write: torch wants memory that it could write to.
    loaded: npt.NDArray[np.generic] = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
    return loaded


_maker: tuple[StoreSpec, SyntheticFaces] | None = None


def _one_thread() -> None:
    os.environ["NUMBA_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _make_shard(folder: Path, spec: StoreSpec, number: int) -> None:
    global _maker
    if _maker is None or _maker[0] != spec:
        _maker = spec, spec.maker()
    first, end = number * spec.shard, (number + 1) * spec.shard
    drawn = [_maker[1].batch(range(k, min(k + _BATCH, end))) for k in range(first, end, _BATCH)]
    columns = zip(*(vars(part).values() for part in drawn), strict=True)
    RenderStore(folder, spec).write(number, Faces(*(torch.cat(column) for column in columns)))
