"""The command line: one thin function a command; torch is not imported here, for ``--help`` to be quick.

Exit status: 0 all done, 1 some inputs failed (the others were done), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import gc
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from recon3d._cli_group import DefaultRun
from recon3d._cli_options import (
    AcceptedDevice,
    AngleChoice,
    ClipSize,
    Device,
    Encoder,
    Face,
    FocalLength,
    Head,
    Json,
    LandmarkChoice,
    LiveLinkAngles,
    Map,
    Mark,
    NoEncoder,
    Out,
    Painter,
    Quiet,
    Raster,
    Rate,
    Recording,
    Renders,
    SequenceRate,
    SideBySide,
    Smoothing,
    TrainOut,
    WeightsDir,
    exit_status,
    head_file,
    one_of,
    split,
    which_encoder,
)
from recon3d._cli_report import Reporter
from recon3d._version import __version__
from recon3d.export import FORMATS

_any_format = one_of((*FORMATS, "overlay"))

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # plain usage errors, one line each; and no rich to import for them
    pretty_exceptions_enable=False,
    help="Photographs of faces in, rigged ARKit-ready 3D heads out. All on this machine, no telemetry.",
)

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure this machine.")
app.add_typer(bench, name="bench")
train = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train the networks anew.")
app.add_typer(train, name="train")
batch = typer.Typer(
    cls=DefaultRun,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Archives of clips and photographs, on this machine or a cluster: recon3d batch SOURCE --out DEST.",
)
app.add_typer(batch, name="batch")
heads = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Head models.")
app.add_typer(heads, name="head")
models = typer.Typer(rich_markup_mode=None, help="The networks' files.")
app.add_typer(models, name="models")


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
        typer.Option(
            "--format",
            "-f",
            help="obj, glb, arkit, overlay (all by default), flame-params; several with commas.",
            autocompletion=one_of(("obj", "glb", "arkit", "overlay", "flame-params")),
        ),
    ] = None,
    head: Head = None,
    device: Device = "cpu",
    landmarks: Annotated[
        LandmarkChoice, typer.Option(help="Face landmarks: 478 (mediapipe) or 68 (fan, an extra).")
    ] = LandmarkChoice.mediapipe,
    weights_dir: WeightsDir = None,
    max_faces: Annotated[int, typer.Option(min=1, help="At most this many faces a photograph.")] = 8,
    focal: FocalLength = None,
    landmarks_dots: Annotated[
        bool, typer.Option("--landmarks-dots", help="Draw the head's 68 landmarks over the overlay.")
    ] = False,
    refine: Annotated[
        bool, typer.Option("--refine", help="Fit the picture's colours after the landmarks; takes a second.")
    ] = False,
    delight: Annotated[
        bool, typer.Option("--delight", help="Take the photograph's light out of the texture.")
    ] = False,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    raster: Raster = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Reconstruct the heads in photographs.

    Writes DIR/<stem>/{capture.npz, mesh.obj, mesh.glb, overlay.jpg, arkit.json}. The most prominent face of
    a photograph takes <stem>, the others <stem>.face2 and so on; a second photograph with the same name
    takes <stem>-2.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_photo import PhotoSettings, run_photo
        from recon3d._focal_option import Focal
        from recon3d._results import PHOTO_FORMATS

        settings = PhotoSettings(
            out=out,
            formats=split(formats) or PHOTO_FORMATS,
            head=head,
            device=device,
            landmarks=landmarks.value,
            weights_dir=weights_dir,
            max_faces=max_faces,
            focal=None if focal is None else Focal.parse(focal),
            landmark_dots=landmarks_dots,
            delight=delight,
            raster=raster,
            refine=refine,
            encoder=which_encoder(encoder, no_encoder),
        )
        status.append(run_photo(images, settings, reporter))


@app.command()
def video(
    clips: Annotated[
        list[str],
        typer.Argument(metavar="CLIP...", help="Clips, folders of them or of numbered images, or patterns."),
    ],
    out: Out,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="livelink, glb, overlay, report by default; or any of export's.",
            autocompletion=_any_format,
        ),
    ] = None,
    face: Annotated[str, typer.Option(help="Who: all, largest, or at most so many.")] = "all",
    smooth: Smoothing = 0.5,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="START:END", help="Seconds in which the face is at rest: its neutral."),
    ] = None,
    focal: FocalLength = None,
    side_by_side: SideBySide = False,
    fps: Rate = None,
    sequence_fps: SequenceRate = None,
    angles: LiveLinkAngles = None,
    names: Map = None,
    force: Annotated[bool, typer.Option("--force", help="Do clips again that are done.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Clips worked on at the same time.")] = 1,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    raster: Raster = None,
    head: Head = None,
    device: Annotated[
        str, typer.Option(help="Accepted as by every command; the default networks run on the CPU.")
    ] = "cpu",
    weights_dir: WeightsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn clips into blendshape curves and animated heads.

    Writes DIR/<stem>/{capture.npz, livelink.csv, animation.glb, overlay.mp4, report.html}. The most prominent
    person of a clip takes <stem>, the others <stem>.face2 and so on. Interrupted, the same command goes on
    where it was; clips that are done are skipped.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_export import export_options
        from recon3d._cli_video import parse_faces, parse_stretch, run_video
        from recon3d._video_job import VIDEO_FORMATS, VideoSettings
        from recon3d.observe import ClipSettings

        who = parse_faces(face)
        rest = None if calibrate is None else parse_stretch(calibrate)
        options = export_options(
            fps=fps, angles=angles and angles.value, slate=None, take=1, subject="recon3d", names=names
        )
        settings = VideoSettings(
            out=out,
            formats=split(formats) or VIDEO_FORMATS,
            clip=ClipSettings(faces=who, smooth=smooth, calibrate=rest, focal=focal),
            head=head,
            weights_dir=weights_dir,
            side_by_side=side_by_side,
            sequence_fps=sequence_fps,
            force=force,
            options=options,
            raster=raster,
            encoder=which_encoder(encoder, no_encoder),
        )
        status.append(run_video(clips, settings, workers, reporter))


class KindChoice(str, Enum):
    """What a search takes."""

    auto = "auto"
    clip = "clip"
    photo = "photo"


Ledger = Annotated[
    Path | None,
    typer.Option(dir_okay=False, help="The ledger's file; DEST/ledger.sqlite, or for a URL elsewhere."),
]


@batch.command("run")
def batch_run(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder (with all in it), a pattern, a file, a manifest (.csv, .jsonl), or a URL (s3://...).",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="DEST", help="Folder or URL of the results.")],
    cluster: Annotated[
        str,
        typer.Option(help="auto, local, or a Ray cluster: ray://host:10001; host:6379 on its nodes."),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Items worked on at the same time; as many as cores by default.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Further tries of an item whose worker dies; then it is set aside.")
    ] = 2,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that one item, or part of a long clip, may take.")
    ] = None,
    kind: Annotated[
        KindChoice, typer.Option(help="Search for clips, photographs, or both.")
    ] = KindChoice.auto,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Of clips: livelink, glb, overlay, report by default."),
    ] = None,
    photo_formats: Annotated[
        list[str] | None,
        typer.Option("--photo-format", help="Of photographs: obj, glb, arkit, overlay by default."),
    ] = None,
    face: Annotated[str, typer.Option(help="Who of a clip: all, largest, or at most so many.")] = "all",
    smooth: Smoothing = 0.5,
    focal: FocalLength = None,
    side_by_side: SideBySide = False,
    fps: Rate = None,
    sequence_fps: SequenceRate = None,
    angles: LiveLinkAngles = None,
    names: Map = None,
    max_faces: Annotated[int, typer.Option(min=1, help="At most this many faces a photograph.")] = 8,
    landmarks: Annotated[
        LandmarkChoice, typer.Option(help="Of photographs: 478 (mediapipe) or 68 (fan, an extra).")
    ] = LandmarkChoice.mediapipe,
    refine: Annotated[bool, typer.Option("--refine", help="Fit the photographs' colours, too.")] = False,
    delight: Annotated[
        bool, typer.Option("--delight", help="Take the photographs' light out of the textures.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Do items again that are done, or failed.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do items again that failed, or were set aside.")
    ] = False,
    max_size: Annotated[float, typer.Option(min=0, help="Largest remote file, GB.")] = 20.0,
    ledger: Ledger = None,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    raster: Raster = None,
    head: Head = None,
    device: Device = "cpu",
    weights_dir: WeightsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Do many clips and photographs, on all cores or a Ray cluster; whatever happens to some of them.

    SOURCE/a/take1.mp4 becomes DEST/a/take1/{capture.npz, livelink.csv, ...}. A ledger notes what has been
    done, how: the same command does only what is missing, changed, or made otherwise. Interrupted or killed,
    it goes on where it was. A SOURCE called like a command is given as ./status.
    """
    from recon3d._cli_batch import BatchReporter, parse_bytes, run_batch

    with exit_status() as status, BatchReporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d.batch.command import BatchSettings
        from recon3d.batch.options import ItemOptions, Models
        from recon3d.batch.run import Limits

        options = ItemOptions(
            format=tuple(split(formats)),
            photo_format=tuple(split(photo_formats)),
            face=face,
            smooth=smooth,
            focal=focal,
            side_by_side=side_by_side,
            fps=fps,
            sequence_fps=sequence_fps,
            angles=angles and angles.value,
            map=names,
            max_faces=max_faces,
            landmarks=landmarks.value,
            refine=refine,
            delight=delight,
        )
        settings = BatchSettings(
            out=out,
            options=options,
            models=Models(head, weights_dir, which_encoder(encoder, no_encoder), raster, device),
            wanted=kind.value,
            cluster=cluster,
            workers=workers,
            limits=Limits(retries, timeout),
            ledger=ledger,
            force=force,
            retry_failed=retry_failed,
            max_bytes=parse_bytes(max_size),
        )
        status.append(run_batch(source, settings, reporter))


@batch.command("status")
def batch_status(
    out: Annotated[str, typer.Argument(metavar="DEST", help="Folder or URL of the results.")],
    ledger: Ledger = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Tell what has become of a batch, and what the same command would do now; also while it runs."""
    with exit_status() as status:
        from recon3d._cli_batch import run_status

        status.append(run_status(out, ledger, as_json))


@app.command()
def export(
    captures: Annotated[
        list[Path],
        typer.Argument(metavar="CAPTURE...", help="capture.npz files, and Live Link Face takes (.csv)."),
    ],
    out: Out,
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            "-f",
            help=f"{', '.join((*FORMATS, 'overlay'))}; several with commas.",
            autocompletion=_any_format,
        ),
    ],
    picture: Annotated[
        Path | None, typer.Option("--photo", help="The photograph, for texture and overlay.")
    ] = None,
    fps: Rate = None,
    angles: Annotated[
        AngleChoice | None, typer.Option(help="Unit of the angles of a Live Link file; radians by default.")
    ] = None,
    slate: Annotated[
        str | None, typer.Option(help="Slate of a Live Link take; the source's name by default.")
    ] = None,
    take: Annotated[int, typer.Option(min=0, help="Number of a Live Link take.")] = 1,
    subject: Annotated[str, typer.Option(help="Subject of a Live Link take.")] = "recon3d",
    names: Map = None,
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
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_export import export_options, run_export

        options = export_options(
            fps=fps, angles=angles and angles.value, slate=slate, take=take, subject=subject, names=names
        )
        wanted = split(formats)
        status.append(
            run_export(captures, out, wanted, head=head, photo=picture, options=options, reporter=reporter)
        )


@app.command()
def convert(
    captures: Annotated[
        list[Path],
        typer.Argument(
            metavar="CAPTURE...",
            help="Captures, Live Link Face .csv, scores (.csv, .json), or FLAME parameters (.npz).",
        ),
    ],
    out: Out,
    head: Head = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            exists=True,
            dir_okay=False,
            help="Head model file that they are of, if not the open head.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="Write these, too: flame-params, livelink, glb...",
            autocompletion=one_of(FORMATS),
        ),
    ] = None,
    fps: Rate = None,
    device: AcceptedDevice = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say captures in the terms of another head model: FLAME's, a rig's, the open head's.

    The results go to DIR/<name>/capture.npz, and the other formats beside it.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_convert import run_convert
        from recon3d._cli_export import export_options

        options = export_options(fps=fps, angles=None, slate=None, take=1, subject="recon3d", names=None)
        status.append(run_convert(captures, out, head, source, split(formats), options, reporter))


@heads.command("build")
def head_build(
    neutral: Annotated[
        Path, typer.Option("--neutral", exists=True, dir_okay=False, help="OBJ file of the face at rest.")
    ],
    shapes: Annotated[
        Path,
        typer.Option(
            "--shapes", exists=True, file_okay=False, help="Folder of OBJ files named after the ARKit units."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The head model, .npz.")] = Path("head.npz"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a head model of an artist's meshes, for --head everywhere."""
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_convert import run_head_build

        status.append(run_head_build(neutral, shapes, out, reporter))


@heads.command("info")
def head_info(
    head: Annotated[
        Path | None,
        typer.Argument(
            callback=head_file, metavar="[HEAD]", help="The file, or gnm; the open head by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a head model is: which FLAME, how large, and whether it knows the ARKit units."""
    with exit_status() as status:
        from recon3d._cli_convert import run_head_info

        status.append(run_head_info(head, as_json))


@app.command()
def edit(
    image: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photograph.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The picture (.jpg, .png, .webp, .tif), or a short clip (.mp4)."),
    ],
    units: Annotated[
        str, typer.Option("--set", metavar="NAME=VALUE,...", help="ARKit units: mouthSmile=.8,jawOpen=.3.")
    ] = "",
    emotion: Annotated[
        str, typer.Option(metavar="NAME[=VALUE]", help="A posed emotion: happy, angry=.5.")
    ] = "",
    action_units: Annotated[
        str, typer.Option("--au", metavar="NUMBER=VALUE,...", help="FACS action units: 12=.7,6=.5; 46L=1.")
    ] = "",
    face: Face = None,
    mark: Mark = False,
    size: ClipSize = 1280,
    painter: Painter = None,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    head: Head = None,
    weights_dir: WeightsDir = None,
    raster: Raster = None,
    device: AcceptedDevice = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Give a face of a photograph another expression.

    The rest of the picture stays as it is. The file says in its metadata that it is synthetic.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_repaint import RepaintSettings, Wanted, run_edit
        from recon3d.render.rasterize import use_backend

        use_backend(raster)
        which = which_encoder(encoder, no_encoder)
        settings = RepaintSettings(out, face, mark, size, painter, head, which, weights_dir)
        status.append(run_edit(image, Wanted(units, emotion, action_units), settings, reporter))


@app.command()
def reenact(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A photograph: who is to be seen.")],
    driver: Annotated[
        Path,
        typer.Argument(
            metavar="DRIVER", help="What the face is to do: a clip, a capture.npz, or a Live Link Face CSV."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The clip, .mp4.")],
    pose: Annotated[bool, typer.Option("--pose", help="Turn the head, too, as the driver turns it.")] = False,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative", help="Add the driver's changes to the expression that the photograph shows."
        ),
    ] = False,
    face: Face = None,
    mark: Mark = False,
    size: ClipSize = 1280,
    painter: Painter = None,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    head: Head = None,
    weights_dir: WeightsDir = None,
    raster: Raster = None,
    device: AcceptedDevice = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let the face of a photograph do what another face does.

    The file says in its metadata that it is synthetic. Use it with the consent of those who are seen.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_repaint import Performance, RepaintSettings, run_reenact
        from recon3d.render.rasterize import use_backend

        use_backend(raster)
        which = which_encoder(encoder, no_encoder)
        settings = RepaintSettings(out, face, mark, size, painter, head, which, weights_dir)
        status.append(run_reenact(source, driver, Performance(pose, relative), settings, reporter))


@app.command()
def stream(
    take: Annotated[
        Path, typer.Argument(metavar="CLIP", help="A capture.npz, a Live Link Face take (.csv), or a video.")
    ],
    vmc: Annotated[
        str, typer.Option("--vmc", metavar="HOST:PORT", help="Where the receiver listens for VMC.")
    ] = "127.0.0.1:39539",
    loop: Annotated[bool, typer.Option("--loop", help="Again and again, until Ctrl-C.")] = False,
    fps: Rate = None,
    names: Map = None,
    lower_camel: Annotated[
        bool, typer.Option("--lower-camel", help="Send browDownLeft instead of BrowDownLeft.")
    ] = False,
    head: Head = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Play a clip to a VTubing program in real time, by the VMC protocol."""
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_stream import run_stream

        status.append(
            run_stream(
                take,
                vmc,
                head=head,
                fps=fps,
                loop=loop,
                names=names,
                lower_camel=lower_camel,
                reporter=reporter,
            )
        )


@app.command()
def view(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A capture.npz, a folder that holds one, or a Live Link Face take (.csv); for --window also "
            "a mesh file (.obj, .glb, .ply).",
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port, or the next free one; 0: any.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to serve at; 0.0.0.0 lets the whole network look.")
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    window: Annotated[
        bool, typer.Option("--window", help="Show the still head in a desktop window instead (OpenGL).")
    ] = False,
    head: Head = None,
    device: Annotated[
        str, typer.Option(help="Accepted as by every command; viewing runs no network.")
    ] = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Play a capture in an interactive 3D viewer, in the browser; Ctrl-C ends it.

    With --window a still head, or a mesh file, in a window of its own.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_view import run_view, run_window

        if window:
            status.append(run_window(path, head=head, reporter=reporter))
        else:
            status.append(
                run_view(path, head=head, host=host, port=port, open_browser=open_browser, reporter=reporter)
            )


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; another than this machine's own asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(help="What clients have to know; better given in RECON3D_TOKEN. Made if need be."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Another name by which the server may be called."),
    ] = None,
    keep: Annotated[str, typer.Option(help="Finished jobs are deleted after this time.")] = "24h",
    max_upload: Annotated[str, typer.Option(help="Size of one upload.")] = "500MB",
    max_duration: Annotated[str, typer.Option(help="Duration of one clip.")] = "10min",
    max_files: Annotated[int, typer.Option(min=1, max=1000, help="Files of one upload.")] = 16,
    max_jobs: Annotated[int, typer.Option(min=1, max=10000, help="Jobs that may wait or run.")] = 64,
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of queue, uploads and results.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Jobs done at the same time.")] = 1,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    head: Head = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Serve a page, and an HTTP API, that take photographs and clips; Ctrl-C ends it.

    What is uploaded stays on this machine, and is deleted after a day. Jobs that are not done when the
    server ends are done when it starts again.
    """
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_serve import ServeOptions, run_serve

        options = ServeOptions(
            host=host,
            port=port,
            token=token,
            allowed_hosts=tuple(allow_host or ()),
            keep=keep,
            max_upload=max_upload,
            max_duration=max_duration,
            max_files=max_files,
            max_jobs=max_jobs,
            data=data,
            workers=workers,
            head=head,
            open_browser=open_browser,
        )
        status.append(run_serve(options, reporter))


@bench.command("render")
def bench_render(
    raster: Raster = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time spent on each figure.")] = 1.5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="torch's threads; its own choice by default.")
    ] = None,
    head: Head = None,
    as_json: Json = False,
) -> None:
    """Measure the renderer, beside PyTorch3D's where that is installed."""
    with exit_status() as status:
        from recon3d._cli_bench import run_bench_render

        run_bench_render(head, seconds, raster, threads, as_json)
        status.append(0)


class SplitChoice(str, Enum):
    """Halves of the marked photographs."""

    tune = "tune"
    report = "report"
    all = "all"


@app.command()
def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with photos/*.zip and livelink/rom_3.csv; see the docs.",
        ),
    ] = None,
    encoder: Encoder = None,
    no_encoder: NoEncoder = False,
    renders: Annotated[int, typer.Option(min=0, help="Renders to judge by; 0 leaves them out.")] = 1000,
    split: Annotated[SplitChoice, typer.Option(help="Of the marked photographs.")] = SplitChoice.report,
    as_json: Json = False,
) -> None:
    """Compare the ways to read a face: landmarks, scores, the encoder, and them together."""
    with exit_status() as status:
        from recon3d._cli_evaluate import run_evaluate

        run_evaluate(which_encoder(encoder, no_encoder), data, renders, split.value, as_json)
        status.append(0)


@train.command("stage1")
def train_stage1(
    config: Annotated[
        str, typer.Option(help="A TOML file, or the name of one that comes with recon3d: stage1, smoke.")
    ] = "stage1",
    out: TrainOut = Path("stage1"),
    renders: Renders = None,
    recording: Recording = None,
    head: Head = None,
    as_json: Json = False,
) -> None:
    """Train the image encoder on renders of a head model. Interrupted, the same command goes on."""
    with exit_status() as status:
        from recon3d._cli_train import Places, run_stage1

        run_stage1(config, out, Places(renders, recording, head), as_json)
        status.append(0)


@train.command("stage2")
def train_stage2(
    config: Annotated[
        str, typer.Option(help="A TOML file, or the name of one that comes with recon3d: stage2, smoke2.")
    ] = "stage2",
    out: TrainOut = Path("stage2"),
    encoder: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Weights to start from; recon3d's own by default."),
    ] = None,
    painter: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Neural renderer to start from, if any."),
    ] = None,
    renders: Renders = None,
    recording: Recording = None,
    head: Head = None,
    as_json: Json = False,
) -> None:
    """Train encoder and neural renderer from each other. Interrupted, the same command goes on."""
    with exit_status() as status:
        from recon3d._cli_train import Places, run_stage2

        run_stage2(config, out, (encoder, painter), Places(renders, recording, head), as_json)
        status.append(0)


@models.callback(invoke_without_command=True)
def list_models(
    context: typer.Context,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List the model files that recon3d downloads, and where they are kept."""
    if context.invoked_subcommand is not None:
        return
    with exit_status() as status, Reporter(quiet=quiet, as_json=as_json) as reporter:
        from recon3d._cli_export import run_models

        status.append(run_models(fetching=fetch, reporter=reporter))


@models.command("export-onnx")
def export_onnx(
    weights: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Encoder weights.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file.")] = Path("encoder.onnx"),
) -> None:
    """Write the image encoder as an ONNX file, for other runtimes."""
    with exit_status() as status:
        from recon3d._cli_train import run_export_onnx

        run_export_onnx(weights, out)
        status.append(0)


@app.command()
def doctor(
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download the face networks if they are missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Tell what is installed, whether it works, and what to do about what does not.

    Ends with a self-test of a few seconds. Exit status 1 if something is broken that the default use needs.
    """
    with exit_status() as status:
        from recon3d._cli_doctor import run_doctor

        status.append(run_doctor(fetching=fetch, as_json=as_json))


@app.command()
def licenses(
    extras: Annotated[
        list[str] | None,
        typer.Option("--extras", help="Count these extras in; several with commas, or all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """List the licence of every package and data file that recon3d uses, and what follows from them."""
    with exit_status() as status:
        from recon3d._cli_licenses import run_licenses

        status.append(run_licenses(split(extras), as_json))


def main() -> None:
    """Run the command line; the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(prog_name="recon3d")
    finally:
        # Python looks through all objects once more before it ends, which takes torch's half a second.
        gc.freeze()


def _terminate(number: int, frame: object) -> None:
    """Leave by an exception, so that half-written files are cleaned up."""
    raise SystemExit(128 + number)
