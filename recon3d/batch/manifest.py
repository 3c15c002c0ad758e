"""Manifests: a CSV table with a header, or JSON objects line by line, of what a batch shall do.

``path`` is wanted; ``id`` and ``kind`` may be there, and any of the options of an item. A column whose name
begins with ``_`` is left alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from recon3d.batch.ids import check_id, ids_of, key_of, safe_id
from recon3d.batch.options import ItemOptions, Kind
from recon3d.batch.source import Broken, Item, any_mark, item_kind, resolved
from recon3d.batch.storage import Unsteady, is_url, local_path, open_place, plain_errors
from recon3d.errors import InputError, Recon3DError, UsageError
from recon3d.media._open import open_regular, shown

#: Larger manifests, bytes, are refused: a hundred thousand lines have some ten million.
MAX_BYTES = 512 << 20
_NAMES = ("path", "id", "kind")

Row = tuple[int, Mapping[str, Any] | Recon3DError]


def read_manifest(source: str, options: ItemOptions) -> Iterator[Item | Broken]:
    """Yield the items of a manifest, and its broken rows.

    Relative paths start from the manifest. What is wrong with a row, a missing file included, is told with
    its line.

    Args:
        source: Path or URL of the manifest.
        options: How items are done, but for what the rows say.

    Raises:
        InputError: The manifest cannot be read, or has no rows.
        UsageError: Two rows have the same id; or a column is no option.
    """
    rows = list(_rows(source))
    if not rows:
        raise InputError(f"{shown(source)}: no rows in this manifest")
    checked: list[_Checked | Broken] = [_check(source, line, row, options) for line, row in rows]
    _refuse_twins(source, checked)
    free = [one for one in checked if isinstance(one, _Checked) and not one.id]
    named = dict(zip((one.line for one in free), _free_ids(checked, free), strict=True))
    for one in checked:
        yield one if isinstance(one, Broken) else one.item(source, named.get(one.line, one.id))


class _Checked:
    """A row that says what it should."""

    def __init__(self, line: int, given: str, uri: str, name: str, kind: Kind, options: ItemOptions) -> None:
        self.line, self.given, self.uri = line, given, uri
        self.id, self.kind, self.options = name, kind, options

    def item(self, source: str, name: str) -> Item | Broken:
        """Return the item, if its file is there."""
        try:
            return Item(name, self.uri, self.kind, any_mark(self.uri), self.options)
        except Recon3DError as error:
            return Broken(_place(source, self.line), error)


def _check(
    source: str, line: int, row: Mapping[str, Any] | Recon3DError, options: ItemOptions
) -> _Checked | Broken:
    name = _place(source, line)
    if isinstance(row, Recon3DError):
        return Broken(name, row)
    try:
        given = row.get("path")
        if not isinstance(given, str) or not given.strip():
            raise UsageError("no path in this row")
        uri = resolved(given.strip(), source)
        wanted = row.get("kind") or item_kind(uri)
        if wanted not in ("clip", "photo"):
            raise UsageError(f"kind {wanted!r}: clip or photo is wanted")
        kind: Kind = "clip" if wanted == "clip" else "photo"
        named = row.get("id")
        called = "" if named in (None, "") else check_id(str(named))
        values = {k: v for k, v in row.items() if k not in _NAMES and v not in (None, "")}
        folder = local_path(source)
        mine = options.changed(values, None if folder is None else folder.absolute().parent)
        if values:
            mine.check()
        return _Checked(line, given.strip(), uri, called, kind, mine)
    except Recon3DError as error:
        return Broken(name, error)


def _free_ids(checked: list[_Checked | Broken], free: list[_Checked]) -> list[str]:
    """Return ids for the rows without one: of their paths, as in a search; none that another row gives."""
    paths = [one.given for one in free]
    pure = [path.split("://", 1)[-1].split("::")[0].lstrip("/") if is_url(path) else path for path in paths]
    relative = ["/".join(part for part in path.split("/") if part not in ("..", "")) for path in pure]
    taken = {key_of(one.id) for one in checked if isinstance(one, _Checked) and one.id}
    return [
        name if key_of(name) not in taken else safe_id(f"{name}~{one.line}")
        for name, one in zip(ids_of(relative), free, strict=True)
    ]


def _refuse_twins(source: str, checked: list[_Checked | Broken]) -> None:
    """Refuse two rows with one id, and two rows without that name the same file."""
    seen: dict[tuple[str, str], int] = {}
    for one in checked:
        if isinstance(one, Broken):
            continue
        key = ("id", key_of(one.id)) if one.id else ("path", one.uri)
        if key in seen:
            what = one.id if one.id else one.given
            raise UsageError(
                f"{shown(source)}: lines {seen[key]} and {one.line} have the same {key[0]} {what!r}; "
                "each row needs an id of its own"
            )
        seen[key] = one.line


def _place(source: str, line: int) -> str:
    return f"{source}:{line}"


def _rows(source: str) -> Iterator[Row]:
    with _opened(source) as file:
        if source.lower().endswith(".csv"):
            yield from _csv_rows(source, file)
        else:
            yield from _json_rows(file)


def _opened(source: str) -> TextIO:
    path = local_path(source)
    if path is not None:
        with open_regular(path) as raw:
            return _decoded(source, raw.read(MAX_BYTES + 1))
    filesystem, name = open_place(source)
    try:
        with plain_errors(source), filesystem.open(name, "rb") as remote:
            return _decoded(source, remote.read(MAX_BYTES + 1))
    except Unsteady as error:
        raise InputError(str(error)) from error


def _decoded(source: str, data: bytes) -> TextIO:
    if len(data) > MAX_BYTES:
        raise InputError(f"{shown(source)}: larger than {MAX_BYTES >> 20} MiB; cut it into several")
    try:
        return io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(source)}: not a text in UTF-8 (byte {error.start})") from error


def _csv_rows(source: str, file: TextIO) -> Iterator[Row]:
    reader = csv.reader(file)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(source, header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                wrong = f"{len(cells)} values in a row, but {len(header)} columns"
                yield reader.line_num, UsageError(wrong)
                continue
            values = {k: v.strip() for k, v in zip(header, cells, strict=False) if k and k[0] != "_"}
            yield reader.line_num, values
    except csv.Error as error:
        yield reader.line_num, InputError(f"not CSV from here on ({error}); the rest is left out")


def _check_header(source: str, header: list[str]) -> None:
    if "path" not in header:
        raise UsageError(f"{shown(source)}: no column 'path' in its first line")
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise UsageError(f"{shown(source)}: two columns {twice[0]!r}")
    known = ItemOptions.__dataclass_fields__
    for name in header:
        if name and name[0] != "_" and name not in _NAMES and name.replace("-", "_") not in known:
            raise UsageError(
                f"{shown(source)}: there is no option {name!r}; there are {', '.join((*_NAMES, *known))}. "
                "A column whose name begins with _ is left alone"
            )


def _json_rows(file: TextIO) -> Iterator[Row]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            yield line, InputError("not JSON")
            continue
        if not isinstance(row, dict):
            yield line, InputError("not a JSON object")
            continue
        yield line, {k: v for k, v in row.items() if k and k[0] != "_"}
