"""FLAME parameters: what avatar tools find in the file, and reading theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flame_heads import flame_capture, flame_sized_head
from scipy.spatial.transform import Rotation

from recon3d.capture import Capture
from recon3d.errors import InputError
from recon3d.export import FORMATS, export
from recon3d.export._still import camera_vertices
from recon3d.export.flame_params import VERTICES, is_flame, read_flame_params
from recon3d.export.options import ExportOptions
from recon3d.head import HeadModel

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def flame() -> HeadModel:
    return flame_sized_head(shape=20, expression=10)


@pytest.fixture(scope="module")
def capture(flame: HeadModel) -> Capture:
    return flame_capture(flame)


@pytest.fixture(scope="module")
def path(capture: Capture, flame: HeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (written,) = export(capture, flame, tmp_path_factory.mktemp("flame"), "flame-params")
    return written


def load(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def test_what_avatar_tools_find(path: Path) -> None:
    assert path.name == "flame_params.npz"
    sizes = {key: (value.shape, value.dtype.str[1:]) for key, value in load(path).items()}
    assert sizes == {
        "shape": ((20,), "f4"),
        "expr": ((4, 10), "f4"),
        "rotation": ((4, 3), "f4"),
        "neck_pose": ((4, 3), "f4"),
        "jaw_pose": ((4, 3), "f4"),
        "eyes_pose": ((4, 6), "f4"),
        "translation": ((4, 3), "f4"),
        "static_offset": ((1, VERTICES, 3), "f4"),
        "fps": ((), "f8"),
        "timestamps": ((4,), "f8"),
        "focal": ((), "f8"),
        "principal": ((2,), "f8"),
        "image_size": ((2,), "i8"),
    }


def test_flames_formula_over_the_file_is_what_the_camera_saw(
    path: Path, capture: Capture, flame: HeadModel
) -> None:
    """Written down as VHAP's FlameHead does: skin, then add the translation."""
    file = load(path)
    full = np.concatenate([file[k] for k in ("rotation", "neck_pose", "jaw_pose", "eyes_pose")], axis=1)
    own = {key: value.double().numpy() for key, value in flame.named_buffers() if not key.startswith("_")}
    for t in range(4):
        shaped = own["v_template"] + own["shapedirs"] @ file["shape"]
        joints = own["J_regressor"] @ shaped
        turns = Rotation.from_rotvec(full[t].reshape(5, 3)).as_matrix()
        posed = shaped + own["exprdirs"] @ file["expr"][t] + own["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
        world = [np.eye(4) for _ in range(5)]
        for j, parent in enumerate((-1, 0, 1, 1, 1)):
            local = np.eye(4)
            local[:3, :3], local[:3, 3] = turns[j], joints[j] - (joints[parent] if j else 0)
            world[j] = world[parent] @ local if j else local
        moved = np.stack([(posed - joints[j]) @ m[:3, :3].T + m[:3, 3] for j, m in enumerate(world)], 1)
        vertices = (
            (own["weights"][:, :, None] * moved).sum(1) + file["translation"][t] + file["static_offset"][0]
        )
        np.testing.assert_allclose(vertices, camera_vertices(capture, flame, t).numpy(), atol=5e-6)


def test_reading_it_back(path: Path, capture: Capture) -> None:
    found = read_flame_params(path)
    assert len(found) == 4
    for key in ("shape", "expression", "pose", "translation", "timestamps", "principal", "image_size"):
        np.testing.assert_array_equal(getattr(found, key), getattr(capture, key), err_msg=key)
    assert (found.fps, found.focal) == (capture.fps, capture.focal)
    assert found.static_offset is not None and found.static_offset.shape == (VERTICES, 3)


def test_at_another_rate(capture: Capture, flame: HeadModel, tmp_path: Path) -> None:
    (written,) = export(capture, flame, tmp_path, "flame-params", options=ExportOptions(fps=50))
    found = read_flame_params(written)
    assert (len(found), found.fps) == (7, 50)
    np.testing.assert_allclose(found.expression[::2], capture.expression, atol=1e-6)


def test_the_same_content_gives_the_same_bytes(
    path: Path, capture: Capture, flame: HeadModel, tmp_path: Path
) -> None:
    (again,) = export(capture, flame, tmp_path, "flame-params")
    assert again.read_bytes() == path.read_bytes()


def test_it_is_listed() -> None:
    assert "flame_params.npz" in FORMATS["flame-params"].summary
    assert FORMATS["flame-params"].own_terms


def test_another_head_is_refused(head: HeadModel, tmp_path: Path) -> None:
    from toy_head import toy_capture

    assert not is_flame(head)
    with pytest.raises(
        InputError, match=r"convert it first: recon3d convert CAPTURE --head generic_model\.pkl"
    ):
        export(toy_capture(head), head, tmp_path, "flame-params")
    assert list(tmp_path.iterdir()) == []


def test_another_captures_head_is_refused(flame: HeadModel, tmp_path: Path) -> None:
    other = flame_sized_head(shape=10, expression=10)
    with pytest.raises(InputError, match="does not fit the head model"):
        export(flame_capture(flame), other, tmp_path, "flame-params")


# ---- files of others ----


def wanted() -> dict[str, Array]:
    random = np.random.default_rng(2)
    sizes = {"expr": 50, "rotation": 3, "neck": 3, "jaw": 3, "eyes": 6, "translation": 3}
    return {"shape": random.normal(0, 1, 100)} | {k: random.normal(0, 1, (5, n)) for k, n in sizes.items()}


def check(path: Path, rows: dict[str, Array], joints: str = "rotation neck jaw eyes") -> None:
    found = read_flame_params(path)
    np.testing.assert_allclose(found.shape, rows["shape"], atol=1e-6)
    np.testing.assert_allclose(found.expression, rows["expr"], atol=1e-6)
    parts = [rows[k] if k in joints.split() else 0 * rows[k] for k in ("rotation", "neck", "jaw", "eyes")]
    np.testing.assert_allclose(found.pose.reshape(5, 15), np.concatenate(parts, 1), atol=1e-6)
    assert found.timestamps is None and found.focal is None


def test_the_spellings_of_tools(tmp_path: Path) -> None:
    rows = wanted()
    shape, expr, turn, neck, jaw, eyes, place = rows.values()
    a_frame = np.repeat(shape[None], 5, 0)
    every = "rotation neck jaw eyes"
    whole = np.hstack([turn, neck, jaw, eyes])
    files: dict[str, tuple[str, dict[str, Array]]] = {
        "vhap": (every, {
            "shape": shape, "expr": expr, "rotation": turn, "neck_pose": neck, "jaw_pose": jaw,
            "eyes_pose": eyes, "translation": place, "timestep_id": np.array(["0", "1"]),
            "lights": np.array([{}], object),
        }),
        "smplx": (every, {
            "betas": shape[None], "expression": expr, "global_orient": turn, "neck_pose": neck,
            "jaw_pose": jaw, "leye_pose": eyes[:, :3], "reye_pose": eyes[:, 3:], "transl": place,
        }),
        "deca": ("rotation jaw", {
            "shape": a_frame, "exp": expr, "pose": np.hstack([turn, jaw]), "cam": place,
        }),
        "smirk": ("rotation jaw", {
            "shape_params": a_frame, "expression_params": expr, "pose_params": turn, "jaw_params": jaw,
            "eyelid_params": place[:, :2],
        }),
        "all joints": (every, {"shape": shape, "expr": expr, "full_pose": whole}),
        "joints by rows": (every, {"shape": shape, "expr": expr, "pose": whole.reshape(5, 5, 3)}),
        "batch": ("rotation jaw", {
            "shape": shape[None], "expr": expr[None], "rotation": turn[None], "jaw": jaw[:, None],
        }),
    }  # fmt: skip
    for name, (joints, arrays) in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        check(tmp_path / f"{name}.npz", rows, joints)


def test_one_row_holds_for_all_frames(tmp_path: Path) -> None:
    rows = {"jaw_pose": np.array([0.3, 0, 0]), "translation": np.ones((1, 3))}
    np.savez(tmp_path / "a.npz", expr=np.zeros((3, 5)), **rows)
    found = read_flame_params(tmp_path / "a.npz")
    assert found.pose[:, 2, 0].tolist() == pytest.approx([0.3] * 3)
    assert found.translation.tolist() == [[1.0] * 3] * 3
    assert found.shape.size == 0 and found.static_offset is None


def test_a_single_frame(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", expr=np.arange(4.0), rotation=np.ones(3), pose=np.zeros((1, 5, 3)))
    found = read_flame_params(tmp_path / "a.npz")
    assert len(found) == 1 and found.expression.tolist() == [[0, 1, 2, 3]]
    assert found.pose[0, 0].tolist() == [1, 1, 1], "the joint's own array counts more"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"v_template": np.zeros(3)}, "holds no FLAME parameters"),
    "no people": ({"expr": np.zeros((4, 5)), "shape": np.zeros((0, 50))}, "shape has no rows"),
    "no frames": ({"expr": np.zeros((0, 50))}, "expr has no rows"),
    "nan": ({"expr": np.full((2, 3), np.nan)}, "expr holds a value that is not finite"),
    "text": ({"expr": np.array(["a"])}, "expr holds <U1, numbers are wanted"),
    "objects": ({"expr": np.array([{}], object)}, "expr holds Python objects"),
    "frames": ({"expr": np.zeros((4, 3)), "jaw": np.zeros((3, 3))}, "jaw_pose has 3 rows, expr has 4"),
    "six numbers": (
        {"expr": np.zeros((4, 3)), "jaw": np.zeros((4, 6))},
        r"jaw_pose has 6 numbers a frame, 3 are wanted \(axis-angle\)",
    ),
    "pose": ({"expr": np.zeros((4, 3)), "pose": np.zeros((4, 9))}, "pose has 9 numbers a frame, 3, 6 or 15"),
    "offset": ({"expr": np.zeros((4, 3)), "static_offset": np.zeros((7, 2))}, r"static_offset is \(7, 2\)"),
    "times": ({"expr": np.zeros((2, 3)), "timestamps": np.array([1, 0])}, "timestamps run backwards"),
    "more times": (
        {"expr": np.zeros((2, 3)), "timestamps": np.zeros(3)},
        "timestamps has 3 rows, expr has 2",
    ),
    "focal": ({"expr": np.zeros((2, 3)), "focal": np.zeros(1)}, "focal is no single number"),
    "principal": (
        {"expr": np.zeros((2, 3)), "principal": np.zeros(3)},
        "principal has 3 numbers, 2 are wanted",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_contents_are_one_line(tmp_path: Path, case: str) -> None:
    arrays, message = BAD[case]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_flame_params(tmp_path / "bad.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.npz'}: ") and "\n" not in str(caught.value)


def test_bad_files_are_one_line(path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "frame.npz").write_bytes(b"\x80\x04}q\x00.")  # a pickle, as some trackers write
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-100])
    expected = {
        "missing.npz": "no such file",
        "empty.npz": "is empty",
        "frame.npz": "not a file of FLAME parameters",
        "cut.npz": "not a file of FLAME parameters",
        ".": "is a folder",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            read_flame_params(tmp_path / name)


def test_the_real_components_fit(tmp_path: Path) -> None:
    whole = flame_sized_head()
    (written,) = export(flame_capture(whole, 2), whole, tmp_path, "flame-params")
    found = read_flame_params(written)
    assert (found.shape.shape, found.expression.shape) == ((300,), (2, 100))
    assert written.stat().st_size < 100_000, "the offsets are packed"
    assert torch.isfinite(torch.tensor(found.pose)).all()
