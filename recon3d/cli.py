"""The command line: one thin function a command; torch is not imported here, for ``--help`` to be quick.

Exit status: 0 all done, 1 some inputs failed (the others were done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from recon3d._cli_report import Reporter, explain
from recon3d._version import __version__
from recon3d.errors import Recon3DError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain usage errors, one line each; and no rich to import for them
    pretty_exceptions_enable=False,
    help="Photographs of faces in, rigged ARKit-ready 3D heads out. All on this machine, no telemetry.",
)


class LandmarkChoice(str, Enum):
    """The face sources."""

    mediapipe = "mediapipe"
    fan = "fan"


Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the results; created when missing.")]
Head = Annotated[
    Path | None,
    typer.Option("--head", exists=True, dir_okay=False, help="Head model file; the open head by default."),
]
Device = Annotated[str, typer.Option("--device", help="Where torch's networks run: cpu, cuda.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON an input on standard output.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"recon3d {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Photographs of faces in, rigged ARKit-ready 3D heads out. All on this machine, no telemetry."""


@app.command()
def photo(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Photographs, folders of them, or patterns.")
    ],
    out: Out,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="obj, glb, arkit, overlay; several with commas. All by default."),
    ] = None,
    head: Head = None,
    device: Device = "cpu",
    landmarks: Annotated[
        LandmarkChoice, typer.Option(help="Face landmarks: 478 (mediapipe) or 68 (fan, an extra).")
    ] = LandmarkChoice.mediapipe,
    weights_dir: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of the face networks' files."),
    ] = None,
    max_faces: Annotated[int, typer.Option(min=1, help="At most this many faces a photograph.")] = 8,
    focal: Annotated[
        str | None, typer.Option(help="Focal length: pixels (1200), or mm on 35 mm film (50mm).")
    ] = None,
    landmarks_dots: Annotated[
        bool, typer.Option("--landmarks-dots", help="Draw the head's 68 landmarks over the overlay.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Reconstruct the heads in photographs.

    Writes DIR/<stem>/{capture.npz, mesh.obj, mesh.glb, overlay.jpg, arkit.json}. The most prominent face of
    a photograph takes <stem>, the others <stem>.face2 and so on; a second photograph with the same name
    takes <stem>-2.
    """
    with _exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_photo import Focal, PhotoSettings, run_photo
        from recon3d._results import PHOTO_FORMATS

        settings = PhotoSettings(
            out=out,
            formats=_split(formats) or PHOTO_FORMATS,
            head=head,
            device=device,
            landmarks=landmarks.value,
            weights_dir=weights_dir,
            max_faces=max_faces,
            focal=None if focal is None else Focal.parse(focal),
            landmark_dots=landmarks_dots,
        )
        status.append(run_photo(images, settings, reporter))


@app.command()
def export(
    captures: Annotated[list[Path], typer.Argument(metavar="CAPTURE...", help="capture.npz files.")],
    out: Out,
    formats: Annotated[
        list[str], typer.Option("--format", "-f", help="obj, glb, arkit, overlay; several with commas.")
    ],
    picture: Annotated[
        Path | None, typer.Option("--photo", help="The photograph, for texture and overlay.")
    ] = None,
    head: Head = None,
    device: Annotated[
        str, typer.Option(help="Accepted as by every command; exporting runs no network.")
    ] = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write captures in the formats of other programs.

    The results go to DIR/<name>/, where <name> is the capture file's, or its folder's for a capture.npz.
    """
    with _exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_export import run_export

        status.append(run_export(captures, out, _split(formats), head=head, photo=picture, reporter=reporter))


@app.command()
def models(
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List the model files that recon3d downloads, and where they are kept."""
    with _exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_export import run_models

        status.append(run_models(fetching=fetch, reporter=reporter))


def main() -> None:
    """Run the command line; the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="recon3d")


def _terminate(number: int, frame: object) -> None:
    """Leave by an exception, so that half-written files are cleaned up."""
    raise SystemExit(128 + number)


def _split(values: list[str] | None) -> list[str]:
    """``["obj,glb", "arkit"]`` to ``["obj", "glb", "arkit"]``."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()]


@contextmanager
def _exit_status() -> Iterator[list[int]]:
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
