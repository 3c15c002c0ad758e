"""Photometric refinement: after the landmarks, the picture itself corrects shape, pose and expression.

Analysis by synthesis. The face's colours are read off the photograph through the head as it lies, both halves
averaged and the light divided out (recon3d.render.lighting); the head is drawn with them, and moved so that
the drawing comes nearer to the photograph. What does not fit at all, such as hair or a hand before the face,
is told by its residual and loses its influence (S. Geman, D. McClure, 1987). Landmarks and priors stay in it
as the quadratic form that they are around their own solution: its Cholesky factor is also the measure in
which steps are taken, so that all unknowns move at their own pace.

Averaging both halves is what makes the drawing differ from the photograph: colours that are read off each
point itself would fit wherever the head lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recon3d.fitting._state import FitState
from recon3d.fitting.solver import LandmarkSolver, Observed
from recon3d.head import HeadModel
from recon3d.render.camera import Camera
from recon3d.render.lighting import fit_light, irradiance
from recon3d.render.maps import Surface
from recon3d.render.rasterize import interpolate
from recon3d.render.shading import vertex_normals

Pixels = npt.NDArray[np.uint8]

#: Regions whose colours are compared, and those that are left out although the face holds them.
_REGIONS, _LEFT_OUT = ("face", "eyeballs"), ("ears", "mouth_inside", "teeth", "tongue", "neck", "scalp")
#: Part of a vertex's colour that is its own; the rest is its neighbours' mean.
_OWN = 0.8
#: Cosine to the camera from which on a vertex shows its colour, and depth (m) by which it may be hidden.
_GRAZING, _HIDDEN = 0.15, 0.004
#: Of Adam (D. Kingma, J. Ba, 2015), with one second moment for all unknowns.
_MOMENTS = (0.9, 0.99)


@dataclass(frozen=True)
class RefineSettings:
    """How to refine.

    Attributes:
        side: Size of the picture that is compared, px: the face fills about four fifths of it.
        blur: Times that it is blurred by a box of 3 x 3 px.
        strength: Weight of the picture against landmarks and priors.
        hold: Weight of these.
        rounds: How often colours and light are read anew.
        steps: Steps a round.
        pace: Size of a step.
        slack: The landmarks' residual may grow by this factor at most.
    """

    side: int = 128
    blur: int = 2
    strength: float = 40.0
    hold: float = 0.02
    rounds: int = 3
    steps: int = 20
    pace: float = 0.06
    slack: float = 1.2


@dataclass(frozen=True)
class Refined:
    """A refined face.

    Attributes:
        state: Its unknowns (batch 1).
        before: Photometric error of the face before, and ...
        after: ... after: mean distance of the sRGB colours in [0,1] over the face, at most 0.3 a pixel, each
            with colours and light read anew.
    """

    state: FitState
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class _Scene:
    """The photograph, cut out around a face."""

    picture: Tensor  # (S,S,3) linear
    inside: Tensor  # (S,S) bool: within the photograph
    camera: Camera


@dataclass(frozen=True, eq=False)
class _Look:
    """Colours and light of a face."""

    albedo: Tensor  # (V,3) linear
    light: Tensor  # (9,3)
    faces: Tensor  # (F,) bool: triangles that are compared


class PhotoRefiner:
    """Refines faces of one head model. Holds what does not change from face to face."""

    def __init__(
        self, head: HeadModel, solver: LandmarkSolver, settings: RefineSettings | None = None
    ) -> None:
        """Use a head model, and the solver that its faces came from."""
        self._head, self._solver = head, solver
        self._settings = settings or RefineSettings()
        self._used = _used_vertices(head)
        self._links = _links(head.faces)

    def refine(self, pixels: Pixels, seen: Observed, state: FitState) -> Refined:
        """Refine one face.

        Args:
            pixels: (H,W,3) uint8 photograph.
            seen: What the landmark solver was told of this face (batch 1).
            state: Its solution (batch 1).
        """
        settings = self._settings
        scene = self._cut(pixels, seen)
        before = self._error(scene, state)
        problem, matrix = self._solver.normal_equations(seen, state)
        factor = torch.linalg.cholesky(_conditioned(matrix[0]))
        moves = torch.zeros(len(factor), dtype=torch.float64)
        current, optimizer = state, _Adam(settings.pace)
        for _ in range(settings.rounds):
            look = self._read(scene, current)
            scale = self._scale(scene, look, current)
            for _ in range(settings.steps):
                leaf = moves.clone().requires_grad_()
                moved = state.moved(_unwhiten(factor, leaf), bounded=problem.bounded)
                loss = self._cost(scene, look, moved, scale) + 0.5 * settings.hold * leaf.square().sum()
                moves = optimizer.step(moves, torch.autograd.grad(loss, leaf)[0])
            current = state.moved(_unwhiten(factor, moves), bounded=problem.bounded)
        limit = settings.slack * problem.quality(problem.evaluate(state))[0]
        while bool(problem.quality(problem.evaluate(current))[0] > limit) and float(moves.norm()) > 1e-3:
            moves = 0.7 * moves
            current = state.moved(_unwhiten(factor, moves), bounded=problem.bounded)
        after = self._error(scene, current)
        if not after < before:
            return Refined(state, before, before)
        return Refined(current, before, after)

    def _cut(self, pixels: Pixels, seen: Observed) -> _Scene:
        """Cut out and shrink the square around the landmarks."""
        points, side = seen.pixels[0], self._settings.side
        low, high = points.amin(0), points.amax(0)
        middle, half = (low + high) / 2, 0.62 * float((high - low).max())
        left, top = (middle - half).tolist()
        box = (left, top, left + 2 * half, top + 2 * half)
        picture = _resized(pixels, box, side)
        linear = (torch.from_numpy(picture).float() / 255).square().permute(2, 0, 1)[None]
        for _ in range(self._settings.blur):
            linear = F.avg_pool2d(F.pad(linear, (1, 1, 1, 1), mode="replicate"), 3, 1)
        scale = side / (2 * half)
        centres = (torch.arange(side) + 0.5) / scale
        across = (centres + left > 0) & (centres + left < pixels.shape[1])
        down = (centres + top > 0) & (centres + top < pixels.shape[0])
        corner = torch.tensor([left, top])
        camera = Camera(seen.focal * scale, (seen.principal - corner) * scale, (side, side))
        return _Scene(linear[0].permute(1, 2, 0).contiguous(), down[:, None] & across, camera)

    def _vertices(self, state: FitState) -> Tensor:
        shape = F.pad(state.shape, (0, self._head.num_shape - state.shape.shape[1]))
        unposed = self._head.unposed(shape, state.expression)
        return unposed @ state.rotation.mT + state.translation[:, None]

    @torch.no_grad()
    def _read(self, scene: _Scene, state: FitState) -> _Look:
        """Read colours and light off the photograph, in turns."""
        verts, faces = self._vertices(state), self._head.faces
        surface = Surface.of(verts, faces, scene.camera)
        normals = vertex_normals(verts, faces)[0]
        pixels = surface.verts_px[0]
        colour = _sample(scene.picture, pixels[:, :2])
        weight = self._weight(scene, surface, normals)
        skin = torch.nonzero(weight > 0).squeeze(1)
        albedo = self._head.colors.square()
        light = torch.zeros(9, 3)
        mirror = self._head.mirror
        for _ in range(3):
            light = fit_light(normals[skin], albedo[skin], colour[skin], weight[skin])
            falls = irradiance(normals, light).clamp_min(0.03)
            share = (weight * falls.mean(1))[:, None]
            own = colour / falls * share
            little = 0.02 * (share + share[mirror]).mean() + 1e-6
            albedo = (own + own[mirror] + little * albedo) / (share + share[mirror] + little)
            albedo = torch.lerp(_neighbours(albedo, self._links), albedo, _OWN).clamp(0.005, 1.5)
        return _Look(albedo, light, (weight > 0)[faces].all(1))

    def _weight(self, scene: _Scene, surface: Surface, normals: Tensor) -> Tensor:
        """(V,) how well each vertex shows its colour; 0 where it is hidden."""
        verts, pixels = surface.verts_cam[0], surface.verts_px[0]
        facing = -(normals * F.normalize(verts, dim=1)).sum(1)
        column, row = (pixels[:, k].long().clamp(0, self._settings.side - 1) for k in (0, 1))
        nearest = surface.fragments.depth[0][row, column]
        seen = (nearest > 0) & (pixels[:, 2] < nearest + _HIDDEN) & scene.inside[row, column] & self._used
        return (facing - _GRAZING).clamp(0, 1) * seen

    def _residual(self, scene: _Scene, look: _Look, state: FitState) -> Tensor:
        """(n,) squared distance of drawing and photograph, sRGB, at the pixels that are compared."""
        verts, faces = self._vertices(state), self._head.faces
        surface = Surface.of(verts, faces, scene.camera)
        lit = look.albedo * irradiance(vertex_normals(verts, faces)[0], look.light)
        drawn = interpolate(lit[None], faces, surface.fragments)
        # Over the photograph, so that outlines before what is not drawn are felt rightly, too.
        drawn = surface.smooth(torch.where(surface.fragments.mask[..., None], drawn, scene.picture))[0]
        compared = torch.cat((look.faces, look.faces.new_zeros(1)))[surface.fragments.triangle[0]]
        compared &= scene.inside
        apart = drawn[compared].clamp_min(1e-4).sqrt() - scene.picture[compared].clamp_min(1e-4).sqrt()
        return apart.square().sum(-1)

    def _cost(self, scene: _Scene, look: _Look, state: FitState, scale: Tensor) -> Tensor:
        squared = self._residual(scene, look, state) / scale.square()
        return self._settings.strength * (squared / (1 + squared)).sum() / max(1, len(squared))

    @torch.no_grad()
    def _scale(self, scene: _Scene, look: _Look, state: FitState) -> Tensor:
        """Distance from which on a pixel loses its influence."""
        residual = self._residual(scene, look, state)
        return 1.5 * residual.median().sqrt().clamp_min(0.02) if len(residual) else torch.tensor(1.0)

    @torch.no_grad()
    def _error(self, scene: _Scene, state: FitState) -> float:
        residual = self._residual(scene, self._read(scene, state), state)
        return float(residual.sqrt().clamp_max(0.3).mean()) if len(residual) else float("nan")


class _Adam:
    """Adam with one second moment for all unknowns: whitened, they have one measure."""

    def __init__(self, pace: float) -> None:
        self._pace, self._count = pace, 0
        self._first: Tensor | float = 0.0
        self._second = 0.0

    def step(self, values: Tensor, gradient: Tensor) -> Tensor:
        slow, slower = _MOMENTS
        self._count += 1
        self._first = slow * self._first + (1 - slow) * gradient
        self._second = slower * self._second + (1 - slower) * float(gradient.square().mean())
        first = self._first / (1 - slow**self._count)
        second = self._second / (1 - slower**self._count)
        return values - self._pace * first / (second**0.5 + 1e-8)


def _unwhiten(factor: Tensor, moves: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor.T, moves[:, None], upper=True).T.float()


def _conditioned(matrix: Tensor) -> Tensor:
    wide = matrix.double()
    return wide + torch.diag(wide.diagonal() * 1e-3 + 1e-9)


def _used_vertices(head: HeadModel) -> Tensor:
    """(V,) bool: what is compared. Heads without these regions are compared whole."""
    if "face" not in head.regions:
        return torch.ones(head.num_vertices, dtype=torch.bool)
    none = np.zeros(head.num_vertices, bool)
    left_out = np.any([head.regions.get(name, none) for name in _LEFT_OUT], axis=0)
    face, eyes = (head.regions.get(name, none) for name in _REGIONS)
    return torch.from_numpy((face & ~left_out) | eyes)


def _links(faces: Tensor) -> Tensor:
    """(2,L) int64: every vertex and each of its neighbours."""
    pairs = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    return torch.unique(torch.cat((pairs, pairs.flip(1))), dim=0).T


def _neighbours(values: Tensor, links: Tensor) -> Tensor:
    """Mean of each vertex's neighbours, (V,C)."""
    count = torch.zeros(len(values)).index_add_(0, links[0], torch.ones(links.shape[1]))
    total = torch.zeros_like(values).index_add_(0, links[0], values[links[1]])
    return total / count.clamp_min(1)[:, None]


def _sample(picture: Tensor, points: Tensor) -> Tensor:
    """Look a square picture (S,S,3) up at points (n,2) px."""
    grid = (points / picture.shape[0] * 2 - 1)[None, None]
    image = picture.permute(2, 0, 1)[None]
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0].T


def _resized(pixels: Pixels, box: tuple[float, float, float, float], side: int) -> Pixels:
    """Resize a square of a photograph, which may reach beyond it, to (side, side, 3)."""
    image = Image.fromarray(pixels)
    shrink = int((box[2] - box[0]) / side)
    if shrink > 1:  # by a box filter first: sampling alone would flicker
        image = image.reduce(shrink)
        box = tuple(value / shrink for value in box)  # type: ignore[assignment]
    shown = image.transform((side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    return np.array(shown, np.uint8)
