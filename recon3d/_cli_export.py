"""``recon3d export`` and ``recon3d models``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from recon3d._cli_report import Reporter
from recon3d._results import OVERLAY, FolderNames, check_formats, write_outputs
from recon3d.assets import AssetStatus, fetch, list_assets, wanted_assets
from recon3d.errors import AssetError, UsageError
from recon3d.export import FORMATS
from recon3d.export.options import Angles, ExportOptions


def export_options(
    *,
    fps: float | None,
    angles: str | None,
    slate: str | None,
    take: int,
    subject: str,
    names: str | None,
) -> ExportOptions:
    """Return what the command line says, checked before any input is read.

    Raises:
        UsageError: An option is out of range, or there is no such name map.
        InputError: The name map's file cannot be used.
    """
    from recon3d.export._resample import check_fps
    from recon3d.export.name_map import NameMap

    if fps is not None:
        check_fps(fps)
    curves = None if names is None else NameMap.load(names)
    unit = cast("Angles | None", angles)
    return ExportOptions(fps=fps, angles=unit, slate=slate, take=take, subject=subject, names=curves)


def run_export(
    inputs: Sequence[Path],
    out: Path,
    formats: Sequence[str],
    *,
    head: Path | None,
    photo: Path | None,
    options: ExportOptions,
    reporter: Reporter,
) -> int:
    """Write captures and Live Link takes in other programs' formats; return the exit status.

    Raises:
        UsageError: No such format; an overlay without a photograph; or one photograph for several captures.
        InputError: The head model or the photograph cannot be used.
    """
    wanted = check_formats(formats, (*FORMATS, OVERLAY))
    if photo is not None and len(inputs) != 1:
        raise UsageError("--photo goes with one capture: it is the photograph of that one")
    if photo is None and OVERLAY in wanted:
        raise UsageError("an overlay is drawn over the photograph: name it with --photo")
    from recon3d._takes import read_take
    from recon3d.head import load_head
    from recon3d.media._open import shown
    from recon3d.media.image import read_image

    picture = None if photo is None else read_image(photo)
    model = load_head(head)
    names = FolderNames()
    reporter.begin(len(inputs), "captures")
    for path in inputs:
        try:
            stem = names.claim(named(path))
            capture = read_take(path, model)
            written = write_outputs(
                [capture], model, picture, out, stem, wanted, save_captures=False, options=options
            )
            files = [file for folder in written for file in folder]
            reporter.done(
                path, f"{shown(path)} -> {shown(out / stem)}", outputs=[str(file) for file in files]
            )
        except BrokenPipeError:
            raise
        except Exception as error:  # a fault in one capture must not stop the others
            reporter.failed(path, error)
    return reporter.exit_status()


def named(path: Path) -> Path:
    """Return what a capture is called after: ``eve/capture.npz`` is ``eve``, ``adam.npz`` is ``adam``."""
    folder = path.absolute().parent.name
    if path.name not in ("capture.npz", "flame_params.npz") or not folder:
        return path
    return path.with_name(f"{folder}.npz")


def run_models(*, fetching: bool, reporter: Reporter) -> int:
    """List the model files, fetching those that are missing if asked; return the exit status."""
    for asset in wanted_assets() if fetching else ():
        try:
            fetch(asset.name, quiet=reporter.quiet or reporter.as_json)
        except AssetError as error:
            reporter.failures += 1
            reporter.say(str(error))
    for status in list_assets():
        if reporter.as_json:
            print(json.dumps(_facts(status)))
        elif not reporter.quiet:
            state = "ready" if status.cached else "not downloaded"
            asset = status.asset
            print(f"{asset.name}: {state}, {asset.size / 1e6:.1f} MB, {asset.licence}; {asset.purpose}")
            print(f"  {status.path}")
    return 1 if reporter.failures else 0


def _facts(status: AssetStatus) -> dict[str, object]:
    asset = status.asset
    return {
        "name": asset.name,
        "cached": status.cached,
        "path": str(status.path),
        "size": asset.size,
        "sha256": asset.sha256,
        "version": asset.version,
        "licence": asset.licence,
        "purpose": asset.purpose,
    }
