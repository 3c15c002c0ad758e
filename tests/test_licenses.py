"""What recon3d says of its licences."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from test_cli import recon3d

from recon3d import licenses
from recon3d.assets import HEAD_MANIFEST, MANIFEST, TRAINING_MANIFEST
from recon3d.errors import UsageError
from recon3d.licenses import Part, conclusion, kind_of, list_parts, stated_licence


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    return list_parts()


def package(folder: Path, name: str, *lines: str, text: str | None = None) -> metadata.Distribution:
    """An installed package, as far as its metadata go."""
    root = folder / f"{name}-1.0.dist-info"
    (root / "licenses").mkdir(parents=True)
    about = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines]
    if text is not None:
        about.append("License-File: LICENSE.txt")
        (root / "licenses" / "LICENSE.txt").write_text(text)
    (root / "METADATA").write_text("\n".join(about) + "\n")
    return metadata.Distribution.at(root)


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("MIT", "permissive"),
        ("BSD-3-Clause AND CC0-1.0", "permissive"),
        ("3-Clause BSD License", "permissive"),
        ("CC BY 4.0", "permissive"),
        ("Simplified BSD", "permissive"),
        ("MPL-2.0 AND MIT", "copyleft"),
        ("LGPL version 3 or later", "copyleft"),
        ("GPL-2.0-only OR MIT", "permissive"),
        ("(GPL-2.0-only OR MIT) AND LGPL-2.1-or-later", "copyleft"),
        ("CC-BY-NC-4.0", "noncommercial"),
        ("LicenseRef-NVIDIA-Proprietary", "proprietary"),
        ("see the file", "unstated"),
        (None, "unstated"),
    ],
)
def test_what_licences_ask_for(licence: str | None, kind: str) -> None:
    assert kind_of(licence) == kind


def test_where_metadata_state_the_licence(tmp_path: Path) -> None:
    mit = "Classifier: License :: OSI Approved :: MIT License"
    cases = {
        "expression": (("License-Expression: ISC", mit), "ISC"),
        "field": (("License: Apache 2.0", mit), "Apache 2.0"),
        "classifier": (("License: The MIT License", "        Permission is granted", mit), "MIT License"),
        "text": (("License: My licence", "        Do as you like"), "My licence"),
        "unknown": (("License: UNKNOWN",), None),
        "silent": ((), None),
    }
    for name, (lines, licence) in cases.items():
        assert stated_licence(package(tmp_path, name, *lines)) == licence, name


def test_what_is_packed_into_a_wheel_is_told(tmp_path: Path) -> None:
    text = "Name: libgfortran\nLicense: GPL-3.0-or-later\n\nName: blas\nLicense: BSD-3-Clause\n"
    found = package(tmp_path, "packed", "License-Expression: MIT", text=text)
    assert list(licenses._named_in_texts(found)) == ["GPL-3.0-or-later", "BSD-3-Clause"]


def test_all_requirements_are_followed(parts: list[Part]) -> None:
    names = [part.name.lower() for part in parts if part.sort == "package"]
    assert names[0] == "recon3d"
    assert len(names) == len(set(names))
    assert {"torch", "numpy", "typer", "av"} <= set(names)
    assert {"requests", "idna"} <= set(names)  # pooch needs requests, and that idna
    assert "bpy" not in names and "pytest" not in names


def test_every_data_file_states_its_licence(parts: list[Part]) -> None:
    """Whoever adds a file to assets/ or flame_model/ has to say what it is under."""
    data = {part.name: part for part in parts if part.sort == "data"}
    assert {name for name, part in data.items() if part.licence is None} == set()
    assets = (MANIFEST | HEAD_MANIFEST | TRAINING_MANIFEST).values()
    assert {asset.filename for asset in assets} <= set(data)
    assert "MakeHuman" in data["flame_model/open_head.npz"].note
    assert licenses._shipped_file("assets/new.safetensors").licence is None


def test_ffmpeg_is_asked_itself(parts: list[Part]) -> None:
    (ffmpeg,) = [part for part in parts if part.sort == "library"]
    assert ffmpeg.licence is not None and "GPL" in ffmpeg.licence
    assert "FFmpeg inside av (" in conclusion(parts)


def test_the_sentence_follows_from_the_parts() -> None:
    def one(name: str, licence: str | None, *bundled: str) -> Part:
        return Part(name, "package", "1", licence, bundled=bundled)

    free = one("free", "MIT")
    assert conclusion([free]) == (
        "The default install may be used for any purpose, commercial ones included, as far as its parts say."
    )
    assert "may not be used commercially, because of scans (CC-BY-NC-4.0)" in conclusion(
        [free, one("scans", "CC-BY-NC-4.0")]
    )
    told = conclusion(
        [free, one("left", "MPL-2.0"), one("box", "MIT", "libx264"), one("mute", None)], ["usd"]
    )
    assert told.startswith("The default install with the extras usd may be used for any purpose")
    assert "copyleft of left (MPL-2.0), what is in box (libx264)" in told
    assert told.endswith("not stated, or in words not known here, is the licence of mute.")


def test_what_is_not_there_is_said_to_be() -> None:
    absent = licenses._package("recon3d-no-such-package")
    assert (absent.installed, absent.kind) == (False, "unstated")
    with pytest.raises(UsageError, match="no extra nothing; there are"):
        list_parts(["nothing"])


def test_the_command() -> None:
    done = recon3d("licenses")
    lines = done.out.splitlines()
    assert (done.status, done.err, lines[0]) == (0, "", "packages:")
    assert lines[1].startswith("  recon3d ") and lines[1].endswith(": Apache-2.0")
    assert lines[-1].startswith("The default install may be used for any purpose")
    assert any(line.startswith("  flame_model/open_head.npz: Apache-2.0; built from") for line in lines)


def test_json_and_extras() -> None:
    done = recon3d("licenses", "--extras", "stream,usd", "--json")
    (record,) = done.records
    names = {part["name"] for part in record["parts"]}
    assert (done.status, record["extras"]) == (0, ["stream", "usd"])
    assert {"python-osc", "usd-core"} <= names
    assert "with the extras stream, usd" in record["conclusion"]


def test_no_such_extra_is_wrong_usage() -> None:
    done = recon3d("licenses", "--extras", "nothing")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("recon3d: no extra nothing; there are blender, build-head, cluster, dev, docs")


def test_the_extras_for_clusters_pages_and_docs_are_counted_in() -> None:
    """What they bring is named, and what follows from it: nothing of theirs forbids commercial use."""
    names = {part.name.lower() for part in list_parts(["cluster", "docs", "serve"])}
    assert {"ray", "fastapi", "uvicorn", "python-multipart", "mkdocs-material"} <= names
    alone = {part.name.lower() for part in list_parts()}
    assert {"ray", "fastapi", "mkdocs-material"}.isdisjoint(alone)
    done = recon3d("licenses", "--extras", "cluster,docs,serve")
    assert "with the extras cluster, docs, serve may be used for any purpose" in done.out.splitlines()[-1]
