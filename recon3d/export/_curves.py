"""The table of curves that the CSV, JSON and Parquet exporters write: one row a frame.

``frame`` (from 0), ``time_s`` (s, from the source), ``tracked`` (false where the face was not seen and the
row holds or eases its neighbours), ``score`` in [0, 1]; the 52 units by name in [0, 1], or the curves of a
name map; ``head_yaw``, ``head_pitch``, ``head_roll`` in degrees, zero for a head that faces the camera
squarely (positive: to the subject's left, up, left ear up; applied as yaw, then pitch, then roll about the
head's own axes); ``head_x``, ``head_y``, ``head_z``: the place of the head model's origin, m, before a camera
at the origin (+X to the image's right, +Y up, the camera looks along -Z); ``box_x0``, ``box_y0``, ``box_x1``,
``box_y1``: the face in the picture, px from its top-left corner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import UsageError
from recon3d.export._angles import head_rotation, to_angles
from recon3d.export._resample import at_rate
from recon3d.export._still import check_head
from recon3d.export.arkit_json import placement
from recon3d.export.options import ExportOptions

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Columns by name, in the table's order; each (T,).
Columns = dict[str, npt.NDArray[Any]]

_HEAD = ("head_yaw", "head_pitch", "head_roll")
_PLACE = ("head_x", "head_y", "head_z")
_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")


def curve_table(capture: Capture, head: HeadModel, options: ExportOptions) -> Columns:
    """Return the table; reads ``fps`` (by default the source's own timestamps) and ``names``.

    Raises:
        InputError: The head is not the capture's.
        UsageError: The frame rate is none, or the name map names a curve as one of the other columns.
    """
    check_head(capture, head)
    taken = at_rate(capture, options.fps or 0.0)
    names = ARKIT_NAMES if options.names is None else options.names.names
    units = taken.arkit.astype(np.float64)
    table: Columns = {
        "frame": np.arange(len(taken)),
        "time_s": np.round(taken.timestamps, 6),
        "tracked": taken.tracked,
        "score": _rounded(taken.score),
    }
    angles = np.rad2deg(to_angles(head_rotation(taken, head)))
    blocks = (
        (names, units if options.names is None else options.names.apply(units)),
        (_HEAD, angles),
        (_PLACE, placement(taken, head)[1]),
        (_BOX, taken.box),
    )
    for titles, values in blocks:
        for title, column in zip(titles, values.T, strict=True):
            if title in table:
                raise UsageError(f"the name map calls a curve {title!r}, which is the name of another column")
            table[title] = _rounded(column)
    return table


def _rounded(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return values with six decimals: below what a capture holds, and no -0.0."""
    return np.around(values.astype(np.float64), 6) + np.float64(0)
