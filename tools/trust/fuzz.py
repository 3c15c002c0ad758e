"""Feeds broken, lying and nasty inputs to the command line, and looks for anything that must not happen.

    python tools/trust/fuzz.py [--count 2000] [--seed 1] [--commands photo,video,...] [--keep DIR]

The inputs are made on the fly (corpus.py) and are the same for the same seed. Most runs take dozens of
inputs at once, some one alone. Whatever the input: no traceback, no "unexpected error", no process ended by
a signal, none without a sign of life for a minute, nothing written outside the output folder (watched by a
hook in the process and by looking at the folders around), no half results, one line on standard error for
each input that failed, whole results for the good ones among them, memory within bounds. Prints a summary
in Markdown; inputs that break a rule go to ``--keep``. Exit status 1 if there are any.

Run as root (who may read everything) the inputs that are not to be read are read all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from corpus import PICTURES, Case, Maker, make_case
from corpus_batch import ITEMS, MANIFESTS
from corpus_clips import CLIPS
from corpus_takes import TAKES
from fuzz_serve import UPLOADS, serve
from sandbox import PATIENCE, RECON3D, Line, Outcome, Sandbox

from recon3d.capture import Capture
from recon3d.errors import Recon3DError
from recon3d.media._open import shown

#: Inputs of a run that takes many, and how many of a hundred runs take one alone.
MANY, ALONE = 40, 12
#: Peak memory of a process, bytes.
MEMORY = 3 << 30
#: The manifest of a batch.
_LIST = "list.jsonl"
#: What may go wrong, in the order of the report.
FAULTS = {
    "traceback": "traceback",
    "unexpected": "“unexpected error”",
    "death": "ended by a signal",
    "hang": f"no sign of life for {PATIENCE:.0f} s",
    "outside": "written outside the output folder",
    "half": "half a result",
    "silent": "no word about an input",
    "line": "a line that is not ours",
    "fate": "a good input failed, or a bad one passed",
    "status": "wrong exit status",
    "memory": f"more than {MEMORY >> 30} GiB of memory",
}


@dataclass(frozen=True)
class Command:
    """A command under test.

    Attributes:
        table: Its kinds of inputs.
        share: How many of a thousand inputs it gets.
        options: Its options for a run, by chance.
        captures: Its results hold a ``capture.npz``.
        alone: Kinds of inputs of which a run takes one.
    """

    table: Mapping[str, Maker]
    share: int
    options: Callable[[Random], list[str]]
    captures: bool
    alone: Mapping[str, Maker] = field(default_factory=dict)


def _photo_options(rng: Random) -> list[str]:
    return rng.choice(([], ["-f", "arkit"], ["-f", "overlay,glb"], ["--refine", "-f", "obj"], ["--delight"]))


def _video_options(rng: Random) -> list[str]:
    return rng.choice(([], ["-f", "livelink"], ["-f", "livelink"], ["-f", "overlay,usd", "--face", "1"]))


_EXPORTS = (
    "livelink",
    "glb",
    "obj",
    "csv",
    "json",
    "bvh",
    "arkit",
    "glb-curves",
    "glb-skeleton",
    "report",
    "usd",
)


def _export_options(rng: Random) -> list[str]:
    options = ["-f", ",".join(rng.sample(_EXPORTS, 2))]
    return options + rng.choice(([], [], ["--fps", "30"], ["--fps", "0"], ["--fps", "240"], ["--map", "vrm"]))


def _batch_options(rng: Random) -> list[str]:
    formats = ["-f", "livelink", "--photo-format", "arkit"]
    return [*formats, "--cluster", "local", "--workers", rng.choice("12"), "--retries", "0", "-q"]


COMMANDS: Mapping[str, Command] = {
    "photo": Command(PICTURES, 350, _photo_options, True),
    "video": Command(CLIPS, 300, _video_options, True),
    "export": Command(TAKES, 350, _export_options, False),
    "batch": Command(ITEMS, 200, _batch_options, True, MANIFESTS),
    "serve": Command(UPLOADS, 200, lambda rng: [], False),
}


@dataclass(frozen=True)
class Problem:
    """A rule that was broken: which (a key of ``FAULTS``), by which input (None: by the run), and how."""

    fault: str
    case: Case | None
    detail: str


@dataclass
class Tally:
    """What came of the inputs of a command.

    Attributes:
        fates: How many ended how, by kind and "done" or "refused".
        problems: What must not have happened.
        runs: Processes.
        slowest: Seconds of the slowest input and its name; of the first of a process with its start.
        peak: Most memory of a process, bytes.
        seconds: Of all processes.
    """

    fates: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    runs: int = 0
    slowest: tuple[float, str] = (0.0, "")
    peak: int = 0
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        """How many inputs there were."""
        return sum(self.fates.values())


@dataclass(frozen=True)
class Run:
    """Inputs that one process is given.

    Attributes:
        command: Name of the command.
        cases: The inputs.
        options: Options of the command.
        as_json: It reports in JSON.
        environment: More environment variables.
        relative: The inputs are named relative to the working folder.
    """

    command: str
    cases: Sequence[Case]
    options: Sequence[str]
    as_json: bool
    environment: Mapping[str, str]
    relative: bool


def plan(command: str, count: int, seed: int) -> Iterator[Run]:
    """Deal ``count`` inputs of a command out to runs."""
    rng = Random(f"{seed} {command}")
    number = 0
    while number < count:
        size = 1 if rng.randrange(100) < ALONE else min(MANY, count - number)
        alone = COMMANDS[command].alone
        table = alone if size == 1 and alone else COMMANDS[command].table
        cases = [make_case(table, seed, number + k, command) for k in range(size)]
        number += size
        plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        environment = plain if rng.random() < 0.15 else {}
        options = COMMANDS[command].options(rng)
        as_json = command == "batch" or rng.random() < 0.5
        yield Run(command, cases, options, as_json, environment, command != "batch" and rng.random() < 0.5)


class Fuzzer:
    """Does runs, and judges them."""

    def __init__(self, folder: Path, keep: Path | None, program: Sequence[str], patience: float) -> None:
        self._folder, self._keep, self._program, self._patience = folder, keep, program, patience
        self._count = 0

    def do(self, run: Run, tally: Tally) -> None:
        """Do a run; after a death or a hang, the inputs behind the one that caused it in another."""
        left = list(run.cases)
        if run.command == "serve":
            self._serve(run, tally)
            return
        while left:
            self._count += 1
            box = Sandbox(self._folder / f"run-{self._count:04d}")
            given = {case.name: box.inputs / case.name for case in left}
            for case in left:
                case.place(given[case.name])
            names = [case.name if run.relative else str(given[case.name]) for case in left]
            words = [run.command, "--out", "../out", *run.options, *(["--json"] if run.as_json else [])]
            outcome = box.run(
                [*words, "--", *(names if run.command != "batch" else [_source(left, names, box)])],
                program=self._program,
                patience=self._patience,
                environment=run.environment,
            )
            verdict = Verdict(run, left, names, outcome, box)
            self._note(verdict, tally)
            stopped = outcome.hung or outcome.status < 0
            left = left[verdict.reached + 1 :] if stopped else []
            box.remove()

    def _serve(self, run: Run, tally: Tally) -> None:
        """Upload the inputs of a run to one server."""
        self._count += 1
        box = Sandbox(self._folder / f"run-{self._count:04d}")
        for case in run.cases:
            case.place(box.inputs / case.name)
        served = serve(run.cases, box, self._patience)
        tally.runs += 1
        tally.seconds += served.seconds
        tally.peak = max(tally.peak, served.peak)
        tally.slowest = max(tally.slowest, served.slowest)
        problems = [Problem(*one) for one in served.problems]
        for number, case in enumerate(run.cases):
            tally.fates[case.kind, served.fates[number]] += 1
            # A server need not take what the command line takes; but never what that refuses.
            if case.fate == "refused" and served.fates[number] == "done":
                problems.append(Problem("fate", case, "refused is wanted"))
        tally.problems += problems
        if problems and self._keep is not None:
            _keep(self._keep / f"serve-{self._count:04d}", problems, [])
        box.remove()

    def _note(self, verdict: Verdict, tally: Tally) -> None:
        outcome = verdict.outcome
        tally.runs += 1
        tally.seconds += outcome.seconds
        tally.peak = max(tally.peak, outcome.peak)
        tally.slowest = max(tally.slowest, verdict.slowest)
        stopped = outcome.hung or outcome.status < 0
        for number, case in enumerate(verdict.cases):
            if not stopped or number <= verdict.reached:
                tally.fates[case.kind, "done" if case.name in verdict.done else "refused"] += 1
        tally.problems += verdict.problems
        if verdict.problems and self._keep is not None:
            words = [shlex.join(outcome.command), "", *(line.text for line in outcome.lines)]
            _keep(self._keep / f"{verdict.run.command}-{self._count:04d}", verdict.problems, words)


class Verdict:
    """What is to be said of a run."""

    def __init__(
        self, run: Run, cases: Sequence[Case], names: Sequence[str], outcome: Outcome, box: Sandbox
    ) -> None:
        self.run, self.cases, self.outcome = run, cases, outcome
        self.problems: list[Problem] = []
        self._box = box
        #: A source by itself, which names other inputs.
        self._alone = cases[0].kind in COMMANDS[run.command].alone
        self._names = {_seen(name, run): case for name, case in zip(names, cases, strict=True)}
        if run.command == "batch":  # a row of which nothing can be made is called by its line
            rows = enumerate(cases, 1)
            self._names |= {_seen(f"{box.root / 'guard' / _LIST}:{row}", run): case for row, case in rows}
        self.done: set[str] = set()
        self._failed: set[str] = set()
        #: Number of the last input that the process had begun with.
        self.reached = 0
        self.slowest = (0.0, "")
        self._read_lines()
        self._judge_process()
        self._judge_inputs()
        self._judge_results()

    @property
    def _stopped(self) -> bool:
        return self.outcome.hung or self.outcome.status < 0

    def _blame(self, fault: str, case: Case | None, detail: str) -> None:
        self.problems.append(Problem(fault, case, detail))

    # --- what it said ---

    def _read_lines(self) -> None:
        last = 0.0
        for line in self.outcome.lines:
            case = self._of_record(line) if self.run.as_json and line.stream == 1 else self._of_text(line)
            if "Traceback (most recent" in line.text:
                self._blame("traceback", case, line.text)
            if "unexpected error" in line.text and line.stream == 2:
                self._blame("unexpected", case, line.text)
            if case is not None:
                self.slowest = max(self.slowest, (line.seconds - last, f"{case.kind}: {case.name!a}"))
                last = line.seconds
        over = self.done | self._failed
        waiting = [number for number, case in enumerate(self.cases) if case.name not in over]
        self.reached = waiting[0] if waiting else len(self.cases) - 1

    def _of_record(self, line: Line) -> Case | None:
        try:
            record: dict[str, Any] = json.loads(line.text)
            name = shown(Path(record["input"]))
            case = self.cases[0] if self._alone else self._case(name)
        except (ValueError, KeyError, TypeError):
            self._blame("line", None, f"not a record: {line.text[:300]}")
            return None
        if case is None:
            self._blame("line", None, f"a record of something else: {line.text[:300]}")
            return None
        (self.done if record["ok"] else self._failed).add(case.name)
        for output in record.get("outputs", ()):
            if not (self._box.inputs / output).exists():
                self._blame("half", case, f"said to be written, and not there: {output}")
        return case

    def _of_text(self, line: Line) -> Case | None:
        """Note a line for people; what a JSON run prints for them as well."""
        if line.stream == 1:
            name, arrow, _ = line.text.partition(" -> ")
            case = self._case(name)
            if not arrow or case is None:
                self._blame("line", None, f"on standard output: {line.text[:300]}")
                return None
            self.done.add(case.name)
            return case
        if self.outcome.status == 2:
            return None
        if not line.text.startswith("recon3d: "):
            self._blame("line", None, f"on standard error: {line.text[:300]}")
            return None
        text = line.text.removeprefix("recon3d: ")
        found = [case for name, case in self._names.items() if text.startswith((f"{name}:", f"{name}/"))]
        if not found and self._alone:
            found = [self.cases[0]]
        if not found:
            if not text.endswith(("inputs failed", "lists them")):
                self._blame("line", None, f"names no input: {line.text[:300]}")
            return None
        if "left out" not in text:
            self._failed.add(found[0].name)
        return found[0]

    def _case(self, name: str) -> Case | None:
        """Return whose name this is, or whose folder it is in."""
        found = self._names.get(name)
        inside = (case for folder, case in self._names.items() if name.startswith(f"{folder}/"))
        return found or next(inside, None)

    # --- rules ---

    def _judge_process(self) -> None:
        outcome = self.outcome
        current = self.cases[self.reached]
        if outcome.hung:
            self._blame("hang", current, f"killed after {outcome.seconds:.0f} s")
        elif outcome.status < 0:
            self._blame("death", current, f"signal {-outcome.status}")
        else:
            wanted = (0, 1, 2) if self._alone else (1 if self._failed else 0,)
            if outcome.status not in wanted:
                self._blame("status", None, f"{outcome.status}, {wanted[0]} is wanted")
        for trespass in outcome.trespasses:
            self._blame("outside", None, trespass)
        if outcome.peak > MEMORY:
            self._blame("memory", None, f"{outcome.peak / 2**30:.1f} GiB")

    def _judge_inputs(self) -> None:
        seen: set[str] = set()
        for number, case in enumerate(self.cases):
            if self._stopped and number >= self.reached:
                return
            place = os.path.realpath(self._box.inputs / case.name)
            again, said = place in seen, case.name in self.done | self._failed
            seen.add(place)
            if not said and not again and not (self._alone and self.outcome.status):
                self._blame("silent", case, "")
            wrong = {"done": case.name in self._failed, "refused": case.name in self.done, "either": False}
            if wrong[case.fate]:
                self._blame("fate", case, f"{case.fate} is wanted")

    def _judge_batch(self) -> None:
        """Look at results in folders within folders."""
        for path in sorted(self._box.out.rglob("*")):
            if path.name.startswith(".") and not self._stopped:
                self._blame("half", None, f"left behind: {path.relative_to(self._box.out)}")
            elif path.name == "capture.npz":
                try:
                    Capture.load(path)
                except Recon3DError as error:
                    self._blame("half", None, str(error))

    def _judge_results(self) -> None:
        if not self._box.out.is_dir():
            return
        if self.run.command == "batch":
            self._judge_batch()
            return
        for folder in sorted(self._box.out.iterdir()):
            if folder.name.startswith(".") and not folder.name.startswith(".."):
                if self._stopped:
                    continue  # what was seen is kept for the next run
                self._blame("half", None, f"left behind: {folder.name}")
                continue
            left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
            if left or not any(folder.iterdir()):
                self._blame("half", None, f"{folder.name}: {left or 'empty'}")
            if COMMANDS[self.run.command].captures:
                try:
                    Capture.load(folder / "capture.npz")
                except Recon3DError as error:
                    self._blame("half", None, str(error))


def _source(cases: Sequence[Case], names: Sequence[str], box: Sandbox) -> str:
    """Return what a batch is given: a manifest of the inputs, or the one input that is one."""
    if cases[0].kind in COMMANDS["batch"].alone:
        return names[0]
    rows = [json.dumps({"path": name, "id": f"item-{number}"}) for number, name in enumerate(names)]
    path = box.root / "guard" / _LIST
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def _seen(name: str, run: Run) -> str:
    """Return a name as the process shows it, which may take it for something else than UTF-8."""
    ascii_only = run.environment.get("LC_ALL") == "C"
    return shown(Path(os.fsencode(name).decode("ascii", "surrogateescape") if ascii_only else name))


def _keep(folder: Path, problems: Sequence[Problem], words: Sequence[str]) -> None:
    """Keep what is needed to see problems again: the inputs, and what was said."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "guard").mkdir(exist_ok=True)
    inputs = folder / "in"
    inputs.mkdir(exist_ok=True)
    for case in (problem.case for problem in problems):
        if case is not None and not os.path.lexists(inputs / case.name):
            case.place(inputs / case.name)
    lines = [f"{p.fault}: {ascii(p.case.name) if p.case else 'the run'}: {p.detail}" for p in problems]
    text = "\n".join([*lines, "", *words])
    (folder / "report.txt").write_text(text + "\n", "utf-8", "backslashreplace")


def report(tallies: Mapping[str, Tally], seed: int) -> str:
    """Return the summary in Markdown."""
    total = sum(tally.inputs for tally in tallies.values())
    root = " as root" if os.geteuid() == 0 else ""
    lines = [
        f"{total:,} inputs, seed {seed}, Python {platform.python_version()}, {os.cpu_count()} cores{root}.",
        "",
        "| | " + " | ".join(tallies) + " |",
        "|---|" + "---:|" * len(tallies),
    ]

    def row(title: str, value: Callable[[Tally], object]) -> None:
        lines.append(f"| {title} | " + " | ".join(str(value(tally)) for tally in tallies.values()) + " |")

    def ended(how: str) -> Callable[[Tally], int]:
        return lambda tally: sum(n for (_, fate), n in tally.fates.items() if fate == how)

    row("inputs", lambda tally: tally.inputs)
    row("processes", lambda tally: tally.runs)
    row("… inputs with a result", ended("done"))
    row("… inputs refused in one line", ended("refused"))
    for fault, title in FAULTS.items():
        row(title, lambda tally, fault=fault: sum(p.fault == fault for p in tally.problems))  # type: ignore[misc]
    row("slowest input, s", lambda tally: f"{tally.slowest[0]:.1f}")
    row("peak memory, MiB", lambda tally: tally.peak >> 20)
    row("time, s", lambda tally: f"{tally.seconds:.0f}")
    for command, tally in tallies.items():
        lines += ["", f"### {command}", "", f"Slowest: {tally.slowest[1]}", ""]
        lines += ["| kind of input | inputs | with a result |", "|---|---:|---:|"]
        for kind in dict.fromkeys(kind for kind, _ in tally.fates):
            done, refused = tally.fates[kind, "done"], tally.fates[kind, "refused"]
            lines.append(f"| {kind} | {done + refused} | {done} |")
    return "\n".join(lines)


def fuzz(
    commands: Sequence[str],
    count: int,
    seed: int,
    *,
    folder: Path,
    keep: Path | None = None,
    program: Sequence[str] = RECON3D,
    patience: float = PATIENCE,
) -> dict[str, Tally]:
    """Feed ``count`` inputs to the commands; return what came of them."""
    shares = {name: COMMANDS[name].share for name in commands}
    fuzzer = Fuzzer(folder, keep, program, patience)
    tallies: dict[str, Tally] = {}
    for name, share in shares.items():
        tallies[name] = tally = Tally()
        begun = time.perf_counter()
        for run in plan(name, max(1, round(count * share / sum(shares.values()))), seed):
            found = len(tally.problems)
            fuzzer.do(run, tally)
            for problem in tally.problems[found:]:
                who = ascii(problem.case.name) if problem.case else "the run"
                print(f"{name}: {problem.fault}: {who}: {problem.detail!a}", file=sys.stderr, flush=True)
        print(f"{name}: {tally.inputs} inputs, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return tallies


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--keep", type=Path, help="folder for what breaks a rule")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds without a sign of life")
    parser.add_argument("--program", default=shlex.join(RECON3D), help="what to run instead of recon3d")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        tallies = fuzz(
            given.commands.split(","),
            given.count,
            given.seed,
            folder=Path(folder),
            keep=given.keep,
            program=shlex.split(given.program),
            patience=given.patience,
        )
    print(report(tallies, given.seed))
    return 1 if any(tally.problems for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
