"""curves.csv: the curves as a table for spreadsheets and scripts; ``_curves.py`` says what the columns are.

UTF-8, a header, commas, LF; ``tracked`` is 1 or 0; six decimals.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from recon3d.export._curves import curve_table
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``curves.csv``."""
    table = curve_table(capture, head, options)
    cells = (_cells(column) for column in table.values())
    target = folder / "curves.csv"
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*cells, strict=True))
    return [target]


def _cells(column: npt.NDArray[Any]) -> list[str]:
    form = ".6f" if column.dtype.kind == "f" else "d"
    return [format(value, form) for value in column.tolist()]
