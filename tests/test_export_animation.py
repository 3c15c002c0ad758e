"""Animated GLB and its variants, evaluated by a reader of their own as the specification says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM
from glb_reader import Glb
from moving_head import moving_capture, pixels, seen, write_bare_head
from scipy.spatial.transform import Rotation
from toy_head import toy_capture, write_toy_head

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import OutputError, UsageError
from recon3d.export import ExportOptions, export
from recon3d.export._motion import motion_of, nominal_rate
from recon3d.export.name_map import NameMap
from recon3d.head import HeadModel, load_head

TOOLS = Path(__file__).resolve().parent.parent / "tools"
VARIANTS = {"glb": "animation.glb", "glb-skeleton": "skeleton.glb", "glb-curves": "curves.glb"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(scope="module", params=["toy", "open", "bare"])
def head(
    request: pytest.FixtureRequest, toy: HeadModel, tmp_path_factory: pytest.TempPathFactory
) -> HeadModel:
    """The toy, the head that ships, and one as FLAME's files are."""
    if request.param == "toy":
        return toy
    if request.param == "open":
        return load_head()
    return load_head(write_bare_head(tmp_path_factory.mktemp("bare") / "flame.npz"))


def written(head: HeadModel, folder: Path, format: str = "glb", **changes: Any) -> Glb:
    options = changes.pop("options", ExportOptions())
    (path,) = export(moving_capture(head, **changes), head, folder, format, options=options)
    assert path == folder / VARIANTS[format]
    return Glb(path.read_bytes())


def vertices(file: Glb, frame: int) -> np.ndarray:
    """(N, 3): morph targets, then the skin, both from the animation."""
    channels = file.channels()
    (mesh,) = [k for k, node in enumerate(file.json["nodes"]) if "mesh" in node]
    targets = np.stack([file.array(target["POSITION"]) for target in file.primitive["targets"]])
    morphed = file.attribute("POSITION") + np.tensordot(channels[mesh, "weights"][1][frame], targets, 1)
    rotations = {j: np.zeros(3) for j in file.json["skins"][0]["joints"]}
    translations = {}
    for (node, path), (_, values) in channels.items():
        if path == "rotation":
            rotations[node] = Rotation.from_quat(values[frame]).as_rotvec()
        if path == "translation":
            translations[node] = values[frame]
    return file.skinned(rotations, translations, morphed)


def test_every_frame_is_what_the_camera_saw(head: HeadModel, tmp_path: Path) -> None:
    file, capture = written(head, tmp_path, frames=5), moving_capture(head, 5)
    file.check()
    index = file.attribute("_HEAD_VERTEX").astype(int)
    (camera,) = [node for node in file.json["nodes"] if "camera" in node]
    assert "rotation" not in camera
    wanted = seen(capture, head)
    for frame in range(5):
        found = vertices(file, frame) - camera["translation"]
        assert np.abs(found - wanted[frame][index]).max() < 2e-5


def test_the_camera_is_the_clips(toy: HeadModel, tmp_path: Path) -> None:
    file, capture = written(toy, tmp_path), moving_capture(toy)
    (camera,) = file.json["cameras"]
    lens = camera["perspective"]
    assert lens["aspectRatio"] == pytest.approx(640 / 480)
    points = seen(capture, toy)[0]
    # The glTF camera looks through the middle of its picture; the clip's principal point is in the extras.
    high = -points[:, 1] / points[:, 2] / np.tan(lens["yfov"] / 2)
    wide = -points[:, 0] / points[:, 2] / np.tan(lens["yfov"] / 2) / lens["aspectRatio"]
    drawn = np.stack([320 * wide, -240 * high], axis=1) + camera["extras"]["principal"]
    np.testing.assert_allclose(drawn, pixels(capture, points), atol=1e-3)
    assert camera["extras"]["focal"] == capture.focal
    assert camera["extras"]["image_size"] == [640, 480]


def test_curves_and_times_are_the_captures(head: HeadModel, tmp_path: Path) -> None:
    file, capture = written(head, tmp_path), moving_capture(head)
    times, weights = file.channels()[head.num_joints, "weights"]
    np.testing.assert_array_equal(weights, capture.expression)
    np.testing.assert_array_equal(times, (capture.timestamps - 3.5).astype(np.float32))
    joints = {node for node, path in file.channels() if path == "rotation"}
    assert joints == set(range(head.num_joints))
    assert [node for node, path in file.channels() if path == "translation"] == [0]


def test_joints_that_rest_have_no_channel(toy: HeadModel, tmp_path: Path) -> None:
    pose = moving_capture(toy).pose.copy()
    pose[:, 2:] = 0
    file = written(toy, tmp_path, pose=pose)
    assert {node for node, path in file.channels() if path == "rotation"} == {0, 1}


def test_without_its_animation_it_is_the_still(toy: HeadModel, tmp_path: Path) -> None:
    """The file opens as the straight, neutral head that ``mesh.glb`` holds."""
    capture = moving_capture(toy)
    first = replace(
        toy_capture(toy),
        expression=capture.expression[:1],
        arkit=capture.arkit[:1],
        pose=capture.pose[:1],
        shape=capture.shape,
    )
    still = Glb(export(first, toy, tmp_path, "glb")[0].read_bytes())
    moving = written(toy, tmp_path)
    assert moving.json["nodes"][: toy.num_joints + 1] == still.json["nodes"]
    assert moving.json["meshes"] == still.json["meshes"]
    np.testing.assert_array_equal(moving.attribute("POSITION"), still.attribute("POSITION"))


def test_the_head_stays_about_its_place(toy: HeadModel) -> None:
    """Over the tracked frames the root's mean place is its place at rest; the others do not count."""
    tracked = np.arange(40) < 30
    capture = moving_capture(toy, tracked=tracked)
    capture.translation[30:] += 50  # where a lost face might have been put
    motion = motion_of(capture, toy, ExportOptions())
    np.testing.assert_allclose(motion.root[:30].mean(0), motion.joints[0], atol=1e-6)
    lost = motion_of(moving_capture(toy, tracked=np.zeros(40, bool)), toy, ExportOptions())
    np.testing.assert_allclose(lost.root.mean(0), lost.joints[0], atol=1e-6)


def test_rotations_can_be_interpolated_number_by_number(toy: HeadModel) -> None:
    """Neighbouring quaternions have one sign, also where the capture's axis-angle jumps at half a turn."""
    capture = moving_capture(toy, 600)
    jumps = np.linalg.norm(np.diff(capture.pose[:, 0], axis=0), axis=1)
    assert jumps.max() > np.pi  # else this test would not test
    motion = motion_of(capture, toy, ExportOptions())
    assert (motion.rotations[1:] * motion.rotations[:-1]).sum(-1).min() > 0.99


def test_frames_that_share_their_time(toy: HeadModel, tmp_path: Path) -> None:
    """glTF wants strictly rising times, as float32; of equal ones the first frame stays."""
    times = 5000 + np.cumsum([0, 0.04, 0, 1e-6, 0.04, 0, 0.04, 0.1])
    capture = moving_capture(toy, 8, timestamps=times)
    file = written(toy, tmp_path, frames=8, timestamps=times)
    file.check()
    found, weights = file.channels()[toy.num_joints, "weights"]
    kept = [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(found, (times - 5000)[kept], atol=1e-6)
    np.testing.assert_array_equal(weights, capture.expression[kept])


def test_resampling(toy: HeadModel, tmp_path: Path) -> None:
    capture = moving_capture(toy)
    file = written(toy, tmp_path, options=ExportOptions(fps=60))
    file.check()
    times, weights = file.channels()[toy.num_joints, "weights"]
    np.testing.assert_allclose(times, np.arange(79) / 60, atol=1e-6)
    np.testing.assert_allclose(weights[::2], capture.expression, atol=1e-5)
    between = (capture.expression[1:] + capture.expression[:-1]) / 2
    np.testing.assert_allclose(weights[1::2], between, atol=1e-5)
    same = written(toy, tmp_path, options=ExportOptions(fps=0)).channels()[toy.num_joints, "weights"]
    np.testing.assert_array_equal(same[1], capture.expression)
    with pytest.raises(UsageError, match="frame rate"):
        export(capture, toy, tmp_path, "glb", options=ExportOptions(fps=-1))


def test_the_rate_is_stated_or_found(toy: HeadModel) -> None:
    assert nominal_rate(moving_capture(toy, fps=25)) == 25
    times = np.repeat(np.arange(20) / 24, 2)
    assert nominal_rate(moving_capture(toy, fps=1, timestamps=times)) == 1
    unstated = replace(moving_capture(toy, timestamps=times), fps=0.0)
    assert nominal_rate(unstated) == pytest.approx(24)
    assert nominal_rate(toy_capture(toy)) == 30


def test_the_skeleton_moves_as_in_the_whole_file(toy: HeadModel, tmp_path: Path) -> None:
    file, whole = written(toy, tmp_path, "glb-skeleton"), written(toy, tmp_path)
    file.check_buffers()
    assert "meshes" not in file.json
    assert [file.json["nodes"][j]["name"] for j in file.json["skins"][0]["joints"]] == [
        "global", "neck", "jaw", "left_eye", "right_eye",
    ]  # fmt: skip
    assert file.json["nodes"] == whole.json["nodes"][:5]
    wanted = {k: v for k, v in whole.channels().items() if k[1] != "weights"}
    found = file.channels()
    assert set(found) == set(wanted)
    for key, (times, values) in wanted.items():
        np.testing.assert_array_equal(found[key][0], times)
        np.testing.assert_array_equal(found[key][1], values)


def test_the_curves_go_without_a_head(head: HeadModel, tmp_path: Path) -> None:
    file, capture = written(head, tmp_path, "glb-curves"), moving_capture(head)
    file.check_buffers()
    ((key, (_, weights)),) = file.channels().items()
    assert key == (0, "weights")
    np.testing.assert_array_equal(weights, capture.expression)
    names = file.json["meshes"][0]["extras"]["targetNames"]
    assert len(names) == head.num_expression
    assert not head.speaks_arkit or tuple(names) == ARKIT_NAMES
    # A target that moves nothing would be dropped by some importers.
    assert all(np.abs(file.array(t["POSITION"])).max() > 0 for t in file.primitive["targets"])
    assert (tmp_path / "curves.glb").stat().st_size < 20_000


@pytest.mark.parametrize("format", ["glb-skeleton", "glb-curves"])
def test_a_photograph_is_one_frame(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (path,) = export(toy_capture(toy), toy, tmp_path, format)
    file = Glb(path.read_bytes())
    file.check_buffers()
    assert {len(times) for times, _ in file.channels().values()} == {1}


def test_glb_of_a_photograph_stays_the_still(toy: HeadModel, tmp_path: Path) -> None:
    (path,) = export(toy_capture(toy), toy, tmp_path, "glb")
    assert path.name == "mesh.glb"
    assert {"animations", "cameras"}.isdisjoint(Glb(path.read_bytes()).json)


def test_a_mere_renaming_renames_the_targets(toy: HeadModel, tmp_path: Path) -> None:
    curves = "\n".join(f'"rig.{name}" = "{name}"' for name in ARKIT_NAMES[:50])
    document = f'format = "recon3d-names/1"\n[curves]\n{curves}\n'
    names = NameMap.parse(document.encode(), "rig")
    wanted = [f"rig.{name}" for name in ARKIT_NAMES[:50]] + list(ARKIT_NAMES[50:])
    for format in ("glb", "glb-curves"):
        file = written(toy, tmp_path, format, options=ExportOptions(names=names))
        assert file.json["meshes"][0]["extras"]["targetNames"] == wanted
    scaled = NameMap.parse(document.replace("[curves]", "[defaults]\nscale = 100\n[curves]").encode(), "rig")
    file = written(toy, tmp_path, options=ExportOptions(names=scaled))
    assert tuple(file.json["meshes"][0]["extras"]["targetNames"]) == ARKIT_NAMES


def test_two_targets_never_share_a_name(toy: HeadModel, tmp_path: Path) -> None:
    """The map calls one unit like another that it drops."""
    document = 'format = "recon3d-names/1"\n[curves]\njawOpen = "jawLeft"\n'
    names = NameMap.parse(document.encode(), "odd")
    file = written(toy, tmp_path, options=ExportOptions(names=names))
    assert tuple(file.json["meshes"][0]["extras"]["targetNames"]) == ARKIT_NAMES


def test_half_an_hour(toy: HeadModel, tmp_path: Path) -> None:
    """54,000 frames: 15 MB, in about a second, without holding the data many times."""
    capture = moving_capture(toy, 54_000)
    tracemalloc.start()
    start = time.perf_counter()
    (path,) = export(capture, toy, tmp_path, "glb")
    spent, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size < 54_000 * (52 + 4 * 5 + 3 + 1) * 4 + 1_000_000
    assert peak < 12 * capture.expression.nbytes
    assert spent < 10  # 0.6 s when nothing else runs
    times, weights = Glb(path.read_bytes()).channels()[toy.num_joints, "weights"]
    assert times[-1] == pytest.approx(53_999 / 30, abs=1e-3)
    np.testing.assert_array_equal(weights[-1], capture.expression[-1])


@pytest.mark.parametrize("format", sorted(VARIANTS))
def test_a_place_that_is_taken(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (tmp_path / VARIANTS[format]).mkdir()
    with pytest.raises(OutputError):
        export(moving_capture(toy), toy, tmp_path, format)
    assert [path.name for path in tmp_path.iterdir()] == [VARIANTS[format]]


def _npm(folder: Path, package: str) -> None:
    npm = shutil.which("npm")
    assert npm is not None, "this test needs Node.js"
    subprocess.run([npm, "install", package], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
def test_khronos_validator_finds_nothing(head: HeadModel, tmp_path: Path) -> None:
    _npm(tmp_path, "gltf-validator")
    files = [export(moving_capture(head), head, tmp_path, format)[0] for format in VARIANTS]
    command = ["node", TOOLS / "check_gltf.mjs", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 errors, 0 warnings") == 3


@pytest.mark.slow
def test_three_js_plays_the_capture(tmp_path: Path) -> None:
    assert CHROMIUM is not None, "this test needs Chromium"
    _npm(tmp_path, "three")
    head = load_head()
    capture = moving_capture(head)
    capture.save(tmp_path / "capture.npz")
    (path,) = export(capture, head, tmp_path, "glb")
    command = [sys.executable, TOOLS / "check_in_three.py", path]
    command += ["--capture", tmp_path / "capture.npz", "--chromium", CHROMIUM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 3
