"""One identity and one focal length of many frames, on heads that are known exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_head import write_bare_head
from torch import Tensor

from recon3d.evaluation.synthetic import Truth, exact_landmarks, random_truth, sparse_expressions
from recon3d.fitting import SPARSE, FitSettings, LandmarkSolver
from recon3d.fitting.identity import (
    INDEPENDENT,
    Identity,
    Observations,
    solve_identity,
    solve_identity_and_focal,
)
from recon3d.head import HeadModel, load_head

FRAMES = 24


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> LandmarkSolver:
    """The expressions below are random units, of which nothing natural is to be expected."""
    return LandmarkSolver(head, settings=FitSettings(priors=SPARSE))


@dataclass(frozen=True)
class Shots:
    """One person in many frames of one camera: the truth, and landmarks (K, 478, 2) px with their noise."""

    truth: Truth
    pixels: Tensor

    @property
    def seen(self) -> Observations:
        return Observations(self.pixels, self.truth.principal[0])

    @property
    def focal(self) -> float:
        return float(self.truth.focal[0])

    def but(self, pixels: Tensor) -> Observations:
        return Observations(pixels, self.truth.principal[0])


def shoot(head: HeadModel, seed: int, frames: int = FRAMES, noise: float = 0.5) -> Shots:
    """Take pictures of a random person, 0.8 m away, with a random expression each."""
    rng = np.random.default_rng(seed)
    expression = sparse_expressions(frames, rng)
    truth = random_truth(head, expression, rng, turn=(15.0, 30.0, 10.0), distance=(0.8, 0.8))
    truth = replace(truth, shape=truth.shape[:1].expand(frames, -1))
    pixels = exact_landmarks(head, truth)
    return Shots(truth, pixels + noise * torch.tensor(rng.normal(size=pixels.shape), dtype=torch.float32))


@pytest.fixture(scope="module")
def shots(head: HeadModel) -> Shots:
    return shoot(head, 0)


@pytest.fixture(scope="module")
def solved(solver: LandmarkSolver, shots: Shots) -> Identity:
    return solve_identity(solver, shots.seen, shots.focal)


def likeness(shape: Tensor, truth: Truth) -> float:
    """Correlation of an identity (S,) with the true one over the coefficients that differ from zero."""
    return float(np.corrcoef(shape[:30], truth.shape[0, :30])[0, 1])


def error(head: HeadModel, shape: Tensor, truth: Truth) -> float:
    """Mean distance of the face at rest from the true one, in its size: that itself cannot be seen."""
    rest = torch.zeros(1, head.num_expression)
    faces = []
    for one in (shape, truth.shape[0]):
        whole = torch.zeros(1, head.num_shape)
        whole[0, : len(one)] = one
        points = head.landmarks(head.unposed(whole, rest), "mediapipe478")[0]
        points = points - points.mean(0)
        faces.append(points / points.norm())
    return float((faces[0] - faces[1]).norm())


def apart(one: Identity, other: Identity) -> float:
    return float((one.shape - other.shape).abs().max())


# ---- identity ----


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_frames_show_who_it_is(head: HeadModel, solver: LandmarkSolver, seed: int) -> None:
    """Better than any of them alone, and much better than an average face."""
    shots = shoot(head, seed)
    truth = shots.truth
    joint = solve_identity(solver, shots.seen, shots.focal)
    assert likeness(joint.shape[0], truth) > 0.87
    singles = solver.fit(shots.pixels, truth.focal, truth.principal).state.shape
    errors = [error(head, one, truth) for one in singles]
    ours = error(head, joint.shape[0], truth)
    assert ours < 0.005 < min(errors)
    assert ours < 0.4 * np.mean(errors)
    assert ours < 0.15 * error(head, torch.zeros(80), truth)
    assert joint.shape.shape == (1, 80) and joint.focal == shots.focal


def test_more_frames_tell_more(head: HeadModel, solver: LandmarkSolver, shots: Shots) -> None:
    found = [solve_identity(solver, shots.but(shots.pixels[:n]), shots.focal) for n in (1, 3, 12)]
    unsure = [float(torch.linalg.inv(one.hessian).trace()) for one in found]
    assert unsure == sorted(unsure, reverse=True) and unsure[-1] < 0.6 * unsure[0]
    closeness = [likeness(one.shape[0], shots.truth) for one in found]
    assert closeness == sorted(closeness)


def test_no_identity_near_it_explains_the_frames_better(
    solver: LandmarkSolver, shots: Shots, solved: Identity
) -> None:
    """Against the plain way: the frames fitted anew for each other identity; also what ``hessian`` says."""
    share = INDEPENDENT / FRAMES

    def cost(shape: Tensor) -> float:
        found = solver.fit(shots.pixels, shots.truth.focal, shots.truth.principal, fixed_shape=shape)
        own = 0.5 * float(shape.square().sum()) * solver.settings.priors.identity
        return share * (float(found.cost.sum()) - FRAMES * own) + own

    best = cost(solved.shape)
    assert solved.cost == pytest.approx(best, rel=0.005)
    rng = np.random.default_rng(1)
    for _ in range(5):
        step = torch.tensor(rng.normal(size=(1, 80)), dtype=torch.float32)
        step = 0.5 * step / step.norm()
        rise = [cost(solved.shape + step) - best, cost(solved.shape - step) - best]
        assert min(rise) > 0
        expected = 0.5 * float(step[0] @ solved.hessian @ step[0])
        assert 0.6 * expected < np.mean(rise) < 1.4 * expected


def test_the_same_frames_again_tell_nothing_new(solver: LandmarkSolver, shots: Shots) -> None:
    """From INDEPENDENT frames on they share their weight: a long clip is not surer than it can be."""
    count = int(INDEPENDENT)
    once = solve_identity(solver, shots.but(shots.pixels[:count]), shots.focal)
    twice = solve_identity(solver, shots.but(shots.pixels[:count].repeat(2, 1, 1)), shots.focal)
    assert apart(once, twice) < 1e-3
    assert twice.cost == pytest.approx(once.cost, rel=1e-3)
    torch.testing.assert_close(twice.hessian, once.hessian, atol=0.1, rtol=1e-2)


def test_the_same_frames_give_the_same_identity(
    solver: LandmarkSolver, shots: Shots, solved: Identity
) -> None:
    """But for rounding, in whatever order they come; and they are left as they were."""
    copy = shots.pixels.clone()
    again = solve_identity(solver, shots.seen, shots.focal)
    assert apart(again, solved) < 1e-3 and again.cost == pytest.approx(solved.cost, rel=1e-4)
    order = torch.randperm(FRAMES, generator=torch.Generator().manual_seed(0))
    shuffled = solve_identity(solver, shots.but(shots.pixels[order]), shots.focal)
    assert apart(shuffled, solved) < 2e-3
    assert torch.equal(shots.pixels, copy)
    assert bool((solved.hessian - solved.hessian.T).abs().max() < 1e-4 * solved.hessian.abs().max())
    assert float(torch.linalg.eigvalsh(solved.hessian).min()) > 0.99, "at least the prior"


def test_the_picture_may_be_of_any_size(solver: LandmarkSolver, shots: Shots, solved: Identity) -> None:
    larger = Observations(shots.pixels * 3 + 70, shots.truth.principal[0] * 3 + 70)
    found = solve_identity(solver, larger, 3 * shots.focal)
    assert apart(found, solved) < 1e-3
    assert found.cost == pytest.approx(solved.cost, rel=1e-3)


@pytest.mark.parametrize("frames", [1, 2])
def test_hardly_any_frames(solver: LandmarkSolver, shots: Shots, frames: int) -> None:
    seen = shots.but(shots.pixels[:frames])
    for found in (
        solve_identity(solver, seen, shots.focal),
        solve_identity_and_focal(solver, seen, shots.focal),
    ):
        assert likeness(found.shape[0], shots.truth) > 0.6
        assert bool(found.hessian.isfinite().all()) and np.isfinite(found.cost)
        assert 0.5 * shots.focal < found.focal < 2 * shots.focal


def test_a_guess_says_what_is_the_face_and_what_its_expression(
    head: HeadModel, solver: LandmarkSolver, shots: Shots
) -> None:
    """Told that all is at rest, the identity takes up a smile that never leaves the face."""
    smiling = torch.zeros(12, 52)
    smiling[:, [23, 24]] = 0.4
    truth = replace(
        shots.truth,
        **{name: value[:12] for name, value in vars(shots.truth).items()} | {"expression": smiling},
    )
    pixels = exact_landmarks(head, truth)
    for confidence in (torch.full((52,), 1e3), torch.full((12, 52), 1e3)):
        seen = Observations(pixels, truth.principal[0], torch.zeros(12, 52), confidence)
        told = solve_identity(solver, seen, shots.focal)
        found = solver.fit(
            pixels,
            truth.focal,
            truth.principal,
            guess=seen.guess,
            confidence=confidence,
            fixed_shape=told.shape,
        )
        assert float(found.state.expression[:, [23, 24]].max()) < 0.06
        assert float(found.residual.max()) < 0.008
    untold = solve_identity(solver, shots.but(pixels), shots.focal)
    plain = solver.fit(pixels, truth.focal, truth.principal, fixed_shape=untold.shape)
    assert float(plain.state.expression[:, [23, 24]].mean()) > 0.15


@pytest.mark.parametrize("seed", [1, 3])
def test_every_round_explains_the_frames_better(head: HeadModel, seed: int) -> None:
    """Even where a face that keeps pulling a grimace is said to be at rest: nobody looks like that."""
    rng = np.random.default_rng(seed)
    grimace = sparse_expressions(1, rng, active=15).expand(12, -1)
    truth = random_truth(head, grimace, rng, turn=(3.0, 3.0, 3.0), distance=(0.8, 0.8))
    truth = replace(
        truth, shape=truth.shape[:1].expand(12, -1), translation=truth.translation[:1].expand(12, -1)
    )
    pixels = exact_landmarks(head, truth)
    pixels = pixels + 0.5 * torch.tensor(rng.normal(size=pixels.shape), dtype=torch.float32)
    rest = Observations(pixels, truth.principal[0], torch.zeros(12, 52), torch.full((52,), 1e3))
    natural = LandmarkSolver(head)
    rounds = [solve_identity(natural, rest, float(truth.focal[0]), rounds=count) for count in (0, 1, 2, 6)]
    costs = [one.cost for one in rounds]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.95 * costs[0]
    assert float(rounds[-1].shape.square().mean().sqrt()) < 3, "standard deviations: a face still"


# ---- outliers ----


def shuffled(shots: Shots) -> Tensor:
    order = torch.randperm(478, generator=torch.Generator().manual_seed(3))
    return shots.pixels[::6][:, order]


def collapsed(shots: Shots) -> Tensor:
    return shots.pixels[::6].mean(1, keepdim=True).expand(-1, 478, -1)


def far_away(shots: Shots) -> Tensor:
    return torch.rand(4, 478, 2, generator=torch.Generator().manual_seed(4)) * 1e4


@pytest.mark.parametrize("spoil", [shuffled, collapsed, far_away])
def test_frames_that_show_no_face_barely_matter(
    solver: LandmarkSolver, shots: Shots, solved: Identity, spoil: object
) -> None:
    """Four of twenty-four."""
    assert callable(spoil)
    pixels = shots.pixels.clone()
    pixels[::6] = spoil(shots)
    found = solve_identity(solver, shots.but(pixels), shots.focal)
    assert float((found.shape - solved.shape).norm()) < 0.15 * float(solved.shape.norm())
    assert likeness(found.shape[0], shots.truth) > likeness(solved.shape[0], shots.truth) - 0.02


def test_frames_of_somebody_else_do_not_take_over(
    head: HeadModel, solver: LandmarkSolver, shots: Shots
) -> None:
    other = shoot(head, 3)
    pixels = shots.pixels.clone()
    pixels[::6] = other.pixels[::6]
    found = solve_identity(solver, shots.but(pixels), shots.focal).shape[0]
    assert likeness(found, shots.truth) > 0.8 > 0.5 > likeness(found, other.truth)


def test_landmarks_that_are_off_in_every_frame_barely_matter(
    solver: LandmarkSolver, shots: Shots, solved: Identity
) -> None:
    """A tenth of them, by a sixth of the face: a hand, say."""
    off = torch.randperm(478, generator=torch.Generator().manual_seed(5))[:48]
    pixels = shots.pixels.clone()
    pixels[:, off] += 40
    found = solve_identity(solver, shots.but(pixels), shots.focal)
    assert likeness(found.shape[0], shots.truth) > likeness(solved.shape[0], shots.truth) - 0.03


# ---- focal length ----


@pytest.mark.parametrize(("seed", "guess"), [(0, 0.6), (1, 1.6)])
def test_the_focal_length_is_found_from_any_guess(
    head: HeadModel, solver: LandmarkSolver, seed: int, guess: float
) -> None:
    shots = shoot(head, seed)
    found = solve_identity_and_focal(solver, shots.seen, shots.focal * guess)
    assert found.focal == pytest.approx(shots.focal, rel=0.08)
    assert likeness(found.shape[0], shots.truth) > 0.85


def test_frames_that_show_no_face_do_not_change_the_focal_length(
    solver: LandmarkSolver, shots: Shots
) -> None:
    pixels = shots.pixels.clone()
    pixels[::6] = shuffled(shots)
    found = solve_identity_and_focal(solver, shots.but(pixels), 1.4 * shots.focal)
    assert found.focal == pytest.approx(shots.focal, rel=0.1)


def test_the_true_focal_length_costs_least(solver: LandmarkSolver, shots: Shots) -> None:
    costs = [solve_identity(solver, shots.seen, shots.focal * f).cost for f in (0.75, 1.0, 1.3)]
    assert int(np.argmin(costs)) == 1


def test_a_face_that_tells_nothing_of_the_focal_length_keeps_the_guess(
    head: HeadModel, solver: LandmarkSolver
) -> None:
    """From far away, always from the front and blurred there is no perspective to be seen."""
    rng = np.random.default_rng(6)
    truth = random_truth(head, torch.zeros(12, 52), rng, turn=(0, 0, 0), distance=(6.0, 6.0))
    truth = replace(truth, shape=truth.shape[:1].expand(12, -1))
    pixels = exact_landmarks(head, truth)
    pixels = pixels + 2 * torch.tensor(rng.normal(size=pixels.shape), dtype=torch.float32)
    guess = float(truth.focal[0])
    found = solve_identity_and_focal(solver, Observations(pixels, truth.principal[0]), guess)
    assert found.focal == pytest.approx(guess, rel=0.25)
    assert bool(found.shape.isfinite().all())


# ---- other heads ----


def test_heads_whose_expressions_are_not_bounded(tmp_path: Path) -> None:
    """As FLAME's: any sign, no names, fewer identities than are asked for."""
    bare = load_head(write_bare_head(tmp_path / "bare.npz"))
    solver = LandmarkSolver(bare)
    rng = np.random.default_rng(7)
    expression = torch.tensor(rng.normal(0, 0.5, (12, 20)), dtype=torch.float32)
    truth = random_truth(bare, expression, rng, shapes=8, turn=(15, 30, 10), distance=(0.8, 0.8))
    truth = replace(truth, shape=truth.shape[:1].expand(12, -1))
    seen = Observations(exact_landmarks(bare, truth), truth.principal[0])
    found = solve_identity(solver, seen, float(truth.focal[0]))
    assert found.shape.shape == (1, bare.num_shape)
    assert float(np.corrcoef(found.shape[0], truth.shape[0])[0, 1]) > 0.9
