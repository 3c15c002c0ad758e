"""FLAME's own files as head models: what they become, and what anything else is told to be."""

from __future__ import annotations

import hashlib
import pickle
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flame_files import FACES, JOINTS, VERTICES, random_flame, write_flame_pickle

from recon3d.errors import InputError
from recon3d.head import HeadModel, load_head
from recon3d.head import flame as module
from recon3d.head.flame import FlameVersion, flame_version, looks_like_flame, read_flame
from recon3d.resources import resource_path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "flame"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared FLAME files are not here")
WANTED = "give a FLAME model: generic_model.pkl, flame2023.pkl, flame2023_Open.pkl, or an .npz of one"


def small(**changed: Any) -> dict[str, Any]:
    """Return arrays of FLAME's sizes but for three components of identity and two of expression.

    None as a change leaves an array out.
    """
    arrays: dict[str, Any] = random_flame(7, shapes=3, expressions=2)
    arrays["supr_expression_metadata"] = {"n_expr": 2, "expr_components": "last_2"}
    return {key: value for key, value in {**arrays, **changed}.items() if value is not None}


def write_npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def in_three_dimensions(vertices: int, joints: int) -> dict[str, Any]:
    """Return a model of another mesh in FLAME's layout."""
    return {
        "v_template": np.zeros((vertices, 3)),
        "f": np.zeros((4, 3), np.uint32),
        "shapedirs": np.zeros((vertices, 3, 10)),
        "posedirs": np.zeros((vertices, 3, 1)),
        "J_regressor": np.zeros((joints, vertices)),
        "weights": np.zeros((vertices, joints)),
        "kintree_table": np.zeros((2, joints), np.uint32),
    }


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_flame(path, **options)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"{path}: ")


# --- What is read ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A file of random numbers, of just the sizes and the form of an official one."""
    arrays = random_flame()
    return write_flame_pickle(tmp_path_factory.mktemp("flame") / "generic_model.pkl", arrays), arrays


def check(read: dict[str, np.ndarray], arrays: dict[str, Any], shapes: int, expressions: int) -> None:
    joined = np.asarray(arrays["shapedirs"])
    last = joined.shape[2] - (2 if "supr_expression_metadata" in arrays else 100)
    wanted: dict[str, np.ndarray] = {
        **{key: arrays[key] for key in ("v_template", "posedirs", "weights", "J_regressor")},
        "shapedirs": joined[..., :shapes],
        "exprdirs": joined[..., last : last + expressions],
    }
    for key, values in wanted.items():
        np.testing.assert_array_equal(read[key], values.astype(np.float32), strict=True)
    np.testing.assert_array_equal(read["f"], arrays["f"].astype(np.int32), strict=True)
    tree = np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int32)
    np.testing.assert_array_equal(read["kintree_table"], tree, strict=True)


def test_official_form_of_full_size(official: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = official
    assert 52e6 < path.stat().st_size < 54e6  # the official files have 53,023,716 bytes
    read = read_flame(path)
    assert read["shapedirs"].shape == (VERTICES, 3, 300)
    assert read["exprdirs"].shape == (VERTICES, 3, 100)
    assert read["f"].shape == (FACES, 3)
    check(read, arrays, 300, 100)
    assert set(read) == {
        "v_template", "f", "shapedirs", "exprdirs", "posedirs", "J_regressor", "weights", "kintree_table",
    }  # fmt: skip
    fewer = read_flame(path, shapes=10, expressions=0)
    check(fewer, arrays, 10, 0)
    assert fewer["exprdirs"].shape == (VERTICES, 3, 0)


def test_a_head_model_comes_of_it(official: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, arrays = official
    head = HeadModel(read_flame(path, shapes=4, expressions=3), name="flame", digest="0")
    assert (head.num_vertices, head.num_shape, head.num_expression, head.num_joints) == (
        VERTICES,
        4,
        3,
        JOINTS,
    )
    assert head.parents == (-1, 0, 1, 1, 1)
    shape, expression = torch.tensor([[1.0, -2, 0, 0.5]]), torch.tensor([[0.0, 1, -1]])
    offsets = (
        arrays["shapedirs"][..., :4] @ shape[0].numpy()
        + arrays["shapedirs"][..., 300:303] @ expression[0].numpy()
    )
    moved = head(shape, expression, torch.zeros(1, JOINTS, 3)).vertices[0]
    np.testing.assert_allclose(moved.numpy(), arrays["v_template"] + offsets, atol=1e-4)


@pytest.mark.parametrize("chumpy", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_every_way_of_storing(tmp_path: Path, chumpy: bool, sparse: bool) -> None:
    arrays = small()
    path = write_flame_pickle(tmp_path / "m.pkl", arrays, chumpy=chumpy, sparse=sparse)
    check(read_flame(path), arrays, 3, 2)
    check(read_flame(path, shapes=2, expressions=1), arrays, 2, 1)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_again_by_python_3(tmp_path: Path, protocol: int) -> None:
    arrays = small(J_regressor=pytest.importorskip("scipy.sparse").csc_matrix(small()["J_regressor"]))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(arrays, protocol))
    check(read_flame(tmp_path / "m.pkl"), small(), 3, 2)


def test_fortran_order_and_single_precision(tmp_path: Path) -> None:
    arrays = small()
    stored = {**arrays, "shapedirs": np.asfortranarray(arrays["shapedirs"])}
    check(read_flame(write_flame_pickle(tmp_path / "m.pkl", stored)), arrays, 3, 2)
    singles = {
        k: v.astype(">f4") if getattr(v, "dtype", None) == np.float64 else v for k, v in arrays.items()
    }
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(singles))
    check(read_flame(tmp_path / "m.pkl"), arrays, 3, 2)


def test_npz(tmp_path: Path) -> None:
    arrays = small()
    sparse = pytest.importorskip("scipy.sparse").csc_matrix(arrays["J_regressor"])
    check(read_flame(write_npz(tmp_path / "a.npz", arrays)), arrays, 3, 2)
    check(read_flame(write_npz(tmp_path / "b.npz", {**arrays, "J_regressor": sparse})), arrays, 3, 2)
    apart = {**arrays, "shapedirs": arrays["shapedirs"][..., :3], "exprdirs": arrays["shapedirs"][..., 3:]}
    del apart["supr_expression_metadata"]
    np.savez_compressed(
        tmp_path / "c.npz", **{**apart, "kintree_table": np.array([[-1, 0, 1, 1, 1], range(5)])}
    )
    check(read_flame(tmp_path / "c.npz"), arrays, 3, 2)
    assert looks_like_flame(tmp_path / "c.npz")
    write_npz(tmp_path / "d.npz", {**apart, "lmk_ibug68_triangle": np.zeros(68, int)})
    assert not looks_like_flame(tmp_path / "d.npz")


def test_too_many_components(tmp_path: Path) -> None:
    path = write_flame_pickle(tmp_path / "m.pkl", small())
    assert refusal(path, shapes=4) == "has 3 identity components, 4 are asked for"
    assert refusal(path, expressions=100) == "has 2 expression components, 100 are asked for"
    assert refusal(path, shapes=-1) == "has 3 identity components, -1 are asked for"


def test_what_looks_like_flame(tmp_path: Path, official: tuple[Path, dict[str, np.ndarray]]) -> None:
    odd = shutil.copy(official[0], tmp_path / "no suffix tells")
    assert looks_like_flame(odd)
    (tmp_path / "a.pkl").write_bytes(b"<html>")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"v_template": 1}))
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 damaged")
    (tmp_path / "d.pkl").write_bytes(b"")
    assert not any(looks_like_flame(path) for path in tmp_path.glob("*.*"))
    assert not looks_like_flame(tmp_path)
    assert not looks_like_flame(tmp_path / "none.pkl")
    assert not looks_like_flame(resource_path("flame_model/open_head.npz"))


@pytest.mark.parametrize(
    ("folder", "name", "version"),
    [
        ("x", "generic_model.pkl", "FLAME (version not told), generic"),
        ("x", "model.pkl", "FLAME (version not told)"),
        ("2020", "male_model.pkl", "FLAME (version not told), male"),
        ("FLAME2020", "generic_model.pkl", "FLAME 2020, generic"),
        ("FLAME2020", "female_model.pkl", "FLAME 2020, female"),
        ("flame_2017", "male_model.pkl", "FLAME 2017, male"),
        ("FLAME 2019", "FLAME_NEUTRAL.pkl", "FLAME 2019, generic"),
        ("FLAME2020", "flame2023.pkl", "FLAME 2023"),
        ("x", "flame2023_no_jaw.pkl", "FLAME 2023 without jaw"),
        ("x", "flame2023_Open.pkl", "FLAME 2023 Open"),
        ("FLAME2023Open", "flame.pkl", "FLAME 2023 Open"),
    ],
)
def test_version_by_names(tmp_path: Path, folder: str, name: str, version: str) -> None:
    (tmp_path / folder).mkdir()
    arrays = small(supr_expression_metadata=None)
    assert str(flame_version(write_flame_pickle(tmp_path / folder / name, arrays))) == version


def test_version_by_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_flame_pickle(tmp_path / "flame2020_female.pkl", small())
    assert flame_version(path) == FlameVersion("2023 Open", "female")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(module._RELEASES, digest, ("2019", "male", False))
    assert str(flame_version(path)) == "FLAME 2019, male"
    with pytest.raises(InputError, match="is a folder"):
        flame_version(tmp_path)


# --- What lies beside a model ------------------------------------------------------------------------------


def write_obj(
    path: Path, faces: np.ndarray, faces_uv: np.ndarray, uv: np.ndarray, vertices: int = VERTICES
) -> None:
    lines = [f"v {k} 0 0\n" for k in range(vertices)] + [f"vt {u:.6f} {v:.6f}\n" for u, v in uv]
    both = np.stack([faces, faces_uv], 2).reshape(len(faces), 6) + 1
    lines += ["f {}/{} {}/{} {}/{}\n".format(*row) for row in both.tolist()]
    path.write_text("".join(lines))


def test_texture_of_the_same_triangles_in_another_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    faces = np.unique(np.sort(rng.integers(0, VERTICES, (FACES, 3)), axis=1), axis=0)
    faces = faces[(faces[:, 0] < faces[:, 1]) & (faces[:, 1] < faces[:, 2])]
    uv, faces_uv = rng.random((VERTICES + 95, 2)), rng.integers(0, VERTICES + 95, faces.shape)
    write_obj(tmp_path / "head_template.obj", faces, faces_uv, uv)
    path = write_flame_pickle(tmp_path / "m.pkl", small(f=faces))
    read = read_flame(path)
    np.testing.assert_allclose(read["uv"], uv, atol=1e-6)
    np.testing.assert_array_equal(read["f_uv"], faces_uv)
    assert (str(read["uv"].dtype), str(read["f_uv"].dtype)) == ("float32", "int32")
    order, turn = rng.permutation(len(faces)), rng.integers(0, 3, len(faces))[:, None]
    corners = (np.arange(3) + turn) % 3
    turned, turned_uv = (np.take_along_axis(part[order], corners, 1) for part in (faces, faces_uv))
    read = read_flame(write_flame_pickle(path, small(f=turned)))
    np.testing.assert_array_equal(read["f_uv"], turned_uv)
    mirrored = read_flame(write_flame_pickle(path, small(f=faces[:, ::-1])))
    assert "uv" not in mirrored
    write_obj(tmp_path / "head_template.obj", faces[:5] % 7, faces_uv[:5], uv, vertices=7)
    assert "uv" not in read_flame(path)
    (tmp_path / "head_template.obj").write_text("v 0 0\n")
    with pytest.raises(InputError, match=r"head_template\.obj: line 1"):
        read_flame(path)


def test_regions(tmp_path: Path) -> None:
    keys = ["face", "lips", "nose", "left_ear", "right_ear", "neck", "left_eyeball", "right_eyeball"]
    keys += ["scalp", "boundary", "forehead"]
    masks = {key: np.arange(k, k + 3) for k, key in enumerate(keys)}
    path = write_flame_pickle(tmp_path / "m.pkl", small())
    write_flame_pickle(tmp_path / "FLAME_masks.pkl", masks)
    read = read_flame(path)
    found = {
        key[7:]: np.flatnonzero(mask).tolist() for key, mask in read.items() if key.startswith("region_")
    }
    assert found == {
        "face": [0, 1, 2], "lips": [1, 2, 3], "nose": [2, 3, 4], "ears": [3, 4, 5, 6], "scalp": [8, 9, 10],
        "neck": [5, 6, 7, 9, 10, 11],
        "left_eyeball": [6, 7, 8], "right_eyeball": [7, 8, 9], "eyeballs": [6, 7, 8, 9],
    }  # fmt: skip
    assert read["region_face"].shape == (VERTICES,)
    assert read["region_face"].dtype == bool
    write_flame_pickle(tmp_path / "FLAME_masks.pkl", {**masks, "nose": np.array([VERTICES])})
    assert not any(key.startswith("region_") for key in read_flame(path))
    (tmp_path / "FLAME_masks.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"FLAME_masks\.pkl: asks for os\.system"):
        read_flame(path)


def test_eyelids(tmp_path: Path) -> None:
    arrays = small()
    path = write_flame_pickle(tmp_path / "m.pkl", arrays)
    left, right = np.random.default_rng(4).normal(size=(2, VERTICES, 3))
    np.save(tmp_path / "l_eyelid.npy", left)
    assert read_flame(path)["exprdirs"].shape == (VERTICES, 3, 2)
    np.save(tmp_path / "r_eyelid.npy", right)
    read = read_flame(path, expressions=1)
    np.testing.assert_array_equal(read["exprdirs"][..., 1], left.astype(np.float32))
    np.testing.assert_array_equal(read["exprdirs"][..., 2], right.astype(np.float32))
    np.testing.assert_array_equal(read["exprdirs"][..., 0], arrays["shapedirs"][..., 3].astype(np.float32))
    assert read["expression_names"].tolist() == ["expression000", "eyelidLeft", "eyelidRight"]
    np.save(tmp_path / "r_eyelid.npy", np.full((VERTICES, 3), np.nan))
    with pytest.raises(
        InputError, match=r"r_eyelid\.npy: damaged: the eyelid shape holds a value that is not"
    ):
        read_flame(path)
    np.save(tmp_path / "r_eyelid.npy", right[:99])
    assert read_flame(path)["exprdirs"].shape == (VERTICES, 3, 2)


@needs_shared
def test_shared_files_beside_a_model(tmp_path: Path) -> None:
    for file in SHARED.iterdir():
        shutil.copy(file, tmp_path)
    lines = (SHARED / "head_template.obj").read_text().splitlines()
    rows = [line.split()[1:] for line in lines if line.startswith("f ")]
    faces = np.array([[int(corner.split("/")[0]) - 1 for corner in row] for row in rows])
    read = read_flame(write_flame_pickle(tmp_path / "m.pkl", small(f=faces)))
    assert read["uv"].shape == (5118, 2)
    assert read["f_uv"].shape == (FACES, 3)
    assert 0 <= read["uv"].min() < read["uv"].max() <= 1
    assert read["f_uv"].max() == 5117
    sizes = {key[7:]: int(mask.sum()) for key, mask in read.items() if key.startswith("region_")}
    assert sizes == {
        "face": 1787, "lips": 250, "eyelids": 574, "nose": 379, "ears": 1176, "scalp": 489, "neck": 315,
        "eyeballs": 1092, "left_eyeball": 546, "right_eyeball": 546,
    }  # fmt: skip
    assert read["exprdirs"].shape == (VERTICES, 3, 4)
    # What the eyelid shapes move are the lids, each side its own, downward.
    for e, side in ((2, "left"), (3, "right")):
        moved = np.linalg.norm(read["exprdirs"][..., e], axis=1) > 2e-3
        assert read["region_eyelids"][moved].mean() > 0.7
        assert not read[f"region_{side}_eyeball"][moved].any()
        assert read["exprdirs"][moved, 1, e].min() < -8e-3
    for name in ("FLAME_masks.pkl", "landmark_embedding.npy", "head_template.obj", "l_eyelid.npy"):
        assert WANTED in refusal(SHARED / name)


# --- What is something else --------------------------------------------------------------------------------

STARTS: dict[str, tuple[bytes, str]] = {
    "page": (
        b"<!DOCTYPE html>\n<html><title>Sign in</title>",
        "is a web page; log in at the FLAME site and download the file again",
    ),
    "page in small letters": (
        b"\xef\xbb\xbf\n  <html lang='en'>",
        "is a web page; log in at the FLAME site and download the file again",
    ),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 53023716\n",
        "is a pointer of git-lfs; fetch the file itself with git lfs pull",
    ),
    "old torch file": (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
        f"holds the weights of a network (a torch file); {WANTED}",
    ),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), f"is an HDF5 file, such as a Basel Face Model; {WANTED}"),
    "MATLAB": (
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
        f"is a MATLAB file, such as a Basel Face Model; {WANTED}",
    ),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "is an archive; unpack it and give the .pkl from it"),
    "tar": (
        b"generic_model.pkl" + bytes(240) + b"ustar\x0000",
        "is an archive; unpack it and give the .pkl from it",
    ),
    "mesh": (b"# Blender v2.80\nv 0 0 0\n", f"is a mesh, or other text; {WANTED}"),
    "glTF": (b"glTF\x02\x00\x00\x00", f"is a mesh, or other text; {WANTED}"),
    "picture": (b"\x89PNG\r\n\x1a\n", f"is neither a pickle nor an .npz; {WANTED}"),
    "text": (b"hello", f"is neither a pickle nor an .npz; {WANTED}"),
    "empty": (b"", "is empty (0 bytes)"),
    "cut pickle": (b"\x80\x02}q\x01(U\x0av_template", "damaged (it ends too early); get the file again"),
    "program": (
        b"\x80\x02cos\nsystem\nU\x04true\x85R.",
        "asks for os.system, which no head model needs; nothing of the file was run",
    ),
    "cut zip": (
        b"PK\x03\x04" + bytes(50),
        "damaged (the archive is incomplete or altered); get the file again",
    ),
    "list": (b"\x80\x02].", "holds no named arrays, which a head model is made of"),
}


@pytest.mark.parametrize("case", STARTS)
def test_files_of_other_kinds(tmp_path: Path, case: str) -> None:
    data, text = STARTS[case]
    (tmp_path / "generic_model.pkl").write_bytes(data)
    assert refusal(tmp_path / "generic_model.pkl") == text


def test_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pkl") == "no such file"
    assert refusal(tmp_path) == "is a folder, not a file"
    assert refusal(tmp_path / "a\nb.pkl").endswith("a\\nb.pkl: no such file")
    with (tmp_path / "large.pkl").open("wb") as file:
        file.write(b"\x80\x02")
        file.truncate(520 << 20)
    assert refusal(tmp_path / "large.pkl") == "too large for a head model (520 MiB; 256 MiB are the most)"


def test_archives(tmp_path: Path) -> None:
    def archive(name: str, *members: str) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for member in members:
                file.writestr(member, b"x")
        return tmp_path / name

    path = archive("FLAME2020.zip", "Readme.pdf", "male_model.pkl", "generic_model.pkl")
    assert (
        refusal(path)
        == "is a zip archive; unpack it and give a file from it: generic_model.pkl, male_model.pkl"
    )
    path = archive("deca_model.tar", "archive/data.pkl", "archive/data/0")
    assert refusal(path) == f"holds the weights of a network (a torch file); {WANTED}"
    path = archive("other.zip", "Readme.pdf")
    assert refusal(path) == f"is no FLAME model (it holds no arrays); {WANTED}"


@pytest.mark.parametrize("write", [write_flame_pickle, write_npz])
@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (in_three_dimensions(6890, 24), f"is SMPL, a body model; {WANTED}"),
        (in_three_dimensions(6890, 52), f"is SMPL+H, a body model; {WANTED}"),
        (in_three_dimensions(10475, 55), f"is SMPL-X, a body model; {WANTED}"),
        (in_three_dimensions(778, 16), f"is MANO, a model of hands; {WANTED}"),
        (in_three_dimensions(3931, 5), "is no FLAME model: it has 3,931 vertices, FLAME has 5,023"),
        (
            {"scalp": np.arange(3), "left_eyeball": np.arange(3)},
            f"holds region masks; leave it beside the model, and {WANTED}",
        ),
        ({"static_lmk_faces_idx": np.arange(51)}, f"holds landmarks; {WANTED}"),
        ({"lmk_face_idx": np.arange(51), "lmk_b_coords": np.zeros((51, 3))}, f"holds landmarks; {WANTED}"),
        (
            {"mean": np.zeros(9), "tex_dir": np.zeros((9, 2))},
            f"holds FLAME's texture space, which has no shape; {WANTED}",
        ),
        (
            {"MU": np.zeros(9), "specMU": np.zeros(9)},
            f"holds FLAME's albedo space, which has no shape; {WANTED}",
        ),
        ({"shapeMU": np.zeros(9), "tri": np.zeros((3, 3))}, f"is a Basel Face Model; {WANTED}"),
        ({"template_vertex_positions": np.zeros(9)}, f"is a GNM head; {WANTED}"),
        ({"cheese": np.zeros(9), "bread": np.zeros(9)}, f"bread, {{}}cheese); {WANTED}"),
    ],
)
def test_other_models(
    tmp_path: Path, write: Callable[[Path, Any], Path], stored: dict[str, Any], text: str
) -> None:
    path = write(tmp_path / "model.npz", stored)
    if "cheese" in stored:  # the pickle's bs_style and bs_type stand between
        text = "is no FLAME model (it holds " + text.format(
            "" if write is write_npz else "bs_style, bs_type, "
        )
    assert refusal(path) == text


OTHER_SIZE = np.zeros((7, 3))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no pose": ({"posedirs": None}, "is no whole FLAME model: posedirs missing"),
    "little": ({"posedirs": None, "f": None}, "is no whole FLAME model: f, posedirs missing"),
    "pose of another size": (
        {"posedirs": OTHER_SIZE},
        "damaged: posedirs is (7, 3), (5023, 3, 36) is wanted",
    ),
    "flat template": (
        {"v_template": np.zeros((VERTICES, 2))},
        "damaged: v_template is (5023, 2), (5023, 3) is wanted",
    ),
    "four joints": (
        {"weights": np.zeros((VERTICES, 4))},
        "damaged: weights is (5023, 4), (5023, 5) is wanted",
    ),
    "other basis": ({"shapedirs": OTHER_SIZE}, "damaged: shapedirs is (7, 3), (5023, 3) and more is wanted"),
    "regressor turned round": (
        {"J_regressor": np.zeros((VERTICES, 5))},
        "damaged: J_regressor is (5023, 5), (5, 5023) is wanted",
    ),
    "face beyond": (
        {"f": np.array([[0, 1, VERTICES]])},
        "damaged: a face names a vertex that does not exist",
    ),
    "quads": ({"f": np.zeros((9, 4), int)}, "damaged: f is (9, 4), rows of three are wanted"),
    "no faces": ({"f": np.zeros((0, 3), int)}, "damaged: f is (0, 3), rows of three are wanted"),
    "fractions of faces": ({"f": np.zeros((9, 3))}, "damaged: f holds no whole numbers"),
    "no tree": (
        {"kintree_table": np.array([[-1, 0, 3, 1, 1], range(5)])},
        "damaged: kintree_table is no tree of joints",
    ),
    "two roots": (
        {"kintree_table": np.array([[-1, -1, 1, 1, 1], range(5)])},
        "damaged: kintree_table is no tree of joints",
    ),
    "other numbers": (
        {"kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 4, 3]])},
        "damaged: kintree_table is no tree of joints",
    ),
    "small tree": (
        {"kintree_table": np.zeros((2, 4), int)},
        "damaged: kintree_table is (2, 4), (2, 5) is wanted",
    ),
    "not a number": (
        {"v_template": np.full((VERTICES, 3), np.nan)},
        "damaged: v_template holds a value that is not finite",
    ),
    "infinite when single": (
        {"shapedirs": np.full((VERTICES, 3, 5), 1e300)},
        "damaged: the basis of identity holds a value that is not finite",
    ),
    "identity alone": (
        {"supr_expression_metadata": None},
        "has 5 columns of shapedirs and no exprdirs: 300 of identity and 100 of expression are wanted",
    ),
    "text for numbers": ({"weights": "none"}, "weights is not stored as numbers"),
    "text for the template": ({"v_template": "none"}, "v_template is not stored as numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_models(tmp_path: Path, case: str) -> None:
    changed, text = WRONG[case]
    path = write_flame_pickle(tmp_path / "m.pkl", small(**changed), chumpy=False, sparse=False)
    assert refusal(path) == text


def test_objects_for_numbers(tmp_path: Path) -> None:
    write_npz(tmp_path / "m.npz", small(shapedirs=np.array([1, "a", None], object)))
    assert refusal(tmp_path / "m.npz") == "shapedirs is not stored as numbers"


# --- Anything at all ---------------------------------------------------------------------------------------


def fuzz(folder: Path, seconds: float, seed: int) -> tuple[int, int]:
    """Change bytes of models and of what lies beside them; return how often that was read, and refused."""
    rng, counts = random.Random(seed), [0, 0]
    rows = np.arange(VERTICES)
    files = {
        "m.pkl": write_flame_pickle(folder / "m.pkl", small()),
        "m.npz": write_npz(folder / "m.npz", small()),
        "FLAME_masks.pkl": write_flame_pickle(
            folder / "FLAME_masks.pkl", {"face": rows[:9], "lips": rows[:3]}
        ),
    }
    np.save(folder / "l_eyelid.npy", np.zeros((VERTICES, 3)))
    np.save(folder / "r_eyelid.npy", np.zeros((VERTICES, 3)))
    write_obj(folder / "head_template.obj", rows[None, :3], rows[None, :3], np.zeros((3, 2)))
    files |= {name: folder / name for name in ("l_eyelid.npy", "head_template.obj")}
    whole = {name: path.read_bytes() for name, path in files.items()}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = rng.choice(list(files))
        data = bytearray(whole[name])
        for _ in range(rng.choice((1, 2, 8))):
            # Where the names and sizes are: at the start, and of an archive at its end.
            near = rng.randrange(min(600, len(data)))
            data[rng.choice((near, -1 - near, rng.randrange(len(data))))] = rng.randrange(256)
        files[name].write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.1 else None])
        model = name if name.startswith("m.") else "m.pkl"
        try:
            read_flame(folder / model)
            counts[0] += 1
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            assert str(error).startswith(str(folder))
            counts[1] += 1
        finally:
            files[name].write_bytes(whole[name])
    return counts[0], counts[1]


@pytest.mark.filterwarnings("error")
def test_changed_files(tmp_path: Path) -> None:
    read, refused = fuzz(tmp_path, 1.5, seed=1)
    assert read
    assert refused


@pytest.mark.slow
def test_changed_files_for_ten_minutes(tmp_path: Path) -> None:
    print(fuzz(tmp_path, 600, seed=time.time_ns()))


def test_the_open_head_is_none(tmp_path: Path) -> None:
    """It has a reader of its own, and is told to have other vertices here."""
    text = refusal(Path(resource_path("flame_model/open_head.npz")))
    assert text == "is no FLAME model: it has 5,268 vertices, FLAME has 5,023"
    assert load_head().num_vertices == 5268
