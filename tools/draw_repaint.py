"""Draws faces with other expressions, to look at.

    python tools/draw_repaint.py edits --out sheet.jpg [--painter FILE] [PHOTO...]
    python tools/draw_repaint.py pairs --out sheet.jpg --driver TAKE... [--painter FILE] [PHOTO...]

``edits``: each photograph as it is, and with one expression after the other. ``pairs``: moments of each
driver, drawn as grey heads, and below them each photograph at the same moments. Without a photograph the
public-domain astronaut and a synthetic face are drawn.
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
from recon3d.head import load_head
from recon3d.media.image import Photo, read_image, write_image
from recon3d.pipeline import Reconstructor
from recon3d.resources import resource_path
from recon3d.synthesis.geometry import GeometryPainter, Heads, Pose
from recon3d.synthesis.motion import driven_expressions
from recon3d.synthesis.repaint import Portrait, Repainter
from recon3d.synthesis.wanted import wanted_expression
from recon3d.synthesis.weights import SHIPPED, load_painter
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.synthetic import TRAINING, SyntheticFaces

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Units, or an emotion, of each picture in a row.
EDITS = ("jawOpen=.6", "mouthSmile=.9,cheekSquint=.4", "eyeBlink=1", "surprise", "anger", "sadness")
_SIDE, _MOMENTS = 224, 7
#: Of the synthetic face: one of many that looks into the camera calmly.
_SEED, _NUMBER = 7, 268


class Sheet:
    """Rows of pictures of equal size."""

    def __init__(self, painter: Path) -> None:
        self.head = load_head()
        self._repainter = Repainter(self.head, load_painter(painter, self.head))
        self._worker = Reconstructor(head=self.head)
        self._grey = GeometryPainter(self.head, _SIDE)
        self.rows: list[Pixels] = []

    def portrait(self, photo: Photo) -> Portrait:
        """Take a photograph apart."""
        return self._repainter.portrait(photo.pixels, self._worker.reconstruct(photo)[0])

    def edits(self, portrait: Portrait) -> None:
        """A row of a photograph's edits, the photograph first."""
        own = portrait.capture.arkit[0]
        wanted = [own] + [_asked(edit, own) for edit in EDITS]
        self._append(portrait, np.stack(wanted))

    def pair(self, portraits: Sequence[Portrait], driver: Capture) -> None:
        """A row of what a driver shows, and one of each photograph that does the same."""
        rows = driven_expressions(driver)
        moments = rows[_telling_moments(rows)]
        self.rows.append(np.concatenate(list(self._heads(moments)), axis=1))
        for portrait in portraits:
            self._append(portrait, moments)

    def _append(self, portrait: Portrait, expressions: Floats) -> None:
        pictures = self._repainter.paint(portrait, expressions)
        self.rows.append(np.concatenate([_close(picture, portrait) for picture in pictures], axis=1))

    def _heads(self, expressions: Floats) -> Pixels:
        """Grey heads (n,S,S,3) that look into the camera."""
        count = len(expressions)
        rotation = torch.tensor(FRONTAL, dtype=torch.float32).expand(count, 3, 3)
        pose = Pose(rotation, torch.tensor(((0.0, 0.05, 0.25),)).expand(count, 3))
        heads = Heads(torch.zeros(count, 1), torch.from_numpy(expressions), pose)
        image = self._grey.draw(self._grey.vertices(heads)).image
        return np.asarray((image * 255).byte().numpy())


def _asked(edit: str, own: Floats) -> Floats:
    return wanted_expression(edit, start=own) if "=" in edit else wanted_expression(emotion=edit)


def _telling_moments(rows: Floats) -> npt.NDArray[np.int64]:
    """Of as many equal stretches, the frame of each that is least like the mean."""
    away = np.abs(rows - rows.mean(0)).sum(1)
    stretches = np.array_split(np.arange(len(rows)), _MOMENTS)
    return np.array([part[away[part].argmax()] for part in stretches if len(part)])


def _close(picture: Pixels, portrait: Portrait) -> Pixels:
    """The face and a little around it."""
    region, reach = portrait.region, portrait.region.width * 0.55
    left, top = round(region.x - reach), round(region.y - reach)
    right, bottom = round(region.x + reach), round(region.y + reach)
    close = Image.fromarray(picture).crop((left, top, right, bottom))
    return np.asarray(close.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _photos(paths: list[Path]) -> list[Photo]:
    if paths:
        return [read_image(path) for path in paths]
    astronaut = Photo(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    return [astronaut, Photo(_synthetic())]


def _synthetic() -> Pixels:
    faces = SyntheticFaces(load_head(), ExpressionSampler(None), TRAINING, seed=_SEED)
    chosen: Pixels = faces.batch(range(_NUMBER, _NUMBER + 1)).images[0].numpy()
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("edits", "pairs"))
    parser.add_argument("photos", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--driver", type=Path, action="append", default=[])
    parser.add_argument("--painter", type=Path, default=resource_path(SHIPPED))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sheet = Sheet(options.painter)
    portraits = [sheet.portrait(photo) for photo in _photos(options.photos)]
    if options.what == "edits":
        for portrait in portraits:
            sheet.edits(portrait)
    for driver in options.driver:
        sheet.pair(portraits, read_take(driver, sheet.head, announce=print))
    write_image(options.out, np.concatenate(sheet.rows), quality=88)


if __name__ == "__main__":
    main()
