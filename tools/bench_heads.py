"""Measures another head model beside the open head: loading, landmarks on photographs, and conversion.

    python tools/bench_heads.py HEAD --data DIR

HEAD is a FLAME file, or any other head model; DIR holds photos/lfpw_train.zip and livelink/rom_3.csv. A
stand-in for FLAME comes of ``python tests/flame_stand_in.py generic_model.pkl --template head_template.obj``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from recon3d.assets import FACE_LANDMARKER, fetch
from recon3d.capture import Capture
from recon3d.convert import Converter
from recon3d.evaluation.lfpw import detect, read_lfpw, score
from recon3d.evaluation.synthetic import read_live_link
from recon3d.export._livelink_read import Turns, capture_of
from recon3d.export._still import camera_vertices
from recon3d.face import open_face_source
from recon3d.fitting import LandmarkSolver
from recon3d.fitting.controls import Controls
from recon3d.fitting.units import UnitMap
from recon3d.head import HeadModel, load_head

_FRAMES, _SHOWN = 1000, 10


def loading(path: Path) -> HeadModel:
    """Load it twice: the first time it may have to be made ready."""
    for what in ("first", "again"):
        start = time.perf_counter()
        head = load_head(path)
        print(f"loading, {what}: {time.perf_counter() - start:.2f} s")
    return head


def landmarks(archive: Path, heads: tuple[HeadModel, HeadModel]) -> None:
    """Mean landmark error of both heads on the report half of the marked photographs."""
    source = open_face_source("mediapipe", path=fetch(FACE_LANDMARKER.name))
    faces = [detect(photograph, source) for photograph in read_lfpw(archive, "report")]
    for head in heads:
        report = score(faces, head, LandmarkSolver(head))
        print(
            f"{head.name}: points 51 / 68: {report.mesh51:.2f} / {report.mesh68:.2f} % of the eyes' distance"
        )


def round_trip(recording: Path, head: HeadModel, other: HeadModel) -> None:
    """A recorded performance of a made-up person, to the other head and back."""
    capture = _performance(recording, head)
    start = time.perf_counter()
    there = Converter(head, other).convert(capture)
    middle = time.perf_counter()
    back = Converter(other, head).convert(there)
    end = time.perf_counter()
    print(f"{len(capture)} frames: there {middle - start:.1f} s, back {end - middle:.1f} s")
    values = Controls.of(other).joined(torch.from_numpy(there.expression), torch.from_numpy(there.pose))
    read = values if other.speaks_arkit else UnitMap.of(other).units_of(values)
    units = read.numpy()
    alone = replace(back, expression=units, arkit=units)
    for name, found in (("there and back", back), ("read off the geometry alone", alone)):
        apart = [_apart(found, capture, head, k) * 1e3 for k in range(0, len(capture), _SHOWN)]
        off = np.abs(found.arkit - capture.arkit).mean()
        print(
            f"{name}: face {np.mean(apart):.2f} mm, worst frame {max(apart):.2f} mm; units off by {off:.3f}"
        )


def _performance(recording: Path, head: HeadModel) -> Capture:
    units = read_live_link(recording).numpy()
    units = units[:: max(1, len(units) // _FRAMES)][:_FRAMES]
    rng = np.random.default_rng(3)
    shape = rng.normal(0, 0.8, head.num_shape) / (1 + 0.03 * np.arange(head.num_shape))
    turns = Turns(Rotation.from_rotvec(rng.normal(0, 0.05, (len(units), 3))))
    times, seen = np.arange(len(units)) / 30, np.ones(len(units), bool)
    capture = capture_of(units.astype(np.float64), times, seen, turns, head, recording.name)
    return replace(capture, shape=shape.astype(np.float32))


def _apart(found: Capture, truth: Capture, head: HeadModel, frame: int) -> float:
    moved = camera_vertices(found, head, frame) - camera_vertices(truth, head, frame)
    return float(moved[head.within("face")].norm(dim=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    other, head = loading(options.head), load_head()
    landmarks(options.data / "photos" / "lfpw_train.zip", (head, other))
    round_trip(options.data / "livelink" / "rom_3.csv", head, other)


if __name__ == "__main__":
    with torch.no_grad():
        main()
