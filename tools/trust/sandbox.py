"""A folder of its own for one run of the command line, and everything that is watched while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from recon3d.assets import cache_folder

GUARD = Path(__file__).resolve().parent / "guard"
#: The command line as the fuzzer starts it.
RECON3D = (sys.executable, "-m", "recon3d")
#: Seconds without a sign of life after which a process counts as hung.
PATIENCE = 60.0
_LOOK = 0.02

#: Of everything below a folder: kind and permissions, size, time of change, and where a link leads.
Snapshot = dict[str, tuple[int, int, int, str]]


@dataclass(frozen=True)
class Line:
    """A line that a process printed.

    Attributes:
        seconds: Since its start.
        stream: 1 for standard output, 2 for standard error.
        text: Without the line's end.
    """

    seconds: float
    stream: int
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of a process.

    Attributes:
        command: The command line.
        status: Exit status; negative where a signal ended it.
        lines: What it printed, in order.
        seconds: How long it took.
        peak: Its peak memory and that of its children, the larger of them, bytes.
        hung: It gave no sign of life for ``PATIENCE`` and was killed.
        trespasses: What it changed outside its output folder, and what it left in the folders for
            temporary files and for the user's settings.
    """

    command: tuple[str, ...]
    status: int
    lines: tuple[Line, ...]
    seconds: float
    peak: int
    hung: bool
    trespasses: tuple[str, ...]

    def texts(self, stream: int) -> list[str]:
        """Return the lines of a stream."""
        return [line.text for line in self.lines if line.stream == stream]


@dataclass
class Sandbox:
    """A folder with ``in``, ``out``, ``guard``, ``home`` and ``tmp``; only ``out`` may change for good."""

    root: Path
    _before: Snapshot = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("in", "guard", "home", "tmp"):
            (self.root / name).mkdir(parents=True)
        (self.root / "guard" / "precious.txt").write_text("not to be touched\n")

    @property
    def inputs(self) -> Path:
        """Folder of the inputs, and where the command runs."""
        return self.root / "in"

    @property
    def out(self) -> Path:
        """Folder of the results; the command makes it."""
        return self.root / "out"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a command: all its writable folders lie in here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "TRUST_"))}
        return kept | {
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "RECON3D_CACHE": str(cache_folder()),
            "RECON3D_OFFLINE": "1",
            "PYTHONPATH": str(GUARD),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRUST_NOTES": str(self.root / "notes.txt"),
            "TRUST_ALLOWED": os.pathsep.join(
                str(path.resolve()) for path in (self.out, self.root / "tmp", self.root / "home")
            ),
            **more,
        }

    def run(
        self,
        arguments: Sequence[str],
        *,
        program: Sequence[str] = RECON3D,
        patience: float = PATIENCE,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Run the command line with ``in`` as its working folder, and watch it."""
        command = (*program, *arguments)
        before = self.look()
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=self.inputs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(**(environment or {})),
            start_new_session=True,
        )
        listener = _Listener(process, begun)
        status, peak, hung = _wait(process, listener, patience)
        seconds = time.perf_counter() - begun
        lines = listener.finish()
        return Outcome(command, status, lines, seconds, peak, hung, self.trespasses(before))

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)

    def look(self) -> Snapshot:
        """Return what lies where nothing may change."""
        return {
            name: facts
            for folder in ("in", "guard", "home", "tmp")
            for name, facts in snapshot(self.root / folder).items()
        }

    def trespasses(self, before: Snapshot) -> tuple[str, ...]:
        """Return what has changed since where nothing may change, a line each."""
        found = differences(before, self.look())
        here = sorted(path.name for path in self.root.iterdir())
        found += [f"new: {name}" for name in here if name not in _OWN]
        notes = self.root / "notes.txt"
        if notes.exists():
            found += notes.read_text("utf-8", "replace").splitlines()
            notes.unlink()
        return tuple(found)


_OWN = frozenset({"in", "out", "guard", "home", "tmp", "notes.txt", "notes-server.txt"})


def snapshot(folder: Path) -> Snapshot:
    """Return what lies below a folder, links not followed."""
    found: Snapshot = {}
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(at, name)
            facts = path.lstat()
            link = str(path.readlink()) if stat.S_ISLNK(facts.st_mode) else ""
            # A folder's size and time change with what comes and goes in it, which is seen anyway.
            own = (0, 0) if stat.S_ISDIR(facts.st_mode) else (facts.st_size, facts.st_mtime_ns)
            found[str(path)] = (facts.st_mode, *own, link)
    return found


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what came, went and changed between two looks at a folder, a line each."""
    names = sorted(before.keys() | after.keys())
    words = {(True, False): "gone", (False, True): "new", (True, True): "changed"}
    return [
        f"{words[name in before, name in after]}: {name!r}"
        for name in names
        if before.get(name) != after.get(name)
    ]


class _Listener:
    """Reads what a process prints, and when."""

    def __init__(self, process: subprocess.Popen[bytes], begun: float) -> None:
        self._begun, self._lines, self._lock = begun, list[Line](), threading.Lock()
        self.heard = begun
        assert process.stdout is not None and process.stderr is not None
        streams = ((1, process.stdout), (2, process.stderr))
        self._threads = [
            threading.Thread(target=self._listen, args=pair, name="listener", daemon=True) for pair in streams
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, number: int, stream: IO[bytes]) -> None:
        for line in stream:
            with self._lock:
                self.heard = time.perf_counter()
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                self._lines.append(Line(self.heard - self._begun, number, text))

    def finish(self) -> tuple[Line, ...]:
        """Return all lines; of a process that is gone."""
        for thread in self._threads:
            thread.join(10)  # a child that outlives its parent may keep the pipes open
        with self._lock:
            return tuple(self._lines)


def _wait(process: subprocess.Popen[bytes], listener: _Listener, patience: float) -> tuple[int, int, bool]:
    """Wait for a process; return its exit status, its peak memory, and whether it hung."""
    hung = False
    while True:
        gone, status, usage = os.wait4(process.pid, os.WNOHANG)
        if gone:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        if not hung and time.perf_counter() - listener.heard > patience:
            hung = True
            kill_group(process.pid)
        time.sleep(_LOOK)
    kill_group(process.pid)  # whoever of its children is still there
    return process.returncode, usage.ru_maxrss * 1024, hung


def kill_group(leader: int) -> None:
    """Kill a process that leads a group of its own, and all that it started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def family(leader: int) -> list[int]:
    """Return all processes that a process started, and those started; Linux only."""
    found = []
    for thread in Path(f"/proc/{leader}/task").glob("*"):
        try:
            children = [int(word) for word in (thread / "children").read_text().split()]
        except OSError:  # it has just ended
            continue
        for child in children:
            found += [child, *family(child)]
    return found


def settled(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; tell whether it does."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if condition():
            return True
        time.sleep(_LOOK)
    return condition()
