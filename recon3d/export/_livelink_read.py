"""Reading Live Link Face takes, of the app and of the many programs that write its format."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from recon3d.conventions import FRONTAL, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.export._angles import from_angles, unit_gaze
from recon3d.export._livelink_format import COLUMNS, EYE_SIGN, FRAME_BASE, PER_RADIAN, UNIT_COLUMNS
from recon3d.export.options import Angles
from recon3d.media._open import open_regular, shown

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Floats = npt.NDArray[np.float64]

#: A recording holds no camera: a picture of this size, this focal length (px), the face this far away (m).
IMAGE_SIZE, FOCAL, DISTANCE = (1280, 720), 1400.0, 0.6
#: What frame fields count in files of other programs, besides sixtieths.
_BASES = (24, 25, 30, 48, 50, 60, 100, 120, 240, 1000)
_RATES = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0, 120.0, 240.0)
_TIMECODE = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})[:;](\d{1,4}(?:\.\d*)?)")
_DAY = 86400
#: A clock that is set while recording may step back a little; such rows share a time.
_BACKWARD = 0.5
#: A unit beyond these is in percent, or no unit at all; calibrated takes leave [0, 1] a little.
_UNIT_RANGE = (-2.0, 2.0)
_BATCH = 256


@dataclass(frozen=True)
class _Take:
    """The rows of a file.

    Attributes:
        values: (T, 61) in ``COLUMNS`` order; what the file lacks is zero, lost rows hold their neighbour.
        tracked: (T,) false in rows without a face.
        times: (T,) s from the first row.
    """

    values: Floats
    tracked: npt.NDArray[np.bool_]
    times: Floats


def read_livelink(path: str | Path, head: HeadModel, angles: Angles | None = None) -> Capture:
    """Read a recorded take as a capture of the mean person of a head model.

    Columns are found by name, whatever their case or order; missing ones are zero, others are left alone.
    Rows that are short or whose count is zero, as the app writes them while it sees no face, hold the row
    before and are marked as not tracked. The frame rate and what the frame field counts are found from the
    timecodes, which may run over midnight. Units are cut to [0, 1].

    A take holds no camera and no place: the head stands ``DISTANCE`` before a camera of ``FOCAL`` and turns
    about its neck. Where the units turn the eyes otherwise than the take's eye angles say, the eye joints
    make up for it, so that the head looks where the recorded eyes looked.

    Args:
        path: The CSV.
        head: Whose captures the result is one of.
        angles: Unit of the nine angles; None takes degrees where one exceeds π, or else radians, the app's.

    Raises:
        InputError: It cannot be read, is no such take, or a cell is wrong; the message names the line.
    """
    take = _read(path)
    per_radian = PER_RADIAN[angles or _angle_unit(take.values[:, len(UNIT_COLUMNS) :])]
    units = take.values[:, : len(UNIT_COLUMNS)].clip(0, 1)
    turned = take.values[:, len(UNIT_COLUMNS) :] / per_radian
    eyes = tuple(from_angles(EYE_SIGN * turned[:, k : k + 3]) for k in (3, 6))
    has_eyes = bool(take.values[:, len(UNIT_COLUMNS) + 3 :].any())
    turns = Turns(from_angles(turned[:, :3]), eyes if has_eyes else ())
    return capture_of(units, take.times, take.tracked, turns, head, Path(path).name)


def _angle_unit(angles: Floats) -> Angles:
    return "degrees" if np.abs(angles).max() > np.pi + 1e-6 else "radians"


# ---- the file ----


def _read(path: str | Path) -> _Take:
    name = shown(path)
    with open_regular(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            header = text.readline()
            delimiter = max(",;\t", key=header.count)
            columns = _Columns.of(next(csv.reader([header], delimiter=delimiter), []), name)
            rows = list(_rows(csv.reader(text, delimiter=delimiter), columns, name))
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: not a Live Link Face recording (it is no text)") from error
        except csv.Error as error:
            raise InputError(f"{name}: damaged recording ({error})") from error
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
    if not any(row.values is not None for row in rows):
        raise InputError(f"{name}: the recording holds no frame with a face")
    return _assembled(rows, name)


@dataclass(frozen=True)
class _Columns:
    """Where the columns are in a file: index in the row, and place among ``COLUMNS``."""

    timecode: int
    count: int | None
    values: tuple[tuple[int, int], ...]

    @staticmethod
    def of(header: Sequence[str], name: str) -> _Columns:
        found = {title.strip().casefold(): index for index, title in reversed(list(enumerate(header)))}
        places = {title.casefold(): place for place, title in enumerate(COLUMNS)}
        values = tuple((found[title], place) for title, place in places.items() if title in found)
        if "timecode" not in found or not any(place < len(UNIT_COLUMNS) for _, place in values):
            raise InputError(
                f"{name}: not a Live Link Face recording (its first line names no Timecode and ARKit units)"
            )
        return _Columns(found["timecode"], found.get("blendshapecount"), values)


@dataclass(frozen=True)
class _Row:
    """A row: its line in the file, whole seconds of the day, the frame field, and (61,) values or None."""

    line: int
    seconds: int
    frames: float
    values: Floats | None


def _rows(reader: Iterator[list[str]], columns: _Columns, name: str) -> Iterator[_Row]:
    width = 1 + max(index for index, _ in columns.values)
    for number, cells in enumerate(reader, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        seconds, frames = _timecode(cells, columns.timecode, f"{name}: line {number}")
        lost = len(cells) < width or _count(cells, columns.count, f"{name}: line {number}") == 0
        values = None if lost else _numbers(cells, columns, f"{name}: line {number}")
        yield _Row(number, seconds, frames, values)


def _timecode(cells: Sequence[str], index: int, where: str) -> tuple[int, float]:
    cell = cells[index].strip() if index < len(cells) else ""
    match = _TIMECODE.fullmatch(cell)
    if match is None:
        raise InputError(f"{where}: the timecode is {shown(cell)!r}, HH:MM:SS:FF.mmm is wanted")
    hours, minutes, seconds = (int(group) for group in match.groups()[:3])
    return hours * 3600 + minutes * 60 + seconds, float(match[4])


def _count(cells: Sequence[str], index: int | None, where: str) -> int:
    if index is None:
        return len(cells)
    cell = cells[index].strip()
    try:
        return int(cell)
    except ValueError as error:
        raise InputError(f"{where}: BlendShapeCount is {shown(cell)!r}, a number is wanted") from error


def _numbers(cells: Sequence[str], columns: _Columns, where: str) -> Floats:
    values = np.zeros(len(COLUMNS))
    for index, place in columns.values:
        try:
            values[place] = float(cells[index])
        except ValueError as error:
            cell = shown(cells[index].strip())
            raise InputError(f"{where}: {COLUMNS[place]} is {cell!r}, a number is wanted") from error
    low, high = _UNIT_RANGE
    units = values[: len(UNIT_COLUMNS)]
    wrong = np.flatnonzero(~((units >= low) & (units <= high)))
    if wrong.size:
        unit = wrong[0]
        raise InputError(f"{where}: {COLUMNS[unit]} is {units[unit]:g}, units go from 0 to 1")
    if not np.isfinite(values).all():
        raise InputError(f"{where}: {COLUMNS[np.argmin(np.isfinite(values))]} is not finite")
    return values


def _assembled(rows: Sequence[_Row], name: str) -> _Take:
    """Put the rows together: times on one clock, and rows without a face as their neighbours."""
    tracked = np.array([row.values is not None for row in rows])
    # Rows before the first face take that one, all others the last one seen.
    source = np.maximum.accumulate(np.where(tracked, np.arange(len(rows)), np.argmax(tracked)))
    values = [rows[index].values for index in source]
    return _Take(np.array(values, np.float64), tracked, _times(rows, name))


def _times(rows: Sequence[_Row], name: str) -> Floats:
    """Return the rows' times: (T,) s from the first."""
    seconds = np.array([row.seconds for row in rows], np.float64)
    frames = np.array([row.frames for row in rows])
    # Over midnight the clock falls by a day; by half a day is enough to know.
    seconds += _DAY * np.cumsum(np.diff(seconds, prepend=seconds[0]) < -_DAY / 2)
    times = seconds + frames / _frame_base(seconds, frames)
    running = np.maximum.accumulate(times)
    late = np.flatnonzero(times < running - _BACKWARD)
    if late.size:
        raise InputError(f"{name}: line {rows[late[0]].line}: the timecode runs backwards")
    elapsed: Floats = running - running[0]
    return elapsed


def _frame_base(seconds: Floats, frames: Floats) -> int:
    """Return how many frames a timecode's second has.

    At the end of a second the frame field falls by the base less one step, and the step is known from within
    the seconds. A take that sees no second end is taken for the app's.
    """
    inside = np.diff(seconds) == 0
    ends = np.diff(seconds) == 1
    possible = [base for base in _BASES if base > np.floor(frames.max())]
    if not possible:
        return int(np.floor(frames.max())) + 1
    if not (inside.any() and ends.any()):
        return next((base for base in possible if base >= FRAME_BASE), possible[-1])
    step = np.median(np.diff(frames)[inside])
    fall = np.median(step - np.diff(frames)[ends])
    return min(possible, key=lambda base: abs(base - fall))


def _frame_rate(times: Floats) -> float:
    """Return the rate of the rows; a common one where it is that but for rounding."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    if not steps.size:
        return float(FRAME_BASE)
    rate = 1 / float(np.median(steps))
    nearest = min(_RATES, key=lambda known: abs(known / rate - 1))
    return nearest if abs(nearest / rate - 1) < 5e-4 else rate


# ---- the capture ----


@dataclass(frozen=True)
class Turns:
    """How the head turns, and each eye, the left one first, if that is known; T rotations each."""

    head: Rotation
    eyes: Sequence[Rotation] = ()


def capture_of(
    units: Floats, times: Floats, tracked: npt.NDArray[np.bool_], turns: Turns, head: HeadModel, source: str
) -> Capture:
    """Return curves as a capture of the mean person of a head model; see ``read_livelink``.

    Args:
        units: (T, 52) in [0, 1].
        times: (T,) s.
        tracked: (T,) false in frames without a face.
        turns: T rotations.
        head: Whose captures the result is one of.
        source: Name of what the curves are from.
    """
    from recon3d.capture import Capture

    expression, joints = _shown(units, head)
    pose, translation = _placed(units, turns, joints, head)
    shape = np.zeros(head.num_shape, np.float32)
    points = _landmarks(head, shape, expression, pose, translation)
    return Capture(
        head=head.id,
        source=source,
        fps=_frame_rate(times),
        timestamps=times,
        image_size=np.array(IMAGE_SIZE),
        focal=FOCAL,
        principal=np.array(IMAGE_SIZE) / 2,
        shape=shape,
        expression=expression.astype(np.float32),
        pose=pose.astype(np.float32),
        translation=translation.astype(np.float32),
        arkit=units.astype(np.float32),
        landmarks68=points,
        box=np.hstack([points.min(1), points.max(1)]),
        score=tracked.astype(np.float32),
        tracked=tracked,
    )


def _shown(units: Floats, head: HeadModel) -> tuple[Floats, Floats]:
    """Say units in a head's own terms: expression (T, E), and the pose (T, J, 3) of its joints, rad."""
    joints = np.zeros((len(units), head.num_joints, 3))
    if head.speaks_arkit:
        return units, joints
    if not head.knows_arkit:
        return np.zeros((len(units), head.num_expression)), joints
    import torch

    from recon3d.fitting.units import UnitMap

    shown = UnitMap.of(head)
    values = shown.controls_of(torch.as_tensor(units, dtype=torch.float32))
    expression, pose = shown.controls.split(values, head.num_joints)
    return expression.double().numpy(), pose.double().numpy()


def _placed(units: Floats, turns: Turns, joints_at: Floats, head: HeadModel) -> tuple[Floats, Floats]:
    """Return pose (T, J, 3) rad and translation (T, 3) m of heads that turn about their neck."""
    joints = head.rest_joints(head.v_template.new_zeros(1, head.num_shape))[0].double().numpy()
    seen = Rotation.from_matrix(FRONTAL) * turns.head
    pose = joints_at.copy()
    pose[:, 0] = seen.as_rotvec()
    neck = joints[min(NECK, len(joints) - 1)]
    front = joints[[LEFT_EYE, RIGHT_EYE]].mean(0) if len(joints) > RIGHT_EYE else neck
    for side, joint, eye in zip(("Left", "Right"), (LEFT_EYE, RIGHT_EYE), turns.eyes, strict=False):
        if joint < head.num_joints:
            by_units = unit_gaze(units, side) if head.speaks_arkit else Rotation.identity(len(units))
            pose[:, joint] = (eye * by_units.inv()).as_rotvec()
    pivot = FRONTAL @ (neck - front) + np.array([0.0, 0.0, DISTANCE])
    return pose, pivot - joints[0] - seen.apply(neck - joints[0])


def _landmarks(
    head: HeadModel, shape: npt.NDArray[np.float32], expression: Floats, pose: Floats, translation: Floats
) -> npt.NDArray[np.float32]:
    """Return the heads' own 68 points in the picture: (T, 68, 2) px."""
    import torch

    from recon3d.head.contour import landmarks68
    from recon3d.render.camera import Camera

    if "ibug68" not in head.embeddings:
        raise InputError(f"the head model {head.id} has no landmark embedding ibug68")
    camera = Camera.create(FOCAL, IMAGE_SIZE)
    person = torch.as_tensor(shape)[None]
    found = []
    with torch.no_grad():
        for start in range(0, len(pose), _BATCH):
            part = slice(start, start + _BATCH)
            numbers = [torch.as_tensor(x[part], dtype=torch.float32) for x in (expression, pose, translation)]
            posed = head(person.expand(len(numbers[0]), -1), numbers[0], numbers[1]).vertices
            seen = camera.project(posed + numbers[2][:, None])[..., :2]
            found.append(landmarks68(head, seen))
    return torch.cat(found).numpy()
