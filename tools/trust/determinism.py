"""Same input, same machine: are they the same bytes, whatever runs beside, and with how many workers?

    python tools/trust/determinism.py [--clips 3] [--frames 40] [--threads 1,2]

Tiny clips are done by ``recon3d video`` and ``recon3d batch`` in new processes: twice, with one worker and
with two, with one thread and with two, with nothing but the curves, in a folder of another name, and
interrupted halfway and gone on with. A photograph is done twice, alone and among others. Prints which
capture.npz are the same, byte by byte, and which in what they say (``video`` and ``batch`` note in the file
how it was made), as a table in Markdown. Exit status 1 if what a capture says differs anywhere but with the
number of threads, where the order of sums may change.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corpus import picture
from sandbox import RECON3D, kill_group
from tiny import CAPTURE, command_line, run, write_clips

_FORMATS = "livelink,glb,overlay,report"
#: The member of a capture that tells how it was made.
_HOW = "job.npy"


@dataclass(frozen=True)
class Way:
    """One way to do the same: what it is called, and the digests of files and of contents by clip."""

    name: str
    files: dict[str, str]
    contents: dict[str, str]


def digests(out: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sha256 of each capture's bytes, and of its fields alone, by result folder."""
    files, fields = {}, {}
    for path in sorted(out.glob(f"*/{CAPTURE}")):
        files[path.parent.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name != _HOW)
            whole = hashlib.sha256()
            for name in names:
                whole.update(name.encode() + hashlib.sha256(archive.read(name)).digest())
        fields[path.parent.name] = whole.hexdigest()
    return files, fields


def _plain(command: str, workers: int, threads: int, formats: str = _FORMATS) -> Callable[[Path, Path], None]:
    def do(clips: Path, out: Path) -> None:
        ended = run(
            command_line(command, clips, out, workers, formats),
            OMP_NUM_THREADS=str(threads),
            MKL_NUM_THREADS=str(threads),
        )
        if ended.returncode != 0:
            raise SystemExit(ended.stderr)

    return do


def _interrupted(clips: Path, out: Path) -> None:
    """Kill it in the middle, three times, and let it go on."""
    words = command_line("video", clips, out, 1, _FORMATS)
    for seconds in (3.0, 4.0, 5.0):
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        kill_group(process.pid)
        process.wait()
    _plain("video", 1, 1)(clips, out)


def clip_ways(folder: Path, count: int, frames: int, threads: list[int]) -> list[Way]:
    """Do the same clips in all ways."""
    clips = folder / "clips"
    write_clips(clips, count, frames=frames)
    other = folder / "the same clips, elsewhere"
    shutil.copytree(clips, other)
    ways: list[tuple[str, Path, Callable[[Path, Path], None]]] = [
        ("video, 1 worker", clips, _plain("video", 1, 1)),
        ("again", clips, _plain("video", 1, 1)),
        ("2 workers", clips, _plain("video", 2, 1)),
        ("clips in another folder", other, _plain("video", 1, 1)),
        ("only the curves", clips, _plain("video", 1, 1, "livelink")),
        ("killed three times, gone on with", clips, _interrupted),
        ("batch, 1 worker", clips, _plain("batch", 1, 1)),
        ("batch, 2 workers", clips, _plain("batch", 2, 1)),
        *((f"video, {n} threads", clips, _plain("video", 1, n)) for n in threads if n != 1),
    ]
    done = []
    for number, (name, source, do) in enumerate(ways):
        out = folder / f"out-{number}"
        do(source, out)
        done.append(Way(name, *digests(out)))
        print(f"{name}: done", file=sys.stderr, flush=True)
    return done


def photo_ways(folder: Path) -> list[Way]:
    """Do the same photograph alone, again, and among others."""
    photos = [folder / f"photo{ending}" for ending in (".jpg", ".webp", ".png")]
    for path in photos:
        path.write_bytes(picture(path.suffix))
    done = []
    for number, (name, given) in enumerate((
        ("photo, alone", photos[:1]), ("again", photos[:1]), ("with others", [photos[0], *photos[1:]]),
    )):  # fmt: skip
        out = folder / f"photo-out-{number}"
        ended = run([*RECON3D, "photo", *map(str, given), "--out", str(out)], OMP_NUM_THREADS="1")
        if ended.returncode != 0:
            raise SystemExit(ended.stderr)
        done.append(Way(name, *({"photo": found["photo"]} for found in digests(out))))
    return done


def table(ways: list[Way], only: str) -> tuple[list[str], bool]:
    """Return rows that compare all ways with the first, and whether what the captures say agrees."""
    rows, agree = [], True
    first = ways[0]
    for way in ways[1:]:
        same = [way.files.get(name) == digest for name, digest in first.files.items()]
        says = [way.contents.get(name) == digest for name, digest in first.contents.items()]
        agree = agree and (all(says) or only in way.name)
        rows.append(
            f"| {first.name} | {way.name} | {sum(same)} of {len(same)} | {sum(says)} of {len(says)} |"
        )
    return rows, agree


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--threads", default="1,2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="determinism-") as name:
        threads = [int(n) for n in given.threads.split(",")]
        clips, agree = table(clip_ways(Path(name), given.clips, given.frames, threads), "threads")
        photos, alike = table(photo_ways(Path(name)), "threads")
    print("| first | second | capture.npz the same, byte by byte | the same in what it says |")
    print("|---|---|---:|---:|")
    print("\n".join([*clips, *photos]))
    return 0 if agree and alike else 1


if __name__ == "__main__":
    sys.exit(main())
