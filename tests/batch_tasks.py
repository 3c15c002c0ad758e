"""What the workers of the batch tests do instead of clips: quick, or fatal, as the item's name says."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from recon3d.batch.ledger import Ledger, Row, State, Wish
from recon3d.batch.pool import Pool
from recon3d.batch.run import Coordinator, Limits
from recon3d.batch.task import Outcome, Task, Tell, Work
from recon3d.errors import AssetError


@dataclass(frozen=True)
class Acts:
    """Starts a worker that acts by the first word of an item's name; notes every task in a folder."""

    folder: str

    def __call__(self) -> Work:
        if (Path(self.folder) / "no-start").exists():
            raise AssetError("the networks are not there")
        if (Path(self.folder) / "die-at-start").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return self._do

    def _do(self, task: Task, tell: Tell) -> Outcome:
        tries = self._note(task)
        tell("acting", 0, None)
        act = task.id.partition("-")[0]
        if act == "kill" or (act == "once" and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "hang" or (act == "hangonce" and tries == 1):
            time.sleep(600)
        if act == "slow":
            time.sleep(0.5)
        if act == "bad":
            return Outcome(error="InputError", reason=f"{task.uri}: not a clip")
        if act == "flaky" and tries < 3:
            return Outcome(error="InputError", reason="the place did not answer", again=True)
        if act in ("long", "longbad") and task.step == "whole":
            return Outcome(parts=3)
        if act == "longbad" and task.part == 1:
            return Outcome(error="InputError", reason="the second part is damaged")
        return Outcome(seconds=0.25, frames=10, outputs={f"{task.id}/capture.npz": 3})

    def _note(self, task: Task) -> int:
        """Note a task; return how often it has been tried, this time included."""
        with (Path(self.folder) / "noted").open("a") as file:
            file.write(f"{task.id} {task.step} {task.part} {os.getpid()}\n")
        return noted(self.folder).count((task.id, task.step, task.part))


def noted(folder: str | Path) -> list[tuple[str, str, int]]:
    """Return (id, step, part) of each task that was begun, in order."""
    path = Path(folder) / "noted"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = (line.split() for line in lines)
    return [(name, step, int(part)) for name, step, part, _ in rows]


@dataclass
class Told:
    """Notes what a coordinator tells."""

    states: dict[str, State]
    outcomes: dict[str, Outcome]
    tries: list[tuple[str, int, str]]

    def told(self, name: str, step: str, done: int, total: int | None) -> None:
        pass

    def held_up(self) -> None:
        pass

    def again(self, row: Row, attempt: int, reason: str) -> None:
        self.tries.append((row.id, attempt, reason))

    def over(self, row: Row, state: State, outcome: Outcome) -> None:
        assert row.id not in self.states, "told twice"
        self.states[row.id], self.outcomes[row.id] = state, outcome


def enter(ledger: Ledger, names: list[str]) -> None:
    """Register items that are new, or wait."""
    with ledger.registration() as registration:
        for name in names:
            wish = Wish(name, f"/clips/{name}.mp4", "clip", "1", "{}", "{}")
            registration.add(wish, registration.known(name), "new")


def run(ledger: Ledger, pool: Pool, folder: Path, limits: Limits | None = None) -> Told:
    """Do what waits in a ledger."""
    told = Told({}, {}, [])
    try:
        Coordinator(ledger, pool, str(folder), limits or Limits(), told).run()
    finally:
        pool.close()
    return told
