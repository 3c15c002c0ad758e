"""Zip archives that are sent while they are made: a piece in memory at a time."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_PIECE = 1 << 18


class _Sink(io.RawIOBase):
    """Holds what has been written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._held += view
        return view.nbytes

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken


def stream_zip(entries: Sequence[tuple[str, Path]], when: float) -> Iterator[bytes]:
    """Yield a zip archive.

    Args:
        entries: Names in the archive, and the files.
        when: The time that all of them are given, seconds since 1970.
    """
    sink = _Sink()
    stamp = max(time.gmtime(when)[:6], (1980, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, path in entries:
            entry = zipfile.ZipInfo(name, stamp)
            entry.external_attr = 0o644 << 16
            small = path.suffix in (".mp4", ".jpg", ".npz")  # as small as it gets already
            entry.compress_type = zipfile.ZIP_STORED if small else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()
