"""curves.json: the curves as one JSON document; ``_curves.py`` says what the columns are.

``{"format": "recon3d-curves/1", "generator", "source", "head", "fps", "columns": [names],
"data": [[row], ...]}`` with one line a row. In pandas:
``DataFrame(document["data"], columns=document["columns"])``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d._version import GENERATOR
from recon3d.export._curves import curve_table
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

FORMAT = "recon3d-curves/1"


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``curves.json``."""
    table = curve_table(capture, head, options)
    start = {
        "format": FORMAT,
        "generator": GENERATOR,
        "source": capture.source,
        "head": capture.head,
        "fps": round(options.fps or capture.fps, 6),
        "columns": list(table),
    }
    rows = zip(*(column.tolist() for column in table.values()), strict=True)
    target = folder / "curves.json"
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{_json(start)[:-1]}, "data": [\n')
        file.write(",\n".join(_json(row) for row in rows))
        file.write("\n]}\n")
    return [target]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
