"""A whole ``recon3d batch``: source, ledger, pool and coordinator put together."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

from recon3d.batch.ledger import Ledger, State, open_ledger
from recon3d.batch.options import ItemOptions, Models
from recon3d.batch.plan import Plan, Planned
from recon3d.batch.pool import Pool, ProcessPool
from recon3d.batch.run import Coordinator, Limits, Listener
from recon3d.batch.source import Broken, Item, Wanted, find_items
from recon3d.batch.storage import local_path, open_place
from recon3d.batch.work import Setup
from recon3d.errors import InputError
from recon3d.files import atomic_path, make_folder

LEDGER = "ledger.sqlite"
_PROBE = ".recon3d-probe"
#: Largest remote source, bytes, unless told otherwise.
MAX_BYTES = 20_000_000_000


@dataclass(frozen=True)
class BatchSettings:
    """The options of ``recon3d batch``.

    Attributes:
        out: Folder or URL of the results.
        options: How items are done.
        models: What is loaded.
        wanted: Which kinds of files a search takes.
        cluster: ``"auto"``, ``"local"``, or the address of a Ray cluster.
        workers: Items done at the same time, or None: as many as there are cores.
        limits: When to give up on an item.
        ledger: Its file, or None: in ``out``, or in the user's folder for programs' state.
        force: Do again what is done, and what failed.
        retry_failed: Do again what failed.
        max_bytes: Largest remote source.
    """

    out: str
    options: ItemOptions = field(default_factory=ItemOptions)
    models: Models = field(default_factory=Models)
    wanted: Wanted = "auto"
    cluster: str = "auto"
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    ledger: Path | None = None
    force: bool = False
    retry_failed: bool = False
    max_bytes: int = MAX_BYTES


class Watcher(Listener, Protocol):
    """Who is told of a whole batch."""

    def planned(self, planned: Planned) -> None:
        """The source has been read; nothing is done yet."""

    def begun(self, due: int, workers: int, where: str) -> None:
        """Workers start, to do so many items."""


def run_items(source: str, settings: BatchSettings, watcher: Watcher) -> dict[State, int]:
    """Do what a source names and is not done yet; return how many of its items are in each state.

    Raises:
        Recon3DError: The batch as a whole cannot be done; what has been done is done.
    """
    settings.options.check()
    place = _absolute(settings.out)
    folder = local_path(place)
    items = _begun(find_items(source, settings.options, settings.wanted, folder))
    ledger_file = settings.ledger or ledger_of(place)
    make_folder(ledger_file.parent)
    if folder is None:
        open_place(place)  # a driver that is missing shows before any work
    else:
        make_folder(folder)
    with open_ledger(ledger_file) as ledger:
        ledger.begin_run({"out": place, "source": source})
        plan = Plan(place, settings.models, settings.force, settings.retry_failed)
        planned = plan.register(ledger, items)
        watcher.planned(planned)
        if sum(planned.due.values()):
            _do(ledger, place, settings, watcher)
        return ledger.counts(this_run=True)


def ledger_of(out: str) -> Path:
    """Return where the ledger of a folder or URL of results is, unless the user says otherwise."""
    folder = local_path(out)
    if folder is not None:
        return folder / LEDGER
    import platformdirs

    name = hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:16]
    return platformdirs.user_state_path("recon3d") / "batch" / f"{name}.sqlite"


def _absolute(out: str) -> str:
    folder = local_path(out)
    return out.rstrip("/") if folder is None else str(folder.absolute())


def _begun(items: Iterator[Item | Broken]) -> Iterable[Item | Broken]:
    """Read the first item, so that a source that cannot be read leaves nothing behind."""
    first = next(items, None)
    if first is None:
        raise InputError("the source names nothing")
    return chain([first], items)


def _do(ledger: Ledger, out: str, settings: BatchSettings, watcher: Watcher) -> None:
    with _probe(out) as probe:
        setup = Setup(out, settings.models, settings.max_bytes, probe)
        pool, most, where = _open_pool(settings, setup)
        with closing(pool):
            due = ledger.counts(this_run=True)["waiting"]
            watcher.begun(due, min(most, due), where)
            Coordinator(ledger, pool, out, settings.limits, watcher).run()


def _open_pool(settings: BatchSettings, setup: Setup) -> tuple[Pool, int, str]:
    """Return the pool, how many workers it may have, and where they are."""
    if settings.cluster != "local":
        from recon3d.batch.ray_workers import find_cluster, open_cluster

        address = find_cluster(settings.cluster)
        if address is not None:
            return open_cluster(address, setup, settings.workers)
    most = settings.workers or cores()
    models = settings.models
    if models.threads is None and most > 1:
        models = replace(models, threads=max(1, cores() // most))
    if models.weights_dir is None:
        from recon3d.assets import FACE_LANDMARKER, fetch

        fetch(FACE_LANDMARKER.name)  # once, not by every worker at the same time
    return ProcessPool(replace(setup, models=models), most), most, "on this machine"


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _probe(out: str) -> Iterator[tuple[str, str] | None]:
    """Lay a file into a folder of results, by which workers elsewhere know that they see the same one."""
    folder = local_path(out)
    if folder is None:
        yield None
        return
    text = secrets.token_hex(16)
    path = folder / _PROBE
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    try:
        yield path.name, text
    finally:
        with suppress(OSError):
            path.unlink()
