from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
import pytest
import skimage.data
import torch
import trimesh
from PIL import Image

import recon3d
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import AssetError, InputError, NoFaceError, OutputError, UsageError
from recon3d.export.texture import texture_size
from recon3d.head import HeadModel
from recon3d.media.image import Photo, read_image
from recon3d.pipeline import FolderNames, Reconstructor, reconstruct, write_outputs
from recon3d.resources import resource_path

ASTRONAUT: np.ndarray = skimage.data.astronaut()
FILES = {"capture.npz", "mesh.obj", "mesh.mtl", "mesh.jpg", "mesh.glb", "overlay.jpg", "arkit.json"}
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos"


@pytest.fixture(scope="module")
def worker() -> Reconstructor:
    return Reconstructor()


@pytest.fixture(scope="module")
def astronaut(worker: Reconstructor) -> Capture:
    (capture,) = worker.reconstruct(ASTRONAUT)
    return capture


def two_faces() -> np.ndarray:
    """The astronaut, and to the right of her a smaller one."""
    picture = Image.new("RGB", (1024, 512), (90, 90, 90))
    picture.paste(Image.fromarray(ASTRONAUT), (0, 0))
    picture.paste(Image.fromarray(ASTRONAUT[:, ::-1]).resize((380, 380)), (580, 60))
    return np.array(picture)


def camera_points(head: HeadModel, capture: Capture) -> np.ndarray:
    """The mesh in the picture, px, by the words of the contract."""
    with torch.no_grad():
        vertices = head(
            torch.as_tensor(capture.shape)[None],
            torch.as_tensor(capture.expression),
            torch.as_tensor(capture.pose),
        ).vertices[0]
    points = vertices.numpy() + capture.translation[0]
    assert (points[:, 2] > 0.3).all()
    pixels: np.ndarray = capture.focal * points[:, :2] / points[:, 2:] + capture.principal
    return pixels


def same(a: Capture, b: Capture) -> None:
    """Equal but for rounding, which in torch's matrix products varies with where arrays lie in memory."""
    np.testing.assert_array_equal(a.box, b.box)
    np.testing.assert_allclose(a.landmarks68, b.landmarks68, atol=0.3)
    np.testing.assert_allclose(a.pose, b.pose, atol=2e-3)
    np.testing.assert_allclose(a.shape, b.shape, atol=2e-2)


def check_folder(folder: Path, expected: set[str] = FILES) -> None:
    assert {p.name for p in folder.iterdir()} == expected
    assert all(p.stat().st_size > 0 for p in folder.iterdir())
    Capture.load(folder / "capture.npz")
    gltf = pygltflib.GLTF2().load(str(folder / "mesh.glb"))
    assert gltf is not None
    (primitive,) = gltf.meshes[0].primitives
    assert len(primitive.targets) == 52
    assert gltf.meshes[0].extras["targetNames"] == list(ARKIT_NAMES)
    mesh: Any = trimesh.load(folder / "mesh.obj", process=False, maintain_order=True)
    assert np.isfinite(mesh.vertices).all()
    for name in ("overlay.jpg", "mesh.jpg"):
        with Image.open(folder / name) as image:
            image.load()
            assert image.format == "JPEG"


# ---- reconstruct ----


def test_the_astronaut(worker: Reconstructor, astronaut: Capture) -> None:
    assert len(astronaut) == 1
    assert astronaut.head == worker.head.id
    assert astronaut.size == (512, 512)
    assert astronaut.principal.tolist() == [256, 256]
    assert astronaut.fps == 0
    assert astronaut.tracked.all()
    assert astronaut.score[0] > 0.9
    np.testing.assert_array_equal(astronaut.arkit, astronaut.expression)  # the open head speaks ARKit
    assert 0.1 < astronaut.arkit.max() <= 1  # a smile is no neutral face


def test_the_mesh_lies_on_the_face(worker: Reconstructor, astronaut: Capture) -> None:
    """Against landmarks of the face networks, which the capture's numbers never held."""
    (face,) = worker.faces.find(ASTRONAUT)
    vertices = torch.as_tensor(camera_points(worker.head, astronaut))[None].float()
    found = worker.head.landmarks(vertices, "mediapipe478")[0].numpy()
    off = np.linalg.norm(found - face.landmarks[:, :2], axis=1)
    size = float(np.linalg.norm(face.box[2:] - face.box[:2]))
    assert np.median(off) < 0.02 * size
    inner = astronaut.landmarks68[0, 17:]
    assert (inner > face.box[:2] - 2).all()
    assert (inner < face.box[2:] + 2).all()


def test_a_file_a_photo_and_pixels_give_the_same(
    worker: Reconstructor, astronaut: Capture, tmp_path: Path
) -> None:
    path = tmp_path / "eve.png"
    Image.fromarray(ASTRONAUT).save(path)
    for given in (path, str(path), read_image(path)):
        (capture,) = worker.reconstruct(given)
        assert capture.source == "eve.png"
        same(capture, astronaut)
    assert astronaut.source == "image"


def test_once_without_a_worker(astronaut: Capture) -> None:
    (capture,) = recon3d.reconstruct(ASTRONAUT)
    same(capture, astronaut)


def test_every_face_the_most_prominent_first(worker: Reconstructor) -> None:
    large, small = worker.reconstruct(two_faces())
    assert large.box[0, 2] < 512 < small.box[0, 0]
    assert large.focal == small.focal  # one camera took them
    assert small.translation[0, 2] > large.translation[0, 2]  # the smaller face is further away
    (only,) = Reconstructor(head=worker.head, max_faces=1).reconstruct(two_faces())
    np.testing.assert_array_equal(only.box, large.box)


def test_the_focal_length_is_the_callers_or_that_of_exif(worker: Reconstructor) -> None:
    (given,) = worker.reconstruct(Photo(ASTRONAUT, focal_px=900.0), focal=1234.0)
    (exif,) = worker.reconstruct(Photo(ASTRONAUT, focal_px=900.0))
    assert (given.focal, exif.focal) == (1234.0, 900.0)
    assert given.translation[0, 2] > exif.translation[0, 2]  # a longer lens, the same face: further away


def test_a_head_without_arkit_units_takes_the_networks_scores(tmp_path: Path) -> None:
    with np.load(resource_path("flame_model/open_head.npz")) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "expression_names"}
    np.savez(tmp_path / "nameless.npz", **arrays)
    nameless = Reconstructor(head=tmp_path / "nameless.npz")
    (capture,) = nameless.reconstruct(ASTRONAUT)
    (face,) = nameless.faces.find(ASTRONAUT)
    assert face.scores is not None
    assert capture.head.startswith("nameless/")
    np.testing.assert_allclose(capture.arkit[0], face.scores.clip(0, 1))


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, worker: Reconstructor) -> None:
    flat = np.full((80, 90, 3), 127, np.uint8)
    Image.fromarray(flat).save(tmp_path / "wall.png")
    with pytest.raises(NoFaceError, match=r"^\S*wall\.png: no face found; show one larger"):
        reconstruct(tmp_path / "wall.png")
    with pytest.raises(NoFaceError, match=r"^image: no face"):
        worker.reconstruct(flat)
    with pytest.raises(InputError, match=r"\(H,W,3\) uint8"):
        worker.reconstruct(ASTRONAUT[..., 0])
    with pytest.raises(InputError, match="no such file"):
        worker.reconstruct(tmp_path / "nothing.png")
    for focal in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="focal length"):
            worker.reconstruct(ASTRONAUT, focal=focal)
    with pytest.raises(UsageError, match="choose mediapipe or fan"):
        Reconstructor(landmarks="dlib")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        Reconstructor(max_faces=0)
    with pytest.raises(UsageError, match="no device 'quantum'"):
        Reconstructor(device="quantum")
    with pytest.raises(AssetError, match=r"face_landmarker\.task is not there"):
        Reconstructor(weights_dir=tmp_path).prepare()
    with pytest.raises(InputError, match=r"wall\.png: is neither a pickle nor an \.npz; give a FLAME model"):
        Reconstructor(head=tmp_path / "wall.png").prepare()


def test_a_head_without_landmarks_is_refused(tmp_path: Path) -> None:
    with np.load(resource_path("flame_model/open_head.npz")) as stored:
        arrays = {name: stored[name] for name in stored.files if not name.startswith("lmk_")}
    np.savez(tmp_path / "bare.npz", **arrays)
    with pytest.raises(InputError, match=r"bare/\w+ has no landmark embedding ibug68 and mediapipe478"):
        Reconstructor(head=tmp_path / "bare.npz").prepare()


def test_threads_are_given_back(worker: Reconstructor) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        worker.reconstruct(ASTRONAUT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, recon3d; print(sorted({'torch', 'scipy', 'PIL', 'numpy'} & set(sys.modules)));"
        "print([n for n in recon3d.__all__ if n != '__version__' and not callable(getattr(recon3d, n))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = recon3d.nothing


# ---- write_outputs ----


def test_result_folders(worker: Reconstructor, tmp_path: Path) -> None:
    photo = Photo(two_faces())
    captures = worker.reconstruct(photo)
    written = write_outputs(captures, worker.head, photo, tmp_path / "out", "eve")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["eve", "eve.face2"]
    for name, files in zip(("eve", "eve.face2"), written, strict=True):
        check_folder(tmp_path / "out" / name)
        assert files[0] == tmp_path / "out" / name / "capture.npz"
        assert {f.name for f in files} == FILES
    with Image.open(tmp_path / "out" / "eve" / "mesh.jpg") as texture:
        assert texture.size == (512, 512)
    loaded = Capture.load(written[1][0])
    np.testing.assert_array_equal(loaded.box, captures[1].box)


@pytest.mark.parametrize(("face", "side"), [(40, 512), (140, 512), (212, 768), (280, 1024), (3000, 1024)])
def test_the_texture_is_as_fine_as_the_face(astronaut: Capture, face: int, side: int) -> None:
    box = np.array([[50, 60, 50 + face / 2, 60 + face]], np.float32)
    assert texture_size(replace(astronaut, box=box)) == side


def test_only_what_is_asked_for(worker: Reconstructor, astronaut: Capture, tmp_path: Path) -> None:
    write_outputs([astronaut], worker.head, Photo(ASTRONAUT), tmp_path, "eve", ["arkit"])
    assert {p.name for p in (tmp_path / "eve").iterdir()} == {"capture.npz", "arkit.json"}
    with pytest.raises(UsageError, match=r"no format 'stl'; choose from obj, glb, "):
        write_outputs([astronaut], worker.head, None, tmp_path, "adam", ["stl"])
    with pytest.raises(UsageError, match="overlay is drawn over the photograph"):
        write_outputs([astronaut], worker.head, None, tmp_path, "adam", ["overlay"])
    with pytest.raises(InputError, match="100 x 100 pixels"):
        white = Photo(np.full((100, 100, 3), 255, np.uint8))
        write_outputs([astronaut], worker.head, white, tmp_path, "adam", ["overlay"])
    assert [p.name for p in tmp_path.iterdir()] == ["eve"]  # no adam, nothing temporary


def test_landmark_dots_are_drawn(worker: Reconstructor, astronaut: Capture, tmp_path: Path) -> None:
    photo = Photo(ASTRONAUT)
    plain = write_outputs([astronaut], worker.head, photo, tmp_path, "plain", ["overlay"])
    dotted = write_outputs([astronaut], worker.head, photo, tmp_path, "dots", ["overlay"], landmark_dots=True)
    a, b = (np.array(Image.open(files[0][-1])).astype(int) for files in (plain, dotted))
    changed = np.abs(a - b).max(axis=2) > 100
    width = (a.shape[1] - 8) // 3
    assert changed[:, width : 2 * width].any()
    assert not changed[:, :width].any()


def test_an_earlier_result_is_replaced_and_foreign_files_stay(
    worker: Reconstructor, astronaut: Capture, tmp_path: Path
) -> None:
    folder = tmp_path / "eve"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "arkit.json").write_text("old")
    write_outputs([astronaut], worker.head, None, tmp_path, "eve", ["arkit"])
    assert {p.name for p in folder.iterdir()} == {"notes.txt", "capture.npz", "arkit.json"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert "recon3d-arkit/1" in (folder / "arkit.json").read_text()


def test_a_file_in_the_way(worker: Reconstructor, astronaut: Capture, tmp_path: Path) -> None:
    (tmp_path / "eve").write_text("mine")
    for out in (tmp_path, tmp_path / "eve"):
        with pytest.raises(OutputError, match="a file is in the way"):
            write_outputs([astronaut], worker.head, None, out, "eve", ["arkit"])
    assert (tmp_path / "eve").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_are_for_everybody_that_the_umask_allows(
    worker: Reconstructor, astronaut: Capture, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        write_outputs([astronaut], worker.head, None, tmp_path, "eve", ["arkit"])
    finally:
        os.umask(before)
    assert (tmp_path / "eve").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "eve" / "capture.npz").stat().st_mode & 0o777 == 0o644


def test_every_input_has_its_own_folder() -> None:
    names = FolderNames()
    given = ["a/eve.jpg", "b/eve.png", "EVE.jpg", "eve-2.jpg", "eve.face2.jpg", "adam.tar.jpg", "..jpg"]
    claimed = [names.claim(Path(path)) for path in given]
    assert claimed == ["eve", "eve-2", "EVE-3", "eve-2-2", "eve.face2-2", "adam.tar", "input"]
    assert len({name.casefold() for name in claimed}) == len(given)
    assert names.claim(Path("bob.face3.jpg")) == "bob.face3"
    assert names.claim(Path("bob.jpg")) == "bob-2"  # its third face would need bob.face3


# ---- real photographs ----


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photographs are not here")
@pytest.mark.parametrize(("archive", "count"), [("wild.zip", 10), ("lfpw_train.zip", 10)])
def test_photographs_of_people(worker: Reconstructor, tmp_path: Path, archive: str, count: int) -> None:
    """A fixed sample: wherever a face is found, all files are whole and the mesh lies on the face."""
    done, residuals = 0, []
    with zipfile.ZipFile(PHOTOS / archive) as opened:
        names = sorted(n for n in opened.namelist() if n.endswith((".jpg", ".png")))
        for k, name in enumerate(names[:: len(names) // count][:count]):
            pixels = np.array(Image.open(io.BytesIO(opened.read(name))).convert("RGB"))
            try:
                found = worker.fit(pixels)
            except NoFaceError:
                continue
            captures = [face.capture for face in found]
            for files in write_outputs(captures, worker.head, Photo(pixels), tmp_path, f"{k}"):
                check_folder(files[0].parent)
            done += 1
            residuals.append(found[0].residual)
            box, points = captures[0].box[0], camera_points(worker.head, captures[0])
            middle = (box[:2] + box[2:]) / 2
            assert np.linalg.norm(np.median(points, axis=0) - middle) < (box[2:] - box[:2]).max()
    assert done >= 0.8 * count
    assert np.median(residuals) < 0.03
