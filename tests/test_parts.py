"""Long clips in parts: cut, looked at in any order, joined, and solved as one."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import shutil
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from face_clips import face_picture, pair_frames, wall_frames, write_clip
from PIL import Image
from small_disk import files_of_at_most
from test_clip_records import chunk as made_up
from test_clip_records import cut_off, flipped
from test_video_io import write_clip as encode

import recon3d.observe
import recon3d.parts
from recon3d._records import CHUNK, Records
from recon3d._video_job import ClipReport, VideoSettings, VideoWorker
from recon3d.capture import Capture
from recon3d.errors import InputError, NoFaceError, OutputError
from recon3d.face.dense import DenseSource
from recon3d.media._landing import find_landings
from recon3d.media.video import open_clip
from recon3d.observe import ClipSettings, Stretch, observe, open_records
from recon3d.parts import (
    LENGTH,
    MOST_PARTS,
    MOST_UNLANDED,
    PartJob,
    _facts,
    join_parts,
    observe_part,
    part_records,
    plan_clip,
    plan_parts,
)

Pixels = npt.NDArray[np.uint8]

#: In these tests: frames of a chunk, of a part, of a lead, and of a clip.
SHORT, PART, LEAD, FRAMES = 12, 24, 16, 60
RATE = 25
#: Parts of a clip of FRAMES.
STRETCHES = (Stretch(0, PART), Stretch(PART, 2 * PART, LEAD), Stretch(2 * PART, None, LEAD))


# ---- the plan ----


@pytest.mark.parametrize("frames", [None, 0, 1, LENGTH, 2 * LENGTH - 1])
def test_what_is_not_long_is_not_cut(frames: int | None) -> None:
    assert plan_parts(frames, 30) == [Stretch()]


@pytest.mark.parametrize("frames", [2 * LENGTH, 2 * LENGTH + 1, 5 * LENGTH - 1, 107_892, 10**7])
@pytest.mark.parametrize("fps", [23.976, 120.0])
def test_parts_are_about_equal_and_leave_nothing_out(frames: int, fps: float) -> None:
    parts = plan_parts(frames, fps)
    assert 2 <= len(parts) <= MOST_PARTS
    assert parts[0].start == 0 and parts[0].lead == 0 and parts[-1].stop is None
    lengths = []
    for part, following in itertools.pairwise(parts):
        assert part.stop == following.start and following.start % CHUNK == 0
        assert following.lead == math.ceil(3 * fps) <= following.start - part.start
        lengths.append(following.start - part.start)
    assert min(lengths) >= LENGTH
    assert 0 < frames - parts[-1].start <= lengths[0], "what is left over is not longer"


def test_a_rate_that_is_absurd_gives_no_lead_longer_than_a_part() -> None:
    assert max(part.lead for part in plan_parts(2 * LENGTH, 1e5)) == LENGTH


def test_a_clip_is_planned_by_what_it_announces(tmp_path: Path, short_chunks: None) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(50))
    jobs = plan_clip(path, length=PART)
    landings = find_landings(path, [0])
    assert landings is not None
    assert [job.stretch for job in jobs] == [Stretch(0, 36), Stretch(36, None, 36, landings[0])]
    assert pickle.loads(pickle.dumps(jobs)) == jobs == plan_clip(path, length=PART)
    assert [job.stretch for job in plan_clip(path)] == [Stretch()]
    assert [job.stretch for job in plan_clip(written_images(tmp_path / "shot", 50), length=5)] == [Stretch()]
    with pytest.raises(InputError, match="no such file"):
        plan_clip(tmp_path / "none.mp4")


def test_where_each_part_decodes_all_before_it_there_are_fewer(
    tmp_path: Path, short_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = SHORT * (MOST_UNLANDED + 3)
    path = write_clip(tmp_path / "wall.mp4", wall_frames(frames))
    assert len(plan_clip(path, length=SHORT)) == MOST_UNLANDED + 3
    moved = encode(tmp_path / "wall.avi", list(wall_frames(frames)), codec="mpeg4")
    jobs = plan_clip(moved, length=SHORT)
    assert len(jobs) <= MOST_UNLANDED and all(job.stretch.landing is None for job in jobs)


def written_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, picture in enumerate(wall_frames(count)):
        Image.fromarray(picture).save(folder / f"f_{number:03d}.png")
    return folder


# ---- real faces ----


def beside(left: Pixels | None, right: Pixels | None) -> Pixels:
    """Up to two faces before a grey wall: 480 x 240."""
    whole = np.full((240, 480, 3), 110, np.uint8)
    for picture, column in ((left, 0), (right, 280)):
        if picture is not None:
            height, width = picture.shape[:2]
            whole[20 : 20 + height, column : column + width] = picture
    return whole


def one(step: int, x: int = 0) -> Pixels:
    return np.roll(beside(face_picture(step, (240, 180)), None), x, axis=1)


def two(step: int) -> Pixels:
    return beside(face_picture(step, (240, 180)), face_picture(40 - step, (200, 150))[:, ::-1])


def hidden(step: int) -> Pixels:
    """The face behind a board: no cut."""
    whole = one(step).copy()
    whole[20:190, 50:190] = 128
    return whole


SCENES: dict[str, Callable[[], Iterator[Pixels]]] = {
    "one person": lambda: (one(k) for k in range(FRAMES)),
    "two persons": lambda: pair_frames(FRAMES),
    "a cut at the boundary": lambda: (one(k) if k < PART else one(k, 230) for k in range(FRAMES)),
    "lost over the boundary": lambda: (
        hidden(k) if PART - 5 <= k < PART + 5 else one(k) for k in range(FRAMES)
    ),
    "one comes in during the lead": lambda: (two(k) if k >= PART - 12 else one(k) for k in range(FRAMES)),
    "one leaves during the lead": lambda: (one(k) if k >= PART - 6 else two(k) for k in range(FRAMES)),
}


#: What the uncut clips show: where cuts are, how many faces in how many frames, and how many tracklets.
SHOWN = {
    "one person": ([], {1: FRAMES}, 1),
    "two persons": ([], {2: FRAMES}, 2),
    "a cut at the boundary": ([PART], {1: FRAMES}, 2),
    "lost over the boundary": ([], {0: 10, 1: FRAMES - 10}, 1),
    "one comes in during the lead": ([], {1: 13, 2: FRAMES - 13}, 2),
    "one leaves during the lead": ([], {1: FRAMES - 5, 2: 5}, 2),
}

#: How far the curves of a cut clip may be from those of the uncut one. The tracker cuts each face out around
#: the landmarks of the frame before and never quite comes to rest: two that began at different frames stay
#: some tenths of a pixel apart. Measured over these scenes: units at most 0.019 apart, on average 0.0004; the
#: landmarks that are fixed to the face 0.51 px and 0.10 px.
UNITS_APART, UNITS_ON_AVERAGE, PIXELS_APART, PIXELS_ON_AVERAGE = 0.05, 0.001, 1.5, 0.25


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few frames, so that short clips have many."""
    monkeypatch.setattr(recon3d.observe, "CHUNK", SHORT)
    monkeypatch.setattr(recon3d.parts, "CHUNK", SHORT)


@pytest.fixture(scope="module")
def source() -> DenseSource:
    return DenseSource(threads=1)


@pytest.fixture(scope="module")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the clip of a scene; written once."""
    folder = tmp_path_factory.mktemp("scenes")

    def clip(scene: str) -> Path:
        path = folder / f"{scene}.mp4"
        return path if path.exists() else write_clip(path, SCENES[scene](), RATE)

    return clip


def landed(path: Path) -> list[Stretch]:
    """STRETCHES, each of which begins to read where it begins."""
    landings = find_landings(path, [one.first for one in STRETCHES])
    assert landings is not None
    return [replace(one, landing=landing) for one, landing in zip(STRETCHES, landings, strict=True)]


def parts_of(path: Path, stretches: Sequence[Stretch] = STRETCHES) -> list[PartJob]:
    return [PartJob(path, index, stretch) for index, stretch in enumerate(stretches)]


def seen_in_parts(
    path: Path,
    out: Path,
    source: DenseSource,
    stretches: Sequence[Stretch] = STRETCHES,
    *,
    turned: bool = False,
) -> Records:
    """Look at a clip in parts, ``turned``: the last first; and join them."""
    jobs = parts_of(path, stretches)
    folders = [out / job.name for job in jobs]
    for job, folder in list(zip(jobs, folders, strict=True))[:: -1 if turned else 1]:
        observe_part(job, folder, source, ClipSettings())
    frames = join_parts(jobs, folders, out / "joined")
    records = Records(out / "joined")
    assert records.frames == frames
    return records


def seen_whole(path: Path, out: Path, source: DenseSource) -> Records:
    records = open_records(out)
    with open_clip(path) as clip:
        observe(clip, records, source, ClipSettings())
    return records


def column(records: Records, name: str) -> npt.NDArray[Any]:
    return np.concatenate([getattr(chunk, name) for chunk in records])


def assert_same_frames(one: Records, other: Records) -> None:
    """The very same frames were looked at: by their times, and by thumbnails of every SHORT-th."""
    assert one.frames == other.frames
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.cuts, b.cuts)
        np.testing.assert_array_equal(a.state["thumbnail"], b.state["thumbnail"])
        assert a.lost == b.lost


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(
    "scene", [pytest.param(s, marks=pytest.mark.slow if s == "one person" else ()) for s in SCENES]
)
def test_joined_records_are_those_of_the_uncut_clip(
    clip_of: Callable[[str], Path], source: DenseSource, tmp_path: Path, scene: str
) -> None:
    """The same faces in the same frames, each followed as long, and at the same place but for its rest."""
    uncut = seen_whole(clip_of(scene), tmp_path / "whole", source)
    faces = np.bincount(np.bincount(column(uncut, "frame"), minlength=FRAMES))
    assert SHOWN[scene] == (
        np.flatnonzero(column(uncut, "cuts")).tolist(),
        {int(count): int(faces[count]) for count in np.flatnonzero(faces)},
        len(set(column(uncut, "tracklet"))),
    )
    cut = seen_in_parts(clip_of(scene), tmp_path, source, landed(clip_of(scene)))
    assert cut.frames == uncut.frames == FRAMES
    assert [len(one.times) for one in cut] == [len(one.times) for one in uncut] == [SHORT] * (FRAMES // SHORT)
    for name in ("times", "cuts", "frame"):
        np.testing.assert_array_equal(column(cut, name), column(uncut, name), err_msg=name)
    place = {
        (frame, number): points
        for frame, number, points in zip(
            column(uncut, "frame"), column(uncut, "tracklet"), column(uncut, "landmarks"), strict=True
        )
    }
    pairs, apart = set(), []
    for frame, number, points in zip(
        column(cut, "frame"), column(cut, "tracklet"), column(cut, "landmarks"), strict=True
    ):
        there = {k: np.linalg.norm(points - v, axis=1).mean() for (f, k), v in place.items() if f == frame}
        nearest = min(there, key=there.__getitem__)
        pairs.add((number, nearest))
        apart.append(there[nearest])
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), "one tracklet, one number"
    assert max(apart) < 1, "px; 0.46 was measured"
    assert cut.last is not None and uncut.last is not None
    assert cut.last.state.keys() == uncut.last.state.keys()
    assert cut.last.state["scalars"][0] > column(cut, "tracklet").max(), "the next number is a new one"


def test_who_comes_in_later_is_seen_at_most_half_a_second_apart(
    short_chunks: None, source: DenseSource, tmp_path: Path
) -> None:
    """The tracker looks for new faces twice a second, counted from where it began."""
    path = write_clip(tmp_path / "late.mp4", (two(k) if k > 40 else one(k) for k in range(FRAMES)), RATE)
    uncut = seen_whole(path, tmp_path / "whole", source)
    cut = seen_in_parts(path, tmp_path, source, [Stretch(0, PART), Stretch(PART, None, LEAD)])
    first = [column(seen, "frame")[column(seen, "tracklet") == 1].min() for seen in (uncut, cut)]
    assert min(first) > 40 and abs(first[0] - first[1]) <= RATE / 2
    assert set(column(cut, "tracklet")) == {0, 1}


@pytest.mark.usefixtures("short_chunks")
def test_the_same_bytes_whoever_does_which_part_and_when(
    clip_of: Callable[[str], Path], source: DenseSource, tmp_path: Path
) -> None:
    """And whether they begin to read in the middle, or decode all that comes before."""
    path = clip_of("one comes in during the lead")
    seen_in_parts(path, tmp_path / "a", source, landed(path))
    seen_in_parts(path, tmp_path / "b", DenseSource(threads=1), turned=True)
    assert files_in(tmp_path / "a" / "joined") == files_in(tmp_path / "b" / "joined")


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("stop", [5, LEAD, LEAD + 1, LEAD + SHORT + 3])
def test_an_interrupted_part_goes_on_where_it_was(
    clip_of: Callable[[str], Path], source: DenseSource, tmp_path: Path, stop: int
) -> None:
    job = parts_of(clip_of("two persons"))[1]
    told: list[int] = []

    def interrupt(done: int) -> None:
        told.append(done)
        if len(told) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe_part(job, tmp_path / "part", source, ClipSettings(), progress=interrupt)
    assert part_records(job, tmp_path / "part") is None
    observe_part(job, tmp_path / "part", source, ClipSettings(), progress=told.append)
    kept = 0 if stop <= LEAD else LEAD + (stop - LEAD - 1) // SHORT * SHORT
    assert told[stop:] == list(range(kept + 1, LEAD + PART + 1)), "nothing whole is looked at twice"
    observe_part(job, tmp_path / "undisturbed", source, ClipSettings())
    assert files_in(tmp_path / "part") == files_in(tmp_path / "undisturbed")
    observe_part(job, tmp_path / "part", source, ClipSettings(), progress=lambda _: pytest.fail("done"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda part: cut_off(part / "seen-00001.npz"),
    "flipped": lambda part: flipped(part / "seen-00000.npz"),
    "last chunk gone": lambda part: sorted(part.glob("seen-*"))[-1].unlink(),
    "note gone": lambda part: (part / "part.json").unlink(),
    "note damaged": lambda part: (part / "part.json").write_text('{"job": [1, 2'),
    "note of other things": lambda part: (part / "part.json").write_text("[]"),
    "gone": shutil.rmtree,
}


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_part_is_told_and_done_again(tmp_path: Path, source: DenseSource, kind: str) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(FRAMES), RATE)
    seen_in_parts(path, tmp_path, source)
    before = files_in(tmp_path / "joined")
    job = parts_of(path)[1]
    DAMAGE[kind](tmp_path / job.name)
    assert part_records(job, tmp_path / job.name) is None
    folders = [tmp_path / one.name for one in parts_of(path)]
    with pytest.raises(InputError) as error:
        join_parts(parts_of(path), folders, tmp_path / "joined")
    assert str(error.value) == f"{path}: what was seen of its part 2 is damaged; do it again"
    assert sorted(p.name for p in tmp_path.iterdir() if "part" not in p.name) == ["wall.mp4"], "none half"
    seen_in_parts(path, tmp_path, source)
    assert files_in(tmp_path / "joined") == before


def test_a_folder_of_another_plan_is_not_used(
    short_chunks: None, source: DenseSource, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(FRAMES), RATE)
    seen_in_parts(path, tmp_path, source)
    other = (Stretch(0, 36), Stretch(36, None, LEAD))
    assert part_records(parts_of(path, other)[1], tmp_path / "part-001") is None
    assert seen_in_parts(path, tmp_path, source, other).frames == FRAMES
    assert not list((tmp_path / "part-001").glob("seen-00003*")), "of the plan before"


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("frames", [10, PART, PART - LEAD, PART - LEAD + 1, PART + 1, 2 * PART, 71, 200])
def test_a_wrong_estimate_of_the_length_does_no_harm(
    source: DenseSource, tmp_path: Path, frames: int
) -> None:
    """Parts beyond the end are empty, and the last one goes on to the end."""
    path = write_clip(tmp_path / "wall.mp4", wall_frames(frames), RATE)
    for _ in range(2):
        records = seen_in_parts(path, tmp_path, source)
        assert records.frames == frames
        assert [len(one.times) for one in records] == [
            min(SHORT, frames - k) for k in range(0, frames, SHORT)
        ]
    assert_same_frames(records, seen_whole(path, tmp_path / "whole", source))


def test_a_clip_of_odd_times_is_cut_at_the_same_frames(
    short_chunks: None, source: DenseSource, tmp_path: Path
) -> None:
    """Variable rate, and pictures that are stored in another order than they are shown."""
    random = np.random.default_rng(3)
    stamps = np.cumsum(random.integers(7, 90, FRAMES)).tolist()
    path = encode(tmp_path / "odd.mkv", list(wall_frames(FRAMES)), stamps)
    cut = seen_in_parts(path, tmp_path, source)
    np.testing.assert_allclose(column(cut, "times"), (np.array(stamps) - stamps[0]) / 1000, atol=1e-6)
    assert_same_frames(cut, seen_whole(path, tmp_path / "whole", source))


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("place", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("middle", [False, True], ids=["from the beginning", "from the middle"])
def test_frames_that_cannot_be_decoded_are_left_out_as_in_the_uncut_clip(
    source: DenseSource, tmp_path: Path, place: float, middle: bool
) -> None:
    """Wherever they are; parts that began in the middle are done again if need be."""
    path = encode(tmp_path / "clip.mp4", list(wall_frames(FRAMES)))
    data, random = bytearray(path.read_bytes()), np.random.default_rng(1)
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.pos is not None]
    for position, size in packets[int(place * FRAMES) : int(place * FRAMES) + 3]:
        data[position : position + size] = random.bytes(size)
    path.write_bytes(data)
    uncut = seen_whole(path, tmp_path / "whole", source)
    worker = VideoWorker(VideoSettings(tmp_path / "out", (), ClipSettings(), threads=1, encoder=False))
    jobs = parts_of(path, landed(path) if middle else STRETCHES)
    folders = worker.part_folders(jobs, "clip")
    for job, folder in zip(jobs, folders, strict=True):
        worker.observe_part(job, folder, lambda step, done, total: None)
    worker.join(jobs, folders, "clip", lambda step, done, total: None)
    cut = Records(folders[0].parent.with_name(folders[0].parent.name.removesuffix("-parts")))
    assert cut.last is not None and uncut.last is not None
    assert cut.last.lost == uncut.last.lost > 0 and cut.frames == uncut.frames < FRAMES
    for name in ("times", "cuts"):
        np.testing.assert_array_equal(column(cut, name), column(uncut, name))


# ---- joining, with made-up faces ----


def write_part(
    job: PartJob,
    folder: Path,
    numbers: Sequence[int],
    alive: Sequence[int],
    shift: float = 0,
    frames: int = 4,
) -> None:
    """Write a part of ``frames`` frames after its lead; each face stands still, 500 px from the next."""
    records = open_records(folder)
    first = job.stretch.first
    for size in (job.stretch.lead, frames) if job.stretch.lead else (frames,):
        place = (
            np.random.default_rng(0).uniform(0, 100, (478, 2))
            + 500 * np.array(numbers)[:, None, None]
            + shift
        )
        plain = made_up(0, size, len(numbers))
        state = {
            "numbers": np.array(alive),
            "scalars": np.array([len(numbers), 0.0, 0, 0]),
            "thumbnail": np.zeros((2, 2), np.float32),
        }
        records.append(
            replace(
                plain,
                times=(first + np.arange(size)) / RATE,
                frame=first + np.repeat(np.arange(size), len(numbers)),
                tracklet=np.tile(np.arange(len(numbers)), size),
                landmarks=np.tile(place, (size, 1, 1)).astype(np.float32),
                state=state,
            )
        )
        first += size
    facts = _facts(job)
    (folder / "part.json").write_text(json.dumps({"job": facts, "frames": records.frames}))


def join_made_up(
    tmp_path: Path, *parts: tuple[Sequence[int], Sequence[int]], shift: float = 0
) -> list[list[int]]:
    """Join parts of four frames, with leads of two; each is (places of its faces 0, 1, ..., who goes on)."""
    jobs = parts_of(
        tmp_path / "clip.mp4", [Stretch(4 * k, 4 * k + 4, 2 if k else 0) for k in range(len(parts))]
    )
    folders = [tmp_path / job.name for job in jobs]
    for k, (job, folder, (places, alive)) in enumerate(zip(jobs, folders, parts, strict=True)):
        write_part(job, folder, places, alive, shift * k)
    assert join_parts(jobs, folders, tmp_path / "joined") == 4 * len(parts)
    records = list(Records(tmp_path / "joined"))
    assert [one.frame.min() for one in records] == [4 * k for k in range(len(parts))]
    for one in records:
        assert set(one.state["numbers"]) <= set(range(int(one.state["scalars"][0])))
    return [one.tracklet[: len(places)].tolist() for one, (places, _) in zip(records, parts, strict=True)]


def test_each_goes_on_as_who_lay_at_its_place(tmp_path: Path) -> None:
    """However the parts count them; and whoever is new gets the next number."""
    found = join_made_up(
        tmp_path, ([0, 1], [0, 1]), ([1, 3, 0], [0, 1, 2]), ([7, 3, 1], [0, 1, 2]), ([1, 2, 7], [0, 1, 2])
    )
    assert found == [[0, 1], [1, 2, 0], [3, 2, 1], [1, 4, 3]]


def test_a_little_apart_is_still_the_same_and_far_is_another(tmp_path: Path) -> None:
    assert join_made_up(tmp_path / "near", ([0, 1], [0, 1]), ([1, 0], [0, 1]), shift=20) == [[0, 1], [1, 0]]
    assert join_made_up(tmp_path / "far", ([0, 1], [0, 1]), ([1, 0], [0, 1]), shift=90) == [[0, 1], [2, 3]]


def test_nobody_goes_on_who_is_not_followed_any_more(tmp_path: Path) -> None:
    """After a cut, say, which ends them all."""
    assert join_made_up(tmp_path / "a", ([0, 1], [1]), ([0, 1], [0, 1])) == [[0, 1], [2, 1]]
    assert join_made_up(tmp_path / "b", ([0, 1], []), ([0, 1], [0, 1])) == [[0, 1], [2, 3]]


def test_parts_of_different_clips_are_not_joined(tmp_path: Path) -> None:
    jobs = parts_of(tmp_path / "clip.mp4", [Stretch(0, 4), Stretch(4, 8, 2)])
    for index, job in enumerate(jobs):
        moved = replace(job, stretch=replace(job.stretch, start=job.stretch.start + index))
        write_part(moved, tmp_path / job.name, [0], [0])
        (tmp_path / job.name / "part.json").write_text(
            json.dumps({"job": _facts(job), "frames": 4 + 2 * index})
        )
    with pytest.raises(InputError, match=r"clip.mp4: its parts do not fit together; was the file changed"):
        join_parts(jobs, [tmp_path / job.name for job in jobs], tmp_path / "joined")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-000", "part-001"]


def test_a_part_that_saw_nothing_where_there_are_frames_is_not_joined(tmp_path: Path) -> None:
    jobs = parts_of(tmp_path / "clip.mp4", [Stretch(0, 4), Stretch(4, None, 2)])
    write_part(jobs[0], tmp_path / "part-000", [0], [0])
    (tmp_path / "part-001").mkdir()
    note = {"job": _facts(jobs[1]), "frames": 0}
    (tmp_path / "part-001" / "part.json").write_text(json.dumps(note))
    with pytest.raises(InputError, match="do not fit together"):
        join_parts(jobs, [tmp_path / job.name for job in jobs], tmp_path / "joined")


def test_joining_needs_no_more_memory_for_longer_clips(tmp_path: Path) -> None:
    peaks = []
    for length in (40, 400):
        out = tmp_path / str(length)
        jobs = parts_of(out / "clip.mp4", [Stretch(0, length), Stretch(length, None, 20)])
        folders = [out / job.name for job in jobs]
        for job, folder in zip(jobs, folders, strict=True):
            records, first = open_records(folder), job.stretch.first
            for _ in range((length + job.stretch.lead) // 20):
                one = made_up(0, 20, 3)
                state = {
                    "numbers": np.arange(3),
                    "scalars": np.array([3.0, 0, 0, 0]),
                    "thumbnail": np.zeros(1),
                }
                records.append(
                    replace(one, frame=one.frame + first, times=(first + np.arange(20)) / RATE, state=state)
                )
                first += 20
            note = {"job": _facts(job), "frames": records.frames}
            (folder / "part.json").write_text(json.dumps(note))
        tracemalloc.start()
        assert join_parts(jobs, folders, out / "joined") == 2 * length
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_full_disk_leaves_the_parts_and_nothing_half_joined(
    short_chunks: None, source: DenseSource, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(FRAMES), RATE)
    seen_in_parts(path, tmp_path, source)
    with files_of_at_most(2000), pytest.raises(OutputError) as error:
        seen_in_parts(path, tmp_path, source)
    assert len(str(error.value).splitlines()) == 1 and "joined" in str(error.value)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["part-000", "part-001", "part-002", "wall.mp4"]
    assert seen_in_parts(path, tmp_path, source).frames == FRAMES


# ---- to the end, by the worker of recon3d video ----


def new_worker(out: Path) -> VideoWorker:
    return VideoWorker(VideoSettings(out, ("livelink",), ClipSettings(), threads=1))


def done_in_parts(worker: VideoWorker, path: Path, stem: str, order: Sequence[int]) -> ClipReport:
    """Do a clip in parts, each in its turn, and solve it; without looking at anything twice."""
    jobs = parts_of(path)
    folders = worker.part_folders(jobs, stem)
    for index in order:
        worker.observe_part(jobs[index], folders[index], lambda step, done, total: None)
    looked: list[int] = []

    def notify(step: str, done: int, total: int | None) -> None:
        if step == "tracking":
            looked.append(done)

    worker.join(jobs, folders, stem, notify)
    assert looked == []
    report = worker.run(path, stem, notify)
    out = folders[0].parent.parent
    assert (report.frames, report.lost, looked) == (FRAMES, 0, [FRAMES])
    assert not [file for file in out.iterdir() if file.name.startswith(".")], "left behind"
    return report


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(
    "scene", [pytest.param(s, marks=() if s.startswith("lost") else pytest.mark.slow) for s in SCENES]
)
def test_a_clip_that_is_cut_is_solved_as_one(
    clip_of: Callable[[str], Path], tmp_path: Path, scene: str
) -> None:
    """The same persons in the same frames, and the same curves but for where the tracker comes to rest."""
    worker, path = new_worker(tmp_path), clip_of(scene)
    uncut = worker.run(path, "whole", lambda step, done, total: None).folders
    cut = done_in_parts(worker, path, "parts", (2, 0, 1)).folders
    assert [folder.name.replace("parts", "whole") for folder in cut] == [folder.name for folder in uncut]
    for folders in zip(cut, uncut, strict=True):
        one, other = (Capture.load(folder / "capture.npz") for folder in folders)
        np.testing.assert_array_equal(one.tracked, other.tracked)
        np.testing.assert_array_equal(one.timestamps, other.timestamps)
        units = np.abs(one.arkit - other.arkit)
        assert units.max() < UNITS_APART and units.mean() < UNITS_ON_AVERAGE
        inner = np.linalg.norm(one.landmarks68[:, 17:] - other.landmarks68[:, 17:], axis=2)
        assert inner.max() < PIXELS_APART and inner.mean() < PIXELS_ON_AVERAGE
    assert worker.finished(path, "parts") is not None


@pytest.mark.slow
@pytest.mark.usefixtures("short_chunks")
def test_captures_are_the_same_bytes_whoever_does_which_part_and_when(
    clip_of: Callable[[str], Path], tmp_path: Path
) -> None:
    path = clip_of("two persons")
    for out, order in (("a", (0, 1, 2)), ("b", (2, 1, 0)), ("c", (1, 0, 2))):
        done_in_parts(new_worker(tmp_path / out), path, "take", order)
    for name in ("take", "take.face2"):
        captures = {(tmp_path / out / name / "capture.npz").read_bytes() for out in "abc"}
        assert len(captures) == 1


@pytest.mark.usefixtures("short_chunks")
def test_the_worker_makes_up_for_damaged_parts_and_drops_those_that_do_not_fit(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(FRAMES), RATE)
    worker = VideoWorker(VideoSettings(tmp_path / "out", (), ClipSettings(), threads=1, encoder=False))
    jobs, looked = parts_of(path), list[int]()
    folders = worker.part_folders(jobs, "wall")
    for _ in range(2):
        worker.join(jobs, folders, "wall", lambda step, done, total: looked.append(done))
    assert len(looked) == FRAMES + 2 * LEAD, "once"
    cut_off(folders[2] / "seen-00001.npz")
    worker.join(jobs, folders, "wall", lambda step, done, total: looked.append(done))
    assert len(looked) == FRAMES + 2 * LEAD + FRAMES - 2 * PART
    with pytest.raises(NoFaceError, match=r"wall.mp4: no face found"):
        worker.run(path, "wall", lambda step, done, total: None)
    assert list((tmp_path / "out").iterdir()) == []
    shorter = [jobs[0], replace(jobs[1], stretch=replace(jobs[1].stretch, start=jobs[1].stretch.start + 1))]
    with pytest.raises(InputError, match="do not fit together"):
        worker.join(shorter, folders[:2], "wall", lambda step, done, total: None)
    assert not folders[0].exists() and not folders[1].exists()
