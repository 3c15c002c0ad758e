"""The default face source on real photographs: what it finds, where, and what it leaves alone."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES
from recon3d.errors import AssetError, InputError, UsageError
from recon3d.face import Face, open_face_source
from recon3d.face.blendshapes import LANDMARKS_READ, OUTPUT_NAMES
from recon3d.face.dense import DenseSource
from recon3d.face.detector import anchors, merge
from recon3d.face.landmarks import region_around

#: Landmarks that change places in a mirror: eye corners, mouth corners, wings of the nose.
MIRRORED = ((33, 263), (133, 362), (61, 291), (48, 278), (159, 386), (145, 374))


@pytest.fixture(scope="module")
def source() -> DenseSource:
    return DenseSource()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return np.array(skimage.data.astronaut())


@pytest.fixture(scope="module")
def face(source: DenseSource, astronaut: np.ndarray) -> Face:
    (only,) = source.find(astronaut)
    return only


def error_percent(found: Face, expected: np.ndarray) -> float:
    """Mean landmark distance in % of the expected box's diagonal."""
    distance = np.linalg.norm(found.landmarks[:, :2] - expected[:, :2], axis=1).mean()
    return float(distance / np.linalg.norm(np.ptp(expected[:, :2], axis=0)) * 100)


def turned(pixels: np.ndarray, points: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn an image and points in it about its middle, on a canvas that holds all of it."""
    height, width = pixels.shape[:2]
    side = math.ceil(math.hypot(width, height))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle, half = np.array([width / 2, height / 2]), side / 2
    back = np.array([[cos, sin], [-sin, cos]])  # from the canvas to the image
    offset = middle - back @ [half, half]
    affine = (cos, sin, offset[0], -sin, cos, offset[1])
    image = Image.fromarray(pixels).transform(
        (side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.array(image), (points[:, :2] - middle) @ back + half


def on_canvas(pixels: np.ndarray, scale: float, canvas: tuple[int, int], at: tuple[int, int]) -> np.ndarray:
    """Paste a scaled image into a larger, faintly noisy grey one."""
    width, height = canvas
    side = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    small = np.array(Image.fromarray(pixels).resize(side, Image.Resampling.LANCZOS))
    large = np.random.default_rng(0).integers(110, 130, (height, width, 3), dtype=np.uint8)
    large[at[1] : at[1] + side[1], at[0] : at[0] + side[0]] = small
    return large


def test_the_face_has_the_promised_form(face: Face) -> None:
    assert face.kind == "mediapipe478"
    assert face.landmarks.shape == (478, 3) and face.landmarks.dtype == np.float32
    assert face.box.shape == (4,) and face.box.dtype == np.float32
    assert face.scores is not None and face.scores.shape == (52,) and face.scores.dtype == np.float32
    assert face.scores.min() >= 0 and face.scores.max() <= 1
    assert 0.99 < face.score <= 1


def test_the_face_is_where_it_is(face: Face) -> None:
    # Read off an enlargement by eye: irises, mouth corners, nose tip, chin; and how well one can.
    by_eye = {
        468: (203.5, 101.0, 1.5), 473: (246.9, 103.1, 1.5), 61: (203.5, 139.4, 3), 291: (246.9, 141.3, 3),
        1: (225.0, 126.9, 5), 152: (222.5, 178.1, 4),
    }  # fmt: skip
    for index, (x, y, tolerance) in by_eye.items():
        assert np.linalg.norm(face.landmarks[index, :2] - (x, y)) < tolerance, index
    x0, y0, x1, y1 = face.box
    assert 170 < x0 < 195 and 60 < y0 < 85 and 255 < x1 < 285 and 165 < y1 < 190


def test_depth_grows_away_from_the_camera(face: Face) -> None:
    nose_tip, ears = face.landmarks[1, 2], face.landmarks[[234, 454], 2]
    assert nose_tip < ears.min() - 10


def test_a_smile_is_scored_as_one(face: Face) -> None:
    assert face.scores is not None
    scores = dict(zip(ARKIT_NAMES, face.scores, strict=True))
    assert scores["mouthSmileLeft"] > 0.5 and scores["mouthSmileRight"] > 0.5
    assert scores["mouthFrownLeft"] < 0.1 and scores["jawOpen"] < 0.3
    assert scores["eyeBlinkLeft"] < 0.4 and scores["tongueOut"] == 0


def test_closing_one_eye_raises_that_blink_only(source: DenseSource, face: Face) -> None:
    points = face.landmarks.copy()
    upper = [246, 161, 160, 159, 158, 157, 173]
    lower = [7, 163, 144, 145, 153, 154, 155]  # the lids of the subject's right eye
    points[upper] = points[lower]
    assert face.scores is not None
    change = source._scorer.score(points) - face.scores
    assert change[ARKIT_NAMES.index("eyeBlinkRight")] > 0.2
    assert abs(change[ARKIT_NAMES.index("eyeBlinkLeft")]) < 0.15


def test_a_mirrored_image_gives_the_mirrored_face(
    source: DenseSource, astronaut: np.ndarray, face: Face
) -> None:
    (other,) = source.find(np.ascontiguousarray(astronaut[:, ::-1]))
    size = np.linalg.norm(face.box[2:] - face.box[:2])
    for a, b in (*MIRRORED, *(pair[::-1] for pair in MIRRORED)):
        x, y = other.landmarks[b, :2]
        there = np.array([astronaut.shape[1] - x, y])
        assert np.linalg.norm(face.landmarks[a, :2] - there) < 0.03 * size, (a, b)
    assert face.scores is not None and other.scores is not None
    assert np.abs(other.scores[list(ARKIT_MIRROR)] - face.scores).mean() < 0.06


@pytest.mark.parametrize("degrees", [-45, -30, 30, 45, 90, 180])
def test_turned_faces(source: DenseSource, astronaut: np.ndarray, face: Face, degrees: float) -> None:
    image, expected = turned(astronaut, face.landmarks, degrees)
    (found,) = source.find(image)
    assert error_percent(found, expected) < 1.5


@pytest.mark.parametrize(("width", "canvas"), [(60, (1200, 900)), (60, (2000, 1500)), (100, (900, 2000))])
def test_small_faces_in_large_images(
    source: DenseSource, astronaut: np.ndarray, face: Face, width: int, canvas: tuple[int, int]
) -> None:
    scale = width / float(face.box[2] - face.box[0])
    at = (canvas[0] // 7, canvas[1] // 2)
    found = source.find(on_canvas(astronaut, scale, canvas, at))
    assert len(found) == 1
    assert error_percent(found[0], face.landmarks[:, :2] * scale + at) < 1.5


def test_small_faces_beside_a_large_one_when_asked(astronaut: np.ndarray, face: Face) -> None:
    large = on_canvas(astronaut, 60 / float(face.box[2] - face.box[0]), (1600, 1200), (1100, 700))
    large[:900, :900] = np.array(Image.fromarray(astronaut[:300, 60:360]).resize((900, 900)))
    found = DenseSource(small_faces=True).find(large)
    assert len(found) == 2
    widths = [float(f.box[2] - f.box[0]) for f in found]
    assert widths[0] > 200 and 50 < widths[1] < 70


@pytest.mark.parametrize("margin", [0.3, 0.1, 0.0, -0.1])
def test_a_face_that_fills_the_frame(
    source: DenseSource, astronaut: np.ndarray, face: Face, margin: float
) -> None:
    x0, y0, x1, y1 = (int(v) for v in face.box)
    dx, dy = round((x1 - x0) * margin), round((y1 - y0) * margin)
    cut = astronaut[y0 - dy : y1 + dy, x0 - dx : x1 + dx]
    large = np.array(Image.fromarray(cut).resize((cut.shape[1] * 4, cut.shape[0] * 4)))
    (found,) = source.find(large)
    assert error_percent(found, (face.landmarks[:, :2] - (x0 - dx, y0 - dy)) * 4) < 2


def test_two_faces_come_largest_first(source: DenseSource, astronaut: np.ndarray) -> None:
    one = astronaut[:300, 60:360]
    two = np.array(Image.fromarray(one).resize((240, 240)))
    image = np.zeros((300, 540, 3), np.uint8)
    image[:240, :240], image[:, 240:] = two, one[:, ::-1]
    found = source.find(image)
    assert [bool(f.box[0] > 240) for f in found] == [True, False]
    assert len(source.find(image, max_faces=1)) == 1
    assert source.find(image, max_faces=1)[0].box[0] > 240


def test_a_grey_photograph(source: DenseSource, astronaut: np.ndarray, face: Face) -> None:
    grey = np.array(Image.fromarray(astronaut).convert("L").convert("RGB"))
    (found,) = source.find(grey)
    assert error_percent(found, face.landmarks) < 1


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "cell", "clock", "brick", "text"])
def test_images_without_a_face(source: DenseSource, name: str) -> None:
    image = np.array(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"))
    assert source.find(image) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (700, 700)])
def test_noise_of_any_shape_holds_no_face(source: DenseSource, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert source.find(noise) == []


def test_memory_layout_does_not_matter(source: DenseSource, astronaut: np.ndarray, face: Face) -> None:
    fortran = np.asfortranarray(astronaut)
    fortran.flags.writeable = False
    np.testing.assert_array_equal(source.find(fortran)[0].landmarks, face.landmarks)


def test_tracking_follows_a_moving_face(source: DenseSource, astronaut: np.ndarray, face: Face) -> None:
    tracked: Face | None = face
    for step in range(1, 4):
        frame, expected = turned(
            np.roll(astronaut, 6 * step, axis=1), face.landmarks + np.float32((6 * step, 0, 0)), 3 * step
        )
        if step == 1:
            (tracked,) = source.find(frame)
            continue
        assert tracked is not None
        tracked = source.track(frame, tracked)
        assert tracked is not None and tracked.scores is not None
        assert error_percent(tracked, expected) < 1


def test_tracking_says_when_the_face_is_gone(source: DenseSource, astronaut: np.ndarray, face: Face) -> None:
    assert source.track(np.full_like(astronaut, 120), face) is None
    nowhere = Face(face.box, 1.0, np.full_like(face.landmarks, np.nan), "mediapipe478")
    assert source.track(astronaut, nowhere) is None


def test_landmarks_in_crops_needs_no_detector(source: DenseSource, astronaut: np.ndarray, face: Face) -> None:
    region = region_around(face.landmarks)
    first, second = source.landmarks_in_crops(astronaut, [region, region])
    np.testing.assert_array_equal(first.points, second.points)
    assert np.linalg.norm(first.points[:, :2] - face.landmarks[:, :2], axis=1).mean() < 2


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(source: DenseSource, pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\(H,W,3\) uint8"):
        source.find(pixels)


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(UsageError, match="'dlib'"):
        open_face_source("dlib")


def test_a_wrong_task_file_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"something else")
    with pytest.raises(AssetError, match=r"face_landmarker\.task"):
        open_face_source(path=path)


def test_merging_averages_by_score() -> None:
    points = np.zeros((3, 8, 2), np.float32)
    points[0, 1] = points[1, 1] = 0.4
    points[1] += 0.04
    points[2, :2] = [(0.8, 0.8), (0.9, 0.9)]
    groups = merge(points, np.array([0.9, 0.6, 0.95], np.float32))
    assert [score for _, score in groups] == pytest.approx([0.95, 0.9])
    np.testing.assert_allclose(groups[1][0][0], 0.04 * 0.6 / 1.5, atol=1e-6)


def test_the_tables_have_their_sizes() -> None:
    assert anchors().shape == (896, 2) and anchors().min() > 0 and anchors().max() < 1
    assert len(LANDMARKS_READ) == len(set(LANDMARKS_READ)) == 146
    assert len(OUTPUT_NAMES) == 52 and OUTPUT_NAMES[0] == "_neutral"


def test_nothing_is_written_to_the_screen_and_mediapipe_stays_out() -> None:
    code = (
        "import sys, numpy, recon3d.face as f; f.open_face_source().find(numpy.zeros((9, 9, 3), 'uint8'));"
        "assert not {'mediapipe', 'cv2', 'face_alignment'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
