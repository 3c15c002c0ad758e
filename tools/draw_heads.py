"""Draws one face fitted with two head models, and one performance played on both.

    python tools/draw_heads.py HEAD TAKE --out heads.jpg [--photo PHOTO]

HEAD is any other head model, such as a FLAME file; TAKE a capture, a Live Link Face ``.csv``, or scores. The
photograph is the public-domain astronaut unless another one is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
from PIL import Image

from recon3d._takes import read_take
from recon3d.capture import Capture
from recon3d.conventions import FRONTAL
from recon3d.export._still import camera_vertices
from recon3d.fitting.controls import Controls
from recon3d.fitting.units import UnitMap
from recon3d.head import HeadModel, load_head
from recon3d.media.image import Photo, read_image, write_image
from recon3d.pipeline import Reconstructor
from recon3d.render.camera import Camera
from recon3d.render.overlay import draw_overlay
from recon3d.render.shading import render_head

Pixels = npt.NDArray[np.uint8]

_MOMENTS, _SIDE, _PHOTO = 7, 224, 522
#: Grey of what is behind heads, as it is rendered and as it is shown.
_GROUND, _PAPER = 0.5, 0.17


def fitted(photo: Photo, heads: Sequence[HeadModel]) -> Pixels:
    """The photograph, and each head over it."""
    panels = []
    for head in heads:
        capture = Reconstructor(head=head).reconstruct(photo)[0]
        middle = float(capture.principal[0]), float(capture.principal[1])
        camera = Camera.create(capture.focal, capture.size, middle)
        vertices = camera_vertices(capture, head, 0)
        drawn = draw_overlay(photo.pixels, [vertices], head.faces, camera, max_side=_PHOTO)
        panels.append(np.split(drawn, np.linspace(0, drawn.shape[1], 4).round().astype(int)[1:3], axis=1))
    height = max(panel.shape[0] for row in panels for panel in row)
    shown = [panels[0][0], *(row[1] for row in panels)]
    return np.concatenate([_wide(panel, _PHOTO)[:height] for panel in shown], axis=1)


def played(capture: Capture, head: HeadModel, moments: npt.NDArray[np.int64]) -> Pixels:
    """The head at some moments of a performance, looking into the camera."""
    units = torch.from_numpy(capture.arkit[moments])
    values = units if head.speaks_arkit else UnitMap.of(head).controls_of(units)
    expression, pose = Controls.of(head).split(values, head.num_joints)
    still = head(torch.zeros(len(values), head.num_shape), expression, pose).vertices
    middle = head.v_template[head.within("face")].mean(0)
    seen = (still - middle) @ torch.tensor(FRONTAL, dtype=torch.float32).T + torch.tensor([0.0, 0.0, 1.0])
    camera = Camera.create(4.6 * _SIDE, (_SIDE, _SIDE))
    colors = head.colors
    shown = render_head(seen, head.faces, camera, colors, supersample=2)
    image = shown.image + (_PAPER - _GROUND) * (1 - shown.alpha[..., None])
    pixels = (image.clamp(0, 1) * 255).byte().numpy()
    return np.concatenate(list(pixels), axis=1)


def telling_moments(units: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Of as many equal stretches, the frame of each that is least like the mean."""
    away = np.abs(units - units.mean(0)).sum(1)
    stretches = np.array_split(np.arange(len(units)), _MOMENTS)
    return np.array([part[away[part].argmax()] for part in stretches])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head")
    parser.add_argument("take", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photo", type=Path)
    options = parser.parse_args()
    heads = load_head(), load_head(options.head)
    astronaut = Photo(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    photo = astronaut if options.photo is None else read_image(options.photo)
    take = read_take(options.take, heads[0])
    moments = telling_moments(take.arkit)
    width = _MOMENTS * _SIDE
    rows = [_wide(fitted(photo, heads), width)]
    rows += [_wide(played(take, head, moments), width) for head in heads]
    write_image(options.out, np.concatenate(rows))


def _wide(pixels: Pixels, width: int) -> Pixels:
    """Scale a picture to a width."""
    height = round(pixels.shape[0] * width / pixels.shape[1])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    with torch.no_grad():
        main()
