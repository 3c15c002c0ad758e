"""Metrics by hand, the landmark benchmark's reader, and the synthetic benchmark."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError, UsageError
from recon3d.evaluation import (
    evaluate_lfpw,
    evaluate_synthetic,
    mean_absolute_error,
    nme_outer_eye,
    read_lfpw,
    rotation_error_degrees,
    unit_correlation,
)
from recon3d.evaluation.lfpw import TUNE, Detected, Marked, detect, fit_landmarks68, score, split_names
from recon3d.evaluation.synthetic import (
    exact_landmarks,
    random_truth,
    read_live_link,
    single_units,
    sparse_expressions,
)
from recon3d.face import Face
from recon3d.fitting import LandmarkSolver, default_focal
from recon3d.head import HeadModel

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ARCHIVE = DATA / "photos" / "lfpw_train.zip"
RECORDING = DATA / "livelink" / "rom_3.csv"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")


@pytest.fixture(scope="module")
def solver(head: HeadModel) -> LandmarkSolver:
    return LandmarkSolver(head)


def test_nme_by_hand() -> None:
    marked = np.random.default_rng(0).uniform(0, 100, (2, 68, 2))
    marked[:, 36], marked[:, 45] = (0, 0), (30, 40)  # 50 px between the outer corners
    found = marked + np.array((3.0, 4.0))  # every point 5 px off
    np.testing.assert_allclose(nme_outer_eye(found, marked), [10, 10])
    jaw_only = marked.copy()
    jaw_only[:, :17] += np.array((3.0, 4.0))
    np.testing.assert_allclose(nme_outer_eye(jaw_only, marked, jaw=False), 0)
    np.testing.assert_allclose(nme_outer_eye(jaw_only, marked), 10 * 17 / 68)
    np.testing.assert_allclose(nme_outer_eye(found * 7, marked * 7), [10, 10])


def test_metrics_refuse_arrays_that_do_not_match() -> None:
    with pytest.raises(UsageError, match="68"):
        nme_outer_eye(np.zeros((1, 51, 2)), np.zeros((1, 51, 2)))
    with pytest.raises(UsageError, match="shape"):
        mean_absolute_error(np.zeros(3), np.zeros(4))
    with pytest.raises(UsageError, match="wanted"):
        unit_correlation(np.zeros((3, 52)), np.zeros((4, 52)))


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.5, 30.0, 90.0, 179.9])
def test_rotation_error(degrees: float) -> None:
    axis = np.array([1.0, 2.0, -2.0]) / 3
    base = Rotation.random(4, random_state=1)
    turned = base * Rotation.from_rotvec(np.deg2rad(degrees) * axis)
    found = rotation_error_degrees(turned.as_matrix(), base.as_matrix())
    np.testing.assert_allclose(found, degrees, rtol=1e-6, atol=1e-7)


def test_mean_absolute_error() -> None:
    assert mean_absolute_error(np.array([[0.0, 1.0]]), np.array([[0.5, 1.25]])) == 0.375


def test_unit_correlation() -> None:
    rng = np.random.default_rng(2)
    true = rng.uniform(0, 1, (50, 4))
    true[:, 3] = 0.5  # stands still: says nothing
    found = np.stack([2 * true[:, 0] + 1, -true[:, 1], np.full(50, 0.2), rng.uniform(0, 1, 50)], axis=1)
    correlation = unit_correlation(found, true)
    np.testing.assert_allclose(correlation[:3], [1, -1, 0], atol=1e-9)
    assert np.isnan(correlation[3])
    noisy = rng.normal(size=(50, 4))
    expected = [np.corrcoef(noisy[:, k], true[:, k])[0, 1] for k in range(3)]
    np.testing.assert_allclose(unit_correlation(noisy, true)[:3], expected)


def archive(
    path: Path, marks: dict[str, list[list[float]]], pictures: dict[str, bytes] | None = None
) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60), 128, np.uint8)).save(buffer, "JPEG")
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("landmarks68.json", json.dumps(marks))
        for name in marks:
            bundle.writestr(name, (pictures or {}).get(name, buffer.getvalue()))
    return path


def test_reader_converts_pixels_and_sorts(tmp_path: Path) -> None:
    points = [[float(k), 2.0 * k] for k in range(68)]
    path = archive(tmp_path / "a.zip", {"b.jpg": points, "a.jpg": points})
    found = list(read_lfpw(path))
    assert [item.name for item in found] == ["a.jpg", "b.jpg"]
    assert found[0].pixels.shape == (40, 60, 3)
    assert found[0].pixels.dtype == np.uint8
    np.testing.assert_allclose(found[0].points, np.array(points) + 0.5)
    assert len(list(read_lfpw(path, limit=1))) == 1


def test_reader_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_lfpw(tmp_path / "none.zip"))
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match=r"not the archive|damaged"):
        list(read_lfpw(tmp_path / "text.zip"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as bundle:
        bundle.writestr("other.txt", "")
    with pytest.raises(InputError, match="landmarks68"):
        list(read_lfpw(tmp_path / "empty.zip"))
    few = archive(tmp_path / "few.zip", {"a.jpg": [[0.0, 0.0]] * 5})
    with pytest.raises(InputError, match=r"a\.jpg has \(5, 2\)"):
        list(read_lfpw(few))
    points = [[0.0, 0.0]] * 68
    broken = archive(tmp_path / "broken.zip", {"a.jpg": points}, {"a.jpg": b"no picture"})
    with pytest.raises(InputError, match="damaged"):
        list(read_lfpw(broken))


def test_split_is_by_sorted_name() -> None:
    names = [f"{k:04d}.jpg" for k in reversed(range(805))]
    tune, report = split_names(names, "tune"), split_names(names, "report")
    assert (len(tune), len(report)) == (605, 200)
    assert tune[-1] < report[0]
    assert tune + report == split_names(names, "all") == sorted(names)


class Listed:
    """A face source that returns given faces, to test what is done with them."""

    def __init__(self, faces: list[Face]) -> None:
        self.faces = faces

    def find(self, pixels: np.ndarray, *, max_faces: int = 8) -> list[Face]:
        return self.faces[:max_faces]


def face_at(points: np.ndarray) -> Face:
    full = np.concatenate([points, np.zeros((len(points), 1))], axis=1).astype(np.float32)
    return Face(np.array([0, 0, 1, 1], np.float32), 0.9, full, "ibug68")


def test_the_marked_face_is_taken_and_another_persons_is_not() -> None:
    points = np.random.default_rng(3).uniform(100, 200, (68, 2))
    photograph = Marked("a.jpg", np.zeros((300, 400, 3), np.uint8), points.astype(np.float32))
    own, other = face_at(points + 2), face_at(points + 180)
    assert detect(photograph, Listed([other, own])).face is own
    assert detect(photograph, Listed([other])).face is None
    assert detect(photograph, Listed([])).face is None
    assert detect(photograph, Listed([own])).size == (400, 300)


def test_no_face_at_all_is_an_error(head: HeadModel, solver: LandmarkSolver) -> None:
    nothing = Detected("a.jpg", (10, 10), None, np.zeros((68, 2), np.float32))
    with pytest.raises(InputError, match="no face"):
        score([nothing], head, solver)


def test_fitted_points_of_an_exact_face_are_its_own(head: HeadModel, solver: LandmarkSolver) -> None:
    """The benchmark's whole path on a known head: projected, fitted, projected again."""
    rng = np.random.default_rng(4)
    truth = random_truth(head, sparse_expressions(3, rng), rng)
    dense, sparse = exact_landmarks(head, truth).numpy(), exact_landmarks(head, truth, "ibug68").numpy()
    found = []
    for k in range(3):
        points = np.concatenate([dense[k], np.zeros((478, 1), np.float32)], axis=1)
        face = Face(np.zeros(4, np.float32), 1.0, points, "mediapipe478")
        found.append(Detected(f"{k}", (512, 512), face, sparse[k]))
    assert default_focal(dense[0], (512, 512)) > 500
    fitted = fit_landmarks68(found, head, solver)
    assert nme_outer_eye(fitted, sparse, jaw=False).max() < 2.0
    report = score(found, head, solver)
    assert report.found == report.photographs == 3
    assert report.mesh51 < 1.5
    assert report.failures == 0


@needs_data
def test_landmark_benchmark(head: HeadModel, solver: LandmarkSolver) -> None:
    from recon3d.face import open_face_source

    done: list[int] = []
    report = evaluate_lfpw(
        ARCHIVE, head, open_face_source("mediapipe"), solver, split="report", limit=40, progress=done.append
    )
    assert done == list(range(1, 41))
    assert report.found >= 39
    assert 2.3 < report.raw51 < 4 < report.raw68 < 5.2
    assert report.mesh51 < report.raw51 + 0.5
    assert report.mesh68 < report.raw68 + 0.6
    assert report.failures <= 0.08


@needs_data
def test_the_archive_is_the_known_one() -> None:
    photographs = list(read_lfpw(ARCHIVE, "tune", limit=3))
    assert len(photographs) == 3
    for item in photographs:
        height, width = item.pixels.shape[:2]
        assert (item.points.mean(0) > 0).all() and (item.points.mean(0) < [width, height]).all()
    with zipfile.ZipFile(ARCHIVE) as bundle:
        names = [name for name in bundle.namelist() if name.endswith(".jpg")]
    assert len(split_names(names, "tune")) == TUNE
    assert len(split_names(names, "report")) == 200


def test_expression_sets() -> None:
    singles = single_units()
    assert ((singles > 0).sum(1) == 1).all()
    sparse = sparse_expressions(200, np.random.default_rng(5), active=20)
    assert sparse.shape == (200, 52)
    assert float(sparse.min()) >= 0 and float(sparse.max()) <= 1
    for a, b in (("jawLeft", "jawRight"), ("eyeLookUpLeft", "eyeLookDownLeft")):
        both = (sparse[:, ARKIT_NAMES.index(a)] > 0) & (sparse[:, ARKIT_NAMES.index(b)] > 0)
        assert not bool(both.any())


def test_exact_landmarks_fall_into_the_picture(head: HeadModel) -> None:
    truth = random_truth(head, single_units(), np.random.default_rng(6))
    for kind, count in (("mediapipe478", 478), ("ibug68", 68)):
        points = exact_landmarks(head, truth, kind)
        assert points.shape == (52, count, 2)
        assert float(points.min()) > 0 and float(points.max()) < 512
    assert float((torch.linalg.det(truth.rotation) - 1).abs().max()) < 1e-5


def test_synthetic_benchmark(head: HeadModel, solver: LandmarkSolver) -> None:
    clean = evaluate_synthetic(head, solver, count=24)
    assert set(clean) == {"single", "sparse"}
    assert clean["single"].faces == 52 and clean["sparse"].faces == 24
    assert all(report.arkit_mae < 0.06 and report.rotation_degrees < 1.5 for report in clean.values())
    again = evaluate_synthetic(head, solver, count=24)
    np.testing.assert_allclose(astuple(again["sparse"]), astuple(clean["sparse"]), rtol=1e-2)
    noisy = evaluate_synthetic(head, solver, count=24, noise=4.0)
    assert noisy["single"].arkit_mae > clean["single"].arkit_mae


@needs_data
def test_synthetic_benchmark_with_a_recording(head: HeadModel, solver: LandmarkSolver) -> None:
    reports = evaluate_synthetic(head, solver, count=24, recording=RECORDING)
    assert reports["recorded"].faces == 24
    assert reports["recorded"].arkit_mae < 0.1


def recording(path: Path, names: list[str], rows: list[list[str]]) -> Path:
    path.write_text(
        "\n".join(",".join(line) for line in [["Timecode", "BlendShapeCount", *names], *rows]) + "\n"
    )
    return path


def test_live_link_reader_goes_by_name(tmp_path: Path) -> None:
    names = [name[0].upper() + name[1:] for name in reversed(ARKIT_NAMES)]
    row = ["00:00:00:00.000", "61", *(str(k / 51) for k in range(52))]
    found = read_live_link(recording(tmp_path / "take.csv", names, [row] * 5), count=3)
    assert found.shape == (3, 52)
    np.testing.assert_allclose(found[0].numpy(), [1 - k / 51 for k in range(52)], atol=1e-6)


def test_live_link_reader_names_what_is_wrong(tmp_path: Path) -> None:
    names = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
    cases = {
        "short": (names[:-1], [["t", "61", *["0"] * 51]], "not a Live Link"),
        "text": (names, [["t", "61", *["x"] * 52]], "not a Live Link"),
        "empty": (names, [], "no frame"),
        "cut": (names, [["t", "61", "0.5"]], "not a Live Link"),
    }
    for name, (columns, rows, message) in cases.items():
        with pytest.raises(InputError, match=message):
            read_live_link(recording(tmp_path / f"{name}.csv", columns, rows))
    with pytest.raises(InputError, match="cannot be read"):
        read_live_link(tmp_path / "none.csv")
