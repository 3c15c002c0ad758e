"""Smoothing in time: nothing delayed, nothing sudden smeared, still faces still; gaps, cuts and rotations."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.transform import Rotation

from recon3d.conventions import FRONTAL
from recon3d.fitting.clip import Curves, best_frames, gaps, smoothed, unbroken
from recon3d.fitting.controls import Controls
from recon3d.fitting.smooth import noise_level, smooth, smooth_runs

Floats = npt.NDArray[np.float64]

FPS = 30.0
NOISE = 0.01
#: Of any number of coefficients.
UNITS = Controls.units(1)
FREE = Controls(1, (), -torch.ones(1) * torch.inf, torch.ones(1) * torch.inf, torch.ones(1))


def seconds(length: float, fps: float = FPS) -> Floats:
    return np.arange(round(length * fps)) / fps


def noise(shape: tuple[int, ...], seed: int = 0, size: float = NOISE) -> Floats:
    return size * np.random.default_rng(seed).normal(size=shape)


def wandering(length: int) -> Floats:
    """(length, 20) curves that wander, some much, some little, and rest now and then."""
    values = noise((length, 20), 1) + noise((length, 20), 2).cumsum(axis=0) * np.linspace(0, 2, 20)
    values[:, 15:] = values[:, 15:].clip(0)
    return values


def blink(time: Floats, middle: float, length: float = 0.2) -> Floats:
    """A lid that closes and opens within ``length`` s."""
    return np.where(
        np.abs(time - middle) < length / 2, 0.5 + 0.5 * np.cos(2 * np.pi * (time - middle) / length), 0
    )


def jitter(values: npt.NDArray[np.floating]) -> float:
    return float(np.abs(np.diff(values, n=2, axis=0)).mean())


# ---- one stretch of curves ----


@pytest.mark.parametrize("length", [0, 1, 4, 5, 200])
def test_strength_0_is_the_values_themselves(length: int) -> None:
    values = wandering(length)
    result = smooth(values, FPS, 0.0)
    np.testing.assert_array_equal(result, values)
    assert not np.shares_memory(result, values)


@pytest.mark.parametrize("length", [5, 6, 7, 12, 31, 300])
@pytest.mark.parametrize("fps", [10.0, 24.0, 60.0])
@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_backwards_in_time_is_the_same_backwards(length: int, fps: float, strength: float) -> None:
    """What treats both directions alike has no phase: it cannot be late, nor early."""
    values = wandering(length)
    forward, backward = smooth(values, fps, strength), smooth(values[::-1], fps, strength)[::-1]
    np.testing.assert_allclose(forward, backward, atol=1e-9)
    assert length < 12 or not np.allclose(forward, values, atol=1e-3)


@pytest.mark.parametrize("length", [5, 12, 300])
def test_neither_offset_nor_size_matters(length: int) -> None:
    """Metres, radians and shares are smoothed alike."""
    values = wandering(length)
    plain, other = smooth(values, FPS, 0.5), smooth(40 * values - 3, FPS, 0.5)
    np.testing.assert_allclose(other, 40 * plain - 3, atol=1e-8)


@pytest.mark.parametrize("fps", [24.0, 30.0, 60.0])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_face_that_is_still_is_still(fps: float, strength: float) -> None:
    time = seconds(8, fps)
    raw = 0.3 + noise((len(time), 20))
    result = smooth(raw, fps, strength)
    assert jitter(result) < 0.15 * jitter(raw)
    assert (result - 0.3).std() < 0.5 * NOISE
    assert np.abs(result - 0.3).max() < 3.5 * NOISE


def test_more_strength_smooths_more() -> None:
    raw = 0.3 + noise((300, 10))
    left = [jitter(smooth(raw, FPS, strength)) for strength in (0, 0.15, 0.3, 0.5, 1.0)]
    assert left == sorted(left, reverse=True) and left[-1] < 0.1 * left[0]


@pytest.mark.parametrize("fps", [24.0, 30.0, 60.0])
@pytest.mark.parametrize("hertz", [0.5, 1.0, 2.0])
def test_movements_keep_their_place_and_size(fps: float, hertz: float) -> None:
    """Nothing comes late by more than a fiftieth of a frame, and nothing is much farther off than before."""
    time = seconds(8, fps)
    truth = 0.5 + 0.4 * np.sin(2 * np.pi * hertz * time)
    error = smooth(truth[:, None] + noise((len(time), 30)), fps, 0.5) - truth[:, None]
    assert error.std() < 1.3 * NOISE
    slope = np.gradient(truth)
    assert abs(np.sum(error.mean(axis=1) * slope) / np.sum(slope**2)) < 0.02
    at_peaks = error[np.abs(slope) < 0.3 * np.abs(slope).max()]
    assert np.abs(at_peaks.mean()) < NOISE, "nor is it damped"


@pytest.mark.parametrize("fps", [24.0, 30.0, 60.0])
@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("length", [0.15, 0.2, 0.3])
def test_a_blink_keeps_its_peak_and_its_sharp_ends(fps: float, strength: float, length: float) -> None:
    time = seconds(6, fps)
    truth = 0.95 * blink(time, 3.0, length)
    result = smooth((truth + noise(truth.shape, 3))[:, None], fps, strength)[:, 0]
    peak = int(truth.argmax())
    assert abs(int(result.argmax()) - peak) <= 1
    assert result.max() > truth.max() - (2 + 4 * strength) * NOISE
    around = np.abs(time - 3.0) < length / 2 + 0.5
    assert np.abs(result - truth)[around].max() < (3 + 5 * strength) * NOISE, "nothing is smeared beside it"
    assert (result - truth)[~around].std() < 0.7 * NOISE, "and the rest is as smooth as without it"


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("blinks", [1, 4])
def test_blinks_of_an_eye_that_else_rests_exactly(strength: float, blinks: int) -> None:
    """A bounded unit rests at 0: its only movement must not be taken for its noise."""
    time = seconds(8, 24.0)
    lid = sum(0.95 * blink(time, middle) for middle in np.linspace(0.5, 7.5, blinks + 2)[1:-1] + 0.013)
    others = 0.3 + noise((len(time), 3))
    result = smooth(np.column_stack([lid, others]), 24.0, strength)
    assert np.abs(result[:, 0] - lid).max() < {0.5: 0.04, 1.0: 0.1}[strength]
    alone = smooth(np.asarray(lid)[:, None], 24.0, strength)
    np.testing.assert_array_equal(alone[:, 0], lid)


def test_a_unit_that_flickers_about_its_bound_is_smoothed() -> None:
    raw = np.maximum(noise((300, 1)) - 0.2 * NOISE, 0)
    assert 0.3 < (raw == 0).mean() < 0.7
    assert jitter(smooth(raw, FPS, 0.5)) < 0.4 * jitter(raw)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_step_stays_a_step(strength: float) -> None:
    truth = np.repeat([0.1, 0.8], 100)
    result = smooth((truth + noise(truth.shape))[:, None], FPS, strength)[:, 0]
    assert result[100] - result[99] > 0.65
    assert np.abs(result - truth).max() < 4 * NOISE


def test_the_ends_are_as_true_as_the_middle() -> None:
    """Over many takes: where there is only one side to look at, nothing is bent."""
    time = seconds(2)
    truth = 0.5 + 0.3 * np.sin(2 * np.pi * 0.6 * time + 1)
    result = smooth(truth[:, None] + noise((len(time), 300)), FPS, 0.5) - truth[:, None]
    for end in (0, 1, -2, -1):
        assert np.sqrt(np.square(result[end]).mean()) < 1.6 * NOISE


def test_curves_do_not_disturb_each_other() -> None:
    values = noise((120, 3)).cumsum(axis=0)
    together = smooth(values, FPS, 0.5)
    for k in range(3):
        np.testing.assert_allclose(together[:, k], smooth(values[:, k : k + 1], FPS, 0.5)[:, 0], atol=1e-12)


@pytest.mark.parametrize("length", range(10))
@pytest.mark.parametrize("fps", [1.0, 30.0, 240.0])
def test_the_shortest_stretches(length: int, fps: float) -> None:
    raw = noise((length, 4), length)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = smooth(raw, fps, 1.0)
    assert result.shape == raw.shape and np.isfinite(result).all()
    if length < 5:
        np.testing.assert_array_equal(result, raw)


@pytest.mark.parametrize("size", [1e-4, 0.01, 1.0])
def test_noise_is_told_from_movement(size: float) -> None:
    time = seconds(10)
    moved = np.column_stack([0 * time, 30 * size * np.sin(2 * np.pi * time), 50 * size * blink(time, 5)])
    found = noise_level(moved + noise(moved.shape, size=size))
    np.testing.assert_allclose(found, size, rtol=0.2)
    np.testing.assert_array_equal(noise_level(np.zeros((50, 2))), 0)


def test_where_a_unit_rests_nothing_is_known_of_its_noise() -> None:
    """Half of the time at its bound: the noise is that of the other half."""
    raw = 0.3 + noise((400, 2))
    raw[100:320, 0] = 0
    np.testing.assert_allclose(noise_level(raw), NOISE, rtol=0.2)
    moving = np.r_[0:95, 325:400]
    result = smooth(raw, FPS, 0.5)
    assert jitter(result[moving, :1]) < 0.2 * jitter(raw[moving, :1])
    np.testing.assert_array_equal(result[115:305, 0], 0)


def test_runs_are_smoothed_each_for_itself() -> None:
    values = 0.5 + noise((100, 2))
    values[40:] += 3
    result = smooth_runs(values, [slice(0, 40), slice(45, 100)], FPS, 1.0)
    np.testing.assert_array_equal(result[:40], smooth(values[:40], FPS, 1.0))
    np.testing.assert_array_equal(result[45:], smooth(values[45:], FPS, 1.0))
    np.testing.assert_array_equal(result[40:45], values[40:45])


# ---- all curves of a person ----


def curves(tracked: npt.NDArray[np.bool_], seed: int = 0) -> Curves:
    """A head that turns slowly, with noise on everything; as solved, so empty where it was not seen."""
    frames = len(tracked)
    time = np.arange(frames) / FPS
    turn = np.column_stack([0.3 * np.sin(time), 0.5 * np.sin(0.7 * time), 0.1 * np.cos(time)])
    rotation = (
        Rotation.from_matrix(FRONTAL) * Rotation.from_rotvec(turn + noise((frames, 3), seed))
    ).as_matrix()
    place = np.column_stack([0.02 * np.sin(time), 0 * time, 0.8 + 0.05 * np.sin(0.5 * time)])
    empty = Curves.empty(frames, 4)
    return Curves(
        np.where(tracked[:, None], (0.4 + noise((frames, 4), seed)).clip(0, 1), 0).astype(np.float32),
        np.where(tracked[:, None, None], rotation, empty.rotation),
        np.where(tracked[:, None], place + noise((frames, 3), seed, 0.001), 0),
        np.where(tracked, 0.01, 0).astype(np.float32),
        tracked,
    )


def plain(frames: int) -> npt.NDArray[np.bool_]:
    return np.zeros(frames, bool)


def angles(matrices: npt.NDArray[np.floating]) -> Floats:
    """Turns, rad, from each frame to the next."""
    turns = Rotation.from_matrix(matrices)
    return np.asarray((turns[:-1].inv() * turns[1:]).magnitude())


@pytest.mark.parametrize("missing", [slice(0, 0), slice(40, 60)])
def test_strength_0_keeps_every_frame_that_was_seen(missing: slice) -> None:
    tracked = np.ones(120, bool)
    tracked[missing] = False
    raw = curves(tracked)
    result = smoothed(raw, seconds(4), plain(120), 0.0, controls=UNITS)
    np.testing.assert_array_equal(result.expression[tracked], raw.expression[tracked])
    np.testing.assert_array_equal(result.translation[tracked], raw.translation[tracked])
    np.testing.assert_allclose(result.rotation[tracked], raw.rotation[tracked], atol=1e-9)
    np.testing.assert_array_equal(result.tracked, tracked)


def test_rotations_are_smoothed_and_stay_rotations() -> None:
    """About half a turn, where rotation vectors jump and quaternions change sign."""
    raw = curves(np.ones(300, bool))
    result = smoothed(raw, seconds(10), plain(300), 0.5, controls=UNITS)
    turn = np.diff(angles(result.rotation))
    assert np.abs(turn).mean() < 0.3 * np.abs(np.diff(angles(raw.rotation))).mean()
    np.testing.assert_allclose(
        result.rotation @ result.rotation.transpose(0, 2, 1), np.eye(3)[None].repeat(300, 0), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(result.rotation), 1, atol=1e-9)
    apart = (Rotation.from_matrix(result.rotation).inv() * Rotation.from_matrix(raw.rotation)).magnitude()
    assert apart.max() < 5 * NOISE
    assert jitter(result.translation) < 0.2 * jitter(raw.translation)
    assert jitter(result.expression) < 0.2 * jitter(raw.expression)


def test_the_world_may_be_turned() -> None:
    """A camera on its side sees the same movement: no direction is special."""
    raw = curves(np.ones(150, bool))
    aside = Rotation.from_rotvec([0.4, -1.1, 2.2]).as_matrix()
    other = Curves(raw.expression, aside @ raw.rotation, raw.translation, raw.residual, raw.tracked)
    first, second = (smoothed(c, seconds(5), plain(150), 0.5, controls=UNITS).rotation for c in (raw, other))
    np.testing.assert_allclose(second, aside @ first, atol=1e-9)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_nothing_is_smoothed_across_a_cut(strength: float) -> None:
    """Both sides of it are what they are without the other."""
    raw = curves(np.ones(200, bool))
    raw.expression[100:] += 0.4
    raw.translation[100:] += (0.3, 0, 0.5)
    raw.rotation[100:] = raw.rotation[100:] @ Rotation.from_rotvec([0, 1.0, 0]).as_matrix()
    breaks = plain(200)
    breaks[100] = True
    time = seconds(200 / FPS)
    whole = smoothed(raw, time, breaks, strength, controls=UNITS)
    for side in (slice(0, 100), slice(100, 200)):
        part = Curves(*(getattr(raw, name)[side] for name in vars(raw)))
        alone = smoothed(part, time[side], plain(100), strength, controls=UNITS)
        for name in ("expression", "rotation", "translation"):
            np.testing.assert_allclose(getattr(whole, name)[side], getattr(alone, name), atol=1e-9)


def test_expressions_stay_in_bounds_where_they_have_any() -> None:
    raw = curves(np.ones(100, bool))
    step = np.where(np.arange(100) < 50, 0, 1)[:, None] + noise((100, 4), 5, 0.05)
    raw.expression[:] = step.clip(0, 1)
    inside = smoothed(raw, seconds(100 / FPS), plain(100), 1.0, controls=UNITS).expression
    assert inside.min() >= 0 and inside.max() <= 1
    raw.expression[:] = 3 * step - 1
    free = smoothed(raw, seconds(100 / FPS), plain(100), 1.0, controls=FREE).expression
    assert free.min() < -0.9 and free.max() > 1.9


def gap_take(frames: int, missing: slice) -> tuple[Curves, Curves, Floats]:
    """A face that is elsewhere after it was out of sight: curves as solved, filled, and times."""
    tracked = np.ones(frames, bool)
    tracked[missing] = False
    raw = curves(tracked)
    after = np.arange(frames) >= missing.stop
    raw.expression[after] += 0.5
    raw.translation[after] += (0.2, 0.0, 0.3)
    raw.rotation[after] = raw.rotation[after] @ Rotation.from_rotvec([0, 0.8, 0]).as_matrix()
    time = seconds(frames / FPS)
    return raw, smoothed(raw, time, plain(frames), 0.0, controls=UNITS), time


def test_a_long_gap_is_held_and_then_eased() -> None:
    raw, result, time = gap_take(200, slice(60, 140))
    np.testing.assert_array_equal(result.tracked, raw.tracked)
    hold = (time >= time[60]) & (time < time[140] - 0.5)
    assert hold.sum() > 60
    for name in ("expression", "rotation", "translation"):
        values, sides = getattr(result, name), getattr(raw, name)
        np.testing.assert_allclose(values[hold], np.broadcast_to(sides[59], values[hold].shape), atol=1e-6)
    easing = result.expression[124:141, 0]
    assert (np.diff(easing) >= -1e-6).all() and easing[-1] == raw.expression[140, 0]
    middle = result.expression[132, 0]  # a quarter of a second before
    assert abs(middle - (raw.expression[59, 0] + raw.expression[140, 0]) / 2) < 0.06


@pytest.mark.parametrize("missing", [slice(60, 61), slice(60, 64), slice(60, 75), slice(60, 140)])
def test_no_gap_makes_a_jump(missing: slice) -> None:
    """Values go from side to side in steps that none of them stands out of; a missed frame lies between."""
    raw, result, _ = gap_take(200, missing)
    inside = slice(missing.start - 1, missing.stop + 1)
    steps = min(missing.stop - missing.start + 1, 15)
    way = raw.expression[missing.stop, 0] - raw.expression[missing.start - 1, 0]
    assert np.abs(np.diff(result.expression[inside, 0])).max() < 1.7 * way / steps
    turned = angles(raw.rotation[[missing.start - 1, missing.stop]])[0]
    assert angles(result.rotation[inside]).max() < 1.7 * turned / steps
    np.testing.assert_allclose(np.linalg.det(result.rotation), 1, atol=1e-9)
    moved = np.linalg.norm(np.diff(result.translation[inside], axis=0), axis=1)
    assert (
        moved.max()
        < 1.7 * np.linalg.norm(raw.translation[missing.stop] - raw.translation[missing.start - 1]) / steps
    )


def test_before_the_first_sight_and_after_the_last_the_nearest_is_held() -> None:
    tracked = np.zeros(90, bool)
    tracked[30:60] = True
    raw = curves(tracked)
    result = smoothed(raw, seconds(3), plain(90), 0.5, controls=UNITS)
    for name in ("expression", "rotation", "translation"):
        values = getattr(result, name)
        np.testing.assert_allclose(values[:30], np.broadcast_to(values[30], values[:30].shape), atol=1e-9)
        np.testing.assert_allclose(values[60:], np.broadcast_to(values[59], values[60:].shape), atol=1e-9)
    np.testing.assert_array_equal(result.residual[~tracked], 0)


def test_easing_goes_by_the_clock_and_not_by_frames() -> None:
    """With a variable frame rate: half a second before the face is seen again, whatever frames lie there."""
    raw, _, _ = gap_take(100, slice(30, 60))
    step = np.where(np.arange(100) < 45, 0.1, 0.02)
    time = np.cumsum(step) - step[0]
    result = smoothed(raw, time, plain(100), 0.0, controls=UNITS).expression[:, 0]
    before, after = raw.expression[29, 0], raw.expression[60, 0]
    part = (result - before) / (after - before)
    gap = np.arange(30, 60)
    since = (time[gap] - (time[60] - 0.5)) / 0.5
    np.testing.assert_allclose(part[gap], np.where(since > 0, since**2 * (3 - 2 * since), 0), atol=1e-4)


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("share", ["all", "none", "last"])
def test_takes_of_hardly_a_frame(frames: int, share: str) -> None:
    tracked = {"all": np.ones, "none": np.zeros, "last": np.zeros}[share](frames, bool)
    tracked[frames - 1 :] |= share == "last"
    raw = curves(tracked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = smoothed(raw, seconds(frames / FPS), plain(frames), 1.0, controls=UNITS)
    for name in ("expression", "rotation", "translation"):
        values = getattr(result, name)
        assert values.shape == getattr(raw, name).shape and np.isfinite(values).all()
        if tracked.any():
            np.testing.assert_allclose(values[tracked], getattr(raw, name)[tracked], atol=0.05)
            np.testing.assert_allclose(
                values[~tracked], np.broadcast_to(values[-1], values[~tracked].shape), atol=1e-9
            )


def test_only_the_clock_tells_how_wide_windows_are() -> None:
    """A take at 60 a second is smoothed over as much time as one at 30, so over more frames."""
    raw = curves(np.ones(300, bool))
    slow = smoothed(raw, np.arange(300) / 15.0, plain(300), 0.5, controls=UNITS)
    fast = smoothed(raw, np.arange(300) / 120.0, plain(300), 0.5, controls=UNITS)
    assert jitter(fast.expression) < 0.7 * jitter(slow.expression)


# ---- which frames ----


def marks(text: str) -> npt.NDArray[np.bool_]:
    return np.array([letter == "1" for letter in text], bool)


@pytest.mark.parametrize(
    ("tracked", "breaks", "runs", "missing"),
    [
        ("", "", [], []),
        ("0", "0", [], [(0, 1)]),
        ("1", "1", [(0, 1)], []),
        ("111000", "000000", [(0, 3)], [(3, 6)]),
        ("0110011", "0000000", [(1, 3), (5, 7)], [(0, 1), (3, 5)]),
        ("11111", "00100", [(0, 2), (2, 5)], []),
        ("11111", "10011", [(0, 3), (3, 4), (4, 5)], []),
        ("11011", "00100", [(0, 2), (3, 5)], [(2, 3)]),
    ],
)
def test_unbroken_runs_and_gaps(
    tracked: str, breaks: str, runs: list[tuple[int, int]], missing: list[tuple[int, int]]
) -> None:
    assert [(s.start, s.stop) for s in unbroken(marks(tracked), marks(breaks))] == runs
    assert [(s.start, s.stop) for s in gaps(marks(tracked))] == missing


def test_the_best_frame_of_each_stretch() -> None:
    quality = np.array([1, 5, 2, 9, 1, 1, 0, 3, 8, 8], float)
    assert best_frames(quality, 5).tolist() == [1, 3, 4, 7, 8]
    assert best_frames(quality, 2).tolist() == [3, 8]
    assert best_frames(quality, 99).tolist() == list(range(10))
