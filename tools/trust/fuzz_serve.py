"""Uploads broken, lying and nasty files to ``recon3d serve`` on this machine; a part of fuzz.py."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from corpus import PICTURES, Case, Maker, irregular
from corpus_clips import CLIPS
from corpus_takes import TAKES
from sandbox import RECON3D, Sandbox, family, kill_group, settled

API = "/api/v1"
#: What is no file cannot be uploaded; and a picture is one here, whatever it is called.
_NO_FILES = {*irregular((".x",), bytes), "folder of pictures", "numbered images", "no series", "picture"} - {
    "empty"
}
_OVER = ("done", "failed", "cancelled")
_START = 120.0
_BOUNDARY = "b0undary"


def _files(prefix: str, table: Mapping[str, Maker]) -> dict[str, Maker]:
    return {f"{prefix}: {kind}": maker for kind, maker in table.items() if kind not in _NO_FILES}


#: Kinds of uploads. Captures and takes are not what the page is for, and must be refused.
UPLOADS: Mapping[str, Maker] = {
    **_files("picture", PICTURES),
    **_files("clip", CLIPS),
    **_files("take", TAKES),
}


@dataclass
class Served:
    """What a server did with uploads.

    Attributes:
        fates: "done" or "refused" by the upload's number.
        problems: A key of ``fuzz.FAULTS``, the upload (None: the server), and what happened.
        slowest: Seconds of the slowest upload, until its job was over, and its kind.
        peak: Most memory that the server or its worker held, the larger of them, bytes.
        seconds: In all.
    """

    fates: dict[int, str] = field(default_factory=dict)
    problems: list[tuple[str, Case | None, str]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    peak: int = 0
    seconds: float = 0.0


def serve(cases: Sequence[Case], box: Sandbox, patience: float) -> Served:
    """Start a server, upload the cases one after another, wait for each job, and look at what came of it."""
    found = Served()
    begun = time.perf_counter()
    rng = Random(cases[0].name)
    with _server(box, found) as port:
        for number, case in enumerate(cases):
            since = time.perf_counter()
            path = box.inputs / case.name
            data = path.read_bytes()
            try:
                found.fates[number] = _upload(port, case, data, rng, patience, found)
            except (OSError, http.client.HTTPException, ValueError) as error:
                found.problems.append(("death", case, f"no answer: {error!r}"))
                found.fates[number] = "refused"
            found.slowest = max(found.slowest, (time.perf_counter() - since, case.kind))
    found.seconds = time.perf_counter() - begun
    return found


@contextmanager
def _server(box: Sandbox, found: Served) -> Iterator[int]:
    """Run a server; yield its port; look at its words and its traces when it has ended."""
    log = box.root / "notes-server.txt"
    box.out.mkdir()
    before = box.look()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*RECON3D, "serve", "--port", "0", "--data", str(box.out / "data"), "--max-upload", "50MB"],
            cwd=box.inputs,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=box.environment(),
            start_new_session=True,
        )
    try:
        settled(lambda: _port(log) is not None or process.poll() is not None, _START)
        port = _port(log)
        if port is None:
            raise SystemExit(f"the server does not start: {log.read_text('utf-8', 'replace')}")
        yield port
        found.peak = max(_peak(one) for one in (process.pid, *family(process.pid)))
        if process.poll() is not None:
            found.problems.append(("death", None, f"the server ended with {process.returncode}"))
        process.send_signal(signal.SIGTERM)
        if not settled(lambda: process.poll() is not None, 30):
            found.problems.append(("hang", None, "the server does not end"))
    finally:
        kill_group(process.pid)
        process.wait()
    text = log.read_text("utf-8", "replace")
    log.unlink()
    for line in text.splitlines():
        fault = {"Traceback (most recent": "traceback", "unexpected error": "unexpected"}
        found.problems += [(name, None, line) for words, name in fault.items() if words in line]
    found.problems += [("outside", None, trespass) for trespass in box.trespasses(before)]


def _peak(process: int) -> int:
    """Return the most memory that a process has held, bytes; 0 if it is gone."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def _port(log: Path) -> int | None:
    match = re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text("utf-8", "replace"))
    return int(match[1]) if match else None


def _upload(port: int, case: Case, data: bytes, rng: Random, patience: float, found: Served) -> str:
    """Upload a file, and see its job through; return "done" or "refused"."""

    def blame(fault: str, detail: str) -> None:
        found.problems.append((fault, case, detail))

    status, answer = _ask(port, "POST", "/jobs", _form(case, data, rng))
    if status >= 500:
        blame("unexpected", f"{status}: {answer}")
    if status != 201:
        if not isinstance(answer, dict):
            blame("line", f"{status} without a reason in JSON: {str(answer)[:200]}")
        return "refused"
    for job in answer["jobs"]:
        state = _seen_through(port, job["id"], patience, blame)
        if state != "done":
            return "refused"
    return "done"


def _seen_through(port: int, job: str, patience: float, blame: Any) -> str:
    """Wait for a job and fetch what it made; return its state."""
    told: tuple[object, ...] = ()
    since = time.perf_counter()
    while True:
        status, facts = _ask(port, "GET", f"/jobs/{job}")
        if status != 200 or not isinstance(facts, dict):
            blame("silent", f"the job is gone: {status}")
            return "failed"
        if facts["state"] in _OVER:
            break
        now = (facts["state"], str(facts.get("progress")))
        told, since = (now, time.perf_counter()) if now != told else (told, since)
        if time.perf_counter() - since > patience:
            blame("hang", f"nothing new for {patience:.0f} s: {facts}")
            return "failed"
        time.sleep(0.05)
    if facts["state"] == "failed":
        reason = str(facts.get("error") or facts.get("reason") or "")
        if not reason or "\n" in reason or "Traceback" in reason:
            blame("line", f"not a reason: {facts}")
        if "unexpected" in reason:
            blame("unexpected", reason)
        return "failed"
    for file in facts.get("files", ()):
        status, _ = _ask(port, "GET", f"/jobs/{job}/files/{file['name']}")
        if status != 200:
            blame("half", f"{file['name']}: {status}")
    return str(facts["state"])


def _form(case: Case, data: bytes, rng: Random) -> bytes:
    """Return the body of an upload; its name as nasty as a browser would never send it."""
    name = os.fsencode(case.name).replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
    name = rng.choice((name, name, b"../../" + name, b"/etc/" + name, b"..\\" + name, b"", b"a\0b" + name))
    head = b'--%b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n' % (
        _BOUNDARY.encode(),
        name,
    )
    kind = rng.choice((b"image/jpeg", b"application/octet-stream", b"text/html", b"x" * 200))
    return head + b"Content-Type: %b\r\n\r\n" % kind + data + b"\r\n--%b--\r\n" % _BOUNDARY.encode()


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request; return the status, and the answer, read if it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"} if body is not None else {}
        connection.request(method, API + path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        kind = answer.headers.get_content_type()
        return answer.status, json.loads(data) if kind.endswith("json") else data[:200]
    finally:
        connection.close()
