"""Tiny clips, and what came of them: complete, equal, or neither; used by faults, soak and determinism."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from corpus import face
from sandbox import RECON3D

from recon3d.capture import Capture
from recon3d.errors import Recon3DError
from recon3d.media.video import VideoWriter

#: Frames of a clip and their size: what matters is how many clips there are.
FRAMES, SIZE, RATE = 12, (128, 96), 25.0
CAPTURE = "capture.npz"
#: sha256 of each file by its path below a folder of results.
Contents = dict[str, str]


def write_clips(folder: Path, count: int, first: int = 0, frames: int = FRAMES) -> list[Path]:
    """Write clips of the moving face, each another one: ``take-0000.mp4`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(first, first + count):
        path = folder / f"take-{number:04d}.mp4"
        with VideoWriter(path, SIZE, RATE, preset="ultrafast") as video:
            for step in range(frames):
                video.write(face(step + 7.3 * number, SIZE), step / RATE)
        made.append(path)
    return made


def command_line(command: str, clips: Path, out: Path, workers: int, formats: str) -> list[str]:
    """Return the command line that does a folder of clips."""
    words = ["--out", str(out), "--workers", str(workers), "-f", formats]
    if command == "batch":
        # Whatever the tool kills was not killed by its clip.
        return [*RECON3D, "batch", str(clips), *words, "--cluster", "local", "--retries", "1000"]
    return [*RECON3D, "video", str(clips), *words]


def run(words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end."""
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RECON3D_OFFLINE": "1", **environment},
    )


def contents(folder: Path) -> Contents:
    """Return what the result folders below a folder hold; hidden ones are work that goes on."""
    found: Contents = {}
    for path in sorted(folder.glob("*/*")):
        if not path.parent.name.startswith(".") and path.is_file():
            found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def steady(one: Contents, two: Contents) -> Contents:
    """Return a reference of two undisturbed runs; files whose bytes differ between them count by presence."""
    return {name: digest if two.get(name) == digest else "" for name, digest in one.items()}


def marked_done(command: str, out: Path) -> set[str]:
    """Return the result folders that are said to be done: by their capture, and in a batch by the ledger."""
    if command == "batch":
        ledger = out / "ledger.sqlite"
        if not ledger.is_file():
            return set()
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30)) as base:
            try:
                return {str(name) for (name,) in base.execute("SELECT id FROM items WHERE state = 'done'")}
            except sqlite3.OperationalError:  # killed before it had a table
                return set()
    return {path.parent.name for path in out.glob(f"*/{CAPTURE}") if not path.parent.name.startswith(".")}


def faults_of(done: set[str], found: Contents, reference: Mapping[str, str]) -> list[str]:
    """Return what of the results that are done is missing, or other than in the reference."""
    wrong = []
    for name, digest in reference.items():
        if name.split("/")[0] not in done:
            continue
        if name not in found:
            wrong.append(f"{name} is missing")
        elif digest and found[name] != digest:
            wrong.append(f"{name} differs")
    return wrong


def unreadable(out: Path, done: set[str]) -> list[str]:
    """Return the captures among the finished results that cannot be loaded, with the reason."""
    wrong = []
    for name in sorted(done):
        try:
            Capture.load(out / name / CAPTURE)
        except Recon3DError as error:
            wrong.append(str(error))
    return wrong
