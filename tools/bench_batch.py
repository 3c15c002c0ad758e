"""Measures recon3d batch on this machine, and prints a table in Markdown.

    python tools/bench_batch.py [cost] [throughput] [nodes] [sizes] [simulated] [--clips 200] [--workers 2]

``cost``: what the coordinator, its pool and the ledger take for an item, the tasks themselves doing nothing:
for processes of this machine, and for actors of a Ray cluster on it. ``throughput``: short clips by
``recon3d batch`` against ``recon3d video --workers 1``, both with one thread a process, start-up included.
``nodes``: the same clips on a Ray cluster of one node and of two, each a process of its own with one core.
``sizes``: the ledger's size and speed, and the coordinator's memory, with a hundred thousand items.
``simulated``: as many items on a hundred machines, by the real coordinator and ledger and simulated workers.
All by default.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from recon3d.batch.ledger import Changes, Ledger, Row, State, Wish, open_ledger
from recon3d.batch.options import ItemOptions, Models
from recon3d.batch.plan import Plan
from recon3d.batch.pool import Ended, Event, Pool, ProcessPool
from recon3d.batch.run import Coordinator, Limits
from recon3d.batch.source import find_items
from recon3d.batch.task import Outcome, Task, Tell, Work

Lines = Iterator[tuple[str, str]]
_STORE = 80_000_000
#: As the clips of an archive are entered: an absolute path, options, settings, four result files.
_SETTINGS = json.dumps({
    "format": [], "face": "all", "smooth": 0.5, "calibrate": None, "focal": None, "side_by_side": False,
    "fps": None, "sequence_fps": None, "angles": None, "map": None, "head": None, "encoder": True,
})  # fmt: skip
_FILES = ("animation.glb", "livelink.csv", "overlay.mp4", "report.html", "capture.npz")


@dataclass(frozen=True)
class Nothing:
    """Starts a worker whose tasks take no time."""

    def __call__(self) -> Work:
        """Return what does the tasks."""
        return self._do

    def _do(self, task: Task, tell: Tell) -> Outcome:
        outputs = {f"{task.id}/{name}": 123_456 for name in _FILES}
        return Outcome(frames=150, facts={"lost": 0, "tracked": 1.0, "skipped": False}, outputs=outputs)


class Silent:
    """Listens to a coordinator; knows when the first and the last item were done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def told(self, name: str, step: str, done: int, total: int | None) -> None:
        """Progress."""

    def held_up(self) -> None:
        """No worker yet."""

    def again(self, row: Row, attempt: int, reason: str) -> None:
        """Another try."""

    def over(self, row: Row, state: State, outcome: Outcome) -> None:
        """An item is over."""
        assert state == "done", outcome
        self.times.append(time.perf_counter())


def enter(ledger: Ledger, count: int) -> None:
    """Register so many new items."""
    with ledger.registration() as registration:
        for k in range(count):
            name = f"day {k // 1000:03d}/scene {k // 100:04d}/take_{k:06d}"
            wish = Wish(name, f"/archive/{name}.mp4", "clip", f"{k + 1_000_000} {k * 10**9}", "{}", _SETTINGS)
            registration.add(wish, registration.known(name), "new")


def scheduled(pool: Pool, count: int) -> float:
    """Do items that take no time; return milliseconds an item, from the first that is done to the last."""
    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder) / "ledger.sqlite") as ledger:
        ledger.begin_run({})
        enter(ledger, count)
        listener = Silent()
        try:
            Coordinator(ledger, pool, folder, Limits(), listener).run()
        finally:
            pool.close()
        assert ledger.counts()["done"] == count
    return 1000 * (listener.times[-1] - listener.times[0]) / (count - 1)


def bench_cost(count: int, workers: int) -> Lines:
    """Measure what an item costs beside its work."""
    for number in dict.fromkeys((1, workers)):
        cost = scheduled(ProcessPool(Nothing(), number), count)
        yield f"scheduling cost an item, {number} process(es), {count} items", f"{cost:.2f} ms"
    from recon3d.batch.ray_workers import RayPool, connect

    with ray_cluster(1) as cluster:
        cost = scheduled(RayPool(Nothing(), 1, ours=connect(cluster.address)), count)
        yield f"scheduling cost an item, 1 actor on Ray, {count} items", f"{cost:.2f} ms"


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """Start a real Ray cluster: so many nodes of one core, each with its own processes."""
    from recon3d.batch.ray_workers import import_ray

    import_ray()
    from ray.cluster_utils import Cluster

    # The workers must find this file's classes.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")))
    )
    arguments: dict[str, Any] = {"num_cpus": 1, "object_store_memory": _STORE}
    head = {**arguments, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**arguments)
        yield cluster
    finally:
        cluster.shutdown()


def make_clips(folder: Path, count: int, frames: int) -> None:
    """Write short clips of a real face that moves: crops of scikit-image's public-domain photograph."""
    import numpy as np
    import skimage.data
    from PIL import Image

    from recon3d.media.video import VideoWriter

    photo = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    for number in range(count):
        with VideoWriter(folder / f"take{number:03d}.mp4", (320, 240), 25, preset="ultrafast") as video:
            for step in range(frames):
                x, y = 12 * np.sin((step + number) / 5), 8 * (1 + np.sin((step + 2 * number) / 7))
                box = (80 + x, y, 400 + x, 240 + y)
                picture = photo.resize((320, 240), Image.Resampling.BILINEAR, box=box)
                video.write(np.asarray(picture), step / 25)


def seconds_of(*arguments: str, one_core: bool = False) -> float:
    """Run the command line with one thread of torch a process, or on one core; return seconds."""

    def hold() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "recon3d", *arguments],
        capture_output=True, text=True, check=False, env=environment, preexec_fn=hold if one_core else None,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun


def bench_throughput(clips: Path, count: int, workers: int, formats: tuple[str, ...]) -> Lines:
    """Measure a batch against a single process: as it is, with its helping threads, and held to one core."""
    with tempfile.TemporaryDirectory() as out:
        video = ("video", str(clips), "--workers", "1", "-q", *formats)
        single = seconds_of(*video, "--out", f"{out}/video")
        alone = seconds_of(*video, "--out", f"{out}/alone", one_core=True)
        batch = seconds_of(
            "batch", str(clips), "--out", f"{out}/batch", "--workers", str(workers), "--cluster", "local",
            "-q", *formats,
        )  # fmt: skip
    yield f"{count} clips, recon3d video, one process", f"{single:.1f} s, {count / single:.3f} clips/s"
    yield "the same, held to one core", f"{alone:.1f} s, {count / alone:.3f} clips/s"
    yield f"{count} clips, recon3d batch, {workers} workers", f"{batch:.1f} s, {count / batch:.3f} clips/s"
    yield "batch, share of workers x single", f"{100 * single / (workers * batch):.1f} %"
    yield "batch, share of workers x single held to one core", f"{100 * alone / (workers * batch):.1f} %"


def bench_nodes(clips: Path, count: int, formats: tuple[str, ...]) -> Lines:
    """Measure a batch on a Ray cluster of one node and of two."""
    taken = {}
    for nodes in (1, 2):
        with ray_cluster(nodes) as cluster, tempfile.TemporaryDirectory() as out:
            taken[nodes] = seconds_of(
                "batch", str(clips), "--out", out, "--cluster", cluster.address, "-q", *formats
            )
        rate = count / taken[nodes]
        yield f"{count} clips, Ray, {nodes} node(s) of one core", f"{taken[nodes]:.1f} s, {rate:.3f} clips/s"
    yield "two nodes against twice one", f"{100 * taken[1] / (2 * taken[2]):.1f} %"


class Simulated:
    """A pool whose workers only say when they would be done.

    Its clock goes on as the coordinator works, and by ``each`` seconds at every task that is given, for what
    a cluster takes to pass it on; when all workers are busy it leaps to the next event.
    """

    def __init__(self, workers: int, seconds: float, spread: float, each: float) -> None:
        """Say how many there are, and how long a task takes, s: within its ``spread`` part more or less."""
        self._members: list[Task | None] = [None] * workers
        self._due: list[tuple[float, int]] = []
        self._seconds, self._spread, self._each = seconds, spread, each
        self._random = Random(1)
        self._real = time.perf_counter()
        self.now = self.busy = self.coordinating = 0.0

    def want(self, count: int) -> None:
        """All are there."""

    def workers(self) -> int:
        """Return how many there are."""
        return len(self._members)

    def idle(self) -> bool:
        """Tell whether any has nothing to do."""
        return any(one is None for one in self._members)

    def takes(self, task: Task) -> bool:
        """Tell whether any can be given the task."""
        return self.idle()

    def give(self, task: Task) -> None:
        """Give a task to one."""
        self._go_on()
        self.now += self._each
        number = next(k for k, one in enumerate(self._members) if one is None)
        self._members[number] = task
        seconds = self._seconds * self._random.uniform(1 - self._spread, 1 + self._spread)
        self.busy += seconds
        heapq.heappush(self._due, (self.now + seconds, number))

    def events(self, seconds: float) -> list[Event]:
        """Return what is over by now, or next."""
        self._go_on()
        if self._due:
            self.now = max(self.now, self._due[0][0])
        over = []
        while self._due and self._due[0][0] <= self.now:
            _, number = heapq.heappop(self._due)
            task, self._members[number] = self._members[number], None
            assert task is not None
            over.append(Ended(task, Nothing()._do(task, lambda *_: None)))
        self._real = time.perf_counter()
        return list(over)

    def kill(self, task: Task, reason: str) -> None:
        """Nobody is killed."""

    def close(self) -> None:
        """Nothing is left."""

    def _go_on(self) -> None:
        real = time.perf_counter()
        self.coordinating += real - self._real
        self.now += real - self._real
        self._real = real


def bench_simulated(count: int, seconds: float, nodes: int = 100, cores: int = 16) -> Lines:
    """Measure the coordinator with as many workers as a large cluster has."""
    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder) / "ledger.sqlite") as ledger:
        ledger.begin_run({})
        enter(ledger, count)
        pool = Simulated(nodes * cores, seconds, 0.5, 0.001)
        Coordinator(ledger, pool, folder, Limits(), Silent()).run()
        assert ledger.counts()["done"] == count
    share = pool.busy / (pool.now * nodes * cores)
    what = f"simulated: {count} items of {seconds:g} s on {nodes} nodes of {cores} cores"
    yield what, f"{pool.now / 60:.1f} min, {count / pool.now:.0f} items/s, workers busy {100 * share:.1f} %"
    yield (
        "the coordinator's own time",
        f"{pool.coordinating:.0f} s, {1000 * pool.coordinating / count:.2f} ms an item",
    )


def bench_sizes(count: int) -> Lines:
    """Measure ledger and coordinator with many items: real files, though empty ones."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "archive", Path(folder) / "solved"
        out.mkdir()
        _make_files(source, count)
        before = _peak()
        path = out / "ledger.sqlite"
        with open_ledger(path) as ledger:
            yield f"finding and registering {count} files", f"{_register(ledger, source, out):.1f} s"
            yield from _bench_writing(ledger, count)
            done = min(2000, count // 4)
            begun = time.perf_counter()
            listener, pool = Silent(), ProcessPool(Nothing(), 2)
            try:
                Coordinator(_Some(ledger, done), pool, str(out), Limits(), listener).run()  # type: ignore[arg-type]
            finally:
                pool.close()
            yield (
                f"coordinator, {done} of them done",
                f"{1000 * (listener.times[-1] - begun) / done:.2f} ms each",
            )
            yield "coordinator's peak memory", f"{_peak():.0f} MB ({before:.0f} MB before the items)"
            _end(ledger, count // 2 + 500 + done, count, 500)
            size = path.stat().st_size
            yield f"a rerun's look at {count} items", f"{_register(ledger, source, out):.1f} s"
        yield f"ledger of {count} items", f"{size / 1e6:.1f} MB, {size / count:.0f} bytes an item"


def _bench_writing(ledger: Ledger, count: int) -> Lines:
    """Measure how fast results are written down; half of the items are over then."""
    begun = time.perf_counter()
    _end(ledger, 0, count // 2, 500)
    many = count // 2 / (time.perf_counter() - begun)
    yield "ledger, items written down in transactions of 500", f"{many:.0f} a second"
    begun = time.perf_counter()
    _end(ledger, count // 2, count // 2 + 500, 1)
    few = 500 / (time.perf_counter() - begun)
    yield "ledger, items written down one by one", f"{few:.0f} a second"


def _make_files(root: Path, count: int) -> None:
    """Make empty files that are called like the clips of an archive."""
    for k in range(count):
        folder = root / f"day {k // 1000:03d}" / f"scene {k // 100:04d}"
        if k % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"take_{k:06d}.mp4").touch()


def _register(ledger: Ledger, source: Path, out: Path) -> float:
    """Search a folder and register what is in it, as the command does; return seconds."""
    begun = time.perf_counter()
    ledger.begin_run({"out": str(out), "source": str(source)})
    Plan(str(out), Models()).register(ledger, find_items(str(source), ItemOptions()))
    return time.perf_counter() - begun


class _Some:
    """A ledger of which only some items wait."""

    def __init__(self, ledger: Ledger, count: int) -> None:
        self._ledger, self._left = ledger, count

    def waiting(self, after: int, count: int) -> list[Row]:
        """Return the next ones."""
        rows = self._ledger.waiting(after, min(count, self._left))
        self._left -= len(rows)
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def _end(ledger: Ledger, start: int, stop: int, at_once: int) -> None:
    """Write down that items are done."""
    outcome = Nothing()._do
    for first in range(start, stop, at_once):
        changes = Changes()
        for row in ledger._rows("WHERE place > ? AND place <= ?", first, min(first + at_once, stop)):
            told = outcome(Task(row.place, row.id, row.uri, "clip", None), lambda *_: None)  # type: ignore[arg-type]
            changes.ended.append({
                "place": row.place, "state": "done", "attempts": 1, "error": "", "reason": "",
                "seconds": 12.345, "frames": told.frames, "facts": json.dumps(dict(told.facts)),
                "outputs": json.dumps(dict(told.outputs)),
            })  # fmt: skip
        ledger.write(changes)


def _peak() -> float:
    """Peak memory of this process, MB."""
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="cost, throughput, nodes, sizes, simulated")
    parser.add_argument("--items", type=int, default=1000, help="items that take no time")
    parser.add_argument("--many", type=int, default=100_000, help="items in the ledger")
    parser.add_argument("--seconds", type=float, default=10.0, help="a worker's for a simulated item")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=50, help="frames of a clip")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--formats", default="", help="formats of the clips' results; the default ones")
    options = parser.parse_args()
    what = options.what or ["sizes", "simulated", "cost", "throughput", "nodes"]
    formats = ("-f", options.formats) if options.formats else ()
    print("| what | measured |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if {"throughput", "nodes"} & set(what):
            make_clips(Path(folder), options.clips, options.frames)
        parts: dict[str, Lines] = {
            "sizes": bench_sizes(options.many),
            "simulated": bench_simulated(options.many, options.seconds),
            "cost": bench_cost(options.items, options.workers),
            "throughput": bench_throughput(Path(folder), options.clips, options.workers, formats),
            "nodes": bench_nodes(Path(folder), options.clips, formats),
        }
        for name in what:
            for line, value in parts[name]:
                print(f"| {line} | {value} |", flush=True)


if __name__ == "__main__":
    main()
