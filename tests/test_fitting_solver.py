"""The landmark solver on heads whose identity, expression and pose are known exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES
from recon3d.evaluation.metrics import rotation_error_degrees
from recon3d.evaluation.synthetic import (
    Truth,
    compare,
    exact_landmarks,
    random_truth,
    read_live_link,
    single_units,
    sparse_expressions,
)
from recon3d.fitting import (
    SPARSE,
    FitResult,
    FitSettings,
    FitState,
    LandmarkSolver,
    default_focal,
    guess_from_scores,
)
from recon3d.head import HeadModel

RECORDING = Path(__file__).parents[1].parent / "shared" / "data" / "livelink" / "rom_3.csv"


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> LandmarkSolver:
    """Most truths below are random units, which no face shows together: nothing natural is to be expected."""
    return LandmarkSolver(head, settings=FitSettings(priors=SPARSE))


@pytest.fixture(scope="module")
def natural(head: HeadModel) -> LandmarkSolver:
    """The solver as users have it."""
    return LandmarkSolver(head)


def unit(name: str) -> int:
    return ARKIT_NAMES.index(name)


def units(**values: float) -> Tensor:
    expression = torch.zeros(1, 52)
    for name, value in values.items():
        expression[0, unit(name)] = value
    return expression


def fit_truth(head: HeadModel, solver: LandmarkSolver, truth: Truth, kind: str = "mediapipe478") -> FitResult:
    return solver.fit(exact_landmarks(head, truth, kind), truth.focal, truth.principal)


def fit_expression(
    head: HeadModel, solver: LandmarkSolver, expression: Tensor, copies: int = 6, seed: int = 0
) -> Tensor:
    """Fit several random people who all show one expression; (copies, 52)."""
    truth = random_truth(head, expression.expand(copies, -1), np.random.default_rng(seed))
    return fit_truth(head, solver, truth).state.expression


@pytest.mark.parametrize("kind", ["single", "sparse"])
def test_known_heads_are_found_again(head: HeadModel, solver: LandmarkSolver, kind: str) -> None:
    rng = np.random.default_rng(1)
    expression = single_units() if kind == "single" else sparse_expressions(40, rng)
    truth = random_truth(head, expression, rng)
    result = fit_truth(head, solver, truth)
    report = compare(result, truth)
    assert report.arkit_mae <= 0.03
    assert report.correlation >= 0.85
    assert report.rotation_degrees <= 1.5
    assert report.distance_percent <= 6
    assert float(result.residual.max()) < 0.01
    assert float(result.inliers.min()) > 0.95


@pytest.mark.skipif(not RECORDING.is_file(), reason="the shared recording is not there")
def test_natural_expressions_are_found_better_with_the_natural_prior(
    head: HeadModel, solver: LandmarkSolver, natural: LandmarkSolver
) -> None:
    """Frames of the second half of the recording, of whose first half the prior was made."""
    expression = read_live_link(RECORDING)
    expression = expression[len(expression) // 2 :][::80]
    rng = np.random.default_rng(21)
    truth = random_truth(head, expression, rng)
    points = exact_landmarks(head, truth)
    points = points + torch.tensor(rng.normal(0, 1.5, points.shape), dtype=torch.float32)
    found = [compare(s.fit(points, truth.focal, truth.principal), truth) for s in (natural, solver)]
    assert found[0].correlation > found[1].correlation + 0.03
    assert found[0].arkit_mae < found[1].arkit_mae


def test_a_wink_stays_one_sided(head: HeadModel, natural: LandmarkSolver) -> None:
    found = fit_expression(head, natural, units(eyeBlinkLeft=0.9))
    left, right = found[:, unit("eyeBlinkLeft")], found[:, unit("eyeBlinkRight")]
    assert float(left.min()) > 0.5
    assert float((left - right).min()) > 0.35


def test_single_units_are_named_right(head: HeadModel, solver: LandmarkSolver) -> None:
    truth = random_truth(head, single_units(), np.random.default_rng(2), spread=0.4)
    found = fit_truth(head, solver, truth).state.expression
    right = int((found.argmax(1) == torch.arange(52)).sum())
    assert right >= 46, f"{right} of 52"


@pytest.mark.parametrize("turn", [(0.0, 45.0, 0.0), (25.0, 0.0, 0.0), (0.0, 0.0, 40.0)])
def test_strong_turns(head: HeadModel, solver: LandmarkSolver, turn: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(3)
    truth = random_truth(head, sparse_expressions(16, rng), rng, turn=turn)
    report = compare(fit_truth(head, solver, truth), truth)
    assert report.arkit_mae <= 0.04
    assert report.rotation_degrees <= 1.5


@pytest.mark.parametrize("distance", [0.35, 3.0])
def test_near_and_far(head: HeadModel, solver: LandmarkSolver, distance: float) -> None:
    rng = np.random.default_rng(4)
    truth = random_truth(head, sparse_expressions(16, rng), rng, distance=(distance, distance))
    report = compare(fit_truth(head, solver, truth), truth)
    assert report.arkit_mae <= 0.04
    assert report.rotation_degrees <= 1.5
    assert report.distance_percent <= 6


@pytest.mark.parametrize(("shut", "open_"), [("Left", "Right"), ("Right", "Left")])
def test_a_wink_stays_a_wink(head: HeadModel, solver: LandmarkSolver, shut: str, open_: str) -> None:
    found = fit_expression(head, solver, units(**{f"eyeBlink{shut}": 1.0}))
    assert float(found[:, unit(f"eyeBlink{shut}")].min()) > 0.75
    assert float(found[:, unit(f"eyeBlink{open_}")].max()) < 0.2


def test_closed_and_open_eyes(head: HeadModel, solver: LandmarkSolver) -> None:
    blinks = [unit("eyeBlinkLeft"), unit("eyeBlinkRight")]
    shut = fit_expression(head, solver, units(eyeBlinkLeft=1.0, eyeBlinkRight=1.0))
    assert float(shut[:, blinks].min()) > 0.8
    still = fit_expression(head, solver, units())
    assert float(still[:, blinks].max()) < 0.2


def test_open_and_closed_mouth(head: HeadModel, solver: LandmarkSolver) -> None:
    opened = fit_expression(head, solver, units(jawOpen=0.8))[:, unit("jawOpen")]
    assert float(opened.mean()) > 0.65 and float(opened.min()) > 0.4
    assert float(fit_expression(head, solver, units())[:, unit("jawOpen")].max()) < 0.05
    closed = fit_expression(head, solver, units(jawOpen=0.6, mouthClose=0.6))
    lips = closed[:, unit("jawOpen")] - closed[:, unit("mouthClose")]
    assert float(lips.abs().max()) < 0.15, "lips that touch in truth touch in the fit"


def test_a_neutral_face_is_neutral(head: HeadModel, solver: LandmarkSolver) -> None:
    found = fit_expression(head, solver, units(), copies=12)
    assert float(found.mean()) < 0.01
    assert float(found.max()) < 0.3


def test_outliers_barely_matter(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(5)
    truth = random_truth(head, sparse_expressions(16, rng), rng)
    clean = exact_landmarks(head, truth)
    spoilt = clean.clone()
    chosen = torch.tensor(rng.choice(468, 46, replace=False))
    spoilt[:, chosen] += torch.tensor(rng.uniform(-1, 1, (16, 46, 2)) * 60, dtype=torch.float32)
    before = compare(solver.fit(clean, truth.focal, truth.principal), truth)
    result = solver.fit(spoilt, truth.focal, truth.principal)
    after = compare(result, truth)
    assert after.arkit_mae < before.arkit_mae + 0.02
    assert after.rotation_degrees < before.rotation_degrees + 0.75
    assert 0.80 < float(result.inliers.mean()) < 0.95


def test_noise_is_averaged_out(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(6)
    truth = random_truth(head, sparse_expressions(24, rng), rng)
    points = exact_landmarks(head, truth)
    noisy = points + torch.tensor(rng.normal(0, 1.5, points.shape), dtype=torch.float32)
    report = compare(solver.fit(noisy, truth.focal, truth.principal), truth)
    assert report.arkit_mae <= 0.06
    assert report.rotation_degrees <= 1.5


def test_a_batch_is_as_good_as_its_faces_alone(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(7)
    truth = random_truth(head, sparse_expressions(5, rng), rng)
    points = exact_landmarks(head, truth)
    together = solver.fit(points, truth.focal, truth.principal)
    for k in range(5):
        one = slice(k, k + 1)
        alone = solver.fit(points[one], truth.focal[one], truth.principal[one]).state
        torch.testing.assert_close(together.state.expression[one], alone.expression, atol=5e-3, rtol=0)
        torch.testing.assert_close(together.state.shape[one], alone.shape, atol=2e-2, rtol=0)
        torch.testing.assert_close(together.state.rotation[one], alone.rotation, atol=1e-3, rtol=0)


def test_the_picture_may_be_of_any_size(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(8)
    truth = random_truth(head, sparse_expressions(4, rng), rng)
    points = exact_landmarks(head, truth)
    small = solver.fit(points, truth.focal, truth.principal)
    large = solver.fit(points * 7 + 100, truth.focal * 7, truth.principal * 7 + 100)
    torch.testing.assert_close(large.state.expression, small.state.expression, atol=5e-3, rtol=0)
    torch.testing.assert_close(large.residual, small.residual, atol=1e-4, rtol=0)


def test_a_mirrored_face_gives_the_mirrored_expression(head: HeadModel, solver: LandmarkSolver) -> None:
    from recon3d.conventions import ARKIT_MIRROR

    rng = np.random.default_rng(9)
    truth = random_truth(head, sparse_expressions(6, rng), rng, turn=(0, 0, 0))
    truth = replace(truth, shape=0 * truth.shape)
    other = replace(
        truth,
        expression=truth.expression[:, list(ARKIT_MIRROR)],
        translation=truth.translation * torch.tensor([-1.0, 1.0, 1.0]),
    )
    straight, flipped = fit_truth(head, solver, truth), fit_truth(head, solver, other)
    difference = flipped.state.expression[:, list(ARKIT_MIRROR)] - straight.state.expression
    assert float(difference.abs().mean()) < 0.01


def test_expressions_stay_in_bounds(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(10)
    truth = random_truth(head, 1.6 * sparse_expressions(16, rng, active=9), rng, spread=1.2)
    found = fit_truth(head, solver, truth).state.expression
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float((found == 0).float().mean()) > 0.3, "units at rest are exactly zero"


def test_a_good_start_is_kept(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(11)
    truth = random_truth(head, sparse_expressions(6, rng), rng)
    points = exact_landmarks(head, truth)
    shapes = solver.settings.shapes
    start = FitState(truth.rotation, truth.translation, truth.shape[:, :shapes], truth.expression)
    kept = solver.fit(points, truth.focal, truth.principal, start=start)
    report, cold = compare(kept, truth), compare(solver.fit(points, truth.focal, truth.principal), truth)
    assert report.arkit_mae <= cold.arkit_mae + 0.005
    assert report.rotation_degrees <= 0.8
    assert torch.equal(start.expression, truth.expression), "the start itself is left as it was"


def test_a_confident_guess_is_followed(head: HeadModel, solver: LandmarkSolver) -> None:
    """Landmarks hardly see a puffed cheek: the guess decides."""
    truth = random_truth(head, units().expand(4, -1), np.random.default_rng(12))
    points = exact_landmarks(head, truth)
    confidence = torch.zeros(52)
    confidence[unit("cheekPuff")] = 1e5
    guess = units(cheekPuff=0.7).expand(4, -1)
    found = solver.fit(points, truth.focal, truth.principal, guess=guess, confidence=confidence)
    torch.testing.assert_close(
        found.state.expression[:, unit("cheekPuff")], torch.full((4,), 0.7), atol=0.05, rtol=0
    )
    without = solver.fit(points, truth.focal, truth.principal)
    assert float(without.state.expression[:, unit("cheekPuff")].max()) < 0.3


def test_a_guess_without_confidence_changes_nothing(head: HeadModel, solver: LandmarkSolver) -> None:
    truth = random_truth(head, units(jawOpen=0.5).expand(3, -1), np.random.default_rng(13))
    points = exact_landmarks(head, truth)
    plain = solver.fit(points, truth.focal, truth.principal)
    guess = torch.rand(3, 52, generator=torch.Generator().manual_seed(0))
    guessed = solver.fit(points, truth.focal, truth.principal, guess=guess, confidence=torch.zeros(52))
    torch.testing.assert_close(guessed.state.expression, plain.state.expression, atol=1e-3, rtol=0)


def test_confidence_may_differ_from_face_to_face(head: HeadModel, solver: LandmarkSolver) -> None:
    truth = random_truth(head, units().expand(2, -1), np.random.default_rng(14))
    confidence = torch.zeros(2, 52)
    confidence[1, unit("cheekPuff")] = 1e5
    found = solver.fit(
        exact_landmarks(head, truth),
        truth.focal,
        truth.principal,
        guess=units(cheekPuff=0.8).expand(2, -1),
        confidence=confidence,
    ).state.expression[:, unit("cheekPuff")]
    assert float(found[0]) < 0.3
    assert float(found[1]) == pytest.approx(0.8, abs=0.05)


def test_a_known_identity_is_kept(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(15)
    truth = random_truth(head, sparse_expressions(8, rng), rng)
    points = exact_landmarks(head, truth)
    known = solver.fit(points, truth.focal, truth.principal, fixed_shape=truth.shape)
    torch.testing.assert_close(known.state.shape, truth.shape[:, : solver.settings.shapes], atol=0, rtol=0)
    with_identity = compare(known, truth)
    without = compare(solver.fit(points, truth.focal, truth.principal), truth)
    assert with_identity.arkit_mae < without.arkit_mae
    assert with_identity.rotation_degrees < 0.5


def test_one_identity_serves_many_frames(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(16)
    truth = random_truth(head, sparse_expressions(6, rng), rng)
    truth = replace(truth, shape=truth.shape[:1].expand(6, -1))
    found = solver.fit(
        exact_landmarks(head, truth), truth.focal, truth.principal, fixed_shape=truth.shape[:1]
    )
    assert compare(found, truth).arkit_mae < 0.03


def test_68_points_with_the_sliding_jaw(head: HeadModel) -> None:
    rng = np.random.default_rng(17)
    sparse = LandmarkSolver(head, "ibug68", FitSettings(priors=SPARSE))
    truth = random_truth(head, sparse_expressions(24, rng), rng, turn=(10.0, 35.0, 10.0))
    result = fit_truth(head, sparse, truth, "ibug68")
    report = compare(result, truth)
    assert report.arkit_mae <= 0.06
    assert report.rotation_degrees <= 3.5
    assert float(result.residual.median()) < 0.02
    opened = random_truth(head, units(jawOpen=0.8).expand(9, -1), rng)
    found = fit_truth(head, sparse, opened, "ibug68").state.expression
    assert float(found[:, unit("jawOpen")].median()) > 0.5


def test_the_state_in_the_heads_own_terms_is_the_same_head(head: HeadModel, solver: LandmarkSolver) -> None:
    rng = np.random.default_rng(18)
    truth = random_truth(head, sparse_expressions(3, rng), rng)
    state = fit_truth(head, solver, truth).state
    shape, expression, pose, translation = state.posed(head)
    assert shape.shape == (3, head.num_shape) and pose.shape == (3, 5, 3)
    posed = head(shape, expression, pose).vertices + translation[:, None]
    plain = head.unposed(shape, state.expression) @ state.rotation.mT + state.translation[:, None]
    torch.testing.assert_close(posed, plain, atol=1e-5, rtol=0)


def finite(result: FitResult) -> bool:
    values = (*vars(result.state).values(), result.residual, result.inliers)
    return all(bool(v.isfinite().all()) for v in values)


@pytest.mark.parametrize(
    "case",
    [
        "one point",
        "line",
        "two people",
        "tiny",
        "upside down",
        "mirrored",
        "random",
        "far outside",
    ],
)
def test_degenerate_landmarks_give_finite_numbers(head: HeadModel, solver: LandmarkSolver, case: str) -> None:
    truth = random_truth(head, units(), np.random.default_rng(19), turn=(0, 0, 0))
    good = exact_landmarks(head, truth)
    noise = torch.rand(good.shape, generator=torch.Generator().manual_seed(1))
    points = {
        "one point": torch.full_like(good, 200.0),
        "line": good * torch.tensor([1.0, 0.0]) + 100,
        "two people": torch.where(noise < 0.5, good, good + 200),
        "tiny": (good - 256) * 1e-3 + 256,
        "upside down": 512 - good,
        "mirrored": good * torch.tensor([-1.0, 1.0]) + torch.tensor([512.0, 0.0]),
        "random": noise * 512,
        "far outside": good + 1e5,
    }[case]
    batch = torch.cat([good, points])
    result = solver.fit(batch, truth.focal.expand(2), truth.principal.expand(2, 2))
    assert finite(result)
    assert float(result.state.expression.min()) >= 0 and float(result.state.expression.max()) <= 1
    torch.testing.assert_close(
        result.state.rotation @ result.state.rotation.mT, torch.eye(3).expand(2, 3, 3), atol=1e-4, rtol=0
    )
    # A bad face in a batch does not spoil its neighbour.
    alone = solver.fit(good, truth.focal, truth.principal)
    torch.testing.assert_close(result.state.expression[:1], alone.state.expression, atol=5e-3, rtol=0)


def test_a_start_behind_the_camera_gives_finite_numbers(head: HeadModel, solver: LandmarkSolver) -> None:
    truth = random_truth(head, units(), np.random.default_rng(20))
    behind = FitState(
        truth.rotation,
        -truth.translation,
        truth.shape[:, : solver.settings.shapes],
        truth.expression,
    )
    result = solver.fit(exact_landmarks(head, truth), truth.focal, truth.principal, start=behind)
    assert finite(result)


def test_an_upside_down_face_is_followed(head: HeadModel, solver: LandmarkSolver) -> None:
    truth = random_truth(head, units(jawOpen=0.5), np.random.default_rng(21), turn=(0, 0, 0))
    points = truth.principal[:, None] * 2 - exact_landmarks(head, truth)
    result = solver.fit(points, truth.focal, truth.principal)
    half_turn = torch.tensor([-1.0, -1.0, 1.0]).diag()
    error = rotation_error_degrees(result.state.rotation.numpy(), (half_turn @ truth.rotation).numpy())
    assert error[0] < 1.5
    assert float(result.state.expression[0, unit("jawOpen")]) == pytest.approx(0.5, abs=0.15)


def test_inputs_are_left_alone(head: HeadModel, solver: LandmarkSolver) -> None:
    truth = random_truth(head, units(jawOpen=0.4), np.random.default_rng(22))
    points = exact_landmarks(head, truth)
    copies = [t.clone() for t in (points, truth.focal, truth.principal)]
    first = solver.fit(points, truth.focal, truth.principal)
    second = solver.fit(points, truth.focal, truth.principal)
    torch.testing.assert_close(first.state.expression, second.state.expression, atol=1e-3, rtol=0)
    for before, after in zip(copies, (points, truth.focal, truth.principal), strict=True):
        assert torch.equal(before, after)


def test_guess_from_scores() -> None:
    scores = torch.rand(3, 52, generator=torch.Generator().manual_seed(2))
    guess, confidence = guess_from_scores(scores)
    assert guess.shape == (3, 52)
    assert confidence.shape == (52,)
    assert float(confidence.min()) >= 0
    assert float(guess.min()) >= 0 and float(guess.max()) <= 1


def test_default_focal() -> None:
    face = np.array([[0, 0], [60, 80]], np.float32)  # half diagonal 50 px
    normal = default_focal(face + 900, (4000, 3000))
    assert normal == pytest.approx(5000 * 50 / 43.27)
    crop = default_focal(face, (80, 100))
    assert crop > 2 * np.hypot(80, 100)
    assert crop * 0.1 / 50 == pytest.approx(0.8), "a face of 10 cm radius stands 0.8 m away"
    assert default_focal(face * 3, (240, 300)) == pytest.approx(3 * crop)
