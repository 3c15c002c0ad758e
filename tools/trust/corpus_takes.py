"""Broken, lying and nasty captures, Live Link takes and files of scores; see corpus.py."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from corpus import (
    DAMAGES,
    Case,
    Maker,
    archive,
    damaged,
    irregular,
    long_name,
    odd_name,
    of_bytes,
    picture,
    renamed,
    spliced_of,
)

from recon3d.conventions import ARKIT_NAMES
from recon3d.export._livelink_format import COLUMNS

Fields = dict[str, npt.NDArray[Any]]


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


@cache
def _head() -> tuple[str, int, int, int]:
    """Return the open head's name, and how many identity and expression coefficients and joints it has."""
    from recon3d.head import load_head

    head = load_head()
    return head.id, head.num_shape, head.num_expression, len(head.joint_names)


def fields(frames: int = 6) -> Fields:
    """Return the fields of a whole capture of the open head."""
    head, shape, expression, joints = _head()
    time = np.arange(frames)
    units = (0.5 + 0.4 * np.sin(time[:, None] / 3 + np.arange(52))).astype(np.float32)
    pose = np.zeros((frames, joints, 3), np.float32)
    pose[:, 0, 0] = np.pi
    return {
        "format": np.array("recon3d-capture/1"),
        "head": np.array(head),
        "source": np.array("take.mp4"),
        "fps": np.array(25.0 if frames > 1 else 0.0),
        "timestamps": time / 25.0,
        "image_size": np.array([640, 480]),
        "focal": np.array(900.0),
        "principal": np.array([320.0, 240.0]),
        "shape": np.zeros(shape, np.float32),
        "expression": units[:, :expression],
        "pose": pose,
        "translation": np.tile(np.array([0.0, 0.0, 0.6], np.float32), (frames, 1)),
        "arkit": units,
        "arkit_names": np.array(ARKIT_NAMES),
        "landmarks68": np.full((frames, 68, 2), 200, np.float32),
        "box": np.tile(np.array([100, 100, 300, 300], np.float32), (frames, 1)),
        "score": np.ones(frames, np.float32),
        "tracked": np.ones(frames, bool),
    }


def npz(arrays: Mapping[str, npt.NDArray[Any]], packed: bool = True) -> bytes:
    """Return the bytes of an ``.npz``."""
    file = io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(file, allow_pickle=True, **arrays)
    return file.getvalue()


@cache
def capture(frames: int = 6) -> bytes:
    """Return a whole capture."""
    return npz(fields(frames))


def livelink(frames: int = 8) -> str:
    """Return a whole Live Link Face take."""
    rows = [",".join(("Timecode", "BlendShapeCount", *COLUMNS))]
    for frame in range(frames):
        values = [f"{0.5 + 0.4 * np.sin(frame / 3 + k):.6f}" for k in range(len(COLUMNS))]
        rows.append(",".join((f"12:00:00:{2 * frame:02d}.000", str(len(COLUMNS)), *values)))
    return "\n".join(rows) + "\n"


def scores(frames: int = 5) -> list[dict[str, float]]:
    """Return frames of scores by unit."""
    return [{unit: round(0.1 * frame, 3) for unit in ARKIT_NAMES} for frame in range(frames)]


CAPTURES: Mapping[str, Callable[[], bytes]] = {".npz": capture}
TEXTS: Mapping[str, Callable[[], bytes]] = {
    ".csv": lambda: livelink().encode(),
    ".json": lambda: json.dumps(scores()).encode(),
}


def _valid(rng: Random) -> Case:
    return of_bytes(".npz", capture(rng.choice((1, 6, 40))), "done")


def _valid_text(rng: Random) -> Case:
    ending = rng.choice(list(TEXTS))
    return of_bytes(ending, TEXTS[ending](), "done")


def _pickled(rng: Random) -> Case:
    arrays = fields()
    arrays[rng.choice(list(arrays))] = np.array([Trap()], dtype=object)
    return of_bytes(".npz", npz(arrays), "refused")


def _bare_pickle(rng: Random) -> Case:
    import pickle

    return of_bytes(rng.choice((".npz", ".pkl", ".npy", ".csv", ".json")), pickle.dumps(Trap()), "refused")


def _missing(rng: Random) -> Case:
    arrays = fields()
    for name in rng.sample(list(arrays), rng.choice((1, 2, 10))):
        del arrays[name]
    return of_bytes(".npz", npz(arrays), "refused")


def _shapes(rng: Random) -> Case:
    arrays = fields()
    for name in rng.sample(list(arrays), rng.choice((1, 1, 3))):
        value = arrays[name]
        change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = rng.choice((
            lambda v: v[None], lambda v: v.ravel()[:0], lambda v: v.ravel(), lambda v: v[..., None],
            lambda v: np.concatenate([np.atleast_1d(v)] * 2), lambda v: np.atleast_1d(v)[:1],
        ))  # fmt: skip
        arrays[name] = change(value)
    return of_bytes(".npz", npz(arrays))


def _types(rng: Random) -> Case:
    arrays = fields()
    for name in rng.sample(list(arrays), rng.choice((1, 1, 3))):
        kind = rng.choice(("S10", "U3", "c16", "f2", "f8", "i1", "u8", "?", "M8[s]", "V8", ">f4"))
        try:
            arrays[name] = arrays[name].astype(kind)
        except (TypeError, ValueError):
            arrays[name] = np.zeros(arrays[name].shape, kind)
    return of_bytes(".npz", npz(arrays))


_WILD = (np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-45, 1e20, -1.0, 0.0, 3.5)


def _values(rng: Random) -> Case:
    """Numbers that mean nothing, somewhere or everywhere in some fields."""
    arrays = fields(rng.choice((1, 6)))
    numbers = [name for name, value in arrays.items() if value.dtype.kind in "fi"]
    for name in rng.sample(numbers, rng.choice((1, 1, 2, 4))):
        value = np.array(arrays[name], np.float64)
        wild = rng.choice(_WILD)
        if rng.random() < 0.5 and value.ndim:
            value.flat[rng.randrange(value.size)] = wild
        else:
            value[...] = wild
        with np.errstate(all="ignore"):
            arrays[name] = value.astype(arrays[name].dtype)
    return of_bytes(".npz", npz(arrays))


def _times(rng: Random) -> Case:
    """Clocks that run backwards, stand still, or leap by years: whoever fills the gaps fills the memory."""
    frames = 6
    arrays = fields(frames)
    start, gap = rng.choice((0.0, -1e9, 1e300, 1e15)), rng.choice((0.0, 1e-9, -1.0, 1e5, 1e9, 1e300))
    arrays["timestamps"] = start + np.arange(frames) * gap
    if rng.random() < 0.4:
        arrays["timestamps"] = np.array([0, 0.04, 0.08, 0.12, 0.16, rng.choice((1e4, 1e7, 1e12))])
    arrays["fps"] = np.array(rng.choice((0.0, 25.0, 1e-300, 1e300, 5e-324)))
    return of_bytes(".npz", npz(arrays))


def _texts(rng: Random) -> Case:
    """Names that would be paths, lines or markup elsewhere."""
    arrays = fields()
    nasty = (
        "../../../escaped",
        "/etc/passwd",
        "a\nb",
        "a\x00b"[:1] + "\x1b[31m",
        "",
        "." * 300,
        "x" * 5000,
        "<script>alert(1)</script>",
        "𝕏 é顔",
        "C:\\x",
        "con",
        "\u202e",
        "'; DROP TABLE takes;--",
        "{0.__class__}",
        "%s%n",
        "\ud800"[:0] + "…",
    )
    for name in rng.sample(("source", "head", "format"), rng.choice((1, 1, 2))):
        arrays[name] = np.array(rng.choice(nasty))
    if rng.random() < 0.7:
        arrays["head"], arrays["format"] = fields()["head"], fields()["format"]
    return of_bytes(".npz", npz(arrays))


def _many_frames(rng: Random) -> Case:
    """A clip that is really long, in a small file: zeros pack well."""
    frames = rng.choice((20_000, 100_000))
    some = fields(2)
    arrays = {
        name: np.repeat(value[:1], frames, axis=0)
        if value.ndim and len(value) == 2 and name not in _FIXED
        else value
        for name, value in some.items()
    }
    arrays["timestamps"] = np.arange(frames) / 25.0
    return of_bytes(".npz", npz(arrays))


_FIXED = frozenset({"image_size", "principal"})


def _bomb(rng: Random) -> Case:
    """Members that unpack to gigabytes, or claim to."""
    file = io.BytesIO(capture())
    name = rng.choice(("expression", "arkit", "extra", "format"))
    claimed = rng.choice(((10**9, 52), (2**62, 4), (10**12,), (-5,), (10**5, 52)))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": claimed})
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as packed,
    ):
        warnings.simplefilter("ignore")  # of names that are there already, which is the point
        with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(rng.choice((1, 64, 1100))):
                member.write(bytes(1 << 20))
    return of_bytes(".npz", file.getvalue())


def _members(rng: Random) -> Case:
    """Members with others' names, twice, without a header, encrypted by their flags, or packed otherwise."""
    file = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(io.BytesIO(capture())) as source,
        zipfile.ZipFile(file, "w", how) as packed,
    ):
        warnings.simplefilter("ignore")  # of names that are there already, which is the point
        for name in source.namelist():
            data = source.read(name)
            if rng.random() < 0.15:
                data = rng.choice((b"", data[:5], b"\x93NUMPY\x09\x00" + data[8:], data + b"more"))
            packed.writestr(name, data)
        packed.writestr(rng.choice(("../../escaped.npy", "/escaped.npy", "format.npy", "x" * 70_00)), b"x")
    whole = bytearray(file.getvalue())
    if rng.random() < 0.3:
        whole[6] |= 1  # "encrypted"
        at = whole.index(b"PK\x01\x02")
        whole[at + 8] |= 1
    return of_bytes(".npz", bytes(whole))


def _rows(rng: Random) -> Case:
    """A Live Link take with one thing wrong, or several."""
    lines = livelink(rng.choice((1, 8))).splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        cells = lines[at].split(",")
        cell = rng.randrange(len(cells))
        cells[cell] = rng.choice(
            (
                "nan",
                "inf",
                "-inf",
                "1e999",
                "",
                "x",
                "1,2",
                '"',
                "-5",
                "99",
                "00:00:00:00",
                "99:99:99:99",
                "23:59:59:59.9",
                "00:00:00:99999",
                "12:00:00",
                "٣",
                "1_0",
                "0x10",
                "𝟏",
                "\x00",
                "1" * 5000,
            )
        )
        change = rng.choice(("cell", "short", "long", "none", "twice"))
        lines[at] = {
            "cell": ",".join(cells), "short": ",".join(cells[:cell]), "long": ",".join((*cells, "1", "2")),
            "none": "", "twice": f"{lines[at]}\n{lines[at]}",
        }[change]  # fmt: skip
    return of_bytes(".csv", "\n".join(lines).encode("utf-8"))


def _leaps(rng: Random) -> Case:
    """A Live Link take whose timecodes leap by hours, or fall."""
    lines = livelink(8).splitlines()
    for at in range(1, len(lines)):
        if rng.random() < 0.5:
            hour, minute = rng.randrange(24), rng.randrange(60)
            lines[at] = (
                f"{hour:02d}:{minute:02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}.0" + lines[at][15:]
            )
    return of_bytes(".csv", "\n".join(lines).encode())


def _text(rng: Random) -> Case:
    """Texts that are no takes: other encodings, no lines, only a header, one endless line."""
    whole = livelink()
    made = [
        whole.encode("utf-16"),
        b"\xef\xbb\xbf" + whole.encode(),
        whole.replace("\n", "\r").encode(),
        whole.replace(",", ";").encode(),
        whole.splitlines()[0].encode(),
        b"\n" * 1000,
        b"Timecode," * 200_000,
        b"Timecode,JawOpen\n" + b"1" * 3_000_000,
        b"a,b\n1,2\n",
        b"\x00" * 1000,
        whole.upper().encode(),
        b"jawOpen\n" + b"0.5\n" * 20_000,
        b"time,jawOpen\n0,0\n1e300,1\n",
        b"frame,jawOpen\n0,0\n999999999,1\n",
        b"Timecode,JawOpen\n" + b'"' * 200_000,
        b"time_s,jawOpen\n0,0\nnan,1\n-inf,0\n",
    ]
    return of_bytes(".csv", rng.choice(made))


def _json(rng: Random) -> Case:
    """JSON that is none, too deep, of other types, or of wild numbers."""
    made = [
        "[" * 100_000,
        '{"frames":' * 5000,
        "[" * 500 + "]" * 500,
        "null",
        "5",
        '"x"',
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"jawOpen": NaN}',
        '{"jawOpen": 1e400}',
        '{"jawOpen": ' + "9" * 6000 + "}",
        '{"jawOpen": "x"}',
        '{"frames": 5, "fps": "x"}',
        '[{"jawOpen": true}, {"jawOpen": []}]',
        '{"fps": 1e-300, "frames": [{"jawOpen": 1}]}',
        '{"fps": 0, "frames": [{"jawOpen": 1}, {"jawOpen": 0}]}',
        '{"fps": -5, "frames": [{"jawOpen": 1}]}',
        '{"frames": [{"jawOpen": 1, "time": 0}, {"jawOpen": 1, "time": 1e18}]}',
        '{"frames": [{"jawOpen": 1, "time_s": 0}, {"jawOpen": 1, "time_s": 1e9}]}',
        '{"timestamps": [5, 4], "frames": [{"jawOpen": 1}, {"jawOpen": 0}]}',
        '{"timestamps": "x", "frames": [{"jawOpen": 1}]}',
        '{"jawOpen": 1, "jawOpen": {"jawOpen": 2}}',
        '[{"categoryName": "jawOpen"}]',
        '[{"categoryName": 5, "score": 1}]',
        "\ufeff[]",
        '{"jawOpen": 1} trailing',
        '{"\\ud800": 1, "jawOpen": 1}',
        "[" + '{"jawOpen":1},' * 20_000 + "null]",
    ]
    return of_bytes(".json", rng.choice(made).encode("utf-8", "surrogatepass"))


def _noise(rng: Random) -> Case:
    start = rng.choice((b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\0v\0"))
    return of_bytes(
        rng.choice((".npz", ".csv", ".json", ".npy")),
        start + rng.randbytes(rng.choice((1, 40, 4000))),
        "refused",
    )


def _picture(rng: Random) -> Case:
    return of_bytes(rng.choice((".npz", ".csv", ".json")), picture(rng.choice((".jpg", ".png"))), "refused")


def _archive(rng: Random) -> Case:
    return of_bytes(".npz", archive(rng), "refused")


TAKES: Mapping[str, Maker] = {
    "valid": _valid,
    "valid text": _valid_text,
    **{name: damaged(name, CAPTURES) for name in DAMAGES},
    **{f"text, {name}": damaged(name, TEXTS) for name in DAMAGES},
    "two files in one": spliced_of({**CAPTURES, **TEXTS}),
    "another format's ending": renamed(CAPTURES, (".txt", ".mp4", ".jpg", ""), "done"),
    "captures called text": renamed(CAPTURES, (".csv", ".json"), "refused"),
    "pickle inside": _pickled,
    "pickle": _bare_pickle,
    "fields missing": _missing,
    "wrong shapes": _shapes,
    "wrong types": _types,
    "wild values": _values,
    "wild times": _times,
    "nasty texts": _texts,
    "very many frames": _many_frames,
    "capture bomb": _bomb,
    "nasty members": _members,
    "take with wrong rows": _rows,
    "take that leaps": _leaps,
    "text that is no take": _text,
    "JSON that is no take": _json,
    "noise": _noise,
    "picture": _picture,
    "zip bomb": _archive,
    **irregular((".npz",), capture),
    "odd name": odd_name(lambda rng: rng.choice((".npz", ".npz", "")), capture),
    "longest name": long_name(".npz", capture),
}
