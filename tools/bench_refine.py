"""Measures the photometric refinement on photographs with hand-marked points (LFPW).

python tools/bench_refine.py [--split tune|report] [--every N] [--set NAME=VALUE ...] [--json FILE]

The photometric error is that of ``Refined``: before and after by the same definition, colours and light read
anew for each. Tune on the tuning half alone; the reporting half is for the figures of
docs/benchmarks/render.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recon3d.errors import InputError, Recon3DError, UsageError
from recon3d.evaluation.lfpw import Detected, detect, project68, read_lfpw
from recon3d.evaluation.machine import machine_facts
from recon3d.evaluation.metrics import nme_outer_eye
from recon3d.face import open_face_source
from recon3d.fitting import FitState, LandmarkSolver, Observed, default_focal, guess_from_scores
from recon3d.fitting.refine import PhotoRefiner, RefineSettings
from recon3d.head import HeadModel, load_head

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Face:
    """One photograph's face, fitted to its landmarks."""

    pixels: npt.NDArray[np.uint8]
    item: Detected
    seen: Observed
    state: FitState


@dataclass(frozen=True)
class Figures:
    """Of one face, or means over all: photometric error, and NME in % of the outer eyes."""

    error_before: float
    error_after: float
    nme51_before: float
    nme51_after: float
    nme68_before: float
    nme68_after: float
    seconds: float


def found_faces(archive: Path, split: Any, every: int, solver: LandmarkSolver) -> Iterator[Face]:
    """Find and fit the faces of each ``every``-th photograph of a split."""
    source = open_face_source("mediapipe")
    for k, photograph in enumerate(read_lfpw(archive, split)):
        item = detect(photograph, source) if k % every == 0 else None
        if item is not None and item.face is not None:
            seen = observed(item)
            state = solver.fit(
                seen.pixels, seen.focal, seen.principal, guess=seen.guess, confidence=seen.confidence
            ).state
            yield Face(photograph.pixels, item, seen, state)


def observed(item: Detected) -> Observed:
    """What the landmark solver is told of a face."""
    assert item.face is not None and item.face.scores is not None  # the mediapipe face stage scores
    guess, confidence = guess_from_scores(torch.from_numpy(item.face.scores[None]))
    focal = torch.tensor([default_focal(item.face.landmarks, item.size)])
    principal = torch.tensor([item.size], dtype=torch.float32) / 2
    points = torch.from_numpy(item.face.landmarks[None, :, :2].copy())
    return Observed(points, focal, principal, guess, confidence)


def measure(head: HeadModel, refiner: PhotoRefiner, face: Face) -> Figures:
    """Refine one face; compare its landmarks before and after with the marked ones."""
    start = time.perf_counter()
    found = refiner.refine(face.pixels, face.seen, face.state)
    seconds = time.perf_counter() - start
    before, after = (
        project68(head, state, face.seen.focal, face.seen.principal).numpy()
        for state in (face.state, found.state)
    )
    marked = face.item.points[None]
    return Figures(
        error_before=found.before,
        error_after=found.after,
        nme51_before=float(nme_outer_eye(before, marked, jaw=False)[0]),
        nme51_after=float(nme_outer_eye(after, marked, jaw=False)[0]),
        nme68_before=float(nme_outer_eye(before, marked)[0]),
        nme68_after=float(nme_outer_eye(after, marked)[0]),
        seconds=seconds,
    )


def summary(rows: Sequence[Figures]) -> dict[str, float]:
    """Means over all faces, how far the error falls, and the share of faces whose points come nearer."""
    table = np.array([list(asdict(row).values()) for row in rows])
    mean = Figures(*table.mean(0).tolist())
    return {
        "photographs": len(rows),
        **asdict(mean),
        "error_falls_percent": 100 * (1 - mean.error_after / mean.error_before),
        "nme51_better_share": float(np.mean([row.nme51_after < row.nme51_before for row in rows])),
        "nme68_better_share": float(np.mean([row.nme68_after < row.nme68_before for row in rows])),
    }


def settings_of(changes: Sequence[str]) -> RefineSettings:
    """The settings, with ``NAME=VALUE`` changed.

    Raises:
        UsageError: There is no such setting, or that is no value for it.
    """
    settings = RefineSettings()
    kinds = {item.name: type(getattr(settings, item.name)) for item in fields(settings)}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            settings = replace(settings, **{name: kinds[name](value)})
        except (KeyError, ValueError) as error:
            raise UsageError(f"--set {change}: give NAME=VALUE, one of {', '.join(kinds)}") from error
    return settings


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says."""
    settings = settings_of(options.set)
    head = load_head(options.head)
    solver = LandmarkSolver(head)
    refiner = PhotoRefiner(head, solver, settings)
    archive = options.data / "photos" / "lfpw_train.zip"
    rows = []
    for face in found_faces(archive, options.split, options.every, solver):
        rows.append(measure(head, refiner, face))
        if len(rows) == options.limit:
            break
    if not rows:
        raise InputError(f"{archive}: no face was found in what was asked for")
    return {"machine": machine_facts(), "settings": asdict(settings), **summary(rows)}


def print_report(report: dict[str, Any]) -> None:
    print("  ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print("  ".join(f"{key} {value}" for key, value in report["settings"].items()))
    print(f"\n{report['photographs']} photographs          before   after")
    print(f"photometric error      {report['error_before']:8.4f}{report['error_after']:8.4f}"
          f"   {-report['error_falls_percent']:+.1f} %")  # fmt: skip
    for name in ("nme51", "nme68"):
        print(f"{name.upper()}, % of the eyes  {report[name + '_before']:8.3f}{report[name + '_after']:8.3f}"
              f"   better on {100 * report[name + '_better_share']:.0f} %")  # fmt: skip
    print(f"time                   {report['seconds']:8.2f} s a face")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--head", type=Path, help="head model file (default: the open head)")
    parser.add_argument("--split", choices=("tune", "report"), default="tune")
    parser.add_argument(
        "--every", type=int, default=10, help="take each N-th photograph (default: 10)", metavar="N"
    )
    parser.add_argument("--limit", type=int, help="at most so many faces")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.every < 1:
            raise UsageError("--every: give 1 or more")
        report = bench(options)
    except Recon3DError as error:
        print(error, file=sys.stderr)
        return 1
    print_report(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
