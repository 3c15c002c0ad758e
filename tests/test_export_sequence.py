"""OBJ and PLY sequences: every frame's mesh, in a folder that is there as a whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import trimesh
from moving_head import moving_capture, seen
from toy_head import toy_capture, write_toy_head

from recon3d._results import write_outputs
from recon3d.errors import InputError, OutputError
from recon3d.export import ExportOptions, export
from recon3d.export._motion import motion_of
from recon3d.export._sequence import BATCH, write_sequence
from recon3d.head import HeadModel, load_head
from recon3d.media.image import read_image

KINDS = {"obj-sequence": ".obj", "ply-sequence": ".ply"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(params=sorted(KINDS))
def format(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def frames_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("frame_*"))


def corners(path: Path) -> np.ndarray:
    """(F, 3, 3): the triangles, whatever a reader does to the vertices."""
    return trimesh.load(path, process=False).triangles


def test_every_frame_is_the_glbs_scene(toy: HeadModel, tmp_path: Path, format: str) -> None:
    """More frames than one batch holds; in the scene, which is the camera's but for a shift."""
    count = BATCH + 3
    capture = moving_capture(toy, count)
    (folder,) = export(capture, toy, tmp_path, format)
    files = frames_of(folder)
    suffix = KINDS[format]
    assert [file.name for file in files] == [f"frame_{k:06d}{suffix}" for k in range(1, count + 1)]
    wanted = seen(capture, toy) + motion_of(capture, toy, ExportOptions()).camera
    faces = toy.faces.numpy()
    for frame in (0, 1, BATCH - 1, BATCH, count - 1):
        assert np.abs(corners(files[frame]) - wanted[frame][faces]).max() < 2e-6


def test_the_open_head(tmp_path: Path, format: str) -> None:
    head = load_head()
    capture = moving_capture(head, 2)
    (folder,) = export(capture, head, tmp_path, format)
    wanted = seen(capture, head)[1] + motion_of(capture, head, ExportOptions()).camera
    found = corners(frames_of(folder)[1])
    assert np.abs(found - wanted[head.faces.numpy()]).max() < 2e-6


def test_plys_are_binary_and_coloured(toy: HeadModel, tmp_path: Path) -> None:
    (folder,) = export(moving_capture(toy, 1), toy, tmp_path, "ply-sequence")
    path = frames_of(folder)[0]
    assert b"format binary_little_endian 1.0" in path.read_bytes()[:100]
    mesh = trimesh.load(path, process=False)
    assert len(mesh.vertices) == toy.num_vertices
    np.testing.assert_array_equal(mesh.faces, toy.faces.numpy())
    found = mesh.visual.vertex_colors[:, :3] / 255
    np.testing.assert_allclose(found, toy.colors.numpy(), atol=1 / 500)


def test_objs_share_material_and_texture(toy: HeadModel, tmp_path: Path) -> None:
    texture = np.full((32, 32, 3), 90, np.uint8)
    (folder,) = export(moving_capture(toy, 2), toy, tmp_path, "obj-sequence", texture=texture)
    names = ["frame_000001.obj", "frame_000002.obj", "mesh.jpg", "mesh.mtl"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert trimesh.load(folder / names[1]).visual.material.image.size == (32, 32)
    assert read_image(folder / "mesh.jpg").size == (32, 32)


def test_resampling_and_photographs(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (folder,) = export(moving_capture(toy, 5), toy, tmp_path, format, options=ExportOptions(fps=60))
    assert len(frames_of(folder)) == 9
    (folder,) = export(toy_capture(toy), toy, tmp_path / "photo", format)
    assert len(frames_of(folder)) == 1


def test_a_shorter_sequence_leaves_no_frames_behind(toy: HeadModel, tmp_path: Path, format: str) -> None:
    texture = np.full((32, 32, 3), 90, np.uint8)
    export(moving_capture(toy, 5), toy, tmp_path, format, texture=texture)
    (folder,) = export(moving_capture(toy, 3), toy, tmp_path, format)
    assert len(frames_of(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_results_folders_take_sequences_twice(toy: HeadModel, tmp_path: Path) -> None:
    for count in (4, 2):
        ((saved, folder),) = write_outputs(
            [moving_capture(toy, count)], toy, None, tmp_path, "clip", ["obj-sequence"]
        )
        assert (saved, folder) == (tmp_path / "clip" / "capture.npz", tmp_path / "clip" / "obj")
        assert len(frames_of(folder)) == count
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == ["capture.npz", "obj"]


def test_somebody_elses_folder_is_left_alone(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (folder,) = export(moving_capture(toy, 2), toy, tmp_path, format)
    (folder / "my sculpture.obj").write_text("weeks of work")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(OutputError, match="holds other files; move them away or choose another --out"):
        export(moving_capture(toy, 3), toy, tmp_path, format)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_full_disk_leaves_the_earlier_sequence(toy: HeadModel, tmp_path: Path) -> None:
    """The disk is full at the third frame."""
    (folder,) = export(moving_capture(toy, 2), toy, tmp_path, "ply-sequence")
    before = [path.read_bytes() for path in frames_of(folder)]
    calls = 0

    def encode(vertices: np.ndarray) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return bytes(vertices)

    with pytest.raises(OutputError, match="no space left on the disk"):
        write_sequence(moving_capture(toy, 5), toy, folder, ".ply", encode, ExportOptions())
    assert [path.read_bytes() for path in frames_of(folder)] == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_file_in_the_way(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (tmp_path / KINDS[format][1:]).write_text("mine")
    with pytest.raises(OutputError, match="in the way"):
        export(moving_capture(toy, 2), toy, tmp_path, format)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_the_wrong_head_is_refused(toy: HeadModel, tmp_path: Path, format: str) -> None:
    with pytest.raises(InputError, match="captured with the head model open_head/00000000"):
        export(moving_capture(toy, 2, head="open_head/00000000"), toy, tmp_path, format)
    assert not list(tmp_path.iterdir())
