"""Measure the rasterizer and the pictures: ``python tools/bench_render.py [--json] [--threads N]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon3d.errors import Recon3DError
from recon3d.head import HeadModel, load_head
from recon3d.render.camera import Camera
from recon3d.render.overlay import draw_overlay
from recon3d.render.rasterize import interpolate, rasterize
from recon3d.render.shading import render_head
from recon3d.render.texture import unwrap

#: (picture side px, batch) of the rasterizer's figures.
CASES = ((224, 1), (224, 16), (1024, 1))


@dataclass(frozen=True)
class Scene:
    """The head, looking at the camera from 0.6 m, its height filling about 80 % of a square picture."""

    head: HeadModel
    verts: Tensor

    def camera(self, side: int) -> Camera:
        """Return the camera of a picture of ``side`` px."""
        extent = float((self.verts[:, 1].amax() - self.verts[:, 1].amin()) / 0.6)
        return Camera.create(0.8 * side / extent, (side, side))


def median_ms(call: Callable[[], object], seconds: float) -> float:
    """Median wall time of a call, ms, over as many calls as fit into ``seconds`` (at least 5)."""
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def load_scene(path: Path | None) -> Scene:
    head = load_head(path)
    flip = torch.tensor([1.0, -1.0, -1.0])
    verts = (head.v_template - head.v_template.mean(0)) * flip + torch.tensor([0.0, 0.0, 0.6])
    return Scene(head, verts.detach())


def bench_rasterizer(scene: Scene, side: int, batch: int, seconds: float) -> dict[str, float]:
    """Milliseconds per image of the rasterizer, of interpolation, and of both with gradients."""
    camera, faces = scene.camera(side), scene.head.faces
    verts = scene.verts.expand(batch, -1, -1).contiguous()
    pixels = camera.project(verts)
    fragments = rasterize(pixels, faces, camera.size)

    def forward_backward() -> None:
        leaf = pixels.detach().requires_grad_()
        found = rasterize(leaf, faces, camera.size)
        torch.autograd.grad(interpolate(verts, faces, found).sum(), leaf)

    return {
        "covered_percent": 100 * float(fragments.mask.float().mean()),
        "rasterize_ms": median_ms(lambda: rasterize(pixels, faces, camera.size), seconds) / batch,
        "interpolate_ms": median_ms(lambda: interpolate(verts, faces, fragments), seconds) / batch,
        "with_gradients_ms": median_ms(forward_backward, seconds) / batch,
        "render_head_ms": median_ms(lambda: render_head(verts, faces, camera, scene.head.colors), seconds)
        / batch,
    }


def bench_pictures(scene: Scene, seconds: float) -> dict[str, float]:
    """Milliseconds of one overlay (panels 640 px high) and one texture (1024 px)."""
    head, camera = scene.head, scene.camera(640)
    photo = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    return {
        "overlay_640_ms": median_ms(
            lambda: draw_overlay(photo, [scene.verts], head.faces, camera, colors=head.colors), seconds
        ),
        "texture_1024_ms": median_ms(
            lambda: unwrap(
                photo, scene.verts, head.faces, camera, head.uv, head.faces_uv, colors=head.colors
            ),
            seconds,
        ),
    }


def machine_facts() -> dict[str, object]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def peak_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the renderer on this machine.")
    parser.add_argument("--head", type=Path, help="head model file (default: the open head)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--seconds", type=float, default=1.5, help="time spent on each figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine_facts()
    try:
        scene = load_scene(options.head)
    except Recon3DError as error:
        print(error, file=sys.stderr)
        return 1
    facts["triangles"] = len(scene.head.faces)
    facts["rss_mb_before"] = peak_mb()
    results: dict[str, dict[str, float]] = {}
    for side, batch in CASES:
        results[f"{side}px batch {batch}"] = bench_rasterizer(scene, side, batch, options.seconds)
    results["pictures"] = bench_pictures(scene, options.seconds)
    report = {"machine": facts, "milliseconds_per_image": results, "peak_rss_mb": peak_mb()}
    if options.json:
        print(json.dumps(report, indent=1))
        return 0
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    for case, figures in results.items():
        print(f"{case:16s}", "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))
    print(f"peak RSS {report['peak_rss_mb']:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
