"""What has become of a batch, and what the same command would do now: ``recon3d batch status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recon3d._version import __version__
from recon3d.batch.command import ledger_of
from recon3d.batch.ledger import Row, State, is_at_work, read_ledger
from recon3d.batch.plan import PASSING, Outputs
from recon3d.batch.source import local_mark
from recon3d.batch.storage import local_path
from recon3d.errors import InputError


@dataclass(frozen=True)
class Status:
    """Where a batch stands.

    Attributes:
        ledger: Its file.
        at_work: A run is going on.
        counts: Items by their state.
        due: Items that the same command would do now, by the reason.
        failed: Items that failed or were set aside, in order.
        seconds: Workers' time in all that is done.
        frames: Frames of it.
        checked: Whether changed sources were looked for: only on this machine's disks.
    """

    ledger: Path
    at_work: bool
    counts: Mapping[State, int]
    due: Mapping[str, int]
    failed: tuple[Row, ...]
    seconds: float
    frames: int
    checked: bool


def read_status(out: str, ledger: Path | None = None) -> Status:
    """Read where a batch stands; a run may be going on meanwhile.

    Args:
        out: Folder or URL of the results.
        ledger: The ledger's file, where it was told.

    Raises:
        InputError: There is no ledger, or it cannot be read.
    """
    folder = local_path(out)
    place = out.rstrip("/") if folder is None else str(folder.absolute())
    file = ledger or ledger_of(place)
    outputs, due, failed = Outputs(place), Counter[str](), list[Row]()
    checked = True
    at_work = is_at_work(file)
    with read_ledger(file) as base:
        counts = base.counts()
        seconds, frames = base.sums()
        for row in base.rows():
            checked &= local_path(row.uri) is not None
            why = _why(row, outputs)
            if why is not None:
                due[why] += 1
            if row.state in ("failed", "poisoned"):
                failed.append(row)
    return Status(file, at_work, counts, due, tuple(failed), seconds, frames, checked)


def _why(row: Row, outputs: Outputs) -> str | None:
    """Return why an item would be done again, or None."""
    if row.state == "running":
        return "interrupted"
    if row.state == "waiting":
        return row.why
    path = local_path(row.uri)
    if path is not None:
        try:
            if local_mark(path) != row.mark:
                return "changed"
        except InputError:
            return "source gone" if row.state == "done" and not outputs.has(row.sizes) else None
    if row.version != __version__:
        return "version"
    if row.state == "done":
        return None if outputs.has(row.sizes) else "missing"
    return "failed" if row.state == "failed" and row.error in PASSING else None
