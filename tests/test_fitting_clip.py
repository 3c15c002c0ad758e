"""Whole takes against exact truth: one identity and one focal length, curves in place, gaps and cuts told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from acted_take import (
    BLINKS,
    FPS,
    SIZE,
    Array,
    Sight,
    act,
    acted_units,
    sight_of,
    unit,
    write_records,
)
from moving_head import write_bare_head

from recon3d.capture import Capture
from recon3d.clip import ClipSolver, Person
from recon3d.errors import NoFaceError, UsageError
from recon3d.evaluation.metrics import rotation_error_degrees
from recon3d.evaluation.performance import Performance, compare_curves, film
from recon3d.evaluation.synthetic import exact_landmarks, random_truth
from recon3d.face.dense import DenseSource
from recon3d.fitting import FitState, LandmarkSolver
from recon3d.fitting.smooth import smooth_runs
from recon3d.head import HeadModel, load_head
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.media.video import Clip
from recon3d.observe import ClipSettings, observe, open_records

FRAMES = 130
FOCAL = 1080.0
NOISE = 0.5


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> ClipSolver:
    return ClipSolver(head, LandmarkSolver(head))


@pytest.fixture(scope="module")
def units() -> Array:
    return acted_units(FRAMES)


@pytest.fixture(scope="module")
def acted(head: HeadModel, units: Array) -> Performance:
    return act(head, units, 3)


@pytest.fixture(scope="module")
def sight(head: HeadModel, acted: Performance) -> Sight:
    """The whole take as the face networks would see it, with half a pixel of noise."""
    return sight_of(head, acted, NOISE)


def solve(
    solver: ClipSolver,
    folder: Path,
    sights: list[Sight],
    settings: ClipSettings,
    *,
    times: Array | None = None,
    cuts: tuple[int, ...] = (),
    chunk: int = 64,
) -> list[Person]:
    if times is None:
        times = np.arange(FRAMES) / FPS
    records = write_records(folder, times, sights, cuts=cuts, chunk=chunk)
    return solver.solve(records, SIZE, FPS, "take.mp4", settings)


@pytest.fixture(scope="module")
def person(solver: ClipSolver, sight: Sight, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The take solved as users do."""
    (found,) = solve(solver, tmp_path_factory.mktemp("take"), [sight], ClipSettings())
    return found


@pytest.fixture(scope="module")
def unsmoothed(solver: ClipSolver, sight: Sight, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The same without smoothing, and with a focal length that the user gives."""
    folder = tmp_path_factory.mktemp("raw")
    (found,) = solve(solver, folder, [sight], ClipSettings(smooth=0, focal="1080"))
    return found


def camera_points(head: HeadModel, capture: Capture) -> tuple[Array, Array]:
    """Landmarks (T, 478, 3) m and (T, 478, 2) px of the captured heads, by the words of the contract."""
    with torch.no_grad():
        shape = torch.as_tensor(capture.shape).expand(len(capture), -1)
        posed = head(shape, torch.as_tensor(capture.expression), torch.as_tensor(capture.pose)).vertices
        placed = posed + torch.as_tensor(capture.translation)[:, None]
        points = head.landmarks(placed, "mediapipe478").numpy()
    return points, points[..., :2] / points[..., 2:] * capture.focal + capture.principal


def rotations(capture: Capture) -> Array:
    return axis_angle_to_matrix(torch.as_tensor(capture.pose[:, 0])).numpy()


def jitter(values: Array) -> float:
    return float(np.abs(np.diff(values, n=2, axis=0)).mean())


# ---- the take ----


def test_curves_are_found_again(person: Person, units: Array) -> None:
    report = compare_curves(person.capture.arkit, units)
    assert report.correlation > 0.98
    assert report.mae < 0.03
    assert report.lag == 0
    assert (report.blinks_found, report.blinks) == (6, 6)
    idle = units.max(axis=0) == 0
    assert person.capture.arkit[:, idle].mean() < 0.03


@pytest.mark.parametrize("name", ["jawOpen", "mouthSmileLeft", "mouthSmileRight", "browInnerUp"])
def test_each_unit_does_what_it_did(person: Person, units: Array, name: str) -> None:
    found, true = person.capture.arkit[:, unit(name)], units[:, unit(name)]
    assert np.corrcoef(found, true)[0, 1] > 0.96
    others = np.delete(person.capture.arkit, unit(name), axis=1)
    assert (
        np.corrcoef(found, true)[0, 1]
        >= max(np.corrcoef(other, true)[0, 1] for other in others.T if other.std() > 1e-3) - 0.01
    )


def test_the_gaze_is_found(person: Person, units: Array) -> None:
    """Both eyes, either way, and by as much."""
    for side in ("Left", "Right"):
        out, into = unit(f"eyeLookOut{side}"), unit(f"eyeLookIn{side}")
        found = person.capture.arkit[:, out] - person.capture.arkit[:, into]
        true = units[:, out] - units[:, into]
        assert np.corrcoef(found, true)[0, 1] > 0.99
        assert 0.8 < np.ptp(found) / np.ptp(true) < 1.1
        up_and_down = [unit(f"eyeLook{way}{side}") for way in ("Up", "Down")]
        assert person.capture.arkit[:, up_and_down].mean() < 0.06


@pytest.mark.parametrize("middle", BLINKS)
def test_blinks_stay_sharp(person: Person, units: Array, middle: int) -> None:
    """As high as without smoothing, in the same frame, and over at once."""
    for side in ("Left", "Right"):
        lid = person.capture.arkit[:, unit(f"eyeBlink{side}")]
        window = lid[middle - 8 : middle + 9]
        assert abs(int(window.argmax()) - 8) <= 1
        assert window.max() > 0.65
        assert max(window[0], window[-1], lid[middle - 4], lid[middle + 4]) < 0.25


def test_smoothing_calms_and_keeps(person: Person, unsmoothed: Person, units: Array) -> None:
    """A third of the jitter, no lag, and nearer to the truth."""
    smooth, raw = person.capture, unsmoothed.capture
    assert jitter(smooth.arkit) < 0.4 * jitter(raw.arkit)
    assert jitter(smooth.translation) < 0.4 * jitter(raw.translation)
    still = [unit(name) for name in ("browInnerUp", "mouthSmileLeft", "jawOpen", "eyeLookOutLeft")]
    for k in still:
        correlations = [np.corrcoef(one.arkit[:, k], units[:, k])[0, 1] for one in (smooth, raw)]
        assert correlations[0] > correlations[1]
    peaks = [max(one.arkit[m - 1 : m + 2, unit("eyeBlinkLeft")]) for one in (smooth, raw) for m in BLINKS]
    assert np.mean(peaks[:3]) > 0.93 * np.mean(peaks[3:])


def test_the_head_is_where_it_was(head: HeadModel, person: Person, acted: Performance) -> None:
    capture = person.capture
    turned = rotation_error_degrees(rotations(capture), acted.rotation.numpy())
    assert turned.mean() < 0.5 and turned.max() < 1.0
    state = FitState(acted.rotation, acted.translation, acted.shape.expand(FRAMES, -1), acted.expression)
    translation = state.posed(head).translation
    depth = capture.translation[:, 2] / capture.focal  # which are told together much better than alone
    wanted = translation[:, 2].numpy() / FOCAL
    assert np.corrcoef(depth, wanted)[0, 1] > 0.99
    points, pixels = camera_points(head, capture)
    assert (points[..., 2] > 0.5).all()
    exact = sight_of(head, acted).pixels
    assert np.linalg.norm(pixels - exact, axis=-1).mean() < 0.4, "px: less than the noise"


def test_one_identity_and_one_focal_length(person: Person, acted: Performance) -> None:
    capture = person.capture
    assert capture.shape.ndim == 1
    assert np.corrcoef(capture.shape[:30], acted.shape[0, :30])[0, 1] > 0.65
    assert capture.focal == pytest.approx(FOCAL, rel=0.12)
    assert not np.any(capture.pose[:, 1:]), "neck, jaw and eyes rest: the units move them"


def test_the_capture_tells_the_clip(head: HeadModel, person: Person, sight: Sight) -> None:
    capture = person.capture
    assert (capture.head, capture.source, capture.fps) == (head.id, "take.mp4", FPS)
    assert capture.size == SIZE and capture.principal.tolist() == [240, 240]
    np.testing.assert_array_equal(capture.timestamps, np.arange(FRAMES) / FPS)
    assert capture.tracked.all() and person.lost == () and person.cuts == ()
    np.testing.assert_allclose(capture.score, 0.9)
    np.testing.assert_allclose(capture.box[:, :2], sight.pixels.min(axis=1))
    np.testing.assert_allclose(capture.box[:, 2:], sight.pixels.max(axis=1))
    np.testing.assert_array_equal(capture.arkit, capture.expression)
    # half a pixel of noise in each coordinate of a face about 195 px in radius
    assert 0.5 * NOISE / 195 < person.residual < 2.5 * NOISE / 195


def test_the_landmarks_are_those_of_the_head(head: HeadModel, person: Person, sight: Sight) -> None:
    """The 68 lie on the same head that the 478 were fitted to: the corners of eyes and mouth agree."""
    corners = {36: 33, 39: 133, 42: 362, 45: 263, 48: 61, 54: 291}
    for few, many in corners.items():
        gap = np.linalg.norm(person.capture.landmarks68[:, few] - sight.pixels[:, many], axis=-1)
        assert gap.mean() < 8, "px, of a face 250 px wide"


@pytest.mark.parametrize(("given", "pixels"), [("1080", 1080.0), ("50mm", None)])
def test_a_focal_length_that_is_given_is_used(
    solver: ClipSolver, sight: Sight, tmp_path: Path, given: str, pixels: float | None
) -> None:
    few = [sight.part(slice(0, 12))]
    settings = ClipSettings(focal=given)
    (found,) = solve(solver, tmp_path, few, settings, times=np.arange(12) / FPS)
    film_diagonal = np.hypot(36, 24)
    wanted = pixels or 50 / film_diagonal * np.hypot(*SIZE)
    assert found.capture.focal == pytest.approx(wanted, rel=0.05 if pixels is None else 1e-6)


def test_the_size_of_the_chunks_does_not_matter(
    solver: ClipSolver, sight: Sight, unsmoothed: Person, tmp_path: Path
) -> None:
    settings = ClipSettings(smooth=0, focal="1080")
    (found,) = solve(solver, tmp_path, [sight], settings, chunk=37)
    np.testing.assert_allclose(found.capture.shape, unsmoothed.capture.shape, atol=1e-3)
    np.testing.assert_allclose(found.capture.arkit, unsmoothed.capture.arkit, atol=0.02)
    np.testing.assert_allclose(found.capture.pose, unsmoothed.capture.pose, atol=1e-3)


# ---- gaps, cuts, hardly anything ----


def test_where_the_face_was_not_seen_it_is_eased_and_said(
    solver: ClipSolver, sight: Sight, unsmoothed: Person, tmp_path: Path
) -> None:
    gap = slice(40, 80)
    seen = np.r_[0:40, 80:FRAMES]
    both = Sight(0, seen, sight.pixels[seen], sight.scores[seen])
    settings = ClipSettings(smooth=0.5, focal="1080")
    (found,) = solve(solver, tmp_path, [both], settings)
    capture = found.capture
    assert np.flatnonzero(~capture.tracked).tolist() == list(range(40, 80))
    assert np.array(found.lost) == pytest.approx(np.array([[40, 79]]) / FPS)
    assert not capture.score[gap].any() and (capture.score[capture.tracked] > 0).all()
    for values in (capture.arkit, capture.translation, rotations(capture)):
        held = values[40:65]
        np.testing.assert_allclose(held, np.broadcast_to(values[39], held.shape), atol=1e-5)
        way = np.abs(values[80] - values[39]).max()
        assert np.abs(np.diff(values[39:81], axis=0)).max() < max(0.15 * way, 1e-5)
    np.testing.assert_array_equal(capture.box[gap, :2], capture.landmarks68[gap].min(axis=1))
    np.testing.assert_array_equal(capture.box[gap, 2:], capture.landmarks68[gap].max(axis=1))
    assert np.abs(capture.arkit[seen] - unsmoothed.capture.arkit[seen]).mean() < 0.02


def test_a_clip_that_begins_and_ends_with_nobody(solver: ClipSolver, sight: Sight, tmp_path: Path) -> None:
    (found,) = solve(solver, tmp_path, [sight.part(slice(20, 50))], ClipSettings(focal="1080"))
    capture = found.capture
    assert np.flatnonzero(capture.tracked).tolist() == list(range(20, 50))
    for values in (capture.arkit, capture.translation, capture.pose):
        np.testing.assert_allclose(values[:20], np.broadcast_to(values[20], values[:20].shape), atol=1e-5)
        np.testing.assert_allclose(values[50:], np.broadcast_to(values[49], values[50:].shape), atol=1e-5)
    assert np.array(found.lost) == pytest.approx(np.array([[0, 19], [50, FRAMES - 1]]) / FPS)


@pytest.fixture(scope="module")
def two_shots(sight: Sight) -> list[Sight]:
    """The same person, and a moment later, cut in after 14 frames."""
    later = sight.part(slice(86, 100))
    return [sight.part(slice(0, 14)), replace(later, frame=later.frame - 72)]


@pytest.fixture(scope="module")
def two_shots_raw(
    solver: ClipSolver, two_shots: list[Sight], tmp_path_factory: pytest.TempPathFactory
) -> Person:
    """As solved, before any smoothing."""
    settings = ClipSettings(focal="1080", smooth=0.0)
    times = np.arange(28) / FPS
    (found,) = solve(solver, tmp_path_factory.mktemp("shots"), two_shots, settings, times=times)
    return found


@pytest.mark.parametrize(("cuts", "tracklet"), [((14,), 0), ((), 1)])
def test_nothing_is_smeared_across_a_cut(
    solver: ClipSolver,
    two_shots: list[Sight],
    two_shots_raw: Person,
    tmp_path: Path,
    cuts: tuple[int, ...],
    tracklet: int,
) -> None:
    """Nor where another sight of the face begins; each shot is smoothed as if it were alone."""
    shots = [two_shots[0], replace(two_shots[1], tracklet=tracklet)]
    times = np.arange(28) / FPS
    settings = ClipSettings(focal="1080", smooth=1.0)
    (found,) = solve(solver, tmp_path, shots, settings, times=times, cuts=cuts)
    assert found.capture.tracked.all() and found.cuts == pytest.approx([14 / FPS] * len(cuts))
    sides = [slice(0, 14), slice(14, 28)]
    alone = smooth_runs(two_shots_raw.capture.arkit, sides, FPS, 1.0).clip(0, 1)
    np.testing.assert_allclose(found.capture.arkit, alone, atol=1e-4)
    whole = smooth_runs(two_shots_raw.capture.arkit, [slice(0, 28)], FPS, 1.0).clip(0, 1)
    assert np.abs(whole - alone).max() > 0.01, "it would show"


def test_times_are_the_clips_own(solver: ClipSolver, sight: Sight, tmp_path: Path) -> None:
    """A variable frame rate."""
    times = np.cumsum(np.where(np.arange(16) % 3, 0.02, 0.07))
    (found,) = solve(solver, tmp_path, [sight.part(slice(0, 16))], ClipSettings(focal="1080"), times=times)
    np.testing.assert_array_equal(found.capture.timestamps, times)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_takes_of_hardly_a_frame(solver: ClipSolver, sight: Sight, tmp_path: Path, frames: int) -> None:
    times = np.arange(frames) / FPS
    (found,) = solve(solver, tmp_path, [sight.part(slice(0, frames))], ClipSettings(), times=times)
    assert len(found.capture) == frames and found.capture.tracked.all()
    assert found.residual < 0.01


def test_a_clip_without_anybody_says_so(solver: ClipSolver, tmp_path: Path) -> None:
    with pytest.raises(NoFaceError, match="no face found in the whole clip") as error:
        solve(solver, tmp_path / "empty", [], ClipSettings())
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(NoFaceError):
        solve(solver, tmp_path / "none", [], ClipSettings(calibrate=(0, 1)), times=np.zeros(0))


# ---- settings ----


def test_calibration_takes_the_face_at_rest_for_neutral(
    head: HeadModel, solver: ClipSolver, tmp_path: Path
) -> None:
    """Somebody whose mouth is always turned up, and brow always down, a little."""
    habit = {"mouthSmileLeft": 0.35, "mouthSmileRight": 0.35, "browDownLeft": 0.3, "browDownRight": 0.3}
    units = np.concatenate([np.zeros((45, 52)), acted_units(45)])
    for name, value in habit.items():
        units[:, unit(name)] += value
    sight = sight_of(head, act(head, units, 3), NOISE)
    times = np.arange(90) / FPS
    stretch = ClipSettings(calibrate=(0.0, 1.4), focal="1080")
    (plain,) = solve(solver, tmp_path / "plain", [sight], replace(stretch, calibrate=None), times=times)
    (calibrated,) = solve(solver, tmp_path / "calibrated", [sight], stretch, times=times)
    before, after = plain.capture.arkit, calibrated.capture.arkit
    smile = [unit("mouthSmileLeft"), unit("mouthSmileRight")]
    assert before[:43, smile].mean() > 0.18
    assert after[:43, smile].mean() < 0.05
    assert after[:43].sum(axis=1).mean() < 0.5 * before[:43].sum(axis=1).mean()
    for name in ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft"):
        k = unit(name)
        assert np.corrcoef(after[45:, k], units[45:, k])[0, 1] > 0.97
    assert calibrated.residual < 1.5 * plain.residual
    assert not np.allclose(calibrated.capture.shape, plain.capture.shape, atol=0.1)


def test_calibration_with_nobody_says_so(solver: ClipSolver, sight: Sight, tmp_path: Path) -> None:
    settings = ClipSettings(calibrate=(3.0, 4.0))
    with pytest.raises(UsageError, match=r"3:4: nobody is seen .* 4\.3 s long") as error:
        solve(solver, tmp_path, [sight.part(slice(0, 60))], settings)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"faces": 0},
        {"faces": -1},
        {"faces": "some"},
        {"smooth": -0.1},
        {"smooth": 1.1},
        {"smooth": float("nan")},
        {"calibrate": (2.0, 1.0)},
        {"calibrate": (-1.0, 1.0)},
        {"calibrate": (1.0, 1.0)},
        {"focal": "wide"},
        {"focal": "-5"},
    ],
)
def test_settings_out_of_range_are_said_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as error:
        ClipSettings(**wrong)  # type: ignore[arg-type]
    assert len(str(error.value).splitlines()) == 1


# ---- other heads, and the whole way from pixels ----


def test_a_head_without_arkit_units_gets_the_networks_scores(tmp_path: Path) -> None:
    """Smoothed, and eased over gaps, as the head's own coefficients are."""
    bare = load_head(write_bare_head(tmp_path / "bare.npz"))
    random = np.random.default_rng(0)
    time = np.arange(40) / FPS
    wave = np.sin(time[:, None] * random.uniform(3, 9, 20) + random.uniform(0, 6, 20))
    expression = torch.tensor(0.5 * wave, dtype=torch.float32)
    truth = random_truth(bare, expression, random, shapes=8, turn=(0, 0, 0), distance=(0.8, 0.8))
    middle = truth.translation[:1] + 0 * truth.translation
    truth = replace(truth, shape=truth.shape[:1].expand(40, -1), translation=middle)
    pixels = exact_landmarks(bare, truth).numpy() + 0.1 * random.normal(size=(40, 478, 2))
    true_units = np.tile(0.5 + 0.3 * np.sin(3 * time)[:, None], (1, 52))
    scores = (true_units + 0.02 * random.normal(size=(40, 52))).clip(0, 1).astype(np.float32)
    seen = np.r_[0:15, 20:40]
    sight = Sight(0, seen, pixels[seen].astype(np.float32), scores[seen])
    records = write_records(tmp_path / "work", time, [sight])
    solver = ClipSolver(bare, LandmarkSolver(bare))
    (found,) = solver.solve(records, (512, 512), FPS, "take", ClipSettings(focal="1228.8"))
    capture = found.capture
    assert capture.expression.shape == (40, 20) and capture.arkit.shape == (40, 52)
    assert (
        np.abs(capture.arkit[seen] - true_units[seen]).mean()
        < 0.75 * np.abs(scores[seen] - true_units[seen]).mean()
    )
    assert jitter(capture.arkit[20:]) < 0.5 * jitter(scores[20:])
    assert (
        np.abs(np.diff(capture.arkit[14:21], axis=0)) <= np.abs(capture.arkit[20] - capture.arkit[14]) + 1e-6
    ).all()
    moved = [
        k for k in range(20) if np.corrcoef(capture.expression[seen, k], expression[seen, k])[0, 1] > 0.9
    ]
    assert len(moved) >= 15 and capture.expression.min() < -0.2, "of any sign"


def test_from_pixels_to_curves(head: HeadModel, solver: ClipSolver, tmp_path: Path) -> None:
    """A take that is drawn, looked at by the networks, and solved."""
    units = acted_units(40)
    acted = act(head, units, 5)
    pictures = list(film(head, acted))

    def read(start: int, _: object) -> object:
        return ((k, k / FPS, pictures[k]) for k in range(start, len(pictures)))

    clip = Clip(tmp_path / "acted.mp4", SIZE, FPS, 40, None, False, read)  # type: ignore[arg-type]
    records = open_records(tmp_path / "work")
    observe(clip, records, DenseSource(threads=1), ClipSettings())
    (found,) = solver.solve(records, SIZE, FPS, "acted.mp4", ClipSettings())
    capture = found.capture
    assert capture.tracked.all()
    for name, least in (("jawOpen", 0.85), ("eyeBlinkLeft", 0.9), ("eyeLookOutLeft", 0.85)):
        assert np.corrcoef(capture.arkit[:, unit(name)], units[:, unit(name)])[0, 1] > least, name
    assert rotation_error_degrees(rotations(capture), acted.rotation.numpy()).mean() < 4
    exact = sight_of(head, acted).pixels
    _, pixels = camera_points(head, capture)
    assert np.linalg.norm(pixels - exact, axis=-1).mean() < 0.02 * 250
    jaw = capture.arkit[:, unit("jawOpen")]
    late = [np.corrcoef(jaw[3 + k : 37 + k], units[3:37, unit("jawOpen")])[0, 1] for k in (-2, 0, 2)]
    assert int(np.argmax(late)) == 1
    assert all(b > a for a, b in pairwise(capture.timestamps))
