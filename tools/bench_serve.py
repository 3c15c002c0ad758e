"""Measures how fast ``recon3d serve`` answers while its worker is busy, on this machine alone.

    python tools/bench_serve.py [--clients 20] [--seconds 15] [--pause 0]

A real server is started at 127.0.0.1 with a folder of its own. A photograph is done first, for something to
download; then clips of a moving face (scikit-image's public-domain portrait) keep the worker at work for the
whole time. So many clients at once ask for what costs no computing: the list of jobs, one job, the page, the
server's health and a file. ``--pause`` is each client's rest between two requests, s: 0 is the worst case, in
which everyone asks again at once. Printed as Markdown: per endpoint and in all the requests and the 50th,
95th and 99th percentile of the time to the last byte, and the server's memory: before, after a first round of
a quarter of the time, and after.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.evaluation.machine import machine_facts

#: What is wanted of the 95th percentile of all requests, ms.
WANTED_MS = 100.0
#: Frames of a clip that keeps the worker busy, and how many of these wait.
_FRAMES, _CLIPS = 300, 8
_PATIENCE = 120.0


@dataclass
class Client:
    """One of those who ask; ``times``: s by endpoint, ``failures``: what was answered instead of 200."""

    host: str
    port: int
    ways: Sequence[tuple[str, str]]
    pause: float
    times: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def run(self, until: float) -> None:
        """Ask for one thing after another."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        while True:
            for name, path in self.ways:
                if time.perf_counter() > until:
                    connection.close()
                    return
                begun = time.perf_counter()
                try:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        self.failures.append(f"{name}: {answer.status}")
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(f"{name}: {error!r}")
                    connection.close()
                self.times.setdefault(name, []).append(time.perf_counter() - begun)
                if self.pause:
                    time.sleep(self.pause)


@dataclass
class Server:
    """A server process."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """Send one request, and read its JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request(method, f"/api/v1{path}", body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status not in (200, 201):
            sys.exit(f"{method} {path}: {answer.status} {content[:200]!r}")
        return json.loads(content)

    def upload(self, name: str, content: bytes) -> str:
        """Submit a file; return its job's id."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        answer = self.ask("POST", "/jobs", body, f"multipart/form-data; boundary={mark}")
        return str(answer["jobs"][0]["id"])

    def wait(self, job: str, state: str) -> None:
        """Wait until a job is in a state."""
        until = time.monotonic() + _PATIENCE
        while (found := self.ask("GET", f"/jobs/{job}"))["state"] != state:
            if time.monotonic() > until or found["state"] == "failed":
                sys.exit(f"the job is {found['state']}, not {state}: {found['error']}")
            time.sleep(0.1)

    def megabytes(self) -> float:
        """Return the resident memory of the server's process, without its workers, MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024e-6
        return float("nan")

    def handles(self) -> int:
        """Return how many files the server's process holds open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    """Start a server; it is gone afterwards."""
    command = [
        sys.executable, "-m", "recon3d", "serve", "--port", "0", "--data", str(folder / "data"), "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["url"]
        host, port = address.removeprefix("http://").strip("/").split(":")
        server = Server(process, host, int(port))
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                server.ask("GET", "/version")
                break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    sys.exit("the server does not answer")
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()


def face_clip(path: Path) -> bytes:
    """Return a clip of a face that moves about."""
    import skimage.data
    from PIL import Image

    from recon3d.media.video import VideoWriter

    photo = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    with VideoWriter(path, (320, 240), 25.0, preset="ultrafast") as video:
        for step in range(_FRAMES):
            x, y = 80 + 12 * np.sin(step / 5), 8 * (1 + np.sin(step / 7))
            box = (x, y, x + 320, y + 240)
            picture = photo.resize((320, 240), Image.Resampling.BILINEAR, box=box)
            video.write(np.asarray(picture), step / 25)
    return path.read_bytes()


def portrait() -> bytes:
    """Return a photograph."""
    import skimage.data
    from PIL import Image

    buffer = io.BytesIO()
    photo = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    photo.save(buffer, "JPEG")
    return buffer.getvalue()


def ask_together(server: Server, done: str, options: argparse.Namespace) -> list[Client]:
    """Let all clients ask for a while."""
    ways = [
        ("list of jobs", "/api/v1/jobs"),
        ("one job", f"/api/v1/jobs/{done}"),
        ("page", "/"),
        ("script of the page", "/static/result.js"),
        ("health", "/api/v1/health"),
        ("download, 5 kB", f"/api/v1/jobs/{done}/files/capture.npz"),
        ("download, 2 MB", f"/api/v1/jobs/{done}/files/mesh.glb"),
    ]
    clients = []
    for k in range(options.clients):  # not all of them the same at the same time
        first = k % len(ways)
        clients.append(Client(server.host, server.port, ways[first:] + ways[:first], options.pause))
    until = time.perf_counter() + options.seconds
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients


def percentiles(times: Sequence[float]) -> list[str]:
    """Return how many there are, and their 50th, 95th and 99th percentile, ms."""
    values: npt.NDArray[np.float64] = np.percentile(np.array(times) * 1e3, [50, 95, 99])
    return [f"{len(times):,}", *(f"{value:.1f}" for value in values)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def report(
    clients: Sequence[Client], memory: Sequence[float], handles: Sequence[int], seconds: float
) -> bool:
    """Print what was found; return whether it is what is wanted."""
    names = list(dict.fromkeys(name for client in clients for name in client.times))
    by_name = {name: [t for client in clients for t in client.times.get(name, [])] for name in names}
    everything = [t for times in by_name.values() for t in times]
    rows = [["endpoint", "requests", "p50, ms", "p95, ms", "p99, ms"]]
    rows += [[name, *percentiles(times)] for name, times in by_name.items()]
    rows.append(["all", *percentiles(everything)])
    print(table(rows))
    failures = [text for client in clients for text in client.failures]
    p95 = float(np.percentile(everything, 95)) * 1e3
    good = p95 <= WANTED_MS and not failures
    print(f"\n{len(everything) / seconds:.0f} requests a second, {len(failures)} failed.")
    for text in sorted(set(failures))[:5]:
        print(f"- {text}")
    print(f"Server's memory: {memory[0]:.0f} MB before, {memory[1]:.0f} MB after a first round, ", end="")
    print(f"{memory[2]:.0f} MB after; ", end="")
    print(f"files open: {handles[0]} before, {handles[1]} after.")
    print(f"p95 is {p95:.1f} ms; wanted: at most {WANTED_MS:.0f} ms. {'Good.' if good else 'MISSED.'}")
    return good


def main() -> int:
    """Return the exit status: 1 if what is wanted was not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--pause", type=float, default=0.0, help="each client's rest between requests, s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recon3d-bench-") as name, started(Path(name)) as server:
        done = server.upload("portrait.jpg", portrait())
        server.wait(done, "done")
        clip = face_clip(Path(name) / "clip.mp4")
        busy = [server.upload(f"clip {k}.mp4", clip) for k in range(_CLIPS)]
        server.wait(busy[0], "running")
        memory, handles = [server.megabytes()], [server.handles()]
        ask_together(server, done, argparse.Namespace(**{**vars(options), "seconds": options.seconds / 4}))
        memory.append(server.megabytes())
        clients = ask_together(server, done, options)
        working = server.ask("GET", "/health")["running"]
        time.sleep(1)
        memory.append(server.megabytes())
        handles.append(server.handles())
        print(
            f"{options.clients} clients at once for {options.seconds:g} s, a rest of {options.pause:g} s",
            end="",
        )
        print(f" between a client's requests; the worker was {'busy' if working else 'IDLE at the end'}.")
        print(f"{json.dumps(machine_facts())}\n")
        return 0 if report(clients, memory, handles, options.seconds) and working else 1


if __name__ == "__main__":
    sys.exit(main())
