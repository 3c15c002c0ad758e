"""FBX and .blend: how Blender is found and what happens without it; and with one, what it wrote.

Blender is too large for every run: the tests that need it want a Python with ``bpy``, here or named by
``RECON3D_BLENDER``, and are skipped without. ``tools/check_clip_in_blender.py`` does the measuring.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from moving_head import moving_capture
from toy_head import toy_capture, write_toy_head

from recon3d.errors import InputError, MissingExtraError, OutputError
from recon3d.export import ExportOptions, _blender, export
from recon3d.export._blender import VARIABLE, blender_command
from recon3d.head import HeadModel, load_head
from recon3d.resources import resource_path

TOOL = Path(__file__).resolve().parent.parent / "tools" / "check_clip_in_blender.py"
NAMED = os.environ.get(VARIABLE) or (sys.executable if find_spec("bpy") is not None else None)
needs_blender = pytest.mark.skipif(
    NAMED is None or "python" not in Path(NAMED).name,
    reason=f"no Python with bpy: install the extra 'blender', or name one in {VARIABLE}",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


def program(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def no_blender(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine without Blender; returns the one folder of its PATH."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(_blender, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.parametrize("format", ["fbx", "blend"])
def test_without_blender_the_extra_is_named(
    toy: HeadModel, tmp_path: Path, no_blender: Path, format: str
) -> None:
    wanted = rf"format {format} needs Blender: pip install 'recon3d\[blender\]', or name .* {VARIABLE}$"
    with pytest.raises(MissingExtraError, match=wanted):
        export(moving_capture(toy), toy, tmp_path, format)
    assert not list(tmp_path.iterdir())


def test_the_wrong_head_is_refused_first(toy: HeadModel, tmp_path: Path, no_blender: Path) -> None:
    with pytest.raises(InputError, match="captured with the head model open_head/00000000"):
        export(moving_capture(toy, head="open_head/00000000"), toy, tmp_path, "fbx")


def test_where_blender_is_looked_for(no_blender: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    background = ["--background", "--factory-startup", "--python-exit-code", "1", "--python"]
    blender = program(no_blender / "blender", "exit 0")
    assert blender_command("fbx") == [str(blender), *background]
    monkeypatch.setattr(_blender, "find_spec", lambda name: object())
    assert blender_command("fbx") == [sys.executable]
    other = program(no_blender / "python-with-bpy", "exit 0")
    monkeypatch.setenv(VARIABLE, "python-with-bpy")
    assert blender_command("fbx") == [str(other)]
    monkeypatch.setenv(VARIABLE, str(program(no_blender / "Blender-4.5", "exit 0")))
    assert blender_command("fbx") == [str(no_blender / "Blender-4.5"), *background]
    monkeypatch.setenv(VARIABLE, "/nowhere/blender")
    with pytest.raises(MissingExtraError, match=f"{VARIABLE} is '/nowhere/blender', which is no program"):
        blender_command("fbx")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo noise; echo 'RuntimeError: no such operator' >&2; exit 1", "RuntimeError: no such operator"),
        ("exit 3", "exit status 3"),
        ("echo done", "done"),  # claims success and has written nothing
    ],
)
def test_a_blender_that_fails(
    toy: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(program(tmp_path / "broken", script)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "animation.fbx").write_text("before")
    with pytest.raises(OutputError, match=rf"Blender could not write it \({reason}\)") as caught:
        export(moving_capture(toy), toy, tmp_path / "out", "fbx")
    assert "\n" not in str(caught.value)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["before"]


def test_what_blender_is_handed(toy: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Blender that copies: the script stands alone in its folder, with the GLB and the settings."""
    kept = tmp_path / "kept"
    copy = f"{shutil.which('cp')} -r . {kept}; echo x > animation.blend"
    monkeypatch.setenv(VARIABLE, str(program(tmp_path / "blender", copy)))
    capture = moving_capture(toy, fps=30000 / 1001)
    (path,) = export(capture, toy, tmp_path, "blend", options=ExportOptions(fps=0))
    assert path.read_text() == "x\n"
    assert sorted(p.name for p in kept.iterdir()) == ["animation.glb", "in_blender.py", "settings.json"]
    assert '"rate": 29.97002997002997' in (kept / "settings.json").read_text()


@needs_blender
@pytest.mark.parametrize("rate", ["even", "ntsc", "uneven"])
def test_blender_reads_back_what_the_capture_holds(tmp_path: Path, rate: str) -> None:
    """All 52 curves within 1e-3, vertices before the camera within 0.1 mm; GLB and USD along the way."""
    head = load_head()
    capture = moving_capture(head, 60, fps=30000 / 1001 if rate == "ntsc" else 30)
    if rate == "uneven":
        uneven = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 60))
        capture = moving_capture(head, 60, timestamps=uneven)
    capture.save(tmp_path / "capture.npz")
    texture = np.full((64, 64, 3), 128, np.uint8)
    files = [export(capture, head, tmp_path, f, texture=texture)[0] for f in ("glb", "usd", "fbx", "blend")]
    command = [NAMED, TOOL, *files, "--head", resource_path("flame_model/open_head.npz")]
    done = subprocess.run(
        [*map(str, command), "--capture", str(tmp_path / "capture.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("52 animated shape keys") == 4
    assert done.stdout.count("curves are the capture's") == 4
    assert done.stdout.count("vertices before the camera") == 4


@needs_blender
@pytest.mark.parametrize("format", ["fbx", "blend"])
def test_a_photograph_through_blender(toy: HeadModel, tmp_path: Path, format: str) -> None:
    (path,) = export(toy_capture(toy), toy, tmp_path, format)
    assert path.name == f"mesh.{format}"
    magic = {"fbx": b"Kaydara FBX Binary", "blend": b"\x28\xb5\x2f\xfd"}[format]  # compressed by zstd
    assert path.read_bytes().startswith(magic)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
