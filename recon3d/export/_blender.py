"""Blender as a converter: runs it as a process of its own over a GLB.

As a process, because ``bpy`` cannot be unloaded once imported, starts with other versions of what recon3d
imports, and may belong to another Python altogether.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.errors import MissingExtraError, OutputError
from recon3d.export import glb
from recon3d.export._motion import nominal_rate
from recon3d.export._still import check_head
from recon3d.export.options import ExportOptions
from recon3d.export.texture import Pixels
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Names a Blender, or a Python that has ``bpy``, for those who do not install the extra.
VARIABLE = "RECON3D_BLENDER"
_SCRIPT = Path(__file__).with_name("_in_blender.py")


def write_with_blender(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: Pixels | None,
    options: ExportOptions,
    suffix: str,
) -> list[Path]:
    """Write ``animation`` or, of a photograph, ``mesh`` with the ending ``.blend`` or ``.fbx``.

    Raises:
        InputError: The capture belongs to another head model.
        MissingExtraError: There is no Blender.
        OutputError: Blender failed, or the file cannot be written.
    """
    check_head(capture, head)
    command = blender_command(suffix.removeprefix("."))
    with tempfile.TemporaryDirectory(prefix="recon3d-") as name:
        place = Path(name)
        (source,) = glb.write(capture, head, place, texture, options)
        made, target = source.with_suffix(suffix), folder / f"{source.stem}{suffix}"
        settings = {
            "glb": str(source),
            "target": str(made),
            "rate": options.fps or nominal_rate(capture),
            "size": list(capture.size),
            "principal": capture.principal.tolist(),
        }
        _run(command, settings, place, target)
        with atomic_path(target) as temporary:
            shutil.copyfile(made, temporary)
    return [target]


def blender_command(format: str) -> list[str]:
    """Return how to run a script in Blender: what ``RECON3D_BLENDER`` names, ``bpy``, or a Blender on PATH.

    Raises:
        MissingExtraError: There is none, or the variable names something that cannot be run.
    """
    named = os.environ.get(VARIABLE)
    if named:
        program = shutil.which(named)
        if program is None:
            raise MissingExtraError(f"{VARIABLE} is {named!r}, which is no program; name a Blender there")
        return _script_command(program)
    if find_spec("bpy") is not None:
        return [sys.executable]
    program = shutil.which("blender")
    if program is None:
        raise MissingExtraError(
            f"the format {format} needs Blender: pip install 'recon3d[blender]', or name a Blender, "
            f"or a Python that has bpy, in {VARIABLE}"
        )
    return _script_command(program)


def _script_command(program: str) -> list[str]:
    if Path(program).name.lower().startswith("blender"):
        return [program, "--background", "--factory-startup", "--python-exit-code", "1", "--python"]
    return [program]


def _run(command: list[str], settings: dict[str, object], place: Path, target: Path) -> None:
    """Run the script from a copy, in ``place``: beside the original lie modules that it must not find."""
    script, told = place / "in_blender.py", place / "settings.json"
    shutil.copyfile(_SCRIPT, script)
    told.write_text(json.dumps(settings), encoding="utf-8")
    separator = ["--"] if "--background" in command else []
    done = subprocess.run(
        [*command, str(script), *separator, str(told)],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not Path(str(settings["target"])).is_file():
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise OutputError(f"{target}: Blender could not write it ({reason}); is it version 4.2 or later?")
