"""curves.parquet: the curves as an Apache Parquet table; ``_curves.py`` says what the columns are.

Units are 32-bit floats, the other numbers 64-bit; the schema's metadata holds ``recon3d.format``,
``.generator``, ``.source``, ``.head`` and ``.fps``. Needs the extra ``recon3d[tables]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recon3d._version import GENERATOR
from recon3d.conventions import ARKIT_NAMES
from recon3d.export._curves import curve_table
from recon3d.export.curves_json import FORMAT
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
    """Write ``curves.parquet``."""
    units = set(ARKIT_NAMES if options.names is None else options.names.names)
    table = curve_table(capture, head, options)
    facts = {
        "format": FORMAT,
        "generator": GENERATOR,
        "source": capture.source,
        "head": capture.head,
        "fps": f"{round(options.fps or capture.fps, 6):g}",
    }
    arrow = pa.table({name: _column(values, name in units) for name, values in table.items()})
    arrow = arrow.replace_schema_metadata({f"recon3d.{key}": value for key, value in facts.items()})
    target = folder / "curves.parquet"
    with atomic_path(target) as temporary:
        pq.write_table(arrow, temporary)
    return [target]


def _column(values: npt.NDArray[Any], is_unit: bool) -> npt.NDArray[Any]:
    return values.astype(np.float32) if is_unit else values
