"""Measures the neural renderer: how well faces are painted, read again, and reenacted.

    python tools/bench_synthesis.py painted [--data ../shared/data] [--painter FILE] [--encoder FILE]
    python tools/bench_synthesis.py reenacted SOURCE.jpg DRIVER.mp4... [--painter FILE]

``painted`` takes 300 photographs that no network of ours learned from, paints each again from its geometry
and one in a hundred of its pixels, once more with the geometry left out, and with other expressions, which
the encoder then has to read. ``reenacted`` lets a source do what drivers do, times that, and tracks the
result: how like the curves that come out are to those that went in.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon3d._video_api import reconstruct_video
from recon3d.capture import Capture
from recon3d.encoder.encoder import SHIPPED
from recon3d.encoder.network import images_of
from recon3d.encoder.weights import load_weights
from recon3d.evaluation.machine import machine_facts
from recon3d.evaluation.metrics import unit_correlation
from recon3d.evaluation.synthetic import read_live_link
from recon3d.head import load_head
from recon3d.media.image import read_image
from recon3d.media.video import VideoWriter
from recon3d.pipeline import Reconstructor
from recon3d.resources import resource_path
from recon3d.synthesis import weights
from recon3d.synthesis.geometry import Heads
from recon3d.synthesis.motion import driven_expressions
from recon3d.synthesis.repaint import LARGEST_IN_CLIPS, Repainter
from recon3d.synthesis.scene import Scene
from recon3d.synthesis.weights import load_painter
from recon3d.training.cycle import SynthesisLoss, SynthesisNetwork
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import SynthesisWeights
from recon3d.training.perceptual import perceptual_distance, pretrained_perceptual
from recon3d.training.perturb import perturbed
from recon3d.training.photographs import PhotographStore

Report = dict[str, Any]
_COUNT, _BATCH = 300, 20


@torch.inference_mode()
def bench_painted(data: Path, painter: Path, encoder: Path) -> Report:
    """Paint 300 photographs again."""
    head = load_head()
    network = SynthesisNetwork(
        load_weights(encoder, head), pretrained_trunk(), load_painter(painter, head)
    ).eval()
    loss = SynthesisLoss(head, network.painter.config.size, SynthesisWeights())
    sampler = ExpressionSampler(read_live_link(data / "livelink" / "rom_3.csv").numpy(), odd=True)
    like = pretrained_perceptual()
    with tempfile.TemporaryDirectory() as folder:
        store = PhotographStore(Path(folder), (str(data / "photos" / "lfpw_train.zip"),), 60, _COUNT)
        store.make()
        faces = store.shard(0)
    found: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        found.setdefault(name, []).append(values.flatten(1).mean(1) if values.dim() else values[None])

    torch.manual_seed(0)
    for start in range(0, _COUNT, _BATCH):
        images = images_of(faces.images[start : start + _BATCH])
        points = faces.detected[start : start + _BATCH]
        pictures = torch.nn.functional.interpolate(images, (network.painter.config.size,) * 2, mode="area")
        heads = Heads.of(network.encoder(images, points))
        _, again = loss.reconstruct(network, pictures, points, heads)
        off = (again.pictures - pictures).abs().mean(1, keepdim=True)
        note("whole cut-out, L1", off)
        note("face, L1", _within(off, again.scene.hidden))
        note("eyes and mouth, L1", _within(off, again.photograph.telling[:, None]))
        note("perceptual distance", perceptual_distance(like, again.pictures, pictures))
        blind = again.scene._replace(geometry=torch.zeros_like(again.scene.geometry))
        blind_off = (network.paint(Scene(*blind)) - pictures).abs().mean(1, keepdim=True)
        note("eyes and mouth without geometry, L1", _within(blind_off, again.photograph.telling[:, None]))
        other = perturbed(heads.expression, sampler, np.random.default_rng(start))
        _, _, read = loss.cycle(network, again.photograph, heads, other)
        note("units put in and read out, mean difference", (read.expression - other).abs())
        note("the same if nothing were painted", (heads.expression - other).abs())
    return {name: round(float(torch.cat(values).mean()), 4) for name, values in found.items()}


def _within(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each picture's (B,1,S,S) values in a mask, (B,1)."""
    here = mask.to(values)
    return ((values * here).sum((1, 2, 3)) / here.sum((1, 2, 3)).clamp_min(1))[:, None]


def bench_reenacted(source: Path, drivers: list[Path], painter: Path) -> Report:
    """Let a photograph do what clips show, and read the result back."""
    head = load_head()
    repainter = Repainter(head, load_painter(painter, head), LARGEST_IN_CLIPS)
    photo = read_image(source)
    portrait = repainter.portrait(photo.pixels, Reconstructor(head=head).reconstruct(photo)[0])
    report: Report = {"cut-out, px": portrait.given.shape[-1]}
    for driver in drivers:
        take = reconstruct_video(driver, head=head, faces="largest")[0]
        rows = driven_expressions(take)
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            begun = time.perf_counter()
            with VideoWriter(clip, photo.size, take.fps, crf=17) as writer:
                for number, pixels in enumerate(repainter.paint(portrait, rows)):
                    writer.write(pixels, number / take.fps)
            seconds = time.perf_counter() - begun
            seen = reconstruct_video(clip, head=head, faces="largest")[0]
        report[driver.name] = _followed(take, seen) | {"frames a second": round(len(rows) / seconds, 1)}
    return report


def _followed(take: Capture, seen: Capture) -> Report:
    """How like the curves that were read are to those that went in; units that move by .03 at least."""
    count = min(len(take), len(seen))
    wanted, found = take.arkit[:count], seen.arkit[:count]
    moves = wanted.std(0) > 0.03
    each = unit_correlation(found, wanted)[moves]
    return {"correlation": round(float(np.nanmean(each)), 3), "units that move": int(moves.sum())}


def main() -> None:
    """Run the bench that the command line names and print its report as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sub = parser.add_subparsers(dest="what", required=True)
    painted = sub.add_parser("painted")
    painted.add_argument("--data", type=Path, default=Path("../shared/data"))
    painted.add_argument("--encoder", type=Path, default=resource_path(SHIPPED))
    reenacted = sub.add_parser("reenacted")
    reenacted.add_argument("source", type=Path)
    reenacted.add_argument("drivers", type=Path, nargs="+")
    for one in (painted, reenacted):
        one.add_argument("--painter", type=Path, default=resource_path(weights.SHIPPED))
    given = parser.parse_args()
    if given.what == "painted":
        report = bench_painted(given.data, given.painter, given.encoder)
    else:
        report = bench_reenacted(given.source, given.drivers, given.painter)
    print(json.dumps(machine_facts() | report, indent=1))


if __name__ == "__main__":
    main()
