"""multipart/form-data from the network into files, piece by piece, and never more of it than is allowed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from recon3d.serve.problems import Refused
from recon3d.serve.settings import ServeSettings
from recon3d.serve.storage import Storage, display_name

#: The field that files are sent in.
FILES = "files"
#: Bytes of a field that is no file, and how many of these there may be.
_LONGEST_FIELD, _MOST_FIELDS = 1000, 16
#: The rest of a request beside the files: fields, headers, boundaries.
_SLACK = 64_000
#: Bytes that are written at a time.
_PIECE = 1 << 18


@dataclass(frozen=True)
class Upload:
    """A file that has come in: where it lies, what its sender calls it, and its bytes."""

    path: Path
    name: str
    size: int


@dataclass
class Form:
    """A form that has come in; ``fields`` keeps all values of each name."""

    uploads: list[Upload] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)

    def remove(self) -> None:
        """Remove the files that nobody has adopted."""
        for upload in self.uploads:
            upload.path.unlink(missing_ok=True)


async def receive(request: Request, storage: Storage, settings: ServeSettings) -> Form:
    """Read a request's form. Its files are the caller's to remove, unless this raises.

    Raises:
        Refused: It is no form, too large, or does not arrive.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    boundary = parameters.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refused(415, "files are sent as multipart/form-data, with a boundary")
    announced = request.headers.get("content-length", "")
    limit = settings.max_upload + _SLACK
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(settings)
    reader = _Reader(boundary, storage, settings)
    try:
        received = 0
        async for piece in _pieces(request, settings.upload_stall):
            received += len(piece)
            if received > limit:
                raise _too_large(settings)
            await run_in_threadpool(reader.feed, piece)
        return await run_in_threadpool(reader.finish)
    except BaseException:
        reader.abandon()
        raise


async def _pieces(request: Request, patience: float) -> AsyncIterator[bytes]:
    """Yield the body in pieces worth a thread's while.

    Raises:
        Refused: It stops coming.
    """
    stream, waiting = request.stream().__aiter__(), bytearray()
    try:
        while True:
            try:
                waiting += await asyncio.wait_for(anext(stream), patience)
            except StopAsyncIteration:
                break
            if len(waiting) >= _PIECE:
                yield bytes(waiting)
                waiting.clear()
    except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
        raise Refused(408, f"nothing came for {patience:.0f} s; send it again") from error
    except ClientDisconnect as error:
        raise Refused(400, "the connection ended before the upload did") from error
    if waiting:
        yield bytes(waiting)


class _Reader:
    """Takes a form apart; files go to the disk as they come."""

    def __init__(self, boundary: bytes, storage: Storage, settings: ServeSettings) -> None:
        self._storage, self._settings = storage, settings
        self._form = Form()
        self._name = self._filename = ""
        self._header = self._header_value = b""
        self._disposition = b""
        self._text: bytearray | None = None
        self._file: BinaryIO | None = None
        self._path = Path()
        self._size = self._total = self._fields = 0
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_comes,
                    "on_header_value": self._header_value_comes,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data_comes,
                    "on_part_end": self._part_ends,
                    "on_end": self._ends,
                },
                max_size=math.inf,
            )
        except FormParserError as error:
            raise Refused(400, "the form's boundary cannot be used") from error

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            Refused: It is no form, or more than is allowed.
        """
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Refused(400, "not a form: its parts cannot be told apart") from error
        except OSError as error:
            raise Refused(507, "there is no room for the upload on this server's disk") from error

    def finish(self) -> Form:
        """Return the form.

        Raises:
            Refused: It was cut off, or held no file.
        """
        if not self._complete:
            raise Refused(400, "the form ends before its last boundary")
        if not self._form.uploads:
            raise Refused(422, f"no file in the form; files go into the field {FILES!r}")
        return self._form

    def abandon(self) -> None:
        """Remove what has come."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
        self._form.remove()

    # ---- what the parser calls ----

    def _part_begins(self) -> None:
        self._disposition, self._name, self._filename = b"", "", ""
        self._text, self._file = None, None

    def _header_comes(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value_comes(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.strip().lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header = self._header_value = b""

    def _headers_end(self) -> None:
        kind, parameters = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in parameters:
            raise Refused(400, "a part of the form has no name")
        self._name = parameters[b"name"].decode("utf-8", "replace")
        if b"filename" in parameters:
            self._begin_file(parameters[b"filename"].decode("utf-8", "replace"))
        else:
            self._begin_text()

    def _begin_file(self, filename: str) -> None:
        if self._name != FILES:
            raise Refused(422, f"files go into the field {FILES!r}, not {display_name(self._name)!r}")
        if len(self._form.uploads) >= self._settings.max_files:
            raise Refused(413, f"more than {self._settings.max_files} files in one request; send fewer")
        self._filename, self._size = display_name(filename), 0
        self._path = self._storage.new_upload()
        self._file = self._path.open("xb")

    def _begin_text(self) -> None:
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise Refused(422, f"more than {_MOST_FIELDS} options")
        self._text = bytearray()

    def _data_comes(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._size += end - start
            self._total += end - start
            if self._total > self._settings.max_upload:
                raise _too_large(self._settings)
            self._file.write(data[start:end])
        elif self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _LONGEST_FIELD:
                raise Refused(422, f"the option {display_name(self._name)!r} is too long")

    def _part_ends(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._form.uploads.append(Upload(self._path, self._filename, self._size))
        elif self._text is not None:
            self._form.fields.setdefault(self._name, []).append(self._text.decode("utf-8", "replace"))

    def _ends(self) -> None:
        self._complete = True


def _too_large(settings: ServeSettings) -> Refused:
    return Refused(413, f"more than the {settings.max_upload / 1e6:.0f} MB that one request may bring")
