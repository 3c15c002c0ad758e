"""The solver's cost and its written-down gradient: against a plain twin, autograd and finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon3d.evaluation.synthetic import Truth, exact_landmarks, random_truth, sparse_expressions
from recon3d.fitting import FitState
from recon3d.fitting._basis import reduce_head
from recon3d.fitting._priors import PriorSettings, add_guess, build_prior
from recon3d.fitting._problem import Problem, Structure
from recon3d.fitting._start import starting_pose
from recon3d.fitting._terms import landmark_pairs, landmark_weights
from recon3d.head import HeadModel, load_head
from recon3d.head.contour import landmarks68
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera

SHAPES = 12
NOISE, OUTLIER = 0.01, 4.0
KINDS = ("mediapipe478", "ibug68")


def make_problem(
    head: HeadModel, kind: str, batch: int = 2, fixed_shape: bool = False
) -> tuple[Problem, FitState, Truth]:
    """A problem in float64, and a state some way off its solution."""
    rng = np.random.default_rng(0)
    truth = random_truth(head, sparse_expressions(batch, rng), rng, shapes=SHAPES, turn=(10, 35, 10))
    structure = Structure.of(reduce_head(head, kind, SHAPES, torch.float64), kind)
    doubles = {
        k: v.double() for k, v in vars(structure).items() if isinstance(v, Tensor) and v.is_floating_point()
    }
    problem = Problem(
        replace(structure, **doubles),
        exact_landmarks(head, truth, kind).double(),
        truth.focal.double(),
        truth.principal.double(),
        noise=NOISE,
        outlier=OUTLIER,
        fixed_shape=fixed_shape,
        bounded=False,
    )
    turn = axis_angle_to_matrix(torch.tensor(rng.normal(0, 0.05, (batch, 3))))
    state = FitState(
        truth.rotation.double() @ turn,
        truth.translation.double() + torch.tensor(rng.normal(0, 0.004, (batch, 3))),
        torch.tensor(rng.normal(0, 0.4, (batch, SHAPES))),
        torch.tensor(rng.uniform(0, 0.4, (batch, 52))),
    )
    return problem, state, truth


@pytest.mark.parametrize("kind", KINDS)
def test_cost_equals_its_plain_twin(head: HeadModel, kind: str) -> None:
    problem, state, truth = make_problem(head, kind)
    seen = problem.evaluate(state)
    exact = load_head(dtype=torch.float64)
    shape = torch.zeros(2, head.num_shape, dtype=torch.float64)
    shape[:, :SHAPES] = state.shape
    vertices = exact.unposed(shape, state.expression) @ state.rotation.mT + state.translation[:, None]
    camera = Camera(truth.focal.double(), truth.principal.double(), (512, 512))
    if kind == "ibug68":
        points = landmarks68(exact, camera.project(vertices)[..., :2])
    else:
        points = camera.project(exact.landmarks(vertices, kind))[..., :2]
    first, second, pair_weights = landmark_pairs(kind)
    for b in range(2):
        marked = problem.pixels[b].numpy()
        unit = NOISE * 0.5 * np.linalg.norm(np.ptp(marked, axis=0))
        off = (points[b].numpy() - marked) / unit
        terms = list(zip(landmark_weights(kind).tolist(), off, strict=True))
        for i, j, w in zip(first.tolist(), second.tolist(), pair_weights.tolist(), strict=True):
            terms.append((w, off[i] - off[j]))
        cost = 0.0
        for weight, residual in terms:
            squared = float(residual @ residual)
            cost += 0.5 * weight * squared * OUTLIER**2 / (OUTLIER**2 + squared)
        assert float(seen.cost[b]) == pytest.approx(cost, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rigid", [True, False])
@pytest.mark.parametrize("fixed_shape", [False, True])
def test_gradient_equals_that_of_the_cost(head: HeadModel, kind: str, rigid: bool, fixed_shape: bool) -> None:
    problem, state, _ = make_problem(head, kind, fixed_shape=fixed_shape)
    written = problem.gradient(state, problem.evaluate(state), rigid)
    step = torch.zeros_like(written, requires_grad=True)
    cost = problem.evaluate(state.moved(step, bounded=False)).cost.sum()
    (traced,) = torch.autograd.grad(cost, step)
    assert float(traced.abs().max()) > 1
    torch.testing.assert_close(written, traced, atol=1e-6, rtol=1e-6)


def test_gradient_equals_finite_differences(head: HeadModel) -> None:
    problem, state, _ = make_problem(head, "mediapipe478", batch=1)
    written = problem.gradient(state, problem.evaluate(state), False)[0]
    for k in (0, 1, 2, 3, 4, 5, 6, 6 + SHAPES, 6 + SHAPES + 17, len(written) - 1):
        step = torch.zeros(1, len(written), dtype=torch.float64)
        step[0, k] = 1e-6
        ahead, behind = (problem.evaluate(state.moved(s * step, bounded=False)).cost for s in (1, -1))
        assert float((ahead - behind) / 2e-6) == pytest.approx(float(written[k]), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_matrix_is_symmetric_positive_and_near_gauss_newton(head: HeadModel, kind: str) -> None:
    """Near the solution the exact matrix is the cost's Hessian; averaging in groups keeps its scale."""
    problem, _, truth = make_problem(head, kind, batch=1)
    state = FitState(
        truth.rotation.double(),
        truth.translation.double(),
        truth.shape[:, :SHAPES].double(),
        truth.expression.double(),
    )
    matrix = problem.matrix(state, problem.evaluate(state), False)[0]
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-4 * float(matrix.abs().max()))
    smallest = torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]
    assert float(smallest) > -1e-6 * float(matrix.diagonal().max())

    def cost(step: Tensor) -> Tensor:
        return problem.evaluate(state.moved(step[None], bounded=False)).cost.sum()

    hessian = torch.autograd.functional.hessian(cost, torch.zeros(len(matrix), dtype=torch.float64))
    ratio = matrix.diagonal()[6:] / hessian.diagonal()[6:].clamp_min(1e-9)
    assert 0.7 < float(ratio.median()) < 1.4


def test_a_landmark_far_off_loses_its_influence(head: HeadModel) -> None:
    problem, state, _ = make_problem(head, "mediapipe478", batch=1)
    before = problem.evaluate(state)
    moved = problem.pixels.clone()
    moved[0, 50] = problem.pixels[0].mean(0)  # inside the box: the face's size stays
    problem.pixels = moved
    after = problem.evaluate(state)
    assert float(after.weights[0, 50]) < 0.1 * float(before.weights[0, 50])
    assert float(after.cost) < float(before.cost) + 0.5 * OUTLIER**2


def test_starting_pose_is_exact_for_a_distant_head(head: HeadModel) -> None:
    rng = np.random.default_rng(3)
    truth = random_truth(head, torch.zeros(4, 52), rng, spread=0.0, distance=(40.0, 60.0))
    # Where the lines of sight are parallel to the axis: the closed form knows no others.
    truth = replace(truth, translation=truth.translation * torch.tensor([0.0, 0.0, 1.0]))
    points = head.landmarks(head.v_template[None], "mediapipe478")[0]
    rotation, translation = starting_pose(points, exact_landmarks(head, truth), truth.focal, truth.principal)
    torch.testing.assert_close(rotation, truth.rotation, atol=0.01, rtol=0)
    torch.testing.assert_close(translation[:, 2] / truth.translation[:, 2], torch.ones(4), atol=0.01, rtol=0)
    assert float((torch.linalg.det(rotation) - 1).abs().max()) < 1e-4


def test_prior_cost_is_its_quadratic_form() -> None:
    names = ("eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "mouthFrownLeft", "jawOpen")
    settings = PriorSettings(identity=1.0, sparsity=0.5, ridge=2.0, exclusive=3.0, symmetry=4.0)
    prior = build_prior(names, 2, settings, torch.zeros(1, dtype=torch.float64))
    theta = torch.tensor([[0.5, -1.0, 0.9, 0.1, 0.6, 0.3, 0.2]], dtype=torch.float64)
    blink_l, blink_r, smile, frown, jaw = theta[0, 2:].tolist()
    by_hand = 0.5 * (0.5**2 + 1.0**2)
    by_hand += sum(0.5 * x + x * x for x in (blink_l, blink_r, smile, frown, jaw))
    by_hand += 3.0 * smile * frown + 0.5 * 4.0 * (blink_l - blink_r) ** 2
    assert float(prior.cost(theta)[0]) == pytest.approx(by_hand)


def test_guess_pulls_by_its_confidence() -> None:
    prior = build_prior(("jawOpen", "cheekPuff"), 1, PriorSettings(), torch.zeros(1))
    guess = torch.tensor([[0.6, 0.4]])
    pulled = add_guess(prior, guess, torch.tensor([0.0, 10.0]), 1)
    theta = torch.tensor([[0.3, 0.9, 0.1]])
    extra = float((pulled.cost(theta) - prior.cost(theta))[0])
    assert extra == pytest.approx(5 * (0.1 - 0.4) ** 2 - 5 * 0.4**2, abs=1e-6)
    assert float(prior.gradient[0, 2]) == PriorSettings().sparsity, "the prior itself is left as it was"
