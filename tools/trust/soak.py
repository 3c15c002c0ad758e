"""Does hundreds of tiny clips in one go and watches memory and open files, which must stay flat.

    python tools/trust/soak.py [--clips 500] [--workers 1] [--frames 12] [--formats livelink,glb]

One ``recon3d batch`` does all clips; whenever one is done, resident memory and open file handles of the
process and of all that it started are read (Linux). The first twentieth (and the first twenty clips) is
left out: libraries and networks are being loaded. Prints a summary in Markdown; exit status 1 if memory
grows by more than ``--growth`` KiB a clip or file handles by more than one in fifty clips.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sandbox import family
from tiny import FRAMES, command_line, write_clips

_WARM_UP, _WARM_UP_CLIPS = 0.05, 20
#: File handles a clip that may come to stay.
_HANDLES = 0.02


@dataclass(frozen=True)
class Sample:
    """What a process and all that it started hold: seconds, bytes of resident memory, open file handles."""

    seconds: float
    memory: int
    handles: int


def sample(leader: int, begun: float) -> Sample:
    """Look at a process and all that it started."""
    memory = handles = 0
    for process in (leader, *family(leader)):
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            count = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
        except (OSError, IndexError):  # it has just ended
            continue
        memory += pages * os.sysconf("SC_PAGE_SIZE")
        handles += count
    return Sample(time.perf_counter() - begun, memory, handles)


def soak(clips: Path, out: Path, workers: int, formats: str) -> tuple[list[Sample], list[str]]:
    """Do the clips; return a sample a clip that is done, and what failed."""
    words = [*command_line("batch", clips, out, workers, formats), "--json"]
    samples: list[Sample] = []
    failed: list[str] = []
    begun = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            record = json.loads(line)
            if record.get("ok"):
                samples.append(sample(process.pid, begun))
            else:
                failed.append(line.strip())
    if process.returncode != 0:
        failed.append(f"exit status {process.returncode}")
    return samples, failed


def slope(values: Sequence[float]) -> float:
    """Return by how much values rise from one to the next, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def report(samples: Sequence[Sample], failed: Sequence[str], workers: int, frames: int) -> str:
    """Return the summary in Markdown; of samples after the warm-up."""
    quarter = max(1, len(samples) // 4)
    rows = [
        f"{len(samples)} clips of {frames} frames after the warm-up, {workers} worker{'s' * (workers != 1)}, "
        f"{samples[-1].seconds:.0f} s, {len(failed)} failed, Python {platform.python_version()}.",
        "",
        "| of the process and its workers | first quarter | last quarter | most | a clip |",
        "|---|---:|---:|---:|---:|",
    ]
    memory = [one.memory / 2**20 for one in samples]
    handles = [float(one.handles) for one in samples]
    for title, values, unit in (
        ("resident memory, MiB", memory, 1024.0),
        ("open file handles", handles, 1.0),
    ):
        first, last = np.median(values[:quarter]), np.median(values[-quarter:])
        rise = slope(values) * unit
        shown = f"{rise:+.2f} KiB" if unit > 1 else f"{rise:+.4f}"
        rows.append(f"| {title} | {first:.1f} | {last:.1f} | {max(values):.1f} | {shown} |")
    return "\n".join(rows)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--formats", default="livelink,glb,overlay,report")
    parser.add_argument("--growth", type=float, default=64.0, help="KiB a clip that memory may grow by")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        clips = Path(name, "clips")
        write_clips(clips, given.clips, frames=given.frames)
        samples, failed = soak(clips, Path(name, "out"), given.workers, given.formats)
    kept = samples[max(int(len(samples) * _WARM_UP), min(_WARM_UP_CLIPS, len(samples) // 2)) :]
    if not kept:
        print("\n".join(failed) or "nothing was done", file=sys.stderr)
        return 1
    print(report(kept, failed, given.workers, given.frames))
    grows = slope([one.memory / 1024 for one in kept]) > given.growth
    leaks = slope([float(one.handles) for one in kept]) > _HANDLES
    return 1 if grows or leaks or failed else 0


if __name__ == "__main__":
    sys.exit(main())
