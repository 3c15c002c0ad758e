"""The heads over a clip's frames: in place, through time, one behind the other, and nothing else touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from moving_head import moving_capture
from PIL import Image, ImageDraw
from toy_head import write_toy_head

from recon3d.capture import Capture
from recon3d.head import HeadModel, load_head
from recon3d.media.video import Frame, VideoWriter, open_clip
from recon3d.render.overlay_video import OverlayArtist, posed_vertices

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SIZE = (320, 240)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("toy") / "toy.npz"))


def take(head: HeadModel, /, frames: int = 6, **changes: Any) -> Capture:
    """A head that moves, well inside small frames; the camera's middle is not theirs."""
    values = {
        "image_size": np.array(SIZE),
        "principal": np.array([150.0, 125.0]),
        "focal": 500.0,
        "timestamps": np.arange(frames) / 25,
    }
    return moving_capture(head, frames, **{**values, **changes})


def shifted(capture: Capture, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Capture:
    return replace(capture, translation=capture.translation + np.array([x, y, z], np.float32))


def frames_of(count: int, size: tuple[int, int] = SIZE, value: int | None = None) -> list[Frame]:
    """Pictures of one colour, or noise."""
    random = np.random.default_rng(0)
    shape = (size[1], size[0], 3)
    pictures = [
        random.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
        for _ in range(count)
    ]
    return [Frame(k, k / 25, picture) for k, picture in enumerate(pictures)]


def drawn(artist: OverlayArtist, frames: list[Frame]) -> list[Pixels]:
    return [picture for picture, _ in artist.draw(frames)]


def changed(picture: Pixels, frame: Frame) -> Mask:
    """What is not as it was in the frame."""
    found: Mask = (picture != frame.pixels).any(axis=2)
    return found


def covered(head: HeadModel, capture: Capture, row: int) -> Mask:
    """The plain way: all triangles of the head filled, one after another, by the words of the contract."""
    with torch.no_grad():
        vertices = posed_vertices(capture, head, np.array([row]))[0].double().numpy()
    pixels = vertices[:, :2] / vertices[:, 2:] * capture.focal + capture.principal
    # four times as fine; Pillow counts from the pixels' middles
    image = Image.new("1", (4 * capture.size[0], 4 * capture.size[1]))
    draw = ImageDraw.Draw(image)
    for triangle in (4 * pixels - 0.5)[head.faces.numpy()].reshape(-1, 6).tolist():
        draw.polygon(triangle, fill=1)
    fine = np.asarray(image).reshape(capture.size[1], 4, capture.size[0], 4)
    found: Mask = fine.mean(axis=(1, 3)) > 0.5
    return found


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_overlay_covers_the_head(toy: HeadModel) -> None:
    """In every frame at its own place; the outline may be a pixel wider."""
    capture = take(toy)
    frames = frames_of(6, value=128)
    for row, (picture, frame) in enumerate(
        zip(drawn(OverlayArtist([capture], toy), frames), frames, strict=True)
    ):
        assert picture.dtype == np.uint8 and picture.shape == (240, 320, 3)
        wanted, found = covered(toy, capture, row), changed(picture, frame)
        assert wanted.sum() > 2000
        assert found[wanted].mean() > 0.99
        assert overlap(found, wanted) > 0.93
        for axis in (0, 1):
            middle = [np.nonzero(mask)[axis].mean() for mask in (found, wanted)]
            assert middle[0] == pytest.approx(middle[1], abs=0.5)


def test_the_open_head_covers_the_face(tmp_path: Path) -> None:
    """Also where it is larger than it is drawn at; the landmarks lie on it, the frame's corners do not."""
    head = load_head()
    size = (640, 480)
    pose = np.zeros((2, head.num_joints, 3), np.float32)
    pose[:, 0] = [[np.pi, 0, 0], [np.pi - 0.3, 0.2, 0.9]]
    capture = take(head, 2, image_size=np.array(size), principal=np.array([330.0, 250.0]), focal=1100.0)
    capture = replace(
        capture, pose=pose, expression=0.3 * capture.expression, translation=0 * capture.translation
    )
    middle = posed_vertices(capture, head, np.arange(2)).mean(1).numpy()
    capture = replace(capture, translation=np.array([0, 0, 0.8]) - middle)
    frames = frames_of(2, size, 128)
    for row, (picture, frame) in enumerate(
        zip(drawn(OverlayArtist([capture], head), frames), frames, strict=True)
    ):
        wanted, found = covered(head, capture, row), changed(picture, frame)
        assert wanted.any(axis=1).sum() > 300, "px high"
        assert overlap(found, wanted) > 0.95
        vertices = posed_vertices(capture, head, np.array([row]))
        points = head.landmarks(vertices, "mediapipe478")[0]
        x, y = (
            (points[:, :2] / points[:, 2:] * capture.focal + torch.tensor(capture.principal)).int().T.tolist()
        )
        inside = [(a, b) for a, b in zip(x, y, strict=True) if 0 <= a < 640 and 0 <= b < 480]
        assert len(inside) > 300 and np.mean([found[b, a] for a, b in inside]) > 0.99
        assert not found[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_the_frame_shows_through_and_nothing_overflows(toy: HeadModel) -> None:
    capture = take(toy, 1)
    artist = OverlayArtist([capture], toy)
    dark, light = (drawn(artist, frames_of(1, value=value))[0].astype(int) for value in (0, 255))
    inside = covered(toy, capture, 0)
    through = (light - dark)[inside]
    assert np.median(through) == pytest.approx(0.4 * 255, abs=10)
    assert through.min() >= 0
    assert light[inside].min() > 0.3 * 255 and dark[inside].max() < 0.8 * 255
    assert dark[inside].mean() > 40, "and the head is seen"
    shades = dark[inside].mean(axis=1)
    assert shades.std() > 5, "as a solid one"


def test_frames_without_the_face_are_as_they_were(toy: HeadModel) -> None:
    """Also beyond the capture's end, and wherever in the batches that are drawn together."""
    capture = take(toy, 20)
    tracked = np.ones(20, bool)
    tracked[[0, 6, 7, 8, 15, 16, 17, 18, 19]] = False
    frames = frames_of(27)
    pictures = drawn(OverlayArtist([replace(capture, tracked=tracked)], toy), frames)
    assert len(pictures) == 27
    touched = [bool(changed(picture, frame).any()) for picture, frame in zip(pictures, frames, strict=True)]
    assert touched == [*tracked.tolist(), *[False] * 7]
    whole = drawn(OverlayArtist([capture], toy), frames)
    for k in np.flatnonzero(tracked):
        assert overlap(changed(pictures[k], frames[k]), changed(whole[k], frames[k])) > 0.97


def test_the_frames_themselves_are_left_alone(toy: HeadModel) -> None:
    frames = frames_of(3)
    copies = [frame.pixels.copy() for frame in frames]
    for frame in frames:
        frame.pixels.setflags(write=False)
    artist = OverlayArtist([take(toy, 3)], toy)
    shown = list(artist.draw(frames))
    assert [time for _, time in shown] == [frame.time for frame in frames]
    for frame, copy in zip(frames, copies, strict=True):
        np.testing.assert_array_equal(frame.pixels, copy)


@pytest.mark.parametrize("size", [(320, 240), (321, 241)])
def test_side_by_side(toy: HeadModel, size: tuple[int, int]) -> None:
    """The frame left, the same with the heads right."""
    capture = take(toy, 3, image_size=np.array(size))
    frames = frames_of(3, size)
    plain, double = (OverlayArtist([capture], toy, side_by_side=side) for side in (False, True))
    assert plain.size == size and double.size == (2 * size[0], size[1])
    for frame, one, both in zip(frames, drawn(plain, frames), drawn(double, frames), strict=True):
        assert both.shape == (size[1], 2 * size[0], 3)
        np.testing.assert_array_equal(both[:, : size[0]], frame.pixels)
        np.testing.assert_array_equal(both[:, size[0] :], one)


@pytest.mark.parametrize("size", [(319, 241), (320, 241), (317, 240)])
@pytest.mark.parametrize("double", [False, True])
def test_the_video_has_even_sides(
    toy: HeadModel, tmp_path: Path, size: tuple[int, int], double: bool
) -> None:
    """As players want it; the head stays where it is."""
    capture = take(toy, 4, image_size=np.array(size))
    artist = OverlayArtist([capture], toy, side_by_side=double)
    frames = frames_of(4, size, 128)
    with VideoWriter(tmp_path / "overlay.mp4", artist.size, 25.0, crf=12) as video:
        for picture, time in artist.draw(frames):
            video.write(picture, time)
    with open_clip(tmp_path / "overlay.mp4") as clip:
        found = list(clip.frames())
    width, height = artist.size
    assert clip.size == (width + width % 2, height + height % 2)
    assert [frame.time for frame in found] == pytest.approx([frame.time for frame in frames])
    for row, frame in enumerate(found):
        part = frame.pixels[: size[1], width - size[0] : width].astype(int)
        seen = np.abs(part - 128).max(axis=2) > 12
        assert overlap(seen, covered(toy, capture, row)) > 0.85


def test_several_persons_each_at_their_place(toy: HeadModel) -> None:
    alone = take(toy, 3, focal=300.0)
    left, right = shifted(alone, x=-0.25), shifted(alone, x=0.2)
    gone = np.array([True, False, True])
    people = [left, replace(right, tracked=gone)]
    frames = frames_of(3, value=128)
    pictures = drawn(OverlayArtist(people, toy), frames)
    for row, (picture, frame) in enumerate(zip(pictures, frames, strict=True)):
        both = covered(toy, left, row)
        both = both | covered(toy, right, row) if gone[row] else both
        assert overlap(changed(picture, frame), both) > 0.9


@pytest.mark.parametrize("swapped", [False, True])
def test_the_nearer_head_lies_in_front(toy: HeadModel, swapped: bool) -> None:
    """Whoever is named first."""
    near = take(toy, 1)
    far = shifted(near, x=0.06, z=0.3)
    people = [far, near] if swapped else [near, far]
    frames = frames_of(1, value=128)
    (picture,) = drawn(OverlayArtist(people, toy), frames)
    (front,) = drawn(OverlayArtist([near], toy), frames)
    (back,) = drawn(OverlayArtist([far], toy), frames)
    both = changed(front, frames[0]) & changed(back, frames[0])
    only_near = changed(front, frames[0]) & ~changed(back, frames[0])
    assert both.sum() > 500
    np.testing.assert_array_equal(picture[only_near], front[only_near])
    off = [np.abs(picture[both].astype(int) - one[both]).mean() for one in (front, back)]
    assert off[0] < off[1]
    assert overlap(changed(picture, frames[0]), changed(front, frames[0]) | changed(back, frames[0])) > 0.98


def test_a_head_that_reaches_out_of_the_frame_is_cut_off_there(toy: HeadModel) -> None:
    """Compared with a larger frame around it."""
    near = take(toy, 1)
    for x, y in ((-0.25, 0.0), (0.25, 0.0), (0.0, 0.2), (0.0, -0.2), (0.2, 0.15)):
        capture = shifted(near, x, y)
        frame = frames_of(1, value=128)
        (picture,) = drawn(OverlayArtist([capture], toy), frame)
        found = changed(picture, frame[0])
        large = replace(
            capture, image_size=np.array([960, 720]), principal=capture.principal + np.array([320, 240])
        )
        wanted = covered(toy, large, 0)[240:480, 320:640]
        assert 200 < wanted.sum() < 0.9 * covered(toy, large, 0).sum()
        assert overlap(found, wanted) > 0.9


@pytest.mark.parametrize(
    ("x", "z"), [(0.0, -3.0), (0.0, -0.8), (9.0, 0.0), (-9.0, 0.0), (0.0, 900.0)], ids=str
)
def test_heads_that_cannot_be_seen_leave_the_frame(toy: HeadModel, x: float, z: float) -> None:
    """Behind the camera, around it, beside the picture, too far to be a pixel large."""
    capture = take(toy, 3)
    moved = capture.translation.copy()
    moved[1] += (x, 0, z)
    frames = frames_of(3)
    pictures = drawn(OverlayArtist([replace(capture, translation=moved)], toy), frames)
    assert [bool(changed(p, f).any()) for p, f in zip(pictures, frames, strict=True)] == [True, False, True]


@pytest.mark.parametrize("z", [-0.55, 3.0, 12.0])
def test_very_large_and_very_small_heads(toy: HeadModel, z: float) -> None:
    capture = shifted(take(toy, 1), z=z)
    frames = frames_of(1, value=128)
    (picture,) = drawn(OverlayArtist([capture], toy), frames)
    found, wanted = changed(picture, frames[0]), covered(toy, capture, 0)
    assert wanted.any() and found[wanted].mean() > 0.97
    assert found.sum() < 2.5 * wanted.sum() + 12, "a contour around it at most"


def test_the_face_moves_with_its_units(toy: HeadModel) -> None:
    capture = take(toy, 2)
    still = replace(
        capture,
        pose=np.tile(capture.pose[:1], (2, 1, 1)),
        translation=np.tile(capture.translation[:1], (2, 1)),
        expression=np.stack([np.zeros(52), np.ones(52)]).astype(np.float32),
    )
    one, other = drawn(OverlayArtist([still], toy), frames_of(2, value=128))
    assert (np.abs(one.astype(int) - other).max(axis=2) > 4).sum() > 100


def test_frames_are_taken_a_few_at_a_time(toy: HeadModel) -> None:
    """So memory stays flat, however long the clip."""
    taken = 0

    def counted() -> Iterator[Frame]:
        nonlocal taken
        for frame in frames_of(40, value=128):
            taken += 1
            yield frame

    for shown, _ in enumerate(OverlayArtist([take(toy, 40)], toy).draw(counted()), 1):
        assert taken <= shown + 16
    assert taken == shown == 40
    assert drawn(OverlayArtist([take(toy, 4)], toy), []) == []
