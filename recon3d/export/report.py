"""report.html: one page to look at a capture with, whole in itself; nothing of it comes from a network.

The overlay video and every curve, on one time line: whatever is clicked, dragged or played moves both. The
page allows itself nothing but its own script, its own style and that video (Content-Security-Policy), and
every name in it is shown as text, whatever it holds.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from recon3d._version import GENERATOR
from recon3d.errors import UsageError
from recon3d.export._report.figures import curves, summary
from recon3d.export._report.packing import pack, script_json
from recon3d.export._report.regions import REGIONS
from recon3d.export._still import check_head
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path, output_error

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: The page's name, and that of the video that it looks for beside itself.
REPORT, OVERLAY = "report.html", "overlay.mp4"
#: Videos up to this size become part of the page.
EMBED_BYTES = 12 << 20

_SCRIPTS = ("data.js", "player.js", "plot.js", "page.js")


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``report.html``, with ``overlay.mp4`` if that lies in the folder already."""
    check_head(capture, head)
    return [write_report(capture, folder)]


def write_report(
    capture: Capture,
    folder: Path,
    *,
    video: str | None = OVERLAY,
    name: str | None = None,
    notes: Sequence[str] = (),
    embed_bytes: int = EMBED_BYTES,
) -> Path:
    """Write the report of one person's capture; return its path.

    Args:
        capture: Of a clip; of a photograph, too, though there is little to see.
        folder: Where to; must exist.
        video: Name of a video in ``folder`` whose first frame is the capture's first, and which runs in
            the capture's time. None, or a name that is not there: the page has curves and a slider alone.
        name: Title of the page; the capture's source by default.
        notes: Lines that the user should read: what could not be decoded, where the clip was cut.
        embed_bytes: A video up to this size becomes part of the page, a larger one is played from beside
            it. 0 never embeds.

    Raises:
        UsageError: ``video`` is not a plain file name.
        OutputError: The page cannot be written, or the video cannot be read.
    """
    data, embedded = _video(folder, video, embed_bytes)
    document = _document(capture, name or capture.source, list(notes), data)
    target = folder / REPORT
    with atomic_path(target) as temporary:
        temporary.write_text(_page(document, embedded), encoding="utf-8", newline="\n")
    return target


def _video(folder: Path, video: str | None, embed_bytes: int) -> tuple[dict[str, str] | None, str]:
    """Return what the page must know of the video, and the video itself in base64 if it is embedded."""
    if video is None:
        return None, ""
    if Path(video).name != video:
        raise UsageError(f"{video}: the report's video must lie beside it; give its file name alone")
    path = folder / video
    if not path.is_file():
        return None, ""
    kind = mimetypes.guess_type(video)[0] or "video/mp4"
    try:
        if path.stat().st_size <= embed_bytes:
            return {"type": kind}, base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise output_error(path, error) from error
    return {"type": kind, "src": f"./{quote(video, errors='surrogateescape')}"}, ""


def _document(capture: Capture, name: str, notes: list[str], video: dict[str, str] | None) -> dict[str, Any]:
    """Return what the page shows, for its script to read."""
    values = curves(capture)
    packed = pack(capture.timestamps - capture.timestamps[0], values, capture.tracked)
    return {
        "name": name,
        "source": capture.source,
        "head": capture.head,
        "generator": GENERATOR,
        "frames": len(capture),
        "fps": capture.fps,
        "start": float(capture.timestamps[0]),
        "size": list(capture.size),
        "video": video,
        "notes": notes,
        "regions": [asdict(region) for region in REGIONS],
        "summary": summary(capture, values),
        "scales": packed.scales,
        "data": packed.data,
    }


def _page(document: dict[str, Any], video: str) -> str:
    """Fill the page in; scripts and style are let run by the hash of their text."""
    parts = files("recon3d.export._report")
    style = parts.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(parts.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "media-src 'self' data: blob: file:; base-uri 'none'; form-action 'none'"
    )
    template = Template(parts.joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        policy=policy, style=style, script=script, document=script_json(document), video=video
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
