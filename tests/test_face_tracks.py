"""Following faces: numbers that last, faces that leave and come back, cuts, and a state that can be saved."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image, ImageFilter

from recon3d.face import Face
from recon3d.face.dense import DenseSource
from recon3d.face.tracks import FaceTracker, Sighting
from recon3d.media.video import open_clip

Pixels = npt.NDArray[np.uint8]
Steps = list[tuple[list[Sighting], bool]]
VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
FPS = 25
CANVAS = (480, 320)
#: The portrait's side at scale 1, px.
SIDE = 224


@pytest.fixture(scope="module")
def source() -> DenseSource:
    return DenseSource(threads=1)


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    """Head and shoulders of a photograph."""
    return np.ascontiguousarray(skimage.data.astronaut()[10 : 10 + SIDE, 110 : 110 + SIDE])


@pytest.fixture(scope="module")
def backdrop() -> Pixels:
    """A picture without faces, in which movement and cuts show."""
    brick = skimage.data.coffee()
    return np.array(Image.fromarray(brick).resize(CANVAS, Image.Resampling.BILINEAR)) // 2 + 40


def scene(backdrop: Pixels, *pasted: tuple[Pixels, float, float, float]) -> Pixels:
    """Lay pictures over a backdrop: each with x, y of its upper left corner (px, fractions too) and scale."""
    width, height = backdrop.shape[1::-1]
    frame = backdrop.copy()
    for picture, x, y, scale in pasted:
        affine = (1 / scale, 0, -x / scale, 0, 1 / scale, -y / scale)
        lay = Image.fromarray(picture).convert("RGBA")
        lay = lay.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
        rgba = np.array(lay)
        inside = rgba[..., 3] > 0
        frame[inside] = rgba[..., :3][inside]
    return frame


def follow(tracker: FaceTracker, frames: Iterable[Pixels], start: int = 0) -> Steps:
    return [tracker.step(frame, (start + k) / FPS) for k, frame in enumerate(frames)]


def numbers(steps: Steps) -> list[list[int]]:
    return [sorted(one.tracklet for one in seen) for seen, _ in steps]


def cuts(steps: Steps) -> list[int]:
    return [k for k, (_, cut) in enumerate(steps) if cut]


def middle(face: Face) -> npt.NDArray[np.float32]:
    return (face.box[:2] + face.box[2:]) / 2


def assert_same(a: Steps, b: Steps) -> None:
    """Both runs saw the very same, bit by bit."""
    assert numbers(a) == numbers(b) and cuts(a) == cuts(b)
    for (ours, _), (theirs, _) in zip(a, b, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one.face.landmarks, other.face.landmarks)
            assert one.face.score == other.face.score
            assert (one.sharpness, one.light) == (other.sharpness, other.light)


def test_one_tracklet_follows_a_face_that_moves_and_grows(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    path = [(20 + 5 * k, 30 + 20 * np.sin(k / 4), 0.8 + 0.4 * (1 - np.cos(k / 6)) / 2) for k in range(40)]
    steps = follow(FaceTracker(source), [scene(backdrop, (portrait, *place)) for place in path])
    assert numbers(steps) == [[0]] * 40 and not cuts(steps)
    first = steps[0][0][0].face.landmarks[:, :2]
    (x0, y0, s0), size = path[0], float(np.ptp(first, axis=0).max())
    for (x, y, scale), (seen, _) in zip(path, steps, strict=True):
        expected = (first - (x0, y0)) / s0 * scale + (x, y)
        error = np.linalg.norm(seen[0].face.landmarks[:, :2] - expected, axis=1).mean()
        assert error < 0.025 * size * scale / s0


def test_two_faces_are_two_tracklets_that_keep_their_numbers(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    other = np.ascontiguousarray(portrait[:, ::-1])
    frames = [
        scene(backdrop, (portrait, 5 + k, 60 - k, 0.9), (other, 262 - k, 20 + 2 * k, 0.8)) for k in range(30)
    ]
    steps = follow(FaceTracker(source), frames)
    assert numbers(steps) == [[0, 1]] * 30
    for number in (0, 1):
        places = np.array([middle(one.face) for seen, _ in steps for one in seen if one.tracklet == number])
        assert np.abs(np.diff(places, axis=0)).max() < 5


def test_a_face_that_comes_later_is_found_within_half_a_second(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    other = np.ascontiguousarray(portrait[:, ::-1])
    alone = scene(backdrop, (portrait, 5, 60, 0.9))
    both = scene(backdrop, (portrait, 5, 60, 0.9), (other, 262, 50, 0.9))
    steps = follow(FaceTracker(source), [alone] * 10 + [both] * 16)
    assert numbers(steps)[:10] == [[0]] * 10
    came = next(k for k, seen in enumerate(numbers(steps)) if seen == [0, 1])
    assert came - 10 <= FPS / 2 + 1
    assert numbers(steps)[came:] == [[0, 1]] * (26 - came)
    only = follow(FaceTracker(source, max_faces=1), [both] * 16)
    assert numbers(only) == [[0]] * 16


@pytest.mark.parametrize(
    ("away", "back_at", "goes_on"), [(15, 100.0, True), (40, 100.0, False), (15, 310.0, False)]
)
def test_a_face_goes_on_where_it_comes_back_soon_and_at_its_place(
    source: DenseSource, portrait: Pixels, backdrop: Pixels, away: int, back_at: float, goes_on: bool
) -> None:
    before = scene(backdrop, (portrait, 100, 60, 0.8))
    after = scene(backdrop, (portrait, back_at, 63, 0.8))
    tracker = FaceTracker(source)
    steps = follow(tracker, [before] * 5 + [backdrop] * away + [after] * 4)
    seen = numbers(steps)
    assert seen[:5] == [[0]] * 5 and seen[5 : 5 + away] == [[]] * away and not cuts(steps)
    assert seen[5 + away :] == [[0] if goes_on else [1]] * 4


def test_a_cut_is_told_and_ends_all_tracklets(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    """Even where the next shot has a face at the very same place."""
    first = [scene(backdrop, (portrait, 100 + k, 60, 0.8)) for k in range(8)]
    second = [scene(255 - backdrop, (portrait[:, ::-1], 100 + k, 60, 0.8)) for k in range(8)]
    steps = follow(FaceTracker(source), first + second + first)
    assert cuts(steps) == [8, 16]
    assert numbers(steps) == [[0]] * 8 + [[1]] * 8 + [[2]] * 8


def test_movement_and_light_are_no_cuts(source: DenseSource, portrait: Pixels, backdrop: Pixels) -> None:
    random = np.random.default_rng(0)
    frames = []
    for k in range(40):
        frame = np.roll(scene(backdrop, (portrait, 100 + 8 * np.sin(k / 2), 60, 0.8)), 3 * k, axis=1)
        noisy = frame * (0.4 + 0.6 * k / 40) + random.normal(0, 8, frame.shape)
        frames.append(noisy.clip(0, 255).astype(np.uint8))
    tracker = FaceTracker(source)
    assert not cuts(follow(tracker, frames))


def test_another_picture_size_is_a_cut(source: DenseSource, portrait: Pixels, backdrop: Pixels) -> None:
    large = scene(backdrop, (portrait, 100, 60, 0.8))
    steps = follow(FaceTracker(source), [large, large, large[:210], large[:210]])
    assert cuts(steps) == [2] and numbers(steps) == [[0], [0], [1], [1]]


def test_two_tracklets_that_come_to_follow_one_face_become_the_older(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    """One face slides in front of another of its size."""
    other = np.ascontiguousarray(portrait[:, ::-1])
    frames = [
        scene(backdrop, (other, 250, 60, 0.9), (portrait, min(5.0 + 9 * k, 250), 60, 0.9)) for k in range(36)
    ]
    seen = numbers(follow(FaceTracker(source), frames))
    assert seen[0] == [0, 1]
    assert all(len(one) == 1 for one in seen[-5:])
    assert seen[-1][0] in (0, 1)


def test_a_face_goes_out_of_the_picture_and_takes_its_tracklet_along(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    frames = [scene(backdrop, (portrait, 250 + 14 * k, 60, 1.0)) for k in range(24)]
    steps = follow(FaceTracker(source), frames)
    seen = numbers(steps)
    assert seen[:4] == [[0]] * 4 and seen[-4:] == [[]] * 4
    assert {number for one in seen for number in one} == {0}
    assert all(np.isfinite([one.sharpness, one.light]).all() for found, _ in steps for one in found)


def test_sharpness_and_light_tell_blurred_and_dark_faces(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    sharp = scene(backdrop, (portrait, 100, 60, 1.0))
    blurred = np.array(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(2)))
    dark = sharp // 3

    def look(frame: Pixels) -> Sighting:
        ((seen, _),) = follow(FaceTracker(source), [frame])
        return seen[0]

    assert look(blurred).sharpness < 0.7 * look(sharp).sharpness
    assert look(dark).light == pytest.approx(look(sharp).light / 3, rel=0.05)


def test_a_restored_tracker_goes_on_as_if_nothing_had_happened(
    source: DenseSource, portrait: Pixels, backdrop: Pixels
) -> None:
    """Whenever it was saved: two faces, one away for a while, nobody, a cut, and more faces."""
    other = np.ascontiguousarray(portrait[:, ::-1])
    frames = [scene(backdrop, (portrait, 5 + k, 60, 0.9), (other, 262 - k, 30 + k, 0.8)) for k in range(8)]
    frames += [scene(backdrop, (portrait, 13, 60, 0.9))] * 6 + [backdrop] * 4
    frames += [scene(backdrop, (other, 254, 38, 0.8))] * 4
    frames += [scene(255 - backdrop, (other, 100 - 2 * k, 30, 0.8)) for k in range(8)]
    whole = follow(FaceTracker(source), frames)
    assert cuts(whole) == [22]
    assert numbers(whole) == [[0, 1]] * 8 + [[0]] * 6 + [[]] * 4 + [[1]] * 4 + [[2]] * 8
    tracker, states = FaceTracker(source), []
    for k, frame in enumerate(frames):
        states.append(tracker.save())
        tracker.step(frame, k / FPS)
    for k in range(0, len(frames), 3):
        assert all(value.dtype != object for value in states[k].values())
        fresh = FaceTracker(source)
        fresh.restore(states[k])
        assert_same(whole[k:], follow(fresh, frames[k:], k))


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the clips are not here")
def test_real_clips_one_after_another(source: DenseSource) -> None:
    """A person who speaks is one tracklet, without cuts; where another clip follows there is one."""
    small = sorted(VIDEOS.glob("*.mp4"), key=lambda path: path.stat().st_size)[1:6]
    frames, starts = [], []
    for path in small:
        with open_clip(path) as clip:
            starts.append(len(frames))
            for frame in islice(clip.frames(), 30):
                frames.append(np.array(Image.fromarray(frame.pixels).resize((320, 320))))
    steps = follow(FaceTracker(source, max_faces=1), frames)
    assert cuts(steps) == starts[1:]
    assert numbers(steps) == [[int(np.searchsorted(starts, k, "right")) - 1] for k in range(len(frames))]
