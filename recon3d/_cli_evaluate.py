"""``recon3d evaluate``: a table of every way to read a face."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Literal

from recon3d.conventions import ARKIT_NAMES

#: Columns of a table that no terminal shows.
_WIDE = 220


def run_evaluate(
    encoder: Path | bool,
    data: Path | None,
    renders: int,
    split: Literal["tune", "report", "all"],
    as_json: bool,
) -> None:
    """Evaluate and print; with ``as_json`` the last line is one object.

    Raises:
        Recon3DError: Weights or data cannot be read.
    """
    from rich.console import Console
    from rich.table import Table

    from recon3d.evaluation.report import evaluate
    from recon3d.head import load_head

    console = Console(stderr=True)
    report = evaluate(
        load_head(), encoder=encoder, data=data, renders=renders, split=split, say=lambda x: console.print(x)
    )
    rows = report.rows()
    if as_json:
        units = {name: dict(zip(ARKIT_NAMES, s.units, strict=True)) for name, s in report.renders.items()}
        print(json.dumps({"ways": rows, "units": units}))
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_shown(row.get(column)) for column in columns))
    # Into a file or a pipe it is not cut to the width of a terminal that is not there.
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return "" if value is None else str(value)
