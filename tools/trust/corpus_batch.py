"""Inputs for ``recon3d batch``: those of photo and video, and wrong manifests; see corpus.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from corpus import DAMAGES, PICTURES, Case, Maker, archive, irregular, picture
from corpus_clips import CLIPS

#: Kinds that begin so are sources of their own.
MANIFEST = "manifest: "
_PICTURE = "good.jpg"
_COLUMNS = ("path", "id", "kind", "smooth", "face", "focal", "fps", "map", "formats", "nosuch")


def _eased(maker: Maker) -> Maker:
    """Return a maker whose good inputs may be refused: by their endings, which tell what a file is."""

    def make(rng: Random) -> Case:
        case = maker(rng)
        return replace(case, fate="either") if case.fate == "done" else case

    return make


def _beside(data: bytes, ending: str) -> Case:
    """Return a manifest with a picture beside it."""

    def place(path: Path) -> None:
        path.write_bytes(data)
        (path.parent / _PICTURE).write_bytes(picture(".jpg"))

    return Case("", ending, place)


def _table(rng: Random) -> Case:
    """CSV with one thing wrong."""
    rows = ["path,id,smooth,face", f"{_PICTURE},one,0.5,all", f"{_PICTURE},two,,"]
    wild = (
        "",
        "nan",
        "-1",
        "1e999",
        "../../escaped",
        "/etc/passwd",
        "..",
        ".",
        "a/b/c",
        "x" * 300,
        '"',
        "\x00",
        "\n",
        "CON",
        "😀",
        "..\\x",
        "~",
        "$(touch x)",
        "file:///etc/passwd",
        "http://127.0.0.1:9/x",
        "nosuch://x",
        "/dev/zero",
        "ledger.sqlite",
        ".recon3d-x",
        "one",
        "capture.npz",
        "memory://x",
        "zip://x::file:///etc/passwd",
    )
    for _ in range(rng.choice((1, 2))):
        at = rng.randrange(len(rows))
        cells = rows[at].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(wild)
        rows[at] = ",".join(cells)
    return _beside("\n".join(rows).encode("utf-8", "surrogatepass"), ".csv")


def _lines(rng: Random) -> Case:
    """JSON lines of other types, too deep, or with odd values."""
    wild: tuple[object, ...] = (
        None,
        5,
        -1,
        True,
        [],
        {},
        "",
        "../../escaped",
        "/etc/passwd",
        "a" * 5000,
        1e308,
        "\x00",
        "\ud800",
        "..",
        "one/../..",
    )
    rows = []
    for number in range(4):
        row: dict[str, object] = {"path": _PICTURE, "id": f"item{number}"}
        row[rng.choice(_COLUMNS)] = rng.choice(wild)
        rows.append(json.dumps(row))
    rows[rng.randrange(4)] = rng.choice(
        ("[" * 50_000, "null", "[]", "{", '"x"', "\x00", '{"path": NaN}', "9" * 5000)
    )
    return _beside("\n".join(rows).encode(), ".jsonl")


def _damaged(rng: Random) -> Case:
    whole = f"path,id\n{_PICTURE},one\n{_PICTURE},two\n".encode() * rng.choice((1, 500))
    return _beside(rng.choice(list(DAMAGES.values()))(whole, rng), rng.choice((".csv", ".jsonl")))


def _other(rng: Random) -> Case:
    """Manifests that are something else."""
    made = (
        rng.randbytes(400), picture(".png"), archive(rng), b"\n" * 1000, b"path\n", b"\xff\xfep\0a\0t\0h\0",
        b"path," * 100_000, b"path\n" + b"x" * 3_000_000, b'path\n"' + b"x\n" * 100_000, b"path,path\na,b\n",
    )  # fmt: skip
    return _beside(rng.choice(made), rng.choice((".csv", ".jsonl")))


_ODD = irregular((".csv", ".jsonl"), lambda: b"path\n/dev/zero\n")

#: Kinds of manifests; each is a source by itself.
MANIFESTS: Mapping[str, Maker] = {
    "manifest: table": _table,
    "manifest: lines": _lines,
    "manifest: damaged": _damaged,
    "manifest: something else": _other,
    "manifest: irregular": lambda rng: replace(_ODD[rng.choice(list(_ODD))](rng), fate="either"),
}
#: Kinds of items, which a good manifest names.
ITEMS: Mapping[str, Maker] = {
    **{f"picture: {kind}": _eased(maker) for kind, maker in PICTURES.items()},
    **{f"clip: {kind}": _eased(maker) for kind, maker in CLIPS.items()},
}
