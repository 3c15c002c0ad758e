"""Draws what the encoder sees beside what the landmarks tell, to look at.

python tools/draw_encoder.py --out sheet.jpg [--count 40] [--encoder FILE] PICTURE_OR_ZIP...

Of every face: its cut-out, and over it the head by the landmarks alone, by encoder and landmarks, and by the
encoder alone (weak perspective).
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recon3d.encoder.crop import CROP_SIZE, CutOut, cut_out
from recon3d.encoder.encoder import FaceEncoder, choose_encoder
from recon3d.face import FaceSource, open_face_source
from recon3d.fitting import LandmarkSolver, default_focal, guess_from_encoder
from recon3d.head import HeadModel, load_head
from recon3d.media.image import write_image
from recon3d.render.camera import Camera
from recon3d.render.overlay import draw_overlay

Pixels = npt.NDArray[np.uint8]
_SIZE = (CROP_SIZE, CROP_SIZE)
#: Distance (m) at which perspective is not seen any more.
_FAR = 20.0


def read_pictures(paths: list[Path], count: int) -> Iterator[Pixels]:
    """Pictures and, of archives, ``count`` pictures spread over each."""
    for path in paths:
        if path.suffix != ".zip":
            yield np.asarray(Image.open(path).convert("RGB"))
            continue
        with zipfile.ZipFile(path) as bundle:
            names = sorted(n for n in bundle.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
            for k in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int):
                yield np.asarray(Image.open(io.BytesIO(bundle.read(names[k]))).convert("RGB"))


def cut_outs(pictures: Iterator[Pixels], source: FaceSource) -> list[CutOut]:
    """The most prominent face of each picture that shows one."""
    found = ((picture, source.find(picture, max_faces=1)) for picture in pictures)
    return [cut_out(picture, faces[0].landmarks) for picture, faces in found if faces]


class Artist:
    """Draws heads over cut-outs."""

    def __init__(self, head: HeadModel, encoder: FaceEncoder) -> None:
        self._head, self._encoder = head, encoder
        self._solver = LandmarkSolver(head)

    def row(self, cut: CutOut) -> Pixels:
        """The cut-out, and three overlays."""
        told = self._encoder.tell([cut])
        columns = (torch.from_numpy(c) for c in (told.expression, told.variance))
        fits = [self._fitted(cut, None), self._fitted(cut, guess_from_encoder(*columns))]
        rotation, shape, expression, place = (
            torch.from_numpy(c) for c in (told.rotation, told.shape, told.expression, told.place)
        )
        scale = 3 * (1 + place[:, 2])
        shift = torch.stack((place[:, 0] / scale, place[:, 1] / scale, torch.full_like(scale, _FAR)), dim=1)
        camera = Camera.create(float(scale[0]) * CROP_SIZE * _FAR, _SIZE)
        alone = self._over(cut, self._placed(shape, expression, rotation, shift), camera)
        return np.concatenate([cut.pixels, *fits, alone], axis=1)

    def _fitted(self, cut: CutOut, hint: tuple[Tensor, Tensor] | None) -> Pixels:
        points = torch.from_numpy(cut.points[None, :, :2]) * CROP_SIZE
        focal = default_focal(cut.points * CROP_SIZE, _SIZE)
        camera = Camera.create(focal, _SIZE)
        guess, confidence = hint or (None, None)
        state = self._solver.fit(
            points, camera.focal, camera.principal, guess=guess, confidence=confidence
        ).state
        return self._over(
            cut, self._placed(state.shape, state.expression, state.rotation, state.translation), camera
        )

    def _placed(self, shape: Tensor, expression: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
        whole = F.pad(shape, (0, self._head.num_shape - shape.shape[1]))
        return (self._head.unposed(whole, expression) @ rotation.mT + translation[:, None])[0]

    def _over(self, cut: CutOut, verts: Tensor, camera: Camera) -> Pixels:
        panels = draw_overlay(cut.pixels, [verts], self._head.faces, camera, max_side=CROP_SIZE)
        start = (panels.shape[1] - CROP_SIZE) // 2
        return panels[:, start : start + CROP_SIZE]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="pictures of an archive")
    parser.add_argument("--encoder", type=Path, help="weights; those that come with recon3d by default")
    parser.add_argument("--columns", type=int, default=2, help="faces side by side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    head = load_head()
    encoder = choose_encoder(options.encoder or True, head)
    assert encoder is not None
    cuts = cut_outs(read_pictures(options.pictures, options.count), open_face_source("mediapipe"))
    artist = Artist(head, encoder)
    rows = [artist.row(cut) for cut in cuts]
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % options.columns)
    lines = [
        np.concatenate(rows[k : k + options.columns], axis=1) for k in range(0, len(rows), options.columns)
    ]
    write_image(options.out, np.concatenate(lines, axis=0))


if __name__ == "__main__":
    main()
