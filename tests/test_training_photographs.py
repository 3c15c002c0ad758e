"""Photographs as a source of training: cut out, kept, learnt from, refused where they are none."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon3d.encoder.network import EncoderNetwork, images_of
from recon3d.encoder.weights import load_weights
from recon3d.errors import InputError
from recon3d.head import HeadModel
from recon3d.training.config import read_config
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.photographs import PhotographStore
from recon3d.training.stage1 import Stage1

COUNT = 18


def jpeg(picture: Image.Image) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, "JPEG")
        return file.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real photograph turned and mirrored, beside what is not a photograph of a face."""
    from skimage.data import astronaut

    photo = Image.fromarray(astronaut()).crop((130, 0, 330, 220))
    path = tmp_path_factory.mktemp("photos") / "faces.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for k in range(COUNT):
            turned = photo.rotate(3 * k - 25, resample=Image.Resampling.BILINEAR, expand=False)
            bundle.writestr(f"{k:02d}.jpg", jpeg(turned))
        bundle.writestr("03b.jpg", b"not a picture")
        bundle.writestr("04b.jpg", jpeg(Image.new("RGB", (200, 200))))
        bundle.writestr("notes.json", "{}")
    return path


def test_faces_are_found_once_and_kept(archive: Path, tmp_path: Path, head: HeadModel) -> None:
    store = PhotographStore(tmp_path, (str(archive),), head.num_shape, size=8)
    assert store.make() == COUNT // 8
    said: list[str] = []
    assert store.make(said.append) == COUNT // 8 and not said
    faces = store.shard(0)
    assert faces.images.shape == (8, 256, 256, 3) and faces.shape.shape == (8, head.num_shape)
    eyes = faces.detected[:, 263, :2] - faces.detected[:, 33, :2]
    assert float(torch.atan2(eyes[:, 1], eyes[:, 0]).abs().max()) < 1e-3  # eyes level, however turned


def test_a_folder_holds_the_same_as_an_archive(archive: Path, tmp_path: Path, head: HeadModel) -> None:
    with zipfile.ZipFile(archive) as bundle:
        bundle.extractall(tmp_path / "faces")
    first = PhotographStore(tmp_path / "a", (str(archive),), head.num_shape, size=8)
    second = PhotographStore(tmp_path / "b", (str(tmp_path / "faces"),), head.num_shape, size=8)
    assert first.make() == second.make()
    assert torch.equal(first.shard(0).images, second.shard(0).images)


def test_the_same_pictures_are_known_again_and_others_are_not(
    archive: Path, tmp_path: Path, head: HeadModel
) -> None:
    def store(path: Path) -> Path:
        return PhotographStore(tmp_path, (str(path),), head.num_shape, size=8).folder

    moved = tmp_path / "moved.zip"
    moved.write_bytes(archive.read_bytes())
    assert store(moved) == store(archive)
    with zipfile.ZipFile(moved, "a") as bundle:
        bundle.writestr("more.png", b"another")
    assert store(moved) != store(archive)
    folder = tmp_path / "folder"
    (folder / "within").mkdir(parents=True)
    picture = folder / "within" / "one.png"
    picture.write_bytes(b"one")
    before = store(folder)
    picture.write_bytes(b"another")
    assert store(folder) != before


def test_what_is_no_archive_is_refused(tmp_path: Path, archive: Path, head: HeadModel) -> None:
    with pytest.raises(InputError, match=r"none\.zip: no such archive"):
        PhotographStore(tmp_path, (str(tmp_path / "none.zip"),), head.num_shape)
    (tmp_path / "torn.zip").write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"torn\.zip: not a zip file or folder of pictures"):
        PhotographStore(tmp_path, (str(tmp_path / "torn.zip"),), head.num_shape).make()
    with pytest.raises(InputError, match="fewer than 1024 faces"):
        PhotographStore(tmp_path, (str(archive),), head.num_shape).make()


def test_archives_are_a_list_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text("[data]\nphotographs = ['faces.zip', 'more, too/']\n")
    assert read_config(tmp_path / "some.toml").data.photographs == ("faces.zip", "more, too/")
    assert read_config("smoke").data.photographs == ()


def test_training_learns_from_photographs_beside_renders(
    archive: Path, tmp_path: Path, head: HeadModel
) -> None:
    config = read_config("smoke")
    data = replace(
        config.data, folder=str(tmp_path), renders=16, held_out=16, shard=16, photographs=(str(archive),)
    )
    reading = replace(config.reading, batch=16, passes=30)
    config = replace(config, data=data, reading=reading, whole=replace(config.whole, passes=0))
    run = Stage1(config, tmp_path / "run", lambda line: None)
    run.run()
    faces = PhotographStore(tmp_path, (str(archive),), head.num_shape, size=16).shard(0)
    loss = EncoderLoss(head, config.network.shapes, torch.full((52,), 0.05))

    def outline(network: EncoderNetwork) -> float:
        with torch.inference_mode():
            told = network.eval()(images_of(faces.images), faces.detected)
            return float(loss.photographs(told, faces)["photographs: outline"])

    torch.manual_seed(0)
    untrained = EncoderNetwork(config.network)
    untrained.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
    after = outline(load_weights(tmp_path / "run" / "encoder.safetensors", head))
    assert np.isfinite(after) and after < 0.6 * outline(untrained)
