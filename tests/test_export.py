from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import trimesh
from glb_reader import Glb
from toy_head import toy_arrays, toy_capture, write_toy_head

from recon3d import export as export_module
from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.errors import InputError, MissingExtraError, OutputError, UsageError
from recon3d.export import FORMATS, Format, export
from recon3d.export._still import camera_vertices
from recon3d.export.arkit_json import placement
from recon3d.head import HeadModel, load_head
from recon3d.media.image import Photo, read_image
from recon3d.render.shading import vertex_normals

PHOTO = Photo(skimage.data.astronaut())
TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(scope="module", params=["toy", "open", "bare"])
def head(
    request: pytest.FixtureRequest, toy: HeadModel, tmp_path_factory: pytest.TempPathFactory
) -> HeadModel:
    """The toy, the head that ships, and one as FLAME's files are: no texture, no names, 20 expressions."""
    if request.param == "toy":
        return toy
    if request.param == "open":
        return load_head()
    arrays = toy_arrays()
    for name in ("uv", "f_uv", "colors", "expression_names"):
        del arrays[name]
    arrays["exprdirs"] = arrays["exprdirs"][..., :20]
    path = tmp_path_factory.mktemp("bare") / "flame.npz"
    np.savez(path, **arrays)
    return load_head(path)


def straight(head: HeadModel, capture: Any, *, expressive: bool) -> np.ndarray:
    shape = torch.as_tensor(capture.shape)[None]
    expression = torch.as_tensor(capture.expression[:1]) * float(expressive)
    return head(shape, expression, torch.zeros(1, head.num_joints, 3)).vertices[0].numpy()


def glb(head: HeadModel, folder: Path, photo: Photo | None = None, **changes: Any) -> Glb:
    (path,) = export(toy_capture(head, **changes), head, folder, "glb", photo=photo)
    return Glb(path.read_bytes())


def test_the_captured_head_is_in_the_picture(head: HeadModel) -> None:
    """Else the tests with a photograph would bake a texture of nothing."""
    capture = toy_capture(head)
    points = camera_vertices(capture, head, 0).numpy()
    pixels = capture.focal * points[:, :2] / points[:, 2:] + capture.principal
    assert ((pixels > 0) & (pixels < 512)).all(axis=1).mean() > 0.95


@pytest.mark.parametrize("photo", [None, PHOTO], ids=["plain", "photo"])
def test_glb_is_sound(head: HeadModel, tmp_path: Path, photo: Photo | None) -> None:
    file = glb(head, tmp_path, photo)
    file.check()
    assert file.json["asset"]["generator"].startswith("recon3d ")
    material = file.json["materials"][0]
    assert material["doubleSided"] is True
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    textured = photo is not None and len(head.faces_uv) > 0
    assert ("images" in file.json) == textured
    assert ("COLOR_0" in file.primitive["attributes"]) != textured


def test_glb_is_the_neutral_person_with_the_heads_units(head: HeadModel, tmp_path: Path) -> None:
    capture, file = toy_capture(head), glb(head, tmp_path)
    index = file.attribute("_HEAD_VERTEX").astype(int)
    np.testing.assert_array_equal(np.unique(index), np.unique(head.faces.numpy()))
    neutral = straight(head, capture, expressive=False)
    np.testing.assert_allclose(file.attribute("POSITION"), neutral[index], atol=1e-7)
    np.testing.assert_array_equal(
        index[file.array(file.primitive["indices"]).reshape(-1, 3)], head.faces.numpy()
    )
    mesh, targets = file.json["meshes"][0], file.primitive["targets"]
    assert len(targets) == len(mesh["weights"]) == len(mesh["extras"]["targetNames"]) == head.num_expression
    if head.speaks_arkit:
        assert tuple(mesh["extras"]["targetNames"]) == ARKIT_NAMES
    np.testing.assert_allclose(mesh["weights"], capture.expression[0], atol=1e-6)
    base = vertex_normals(torch.as_tensor(neutral)[None], head.faces)[0].numpy()
    for unit, target in enumerate(targets):
        wanted = head.exprdirs[..., unit].numpy()
        np.testing.assert_allclose(file.array(target["POSITION"]), wanted[index], atol=1.1e-6)
        moved = vertex_normals(torch.as_tensor(neutral + wanted)[None], head.faces)[0].numpy()
        np.testing.assert_allclose(file.array(target["NORMAL"]), (moved - base)[index], atol=2e-4)


def test_glb_skin_poses_as_the_head_does(head: HeadModel, tmp_path: Path) -> None:
    """Skinning the file by hand, with its joints turned, gives the head model's own vertices."""
    capture, file = toy_capture(head), glb(head, tmp_path)
    random = np.random.default_rng(1)
    pose = random.normal(0, 0.3, (1, head.num_joints, 3)).astype(np.float32)
    index = file.attribute("_HEAD_VERTEX").astype(int)
    wanted = head(
        torch.as_tensor(capture.shape)[None], torch.zeros(1, head.num_expression), torch.as_tensor(pose)
    )
    found = file.skinned({j: pose[0, j] for j in range(head.num_joints)})
    assert np.abs(found - wanted.vertices[0].numpy()[index]).max() < 1e-5
    names = [file.json["nodes"][j]["name"] for j in file.json["skins"][0]["joints"]]
    assert names == ["global", "neck", "jaw", "left_eye", "right_eye"]


def test_glb_keeps_jaw_and_eyes_and_drops_the_head_rotation(toy: HeadModel, tmp_path: Path) -> None:
    pose = np.zeros((1, 5, 3))
    pose[0] = [[3.0, 0.2, 0.1], [0.1, 0.2, 0.0], [0.25, 0, 0], [0, 0.1, 0], [0, 0.1, 0]]
    file = glb(toy, tmp_path, pose=pose)
    file.check()
    nodes = file.json["nodes"]
    assert ["rotation" in n for n in nodes[:5]] == [False, False, True, True, True]
    assert nodes[2]["rotation"] == pytest.approx([np.sin(0.125), 0, 0, np.cos(0.125)])


def test_glb_seams_are_split_and_v_runs_down(toy: HeadModel, tmp_path: Path) -> None:
    file = glb(toy, tmp_path)
    index, uv = file.attribute("_HEAD_VERTEX").astype(int), file.attribute("TEXCOORD_0")
    corners = file.array(file.primitive["indices"]).reshape(-1, 3)
    wanted = toy.uv.numpy()[toy.faces_uv.numpy()]
    np.testing.assert_allclose(uv[corners] * [1, -1] + [0, 1], wanted, atol=1e-6)
    assert len(index) > len(np.unique(index))
    assert len(np.unique(np.column_stack([index, uv]), axis=0)) == len(index)


def test_glb_colours_are_linear(toy: HeadModel, tmp_path: Path) -> None:
    colours = glb(toy, tmp_path).attribute("COLOR_0") / 65535
    assert colours[0] == pytest.approx([0.603827, 0.318547, 0.214041, 1.0], abs=1e-4)  # of sRGB .8 .6 .5


def test_glb_pays_for_what_moves_only(tmp_path: Path) -> None:
    head = load_head()
    (path,) = export(toy_capture(head), head, tmp_path, "glb")
    sparse = [a for a in Glb(path.read_bytes()).json["accessors"] if "sparse" in a]
    assert len(sparse) > 52
    assert path.stat().st_size < 4_000_000


def test_trimesh_reads_the_glb(head: HeadModel, tmp_path: Path) -> None:
    (path,) = export(toy_capture(head), head, tmp_path, "glb", photo=PHOTO)
    scene = trimesh.load(path)
    (mesh,) = scene.geometry.values()
    assert len(mesh.faces) == len(head.faces)
    np.testing.assert_allclose(
        mesh.bounds, np.stack([f(straight_neutral(head), axis=0) for f in (np.min, np.max)])
    )


def straight_neutral(head: HeadModel) -> np.ndarray:
    return straight(head, toy_capture(head), expressive=False)[np.unique(head.faces.numpy())]


def parse_obj(path: Path) -> dict[str, np.ndarray]:
    """A reader of its own: every line of the file must be one it knows."""
    rows: dict[str, list[Any]] = {"v": [], "vt": [], "vn": [], "f": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *rest = line.split(" ")
        if word == "f":
            rows["f"].append([[int(i or 0) for i in corner.split("/")] for corner in rest])
        elif word in rows:
            rows[word].append([float(x) for x in rest])
        else:
            assert word in ("#", "mtllib", "o", "usemtl", "s")
    return {k: np.array(v) for k, v in rows.items()}


@pytest.mark.parametrize("photo", [None, PHOTO], ids=["plain", "photo"])
def test_obj_keeps_the_heads_vertices(head: HeadModel, tmp_path: Path, photo: Photo | None) -> None:
    folder = tmp_path / "Bild von Jürgen 写真"
    files = export(toy_capture(head), head, folder, "obj", photo=photo)
    rows = parse_obj(folder / "mesh.obj")
    wanted = straight(head, toy_capture(head), expressive=True)
    np.testing.assert_allclose(rows["v"][:, :3], wanted, atol=6e-7)
    np.testing.assert_array_equal(rows["f"][..., 0] - 1, head.faces.numpy())
    np.testing.assert_array_equal(rows["f"][..., 2], rows["f"][..., 0])
    normals = vertex_normals(torch.as_tensor(wanted)[None], head.faces)[0].numpy()
    used = np.unique(head.faces.numpy())
    np.testing.assert_allclose(rows["vn"][used], normals[used], atol=1e-4)
    if len(head.faces_uv):
        np.testing.assert_array_equal(rows["f"][..., 1] - 1, head.faces_uv.numpy())
        np.testing.assert_allclose(rows["vt"], head.uv.numpy(), atol=1e-6)
    material = (folder / "mesh.mtl").read_text()
    if photo is not None and len(head.faces_uv):
        assert [f.name for f in files] == ["mesh.obj", "mesh.mtl", "mesh.jpg"]
        assert "map_Kd mesh.jpg\n" in material
        assert read_image(folder / "mesh.jpg").size == (1024, 1024)
        assert trimesh.load(folder / "mesh.obj").visual.material.image.size == (1024, 1024)
    else:
        assert [f.name for f in files] == ["mesh.obj", "mesh.mtl"]
        assert "map_Kd" not in material
        np.testing.assert_allclose(rows["v"][:, 3:], head.colors.numpy(), atol=1e-6)
    assert sorted(p.name for p in folder.iterdir()) == sorted(f.name for f in files)


def test_texture_shows_the_photograph(toy: HeadModel, tmp_path: Path) -> None:
    """A vertex that the camera sees has, in the texture, the photograph's colour at its own pixel."""
    ramp = np.linspace(40, 215, 512)
    photo = Photo(np.dstack(np.broadcast_arrays(ramp[None], ramp[:, None], 128.0)).astype(np.uint8))
    capture = toy_capture(toy)
    export(capture, toy, tmp_path, "obj", photo=photo)
    texture = read_image(tmp_path / "mesh.jpg").pixels.astype(float)
    points = camera_vertices(capture, toy, 0).numpy()
    pixels = capture.focal * points[:, :2] / points[:, 2:] + capture.principal
    facing = -vertex_normals(torch.as_tensor(points)[None], toy.faces)[0].numpy()[:, 2]
    front = toy.regions["face"] & (facing > 0.8)
    checked = 0
    for vertex in np.flatnonzero(front):
        face, corner = np.argwhere(toy.faces.numpy() == vertex)[0]
        u, v = toy.uv[toy.faces_uv[face, corner]].numpy()
        x, y = pixels[vertex]
        # Off the texture's own seam, and off the outer 1 % of the photograph, where the baker fades out.
        if 0.02 < u < 0.98 and min(x, y) > 6 and max(x, y) < 506:
            seen = texture[int((1 - v) * 1024), int(u * 1024)]
            assert seen == pytest.approx(
                [np.interp(x, [0, 512], [40, 215]), np.interp(y, [0, 512], [40, 215]), 128], abs=4
            )
            checked += 1
    assert checked > 10


def test_obj_of_the_open_head_is_quick(tmp_path: Path) -> None:
    head = load_head()
    capture = toy_capture(head)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        export(capture, head, tmp_path, "obj")
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.15  # 21 ms when nothing else runs


def test_arkit_json(head: HeadModel, tmp_path: Path) -> None:
    tracked = np.array([True, False, True])
    capture = toy_capture(head, 3, tracked=tracked)
    (path,) = export(capture, head, tmp_path, "arkit")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert {k: data[k] for k in ("format", "source", "head", "fps")} == {
        "format": "recon3d-arkit/1", "source": "astronaut.png", "head": head.id, "fps": 25.0,
    }  # fmt: skip
    assert [f["time"] for f in data["frames"]] == [0.0, 0.04, 0.08]
    assert [f["tracked"] for f in data["frames"]] == tracked.tolist()
    for t, frame in enumerate(data["frames"]):
        assert tuple(frame["blendShapes"]) == ARKIT_NAMES
        np.testing.assert_allclose(list(frame["blendShapes"].values()), capture.arkit[t], atol=5.1e-7)
    numbers = [x for f in data["frames"] for x in [*f["blendShapes"].values(), *f["headPosition"]]]
    assert all(x == round(x, 6) for x in numbers)


def rotate(quaternion: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y, z, w = quaternion
    return trimesh.transformations.quaternion_matrix([w, x, y, z])[:3, :3] @ points


def test_placement_puts_the_head_where_the_camera_saw_it(toy: HeadModel) -> None:
    capture = toy_capture(toy, 2)
    quaternions, positions = placement(capture, toy)
    rigid = (toy.weights[:, 1:] > 0).any(1).numpy() & (toy.weights[:, 0] == 0).numpy()
    for t in range(2):
        points = toy.unposed(
            torch.as_tensor(capture.shape)[None], torch.as_tensor(capture.expression[t : t + 1])
        )
        wanted = camera_vertices(capture, toy, t).numpy() @ FRONTAL
        found = points[0].numpy() @ rotate(quaternions[t], np.eye(3)).T + positions[t]
        assert np.abs(found - wanted)[rigid].max() < 1e-5
    frontal = np.zeros((1, 5, 3))
    frontal[0, 0] = [np.pi, 0, 0]
    quaternions, positions = placement(toy_capture(toy, pose=frontal), toy)
    np.testing.assert_allclose(np.abs(quaternions[0]), [0, 0, 0, 1], atol=1e-6)
    assert positions[0, 2] < 0  # before a camera that looks along -Z


def test_a_clip_is_shown_by_its_first_tracked_frame(toy: HeadModel, tmp_path: Path) -> None:
    capture = toy_capture(toy, 3, tracked=np.array([False, True, True]))
    (path,) = export(capture, toy, tmp_path, "glb")
    np.testing.assert_allclose(
        Glb(path.read_bytes()).json["meshes"][0]["weights"], capture.expression[1], atol=1e-6
    )


def contents(path: Path) -> list[bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file.read_bytes() for file in files]


# Blender, which may not be here either, writes times and random numbers into its files. FLAME's parameters
# need one of FLAME's heads, and are tested with one.
@pytest.mark.parametrize(
    "format", sorted(f for f in FORMATS if FORMATS[f].extra != "blender" and f != "flame-params")
)
def test_writing_again_gives_the_same_bytes(toy: HeadModel, tmp_path: Path, format: str) -> None:
    first, second = (
        [contents(p) for p in export(toy_capture(toy), toy, tmp_path / n, format, photo=PHOTO)] for n in "ab"
    )
    assert first == second


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_wrong_head_or_photograph_is_refused(toy: HeadModel, tmp_path: Path, format: str) -> None:
    with pytest.raises(InputError, match=r"captured with the head model open_head/00000000, not toy/"):
        export(toy_capture(toy, head="open_head/00000000"), toy, tmp_path, format)
    with pytest.raises(InputError, match="does not fit the head model"):
        export(toy_capture(toy, shape=np.zeros(3)), toy, tmp_path, format)
    if FORMATS[format].textured:
        with pytest.raises(InputError, match="has 512 x 512 pixels, the capture was made of 640 x 480"):
            export(toy_capture(toy, size=(640, 480)), toy, tmp_path, format, photo=PHOTO)
    assert not list(tmp_path.iterdir())


def test_unknown_format_lists_those_that_exist(toy: HeadModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no export format 'c4d'; choose from obj, glb, "):
        export(toy_capture(toy), toy, tmp_path, "c4d")


def test_missing_package_names_its_extra(
    toy: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "needs_more.py"
    module.write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    formats = {"more": Format("a format", "needs_more", extra="usd")}
    monkeypatch.setattr(export_module, "FORMATS", formats)
    wanted = r"needs a_package_that_is_not_installed: pip install 'recon3d\[usd\]'"
    with pytest.raises(MissingExtraError, match=wanted):
        export(toy_capture(toy), toy, tmp_path, "more")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_place_that_cannot_be_written(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        export(toy_capture(toy), toy, tmp_path / "file", format)


def test_a_mesh_is_not_replaced_when_its_material_cannot_be(toy: HeadModel, tmp_path: Path) -> None:
    (tmp_path / "mesh.mtl").mkdir()  # the second file cannot take its name
    (tmp_path / "mesh.obj").write_text("before")
    with pytest.raises(OutputError):
        export(toy_capture(toy), toy, tmp_path, "obj")
    assert (tmp_path / "mesh.obj").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mesh.mtl", "mesh.obj"]


@pytest.mark.slow
def test_khronos_validator_finds_nothing(head: HeadModel, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm is not None, "this test needs Node.js"
    assert node is not None, "this test needs Node.js"
    subprocess.run([npm, "install", "gltf-validator"], cwd=tmp_path, check=True, capture_output=True)
    files = [
        export(toy_capture(head), head, tmp_path / name, "glb", photo=photo)[0]
        for name, photo in (("plain", None), ("photo", PHOTO))
    ]
    command = [node, TOOLS / "check_gltf.mjs", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("0 errors, 0 warnings") == 2
