from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_head import toy_capture, write_toy_head

from recon3d.capture import FORMAT, Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError, OutputError
from recon3d.head import HeadModel, load_head

FIELDS = [
    "format", "head", "source", "fps", "timestamps", "image_size", "focal", "principal", "shape",
    "expression", "pose", "translation", "arkit", "arkit_names", "landmarks68", "box", "score", "tracked",
]  # fmt: skip


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


def rewrite(path: Path, **changes: Any) -> Path:
    """Write the file again with some fields changed, or left out where the change is None."""
    with np.load(path, allow_pickle=False) as file:
        fields = {**{k: file[k] for k in file.files}, **changes}
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Capture.load(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert len(text.splitlines()) == 1
    return text[len(str(path)) :]


@pytest.mark.parametrize("frames", [1, 7])
def test_round_trip(head: HeadModel, tmp_path: Path, frames: int) -> None:
    capture = toy_capture(head, frames, source="Grüße 写真.jpg")
    capture.save(tmp_path / "c.npz")
    again = Capture.load(tmp_path / "c.npz")
    assert len(again) == frames
    assert sorted(FIELDS) == sorted(f.name for f in dataclasses.fields(Capture))
    for name in FIELDS:
        old, new = getattr(capture, name), getattr(again, name)
        assert type(old) is type(new)
        np.testing.assert_array_equal(old, new, strict=isinstance(old, np.ndarray))
    assert again.source == "Grüße 写真.jpg"
    assert again.format == FORMAT == "recon3d-capture/1"
    assert again.arkit.dtype == np.float32
    assert again.timestamps.dtype == np.float64
    assert again.tracked.dtype == np.bool_


def test_file_is_plain_numpy_and_always_the_same_bytes(head: HeadModel, tmp_path: Path) -> None:
    capture = toy_capture(head, 3)
    for name in ("a.npz", "b.npz"):
        capture.save(tmp_path / name)
        os.utime(tmp_path / name, (0, 0))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    Capture.load(tmp_path / "a.npz").save(tmp_path / "c.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:  # no time of day in it
        assert {m.date_time for m in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert [m.filename for m in archive.infolist()] == [f"{name}.npy" for name in (*FIELDS, "generator")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "c.npz"]


def bad_values() -> list[tuple[str, Any, str]]:
    nan = np.full((1, 3), np.nan)
    return [
        ("translation", nan, "translation holds a value that is not finite"),
        ("focal", np.inf, "focal holds a value that is not finite"),
        ("focal", 1e400, "focal holds a value that is not finite"),
        (
            "translation",
            np.full((1, 3), 1e39),
            "translation holds a value that is not finite",
        ),  # beyond float32
        ("focal", 0.0, "focal is not positive"),
        ("arkit", np.full((1, 52), 1.01), "arkit leaves [0, 1]"),
        ("arkit", np.zeros((1, 51)), "arkit has shape (1, 51), (1, 52) is wanted"),
        ("expression", np.zeros((2, 52)), "expression has shape (2, 52), (1, 52) is wanted"),
        ("expression", np.zeros(52), "expression has 1 dimensions"),
        ("pose", np.zeros((1, 0, 3)), "pose has no joints"),
        ("timestamps", np.zeros(0), "timestamps is empty"),
        ("landmarks68", np.zeros((1, 68, 3)), "landmarks68 has shape"),
        ("box", np.zeros(4), "box has shape (4,), (1, 4) is wanted"),
        ("score", np.array([-0.5]), "score leaves [0, 1]"),
        ("tracked", np.array([1.0]), "tracked holds float64, bool is wanted"),
        ("image_size", np.array([0, 5]), "image_size is not positive"),
        ("image_size", np.array([1.5, 2.5]), "image_size holds float64"),
        ("fps", -1.0, "fps is negative"),
        ("shape", np.array(["a"]), "shape holds"),
        ("arkit_names", np.array(ARKIT_NAMES[::-1]), "arkit_names are not the 52"),
        ("head", np.array(5), "head holds int64"),
        ("source", np.array(["a", "b"]), "source has shape (2,)"),
    ]


@pytest.mark.parametrize(("name", "value", "message"), bad_values())
def test_values_outside_the_contract_are_named(
    head: HeadModel, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        toy_capture(head, **{name: value})
    toy_capture(head).save(tmp_path / "c.npz")
    assert f": damaged capture: {message}" in refusal(rewrite(tmp_path / "c.npz", **{name: value}))


def test_timestamps_must_not_fall(head: HeadModel) -> None:
    with pytest.raises(InputError, match="timestamps run backwards"):
        toy_capture(head, 3, timestamps=np.array([0.0, 0.2, 0.1]))
    assert len(toy_capture(head, 3, timestamps=np.array([0.0, 0.1, 0.1]))) == 3


def test_rounding_errors_of_units_are_clipped(head: HeadModel) -> None:
    units = np.full((1, 52), 1.0 + 1e-7)
    units[0, 0] = -1e-7
    capture = toy_capture(head, arkit=units)
    assert capture.arkit.min() == 0.0
    assert capture.arkit.max() == 1.0


@pytest.mark.parametrize("name", [n for n in FIELDS if n != "format"])
def test_missing_field_is_named(head: HeadModel, tmp_path: Path, name: str) -> None:
    toy_capture(head).save(tmp_path / "c.npz")
    assert refusal(rewrite(tmp_path / "c.npz", **{name: None})) == f": damaged capture: {name} missing"


def test_unknown_fields_are_left_alone(head: HeadModel, tmp_path: Path) -> None:
    toy_capture(head).save(tmp_path / "c.npz")
    assert len(Capture.load(rewrite(tmp_path / "c.npz", later=np.zeros(3)))) == 1


def test_other_files_are_refused(head: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    toy_capture(head).save(path)
    assert "recon3d-capture/2" in refusal(rewrite(path, format=np.array("recon3d-capture/2")))
    assert "not a capture file" in refusal(rewrite(path, format=None))
    path.write_text("hello, this is text")
    assert "not a capture file" in refusal(path)
    path.write_bytes(b"")
    assert "is empty" in refusal(path)
    assert "no such file" in refusal(tmp_path / "none.npz")
    assert "is a folder" in refusal(tmp_path)


def test_damage_anywhere_is_an_input_error(head: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    toy_capture(head).save(path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for cut in range(1, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        refusal(path)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 3):
            data[place] ^= int(random.integers(1, 256))
        path.write_bytes(data)
        try:
            Capture.load(path)  # bytes that mean nothing (dates, attributes) may be changed
        except InputError:
            refused += 1
    assert refused > 100


def test_pickles_are_never_opened(head: HeadModel, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("pose", "format"):
        toy_capture(head).save(tmp_path / "c.npz")
        path = rewrite(tmp_path / "c.npz", **{name: np.array([Trap()], dtype=object)})
        assert f"{name} holds Python objects" in refusal(path)
    assert not (tmp_path / "sprung").exists()


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-5,)", "(2, 'a')", "(9,)", "(True,)" * 50])
def test_claims_are_checked_before_memory_is_taken(head: HeadModel, tmp_path: Path, shape: str) -> None:
    path = tmp_path / "c.npz"
    toy_capture(head).save(path)
    rewrite(path, shape=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("shape.npy", npy_header(shape) + b"\0" * 32)
    assert "damaged capture: shape" in refusal(path)


def test_zip_bomb_is_refused_unread(head: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    toy_capture(head).save(path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("later.npy", "w") as member,
    ):
        for _ in range(1100):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 3 << 20
    assert "unpacks to more than 1024 MiB" in refusal(path)


def test_save_says_why_it_failed(head: HeadModel, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        toy_capture(head).save(tmp_path / "none" / "c.npz")
