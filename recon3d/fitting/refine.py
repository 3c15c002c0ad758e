"""Photometric refinement: after the landmarks, the picture itself corrects shape, pose and expression.

Analysis by synthesis. The face's colours are read off the photograph through the head as it lies, both halves
averaged and the light divided out (_refine_colors.py); the head is drawn with them, and moved so that the
drawing comes nearer to the photograph. What does not fit at all, such as hair or a hand before the face,
is told by its residual and loses its influence (S. Geman, D. McClure, 1987). Landmarks and priors stay in it
as the quadratic form that they are around their own solution: its Cholesky factor is also the measure in
which steps are taken, so that all unknowns move at their own pace.

Averaging both halves is what makes the drawing differ from the photograph: colours that are read off each
point itself would fit wherever the head lies. And the colours follow the head: they are read anew at every
step, and the gradient goes through the reading (variable projection: G. Golub, V. Pereyra, 1973). Held
colours would remember where the head lay when they were read, and draw it back there.

What is wrong in both halves alike is told by a second drawing, in the head's own painting
(_refine_paint.py). The jaw line, of which neither says much, is held where the landmarks put it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon3d.fitting._problem import Problem
from recon3d.fitting._refine_colors import ColorReader, Look, View
from recon3d.fitting._refine_paint import Painter
from recon3d.fitting._refine_scene import Pixels, Scene, cut_out
from recon3d.fitting._state import FitState
from recon3d.fitting.controls import Controls
from recon3d.fitting.solver import LandmarkSolver, Observed
from recon3d.head import HeadModel
from recon3d.head.contour import JAW_POINTS, landmarks68
from recon3d.render.lighting import irradiance
from recon3d.render.rasterize import interpolate

#: Of Adam (D. Kingma, J. Ba, 2015), with one second moment for all unknowns.
_MOMENTS = (0.9, 0.99)
#: A pixel loses its influence from this many median distances on, and from no less than that (sRGB).
_OUTLIER, _LEAST = 1.5, 0.02
#: Distance at which the photometric error stops to count.
_WORST = 0.3


@dataclass(frozen=True)
class RefineSettings:
    """How to refine.

    Attributes:
        side: Size of the picture that is compared, px: the face fills about four fifths of it.
        blur: Times that it is blurred by a box of 3 x 3 px.
        strength: Weight of the drawing in colours that are read off the picture.
        paint: Weight of the drawing in the head's own painting.
        hold: Weight of landmarks and priors.
        jaw: Weight of the jaw line's squared motion in the picture that is compared, px.
        rounds: How often the light is read anew, and with it what is compared.
        steps: Steps a round.
        pace: Size of a step.
        slack: The landmarks' residual may grow by this factor at most.
    """

    side: int = 128
    blur: int = 2
    strength: float = 40.0
    paint: float = 20.0
    hold: float = 0.01
    jaw: float = 0.3
    rounds: int = 3
    steps: int = 20
    pace: float = 0.06
    slack: float = 1.4


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


class PhotoRefiner:
    """Refines faces of one head model. Holds what does not change from face to face."""

    def __init__(
        self, head: HeadModel, solver: LandmarkSolver, settings: RefineSettings | None = None
    ) -> None:
        """Use a head model, and the solver that its faces came from."""
        self._head, self._solver = head, solver
        self._settings = settings or RefineSettings()
        self._colors = ColorReader(head)
        self._painter = Painter(head, self._colors)

    def refine(self, pixels: Pixels, seen: Observed, state: FitState) -> Refined:
        """Refine one face.

        Args:
            pixels: (H,W,3) uint8 photograph.
            seen: What the landmark solver was told of this face (batch 1).
            state: Its solution (batch 1).
        """
        scene = cut_out(pixels, seen, self._settings.side, self._settings.blur)
        problem, matrix = self._solver.normal_equations(seen, state)
        path = _Path(state, torch.linalg.cholesky(_conditioned(matrix[0])), problem.controls)
        moves = self._descend(scene, path)
        found = self._within_bounds(problem, path, moves)
        before, after = self._error(scene, state), self._error(scene, found)
        return Refined(found, before, after) if after < before else Refined(state, before, before)

    def _descend(self, scene: Scene, path: _Path) -> Tensor:
        """Move the head toward what the picture shows; return how far, whitened."""
        settings = self._settings
        moves, optimizer = path.start(), _Adam(settings.pace)
        jaw = self._jaw(self._view(scene, path.state)) if settings.jaw else None
        for _ in range(settings.rounds):
            guide = self._guide(scene, path.at(moves))
            for _ in range(settings.steps):
                leaf = moves.clone().requires_grad_()
                view = self._view(scene, path.at(leaf))
                loss = self._cost(scene, guide, view) + 0.5 * settings.hold * leaf.square().sum()
                if jaw is not None:
                    loss = loss + settings.jaw * (self._jaw(view) - jaw).square().sum(-1).mean()
                moves = optimizer.step(moves, torch.autograd.grad(loss, leaf)[0])
        return moves

    def _within_bounds(self, problem: Problem, path: _Path, moves: Tensor) -> FitState:
        """Go back until the landmarks are met as they should be."""
        limit = self._settings.slack * problem.quality(problem.evaluate(path.state))[0]
        found = path.at(moves)
        while bool(problem.quality(problem.evaluate(found))[0] > limit) and float(moves.norm()) > 1e-3:
            moves = 0.7 * moves
            found = path.at(moves)
        return found

    def _view(self, scene: Scene, state: FitState) -> View:
        return View.of(state.vertices(self._head), self._head.faces, scene)

    def _jaw(self, view: View) -> Tensor:
        """The jaw line as it is seen, (17,2) px; empty for heads whose landmarks have none."""
        if "ibug68" not in self._head.embeddings:
            return torch.zeros(0, 2)
        return landmarks68(self._head, view.surface.verts_px[..., :2])[0, :JAW_POINTS]

    @torch.no_grad()
    def _guide(self, scene: Scene, state: FitState) -> _Guide:
        """Read colours and light, and from which distance on pixels lose their influence."""
        view = self._view(scene, state)
        look, painted = self._colors.read(scene, view), self._painter.read(scene, view)
        return _Guide(look, self._outlier(scene, look, view), painted, self._outlier(scene, painted, view))

    def _outlier(self, scene: Scene, look: Look, view: View) -> Tensor:
        residual = self._residual(scene, look, view)
        return _OUTLIER * residual.median().sqrt().clamp_min(_LEAST) if len(residual) else torch.tensor(1.0)

    def _cost(self, scene: Scene, guide: _Guide, view: View) -> Tensor:
        """How far both drawings are from the photograph; the colours that are read follow the head."""
        look = replace(guide.look, albedo=self._colors.follow(scene, view, guide.look))
        read = _robust(self._residual(scene, look, view), guide.outlier)
        painted = _robust(self._residual(scene, guide.painted, view), guide.painted_outlier)
        return self._settings.strength * read + self._settings.paint * painted

    def _residual(self, scene: Scene, look: Look, view: View) -> Tensor:
        """(n,) squared distance of drawing and photograph, sRGB, at the pixels that are compared."""
        fragments = view.surface.fragments
        lit = look.albedo * irradiance(view.normals, look.light)
        drawn = interpolate(lit[None], self._head.faces, fragments)
        # Over the photograph, so that outlines before what is not drawn are felt rightly, too.
        drawn = view.surface.smooth(torch.where(fragments.mask[..., None], drawn, scene.picture))[0]
        compared = torch.cat((look.faces, look.faces.new_zeros(1)))[fragments.triangle[0]] & scene.inside
        apart = drawn[compared].clamp_min(1e-4).sqrt() - scene.picture[compared].clamp_min(1e-4).sqrt()
        return apart.square().sum(-1)

    @torch.no_grad()
    def _error(self, scene: Scene, state: FitState) -> float:
        view = self._view(scene, state)
        residual = self._residual(scene, self._colors.read(scene, view), view)
        return float(residual.sqrt().clamp_max(_WORST).mean()) if len(residual) else float("nan")


@dataclass(frozen=True, eq=False)
class _Guide:
    """What the head is drawn with, and the distance (sRGB) at which a pixel of each drawing is an outlier."""

    look: Look
    outlier: Tensor
    painted: Look
    painted_outlier: Tensor


@dataclass(frozen=True, eq=False)
class _Path:
    """Where moves lead: steps from a state, measured by what landmarks and priors make of them.

    Attributes:
        state: Where it starts (batch 1).
        factor: (Q,Q) Cholesky factor of the landmarks' normal equations there.
        controls: Keep the expression within its limits.
    """

    state: FitState
    factor: Tensor
    controls: Controls

    def start(self) -> Tensor:
        """No move, (Q,)."""
        return torch.zeros(len(self.factor), dtype=self.factor.dtype)

    def at(self, moves: Tensor) -> FitState:
        """Return the state after whitened moves (Q,). Differentiable."""
        step = torch.linalg.solve_triangular(self.factor.T, moves[:, None], upper=True).T.float()
        return self.state.moved(step, self.controls)


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


def _robust(squared: Tensor, outlier: Tensor) -> Tensor:
    """Mean of squared distances (n,), each at most 1: in [0,1]."""
    parts = squared / outlier.square()
    return (parts / (1 + parts)).sum() / max(1, len(parts))


def _conditioned(matrix: Tensor) -> Tensor:
    wide = matrix.double()
    return wide + torch.diag(wide.diagonal() * 1e-3 + 1e-9)
