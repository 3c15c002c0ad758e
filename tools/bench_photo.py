"""Measures the photo path on this machine: accuracy, then milliseconds, then the whole command.

python tools/bench_photo.py [--data ../shared/data] [--json FILE] [--quick] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recon3d.errors import Recon3DError
from recon3d.evaluation.lfpw import Split, evaluate_lfpw, read_lfpw
from recon3d.evaluation.machine import machine_facts, median_ms
from recon3d.evaluation.synthetic import (
    evaluate_synthetic,
    exact_landmarks,
    random_truth,
    sparse_expressions,
)
from recon3d.face import open_face_source
from recon3d.fitting import LandmarkSolver
from recon3d.head import HeadModel, load_head
from recon3d.media.image import write_image

ROOT = Path(__file__).resolve().parent.parent
Report = dict[str, Any]


def bench_landmarks(head: HeadModel, solver: LandmarkSolver, archive: Path, limit: int | None) -> Report:
    """NME on photographs with hand-marked points, of the face stage and of the fitted head."""
    source = open_face_source("mediapipe")
    splits: tuple[Split, ...] = ("tune", "report")
    return {
        split: asdict(evaluate_lfpw(archive, head, source, solver, split=split, limit=limit))
        for split in splits
    }


def bench_truth(head: HeadModel, recording: Path | None, count: int) -> Report:
    """Known heads found again, for both kinds of landmarks."""
    found: Report = {}
    for kind in ("mediapipe478", "ibug68"):
        reports = evaluate_synthetic(
            head, LandmarkSolver(head, kind), kind=kind, recording=recording, count=count
        )
        for name, report in reports.items():
            found[f"{kind} {name}"] = asdict(report)
    return found


def bench_times(head: HeadModel, solver: LandmarkSolver, seconds: float) -> Report:
    """Milliseconds of solver and head model."""
    rng = np.random.default_rng(0)
    truth = random_truth(head, sparse_expressions(256, rng), rng)
    points = exact_landmarks(head, truth)
    known = truth.shape[:1]
    one, many = slice(0, 1), slice(0, 256)

    def fit(part: slice, shape: torch.Tensor | None = None) -> Callable[[], object]:
        return lambda: solver.fit(points[part], truth.focal[part], truth.principal[part], fixed_shape=shape)

    def forward(batch: int) -> Callable[[], object]:
        pose = torch.zeros(batch, head.num_joints, 3)
        return lambda: head(truth.shape[:batch], truth.expression[:batch], pose)

    return {
        "solver, 1 face": median_ms(fit(one), seconds),
        "solver, a face of 256": median_ms(fit(many), seconds) / 256,
        "solver, a face of 256, identity fixed": median_ms(fit(many, known), seconds) / 256,
        "head model, batch 1": median_ms(forward(1), seconds),
        "head model, a head of 64": median_ms(forward(64), seconds) / 64,
    }


def bench_command(archive: Path, runs: int) -> Report | None:
    """Time and memory of the whole command on a photograph of one megapixel; None before it exists."""
    command = [sys.executable, "-m", "recon3d.cli"] if shutil.which("recon3d") is None else ["recon3d"]
    if subprocess.run([*command, "photo", "--help"], capture_output=True, check=False).returncode:
        return None
    with tempfile.TemporaryDirectory() as folder:
        photos = [Path(folder) / f"photo{k}.jpg" for k in range(10)]
        pixels = _one_megapixel(archive)
        for photo in photos:
            write_image(photo, pixels)
        status = 0

        def timed(inputs: list[Path], name: str) -> float:
            nonlocal status
            arguments = [*command, "photo", *map(str, inputs), "--out", str(Path(folder) / name)]
            start = time.perf_counter()
            status |= subprocess.run(arguments, capture_output=True, check=False).returncode
            return time.perf_counter() - start

        single = [timed(photos[:1], f"one{run}") for run in range(runs)]
        unit = 1e-6 if sys.platform == "darwin" else 1024e-6
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
        ten = [timed(photos, f"ten{run}") for run in range(runs)]
    return {
        "first run s": single[0],
        "median s": float(np.median(single)),
        "further photo s": float(np.median(ten) - np.median(single)) / 9,
        "peak RSS MB": peak,
        "exit status": status,
    }


def _one_megapixel(archive: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The first photograph that is reported, enlarged to 1152 x 864."""
    from PIL import Image

    first = next(iter(read_lfpw(archive, "report", limit=1)))
    return np.asarray(Image.fromarray(first.pixels).resize((1152, 864), Image.Resampling.BICUBIC))


def _commit() -> str:
    def git(*arguments: str) -> str:
        found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return found.stdout.strip()

    try:
        name = git("rev-parse", "--short", "HEAD") or "unknown"
        return name + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return "unknown"


def print_report(report: Report) -> None:
    print("  ".join(f"{key} {value}" for key, value in report["machine"].items()))
    if "landmarks" in report:
        print("\nLandmarks, NME in % of the outer eyes    raw 51  raw 68  mesh 51  mesh 68  found  failures")
        for split, r in report["landmarks"].items():
            print(f"  {split:36s} {r['raw51']:8.3f}{r['raw68']:8.3f}{r['mesh51']:9.3f}{r['mesh68']:9.3f}"
                  f"  {r['found']}/{r['photographs']}  {100 * r['failures']:.1f} %")  # fmt: skip
    print("\nKnown heads                          ARKit MAE  active MAE  correlation  rotation °  distance %")
    for name, r in report["truth"].items():
        print(f"  {name:33s} {r['arkit_mae']:10.4f}{r['active_mae']:12.4f}{r['correlation']:13.3f}"
              f"{r['rotation_degrees']:12.2f}{r['distance_percent']:12.2f}")  # fmt: skip
    print("\nMilliseconds")
    for name, value in report["milliseconds"].items():
        print(f"  {name:40s} {value:8.3f}")
    command = report.get("command")
    if command:
        print("\nrecon3d photo, 1 megapixel:  " + "  ".join(f"{k} {v:.4g}" for k, v in command.items()))


def measure(options: argparse.Namespace) -> Report:
    report: Report = {"machine": {"commit": _commit(), **machine_facts()}}
    head = load_head(options.head)
    solver = LandmarkSolver(head)
    archive, recording = options.data / "photos" / "lfpw_train.zip", options.data / "livelink" / "rom_3.csv"
    report["milliseconds"] = bench_times(head, solver, 0.3 if options.quick else 2.0)
    report["truth"] = bench_truth(
        head, recording if recording.is_file() else None, 32 if options.quick else 156
    )
    if archive.is_file():
        report["landmarks"] = bench_landmarks(head, solver, archive, 20 if options.quick else None)
        report["command"] = bench_command(archive, 1 if options.quick else 3)
    else:
        print(f"{archive} is not there: landmarks on photographs are left out", file=sys.stderr)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--head", type=Path, help="head model file (default: the open head)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--quick", action="store_true", help="few photographs, short timings")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        report = measure(options)
    except Recon3DError as error:
        print(error, file=sys.stderr)
        return 1
    print_report(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
