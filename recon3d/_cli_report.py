"""What a command tells its user: progress and errors on standard error, results on standard output."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from recon3d.errors import Recon3DError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Set, it makes an unexpected error show its traceback.
DEBUG = "RECON3D_DEBUG"


@dataclass
class Reporter:
    """Reports on the inputs of one command, one after another. Use it in a ``with`` statement.

    Attributes:
        quiet: Only errors are reported.
        as_json: Results go to standard output as one line of JSON an input, and nothing else does.
        failures: How many inputs failed so far.
        total: How many inputs there are.
    """

    quiet: bool = False
    as_json: bool = False
    failures: int = 0
    total: int = 0
    _progress: Progress | None = field(default=None, repr=False)
    _task: TaskID | None = field(default=None, repr=False)
    _clips: dict[tuple[str, str], TaskID] = field(default_factory=dict, repr=False)
    _over: set[str] = field(default_factory=set, repr=False)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def begin(self, total: int, what: str) -> None:
        """Tell how many inputs there are; draws the bar if someone watches and there is more than one."""
        self.total = total
        if self.quiet or total < 2 or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Not redirected: rich would send to standard error what a program reads from standard output.
        self._progress = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(what, total=total)
        self._progress.start()

    def begin_clips(self, total: int) -> None:
        """Tell how many clips there are; if someone watches, each gets a bar that counts its frames."""
        self.total = total
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        speed = TextColumn("{task.fields[speed]}")
        left = TimeRemainingColumn()
        name = TextColumn("{task.description}", markup=False)  # a clip's name may look like markup
        columns = (name, BarColumn(), MofNCompleteColumn(), speed, left)
        self._progress = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        if total > 1:
            self._task = self._progress.add_task("clips", total=total, speed="")
        self._progress.start()

    def frames_done(self, clip: str, step: str, done: int, total: int | None) -> None:
        """Tell how many frames of a clip have gone through a step; all of them: the bar goes."""
        if self._progress is None or clip in self._over:  # a worker's message may come late
            return
        from recon3d.media._open import shown

        task = self._clips.get((clip, step))
        if task is None:
            task = self._progress.add_task(f"{shown(clip)}: {step}", total=total, speed="")
            self._clips[clip, step] = task
        speed = self._progress.tasks[self._progress.task_ids.index(task)].speed
        self._progress.update(task, completed=done, speed=f"{speed:.0f} frames/s" if speed else "")
        if done == total:
            self._progress.remove_task(self._clips.pop((clip, step)))

    def clip_over(self, clip: str) -> None:
        """Tell that a clip is done or has failed: whatever bar it still has goes."""
        self._over.add(clip)
        for key in [key for key in self._clips if key[0] == clip]:
            assert self._progress is not None
            self._progress.remove_task(self._clips.pop(key))

    def done(self, given: Path, text: str, **facts: Any) -> None:
        """Report an input that is done: ``text`` for people, ``facts`` for programs."""
        if self.as_json:
            self._print(json.dumps({"input": str(given), "ok": True, **facts}), sys.stdout)
        elif not self.quiet:
            self._print(text, sys.stdout)
        self._advance()

    def failed(self, given: Path, error: BaseException) -> None:
        """Report an input that failed, in one line that names it."""
        from recon3d.media._open import shown

        self.failures += 1
        reason = explain(error)
        name = shown(given)
        if not reason.startswith(f"{name}:"):
            reason = f"{name}: {reason}"
        self._fail(given, reason, error)
        self.say(reason)

    def not_done(self, given: Path, error: BaseException) -> None:
        """Note an input that was not tried, for a reason that ``say`` told once for all."""
        self.failures += 1
        self._fail(given, explain(error), error)

    def say(self, message: str) -> None:
        """Print one line to standard error."""
        self._print(f"recon3d: {message}", sys.stderr)

    def exit_status(self) -> int:
        """Return 0 if all inputs were done, 1 if some failed; tell how many where there were several."""
        if self.failures and self.total > 1:
            self.say(f"{self.failures} of {self.total} inputs failed")
        return 1 if self.failures else 0

    def _fail(self, given: Path, reason: str, error: BaseException) -> None:
        if self.as_json:
            record = {"input": str(given), "ok": False, "error": reason, "kind": type(error).__name__}
            self._print(json.dumps(record), sys.stdout)
        if os.environ.get(DEBUG) and not isinstance(error, Recon3DError):
            traceback.print_exception(error)
        self._advance()

    def _advance(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def _print(self, line: str, stream: TextIO) -> None:
        """Print a line; above the bar, where the stream is the terminal that shows it."""
        if self._progress is not None and stream.isatty():
            console = self._progress.console
            console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
            return
        print(line, file=stream, flush=True)


def explain(error: BaseException) -> str:
    """Return the reason of an error in one line; for one that nobody foresaw, with what to do about it."""
    if isinstance(error, Recon3DError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory; make the picture smaller"
    detail = " ".join(str(error).split())[:200]
    return (
        f"unexpected error: {type(error).__name__}: {detail} "
        f"(a fault of recon3d: please report it, with what {DEBUG}=1 shows)"
    )
