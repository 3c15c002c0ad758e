"""FLAME's files from end to end: made ready, fitted to photographs and clips, exported, converted, learnt.

The file is a stand-in of FLAME's sizes and form (flame_stand_in.py); the photograph is a real one.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from face_clips import face_frames, write_clip
from flame_stand_in import (
    EXPRESSIONS,
    SHAPES,
    cut_stand_in,
    dressed_template,
    template_stand_in,
    write_stand_in,
)
from glb_reader import Glb
from gnm_files import gnm_of_open_head
from jointed_head import jointed_arrays
from obj_rigs import short_name, write_rig
from PIL import Image
from test_cli import recon3d as script

import recon3d
from recon3d._cli_convert import run_convert, run_head_build
from recon3d._cli_report import Reporter
from recon3d.assets import FACE_LANDMARKER, fetch
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.convert import Converter
from recon3d.errors import InputError, NoFaceError
from recon3d.evaluation.synthetic import read_live_link
from recon3d.export import FORMATS, ExportOptions, export
from recon3d.export._still import camera_vertices
from recon3d.face.dense import DenseSource
from recon3d.fitting.controls import Controls
from recon3d.fitting.units import UnitMap
from recon3d.head import HeadModel, load_head
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.synthetic import TRAINING, SyntheticFaces

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photographs and clips are not here")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that holds the face networks and nothing else."""
    own, network = tmp_path_factory.mktemp("cache"), fetch(FACE_LANDMARKER.name, quiet=True)
    shutil.copy(network, own / FACE_LANDMARKER.filename)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECON3D_CACHE", str(own))
        yield own


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("flame") / "generic_model.pkl", cut_stand_in())


@pytest.fixture(scope="module")
def flame(file: Path, cache: Path) -> HeadModel:
    return load_head(file)


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


@pytest.fixture(scope="module")
def fitted(flame: HeadModel, astronaut: Path) -> Capture:
    return recon3d.reconstruct(astronaut, head=flame)[0]


@pytest.fixture(scope="module")
def on_open(head: HeadModel, astronaut: Path) -> Capture:
    return recon3d.reconstruct(astronaut, head=head)[0]


# ---- made ready ----


def test_a_flame_file_becomes_a_head_that_knows_everything(flame: HeadModel) -> None:
    assert (flame.num_vertices, flame.num_shape, flame.num_expression) == (5023, SHAPES, EXPRESSIONS)
    assert flame.knows_arkit and not flame.speaks_arkit and flame.joints_follow_expression
    assert set(flame.embeddings) == {"mediapipe478", "ibug68", "contour"}
    assert flame.on_open is not None and len(flame.on_open) == 5023
    assert {"face", "lips", "eyelids", "scalp", "left_eyeball"} <= set(flame.regions)


def test_units_are_those_of_the_head_it_was_made_of(flame: HeadModel, head: HeadModel) -> None:
    """The stand-in is the open head cut down: what each vertex is to do is known exactly."""
    place = torch.cdist(flame.v_template, head.v_template).argmin(1)
    wanted = head.exprdirs[place]
    face = flame.within("face") & ~flame.within("mouth_inside", "teeth", "tongue", "eye_sockets")
    apart = (flame.arkitdirs - wanted)[face].norm(dim=1).mean(0) * 1e3
    size = wanted[face].norm(dim=1).mean(0) * 1e3
    units = torch.tensor([name != "tongueOut" for name in ARKIT_NAMES])
    assert float(apart[units].mean()) < 0.15 * float(size[units].mean())
    assert float((apart / size.clamp_min(0.1))[units].max()) < 0.6


def test_the_second_time_it_is_there_at_once(
    file: Path, flame: HeadModel, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (kept,) = (cache / "heads").iterdir()
    with caplog.at_level(logging.WARNING, logger="recon3d"):
        again = load_head(file)
    assert not caplog.records and again.id == flame.id
    torch.testing.assert_close(again.arkitdirs, flame.arkitdirs)
    sound = kept.read_bytes()
    kept.write_bytes(b"not a head")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, logger="recon3d"):
        whole = flame.arkitdirs.numpy()
        patch.setattr("recon3d.head.prepared.dress", lambda head: {"arkitdirs": whole})
        assert load_head(file).knows_arkit
    assert "first use" in caplog.text and kept.stat().st_size > 1_000_000, "what was damaged is made anew"
    kept.write_bytes(sound)


def test_nothing_is_sought_before_it_is_needed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECON3D_CACHE", str(tmp_path))
    asked: list[HeadModel] = []

    def fails(head: HeadModel) -> dict[str, np.ndarray]:
        asked.append(head)
        assert not head.regions, "who seeks sees the head as it is"
        raise NoFaceError("no face is seen on it")

    monkeypatch.setattr("recon3d.head.prepared.dress", fails)
    bare = load_head(file)
    posed = bare(torch.zeros(1, SHAPES), torch.zeros(1, EXPRESSIONS), torch.zeros(1, 5, 3))
    assert posed.vertices.shape == (1, 5023, 3) and bare.id and not asked
    for _ in range(2):
        with pytest.raises(NoFaceError):
            bare.embeddings  # noqa: B018
    assert len(asked) == 2 and not (tmp_path / "heads").exists()


def test_what_lies_beside_makes_another_head(file: Path, flame: HeadModel, tmp_path: Path) -> None:
    from recon3d.head.prepared import _digest

    copied = shutil.copy(file, tmp_path / "generic_model.pkl")
    assert _digest(Path(copied)) == _digest(file)
    np.save(tmp_path / "l_eyelid.npy", np.zeros((5023, 3)))
    assert _digest(Path(copied)) != _digest(file)


def test_files_that_are_none_say_what_they_are(tmp_path: Path, astronaut: Path) -> None:
    page = tmp_path / "generic_model.pkl"
    page.write_text("<!DOCTYPE html><html>Please log in</html>")
    done = script("photo", astronaut, "--head", page, "--out", tmp_path / "out")
    assert done.status == 1 and len(done.err.splitlines()) == 1
    assert "is a web page; log in at the FLAME site and download the file again" in done.err
    assert not list((tmp_path / "out").glob("*"))


# ---- a photograph ----


def test_a_photograph_is_fitted_as_well_as_with_the_open_head(
    fitted: Capture, on_open: Capture, flame: HeadModel
) -> None:
    assert fitted.head == flame.id and fitted.expression.shape == (1, EXPRESSIONS)
    size = np.ptp(on_open.landmarks68[0], axis=0).max()
    assert np.linalg.norm(fitted.landmarks68 - on_open.landmarks68, axis=-1).mean() < 0.02 * size
    assert np.corrcoef(fitted.arkit[0], on_open.arkit[0])[0, 1] > 0.9
    assert np.abs(fitted.arkit - on_open.arkit).mean() < 0.05
    assert np.abs(fitted.pose[0, 1]).max() == 0 and np.abs(fitted.pose[0, 2:]).max() > 0
    assert np.abs(fitted.expression).max() < 5 and np.abs(fitted.shape[:80]).max() < 4


def test_exports_show_it_by_its_units(fitted: Capture, flame: HeadModel, tmp_path: Path) -> None:
    written = {name: export(fitted, flame, tmp_path, name)[0] for name in ("glb", "arkit", "livelink", "obj")}
    names = Glb(written["glb"].read_bytes()).json["meshes"][0]["extras"]["targetNames"]
    assert tuple(names) == ARKIT_NAMES
    assert json.loads(written["arkit"].read_text())["frames"][0]["blendShapes"].keys() == set(ARKIT_NAMES)
    assert all(name in FORMATS for name in written)
    lines = written["obj"].read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) >= 5023


def test_flame_parameters_there_and_back(
    fitted: Capture, flame: HeadModel, file: Path, tmp_path: Path
) -> None:
    from recon3d._takes import read_take

    (path,) = export(fitted, flame, tmp_path, "flame-params")
    again = read_take(path, flame)
    np.testing.assert_allclose(again.expression, fitted.expression)
    np.testing.assert_allclose(again.pose, fitted.pose)
    np.testing.assert_allclose(again.landmarks68, fitted.landmarks68, atol=0.01)
    assert np.corrcoef(again.arkit[0], fitted.arkit[0])[0, 1] > 0.85, "read off the geometry alone"
    stripped = tmp_path / "others.npz"
    with np.load(path) as archive:
        np.savez(stripped, **{k: archive[k] for k in ("shape", "expr", "jaw_pose")})
    placed = read_take(stripped, flame)
    assert placed.translation[0, 2] > 0.3 and placed.landmarks68.min() > 0, "before a camera of ours"
    with pytest.raises(InputError, match=r"others\.npz: holds parameters of FLAME; name the FLAME file"):
        read_take(stripped, load_head())


def test_the_command_line_takes_it(
    astronaut: Path, file: Path, flame: HeadModel, cache: Path, tmp_path: Path
) -> None:
    done = script("photo", astronaut, "--head", file, "--format", "flame-params", "--out", tmp_path / "photo")
    assert (done.status, done.err) == (0, "")
    capture = tmp_path / "photo" / "astronaut" / "capture.npz"
    back = script("convert", capture, "--from", file, "--format", "livelink", "--out", tmp_path / "back")
    assert back.status == 0, back.err
    found = Capture.load(tmp_path / "back" / "astronaut" / "capture.npz")
    assert found.head == load_head().id
    capture_of_open = tmp_path / "back" / "astronaut" / "capture.npz"
    there, quiet = tmp_path / "there", Reporter(quiet=True)
    assert run_convert([capture_of_open], there, file, None, ["flame-params"], ExportOptions(), quiet) == 0
    assert (there / "astronaut" / "flame_params.npz").exists()
    told = script("head", "info", file).out
    assert "kind: FLAME (version not told), generic\n" in told and "its own, and the ARKit units" in told
    unknown = script("convert", capture, "--out", tmp_path / "none")
    assert unknown.status == 1 and "name its file with --from" in unknown.err
    assert not list((tmp_path / "none").glob("*"))


# ---- clips, takes, scores ----


def test_a_clip_is_solved_with_it(flame: HeadModel, head: HeadModel, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "eve.mp4", face_frames(12))
    capture, other = (recon3d.reconstruct_video(clip, head=one)[0] for one in (flame, head))
    assert capture.expression.shape == (12, EXPRESSIONS) and capture.tracked.all()
    apart = np.linalg.norm(capture.landmarks68 - other.landmarks68, axis=-1)
    assert apart.mean() < 0.02 * np.ptp(other.landmarks68[0], axis=0).max()
    assert np.corrcoef(capture.arkit.ravel(), other.arkit.ravel())[0, 1] > 0.85


def test_takes_and_scores_drive_it(flame: HeadModel, head: HeadModel, tmp_path: Path) -> None:
    from recon3d._takes import read_take

    rows = [{"jawOpen": 0.1 * k, "eyeBlinkLeft": 0.5, "mouthSmileRight": 0.4} for k in range(8)]
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"fps": 30, "frames": rows}))
    driven, plain = read_take(path, flame), read_take(path, head)
    np.testing.assert_allclose(driven.arkit, plain.arkit)
    opened = _mouth(driven, flame, 7) - _mouth(driven, flame, 0)
    wanted = _mouth(plain, head, 7) - _mouth(plain, head, 0)
    assert opened > 0.01 and opened == pytest.approx(wanted, rel=0.1)


def _mouth(capture: Capture, head: HeadModel, frame: int) -> float:
    points = head.landmarks(camera_vertices(capture, head, frame)[None], "mediapipe478")[0]
    return float((points[14] - points[13]).norm())


# ---- learning ----


def test_training_draws_it(flame: HeadModel) -> None:
    from recon3d.face._task import LANDMARKS, load_network

    maker = SyntheticFaces(
        flame.in_units,
        ExpressionSampler(None),
        TRAINING,
        seed=1,
        landmarks=load_network(LANDMARKS, threads=1),
    )
    faces = maker.batch(range(4))
    assert faces.images.shape[0] == 4 and float(faces.images.float().std()) > 20
    assert faces.shape.shape[1] == SHAPES and faces.expression.shape == (4, 52)
    found = (faces.detected[..., :2] - faces.landmarks[..., :2]).norm(dim=-1).median(1).values
    assert float(found.median()) < 0.05, "the landmark network sees its face where it is"


# ---- rigs ----


def test_a_folder_of_shapes_becomes_a_head(
    head: HeadModel, on_open: Capture, astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The open head as an artist's rig, in centimetres; where its landmarks lie is known, and not sought."""
    neutral, shapes = write_rig(tmp_path, head, naming=short_name, place=lambda points: 100 * points)
    known = jointed_arrays()
    landmarks = {key: value for key, value in known.items() if key.startswith(("lmk_", "region_"))}
    monkeypatch.setattr(
        "recon3d.head.prepared.dress", lambda rig: landmarks | {"arkitdirs": rig.exprdirs.numpy()}
    )
    out = tmp_path / "heads" / "hero.npz"
    assert run_head_build(neutral, shapes, out, Reporter(quiet=True)) == 0
    rig = load_head(out)
    assert rig.speaks_arkit and rig.num_shape == 0 and rig.id.startswith("hero/")
    said = Converter(head, rig).convert(on_open)
    np.testing.assert_allclose(said.arkit, on_open.arkit, atol=1e-6)
    face = rig.within("face")
    apart = camera_vertices(said, rig, 0)[face] - camera_vertices(on_open, head, 0)[face]
    assert float(apart.norm(dim=1).mean()) < 0.01, "as near as one identity comes to another"
    seen = recon3d.reconstruct(astronaut, head=rig)[0]
    assert seen.expression.shape == (1, 52) and seen.shape.shape == (0,)
    assert np.corrcoef(seen.arkit[0], on_open.arkit[0])[0, 1] > 0.8


@pytest.mark.slow
def test_gnm_s_layout_end_to_end(on_open: Capture, astronaut: Path, cache: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "gnm_head.npz", **gnm_of_open_head())
    gnm = load_head(tmp_path / "gnm_head.npz")
    assert Controls.of(gnm).joints == (3, 4), "it has no jaw joint"
    found = recon3d.reconstruct(astronaut, head=gnm)[0]
    assert np.corrcoef(found.arkit[0], on_open.arkit[0])[0, 1] > 0.9
    assert np.linalg.norm(found.landmarks68 - on_open.landmarks68, axis=-1).mean() < 2


# ---- FLAME's real template ----


@pytest.mark.slow
@needs_shared
def test_the_real_template_fits_photographs_as_well(cache: Path, tmp_path: Path) -> None:
    """A few of those that figures are tuned on; the report's are in docs/benchmarks/flame.md."""
    from recon3d.evaluation.lfpw import detect, read_lfpw, score
    from recon3d.fitting import LandmarkSolver

    source = DenseSource(path=cache / FACE_LANDMARKER.filename)
    worn = dressed_template(SHARED / "flame" / "head_template.obj")
    arrays = template_stand_in(worn)
    known = {name: value for name, value in worn.items() if name not in arrays}
    path = write_stand_in(tmp_path / "generic_model.pkl", arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recon3d.head.prepared.dress", lambda head: known)
        flame = load_head(path)
        assert flame.knows_arkit
    found = [detect(photo, source) for photo in read_lfpw(SHARED / "photos" / "lfpw_train.zip", "tune", 40)]
    plain, own = (score(found, one, LandmarkSolver(one)) for one in (load_head(), flame))
    assert own.mesh51 < plain.mesh51 + 0.3 and own.mesh68 < plain.mesh68 + 0.3
    _round_trip(flame, tmp_path)


def _round_trip(flame: HeadModel, tmp_path: Path) -> None:
    """A recorded performance of a made-up person, to FLAME and back."""
    from toy_head import toy_capture

    head = load_head()
    units = read_live_link(SHARED / "livelink" / "rom_3.csv")[::100].float().numpy()
    rng = np.random.default_rng(3)
    shape = rng.normal(0, 0.8, head.num_shape) / (1 + 0.03 * np.arange(head.num_shape))
    capture = toy_capture(head, len(units), shape=shape, expression=units, arkit=units)
    there = Converter(head, flame).convert(capture)
    values = Controls.of(flame).joined(torch.from_numpy(there.expression), torch.from_numpy(there.pose))
    read = UnitMap.of(flame).units_of(values).numpy()
    assert np.abs(read - units).mean() < 0.04
    back = Converter(flame, head).convert(replace(there, arkit=read))
    face = head.within("face")
    apart = [
        float((camera_vertices(back, head, k) - camera_vertices(capture, head, k))[face].norm(dim=1).mean())
        for k in range(len(units))
    ]
    assert max(apart) < 0.0007
