"""Reading what holds an animated head: captures of ours, and takes of Live Link Face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def read_take(path: str | Path, head: HeadModel) -> Capture:
    """Read ``capture.npz``, or by its ending a Live Link Face ``.csv``, which then drives the mean person.

    Raises:
        InputError: It is neither, or damaged.
    """
    if Path(path).suffix.lower() == ".csv":
        from recon3d.export.livelink import read_livelink

        return read_livelink(path, head)
    from recon3d.capture import Capture

    return Capture.load(path)
