"""Pictures of faces whose every parameter is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.face._task import Network
from recon3d.face.landmarks import INPUT_SIZE, NUM_LANDMARKS
from recon3d.head import HeadModel
from recon3d.render.antialias import antialias
from recon3d.render.rasterize import Fragments, blend, images_of, rasterize, scatter, seen
from recon3d.render.shading import vertex_normals
from recon3d.training.expressions import ExpressionSampler, Floats
from recon3d.training.synthetic.canvas import Canvas
from recon3d.training.synthetic.crevices import crevices, draw_strength
from recon3d.training.synthetic.extras import Wardrobe, draw_outfit, dress
from recon3d.training.synthetic.eyes import draw_eyes
from recon3d.training.synthetic.finish import cover, end_close, expose, wear
from recon3d.training.synthetic.people import Identifier, draw_people
from recon3d.training.synthetic.scene import (
    Light,
    View,
    draw_background,
    draw_light,
    draw_shoulders,
    draw_view,
    shadows,
)
from recon3d.training.synthetic.settings import TRAINING, SyntheticSettings
from recon3d.training.synthetic.shade import Makeup, Shader, draw_makeup
from recon3d.training.synthetic.skin import draw_skin

#: Dense landmark on the bridge of the nose, and the head model's point where the neck ends.
_BRIDGE, _NECK = 168, (0.0, -0.165, -0.02)
#: How far before the surface shadows are looked for, m.
_OFF = 0.003


@dataclass(frozen=True, eq=False)
class Faces:
    """B pictures and what they show.

    Attributes:
        images: (B,S,S,3) uint8, sRGB: cut out around the face, eyes level.
        shape: (B,S) identity coefficients that come nearest.
        expression: (B,52) ARKit units.
        rotation: (B,3,3) head to camera, the camera's axis through the face.
        landmarks: (B,478,3) x and y in parts of the picture's side, and depth before (less) or behind
            (more) the middle of the head on the same scale.
        detected: (B,478,3) the same as the landmark network finds them in the picture; the true ones where
            no network is asked.
        present: (B,) bool: there is a face.
    """

    images: Tensor
    shape: Tensor
    expression: Tensor
    rotation: Tensor
    landmarks: Tensor
    detected: Tensor
    present: Tensor


def detect_in_crop(network: Network, pixels: Tensor) -> Tensor:
    """Ask the landmark network about a cut-out (256,256,3) uint8: (478,3), in parts of its side."""
    values = pixels.numpy()[None].astype(np.float32) / np.float32(255)
    return torch.from_numpy(network(values)["Identity"].reshape(NUM_LANDMARKS, 3) / INPUT_SIZE)


class SyntheticFaces:
    """Makes pictures. The same seed and index give the same picture, whatever else is made with it."""

    def __init__(
        self,
        head: HeadModel,
        expressions: ExpressionSampler | None = None,
        settings: SyntheticSettings = TRAINING,
        *,
        seed: int = 0,
        landmarks: Network | None = None,
    ) -> None:
        """Prepare.

        Args:
            head: The open head, or one with the same regions, units and dense landmarks.
            expressions: Where expressions come from.
            settings: How varied the faces are.
            seed: Of everything random.
            landmarks: The face stage's landmark network, to be asked what it sees.
        """
        self._landmark_network = landmarks
        self._head, self._settings, self._seed = head, settings, seed
        self._expressions = expressions or ExpressionSampler()
        self._canvas = Canvas.of(head)
        self._wardrobe = Wardrobe.of(head, self._canvas)
        self._shader = Shader(head, self._wardrobe)
        self._identifier = Identifier(head)

    @torch.no_grad()
    def batch(self, indices: range | list[int]) -> Faces:
        """Make the pictures of these indices."""
        generators = [np.random.default_rng((self._seed, k)) for k in indices]
        rows = np.stack([self._expressions.draw(rng) for rng in generators])
        expression = torch.from_numpy(rows)
        people = draw_people(self._head, self._settings, generators)
        verts = people.vertices(self._head, expression)
        view = draw_view(self._head, verts, self._settings, generators)
        makeups = [self._makeup(row, rng) for row, rng in zip(rows, generators, strict=True)]
        pictures, faces = self._pictures(verts, view, makeups, generators)
        present = [rng.random() >= self._settings.nothing for rng in generators]
        landmarks = self._landmarks(verts, view)
        finished = [
            self._finish(*one) for one in zip(pictures, faces, landmarks, present, generators, strict=True)
        ]
        images = torch.stack(finished)
        return Faces(
            images=images,
            shape=self._identifier.nearest(people),
            expression=expression,
            rotation=view.rotation,
            landmarks=landmarks,
            detected=self._detected(images, landmarks),
            present=torch.tensor(present),
        )

    def _makeup(self, row: Floats, rng: np.random.Generator) -> Makeup:
        skin = draw_skin(self._canvas, row, self._settings, rng)
        return draw_makeup(skin, draw_eyes(rng, plain=skin.plain), rng)

    def _dressed(self, verts: Tensor, generators: list[np.random.Generator]) -> Tensor:
        """(B,W,3) heads with hair and glasses, head space."""
        normals = vertex_normals(verts, self._head.faces)
        bridges = self._head.landmarks(verts, "mediapipe478")[:, _BRIDGE]
        worn = []
        for k, rng in enumerate(generators):
            outfit = draw_outfit(self._wardrobe, self._settings, rng)
            worn.append(dress(verts[k], normals[k], bridges[k], self._wardrobe, outfit))
        return torch.stack(worn)

    def _pictures(
        self, verts: Tensor, view: View, makeups: list[Makeup], generators: list[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Linear pictures (B,3,S,S), and where the head is (B,S,S) bool."""
        placed = view.place(self._dressed(verts, generators))
        faces = self._wardrobe.faces
        pixels = view.camera.project(placed)
        fragments = rasterize(pixels, faces, view.camera.size)
        colors = self._colors(placed, view, fragments, makeups, generators)
        backgrounds = self._backgrounds(view, generators)
        shown = torch.where(fragments.mask[..., None], colors, backgrounds.permute(0, 2, 3, 1))
        smooth = antialias(shown, fragments, pixels, faces)
        return smooth.permute(0, 3, 1, 2).contiguous(), fragments.mask

    def _colors(
        self, placed: Tensor, view: View, fragments: Fragments, makeups: list[Makeup],
        generators: list[np.random.Generator],
    ) -> Tensor:  # fmt: skip
        faces = self._wardrobe.faces
        where, triangle, weights = seen(fragments)
        image = images_of(where, fragments)
        image = torch.zeros_like(where) if image is None else image
        own = blend(torch.cat((placed, vertex_normals(placed, faces)), -1), faces, triangle, weights, image)
        points, normals = own[:, :3], F.normalize(own[:, 3:], dim=1)
        fixed = self._shader.fixed(triangle, weights)
        lights = [draw_light(self._settings, rng) for rng in generators]
        # A little before the surface, so that it does not lie in its own shadow.
        lit = self._lit(points + _OFF * normals, image, placed, lights)
        open_ = self._open(view, fragments, generators).flatten()[where]
        counts = torch.bincount(image, minlength=len(makeups)).tolist()
        parts = [x.split(counts) for x in (triangle, fixed, points, normals, lit, open_)]
        colored = []
        for k, (makeup, light) in enumerate(zip(makeups, lights, strict=True)):
            colored.append(self._shader.colors(makeup, light, *(part[k] for part in parts)))
        return scatter(torch.cat(colored), where, fragments)

    def _open(self, view: View, fragments: Fragments, generators: list[np.random.Generator]) -> Tensor:
        """(B,S,S) how much of the light from all around reaches each pixel."""
        scales = (view.camera.focal / view.translation[:, 2]).tolist()
        drawn = zip(fragments.depth, scales, generators, strict=True)
        return torch.stack([crevices(depth, scale, draw_strength(rng)) for depth, scale, rng in drawn])

    def _lit(self, points: Tensor, image: Tensor, placed: Tensor, lights: list[Light]) -> Tensor:
        """(n,) whether each point sees its picture's lamp; soft lamps cast no shadow."""
        hard = torch.tensor([light.hard for light in lights])
        lit = torch.ones(len(points))
        if bool(hard.any()):
            mine = torch.nonzero(hard[image])[:, 0]
            lamps = torch.stack([light.lamp for light in lights])[hard]
            number = hard.cumsum(0) - 1
            lit[mine] = shadows(points[mine], number[image[mine]], placed[hard], self._wardrobe.faces, lamps)
        return lit

    def _backgrounds(self, view: View, generators: list[np.random.Generator]) -> Tensor:
        """(B,3,S,S) linear."""
        neck = view.camera.project(view.place(torch.tensor(_NECK).expand(len(generators), 1, 3)))[:, 0]
        scale = view.camera.focal / neck[:, 2]
        drawn = []
        for k, rng in enumerate(generators):
            background = draw_background(self._settings.size, rng)
            drawn.append(draw_shoulders(background, neck[k, :2], float(scale[k]), rng))
        return torch.stack(drawn)

    def _finish(
        self, picture: Tensor, face: Tensor, landmarks: Tensor, shown: bool, rng: np.random.Generator
    ) -> Tensor:
        if not shown:
            picture = draw_background(self._settings.size, rng)
            picture = picture.roll(int(rng.integers(self._settings.size)), 2)
        finished = expose(picture, face, rng)
        if rng.random() < self._settings.covered:
            finished = cover(finished, rng)
        finished = wear(finished, rng, self._settings)
        if rng.random() < self._settings.close:
            points = landmarks[:, :2] * self._settings.size
            finished = end_close(finished, points.amin(0), points.amax(0), rng)
        return (finished.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)

    def _detected(self, images: Tensor, landmarks: Tensor) -> Tensor:
        if self._landmark_network is None:
            return landmarks
        return torch.stack([detect_in_crop(self._landmark_network, pixels) for pixels in images])

    def _landmarks(self, verts: Tensor, view: View) -> Tensor:
        points = view.place(self._head.landmarks(verts, "mediapipe478"))
        pixels = view.camera.project(points)
        middle = view.place(torch.zeros(len(verts), 1, 3))[..., 2]
        depth = (points[..., 2] - middle) * (view.camera.focal / middle[:, 0])[:, None]
        return torch.cat((pixels[..., :2], depth[..., None]), dim=-1) / self._settings.size
