"""Which recon3d wrote a file can be read in it, where its format has room for that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pygltflib
import pytest
from face_clips import face_frames, write_clip
from PIL import Image
from PIL.ExifTags import Base
from pxr import Sdf
from toy_head import toy_capture, write_toy_head

from recon3d._version import GENERATOR, __version__
from recon3d.capture import Capture
from recon3d.export import FORMATS, export
from recon3d.head import HeadModel, load_head
from recon3d.media.image import read_image, write_image

#: No room: fixed columns, no remarks; and of FLAME's parameters some readers take every array for numbers.
SILENT = {"livelink", "csv", "bvh", "flame-params"}
#: Written by Blender, which need not be here.
BY_BLENDER = {"fbx", "blend"}


def first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0]


def gltf_generator(path: Path) -> str:
    return str(pygltflib.GLTF2().load(str(path)).asset.generator)


def header(path: Path) -> str:
    return path.read_bytes().split(b"end_header")[0].decode("ascii")


def usd_generator(path: Path) -> str:
    return str(Sdf.Layer.FindOrOpen(str(path)).customLayerData["generator"])


#: Format: the file's pattern, and where it says who wrote it.
WHERE: dict[str, tuple[str, Callable[[Path], str]]] = {
    "obj": ("*.obj", first_line),
    "obj-sequence": ("obj/*.obj", first_line),
    "ply-sequence": ("ply/*.ply", header),
    "glb": ("*.glb", gltf_generator),
    "glb-skeleton": ("*.glb", gltf_generator),
    "glb-curves": ("*.glb", gltf_generator),
    "usd": ("*.usdc", usd_generator),
    "arkit": ("*.json", lambda path: str(json.loads(path.read_text(encoding="utf-8"))["generator"])),
    "json": ("*.json", lambda path: str(json.loads(path.read_text(encoding="utf-8"))["generator"])),
    "parquet": ("*.parquet", lambda path: pq.read_schema(path).metadata[b"recon3d.generator"].decode()),
    "report": ("*.html", lambda path: path.read_text(encoding="utf-8")),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


def test_every_format_is_thought_of() -> None:
    assert set(WHERE) | SILENT | BY_BLENDER == set(FORMATS)
    assert f"recon3d {__version__}" == GENERATOR


@pytest.mark.parametrize("format", WHERE)
def test_exports_say_it_and_are_the_same_bytes_each_time(format: str, toy: HeadModel, tmp_path: Path) -> None:
    pattern, said = WHERE[format]
    seen = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export(toy_capture(toy, 3), toy, tmp_path / name, format)
        path = sorted((tmp_path / name).glob(pattern))[0]
        assert GENERATOR in said(path)
        seen.append(path.read_bytes())
    assert seen[0] == seen[1]


def test_a_capture_says_it_and_readers_do_not_mind(toy: HeadModel, tmp_path: Path) -> None:
    toy_capture(toy, 2).save(tmp_path / "capture.npz")
    with np.load(tmp_path / "capture.npz") as file:
        assert str(file["generator"]) == GENERATOR
        kept = {name: file[name] for name in file.files if name != "generator"}
    assert len(Capture.load(tmp_path / "capture.npz")) == 2
    np.savez_compressed(tmp_path / "earlier.npz", **kept)  # as versions before wrote it
    assert len(Capture.load(tmp_path / "earlier.npz")) == 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_pictures_say_it_and_are_read_as_before(suffix: str, tmp_path: Path) -> None:
    pixels = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    path = tmp_path / f"overlay{suffix}"
    write_image(path, pixels)
    with Image.open(path) as image:
        assert image.getexif()[Base.Software] == GENERATOR
    photo = read_image(path)
    assert (photo.size, photo.focal_px) == ((16, 12), None)


def test_clips_say_it(tmp_path: Path) -> None:
    with av.open(str(write_clip(tmp_path / "overlay.mp4", face_frames(3)))) as clip:
        assert clip.metadata["comment"] == GENERATOR
