"""Draws the open head and another head side by side, doing the same ARKit units.

python tools/draw_transfer.py HEAD --out sheet.png [--units jawOpen,mouthClose+jawOpen] [--side -50]

HEAD is a head model (``.npz``, FLAME's ``.pkl``) or a neutral mesh in metres (``.obj``), which is dressed
first: its landmarks are found and the units carried over to it, which takes half a minute.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from draw_units import Pixels, parse_units, sheet
from torch import Tensor

from recon3d.conventions import FRONTAL
from recon3d.errors import Recon3DError
from recon3d.face import open_face_source
from recon3d.head import HeadModel, load_head
from recon3d.head._obj import read_obj
from recon3d.head.dressing import bare_arrays, dressed
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.media.image import write_image
from recon3d.render.camera import Camera
from recon3d.render.shading import SOFT, render_head

#: What the sheet shows unless told otherwise: what goes wrong first.
UNITS = (
    "", "eyeBlinkLeft+eyeBlinkRight", "eyeBlinkLeft=0.5+eyeBlinkRight=0.5", "eyeSquintLeft+eyeSquintRight",
    "eyeWideLeft+eyeWideRight", "eyeLookOutLeft+eyeLookInRight", "eyeLookUpLeft+eyeLookUpRight",
    "eyeLookDownLeft+eyeLookDownRight", "jawOpen", "mouthClose+jawOpen", "jawLeft", "jawForward",
    "mouthFunnel", "mouthPucker", "mouthLeft", "mouthSmileLeft+mouthSmileRight",
    "mouthFrownLeft+mouthFrownRight", "mouthDimpleLeft+mouthDimpleRight",
    "mouthStretchLeft+mouthStretchRight", "mouthRollLower+mouthRollUpper", "mouthShrugLower+mouthShrugUpper",
    "mouthPressLeft+mouthPressRight", "mouthLowerDownLeft+mouthLowerDownRight",
    "mouthUpperUpLeft+mouthUpperUpRight", "browInnerUp", "browDownLeft+browDownRight",
    "browOuterUpLeft+browOuterUpRight", "cheekPuff", "cheekSquintLeft+cheekSquintRight",
    "noseSneerLeft+noseSneerRight", "jawOpen=0.5+tongueOut",
)  # fmt: skip


def read_other(path: Path) -> HeadModel:
    """The head to compare with, its expressions the ARKit units.

    Raises:
        Recon3DError: It cannot be read or dressed.
    """
    if path.suffix.lower() != ".obj":
        return load_head(path).in_units
    mesh = read_obj(path)
    middle = (mesh.vertices.max(0) + mesh.vertices.min(0)) / 2
    arrays = bare_arrays(mesh.vertices - middle, mesh.faces)
    bare = HeadModel(arrays, name=path.stem, digest="bare")
    worn = dressed(bare, open_face_source("mediapipe"), say=print)
    return HeadModel(arrays | worn, name=path.stem, digest="dressed").in_units


def draw(head: HeadModel, expression: Tensor, yaw: float, size: int, width: float) -> Pixels:
    """One picture (size, size, 3) of ``width`` m around the middle of the face, from ``yaw`` degrees."""
    landmarks = head.landmarks(head.v_template[None], "mediapipe478")[0]
    middle = (landmarks.amax(0) + landmarks.amin(0)) / 2 + torch.tensor([0.0, -0.005, -0.03])
    turn = axis_angle_to_matrix(torch.tensor([0.0, math.radians(yaw), 0.0]))
    rotation = torch.tensor(FRONTAL, dtype=torch.float32) @ turn
    distance = 0.9
    vertices = head.unposed(torch.zeros(1, head.num_shape), expression)
    placed = (vertices - middle) @ rotation.T + torch.tensor([0.0, 0.0, distance])
    camera = Camera.create(size * distance / width, (size, size))
    shown = render_head(
        placed, head.faces, camera, head.colors, lighting=SOFT, background=(1, 1, 1), supersample=2
    )
    picture: Pixels = (shown.image[0].clamp(0, 1) * 255).round().byte().numpy()
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", type=Path, help="the head to compare with the open one")
    parser.add_argument("--out", type=Path, required=True, help="PNG or JPEG to write")
    parser.add_argument(
        "--units", default=",".join(UNITS), help='which: "jawOpen+mouthClose,eyeBlinkLeft=0.5"'
    )
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--side", type=float, help="a second view of each, turned so many degrees")
    parser.add_argument("--size", type=int, default=220, help="side of one picture, px")
    parser.add_argument("--width", type=float, default=0.19, help="what a picture shows, m")
    parser.add_argument("--columns", type=int, default=8)
    options = parser.parse_args()
    try:
        heads = (load_head(), read_other(options.head))
        views = (0.0,) if options.side is None else (0.0, options.side)
        pictures = [
            (label, draw(head, expression, yaw, options.size, options.width))
            for label, expression in parse_units(heads[0], options.units, options.strength)
            for head in heads
            for yaw in views
        ]
        write_image(options.out, sheet(pictures, options.columns))
    except Recon3DError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
