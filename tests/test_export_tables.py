"""Curves as CSV, JSON and Parquet tables, read again by other readers than the writers'."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.spatial.transform import Rotation
from toy_head import toy_capture, write_toy_head

from recon3d._version import GENERATOR
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.errors import InputError, UsageError
from recon3d.export import export
from recon3d.export._angles import from_angles
from recon3d.export._still import camera_vertices
from recon3d.export.name_map import NameMap
from recon3d.export.options import ExportOptions
from recon3d.head import HeadModel, load_head

COLUMNS = [
    "frame", "time_s", "tracked", "score", *ARKIT_NAMES, "head_yaw", "head_pitch", "head_roll",
    "head_x", "head_y", "head_z", "box_x0", "box_y0", "box_x1", "box_y1",
]  # fmt: skip
FILES = {"csv": "curves.csv", "json": "curves.json", "parquet": "curves.parquet"}
TRACKED = np.array([True, False, True, True, True])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    torch.set_num_threads(1)
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(scope="module")
def capture(toy: HeadModel) -> Capture:
    pose = np.zeros((5, 5, 3))
    angles = np.deg2rad([[10.0, 20.0, 30.0]])
    pose[:, 0] = (Rotation.from_matrix(FRONTAL) * from_angles(angles)).as_rotvec()
    times = np.array([0.0, 0.04, 0.09, 0.12, 0.16])  # a frame was late
    return toy_capture(toy, 5, tracked=TRACKED, pose=pose, timestamps=times)


def read_csv(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}


def read_json(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["columns"], {
        n: [r[i] for r in document["data"]] for i, n in enumerate(document["columns"])
    }


def read_parquet(path: Path) -> tuple[list[str], dict[str, list[Any]]]:
    table = pq.read_table(path)
    return table.column_names, table.to_pydict()


READERS = {"csv": read_csv, "json": read_json, "parquet": read_parquet}


def table(
    format: str, capture: Capture, head: HeadModel, folder: Path, **options: Any
) -> tuple[list[str], dict[str, list[Any]]]:
    (path,) = export(capture, head, folder, format, options=ExportOptions(**options))
    assert path == folder / FILES[format]
    assert [p.name for p in folder.iterdir()] == [FILES[format]]
    return READERS[format](path)


@pytest.mark.parametrize("format", sorted(FILES))
def test_one_row_a_frame(capture: Capture, toy: HeadModel, tmp_path: Path, format: str) -> None:
    names, columns = table(format, capture, toy, tmp_path)
    assert names == COLUMNS
    assert columns["frame"] == [0, 1, 2, 3, 4]
    assert columns["time_s"] == [0.0, 0.04, 0.09, 0.12, 0.16]
    assert [bool(t) for t in columns["tracked"]] == TRACKED.tolist()
    units = np.array([columns[name] for name in ARKIT_NAMES]).T
    np.testing.assert_allclose(units, capture.arkit, atol=6e-7)
    np.testing.assert_allclose([columns["head_yaw"], columns["head_pitch"], columns["head_roll"]],
                               np.tile([[10.0], [20.0], [30.0]], 5), atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(
        np.array([columns[f"box_{k}"] for k in ("x0", "y0", "x1", "y1")]).T, capture.box
    )


def test_rotation_and_place_put_the_head_before_the_camera(
    capture: Capture, toy: HeadModel, tmp_path: Path
) -> None:
    """A rigid part of the head, placed by the six columns as documented, is where the camera saw it."""
    _, columns = table("parquet", capture, toy, tmp_path)
    yaw, pitch, roll = (np.deg2rad(columns[f"head_{k}"][2]) for k in ("yaw", "pitch", "roll"))
    turn = (
        Rotation.from_rotvec([0, yaw, 0])
        * Rotation.from_rotvec([-pitch, 0, 0])
        * Rotation.from_rotvec([0, 0, roll])
    )
    place = np.array([columns[f"head_{k}"][2] for k in "xyz"])
    person = toy.unposed(torch.as_tensor(capture.shape)[None], torch.as_tensor(capture.expression[2:3]))[
        0
    ].numpy()
    rigid = (toy.weights[:, [0, 2]] == 0).all(1).numpy()
    wanted = camera_vertices(capture, toy, 2).numpy() @ FRONTAL
    assert np.abs(turn.apply(person) + place - wanted)[rigid].max() < 1e-5


def test_the_parquet_schema_says_what_it_is(capture: Capture, toy: HeadModel, tmp_path: Path) -> None:
    (path,) = export(capture, toy, tmp_path, "parquet")
    schema = pq.read_schema(path)
    facts = {k.decode(): v.decode() for k, v in schema.metadata.items() if k.startswith(b"recon3d.")}
    assert facts == {
        "recon3d.format": "recon3d-curves/1", "recon3d.generator": GENERATOR,
        "recon3d.source": "astronaut.png",
        "recon3d.head": toy.id, "recon3d.fps": "25",
    }  # fmt: skip
    types = {name: str(schema.field(name).type) for name in ("frame", "tracked", "jawOpen", "head_x")}
    assert types == {"frame": "int64", "tracked": "bool", "jawOpen": "float", "head_x": "double"}


def test_json_names_its_format(capture: Capture, toy: HeadModel, tmp_path: Path) -> None:
    (path,) = export(capture, toy, tmp_path, "json", options=ExportOptions(fps=50))
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["columns"], document["data"]
    assert document == {
        "format": "recon3d-curves/1", "generator": GENERATOR, "source": "astronaut.png",
        "head": toy.id, "fps": 50,
    }  # fmt: skip


@pytest.mark.parametrize("format", sorted(FILES))
def test_another_rate(capture: Capture, toy: HeadModel, tmp_path: Path, format: str) -> None:
    _, columns = table(format, capture, toy, tmp_path, fps=100.0)
    np.testing.assert_allclose(columns["time_s"], np.arange(17) / 100, atol=1e-6)
    np.testing.assert_allclose(
        np.array(columns["jawOpen"])[[0, 4, 9, 12, 16]], capture.arkit[:, 17], atol=1e-6
    )


@pytest.mark.parametrize("format", sorted(FILES))
def test_mapped_curves(capture: Capture, toy: HeadModel, tmp_path: Path, format: str) -> None:
    names, columns = table(format, capture, toy, tmp_path, names=NameMap.load("unity"))
    assert names[4:56] == list(NameMap.load("unity").names)
    np.testing.assert_allclose(columns["blendShape1.jawOpen"], 100 * capture.arkit[:, 17], atol=1e-4)


def test_a_map_cannot_take_another_columns_name(capture: Capture, toy: HeadModel, tmp_path: Path) -> None:
    names = NameMap.parse(b'format = "recon3d-names/1"\n[curves]\nscore = "jawOpen"', "my.toml")
    with pytest.raises(UsageError, match="calls a curve 'score', which is the name of another column"):
        export(capture, toy, tmp_path, "csv", options=ExportOptions(names=names))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", sorted(FILES))
def test_a_photograph_has_one_row(toy: HeadModel, tmp_path: Path, format: str) -> None:
    _, columns = table(format, toy_capture(toy), toy, tmp_path)
    assert columns["frame"] == [0]


@pytest.mark.parametrize("format", sorted(FILES))
def test_another_head_is_refused(capture: Capture, toy: HeadModel, tmp_path: Path, format: str) -> None:
    with pytest.raises(InputError, match="captured with the head model other/0"):
        export(toy_capture(toy, head="other/0"), toy, tmp_path, format)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    """In a process of its own, in which pyarrow cannot be imported."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from recon3d.errors import MissingExtraError\n"
        "from recon3d.export import export\n"
        "try:\n    export(None, None, sys.argv[1], 'parquet')\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "the format parquet needs pyarrow: pip install 'recon3d[tables]'\n"
