"""Draws a contact sheet of synthetic faces, to look at.

python tools/preview_synthetic.py --out sheet.png [--count 48] [--seed 0] [--other] [--landmarks]
    [--take TAKE.csv]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from recon3d.evaluation.synthetic import read_live_link
from recon3d.head import load_head
from recon3d.media.image import write_image
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.synthetic import OTHER, TRAINING, SyntheticFaces

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--side", type=int, default=192, help="of a picture on the sheet, px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--take", type=Path, help="Live Link recording to draw expressions from")
    parser.add_argument("--other", action="store_true", help="the settings that training never sees")
    parser.add_argument("--landmarks", action="store_true", help="draw them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recorded = None if options.take is None else read_live_link(options.take).numpy()
    settings = OTHER if options.other else TRAINING
    faces = SyntheticFaces(
        load_head(), ExpressionSampler(recorded, options.other), settings, seed=options.seed
    )
    faces.batch(range(2))  # compiles
    start = time.perf_counter()
    parts = [faces.batch(range(k, min(k + 16, options.count))) for k in range(0, options.count, 16)]
    print(f"{options.count / (time.perf_counter() - start):.1f} pictures a second on one core")
    images = torch.cat([p.images for p in parts]).numpy()
    points = torch.cat([p.landmarks for p in parts]).numpy()
    write_image(
        options.out, sheet(images, points if options.landmarks else None, options.columns, options.side)
    )


def sheet(images: Pixels, points: Floats | None, columns: int, side: int) -> Pixels:
    rows = -(-len(images) // columns)
    paper = Image.new("RGB", (columns * side, rows * side))
    for k, pixels in enumerate(images):
        picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
        if points is not None:
            draw = ImageDraw.Draw(picture)
            draw.point([tuple(p) for p in (points[k, :, :2] * side).tolist()], fill=(0, 255, 0))
        paper.paste(picture, (k % columns * side, k // columns * side))
    return np.asarray(paper)


if __name__ == "__main__":
    main()
