"""Paints the face of a photograph anew, with another expression.

The painter (128² or so) tells what changes: what a mouth that opens shows, where skin folds and shadows fall.
All that the photograph shows already is carried along with the mesh at the photograph's own sharpness, and
changed by the difference of two painted pictures: of the face as it is to be, and of the face as it is,
carried along likewise. Where the painter was wrong about the face as it is, it counts less. So a face that
keeps its expression stays as it was, to the last pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d._threads import one_thread
from recon3d.capture import Capture
from recon3d.encoder.crop import face_region
from recon3d.face._crop import Region
from recon3d.head import HeadModel
from recon3d.synthesis.carry import Carrier
from recon3d.synthesis.geometry import in_cut_out
from recon3d.synthesis.painter import FacePainter
from recon3d.synthesis.paste import Pixels, cut, paste
from recon3d.synthesis.samples import Samples
from recon3d.synthesis.scene import Photograph, Scene, SceneBuilder

Floats = npt.NDArray[np.float32]

#: Share of the cut-out's pixels that the painter is shown within the face: the most that it learned with.
_SHARE = 0.25
#: Pictures painted at once.
_BATCH = 8
#: Most pixels across a cut-out that is worked on; sharper photographs stay sharp where nothing moves.
LARGEST = 1024
LARGEST_IN_CLIPS = 512
#: Difference, sRGB, by which the painter is half wrong about the face as it is.
_WRONG = 0.12
_MOUTH = ("mouth_inside", "teeth", "tongue")
#: Of the choice of pixels: the same photograph is painted the same way every time.
_SEED = 0


@dataclass(frozen=True, eq=False)
class Portrait:
    """A photograph's face, taken apart to be painted anew.

    Attributes:
        frame: (H,W,3) the photograph.
        capture: What was found in it.
        region: Of the cut-out.
        photograph: As the painter sees it.
        given: (3,R,R) the cut-out, sRGB.
        layers: (8,R,R) what is carried over: the cut-out, how far the painter is believed (1), what it makes
            of the face as it is times that (3), and ones.
        carrier: Carries them.
    """

    frame: Pixels
    capture: Capture
    region: Region
    photograph: Photograph
    given: Tensor
    layers: Tensor
    carrier: Carrier


class Repainter:
    """Repaints faces with other expressions. Not thread-safe."""

    def __init__(self, head: HeadModel, painter: FacePainter, largest: int = LARGEST) -> None:
        """Repaint with a painter.

        Args:
            head: The head model of the captures.
            painter: Learned with renders of that head.
            largest: Pixels across a cut-out, at most.
        """
        self.head, self._painter, self._largest = head, painter, largest
        self._scenes = SceneBuilder(head, painter.config.size, (_SHARE, _SHARE), telling=False)

    @torch.inference_mode()
    def portrait(self, frame: Pixels, capture: Capture) -> Portrait:
        """Take a photograph apart.

        Args:
            frame: (H,W,3) uint8 sRGB.
            capture: One of its faces.
        """
        with one_thread():
            seen = self._seen(capture, capture.expression[:1], capture.pose[:1])
            marks = self.head.landmarks(_projected(capture, seen), "mediapipe478")[0, :, :2]
            region = face_region(marks.numpy())
            own = in_cut_out(seen, capture.focal, capture.principal, region)
            size = self._size(region)
            given = cut(frame, region, size)
            small = F.interpolate(given[None], (self._painter.config.size,) * 2, mode="area")
            points = self.head.landmarks(self._scenes.painter.camera.project(own), "mediapipe478")
            points = points / self._painter.config.size
            chance = torch.Generator().manual_seed(_SEED)
            scene, photograph = self._scenes.own(small, points, own, chance)
            painted = _resized(self._paint(scene), size)[0]
            belief = _belief(given, painted)
            layers = torch.cat((given, belief, belief * painted, torch.ones_like(belief)))
            carrier = self._carrier(own, size)
        return Portrait(frame, capture, region, photograph, given, layers, carrier)

    @torch.inference_mode()
    def paint(self, portrait: Portrait, expressions: Floats, pose: Floats | None = None) -> Iterator[Pixels]:
        """Paint it with other expressions.

        Args:
            portrait: Of ``portrait``.
            expressions: (T,52) ARKit units in [0,1].
            pose: (T,J,3) axis-angle, if the head is to move, too.

        Yields:
            (H,W,3) uint8 sRGB, one for each expression.
        """
        still = portrait.capture.pose[:1]
        for start in range(0, len(expressions), _BATCH):
            some = expressions[start : start + _BATCH]
            turned = np.repeat(still, len(some), 0) if pose is None else pose[start : start + _BATCH]
            with one_thread():
                change, hidden = self._change(portrait, some, turned)
                frames = [
                    paste(portrait.frame, portrait.region, one, mask)
                    for one, mask in zip(change, hidden, strict=True)
                ]
            yield from frames

    def _change(self, portrait: Portrait, expressions: Floats, pose: Floats) -> tuple[Tensor, Tensor]:
        """What changes in the cut-out, (B,3,R,R), and where, (B,1,R,R)."""
        capture, size = portrait.capture, portrait.given.shape[-1]
        seen = self._seen(capture, expressions, pose)
        moved = in_cut_out(seen, capture.focal, capture.principal, portrait.region)
        scene = self._scenes.other(_repeated(portrait.photograph, len(moved)), moved)
        painted = _resized(self._paint(scene), size)
        carried = portrait.carrier.carry(portrait.layers, self._pixels(moved, size))
        given, belief, before, shown = carried.split((3, 1, 3, 1), dim=1)
        new = given + (belief * painted - before) + (1 - shown) * painted
        hidden = F.interpolate(scene.hidden, (size, size), mode="bilinear", align_corners=False)
        return new.clamp(0, 1) - portrait.given, hidden

    def _paint(self, scene: Scene) -> Tensor:
        painted: Tensor = self._painter(scene.geometry, scene.shown, scene.known, scene.appearance)
        return painted

    def _seen(self, capture: Capture, expressions: Floats, pose: Floats) -> Tensor:
        """Heads before the camera, (B,V,3) m."""
        shape = torch.from_numpy(capture.shape).expand(len(expressions), -1)
        posed = self.head(shape, torch.from_numpy(expressions), torch.from_numpy(pose))
        seen: Tensor = posed.vertices + torch.from_numpy(capture.translation[0])
        return seen

    def _carrier(self, own: Tensor, size: int) -> Carrier:
        """What carries over pixels of a head (1,V,3) of ``in_cut_out``."""
        faces = self._scenes.painter.faces
        inside = self.head.within(*_MOUTH)[faces].all(1)
        return Carrier(self._pixels(own, size)[0], faces, size, inside, self.head.within("nose"))

    def _pixels(self, vertices: Tensor, size: int) -> Tensor:
        """Heads of ``in_cut_out`` in a picture of ``size`` px, (B,V,3)."""
        pixels = self._scenes.painter.camera.project(vertices)
        scale = size / self._painter.config.size
        return pixels * torch.tensor((scale, scale, 1.0))

    def _size(self, region: Region) -> int:
        """Pixels across the cut-out: the painter's times a power of two, as sharp as the photograph."""
        own = self._painter.config.size
        doublings = math.ceil(math.log2(max(region.width / own, 2)))
        return min(own << doublings, max(own, self._largest // own * own))


def _belief(given: Tensor, painted: Tensor) -> Tensor:
    """How far the painter is believed, (1,R,R) in [0,1]: a half where it is off by ``_WRONG``."""
    off = (given - painted).abs().mean(0, keepdim=True)
    return 1 / (1 + (off / _WRONG).square())


def _projected(capture: Capture, seen: Tensor) -> Tensor:
    """Points (B,V,3) before the camera to px of the photograph, depth unchanged."""
    depth = seen[..., 2:].clamp_min(1e-3)
    pixels = seen[..., :2] * (capture.focal / depth) + torch.from_numpy(capture.principal).to(seen)
    return torch.cat((pixels, depth), dim=-1)


def _repeated(photograph: Photograph, count: int) -> Photograph:
    samples = photograph.samples
    return Photograph(
        photograph.pictures.expand(count, -1, -1, -1),
        photograph.points.expand(count, -1, -1),
        Samples(
            samples.triangle.expand(count, -1),
            samples.weights.expand(count, -1, -1),
            samples.colors.expand(count, -1, -1),
            samples.valid.expand(count, -1),
        ),
        photograph.drawn.expand(count, -1, -1),
        photograph.telling.expand(count, -1, -1),
    )


def _resized(pictures: Tensor, size: int) -> Tensor:
    return F.interpolate(pictures, (size, size), mode="bicubic", align_corners=False)
