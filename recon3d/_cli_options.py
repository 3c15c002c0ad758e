"""What several commands share: their options' types, and how an error becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from recon3d._cli_report import explain
from recon3d.errors import Recon3DError, UsageError


class LandmarkChoice(str, Enum):
    """The face sources."""

    mediapipe = "mediapipe"
    fan = "fan"


class AngleChoice(str, Enum):
    """Units of the angles of a Live Link file; normalized are quarter turns."""

    radians = "radians"
    degrees = "degrees"
    normalized = "normalized"


Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; created when missing.")]


def head_file(path: Path | None) -> Path | None:
    """Refuse a head model that is not there; some have names, and are downloaded."""
    if path is None or path.is_file():
        return path
    from recon3d.assets import HEAD_MANIFEST

    if str(path) in HEAD_MANIFEST:
        return path
    problem = "is a directory" if path.is_dir() else "does not exist"
    raise typer.BadParameter(f"File '{path}' {problem}.")


Head = Annotated[
    Path | None,
    typer.Option(
        "--head",
        callback=head_file,
        metavar="<file>",
        help="Head model: FLAME's .pkl, an .npz, or gnm; the open head by default.",
    ),
]
FocalLength = Annotated[
    str | None, typer.Option("--focal", help="Focal length: pixels (1200), or mm on 35 mm film (50mm).")
]
SideBySide = Annotated[bool, typer.Option("--side-by-side", help="Show the clip beside the overlay.")]
SequenceRate = Annotated[
    float | None,
    typer.Option("--sequence-fps", min=0.01, help="Frames per second of numbered images; 25 by default."),
]
Smoothing = Annotated[float, typer.Option("--smooth", min=0, max=1, help="Smoothing in time; 0 is none.")]
LiveLinkAngles = Annotated[
    AngleChoice | None,
    typer.Option("--angles", help="Unit of the angles in livelink.csv; radians by default."),
]
Device = Annotated[str, typer.Option("--device", help="Where torch's networks run: cpu, cuda.")]
Rate = Annotated[
    float | None,
    typer.Option("--fps", min=0, help="Frames per second; 0 is the source's own."),
]
Map = Annotated[str | None, typer.Option("--map", help="Curves for another rig: unity, vrm, or a TOML file.")]
Raster = Annotated[
    str | None,
    typer.Option("--raster", help="Rasterizer: numba, torch, triton, pytorch3d; the fastest by default."),
]
Encoder = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Weights of another image encoder (recon3d train) than ours."
    ),
]
NoEncoder = Annotated[
    bool, typer.Option("--no-encoder", help="Guess expressions without the image encoder, for comparison.")
]
Face = Annotated[int | None, typer.Option(min=1, help="Which of several faces, the most prominent being 1.")]
Mark = Annotated[bool, typer.Option("--mark", help="Write 'synthetic' into a corner of the picture.")]
ClipSize = Annotated[
    int, typer.Option("--size", min=64, max=4096, help="Longer side of a clip, px, at most.")
]
Painter = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Weights of another neural renderer (recon3d train) than ours."
    ),
]
WeightsDir = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Folder of the face networks' files.")
]
AcceptedDevice = Annotated[
    str, typer.Option("--device", help="Accepted as by every command; this one runs on the CPU.")
]
TrainOut = Annotated[Path, typer.Option("--out", help="Folder of checkpoints, logs and weights.")]
Renders = Annotated[
    Path | None,
    typer.Option("--renders", help="Folder in which the renders are kept; the configuration's by default."),
]
Recording = Annotated[
    Path | None,
    typer.Option(
        "--recording", exists=True, dir_okay=False, help="Live Link Face CSV to draw expressions from."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON an input on standard output.")]


def which_encoder(weights: Path | None, none: bool) -> Path | bool:
    """What --encoder and --no-encoder ask for."""
    if weights is not None and none:
        raise UsageError("--encoder and --no-encoder exclude each other")
    return False if none else weights or True


def split(values: list[str] | None) -> list[str]:
    """``["obj,glb", "arkit"]`` to ``["obj", "glb", "arkit"]``."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()]


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes, for a shell, the last of several names with commas."""
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        *before, last = incomplete.split(",")
        found = [name for name in known if name.startswith(last) and name not in before]
        return [",".join((*before, name)) for name in found]

    return complete


@contextmanager
def exit_status() -> Iterator[list[int]]:
    """Turn what a command raises into one line and an exit status; the command appends its own."""
    status: list[int] = []
    try:
        yield status
    except KeyboardInterrupt:
        status.append(130)
    except BrokenPipeError:
        # Who read our output has left. Python flushes once more at exit: give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status.append(141)
    except Recon3DError as error:
        print(f"recon3d: {explain(error)}", file=sys.stderr)
        status.append(2 if isinstance(error, UsageError) else 1)
    raise typer.Exit(status[-1])
