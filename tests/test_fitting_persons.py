"""Who is who: tracklets of one face become one person, and those of two never do."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from acted_take import FPS, SIZE, Sight, act, acted_units, sight_of, write_records
from PIL import Image

from recon3d.clip import ClipSolver, Person
from recon3d.evaluation.synthetic import exact_landmarks, random_truth, sparse_expressions
from recon3d.face.dense import DenseSource
from recon3d.fitting import LandmarkSolver
from recon3d.fitting.identity import Identity, Observations, solve_identity
from recon3d.fitting.persons import SAME_PERSON, Tracklet, distance, group_persons
from recon3d.head import HeadModel
from recon3d.media.video import Clip, Frame, open_clip
from recon3d.observe import ClipSettings, Faces, observe, open_records

VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> LandmarkSolver:
    return LandmarkSolver(head)


def identity(place: float, sure: float = 1.0) -> Identity:
    """Somebody who differs by ``place`` in every coefficient, known to 1 / sqrt(``sure``)."""
    return Identity(torch.full((1, 10), place), 1000.0, 0.0, sure * torch.eye(10))


def sight(
    number: int, first: int, stop: int, place: float | None, size: float = 100.0, sure: float = 1.0
) -> Tracklet:
    who = None if place is None else identity(place, sure)
    return Tracklet(number, np.arange(first, stop), size, who)


#: Places of one person, and of another one.
ANN, ANN_AGAIN, BOB, BOB_AGAIN = 0.0, 1.0, 10.0, 11.0


def test_who_returns_is_the_same_person() -> None:
    again = [sight(0, 0, 50, ANN), sight(1, 60, 90, ANN_AGAIN)]
    assert group_persons(again, 100) == [[0, 1]]
    another = [sight(0, 0, 50, ANN), sight(1, 60, 90, BOB)]
    assert group_persons(another, 100) == [[0], [1]]


@pytest.mark.parametrize("first", [0, 20, 49])
def test_who_is_seen_together_is_never_one_person(first: int) -> None:
    """Be it for a single frame, and be they twins."""
    twins = [sight(0, 0, 50, ANN), sight(1, first, first + 40, ANN)]
    assert group_persons(twins, 100) == [[0], [1]]
    assert group_persons([twins[0], sight(1, 50, 90, ANN)], 100) == [[0, 1]]


def test_a_cut_back_and_forth_between_two_people() -> None:
    shots = [sight(k, 20 * k, 20 * k + 20, (ANN, BOB_AGAIN, ANN_AGAIN, BOB)[k % 4]) for k in range(8)]
    assert group_persons(shots, 160) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert group_persons(shots[::-1], 160) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_the_nearest_person_is_chosen() -> None:
    people = [sight(0, 0, 60, 0.0), sight(1, 0, 30, 4.0), sight(2, 70, 90, 2.5)]
    assert distance(identity(0.0), identity(2.5)) < SAME_PERSON, "it might be either"
    assert group_persons(people, 100) == [[0], [1, 2]]


def test_who_is_seen_with_one_of_the_two_is_the_other() -> None:
    """Although nearer to the first."""
    people = [sight(0, 0, 60, 0.0), sight(1, 0, 30, 3.6), sight(2, 55, 80, 1.0)]
    assert group_persons(people, 100) == [[0], [1, 2]]


def test_the_longer_sight_chooses_first() -> None:
    people = [sight(0, 0, 50, ANN), sight(1, 60, 75, ANN), sight(2, 60, 90, ANN)]
    assert group_persons(people, 100) == [[0, 2], [1]]


def test_any_sight_of_a_person_will_do() -> None:
    """Somebody who is turned away step by step."""
    steps = [sight(0, 0, 50, 0.0), sight(1, 50, 90, 2.8), sight(2, 90, 120, 5.6)]
    assert distance(identity(0.0), identity(5.6)) > SAME_PERSON
    assert group_persons(steps, 120) == [[0, 1, 2]]


def test_the_most_prominent_person_comes_first() -> None:
    """Large and long in sight, over all sights together."""
    people = [
        sight(0, 0, 100, ANN, size=50),
        sight(1, 0, 40, BOB, size=80),
        sight(2, 60, 100, BOB, size=80),
        sight(3, 0, 100, 30.0, size=40),
    ]
    assert group_persons(people, 100) == [[1, 2], [0], [3]]


def test_short_sights_join_or_are_left_out() -> None:
    long = sight(0, 0, 50, ANN)
    assert group_persons([long, sight(1, 60, 65, ANN_AGAIN)], 100) == [[0, 1]]
    assert group_persons([long, sight(1, 60, 65, BOB)], 100) == [[0]]
    assert group_persons([long, sight(1, 60, 63, None)], 100) == [[0]]
    assert group_persons([long, sight(1, 60, 68, BOB)], 100) == [[0], [1]]


@pytest.mark.parametrize("place", [ANN, None])
def test_a_short_sight_is_kept_where_there_is_nothing_else(place: float | None) -> None:
    assert group_persons([sight(4, 50, 52, place)], 100) == [[4]]
    assert group_persons([sight(4, 50, 52, place), sight(5, 60, 63, place)], 100) in ([[5]], [[4, 5]])
    assert group_persons([], 100) == []


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_everybody_is_kept_who_is_there_all_through_a_short_clip(frames: int) -> None:
    """A clip of a few frames has no room for longer sights."""
    people = [sight(0, 0, frames, None), sight(1, 0, frames, None), sight(2, 0, frames - 1, None)]
    assert group_persons(people, frames) == [[0], [1]]


def test_distance_counts_standard_deviations() -> None:
    """Of the difference: what is hardly known can hardly be told apart."""
    assert distance(identity(0.3), identity(0.3)) == 0
    assert distance(identity(0.0, 4.0), identity(3.0, 4.0)) == pytest.approx(3 / np.sqrt(1 / 4 + 1 / 4))
    assert distance(identity(0.0, 1.0), identity(3.0, 100.0)) == pytest.approx(3 / np.sqrt(1 + 1 / 100))
    one, other = identity(0.0, 9.0), identity(2.0, 0.5)
    assert distance(one, other) == pytest.approx(distance(other, one))
    skewed = torch.eye(10)
    skewed[0, 0] = 1e4  # the only coefficient that is known
    sharp = Identity(one.shape, 1000.0, 0.0, skewed)
    aside, along = one.shape.clone(), one.shape.clone()
    aside[0, 1] += 1
    along[0, 0] += 1
    apart = [distance(sharp, Identity(shape, 1000.0, 0.0, skewed)) for shape in (aside, along)]
    assert apart == pytest.approx([np.sqrt(0.5 / 10), np.sqrt(0.5e4 / 10)])


# ---- with identities that were solved ----


def test_solved_identities_tell_people_apart(head: HeadModel, solver: LandmarkSolver) -> None:
    """Four people, each twice, with other expressions and from another side."""
    rng = np.random.default_rng(0)
    people = random_truth(head, torch.zeros(4, 52), rng).shape
    found: list[Identity] = []
    for turn in ((10.0, 25.0, 5.0), (10.0, 5.0, 10.0)):
        for shape in people:
            truth = random_truth(head, 0.5 * sparse_expressions(8, rng), rng, turn=turn, distance=(0.8, 0.8))
            truth.shape[:] = shape
            pixels = exact_landmarks(head, truth)
            pixels = pixels + 0.5 * torch.tensor(rng.normal(size=pixels.shape), dtype=torch.float32)
            seen = Observations(pixels, truth.principal[0])
            found.append(solve_identity(solver, seen, float(truth.focal[0]), rounds=3))
    apart = np.array([[distance(one, other) for other in found[4:]] for one in found[:4]])
    same = np.eye(4, dtype=bool)
    assert apart[same].max() < SAME_PERSON < apart[~same].min()


def solve(
    solver: ClipSolver, folder: Path, frames: int, sights: list[Sight], settings: ClipSettings | None = None
) -> list[Person]:
    records = write_records(folder, np.arange(frames) / FPS, sights)
    return solver.solve(records, SIZE, FPS, "take", settings or ClipSettings(focal="1080"))


@pytest.fixture(scope="module")
def pair(head: HeadModel) -> tuple[Sight, Sight]:
    """Two people who act the same."""
    units = acted_units(30)
    one, other = (sight_of(head, act(head, units, person), 0.3, person) for person in (0, 1))
    return one, other


def tracked(person: Person) -> list[int]:
    return np.flatnonzero(person.capture.tracked).tolist()


def test_a_take_in_which_somebody_leaves_and_returns(
    head: HeadModel, solver: LandmarkSolver, pair: tuple[Sight, Sight], tmp_path: Path
) -> None:
    """Another person is there meanwhile."""
    ann, bob = pair
    sights = [ann.part(slice(0, 11), 0), bob.part(slice(11, 20), 1), ann.part(slice(20, 30), 2)]
    persons = solve(ClipSolver(head, solver), tmp_path, 30, sights)
    assert [tracked(person) for person in persons] == [[*range(11), *range(20, 30)], [*range(11, 20)]]
    away = persons[0].lost
    assert len(away) == 1 and away[0] == pytest.approx((11 / FPS, 19 / FPS))


def test_a_take_of_several_at_once(
    head: HeadModel, solver: LandmarkSolver, pair: tuple[Sight, Sight], tmp_path: Path
) -> None:
    """Not even who looks the very same is taken for another who is there too."""
    ann, bob = (one.part(slice(0, 9)) for one in pair)
    twin = ann.part(slice(1, 9), 2)
    persons = solve(ClipSolver(head, solver), tmp_path, 9, [ann, bob, twin])
    assert [len(tracked(person)) for person in persons] == [9, 9, 8]
    alike = np.corrcoef([person.capture.shape[:30] for person in persons])
    assert max(alike[0, 2], alike[1, 2]) > 0.9 > 0.6 > alike[0, 1]


@pytest.mark.parametrize(("faces", "count"), [("all", 3), ("largest", 1), (1, 1), (2, 2), (5, 3)])
def test_as_many_persons_as_are_wanted(
    head: HeadModel,
    solver: LandmarkSolver,
    pair: tuple[Sight, Sight],
    tmp_path: Path,
    faces: Faces,
    count: int,
) -> None:
    """The larger ones first; a clip of three frames has everybody, too."""
    large, small = pair[0].part(slice(0, 3)), pair[1].part(slice(0, 3), 1)
    small.pixels[:] = (small.pixels - 240) * 0.3 + 240
    middle = Sight(2, large.frame, (large.pixels - 240) * 0.6 + 240, large.scores)
    settings = ClipSettings(faces, focal="1080")
    persons = solve(ClipSolver(head, solver), tmp_path, 3, [small, large, middle], settings)
    widths = [float(person.capture.box[0, 2] - person.capture.box[0, 0]) for person in persons]
    assert len(widths) == count and widths == sorted(widths, reverse=True)
    assert widths[0] == pytest.approx(float(np.ptp(large.pixels[0, :, 0])))


def framed(frame: Frame, side: int = 320) -> npt.NDArray[np.uint8]:
    """The frame in the middle of a square."""
    height, width = frame.pixels.shape[:2]
    scale = side / max(height, width)
    size = (round(width * scale), round(height * scale))
    picture = Image.new("RGB", (side, side), (40, 40, 40))
    place = ((side - size[0]) // 2, (side - size[1]) // 2)
    picture.paste(Image.fromarray(frame.pixels).resize(size, Image.Resampling.BILINEAR), place)
    return np.asarray(picture)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the clips are not here")
def test_real_people_are_told_apart(head: HeadModel, solver: LandmarkSolver, tmp_path: Path) -> None:
    """One speaks, then another, then the first goes on; after two cuts, two people are left."""
    shots = []
    for path in sorted(VIDEOS.glob("*.mp4"), key=lambda path: path.stat().st_size)[1:6:4]:
        with open_clip(path) as opened:
            shots.append([framed(frame) for frame in islice(opened.frames(), 40)])
    pictures = [*shots[0][:20], *shots[1][:16], *shots[0][20:]]

    def read(start: int, _: object) -> object:
        return ((k, k / 25, pictures[k]) for k in range(start, len(pictures)))

    clip = Clip(tmp_path / "cut.mp4", (320, 320), 25.0, 56, None, False, read)  # type: ignore[arg-type]
    records = open_records(tmp_path)
    observe(clip, records, DenseSource(threads=1), ClipSettings())
    assert records.last is not None and len(np.unique(records.last.tracklet)) == 3
    persons = ClipSolver(head, solver).solve(records, clip.size, 25.0, "cut.mp4", ClipSettings())
    assert [tracked(person) for person in persons] == [[*range(20), *range(36, 56)], [*range(20, 36)]]
    assert persons[0].cuts == pytest.approx((20 / 25, 36 / 25))
