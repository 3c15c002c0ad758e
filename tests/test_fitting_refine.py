"""Photometric refinement: toward what the picture shows, and never far from the landmarks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from torch import Tensor

import recon3d
from recon3d.face import open_face_source
from recon3d.fitting import (
    FitResult,
    FitState,
    LandmarkSolver,
    Observed,
    default_focal,
    guess_from_scores,
)
from recon3d.fitting._refine_colors import ColorReader, View
from recon3d.fitting._refine_scene import cut_out
from recon3d.fitting.refine import PhotoRefiner, RefineSettings
from recon3d.head import HeadModel
from recon3d.render.camera import Camera

ASTRONAUT: npt.NDArray[np.uint8] = skimage.data.astronaut()

#: The landmarks weigh next to nothing.
_LOOSE = RefineSettings(hold=0.002, jaw=0, slack=9.0)


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> LandmarkSolver:
    """Its solver."""
    return LandmarkSolver(head)


@pytest.fixture(scope="module")
def seen() -> Observed:
    """What the astronaut's face shows."""
    (face,) = open_face_source("mediapipe").find(ASTRONAUT)
    assert face.scores is not None
    points = torch.from_numpy(face.landmarks[None, :, :2].copy())
    camera = Camera.create(default_focal(face.landmarks, (512, 512)), (512, 512))
    guess, confidence = guess_from_scores(torch.from_numpy(face.scores[None]))
    return Observed(points, camera.focal, camera.principal, guess, confidence)


def fitted(solver: LandmarkSolver, seen: Observed) -> FitResult:
    """The landmarks' own solution."""
    return solver.fit(seen.pixels, seen.focal, seen.principal, guess=seen.guess, confidence=seen.confidence)


def points_of(head: HeadModel, seen: Observed, state: FitState) -> Tensor:
    """The head's landmarks in the picture, (N,2) px."""
    shape = torch.zeros(1, head.num_shape)
    shape[:, : state.shape.shape[1]] = state.shape
    verts = head.unposed(shape, state.expression) @ state.rotation.mT + state.translation[:, None]
    camera = Camera(seen.focal, seen.principal, (512, 512))
    return camera.project(head.landmarks(verts, "mediapipe478"))[0, :, :2]


def residual(solver: LandmarkSolver, seen: Observed, state: FitState) -> float:
    """Root mean square distance to the landmarks, in face sizes."""
    problem = solver.problem(seen.pixels, seen.focal, seen.principal)
    return float(problem.quality(problem.evaluate(state))[0])


def test_a_real_photograph(head: HeadModel, solver: LandmarkSolver, seen: Observed) -> None:
    fit = fitted(solver, seen)
    refiner = PhotoRefiner(head, solver)
    found, again = (refiner.refine(ASTRONAUT, seen, fit.state) for _ in range(2))
    assert found.after < 0.97 * found.before
    # Equal but for rounding, which in torch's matrix products varies with where arrays lie in memory.
    torch.testing.assert_close(found.state.expression, again.state.expression, atol=0.02, rtol=0)
    assert residual(solver, seen, found.state) <= RefineSettings().slack * float(fit.residual) + 1e-6
    assert found.state.expression.min() >= 0 and found.state.expression.max() <= 1
    moved = points_of(head, seen, found.state) - points_of(head, seen, fit.state)
    assert moved.norm(dim=1).mean() < 1.5


@pytest.mark.parametrize("offset", [4.0, -4.0])
def test_the_picture_pulls_a_head_back_that_was_put_aside(
    head: HeadModel, solver: LandmarkSolver, seen: Observed, offset: float
) -> None:
    """All landmarks are moved by 4 px to one side: no face is symmetric there."""
    aside = seen.pixels + torch.tensor([offset, 0.0])
    wrong = Observed(aside, seen.focal, seen.principal, seen.guess, seen.confidence)
    right, start = fitted(solver, seen).state, fitted(solver, wrong).state
    found = PhotoRefiner(head, solver, _LOOSE).refine(ASTRONAUT, wrong, start)
    assert found.after < 0.8 * found.before
    true = points_of(head, seen, right)
    before, after = (float((points_of(head, seen, s) - true)[:, 0].mean()) for s in (start, found.state))
    assert abs(before) > 3.5 and abs(after) < 0.75 * abs(before)


@pytest.mark.parametrize("slack", [1.02, 1.1])
def test_landmarks_bound_it(head: HeadModel, solver: LandmarkSolver, seen: Observed, slack: float) -> None:
    fit = fitted(solver, seen)
    settings = RefineSettings(hold=0.002, jaw=0, slack=slack)
    found = PhotoRefiner(head, solver, settings).refine(ASTRONAUT, seen, fit.state)
    loose = PhotoRefiner(head, solver, _LOOSE).refine(ASTRONAUT, seen, fit.state)
    assert residual(solver, seen, loose.state) > 1.1 * float(fit.residual)
    assert residual(solver, seen, found.state) <= slack * float(fit.residual) + 1e-6


@pytest.mark.parametrize("kind", ["grey", "noise"])
def test_a_picture_that_tells_nothing_changes_little(
    head: HeadModel, solver: LandmarkSolver, seen: Observed, kind: str
) -> None:
    pixels = np.full((512, 512, 3), 128, np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    start = fitted(solver, seen).state
    found = PhotoRefiner(head, solver).refine(pixels, seen, start)
    assert found.after <= found.before
    apart = points_of(head, seen, found.state) - points_of(head, seen, start)
    assert float(apart.norm(dim=1).mean()) < 1.5


def test_a_face_that_is_outside_the_picture_stays(
    head: HeadModel, solver: LandmarkSolver, seen: Observed
) -> None:
    start = fitted(solver, seen).state
    found = PhotoRefiner(head, solver).refine(np.zeros((4, 4, 3), np.uint8), seen, start)
    assert torch.equal(found.state.expression, start.expression)


def test_the_call_refines_when_asked() -> None:
    plain, refined = (recon3d.reconstruct(ASTRONAUT, refine=refine)[0] for refine in (False, True))
    apart = np.abs(plain.landmarks68 - refined.landmarks68).max()
    assert 0.05 < apart < 6


def test_the_painting_feels_what_is_wrong_in_both_halves_alike(
    head: HeadModel, solver: LandmarkSolver, seen: Observed
) -> None:
    """All landmarks are moved up by 4 px: colours that are read off the picture say little of it."""
    above = seen.pixels - torch.tensor([0.0, 4.0])
    wrong = Observed(above, seen.focal, seen.principal, seen.guess, seen.confidence)
    right, start = fitted(solver, seen).state, fitted(solver, wrong).state
    true = points_of(head, seen, right)

    def height(state: FitState) -> float:
        return float((points_of(head, seen, state) - true)[:, 1].mean())

    plain, painted = (
        PhotoRefiner(head, solver, replace(_LOOSE, pace=0.2, paint=paint))
        .refine(ASTRONAUT, wrong, start)
        .state
        for paint in (0.0, 60.0)
    )
    assert abs(height(painted)) < abs(height(plain)) - 0.1 < abs(height(start)) - 0.2


def test_colours_follow_the_head(head: HeadModel, solver: LandmarkSolver, seen: Observed) -> None:
    """Their gradient is what reading them elsewhere gives."""
    scene = cut_out(ASTRONAUT, seen, 128, 6)
    reader = ColorReader(head)
    state = fitted(solver, seen).state
    shape = torch.zeros(1, head.num_shape)
    shape[:, : state.shape.shape[1]] = state.shape
    verts = head.unposed(shape, state.expression) @ state.rotation.mT + state.translation[:, None]
    look = reader.read(scene, View.of(verts, head.faces, scene))
    inner = reader.weight(scene, View.of(verts, head.faces, scene)) > 0.5

    def mean_colour(aside: Tensor) -> Tensor:
        view = View.of(verts + aside * torch.tensor([1.0, 0, 0]), head.faces, scene)
        return reader.follow(scene, view, look)[inner].mean(1)

    aside = torch.zeros((), requires_grad=True)
    probe = torch.linspace(-1, 1, int(inner.sum()))
    (gradient,) = torch.autograd.grad(mean_colour(aside) @ probe, aside)
    with torch.no_grad():
        ahead, back = (mean_colour(torch.tensor(step)) @ probe for step in (1e-3, -1e-3))
    assert gradient.item() == pytest.approx(float(ahead - back) / 2e-3, rel=0.15)
