"""Draws a contact sheet of a head's expression units, each from the front and from the side.

python tools/draw_units.py --out units.png [--strength 1] [--units jawOpen+mouthClose,eyeBlinkLeft]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from recon3d.conventions import FRONTAL
from recon3d.errors import Recon3DError, UsageError
from recon3d.head import HeadModel, load_head
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.media.image import write_image
from recon3d.render.camera import Camera
from recon3d.render.shading import SOFT, render_head

Pixels = npt.NDArray[np.uint8]

#: What the pictures show around, by name: middle (m, head space) and width (m).
VIEWS = {
    "face": ((0.0, -0.02, 0.03), 0.19),
    "left_eye": ((0.0315, 0.02, 0.08), 0.06),
    "mouth": ((0.0, -0.055, 0.085), 0.10),
}
_LABEL = 14


def draw(
    head: HeadModel, expression: Tensor, yaw: float, size: int, view: str, shape: Tensor | None = None
) -> Pixels:
    """One picture (size, size, 3): ``expression`` (1, E) seen from ``yaw`` degrees to the side."""
    centre, width = VIEWS[view]
    identity = torch.zeros(1, head.num_shape) if shape is None else shape
    vertices = head.unposed(identity, expression) - torch.tensor(centre)
    turn = axis_angle_to_matrix(torch.tensor([0.0, math.radians(yaw), 0.0]))
    rotation = torch.tensor(FRONTAL, dtype=torch.float32) @ turn
    distance = 0.9
    placed = vertices @ rotation.T + torch.tensor([0.0, 0.0, distance])
    camera = Camera.create(size * distance / width, (size, size))
    found = render_head(
        placed, head.faces, camera, head.colors, lighting=SOFT, background=(1, 1, 1), supersample=2
    )
    picture: Pixels = (found.image[0].clamp(0, 1) * 255).round().byte().numpy()
    return picture


def parse_units(head: HeadModel, text: str | None, strength: float) -> list[tuple[str, Tensor]]:
    """Names and expressions (1, E): every unit, or those of ``text`` ("a,b+c,d=0.5")."""
    names = list(head.expression_names)
    wanted = names if text is None else text.split(",")
    found = []
    for label in wanted:
        expression = torch.zeros(1, head.num_expression)
        for term in filter(None, label.split("+")):
            name, _, value = term.partition("=")
            if name not in names:
                raise UsageError(f"{head.id} has no unit called {name!r}")
            try:
                expression[0, names.index(name)] = float(value) if value else strength
            except ValueError as error:
                raise UsageError(f"{value!r} is no strength of {name}; a number is wanted") from error
        found.append((label or "neutral", expression))
    return found


def sheet(pictures: list[tuple[str, Pixels]], columns: int) -> Pixels:
    """Put labelled pictures of one size into a grid."""
    size = pictures[0][1].shape[0]
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", (columns * size, rows * (size + _LABEL)), "white")
    pen = ImageDraw.Draw(page)
    for k, (label, picture) in enumerate(pictures):
        x, y = (k % columns) * size, (k // columns) * (size + _LABEL)
        page.paste(Image.fromarray(picture), (x, y + _LABEL))
        pen.text((x + 4, y + 1), label, fill="black")
    return np.asarray(page)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG or JPEG to write")
    parser.add_argument("--head", type=Path, help="head model file (default: the open head)")
    parser.add_argument("--units", help='only these: "jawOpen+mouthClose,eyeBlinkLeft=0.5" (default: all)')
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--view", choices=sorted(VIEWS), default="face")
    parser.add_argument("--side", type=float, default=-45.0, help="second view's turn, degrees")
    parser.add_argument("--size", type=int, default=220, help="side of one picture, px")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--identity", type=int, help="seed of a random person (default: the mean head)")
    options = parser.parse_args()
    try:
        head = load_head(options.head)
        shape = None
        if options.identity is not None:
            generator = torch.Generator().manual_seed(options.identity)
            shape = 0.7 * torch.randn(1, head.num_shape, generator=generator)
        pictures = [
            (label, draw(head, expression, yaw, options.size, options.view, shape))
            for label, expression in parse_units(head, options.units, options.strength)
            for yaw in (0.0, options.side)
        ]
        if not pictures:
            raise UsageError(f"{head.id}: its expression units have no names, so there is nothing to draw")
        write_image(options.out, sheet(pictures, options.columns))
    except Recon3DError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
