"""``recon3d convert`` and ``recon3d head``: other heads than the one that something was made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d._cli_export import named
from recon3d._cli_report import Reporter
from recon3d._results import FolderNames, check_formats, write_outputs
from recon3d.errors import InputError
from recon3d.export import FORMATS
from recon3d.export.options import ExportOptions
from recon3d.files import atomic_path, make_folder
from recon3d.media._open import shown

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def run_convert(
    inputs: Sequence[Path],
    out: Path,
    target: Path | None,
    source: Path | None,
    formats: Sequence[str],
    options: ExportOptions,
    reporter: Reporter,
) -> int:
    """Say captures, takes, scores and FLAME parameters in another head's terms; return the exit status.

    Args:
        inputs: The files.
        out: Folder of the results, DIR/<name>/capture.npz and what else is asked for.
        target: File of the head that they are to be said in; the open head when None.
        source: File of the head that captures are of, where it is neither the open head nor ``target``.
        formats: Of ``recon3d.export.FORMATS``, besides.
        options: What the exporters are told.
        reporter: Told what was done.

    Raises:
        UsageError: No such format.
        InputError: A head model cannot be used.
    """
    wanted = check_formats(formats, FORMATS)
    from recon3d.head import load_head

    head = load_head(target)
    heads = [head, load_head(), *(load_head(path) for path in (source,) if path is not None)]
    names = FolderNames()
    reporter.begin(len(inputs), "captures")
    for path in inputs:
        try:
            stem = names.claim(named(path))
            write_outputs([_converted(path, heads)], head, None, out, stem, wanted, options=options)
            reporter.done(path, f"{shown(path)} -> {shown(out / stem)}", outputs=[str(out / stem)])
        except BrokenPipeError:
            raise
        except Exception as error:  # a fault in one capture must not stop the others
            reporter.failed(path, error)
    return reporter.exit_status()


def _converted(path: Path, heads: Sequence[HeadModel]) -> Capture:
    """Read what holds an animated head of any of some, and say it in the terms of the first of them."""
    from recon3d._takes import read_take
    from recon3d.convert import Converter
    from recon3d.export.flame_params import is_flame

    # Curves without a head become the target's at once; FLAME's parameters are of a FLAME head.
    target, open_head = heads[:2]
    flame = next((head for head in reversed(heads) if is_flame(head)), target)
    try:
        capture = read_take(path, target if path.suffix.lower() in (".csv", ".json") else flame)
    except InputError as error:
        if not str(error).endswith("not a capture file"):
            raise
        raise InputError(
            f"{error}; give captures, Live Link Face or score files (.csv, .json), or FLAME parameters (.npz)"
        ) from error
    own = next((head for head in heads if head.id == capture.head), None)
    if own is None:
        raise InputError(
            f"{shown(path)}: captured with the head model {capture.head}; name its file with --from"
        )
    return Converter(own, target, open_head).convert(capture)


def run_head_build(neutral: Path, shapes: Path, out: Path, reporter: Reporter) -> int:
    """Make a head model of a neutral mesh and a folder of its shapes; return the exit status.

    Raises:
        InputError: They cannot be used.
        NoFaceError: Nothing on the mesh looks like a face.
        OutputError: The file cannot be written.
    """
    import numpy as np

    from recon3d.head.model import HeadModel
    from recon3d.head.prepared import dress
    from recon3d.head.rig import build_rig

    reporter.total = 1
    arrays = build_rig(neutral, shapes, say=reporter.say)
    reporter.say(f"{shown(neutral)}: finding its landmarks takes a minute")
    extra = dress(HeadModel(arrays, name=out.stem, digest="new"))
    del extra["arkitdirs"]  # its own units are what it is made of
    make_folder(out.parent)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **(arrays | extra))
    reporter.done(neutral, f"{shown(neutral)} -> {shown(out)}", outputs=[str(out)])
    return 0


def run_head_info(path: Path | None, as_json: bool) -> int:
    """Say what a head model is and knows; return the exit status.

    Raises:
        InputError: It cannot be used.
    """
    import json

    from recon3d.head import load_head

    head = load_head(path)
    own = "the ARKit units" if head.speaks_arkit else "its own"
    if head.knows_arkit and not head.speaks_arkit:
        own += ", and the ARKit units"
    facts: dict[str, object] = {
        "head": head.id,
        "kind": _kind(path),
        "vertices": head.num_vertices,
        "triangles": len(head.faces),
        "identity components": head.num_shape,
        "expression components": head.num_expression,
        "expressions": own,
        "joints": ", ".join(head.joint_names),
        "texture coordinates": bool(len(head.uv)),
        "landmarks": ", ".join(sorted(head.embeddings)),
    }
    lines = [json.dumps(facts)] if as_json else [f"{name}: {_told(value)}" for name, value in facts.items()]
    print("\n".join(lines))
    return 0


def _kind(path: Path | None) -> str:
    from recon3d.head.flame import flame_version, looks_like_flame
    from recon3d.head.gnm import looks_like_gnm

    if path is None:
        return "the open head"
    if looks_like_flame(path):
        return str(flame_version(path))
    return "GNM Head" if looks_like_gnm(path) or str(path) == "gnm" else "a head model of recon3d's format"


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "none"
    return str(value) or "none"
