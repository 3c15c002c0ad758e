"""GNM heads: our formula over what the reader gives, against GNM's own; and files that are none."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gnm_files import PARTS, gnm_arrays, gnm_vertices, write_gnm
from scipy.spatial.transform import Rotation

from recon3d.conventions import JAW, NECK
from recon3d.errors import InputError
from recon3d.head import HeadModel, HeadOutput
from recon3d.head.gnm import looks_like_gnm, read_gnm

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gnm(tmp_path_factory.mktemp("gnm") / "gnm_head.npz")


@pytest.fixture(scope="module")
def gnm(file: Path) -> HeadModel:
    return HeadModel(read_gnm(file), name="gnm_head", digest="0").requires_grad_(False)


def posed(head: HeadModel, identity: Array, expression: Array, turns: Array) -> HeadOutput:
    """Pose ``head`` with GNM's four joints (4, 3), the jaw at rest."""
    pose = np.zeros((5, 3))
    pose[[0, 1, 3, 4]] = turns
    return head(*(torch.tensor(x[None], dtype=torch.float32) for x in (identity, expression, pose)))


def random_inputs(arrays: dict[str, Array], seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    sizes = len(arrays["identity_names"]), len(arrays["expression_names"])
    return rng.normal(0, 1, sizes[0]), rng.normal(0, 1, sizes[1]), rng.normal(0, 0.5, (4, 3))


def assert_same_as_gnm(head: HeadModel, arrays: dict[str, Array], seed: int, atol: float = 2e-6) -> None:
    identity, expression, turns = random_inputs(arrays, seed)
    found = posed(head, identity, expression, turns)
    vertices, joints = gnm_vertices(arrays, identity, expression, Rotation.from_rotvec(turns).as_matrix())
    np.testing.assert_allclose(found.vertices[0], vertices, atol=atol)
    np.testing.assert_allclose(found.joints[0, [0, 1, 3, 4]], joints, atol=atol)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_formula_is_gnms(gnm: HeadModel, seed: int) -> None:
    assert_same_as_gnm(gnm, gnm_arrays(), seed)


def test_sizes_and_names(gnm: HeadModel) -> None:
    arrays = gnm_arrays()
    assert gnm.num_vertices == len(arrays["template_vertex_positions"])
    assert (gnm.num_shape, gnm.num_expression, gnm.num_joints) == (11, 20, 5)
    assert gnm.parents == (-1, 0, 1, 1, 1)
    assert gnm.expression_names[0] == "left_eye_region_000"
    assert not gnm.speaks_arkit
    assert gnm.posedirs.shape == (gnm.num_vertices, 3, 0)


def test_the_jaw_lies_with_the_neck_and_moves_nothing(gnm: HeadModel) -> None:
    assert not gnm.weights[:, JAW].any()
    assert torch.equal(gnm.J_regressor[JAW], gnm.J_regressor[NECK])


def test_regions_and_colours(gnm: HeadModel) -> None:
    arrays = gnm_arrays()
    groups = dict(zip(arrays["vertex_group_names"].tolist(), arrays["vertex_groups"] > 0.5, strict=True))
    assert (gnm.regions["left_eyeball"] == groups["left_eye"]).all()
    assert (gnm.regions["eyeballs"] == groups["left_eye"] | groups["right_eye"]).all()
    assert (gnm.regions["lips"] == groups["upper_lip"] | groups["lower_lip"]).all()
    assert (gnm.regions["face"] == groups["hockey_mask"] & groups["skin"]).all()
    assert "eye_sockets" not in gnm.regions, "the stand-in has no such group"
    pupils = gnm.colors[torch.from_numpy(groups["pupils"])]
    assert len(pupils) and float(pupils.max()) < 0.1
    assert float(gnm.v_template[torch.from_numpy(gnm.regions["left_eyeball"]), 0].min()) > 0


def test_the_parts_textures_do_not_overlap(gnm: HeadModel) -> None:
    arrays = gnm_arrays()
    assert float(gnm.uv.min()) >= 0 and float(gnm.uv.max()) <= 1
    corners = gnm.uv[gnm.faces_uv].numpy()
    boxes = []
    for part in PARTS:
        member = arrays["vertex_groups"][arrays["vertex_group_names"].tolist().index(part)] > 0.5
        inside = corners[member[arrays["triangles"][:, 0]]].reshape(-1, 2)
        boxes.append((inside.min(0), inside.max(0)))
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[i + 1 :]:
            assert (np.minimum(high, other_high) <= np.maximum(low, other_low) + 1e-6).any()
    skin = np.ptp(np.array(boxes[0]), axis=0)
    assert skin == pytest.approx([5 / 6, 5 / 6], abs=1e-6), "the skin has the most"


def test_without_masks_and_texture(tmp_path: Path) -> None:
    masks = ("vertex_groups", "vertex_group_names", "mesh_component_names")
    left_out = dict.fromkeys((*masks, "triangle_uvs"))
    arrays = read_gnm(write_gnm(tmp_path / "bare.npz", **left_out))
    assert not {k for k in arrays if k.startswith(("region_", "uv", "f_uv"))}
    assert_same_as_gnm(HeadModel(arrays, name="bare", digest="0"), gnm_arrays(), 0)


def test_a_regressor_that_is_not_the_basis_own_is_corrected(tmp_path: Path) -> None:
    changed = gnm_arrays()
    changed["template_joint_positions"] += np.float32([0.0, 0.01, -0.02])
    changed["joint_identity_basis"] *= np.float32(1.1)
    arrays = read_gnm(write_gnm(tmp_path / "moved.npz", **changed))
    head = HeadModel(arrays, name="moved", digest="0")
    assert_same_as_gnm(head, changed, 4, atol=1e-5)
    np.testing.assert_allclose(arrays["J_regressor"].sum(1), 1, atol=1e-5)
    assert np.abs(arrays["J_regressor"]).max() < 1


def test_pose_correctives_of_head_and_eyes(tmp_path: Path) -> None:
    changed = gnm_arrays()
    size = changed["pose_correctives_regressor"][9:].shape
    changed["pose_correctives_regressor"][9:] = np.random.default_rng(5).normal(0, 1e-3, size)
    head = HeadModel(read_gnm(write_gnm(tmp_path / "soft.npz", **changed)), name="soft", digest="0")
    assert head.posedirs.shape[-1] == 36
    assert_same_as_gnm(head, changed, 5)


def test_pose_correctives_of_the_root_are_refused(tmp_path: Path) -> None:
    changed = gnm_arrays()["pose_correctives_regressor"]
    changed[0, 0] = 0.1
    with pytest.raises(InputError, match=r"soft\.npz: has pose correctives of its root joint"):
        read_gnm(write_gnm(tmp_path / "soft.npz", pose_correctives_regressor=changed))


def test_other_orders_of_joints_and_bytes_for_names(tmp_path: Path) -> None:
    arrays = gnm_arrays()
    order = [0, 1, 3, 2]
    changed: dict[str, Any] = {
        key: arrays[key][order] for key in ("template_joint_positions", "skinning_weights", "joint_regressor")
    }
    changed["joint_identity_basis"] = arrays["joint_identity_basis"][:, order]
    changed["joint_names"] = np.array([arrays["joint_names"][k] for k in order], dtype="S")
    changed["joint_parent_indices"] = np.array([-1, 0, 1, 1])
    found, wanted = (
        read_gnm(write_gnm(tmp_path / "b.npz", **changed)),
        read_gnm(write_gnm(tmp_path / "a.npz")),
    )
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_of_the_real_ones_many_components(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **gnm_arrays(small=False))
    arrays = read_gnm(tmp_path / "whole.npz")
    assert arrays["shapedirs"].shape[2] == 253 and arrays["exprdirs"].shape[2] == 383


def test_sniffing(file: Path, tmp_path: Path) -> None:
    assert looks_like_gnm(file)
    np.savez(tmp_path / "other.npz", v_template=np.zeros(3))
    (tmp_path / "text.npz").write_text("no")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("other.npz", "text.npz", "pipe.npz", "missing.npz", "."):
        assert not looks_like_gnm(tmp_path / name)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing array": ({"expression_basis": None}, "not a GNM head: expression_basis missing"),
    "variant": ({"variant": np.array("body")}, "version '3.0', variant 'body'; recon3d reads version 3"),
    "version": ({"version": np.array("4.1")}, "is GNM version '4.1'"),
    "size": ({"skinning_weights": np.zeros((4, 7))}, r"damaged GNM head: skinning_weights is \(4, 7\)"),
    "no rows": (
        {"template_vertex_positions": np.zeros((0, 3))},
        "damaged GNM head: vertex_identity_basis is",
    ),
    "type": (
        {"template_joint_positions": np.array([["a", "b", "c"]] * 4)},
        "template_joint_positions holds <U1",
    ),
    "nan": (
        {"template_joint_positions": np.full((4, 3), np.nan)},
        "template_joint_positions holds a value that",
    ),
    "triangle": ({"triangles": gnm_arrays()["triangles"] + 9999}, "names a vertex that does not exist"),
    "joints": (
        {"joint_names": np.array(["neck", "head", "eyes", "jaw"])},
        "the joints are neck, head, eyes, jaw",
    ),
    "mirrored": (
        {"template_joint_positions": gnm_arrays()["template_joint_positions"] * np.float32([-1, 1, 1])},
        "the left eye is not on the side of",
    ),
    "tree": ({"joint_parent_indices": np.array([1, 1, 1, 1])}, "its joints make no tree"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_contents_are_one_line(tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        read_gnm(write_gnm(tmp_path / "bad.npz", **changes))
    assert str(caught.value).startswith(f"{tmp_path / 'bad.npz'}: ") and "\n" not in str(caught.value)


def test_bad_files_are_one_line(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("nothing of the kind")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bent.npz").write_bytes(whole[:5000] + b"\xff" * 64 + whole[5064:])
    np.savez(tmp_path / "objects.npz", **{**gnm_arrays(), "joint_names": np.array([{}] * 4, object)})
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "liar.npz", "w") as target:
        for member in source.namelist():
            data = source.read(member)
            target.writestr(member, data.replace(b"(4, 3)", b"(9, 3)") if "joint_pos" in member else data)
    expected = {
        "missing.npz": "no such file",
        "empty.npz": "is empty",
        "text.npz": r"not a GNM head \(no \.npz file",
        "cut.npz": r"not a GNM head \(no \.npz file, or an incomplete one\)",
        "bent.npz": r"not a GNM head|damaged",
        "objects.npz": "joint_names holds Python objects",
        "liar.npz": "template_joint_positions does not have the size it claims",
        ".": "is a folder",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            read_gnm(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_unpacks_to_too_much_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon3d.head.gnm.MAX_BYTES", 1 << 17)
    with pytest.raises(InputError, match="too large: unpacks to more than 0 MiB"):
        read_gnm(file)
