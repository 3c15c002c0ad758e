"""What recon3d says of its installation, of whole ones and of broken ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from test_cli import recon3d

from recon3d import assets, doctor
from recon3d._cli_doctor import run_doctor
from recon3d.assets import FACE_LANDMARKER
from recon3d.doctor import Fact, examine
from recon3d.errors import AssetError

MODEL = f"model {FACE_LANDMARKER.filename}"
CHECKS = (
    "_machine",
    "_dependencies",
    "_extras",
    "_torch",
    "_rasterizers",
    "_models",
    "_folders",
    "_self_test",
)


@pytest.fixture(scope="module")
def healthy() -> dict[str, Any]:
    assets.fetch(FACE_LANDMARKER.name)
    done = recon3d("doctor", "--json")
    (record,) = done.records
    assert (done.status, done.err, record["ok"]) == (0, "", True), record
    return record


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; and whoever downloads fails the test."""

    def refuse(*given: Any, **options: Any) -> bytes:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("RECON3D_CACHE", str(tmp_path))
    monkeypatch.delenv("RECON3D_OFFLINE", raising=False)
    monkeypatch.setattr(assets, "_download", refuse)
    return tmp_path


def only(monkeypatch: pytest.MonkeyPatch, *kept: str) -> None:
    """Leave out all checks but these."""
    for name in set(CHECKS) - set(kept):
        monkeypatch.setattr(doctor, name, lambda *given: ())


def by_name(facts: Iterator[Fact]) -> dict[str, Fact]:
    return {fact.name: fact for fact in facts}


# ---- a whole installation ----


def test_a_whole_installation_is_told_of(healthy: dict[str, Any]) -> None:
    facts = {fact["name"]: fact for fact in healthy["facts"]}
    assert len(facts) == len(healthy["facts"])
    assert facts["numpy"]["text"] == np.__version__
    assert facts["recon3d"]["figures"]["version"] == healthy["version"]
    assert facts["torch devices"]["figures"]["devices"][0] == "cpu"
    assert facts["rasterizer torch"]["state"] == "ok"
    assert sum(fact["figures"].get("default", False) for fact in healthy["facts"]) == 1
    assert "usd-core" in facts["extra usd"]["figures"]["packages"]
    for extra, package in (("cluster", "ray"), ("serve", "fastapi"), ("docs", "mkdocs-material")):
        assert package in facts[f"extra {extra}"]["figures"]["packages"]
    assert facts[MODEL]["figures"]["verified"] is True
    assert facts["cache folder"]["figures"]["free"] > 0
    for fact in healthy["facts"]:
        assert "\n" not in fact["text"] + fact["advice"]
        assert fact["advice"] or fact["state"] != "warning", fact


def test_the_self_test_tells_error_and_times(healthy: dict[str, Any]) -> None:
    (fact,) = [fact for fact in healthy["facts"] if fact["name"] == "self-test"]
    assert fact["state"] == "ok"
    assert 0 < fact["figures"]["error_percent"] < 2
    steps = {"load the head", "draw it", "load the networks", "find its face", "find and fit it"}
    assert set(fact["figures"]["ms"]) == steps
    assert all(ms > 0 for ms in fact["figures"]["ms"].values())


# ---- broken ones ----


def test_offline_without_the_model_and_with_a_bad_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    done = recon3d("doctor", env={"RECON3D_CACHE": str(cache), "RECON3D_OFFLINE": "1"})
    lines = done.out.splitlines()
    assert (done.status, done.err) == (1, "")
    assert f"ok    model cache: {cache}; RECON3D_OFFLINE forbids downloads" in lines
    (model,) = [line for line in lines if line.startswith(f"FAIL  {MODEL}: ")]
    assert model.endswith(f"without RECON3D_OFFLINE, or copy the file to {cache / FACE_LANDMARKER.filename}")
    assert (
        f"FAIL  cache folder: {cache}: cannot be written (Not a directory)"
        " -> set RECON3D_CACHE to a folder that can be written" in lines
    )
    (test,) = [line for line in lines if "self-test: " in line]
    assert test.startswith("-     self-test: load the head ")
    assert "not looked for its face" in test
    assert lines[-1].startswith("recon3d does not work here as it should: ")
    assert lines[-1].endswith(f"{MODEL}, cache folder")


def test_a_damaged_model_file(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FACE_LANDMARKER.path.write_bytes(bytes(FACE_LANDMARKER.size))
    fact = by_name(doctor._models(False))[MODEL]
    assert fact.state == "warning" and fact.text.startswith("damaged: wrong sha256 ")
    assert fact.advice.startswith("recon3d models --fetch")
    FACE_LANDMARKER.path.write_bytes(b"cut")
    monkeypatch.setenv("RECON3D_OFFLINE", "1")
    fact = by_name(doctor._models(False))[MODEL]
    assert (fact.state, fact.text) == ("failed", f"damaged: 3 bytes instead of {FACE_LANDMARKER.size}")


def test_only_fetch_uses_the_network(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "_models", "_folders")
    facts = by_name(examine())
    assert facts[MODEL].state == "warning"  # the first photograph would download it
    assert facts["cache folder"].state == "ok"

    def fail(name: str, *, quiet: bool) -> Path:
        raise AssetError(f"{name} could not be had")

    monkeypatch.setattr(doctor, "fetch", fail)
    facts = by_name(examine(fetching=True))
    assert facts[f"fetching {FACE_LANDMARKER.filename}"].state == "failed"
    assert MODEL in facts


def test_dependencies_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Requirement("numpy>=99"), Requirement("recon3d-no-such-package>=1"), Requirement("torch>=2")]
    monkeypatch.setattr(doctor, "requirements_of", lambda: wanted)
    old, missing, good = doctor._dependencies()
    assert (old.state, old.text) == ("failed", f"{np.__version__}, but >=99 is needed")
    assert (missing.state, missing.text) == ("failed", "not installed")
    assert missing.advice == "pip install -c constraints.txt 'recon3d-no-such-package>=1'"
    assert (good.state, good.text) == ("ok", metadata.version("torch"))


def test_an_extra_that_is_missing_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "extras_of", lambda: ["moon"])
    monkeypatch.setattr(doctor, "extra_requirements", lambda extra: [Requirement("recon3d-no-such>=1")])
    (fact,) = doctor._extras()
    assert (fact.state, fact.text) == ("absent", "not complete: lacks recon3d-no-such>=1")
    assert "'.[moon]'" in fact.advice


def test_whatever_happens_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def burst(*given: object) -> Iterator[Fact]:
        raise ValueError("of no\nimportance")

    only(monkeypatch)
    monkeypatch.setattr(doctor, "_self_test", burst)
    assert run_doctor(fetching=False, as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"FAIL  self-test: ValueError: of no importance -> {doctor.REINSTALL}",
        "recon3d does not work here as it should: self-test",
    ]
    assert run_doctor(fetching=False, as_json=True) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["ok"], record["facts"][0]["state"]) == (False, "failed")


def test_a_rasterizer_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_draws", lambda name: name != "torch")
    facts = by_name(doctor._rasterizers())
    assert facts["rasterizer torch"].state == "failed"
    assert facts["rasterizer numba"].state == "ok"


def test_a_picture_without_a_face_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    assets.fetch(FACE_LANDMARKER.name)
    blank = np.full((64, 64, 3), 200, np.uint8)
    monkeypatch.setattr(doctor, "_draw", lambda head: (blank, np.zeros((68, 2), np.float32)))
    (fact,) = doctor._self_test()
    assert fact.state == "failed" and fact.text.endswith("no face was found")


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(doctor.tempfile, "gettempdir", none)
    monkeypatch.setattr(doctor, "_folder", lambda name, *given: Fact(name, "ok", ""))
    fact = by_name(doctor._folders())["temporary folder"]
    assert fact.state == "failed" and fact.advice.startswith("set TMPDIR")
