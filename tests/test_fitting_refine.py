"""Photometric refinement: toward what the picture shows, and never far from the landmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from torch import Tensor

from recon3d.face import open_face_source
from recon3d.fitting import FitState, LandmarkSolver, Observed, default_focal, guess_from_scores
from recon3d.fitting.refine import PhotoRefiner, RefineSettings
from recon3d.head import HeadModel, load_head
from recon3d.render.camera import Camera
from recon3d.render.lighting import irradiance
from recon3d.render.rasterize import interpolate, rasterize
from recon3d.render.shading import vertex_normals

Pixels = npt.NDArray[np.uint8]

_FOCAL, _SIZE = 520.0, (320, 320)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    """The open head."""
    return load_head()


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> LandmarkSolver:
    """Its solver."""
    return LandmarkSolver(head)


def state(head: HeadModel, solver: LandmarkSolver, **units: float) -> FitState:
    """A head 0.6 m before the camera, looking a little aside."""
    expression = torch.zeros(1, head.num_expression)
    for name, value in units.items():
        expression[0, head.expression_names.index(name)] = value
    flip = torch.diag(torch.tensor([1.0, -1, -1]))
    cos, sin = np.cos(0.2), np.sin(0.2)
    turn = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=torch.float32)
    rotation = (turn @ flip)[None]
    middle = head.v_template.mean(0)
    return FitState(
        rotation,
        torch.tensor([[0.0, 0, 0.6]]) - (rotation[0] @ middle)[None],
        torch.zeros(1, solver.settings.shapes),
        expression,
    )


def vertices(head: HeadModel, found: FitState) -> Tensor:
    """The head in camera space, (1,V,3)."""
    shape = torch.zeros(1, head.num_shape)
    shape[:, : found.shape.shape[1]] = found.shape
    return head.unposed(shape, found.expression) @ found.rotation.mT + found.translation[:, None]


def photograph(head: HeadModel, found: FitState) -> Pixels:
    """A picture of the head in its own colours, lit from the upper left."""
    camera = Camera.create(_FOCAL, _SIZE)
    verts = vertices(head, found)
    light = torch.zeros(9, 3)
    light[0], light[1], light[2], light[3] = 0.7, -0.15, -0.15, -0.25
    lit = head.colors.square() * irradiance(vertex_normals(verts, head.faces)[0], light)
    drawn = interpolate(lit[None], head.faces, rasterize(camera.project(verts), head.faces, _SIZE))[0]
    return (drawn.clamp(0, 1).sqrt() * 255 + 0.5).byte().numpy()


def observed(head: HeadModel, found: FitState) -> Observed:
    """The landmarks of a head."""
    camera = Camera.create(_FOCAL, _SIZE)
    points = camera.project(head.landmarks(vertices(head, found), "mediapipe478"))[..., :2]
    return Observed(points, camera.focal, camera.principal)


def test_the_picture_moves_the_head_to_where_it_was(head: HeadModel, solver: LandmarkSolver) -> None:
    """The landmarks say that the mouth is shut and the brows rest; the picture says otherwise."""
    true = state(head, solver, jawOpen=0.25, browInnerUp=0.5, mouthSmileLeft=0.3, mouthSmileRight=0.3)
    wrong = state(head, solver, jawOpen=0.12, browInnerUp=0.2)
    seen = observed(head, wrong)
    refiner = PhotoRefiner(head, solver, RefineSettings(hold=0.001, slack=1e6))
    found = refiner.refine(photograph(head, true), seen, wrong)
    assert found.after < 0.7 * found.before
    apart = [
        float((vertices(head, s) - vertices(head, true)).norm(dim=-1).mean()) for s in (wrong, found.state)
    ]
    assert apart[1] < 0.8 * apart[0]
    for name in ("jawOpen", "browInnerUp"):
        unit = head.expression_names.index(name)
        before, after = (float((s.expression - true.expression)[0, unit].abs()) for s in (wrong, found.state))
        assert after < 0.7 * before


def test_landmarks_bound_it(head: HeadModel, solver: LandmarkSolver) -> None:
    true, wrong = state(head, solver, jawOpen=0.4), state(head, solver, jawOpen=0.1)
    seen = observed(head, wrong)
    fit = solver.fit(seen.pixels, seen.focal, seen.principal)
    problem = solver.problem(seen.pixels, seen.focal, seen.principal)
    residuals = []
    for slack in (1.05, 3.0):
        settings = RefineSettings(hold=0.001, slack=slack)
        found = PhotoRefiner(head, solver, settings).refine(photograph(head, true), seen, fit.state)
        residual = float(problem.quality(problem.evaluate(found.state))[0])
        assert residual <= slack * float(fit.residual) + 1e-6
        residuals.append(residual)
    assert residuals[0] < residuals[1]


@pytest.mark.parametrize("kind", ["grey", "noise"])
def test_a_picture_that_tells_nothing_changes_little(
    head: HeadModel, solver: LandmarkSolver, kind: str
) -> None:
    start = state(head, solver, jawOpen=0.1)
    pixels = np.full((320, 320, 3), 128, np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    found = PhotoRefiner(head, solver).refine(pixels, observed(head, start), start)
    assert found.after <= found.before
    assert float((vertices(head, found.state) - vertices(head, start)).norm(dim=-1).mean()) < 0.003


def test_a_face_that_is_outside_the_picture_stays(head: HeadModel, solver: LandmarkSolver) -> None:
    start = state(head, solver)
    seen = observed(head, start)
    found = PhotoRefiner(head, solver).refine(np.zeros((4, 4, 3), np.uint8), seen, start)
    assert torch.equal(found.state.expression, start.expression)


def test_a_real_photograph(head: HeadModel, solver: LandmarkSolver) -> None:
    pixels: Pixels = skimage.data.astronaut()
    (face,) = open_face_source("mediapipe").find(pixels)
    points = torch.from_numpy(face.landmarks[None, :, :2].copy())
    camera = Camera.create(default_focal(face.landmarks, (512, 512)), (512, 512))
    assert face.scores is not None
    seen = Observed(
        points, camera.focal, camera.principal, *guess_from_scores(torch.from_numpy(face.scores[None]))
    )
    fit = solver.fit(points, camera.focal, camera.principal, guess=seen.guess, confidence=seen.confidence)
    refiner = PhotoRefiner(head, solver)
    found, again = (refiner.refine(pixels, seen, fit.state) for _ in range(2))
    assert found.after < 0.99 * found.before
    assert torch.equal(found.state.expression, again.state.expression)
    problem = solver.problem(seen.pixels, seen.focal, seen.principal)
    assert float(problem.quality(problem.evaluate(found.state))[0]) <= 1.2 * float(fit.residual) + 1e-6
    assert found.state.expression.min() >= 0 and found.state.expression.max() <= 1
