"""Half an hour of curves in a few megabytes of text, and text that is safe inside a page.

All numbers of a page travel as one zlib stream in base64: timestamps as float64, then every curve as 16-bit
steps from frame to frame (still faces pack well), then one byte a frame for ``tracked``.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Values are rounded to a thousandth of a unit, a degree or a centimetre; coarser where 16 bits ask for it.
STEP = 0.001
_LARGEST = 65535


@dataclass(frozen=True)
class Packed:
    """Curves as the page reads them.

    Attributes:
        data: Base64 of the zlib stream.
        scales: Key to ``[offset, step]``, in the order of the stream; value = offset + step · integer.
    """

    data: str
    scales: dict[str, list[float]]


def pack(
    times: npt.NDArray[np.float64],
    curves: Mapping[str, npt.NDArray[np.float64]],
    tracked: npt.NDArray[np.bool_],
) -> Packed:
    """Pack T times, curves of T values each, and T flags."""
    parts = [times.astype("<f8").tobytes()]
    scales = {}
    for key, values in curves.items():
        offset = float(values.min())
        step = max(STEP, float(values.max() - offset) / _LARGEST)
        steps = np.rint((values - offset) / step).astype(np.int64)
        parts.append(np.diff(steps, prepend=0).astype("<u2").tobytes())  # wraps, and so does the sum
        scales[key] = [offset, step]
    parts.append(tracked.astype("u1").tobytes())
    return Packed(base64.b64encode(zlib.compress(b"".join(parts), 9)).decode(), scales)


def script_json(value: Any) -> str:
    """Return JSON that can stand in a ``<script>`` element: nothing in it ends or opens a tag."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
