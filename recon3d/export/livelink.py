"""Live Link Face CSV: the takes of Epic's app, as Unreal, Blender and Maya plug-ins import them.

A header, then a row a frame: ``HH:MM:SS:FF.mmm``, the number 61, 52 units in [0, 1], nine angles; ten
decimals, lines end in LF. What follows was read off a recorded take of 4,030 rows (134 s) and off how other
programs read such files.

*Timecode.* The take has 30 rows a second, and its frame field runs from 0 to 59.999 in steps of 1.9995:
``FF.mmm`` counts sixtieths of a second with a fraction, whatever the rate. Epic's importer divides by 60
too, so we write sixtieths at every rate, and a rate like 29.97 needs no drop-frame rules: each row has its
true time, to 1/60,000 s. The first row is at 00:00:00:00.000, and the hours start again after 24.

*Unit of the angles.* Radians: the left eye's yaw spans -.607 to .553, and over the take it is
``-.578 out + .631 in - .068`` (residual .002), so that a full eyeLookOut turns the eye by 37°.

*Signs of the eyes.* By the same regressions yaw is negative to the subject's left, pitch is positive down
(``.612 down - .442 up``). Roll is .97 × yaw × pitch, which is what an eye without torsion (sideways first,
then about the head's own horizontal axis) gives when taken apart as yaw, pitch, roll with all three turned
round.

*Signs of the head.* The take's are all zero (the app's default), so they are those of the programs that feed
and read this format: yaw is positive to the subject's left, pitch up, roll toward the right shoulder
(the left ear rises), opposite to the eyes' in all three, and zero for a head that faces the camera squarely.
Rotations are taken apart in the order yaw, pitch, roll.

The app's eyes rest .068 rad outward (the optical axis is not the line of sight); ours at zero.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.errors import UsageError
from recon3d.export._angles import eye_rotations, head_rotation, to_angles
from recon3d.export._livelink_format import COLUMNS, EYE_SIGN, FRAME_BASE, PER_RADIAN
from recon3d.export._livelink_read import read_livelink
from recon3d.export._resample import parts_at_rate
from recon3d.export._still import check_head
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

__all__ = ["file_name", "read_livelink", "write", "write_livelink"]

#: Rows a second unless told otherwise: early importers know no other rate.
DEFAULT_FPS = 60.0
#: Rows made at a time: those of a long clip would fill the memory.
_BLOCK = 4096
_ROW = f"%s,{len(COLUMNS)}," + ",".join(["%.10f"] * len(COLUMNS)) + "\n"


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``<Slate>_<Take>_<Subject>.csv``, from which Epic's importer takes the subject's name."""
    target = folder / file_name(capture, options)
    write_livelink(capture, head, target, options)
    return [target]


def file_name(capture: Capture, options: ExportOptions = DEFAULTS) -> str:
    """Return the take's file name; underscores part its fields, so within them they become hyphens.

    Raises:
        UsageError: The take is negative, or a name holds no letter and no digit.
    """
    if options.take < 0:
        raise UsageError(f"the take is {options.take}; takes count from 0")
    slate = Path(capture.source).stem if options.slate is None else options.slate
    return f"{_field(slate, 'slate')}_{options.take}_{_field(options.subject, 'subject')}.csv"


def write_livelink(capture: Capture, head: HeadModel, path: Path, options: ExportOptions = DEFAULTS) -> None:
    """Write a take to a path; reads ``fps``, ``angles`` and nothing else of the options.

    Raises:
        InputError: The head is not the capture's.
        UsageError: An option is out of range.
        OutputError: The file cannot be written.
    """
    check_head(capture, head)
    fps = DEFAULT_FPS if options.fps is None else options.fps
    begin = capture.timestamps[0]
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(",".join(("Timecode", "BlendShapeCount", *COLUMNS)) + "\n")
        for part in parts_at_rate(capture, fps, _BLOCK):
            values = _values(part, head, options)
            file.writelines(
                _ROW % (timecode(float(time - begin)), *row)
                for time, row in zip(part.timestamps, values, strict=True)
            )


def timecode(seconds: float) -> str:
    """Return ``HH:MM:SS:FF.mmm`` with frames of a sixtieth of a second; a day later it starts anew."""
    frames, fraction = divmod(round(seconds * FRAME_BASE * 1000), 1000)
    whole, frames = divmod(frames, FRAME_BASE)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours % 24:02d}:{minutes:02d}:{whole % 60:02d}:{frames:02d}.{fraction:03d}"


def _values(capture: Capture, head: HeadModel, options: ExportOptions) -> npt.NDArray[np.float64]:
    """Return the numbers of the rows: (T, 61)."""
    eyes = [EYE_SIGN * to_angles(rotation) for rotation in eye_rotations(capture, head)]
    angles = np.hstack([to_angles(head_rotation(capture, head)), *eyes])
    if options.angles is not None and options.angles not in PER_RADIAN:
        raise UsageError(f"there is no unit of angles {options.angles!r}; choose {', '.join(PER_RADIAN)}")
    angles *= PER_RADIAN[options.angles or "radians"]
    # Rounded here so that nothing is printed as -0.0000000000.
    return np.round(np.hstack([capture.arkit.astype(np.float64), angles]), 10) + 0.0


def _field(text: str, what: str) -> str:
    """Return a name as a field of a file name that every system takes."""
    code = sys.getfilesystemencoding()  # that of some systems knows no letters but A to Z
    known = text.encode(code, "replace").decode(code)
    field = re.sub(r"[^\w.]+|_+", "-", known).strip("-.")
    if not field:
        raise UsageError(f"the {what} {text!r} holds no letter and no digit; name it with --{what}")
    return field.encode(code)[:100].decode(code, "ignore")
