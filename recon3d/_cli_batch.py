"""``recon3d batch`` and ``recon3d batch status``: what they tell."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon3d._cli_report import Reporter, explain
from recon3d._video_job import counted, lost_note
from recon3d.batch.command import BatchSettings, run_items
from recon3d.batch.ledger import Row, State
from recon3d.batch.plan import Planned
from recon3d.batch.storage import local_path
from recon3d.batch.task import Outcome
from recon3d.errors import UsageError
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d.batch.status import Status

#: Failures that the status lists, unless it is for a program.
_LISTED = 20
_WHY = {
    "new": "new",
    "interrupted": "interrupted",
    "changed": "their source changed",
    "options": "other options",
    "version": "made with another version of recon3d",
    "missing": "their results are missing",
    "failed": "failed before",
    "forced": "forced",
    "source gone": "source and results are gone",
}


@dataclass
class BatchReporter(Reporter):
    """Reports on a batch.

    Attributes:
        out: Where results go.
        done_count: Items done so far.
        frames: Frames of them.
    """

    out: str = ""
    done_count: int = 0
    frames: int = 0
    _begun: float = field(default_factory=time.monotonic, repr=False)

    def __enter__(self) -> BatchReporter:
        return self

    def planned(self, planned: Planned) -> None:
        """Tell what will be done."""
        for broken in planned.broken:
            self._lost(broken.name, broken.name, "failed", Outcome(
                error=type(broken.error).__name__, reason=explain(broken.error)
            ), 0)  # fmt: skip
        due = sum(planned.due.values())
        if self.quiet:
            return
        before = planned.total - due - planned.aside - len(planned.broken)
        if before:
            self.say(f"{before} of {planned.total} are done already")
        again = {why: count for why, count in planned.due.items() if why not in ("new", "interrupted")}
        if again:
            self.say("to be done again: " + ", ".join(f"{n} ({_WHY[why]})" for why, n in again.items()))
        if planned.aside:
            self.say(f"{planned.aside} failed before and are left out; --retry-failed tries them again")

    def begun(self, due: int, workers: int, where: str) -> None:
        """Tell that workers start."""
        self.total = due
        self._begun = time.monotonic()
        if self.quiet:
            return
        self.say(f"{due} to do, {workers} worker{'s' * (workers != 1)} {where}")
        self._draw(due)

    def told(self, name: str, step: str, done: int, total: int | None) -> None:
        """Show how far a worker is with an item."""
        self.frames_done(name, step, done, total)

    def held_up(self) -> None:
        """Tell that no worker has had time yet."""
        if not self.quiet:
            self.say("no worker has started yet; are all cores of the cluster in use?")

    def again(self, row: Row, attempt: int, reason: str) -> None:
        """Tell that an item is tried again."""
        self.clip_over(row.id)
        self._over.discard(row.id)
        if not self.quiet:
            self.say(f"{shown(row.id)}: {reason}; try {attempt}")

    def over(self, row: Row, state: State, outcome: Outcome) -> None:
        """Tell that an item is done, or given up."""
        self.clip_over(row.id)
        self._over.discard(row.id)  # a hundred thousand names would stay
        if state != "done":
            self._lost(row.id, row.uri, state, outcome, outcome.frames)
            return
        self.done_count += 1
        self.frames += outcome.frames
        if outcome.facts.get("lost"):
            self.say(f"{shown(row.uri)}: {lost_note(int(outcome.facts['lost']))}")
        if self.as_json:
            self._record(row.id, row.uri, state, outcome)
        elif not self.quiet:
            self._print(self._sentence(row, outcome), sys.stdout)
        self._advance()

    def _lost(self, name: str, uri: str, state: State, outcome: Outcome, frames: int) -> None:
        self.failures += 1
        if self.as_json:
            self._record(name, uri, state, outcome)
        reason = outcome.reason if outcome.reason.startswith(f"{shown(uri)}:") else (
            f"{shown(uri)}: {outcome.reason}"
        )  # fmt: skip
        self.say(f"{reason}; set aside" if state == "poisoned" else reason)
        self._advance()

    def _record(self, name: str, uri: str, state: State, outcome: Outcome) -> None:
        record: dict[str, Any] = {"id": name, "input": uri, "ok": state == "done", "state": state}
        if state == "done":
            record |= {"frames": outcome.frames, "seconds": round(outcome.seconds, 3), **outcome.facts}
            record["outputs"] = [f"{self.out}/{name}" for name in outcome.outputs]
        else:
            record |= {"error": outcome.reason, "kind": outcome.error}
        self._print(json.dumps(record), sys.stdout)

    def _sentence(self, row: Row, outcome: Outcome) -> str:
        folders = dict.fromkeys(name.rpartition("/")[0] for name in outcome.outputs)
        where = ", ".join(shown(f"{self.out}/{folder}") for folder in reversed(folders))
        if outcome.facts.get("skipped"):
            return f"{shown(row.uri)} -> {where} (found done)"
        what = f"{counted(outcome.frames)}, " if row.kind == "clip" else ""
        return f"{shown(row.uri)} -> {where} ({what}{outcome.seconds:.1f} s)"

    def _draw(self, total: int) -> None:
        """Draw the bar of all items, if someone watches."""
        if not sys.stderr.isatty():
            return
        self.begin_clips(max(total, 2))
        assert self._progress is not None and self._task is not None
        self._progress.update(self._task, description="items", total=total)

    def _advance(self) -> None:
        super()._advance()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, speed=self.rate())

    def rate(self) -> str:
        """Say how fast it goes."""
        seconds = max(time.monotonic() - self._begun, 1e-3)
        return f"{60 * self.done_count / seconds:.3g} items/min, {self.frames / seconds:.3g} frames/s"


def run_batch(source: str, settings: BatchSettings, reporter: BatchReporter) -> int:
    """Do a batch and return the exit status.

    Raises:
        Recon3DError: The batch as a whole cannot be done.
    """
    folder = local_path(settings.out)
    reporter.out = settings.out.rstrip("/") if folder is None else str(folder)
    try:
        counts = run_items(source, settings, reporter)
    except KeyboardInterrupt:
        if not reporter.quiet:
            reporter.say("interrupted; nothing is lost, the same command goes on")
        raise
    if reporter.done_count and not reporter.quiet:
        reporter.say(f"{reporter.done_count} done: {reporter.rate()}")
    bad = counts["failed"] + counts["poisoned"]
    total = sum(counts.values())
    if bad and total > 1:
        reporter.say(f"{bad} of {total} items failed; recon3d batch status {shown(settings.out)} lists them")
    return 1 if bad or reporter.failures else 0


def run_status(out: str, ledger: Path | None, as_json: bool) -> int:
    """Tell where a batch stands; return the exit status.

    Raises:
        InputError: There is no ledger, or it cannot be read.
    """
    from recon3d.batch.status import read_status

    status = read_status(out, ledger)
    print(json.dumps(_facts(status)) if as_json else "\n".join(_lines(status)))
    return 0


def _facts(status: Status) -> Mapping[str, Any]:
    return {
        "ledger": str(status.ledger),
        "at_work": status.at_work,
        "counts": dict(status.counts),
        "due": dict(status.due),
        "worker_seconds": round(status.seconds, 3),
        "frames": status.frames,
        "sources_checked": status.checked,
        "failed": [
            {
                "id": row.id,
                "input": row.uri,
                "state": row.state,
                "attempts": row.attempts,
                "error": row.reason,
                "kind": row.error,
            }
            for row in status.failed
        ],
    }


def _lines(status: Status) -> list[str]:
    total = sum(status.counts.values())
    # A run that was killed has had no time to say that nothing is running any more.
    said = {} if status.at_work else {"running": "interrupted"}
    told = [f"{count} {said.get(state, state)}" for state, count in status.counts.items() if count]
    lines = [f"{total} items: {', '.join(told) or 'none'}{' (a run is going on)' if status.at_work else ''}"]
    if status.counts["done"] and status.seconds:
        lines.append(
            f"done in {status.seconds / 3600:.2f} worker hours: "
            f"{3600 * status.counts['done'] / status.seconds:.3g} items an hour and worker, "
            f"{status.frames / status.seconds:.3g} frames a second and worker"
        )
    if status.due and not status.at_work:
        lines.append("to be done by the same command:")
        lines += [f"  {count} ({_WHY[why]})" for why, count in status.due.items()]
    elif not status.at_work:
        lines.append("nothing is left to be done")
    for row in status.failed[:_LISTED]:
        tries = f" after {row.attempts} tries" if row.attempts > 1 else ""
        what = "set aside" if row.state == "poisoned" else "failed"
        lines.append(f"{what}{tries}: {shown(row.id)}: {row.reason}")
    if len(status.failed) > _LISTED:
        lines.append(f"and {len(status.failed) - _LISTED} more; --json lists all")
    return lines


def parse_bytes(gigabytes: float) -> int:
    """Return ``--max-size`` in bytes.

    Raises:
        UsageError: It is none.
    """
    if not gigabytes > 0:
        raise UsageError(f"--max-size {gigabytes:g}: GB above 0 are wanted")
    return int(gigabytes * 1e9)
