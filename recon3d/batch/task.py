"""What the coordinator gives to a worker, and gets back. Plain values: they travel between machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recon3d.batch.options import ItemOptions, Kind

#: A long clip's parts are looked at first; who finishes it joins them. All others are done as a whole.
Step = Literal["whole", "part", "finish"]


@dataclass(frozen=True)
class Task:
    """One item, or a part of one, to be done by one worker.

    Attributes:
        place: Of the item in the ledger.
        id: The item's name.
        uri: Where it is.
        kind: Clip or photograph.
        options: How it is done.
        force: Do it again even where its results lie complete.
        step: What of it.
        part: Which part, counted from 0.
    """

    place: int
    id: str
    uri: str
    kind: Kind
    options: ItemOptions
    force: bool = False
    step: Step = "whole"
    part: int = 0

    @property
    def key(self) -> tuple[int, Step, int]:
        """What tells it from other tasks."""
        return self.place, self.step, self.part


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        error: Name of the error's class; empty if it is done.
        reason: The error in one line.
        again: Another try may help: the error is not the input's.
        parts: Not done: the clip is a long one, to be done in so many parts.
        seconds: Time that it took.
        frames: Frames of the clip; 1 for a photograph.
        facts: What else is told of a result.
        outputs: Size of each file written, by its path under the folder of the results.
    """

    error: str = ""
    reason: str = ""
    again: bool = False
    parts: int = 0
    seconds: float = 0.0
    frames: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)


#: Called with a step's name, the frames done, and how many there are (None: unknown).
Tell = Callable[[str, int, int | None], None]
#: Does one task after another in a worker.
Work = Callable[[Task, Tell], Outcome]
#: Makes the above, in the worker; raises a Recon3DError where it cannot.
Start = Callable[[], Work]
