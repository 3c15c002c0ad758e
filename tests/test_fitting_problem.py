"""The solver's cost and its written-down gradient: against a plain twin, autograd and finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jointed_head import write_jointed_head
from torch import Tensor

from recon3d.conventions import FRONTAL
from recon3d.evaluation.synthetic import Truth, exact_landmarks, random_truth, sparse_expressions
from recon3d.fitting import FitState
from recon3d.fitting._basis import reduce_head
from recon3d.fitting._priors import PriorSettings, add_guess, build_prior
from recon3d.fitting._problem import Problem, Structure
from recon3d.fitting._start import starting_pose
from recon3d.fitting._terms import landmark_pairs, landmark_weights
from recon3d.fitting.controls import Controls
from recon3d.head import HeadModel, load_head
from recon3d.head.contour import landmarks68
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera

SHAPES = 12
NOISE, OUTLIER = 0.01, 4.0
#: Units without limits.
_NONE = torch.full((52,), torch.inf)
FREE = Controls(52, (), -_NONE, _NONE, _NONE)
KINDS = ("mediapipe478", "ibug68")


def make_problem(
    head: HeadModel, kind: str, batch: int = 2, fixed_shape: bool = False
) -> tuple[Problem, FitState, Truth]:
    """A problem in float64, and a state some way off its solution."""
    rng = np.random.default_rng(0)
    truth = random_truth(head, sparse_expressions(batch, rng), rng, shapes=SHAPES, turn=(10, 35, 10))
    structure = Structure.of(reduce_head(head, kind, SHAPES, torch.float64), kind)
    doubles: dict[str, Any] = {
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
        controls=FREE,
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
    cost = problem.evaluate(state.moved(step, FREE)).cost.sum()
    (traced,) = torch.autograd.grad(cost, step)
    assert float(traced.abs().max()) > 1
    torch.testing.assert_close(written, traced, atol=1e-6, rtol=1e-6)


def test_gradient_equals_finite_differences(head: HeadModel) -> None:
    problem, state, _ = make_problem(head, "mediapipe478", batch=1)
    written = problem.gradient(state, problem.evaluate(state), False)[0]
    for k in (0, 1, 2, 3, 4, 5, 6, 6 + SHAPES, 6 + SHAPES + 17, len(written) - 1):
        step = torch.zeros(1, len(written), dtype=torch.float64)
        step[0, k] = 1e-6
        ahead, behind = (problem.evaluate(state.moved(s * step, FREE)).cost for s in (1, -1))
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
        return problem.evaluate(state.moved(step[None], FREE)).cost.sum()

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
    prior = build_prior(names, Controls.units(5), 2, settings)
    theta = torch.tensor([[0.5, -1.0, 0.9, 0.1, 0.6, 0.3, 0.2]])
    blink_l, blink_r, smile, frown, jaw = theta[0, 2:].tolist()
    by_hand = 0.5 * (0.5**2 + 1.0**2)
    by_hand += sum(0.5 * x + x * x for x in (blink_l, blink_r, smile, frown, jaw))
    by_hand += 3.0 * smile * frown + 0.5 * 4.0 * (blink_l - blink_r) ** 2
    assert float(prior.cost(theta)[0]) == pytest.approx(by_hand)


def test_guess_pulls_by_its_confidence() -> None:
    prior = build_prior(("jawOpen", "cheekPuff"), Controls.units(2), 1, PriorSettings())
    guess = torch.tensor([[0.6, 0.4]])
    pulled = add_guess(prior, guess, torch.tensor([0.0, 10.0]), 1)
    theta = torch.tensor([[0.3, 0.9, 0.1]])
    extra = float((pulled.cost(theta) - prior.cost(theta))[0])
    assert extra == pytest.approx(5 * (0.1 - 0.4) ** 2 - 5 * 0.4**2, abs=1e-6)
    assert float(prior.gradient[0, 2]) == PriorSettings().sparsity, "the prior itself is left as it was"


# ---- heads whose jaw and eyeballs turn about their joints ----


@pytest.fixture(scope="module")
def jointed(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_jointed_head(tmp_path_factory.mktemp("jointed") / "jointed.npz"))


def turned_state(head: HeadModel, batch: int = 2) -> FitState:
    rng = np.random.default_rng(4)
    turns = rng.uniform(-0.1, 0.1, (batch, 9))
    turns[:, 0] = rng.uniform(0.1, 0.4, batch)
    expression = np.concatenate([rng.normal(0, 1, (batch, head.num_expression)), turns], axis=1)
    rotation = torch.tensor(FRONTAL) @ axis_angle_to_matrix(torch.tensor(rng.normal(0, 0.2, (batch, 3))))
    return FitState(
        rotation.double(),
        torch.tensor(rng.normal([0, 0, 0.8], 0.02, (batch, 3))),
        torch.tensor(rng.normal(0, 0.5, (batch, SHAPES))),
        torch.tensor(expression),
    )


def jointed_problem(head: HeadModel, kind: str, fixed_shape: bool = False) -> tuple[Problem, FitState]:
    state = turned_state(head)
    basis = _doubled(reduce_head(head, kind, SHAPES, torch.float64))
    structure = Structure.of(reduce_head(head, kind, SHAPES), kind)
    doubles: dict[str, Any] = {k: getattr(structure, k).double() for k in ("weights", "mass", "table")}
    rng = np.random.default_rng(5)
    pixels = torch.tensor(rng.normal(256, 60, (2, len(basis.template), 2)))
    problem = Problem(
        replace(structure, basis=basis, **doubles),
        pixels,
        torch.full((2,), 900.0).double(),
        torch.full((2, 2), 256.0).double(),
        noise=NOISE,
        outlier=OUTLIER,
        fixed_shape=fixed_shape,
        controls=Controls.of(head),
    )
    return problem, state


def _doubled(part: Any) -> Any:
    values = {
        name: value.double() if isinstance(value, Tensor) else _doubled(value)
        for name, value in vars(part).items()
        if isinstance(value, Tensor) or hasattr(value, "__dict__")
    }
    return replace(part, **values)


@pytest.mark.parametrize("kind", KINDS)
def test_landmarks_turn_with_the_joints_as_the_heads_own_do(jointed: HeadModel, kind: str) -> None:
    state = turned_state(jointed)
    theta = torch.cat([state.shape, state.expression], dim=1)
    basis = reduce_head(jointed, kind, SHAPES)
    controls = Controls.of(jointed)
    assert controls.joints == (2, 3, 4) and basis.count == SHAPES + controls.count
    expression, pose = controls.split(state.expression.float(), 5)
    shape = torch.nn.functional.pad(state.shape.float(), (0, jointed.num_shape - SHAPES))
    vertices = jointed(shape, expression, pose).vertices
    torch.testing.assert_close(
        basis.place(theta.float()), jointed.landmarks(vertices, kind), atol=2e-6, rtol=0
    )
    at_rest = jointed.landmarks(jointed(shape, expression, 0 * pose).vertices, kind)
    assert float((basis.place(theta.float()) - at_rest).norm(dim=-1).max()) > 0.01
    single = FitState(*(part.float() for part in vars(state).values()))
    stated = single.posed(jointed)
    own = jointed(*stated[:3]).vertices + stated.translation[:, None]
    torch.testing.assert_close(own, single.vertices(jointed), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fixed_shape", [False, True])
def test_gradient_of_turning_joints_equals_finite_differences(
    jointed: HeadModel, kind: str, fixed_shape: bool
) -> None:
    problem, state = jointed_problem(jointed, kind, fixed_shape)
    written = problem.gradient(state, problem.evaluate(state), False)
    count = written.shape[1]
    for k in (0, 4, 6, count - 12, *range(count - 9, count)):
        step = torch.zeros_like(written)
        step[:, k] = 1e-6
        free = replace(problem.controls, lower=-_NONE[:1], upper=_NONE[:1])
        ahead, behind = (problem.evaluate(state.moved(s * step, free)).cost for s in (1, -1))
        torch.testing.assert_close((ahead - behind) / 2e-6, written[:, k], rtol=1e-4, atol=1e-3)


def test_directions_are_those_of_joints_that_begin_to_turn(jointed: HeadModel) -> None:
    basis = _doubled(reduce_head(jointed, "mediapipe478", SHAPES))
    step = 1e-6 * torch.eye(basis.count, dtype=torch.float64)[-9:]
    moved = (basis.place(step) - basis.place(-step)) / 2e-6
    torch.testing.assert_close(moved.permute(1, 2, 0), basis.directions[..., -9:], atol=1e-8, rtol=1e-6)
    assert float(basis.directions[..., -9].norm()) > 0.1, "the jaw opens about X"
