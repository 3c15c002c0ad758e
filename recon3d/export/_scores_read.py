"""Reading expressions that others saved: MediaPipe's scores as JSON or CSV, and our own curve files.

MediaPipe's Face Landmarker gives a list of categories for every face, ``{"categoryName": "jawOpen",
"score": 0.5, ...}`` in JavaScript and with ``category_name`` in Python: 51 of the 52 ARKit units (no
``tongueOut``) and ``_neutral``. It saves no files, so every script writes its own. What is read here is

* JSON: a list of frames, or an object with the list in ``frames``, ``blendshapes``, ``scores``, ``results``
  or ``data``, and perhaps ``fps`` and ``timestamps`` beside it. A frame is a list of categories, an object of
  scores by unit, or an object with either in ``categories``, ``blendshapes``, ``faceBlendshapes`` or the
  like, and perhaps its time beside it. Of several faces the first counts. Frames that are empty or null show
  no face. A document may also be a single frame.
* JSON of the exporters ``arkit`` and ``json``.
* CSV: a header with the units' names and perhaps a time or frame number, and a row a frame. Rows without any
  score show no face. This is what the exporter ``csv`` writes, too.

Names are understood in any case and order, with sides as ``Left`` or ``_L``; others are left alone, and
units that are not there are zero. Where there is ``tracked``, and it is false, the frame showed no face,
whatever its scores. Times are those in ``time_s``, ``seconds``, ``timestamp_ms`` and ``time_ms``, or in
``time``, ``timestamp`` and ``t``, whose unit shows in the steps: frames last neither hours nor microseconds.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from recon3d._unit_names import unit_name
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError
from recon3d.media._open import open_regular, shown

Floats = npt.NDArray[np.float64]

#: Assumed where a file tells no times and no rate.
DEFAULT_FPS = 30.0
#: An hour of 30 frames a second takes 200 MB as JSON.
MAX_BYTES = 512 << 20
#: A unit beyond these is in percent, or no unit at all; calibrated scores leave [0, 1] a little.
_UNIT_RANGE = (-2.0, 2.0)

#: Columns and keys that tell the time: seconds each counts, or None where the steps tell.
_CLOCKS: Mapping[str, float | None] = {
    "time_s": 1.0,
    "timestamp_s": 1.0,
    "seconds": 1.0,
    "timestamp_ms": 1e-3,
    "timestampms": 1e-3,
    "time_ms": 1e-3,
    "timems": 1e-3,
    "milliseconds": 1e-3,
    "timestamp_us": 1e-6,
    "time": None,
    "timestamp": None,
    "t": None,
}
#: Steps longer than these (s) are in the next smaller unit: milliseconds, microseconds, nanoseconds.
_LONGEST_STEP = 2.0
_FRAME_NUMBERS = ("frame", "frame_number", "frame_index", "index")
#: Where a document has its frames, and where a frame or a face has its scores.
_LISTS = ("frames", "blendshapes", "scores", "results", "data")
_INSIDE = (
    "categories", "blendshapes", "faceblendshapes", "face_blendshapes", "scores", "values", "coefficients",
    "data",
)  # fmt: skip
#: A frame holds faces, a face categories; nothing lies deeper.
_DEPTH = 4
_NAMES = ("categoryname", "category_name", "name", "displayname", "display_name")


class Scores(NamedTuple):
    """The 52 units over T frames."""

    times: Floats
    """(T,) s from the first frame, never falling."""
    units: Floats
    """(T, 52) in [0, 1], in ``ARKIT_NAMES`` order; frames without a face hold their neighbour."""
    tracked: npt.NDArray[np.bool_]
    """(T,) false in frames without a face."""


class _Frame(NamedTuple):
    """A frame as read: where in the file, its clock's name and time, (52,) units or None, and ``tracked``."""

    where: str
    clock: str | None
    time: float
    units: Floats | None
    tracked: bool


def looks_like_scores(path: str | Path) -> bool:
    """Tell whether a file could be one that :func:`read_scores` reads; False for whatever cannot be read.

    It could if it is a ``.json``, or a text whose first line names units and no timecode, which Live Link
    Face takes have.
    """
    if Path(path).suffix.lower() == ".json":
        return True
    try:
        with open_regular(path) as file:
            first = (file.readline(1 << 16).decode("utf-8-sig").splitlines() or [""])[0]
        names = next(csv.reader([first], delimiter=_delimiter(first)), [])
    except (InputError, OSError, UnicodeDecodeError, csv.Error):
        return False
    return any(unit_name(name) for name in names) and "timecode" not in (n.strip().lower() for n in names)


def read_scores(path: str | Path, *, fps: float | None = None) -> Scores:
    """Read a file of expressions.

    Args:
        path: JSON or CSV, told apart by the content.
        fps: Frames per second for files without times; None takes what the file says, or else 30.

    Raises:
        InputError: The file cannot be read, is too large, holds no units, or a value is none or is not
            between 0 and 1; the message names the line or frame.
    """
    name = shown(path)
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{name}: too large for a file of expressions (over {MAX_BYTES >> 20} MiB)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not a file of expressions (it is no text)") from error
    if text.lstrip()[:1] in ("[", "{"):
        frames, rate = _from_json(text, name)
    else:
        frames, rate = list(_from_csv(text, name)), None
    return _assembled(frames, fps or rate or DEFAULT_FPS, name)


def _assembled(frames: Sequence[_Frame], fps: float, name: str) -> Scores:
    there = np.array([frame.units is not None for frame in frames], bool)
    if not there.any():
        raise InputError(f"{name}: no frame holds scores of the ARKit units")
    # Frames before the first face take that one, all others the last one seen.
    source = np.maximum.accumulate(np.where(there, np.arange(len(frames)), np.argmax(there)))
    units = np.array([frames[index].units for index in source], np.float64)
    low, high = _UNIT_RANGE
    wrong = np.argwhere(~((units >= low) & (units <= high)))
    if wrong.size:
        row, unit = wrong[0]
        where, value = frames[source[row]].where, units[row, unit]
        raise InputError(f"{name}: {where}: {ARKIT_NAMES[unit]} is {value:g}, units go from 0 to 1")
    tracked = there & np.array([frame.tracked for frame in frames])
    return Scores(_times(frames, fps, name), units.clip(0, 1), tracked)


def _times(frames: Sequence[_Frame], fps: float, name: str) -> Floats:
    """Return the frames' times, (T,) s from the first."""
    clock = next((frame.clock for frame in frames if frame.clock is not None), None)
    if clock is None:
        return np.arange(len(frames)) / fps
    own = np.array([frame.clock == clock for frame in frames])
    bare = next((f for f, has in zip(frames, own, strict=True) if not has and f.units is not None), None)
    if bare is not None:
        raise InputError(f"{name}: {bare.where}: has no {clock}, as others have")
    # A frame without a face that is but a null stands between its neighbours.
    index = np.arange(len(frames))
    given = np.interp(index, index[own], [frame.time for frame in frames if frame.clock == clock])
    given -= given[0]
    backwards = np.flatnonzero(~(np.diff(given) >= 0))
    if backwards.size:
        raise InputError(f"{name}: {frames[backwards[0] + 1].where}: the time runs backwards")
    if clock in _FRAME_NUMBERS:
        return given / fps
    second = _CLOCKS[clock]
    return given * (_guessed(given) if second is None else second)


def _guessed(given: Floats) -> float:
    """Return how long a clock's unit is, s, where no name tells: so that frames last seconds at most."""
    steps = np.diff(given)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return next((unit for unit in (1.0, 1e-3, 1e-6) if step * unit <= _LONGEST_STEP), 1e-9)


# ---- JSON ----


def _from_json(text: str, name: str) -> tuple[list[_Frame], float | None]:
    """Return the frames of a JSON document, and its frame rate if it tells one."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: damaged JSON ({_first_line(error)})") from error
    if _is_frame(document):
        return [_json_frame(document, "the frame", name)], None
    head: Mapping[str, Any] = _lower(document) if isinstance(document, dict) else {}
    if isinstance(head.get("columns"), list) and isinstance(head.get("data"), list):
        return list(_from_table(head["columns"], head["data"], "row", 0, name)), _rate(head, name)
    rows = document if isinstance(document, list) else _inside(head, _LISTS)
    if not isinstance(rows, list) or (rows and _is_category(rows[0])):
        return [_json_frame(document, "the frame", name)], _rate(head, name)
    frames = [_json_frame(row, f"frame {number}", name) for number, row in enumerate(rows)]
    return _with_times(frames, head, name), _rate(head, name)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _lower(document: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in document.items()}


def _inside(head: Mapping[str, Any], keys: Iterable[str]) -> object:
    return next((head[key] for key in keys if key in head), None)


def _is_frame(document: object) -> bool:
    """Tell whether a document is itself a frame: scores by unit, or a list of categories."""
    if isinstance(document, dict):
        return any(unit_name(str(key)) and not isinstance(v, (list, dict)) for key, v in document.items())
    return isinstance(document, list) and bool(document) and _is_category(document[0])


def _is_category(item: object) -> bool:
    return isinstance(item, dict) and {"score", "value"} & {str(key).lower() for key in item} != set()


def _json_frame(row: object, where: str, name: str) -> _Frame:
    scores = _json_scores(row)
    if scores is None:
        raise InputError(f"{name}: {where}: holds no scores of the ARKit units")
    units = np.zeros(len(ARKIT_NAMES))
    known = False
    for title, value in scores:
        unit = unit_name(title)
        if unit is not None and not unit.half:
            units[unit.unit] = _number(value, f"{where}: {title}", name)
            known = True
    if scores and not known:
        raise InputError(f"{name}: {where}: holds no scores of the ARKit units")
    head: Mapping[str, Any] = _lower(row) if isinstance(row, dict) else {}
    clock = next((key for key in (*_CLOCKS, *_FRAME_NUMBERS) if key in head), None)
    time = 0.0 if clock is None else _number(head[clock], f"{where}: {clock}", name)
    return _Frame(where, clock, time, units if scores else None, head.get("tracked") is not False)


def _json_scores(row: object, depth: int = 0) -> list[tuple[str, object]] | None:
    """Return a frame's scores by name: empty without a face, None where it is no frame."""
    if row is None or row == [] or row == {}:
        return []
    if depth > _DEPTH:
        return None
    if isinstance(row, list):
        if _is_category(row[0]):
            return [pair for item in row if (pair := _category(item)) is not None]
        return _json_scores(row[0], depth + 1)  # faces, of which the first counts
    if isinstance(row, dict):
        if _is_frame(row):
            return [(str(key), value) for key, value in row.items()]
        head = _lower(row)
        key = next((key for key in _INSIDE if key in head), None)
        return None if key is None else _json_scores(head[key], depth + 1)
    return None


def _category(item: object) -> tuple[str, object] | None:
    head = _lower(item) if isinstance(item, dict) else {}
    title = _inside(head, _NAMES)
    return None if title is None else (str(title), _inside(head, ("score", "value")))


def _with_times(frames: Sequence[_Frame], head: Mapping[str, Any], name: str) -> list[_Frame]:
    """Return the frames with the times that stand beside them in a list, if there are any."""
    key = next((key for key in ("timestamps", "times", "timestamps_ms", "times_ms") if key in head), None)
    if key is None:
        return list(frames)
    times = head[key]
    if not isinstance(times, list) or len(times) != len(frames):
        raise InputError(f"{name}: {key} is no list of {len(frames)} times, one a frame")
    clock = "time_ms" if key.endswith("_ms") else "time"
    return [
        frame._replace(clock=clock, time=_number(time, f"{frame.where}: {key}", name))
        for frame, time in zip(frames, times, strict=True)
    ]


def _rate(head: Mapping[str, Any], name: str) -> float | None:
    """Return the frame rate; our own files of photographs say 0 for none."""
    given = _inside(head, ("fps", "frame_rate", "framerate"))
    if given is None:
        return None
    rate = _number(given, "fps", name)
    if rate < 0:
        _refuse(given, "fps", name)
    return rate or None


def _number(value: object, where: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(value, where, name)
    try:
        number = float(value)
    except OverflowError:
        _refuse(value, where, name)
    if not np.isfinite(number):
        _refuse(value, where, name)
    return number


def _refuse(value: object, where: str, name: str) -> NoReturn:
    given = "missing" if value is None else repr(shown(str(value))[:40])
    raise InputError(f"{name}: {shown(where)} is {given}, a number is wanted")


# ---- tables ----


def _from_csv(text: str, name: str) -> Iterator[_Frame]:
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    delimiter = _delimiter(first)
    try:
        header = next(csv.reader([first], delimiter=delimiter), [])
        if "timecode" in (title.strip().lower() for title in header):
            raise InputError(f"{name}: is a Live Link Face take, no table of scores (it has timecodes)")
        rows = [[_cell(cell) for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise InputError(f"{name}: damaged table ({error})") from error
    yield from _from_table(header, rows, "line", 2, name)


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _cell(cell: str) -> object:
    """Return a cell as a number if it is one, None if it is empty, or as it is."""
    try:
        return float(cell) if cell.strip() else None
    except ValueError:
        return cell


def _from_table(
    header: Sequence[object], rows: Sequence[object], row_name: str, first: int, name: str
) -> Iterator[_Frame]:
    """Yield the frames of a table, empty rows left out.

    Args:
        header: Names of the columns.
        rows: Their values.
        row_name: What rows are called in messages, which count from ``first``.
        first: See there.
        name: Of the file.
    """
    titles = [str(title).strip() for title in header]
    columns = {title.lower(): index for index, title in reversed(list(enumerate(titles)))}
    units = [
        (index, found.unit)
        for index, title in enumerate(titles)
        if (found := unit_name(title)) is not None and not found.half
    ]
    if not units:
        raise InputError(f"{name}: not a file of expressions (its columns name no ARKit units)")
    clock = next((key for key in (*_CLOCKS, *_FRAME_NUMBERS) if key in columns), None)
    for number, row in enumerate(rows, start=first):
        where = f"{row_name} {number}"
        if not isinstance(row, list) or (row and len(row) != len(titles)):
            size = f"{len(row)} columns" if isinstance(row, list) else "none"
            raise InputError(f"{name}: {where}: has {size}, the header has {len(titles)}")
        if all(cell is None for cell in row):
            continue
        time = 0.0 if clock is None else _number(row[columns[clock]], f"{where}: {clock}", name)
        tracked = "tracked" not in columns or row[columns["tracked"]] not in (0, False)
        there = any(row[index] is not None for index, _ in units)
        values = np.zeros(len(ARKIT_NAMES))
        for index, unit in units if there else ():
            values[unit] = _number(row[index], f"{where}: {titles[index]}", name)
        yield _Frame(where, clock, time, values if there else None, tracked)
