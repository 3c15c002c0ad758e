"""What was seen of a clip, on disk: whole chunks only, and the same after any interruption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from face_clips import face_frames, pair_frames, wall_frames, write_clip
from small_disk import files_of_at_most

import recon3d.observe
from recon3d._records import CHUNK, Chunk, Records
from recon3d.errors import OutputError
from recon3d.face import Face
from recon3d.face.dense import DenseSource
from recon3d.face.tracks import Sighting
from recon3d.media.video import open_clip
from recon3d.observe import ClipSettings, observe, open_records

#: Frames of a chunk in the tests that look at clips.
SHORT = 8


def chunk(first: int = 0, frames: int = 5, faces: int = 2, seed: int = 0) -> Chunk:
    """Made-up sights: every face in every frame."""
    random = np.random.default_rng(seed + first)
    count = frames * faces
    return Chunk(
        times=(first + np.arange(frames)) / 25,
        cuts=random.random(frames) < 0.3,
        frame=first + np.repeat(np.arange(frames), faces),
        tracklet=np.tile(np.arange(faces), frames),
        landmarks=random.normal(300, 90, (count, 478, 2)).astype(np.float32),
        scores=random.random((count, 52)).astype(np.float32),
        score=random.random(count).astype(np.float32),
        sharpness=random.random(count).astype(np.float32),
        light=random.random(count).astype(np.float32),
        state={"numbers": np.arange(faces), "thumbnail": random.random((3, 4)), "lost": np.array([True])},
        lost=first,
    )


def assert_same(one: Chunk, other: Chunk) -> None:
    """Equal to the last bit."""
    assert one.state.keys() == other.state.keys() and one.lost == other.lost
    pairs = [
        (getattr(one, name), getattr(other, name))
        for name in vars(one)
        if name not in ("state", "lost") and getattr(one, name) is not None
    ]
    for a, b in [*pairs, *((one.state[name], other.state[name]) for name in one.state)]:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def written(folder: Path, count: int = 3) -> list[Chunk]:
    """Write some chunks; return them."""
    chunks = [chunk(5 * k) for k in range(count)]
    records = Records(folder)
    for one in chunks:
        records.append(one)
    return chunks


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the chunks ----


@pytest.mark.parametrize("faces", [0, 1, 3])
def test_what_is_written_is_read_again(tmp_path: Path, faces: int) -> None:
    chunks = [chunk(0, faces=faces), chunk(5, faces=0), chunk(10, frames=2, faces=faces)]
    records = Records(tmp_path)
    assert (records.count, records.frames, records.last, list(records)) == (0, 0, None, [])
    for one in chunks:
        records.append(one)
    for found in (records, Records(tmp_path)):
        assert (found.count, found.frames) == (3, 12)
        assert found.last is not None
        assert_same(found.last, chunks[-1])
        for _ in range(2):  # as often as wanted
            for one, other in zip(found, chunks, strict=True):
                assert_same(one, other)
    assert files(tmp_path) == ["seen-00000.npz", "seen-00001.npz", "seen-00002.npz"]


def test_sightings_are_gathered_with_their_frames() -> None:
    random = np.random.default_rng(0)

    def sighting(tracklet: int, scores: bool) -> Sighting:
        points = random.normal(size=(478, 3)).astype(np.float32)
        units = random.random(52).astype(np.float32) if scores else None
        face = Face(np.zeros(4, np.float32), 0.1 * tracklet, points, "mediapipe478", units)
        return Sighting(tracklet, face, 7.0 + tracklet, 50.0 + tracklet)

    seen = [[sighting(3, True), sighting(5, False)], [], [sighting(5, True)]]
    found = Chunk.of(100, [4.0, 4.1, 4.2], [False, True, False], seen, {"a": np.ones(2)}, 7)
    assert found.times.tolist() == [4.0, 4.1, 4.2] and found.cuts.tolist() == [False, True, False]
    assert found.frame.tolist() == [100, 100, 102] and found.tracklet.tolist() == [3, 5, 5]
    assert (found.sharpness.tolist(), found.light.tolist()) == ([10, 12, 12], [53, 55, 55])
    np.testing.assert_allclose(found.score, [0.3, 0.5, 0.5])
    np.testing.assert_array_equal(found.landmarks[1], seen[0][1].face.landmarks[:, :2])
    np.testing.assert_array_equal(found.scores[2], seen[2][0].face.scores)
    assert not found.scores[1].any() and found.lost == 7
    empty = Chunk.of(0, [0.0], [False], [[]], {}, 0)
    assert empty.landmarks.shape == (0, 478, 2) and empty.scores.shape == (0, 52)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def pickled(path: Path) -> None:
    with np.load(path) as arrays:
        values = dict(arrays)
    np.savez(path, allow_pickle=True, **{**values, "scores": np.array([{}, None], object)})


def one_missing(path: Path) -> None:
    with np.load(path) as arrays:
        values = dict(arrays)
    del values["landmarks"]
    np.savez(path, allow_pickle=False, **values)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": cut_off,
    "without its last byte": without_end,
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("PK, but no zip"),
    "pickled": pickled,
    "field missing": one_missing,
    "gone": Path.unlink,
    "folder": folder_instead,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_chunk_ends_what_is_used(tmp_path: Path, kind: str) -> None:
    chunks = written(tmp_path)
    DAMAGE[kind](tmp_path / "seen-00001.npz")
    records = Records(tmp_path)
    assert (records.count, records.frames) == (1, 5)
    assert records.last is not None
    assert_same(records.last, chunks[0])
    assert len(list(records)) == 1
    if kind == "folder":
        return
    for one in chunks[1:]:  # what follows is written anew, over what is left
        records.append(one)
    for one, other in zip(Records(tmp_path), chunks, strict=True):
        assert_same(one, other)


def test_wherever_a_byte_is_wrong_nothing_wrong_is_read(tmp_path: Path) -> None:
    """A chunk is the one that was written, or it is none."""
    (original,) = written(tmp_path, 1)
    path = tmp_path / "seen-00000.npz"
    data = path.read_bytes()
    places = [*range(0, 200, 7), *range(200, len(data) - 2500, 997), *range(len(data) - 2500, len(data), 7)]
    refused = 0
    for place in places:
        for bit in (1, 128):
            spoilt = bytearray(data)
            spoilt[place] ^= bit
            path.write_bytes(spoilt)
            records = Records(tmp_path)
            refused += records.last is None
            if records.last is not None:  # a date, say
                assert_same(records.last, original)
    assert refused > 0.4 * 2 * len(places)


def test_a_cut_off_file_is_no_chunk_wherever_it_ends(tmp_path: Path) -> None:
    written(tmp_path, 1)
    path = tmp_path / "seen-00000.npz"
    data = path.read_bytes()
    for length in [*range(0, len(data), 499), *range(len(data) - 50, len(data))]:
        path.write_bytes(data[:length])
        assert Records(tmp_path).count == 0


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    chunks = written(tmp_path, 2)
    records = Records(tmp_path)
    with files_of_at_most(4000), pytest.raises(OutputError) as error:
        records.append(chunk(10))
    assert len(str(error.value).splitlines()) == 1
    assert (records.count, records.frames) == (2, 10)
    assert records.last is not None
    assert_same(records.last, chunks[1])
    assert files(tmp_path) == ["seen-00000.npz", "seen-00001.npz"]
    records.append(chunk(10))
    assert Records(tmp_path).count == 3


def test_a_chunk_that_cannot_be_written_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Not even where the writing breaks in the middle."""
    written(tmp_path, 1)
    records = Records(tmp_path)
    with pytest.raises(ValueError, match="pickle"):
        records.append(replace(chunk(5), state={"bad": np.array([object()])}))
    assert records.count == 1 and files(tmp_path) == ["seen-00000.npz"]


def test_a_folder_that_is_gone_is_said_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    records = Records(folder)
    shutil.rmtree(folder)
    with pytest.raises(OutputError) as error:
        records.append(chunk())
    assert len(str(error.value).splitlines()) == 1 and "seen-00000" in str(error.value)


def test_opening_makes_the_folder_and_sweeps_it(tmp_path: Path) -> None:
    """What an interrupted write left goes; whole chunks and everybody else's files stay."""
    folder = tmp_path / "deep" / "work"
    assert open_records(folder).count == 0
    written(folder, 2)
    half = (folder / "seen-00001.npz").read_bytes()[:777]
    for name in (".seen-00002.x1y2z3.npz", ".seen-00000.abc.npz"):
        (folder / name).write_bytes(half)
    (folder / "notes.txt").write_text("mine")
    records = open_records(folder)
    assert records.count == 2
    assert files(folder) == ["notes.txt", "seen-00000.npz", "seen-00001.npz"]


# ---- looking at clips ----


@pytest.fixture(scope="module")
def source() -> DenseSource:
    return DenseSource(threads=1)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few frames, so that a short clip has many."""
    assert CHUNK > SHORT
    monkeypatch.setattr(recon3d.observe, "CHUNK", SHORT)


def look(clip: Path, folder: Path, source: DenseSource, stop: int | None = None) -> tuple[Records, list[int]]:
    """Observe a clip as a run of the command does; ``stop``: the user ends it at so many frames.

    Returns:
        What is on disk then, and the counts that were reported.
    """
    told: list[int] = []

    def progress(done: int) -> None:
        told.append(done)
        if done == stop:
            raise KeyboardInterrupt

    with open_clip(clip) as opened:
        try:
            observe(opened, open_records(folder), source, ClipSettings(), progress)
        except KeyboardInterrupt:
            assert stop is not None
    return Records(folder), told


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces; after a cut one; for a while none; then it comes back: 30 frames."""
    wall = next(wall_frames(1))
    empty = np.zeros((240, 480, 3), np.uint8)
    empty[:120, :160] = wall
    alone = [np.concatenate([picture, empty[:, :160]], axis=1) for picture in face_frames(8)]
    pictures = [*pair_frames(12), *alone[:6], *[empty] * 4, *alone]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures)


@pytest.fixture(scope="module")
def whole(clip: Path, source: DenseSource, tmp_path_factory: pytest.TempPathFactory) -> list[Chunk]:
    """The clip seen in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recon3d.observe, "CHUNK", SHORT)
        records, told = look(clip, tmp_path_factory.mktemp("whole"), source)
    assert told == list(range(1, 31))
    return list(records)


def test_all_frames_are_seen_in_chunks(whole: list[Chunk]) -> None:
    assert [len(one.times) for one in whole] == [8, 8, 8, 6]
    times = np.concatenate([one.times for one in whole])
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=1e-4)
    frame = np.concatenate([one.frame for one in whole])
    tracklet = np.concatenate([one.tracklet for one in whole])
    assert (np.bincount(frame, minlength=30)[:12] == 2).all()
    assert not np.isin(np.arange(18, 22), frame).any()
    assert sorted(set(tracklet[frame < 12])) == [0, 1]
    assert set(tracklet[frame >= 12]).isdisjoint({0, 1}), "after the cut"
    cuts = np.concatenate([one.cuts for one in whole])
    assert cuts[12] and cuts.sum() == 3


@pytest.mark.parametrize("stops", [(1,), (8,), (9, 17), (3, 12, 20, 25), (30,)])
def test_interrupted_and_resumed_is_the_same_as_in_one_go(
    clip: Path, whole: list[Chunk], source: DenseSource, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Wherever it was interrupted, and however often: to the last bit, and without looking twice."""
    for stop in stops:
        records, told = look(clip, tmp_path, source, stop)
        assert records.frames == (stop - 1) // SHORT * SHORT
        assert told[-1] == stop
    before = records.frames
    records, told = look(clip, tmp_path, source)
    assert told == list(range(before + 1, 31))
    for one, other in zip(records, whole, strict=True):
        assert_same(one, other)


def test_a_crash_in_the_middle_of_a_write_is_made_up_for(
    clip: Path, whole: list[Chunk], source: DenseSource, tmp_path: Path
) -> None:
    """The machine went down: a damaged chunk, a leftover of the next, and nobody to clean up."""
    look(clip, tmp_path, source, 27)
    (tmp_path / ".seen-00003.abcdef.npz").write_bytes(b"PK\x03\x04 half")
    cut_off(tmp_path / "seen-00001.npz")
    records, told = look(clip, tmp_path, source)
    assert told == list(range(9, 31))
    for one, other in zip(records, whole, strict=True):
        assert_same(one, other)
    assert files(tmp_path) == [f"seen-{k:05d}.npz" for k in range(4)]


def test_what_is_complete_is_not_looked_at_again(
    clip: Path, whole: list[Chunk], source: DenseSource, tmp_path: Path
) -> None:
    for number, one in enumerate(whole):
        assert Records(tmp_path).count == number
        Records(tmp_path).append(one)
    stamps = [(tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)]
    records, told = look(clip, tmp_path, source)
    assert told == [] and records.count == len(whole)
    assert stamps == [(tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)]


@pytest.mark.parametrize("frames", [1, 2 * SHORT, 2 * SHORT + 1])
def test_no_chunk_is_empty(source: DenseSource, tmp_path: Path, frames: int) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(frames))
    for _ in range(2):
        records, _ = look(path, tmp_path / "work", source)
        assert records.frames == frames
        assert [len(one.times) for one in records] == [
            min(SHORT, frames - k) for k in range(0, frames, SHORT)
        ]
        assert all(len(one.frame) == 0 and one.landmarks.shape == (0, 478, 2) for one in records)


def test_frames_that_cannot_be_decoded_are_counted(source: DenseSource, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "wall.mp4", wall_frames(40))
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 3
    for k in range(start, start + 200):
        data[k] ^= 0xFF
    path.write_bytes(data)
    with open_clip(path) as opened:
        count = sum(1 for _ in opened.frames())
        lost = opened.lost
    assert lost > 0
    records, _ = look(path, tmp_path / "work", source)
    assert records.last is not None
    assert (records.frames, records.last.lost) == (count, lost)


def test_what_an_encoder_told_is_read_again(tmp_path: Path) -> None:
    first = chunk(0)
    told = np.random.default_rng(0).random((2, len(first.frame), 52), np.float32)
    Records(tmp_path).append(replace(first, told=told[0], variance=told[1]))
    (read,) = Records(tmp_path)
    assert read.told is not None and read.variance is not None
    np.testing.assert_array_equal(read.told, told[0])
    np.testing.assert_array_equal(read.variance, told[1])
