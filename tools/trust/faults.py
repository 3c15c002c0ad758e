"""Kills, full disks, folders that cannot be written and clocks that jump: what is marked done must be whole.

    python tools/trust/faults.py [--kills 200] [--seed 1] [--commands video,batch] [--clips 6] [--workers 2]

``recon3d video`` and ``recon3d batch`` do a folder of tiny clips, again and again, and are killed (SIGKILL)
at random moments: the whole process group, the parent alone, or one of the workers. After every kill,
whatever is marked done must be complete and equal to an undisturbed run, file by file, and must stay so;
after the last one the same command must finish everything. The other faults follow: a full disk (a small
tmpfs, where this may be mounted), one that is read-only, and a time of day that jumps by a day at every
look at it.

``video`` marks a clip as done by a capture.npz under its final name, ``batch`` by its ledger as well. Files
that differ between two undisturbed runs are compared by presence. Prints a summary in Markdown; exit status
1 if anything was lost, half there, or different.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sandbox import GUARD, family, kill_group, settled
from tiny import (
    Contents,
    command_line,
    contents,
    faults_of,
    marked_done,
    run,
    steady,
    unreadable,
    write_clips,
)

FORMATS = "livelink,glb,overlay,report"
#: Seconds within which the children of a killed process must be gone.
_LEAVE = 20.0
#: Seconds that one try may take.
_ENDLESS = 600.0
#: A disk that holds the results of some of the clips, bytes.
_SMALL = 3 << 20
_DAY = 86_400


@dataclass
class Score:
    """What the faults did.

    Attributes:
        kills: By what was killed.
        rounds: How often all clips were finished in spite of them.
        wrong: What was lost, half there, or different; and processes that stayed.
        facts: What else there is to say, by fault.
        seconds: How long it took.
    """

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    wrong: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Bench:
    """Clips, and what an undisturbed run makes of them.

    Attributes:
        command: ``video`` or ``batch``.
        clips: Their folder.
        count: How many there are.
        workers: How many are done at a time.
        reference: What the results hold.
        seconds: How long the undisturbed run took.
        out: The folder of the results; one path, as results may hold it.
        formats: What is written.
    """

    command: str
    clips: Path
    count: int
    workers: int
    reference: Contents
    seconds: float
    out: Path
    formats: str = FORMATS

    def words(self, out: Path | None = None) -> list[str]:
        """Return the command line."""
        return command_line(self.command, self.clips, out or self.out, self.workers, self.formats)

    def check(self, out: Path, when: str, before: set[str], score: Score) -> set[str]:
        """Compare what is marked done with the reference; return what is."""
        done = marked_done(self.command, out)
        wrong = faults_of(done, contents(out), self.reference) + unreadable(out, done)
        wrong += [f"{name} was done and is no more" for name in sorted(before - done)]
        score.wrong += [f"{self.command}, {when}: {one}" for one in wrong]
        return done

    def check_all(self, out: Path, when: str, score: Score) -> None:
        """See that everything is done, equal, and that nothing is left over."""
        done = self.check(out, when, set(), score)
        if len(done) != self.count:
            score.wrong.append(f"{self.command}, {when}: {len(done)} of {self.count} clips are done")
        left = [path.name for path in out.iterdir() if path.name.startswith(".recon3d-")]
        score.wrong += [f"{self.command}, {when}: {name} is left over" for name in left]


def prepare(
    command: str, folder: Path, count: int, workers: int, score: Score, formats: str = FORMATS
) -> Bench:
    """Write the clips and do them undisturbed, twice."""
    clips = folder / "clips"
    if not clips.exists():
        write_clips(clips, count)
    out = folder / f"{command}-out"
    seen: list[Contents] = []
    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        done = run(command_line(command, clips, out, workers, formats))
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            raise SystemExit(f"the undisturbed run fails: {done.stderr}")
        seen.append(contents(out))
    reference = steady(*seen)
    unsteady = sorted({name.split("/")[1] for name, digest in reference.items() if not digest})
    score.facts["files compared by presence"] = ", ".join(unsteady) or "none"
    shutil.rmtree(out)
    return Bench(command, clips, count, workers, reference, seconds, out, formats)


# --- kills --------------------------------------------------------------------------------------------------


def kill_at_random(bench: Bench, kills: int, rng: Random, score: Score) -> None:
    """Kill until there are so many kills; let every round end well."""
    target = sum(score.kills.values()) + kills
    while sum(score.kills.values()) < target:
        shutil.rmtree(bench.out, ignore_errors=True)
        done: set[str] = set()
        finished = False
        while not finished:
            left = target - sum(score.kills.values())
            finished = _one_try(bench, left, rng, score)
            done = bench.check(bench.out, f"after {score.kills.total()} kills", done, score)
        bench.check_all(bench.out, f"at the end of round {score.rounds + 1}", score)
        score.rounds += 1
        said = (
            f"{bench.command}: {score.kills.total()} kills, {score.rounds} rounds, {len(score.wrong)} wrong"
        )
        print(said, file=sys.stderr, flush=True)


def _one_try(bench: Bench, kills: int, rng: Random, score: Score) -> bool:
    """Run the command and kill at most so many of its processes; tell whether it came to its end."""
    process = subprocess.Popen(
        bench.words(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RECON3D_OFFLINE": "1"},
        start_new_session=True,
    )
    begun = time.perf_counter()
    victims = Counter[str]()
    # Workers of a batch are killed one after another; whoever kills more than this one try ends it.
    while victims.total() < kills:
        if _over(process, rng.uniform(0.0, bench.seconds * (0.9 if not victims else 0.3))):
            break
        # The group is killed with the parent, which may be halfway through anything; so may a worker.
        what = rng.choice(("worker", "worker", "group", "parent"))
        workers = _workers(process.pid)
        if what == "worker" and workers:
            _kill(rng.choice(workers))
            victims["one worker"] += 1
            if bench.command == "video":  # its pool ends with a worker, and says so
                break
            continue
        if process.poll() is not None:
            break
        children = family(process.pid)
        if what == "parent":
            process.kill()
            if not _gone(children, _LEAVE):
                score.wrong.append(f"{bench.command}: processes outlive their parent by {_LEAVE:.0f} s")
        kill_group(process.pid)
        victims["the parent alone" if what == "parent" else "the process group"] += 1
        break
    status = _end(process, begun, score, bench)
    score.kills += victims
    return status == 0


def _over(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait; tell whether the process ended by itself meanwhile."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes], begun: float, score: Score, bench: Bench) -> int:
    try:
        return process.wait(max(1.0, begun + _ENDLESS - time.perf_counter()))
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        score.wrong.append(f"{bench.command}: no end within {_ENDLESS:.0f} s")
        return process.wait()


def _workers(leader: int) -> list[int]:
    """Return the processes among them that do clips."""
    return [one for one in family(leader) if "spawn_main" in _words(one)]


def _words(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def _gone(processes: Sequence[int], seconds: float) -> bool:
    return settled(lambda: not any(map(_alive, processes)), seconds)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


# --- other faults -------------------------------------------------------------------------------------------


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[Callable[[str], bool] | None]:
    """Mount a small disk at a folder; yield what changes it, or None where it may not be mounted."""
    folder.mkdir()

    def mount(options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False

    if not mount(f"size={size}"):
        yield None
        return
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def full_disk(bench: Bench, folder: Path, score: Score) -> None:
    """Fill the disk of the results, then make it larger, then read-only, and look each time."""
    with _disk(folder / f"{bench.command}-disk", _SMALL) as change:
        if change is None:
            score.facts["full disk, read-only disk"] = "not tried: no disk may be mounted here"
            return
        out = folder / f"{bench.command}-disk" / "out"
        ended = run(bench.words(out))
        _expect_failure(ended, "space", bench, "full disk", score)
        done = bench.check(out, "full disk", set(), score)
        score.facts["full disk"] = f"{len(done)} of {bench.count} clips done on it"
        change("size=2g")
        change("ro,size=2g")
        ended = run(bench.words(out))
        _expect_failure(ended, "permission", bench, "read-only disk", score)
        done = bench.check(out, "read-only disk", done, score)
        change("rw,size=2g")
        words = bench.words(out) + (["--retry-failed"] if bench.command == "batch" else [])
        ended = run(words)
        if ended.returncode != 0:
            score.wrong.append(f"{bench.command}, with space again: {ended.stderr.strip()}")
        bench.check_all(out, "with space again", score)


def _expect_failure(
    ended: subprocess.CompletedProcess[str], word: str, bench: Bench, when: str, score: Score
) -> None:
    """See that a run failed as it should: in words, one line an error, which say what is the matter."""
    problems = [line for line in ended.stderr.splitlines() if not line.startswith("recon3d: ")]
    if ended.returncode != 1 or problems or word not in ended.stderr or "unexpected" in ended.stderr:
        text = " | ".join(ended.stderr.strip().splitlines()[-3:])
        score.wrong.append(f"{bench.command}, {when}: exit status {ended.returncode}: {text}")


def jumping_clock(bench: Bench, score: Score) -> None:
    """Do everything while the time of day jumps."""
    shutil.rmtree(bench.out, ignore_errors=True)
    ended = run(bench.words(), PYTHONPATH=str(GUARD), TRUST_CLOCK_JUMPS=str(_DAY))
    if ended.returncode != 0:
        score.wrong.append(f"{bench.command}, clock jumps: {ended.stderr.strip()}")
    bench.check_all(bench.out, "clock jumps", score)
    score.facts["clock that jumps by up to a day"] = f"{bench.count} clips done"


def report(scores: Mapping[str, Score], clips: int, seed: int) -> str:
    """Return the summary in Markdown."""
    names = list(scores)
    lines = [
        f"{sum(s.kills.total() for s in scores.values())} kills, seed {seed}, {clips} clips a round, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for what in ("the process group", "the parent alone", "one worker"):
        lines.append(f"| killed: {what} | " + " | ".join(str(scores[n].kills[what]) for n in names) + " |")
    lines.append("| rounds finished | " + " | ".join(str(scores[n].rounds) for n in names) + " |")
    for fact in dict.fromkeys(fact for score in scores.values() for fact in score.facts):
        lines.append(f"| {fact} | " + " | ".join(scores[n].facts.get(fact, "") for n in names) + " |")
    lines.append(
        "| **lost, half there, or different** | "
        + " | ".join(str(len(scores[n].wrong)) for n in names)
        + " |"
    )
    lines.append("| time, s | " + " | ".join(f"{scores[n].seconds:.0f}" for n in names) + " |")
    lines += ["", *(f"- {one}" for score in scores.values() for one in score.wrong)]
    return "\n".join(lines).rstrip()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commands", default="video,batch")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-kills", action="store_true", help="leave disks and clocks out")
    given = parser.parse_args()
    commands = given.commands.split(",")
    scores: dict[str, Score] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        for place, command in enumerate(commands):
            score = scores[command] = Score()
            begun = time.perf_counter()
            bench = prepare(command, folder, given.clips, given.workers, score)
            share = given.kills * (place + 1) // len(commands) - given.kills * place // len(commands)
            kill_at_random(bench, share, Random(f"{given.seed} {command}"), score)
            if not given.only_kills:
                full_disk(bench, folder, score)
                jumping_clock(bench, score)
            score.seconds = time.perf_counter() - begun
            print(f"{command}: {score.kills.total()} kills, {score.seconds:.0f} s", file=sys.stderr)
    print(report(scores, given.clips, given.seed))
    return 1 if any(score.wrong for score in scores.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
