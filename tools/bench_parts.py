"""Measures what cutting a clip into parts (recon3d.parts) does to its capture, and what it saves.

    python tools/bench_parts.py CLIP.mp4 [--parts 3] [--lead 3.0] [--chunk 64] [--json FILE]

The clip is done whole and in parts, in this process, one part after another. Clips are cut at whole chunks of
256 frames; ``--chunk`` makes chunks shorter, so that a short clip can be cut, too. What is printed: how far
the curves and the landmarks that are fixed to the face are apart, for each person; and the seconds of each
step, with what they would be with a worker for each part.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import recon3d.observe
import recon3d.parts
from recon3d._video_job import VideoSettings, VideoWorker
from recon3d.capture import Capture
from recon3d.evaluation.machine import machine_facts
from recon3d.media._landing import find_landings
from recon3d.media.video import open_clip
from recon3d.observe import ClipSettings, Stretch
from recon3d.parts import LEAD, PartJob

Report = dict[str, Any]


def bench(clip: Path, parts: int, lead: float, out: Path) -> Report:
    """Do a clip whole and in parts; return what is different."""
    worker = VideoWorker(VideoSettings(out, (), ClipSettings(), threads=1))
    worker.prepare()
    jobs = plan(clip, parts, lead)
    seconds: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - start
        return result

    steps: dict[str, float] = {}

    def note(step: str, done: int, total: int | None) -> None:
        steps[step] = time.perf_counter()

    start = time.perf_counter()
    whole = timed("whole", lambda: worker.run(clip, "whole", note))
    seconds["whole, looking"] = steps["tracking"] - start
    folders = worker.part_folders(jobs, "parts")
    each = []
    for job, folder in zip(jobs, folders, strict=True):
        start = time.perf_counter()
        worker.observe_part(job, folder, note)
        each.append(time.perf_counter() - start)
    timed("joining", lambda: worker.join(jobs, folders, "parts", note))
    cut = timed("solving", lambda: worker.run(clip, "parts", note))
    seconds |= {"parts": each, "a worker each": max(each) + seconds["joining"] + seconds["solving"]}
    return {
        "clip": {"frames": whole.frames, "persons": len(whole.folders), "persons in parts": len(cut.folders)},
        "cut at": [job.stretch.start for job in jobs],
        "lead": [job.stretch.lead for job in jobs],
        "landed": jobs[-1].stretch.landing is not None,
        "differences": [compare(a, b) for a, b in zip(whole.folders, cut.folders, strict=False)],
        "seconds": seconds,
        "machine": machine_facts(),
    }


def plan(clip: Path, parts: int, lead: float) -> list[PartJob]:
    """Cut a clip into so many parts at whole chunks, with leads of so many seconds."""
    chunk: int = vars(recon3d.parts)["CHUNK"]
    with open_clip(clip) as opened:
        frames, fps = opened.frame_count or 0, opened.fps
    size = math.ceil(frames / parts / chunk) * chunk
    starts = range(0, max(frames, 1), max(size, 1))
    if len(starts) < 2:
        sys.exit(f"{frames} frames: too few for parts of whole chunks of {chunk}; give a smaller --chunk")
    leads = [min(math.ceil(lead * fps), start) for start in starts]
    firsts = [start - led for start, led in zip(starts, leads, strict=True)]
    found = find_landings(clip, firsts[1:])
    landings = [None] * len(firsts) if found is None else [None, *found]
    stops = [*starts[1:], None]
    stretches = map(Stretch, starts, stops, leads, landings)
    return [PartJob(clip, index, stretch) for index, stretch in enumerate(stretches)]


def compare(whole: Path, cut: Path) -> Report:
    """Say how far two captures of one person are apart."""
    one, other = (Capture.load(folder / "capture.npz") for folder in (whole, cut))
    both = one.tracked & other.tracked
    units = np.abs(one.arkit - other.arkit)[both]
    inner = np.linalg.norm(one.landmarks68[:, 17:] - other.landmarks68[:, 17:], axis=2)[both]
    width = float(np.median(one.box[both, 2] - one.box[both, 0]))
    return {
        "tracked whole": int(one.tracked.sum()),
        "tracked in both": int(both.sum()),
        "units, mean": float(units.mean()),
        "units, largest": float(units.max()),
        "landmarks px, mean": float(inner.mean()),
        "landmarks px, largest": float(inner.max()),
        "face width px": width,
        "focal, part": float(abs(other.focal / one.focal - 1)),
    }


def table(report: Report) -> str:
    """Return a report as markdown."""
    rows = [
        "| person | tracked whole / both | units, mean | largest | landmarks, mean | largest | face | f |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, one in enumerate(report["differences"], 1):
        rows.append(
            f"| {number} | {one['tracked whole']} / {one['tracked in both']} | {one['units, mean']:.5f} "
            f"| {one['units, largest']:.4f} | {one['landmarks px, mean']:.3f} px "
            f"| {one['landmarks px, largest']:.3f} px | {one['face width px']:.0f} px "
            f"| {100 * one['focal, part']:.3f} % |"
        )
    seconds, clip = report["seconds"], report["clip"]
    parts = ", ".join(f"{one:.2f}" for one in seconds["parts"])
    rows += [
        "",
        f"{clip['frames']} frames; persons: {clip['persons']} whole, {clip['persons in parts']} in parts; "
        f"cut at {report['cut at'][1:]}, leads {report['lead'][1:]} frames; "
        f"read {'from there' if report['landed'] else 'from the beginning each'}",
        "",
        "| step | s |",
        "|---|---|",
        f"| whole | {seconds['whole']:.2f} |",
        f"| of it looking | {seconds['whole, looking']:.2f} |",
        f"| parts | {parts} |",
        f"| joining | {seconds['joining']:.3f} |",
        f"| solving what was joined | {seconds['solving']:.2f} |",
        f"| with a worker for each part | {seconds['a worker each']:.2f} |",
    ]
    return "\n".join(rows)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path)
    parser.add_argument("--parts", type=int, default=3, help="how many")
    parser.add_argument("--lead", type=float, default=LEAD, help="s before each part")
    parser.add_argument("--chunk", type=int, help="frames of a chunk, in place of 256")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    if options.chunk:
        for module in (recon3d.observe, recon3d.parts):
            vars(module)["CHUNK"] = options.chunk
    with tempfile.TemporaryDirectory() as out:
        report = bench(options.clip, options.parts, options.lead, Path(out))
    print(table(report))
    print(f"\n{json.dumps(report['machine'])}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
