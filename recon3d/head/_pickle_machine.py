"""The stack machine that reads a pickle as plain data; ``_unpickle.py`` says why it is safe."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any

from recon3d.head._pickle_names import (
    MAKERS,
    Instance,
    Unreadable,
    build,
    damaged,
    make_instance,
    named,
    role,
    text,
)

#: FLAME's own files take some hundreds of opcodes.
MAX_STEPS = 50_000
_MAX_LINE = 256
_NO_LIMIT = 1 << 62


class Machine:
    """Reads one pickle out of ``data``; afterwards ``at`` is where it ended."""

    def __init__(self, data: bytes, at: int = 0, *, storage: bool = False) -> None:
        """Begin at byte ``at``; ``storage`` allows what torch's storages need and nothing else does."""
        self.data = data
        self.at = at
        self.storage = storage
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self._below: list[list[object]] = []
        self._encoded = 0

    def run(self) -> object:
        """Return what the pickle holds.

        Raises:
            Unreadable: It is damaged, no pickle, too long, or asks for what no head model needs.
        """
        wrong = (LookupError, ValueError, TypeError, ArithmeticError, struct.error, MemoryError, Warning)
        for _ in range(MAX_STEPS):
            start = self.at
            code = self.take(1)
            if code == b"." and self.stack:
                return self.stack.pop()
            try:
                _STEPS[code](self)
            except wrong as error:
                raise damaged(f"no pickle from byte {start:,} on") from error
        raise Unreadable("holds far more parts than a head model has")

    def take(self, count: int) -> bytes:
        """Cut the next bytes out of the file."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise damaged("it ends too early")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form: str) -> Any:
        """Read a number of one of ``struct``'s forms."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self, most: int = _MAX_LINE) -> bytes:
        """Read up to the next line end, which is left out."""
        end = self.data.find(b"\n", self.at, self.at + most + 1)
        if end < 0:
            raise damaged("it ends too early")
        return self.take(end + 1 - self.at)[:-1]

    def mark(self) -> None:
        """Begin a row of values; what lies below is out of reach until the row ends."""
        self._below.append(self.stack)
        self.stack = []

    def row(self) -> list[object]:
        """End the row begun last and return its values."""
        row, self.stack = self.stack, self._below.pop()
        return row

    def last(self, count: int) -> list[object]:
        """Take the last values off the stack, in their order."""
        if count > len(self.stack):
            raise damaged("values are missing")
        row = self.stack[-count:]
        del self.stack[-count:]
        return row

    def remember(self, index: int) -> None:
        """Put the topmost value into the memo, which is a dictionary: a large index costs nothing."""
        if not 0 <= index < 1 << 32:
            raise damaged("a memo of an impossible number")
        self.memo[index] = self.stack[-1]

    def encode(self, words: object, encoding: object) -> bytes:
        """Undo what Python 3 does to bytes in old protocols; altogether once for every byte of the file."""
        if not isinstance(words, str) or text(encoding) not in ("latin1", "latin-1"):
            raise damaged("bytes in an unknown encoding")
        self._encoded += len(words)
        if self._encoded > len(self.data):
            raise Unreadable("unpacks to more than it holds, as no head model does")
        return words.encode("latin1")


_Step = Callable[[Machine], None]


def _pushing(value: Callable[[Machine], object]) -> _Step:
    def step(machine: Machine) -> None:
        made = value(machine)  # first, for it may end a row, and with it the stack of now
        machine.stack.append(made)

    return step


def _sized(form: str, convert: Callable[[bytes], object]) -> _Step:
    """Make a step that reads a length, and as many bytes."""
    return _pushing(lambda machine: convert(machine.take(machine.number(form))))


def _refused(name: str) -> _Step:
    def step(_: Machine) -> None:
        raise Unreadable(f"uses {name}, which no head model needs; nothing of the file was run")

    return step


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _integer(raw: bytes) -> int:
    """Read a little-endian integer; long ones would only cost time."""
    if len(raw) > 16:
        raise damaged("an integer of many digits")
    return int.from_bytes(raw, "little", signed=True)


def _decimal(raw: bytes) -> int:
    """Read an integer written in digits; ``00`` and ``01`` are how protocol 0 writes false and true."""
    if raw in (b"00", b"01"):
        return raw == b"01"
    if not re.fullmatch(rb"[-+]?\d{1,38}", raw):
        raise damaged("an integer that is none")
    return int(raw)


def _quoted(raw: bytes) -> bytes:
    """Read a string as Python 2 prints it: in quotes, with escapes."""
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise damaged("a string without quotes")
    plain, _ = codecs.escape_decode(raw[1:-1])
    return plain


def _fill(target: object, row: list[object]) -> dict[object, object]:
    """Set the entries of a dictionary: keys and values by turns."""
    if not isinstance(target, dict) or len(row) % 2:
        raise damaged("entries for what is no dictionary")
    for i in range(0, len(row), 2):
        target[_key(row[i])] = row[i + 1]
    return target


def _key(value: object) -> object:
    """Return a dictionary's key: a text, or an integer so small that it has a hash of its own."""
    return value if type(value) is int and abs(value) < 1 << 60 else text(value)


def _extend(target: object, row: list[object]) -> None:
    if not isinstance(target, list):
        raise damaged("items for what is no list")
    target.extend(row)


def _call(machine: Machine) -> object:
    """Do what calling a known name would; the name decides which function of ours that is, nothing else."""
    name, arguments = machine.last(2)
    wanted = role(name)
    if not isinstance(arguments, tuple) or len(arguments) > 16 or wanted not in (*MAKERS, "encode"):
        raise Unreadable("calls what no head model needs to call; nothing of the file was run")
    return machine.encode(*arguments) if wanted == "encode" else MAKERS[wanted](*arguments)


def _new(machine: Machine) -> Instance:
    kind, arguments = machine.last(2)
    if not isinstance(arguments, tuple) or arguments:
        raise damaged("an instance with arguments")
    return make_instance(kind)


def _persistent(machine: Machine) -> object:
    """Return a torch storage's description of itself, the only persistent id there may be."""
    if not machine.storage:
        raise Unreadable("uses persistent ids, which no head model needs; nothing of the file was run")
    return machine.last(1)[0]


def _check_protocol(machine: Machine) -> None:
    if machine.number("<B") > 5:
        raise damaged("a pickle of an unknown version")


def _check_frame(machine: Machine) -> None:
    if machine.number("<Q") > len(machine.data) - machine.at:
        raise damaged("it ends too early")


def _drop(machine: Machine) -> None:
    machine.last(1)


def _drop_row(machine: Machine) -> None:
    machine.row()


def _append(machine: Machine) -> None:
    row = machine.last(1)
    _extend(machine.stack[-1], row)


def _append_row(machine: Machine) -> None:
    row = machine.row()
    _extend(machine.stack[-1], row)


def _set(machine: Machine) -> None:
    row = machine.last(2)
    _fill(machine.stack[-1], row)


def _set_row(machine: Machine) -> None:
    row = machine.row()
    _fill(machine.stack[-1], row)


def _build(machine: Machine) -> None:
    (state,) = machine.last(1)
    build(machine.stack[-1], state)


_STEPS: dict[bytes, _Step] = {
    b"\x80": _check_protocol,
    b"\x95": _check_frame,
    b"(": Machine.mark,
    b"0": _drop,
    b"1": _drop_row,
    b"2": _pushing(lambda m: m.stack[-1]),
    # Single values
    b"N": _pushing(lambda m: None),
    b"\x88": _pushing(lambda m: True),
    b"\x89": _pushing(lambda m: False),
    b"I": _pushing(lambda m: _decimal(m.line())),
    b"L": _pushing(lambda m: _decimal(m.line().removesuffix(b"L"))),
    b"F": _pushing(lambda m: float(m.line())),
    b"K": _pushing(lambda m: m.number("<B")),
    b"M": _pushing(lambda m: m.number("<H")),
    b"J": _pushing(lambda m: m.number("<i")),
    b"G": _pushing(lambda m: m.number(">d")),
    b"\x8a": _sized("<B", _integer),
    b"\x8b": _sized("<i", _integer),
    # Strings of Python 2, bytes, and texts
    b"S": _pushing(lambda m: _quoted(m.line(_NO_LIMIT))),
    b"U": _sized("<B", bytes),
    b"T": _sized("<i", bytes),
    b"C": _sized("<B", bytes),
    b"B": _sized("<I", bytes),
    b"\x8e": _sized("<Q", bytes),
    b"\x96": _sized("<Q", bytes),
    b"V": _pushing(lambda m: m.line(_NO_LIMIT).decode("raw_unicode_escape")),
    b"X": _sized("<I", _utf8),
    b"\x8c": _sized("<B", _utf8),
    b"\x8d": _sized("<Q", _utf8),
    # Containers; sets are lists
    b")": _pushing(lambda m: ()),
    b"]": _pushing(lambda m: []),
    b"}": _pushing(lambda m: {}),
    b"\x8f": _pushing(lambda m: []),
    b"t": _pushing(lambda m: tuple(m.row())),
    b"\x85": _pushing(lambda m: tuple(m.last(1))),
    b"\x86": _pushing(lambda m: tuple(m.last(2))),
    b"\x87": _pushing(lambda m: tuple(m.last(3))),
    b"l": _pushing(Machine.row),
    b"\x91": _pushing(Machine.row),
    b"d": _pushing(lambda m: _fill({}, m.row())),
    b"a": _append,
    b"e": _append_row,
    b"\x90": _append_row,
    b"s": _set,
    b"u": _set_row,
    # The memo
    b"p": lambda m: m.remember(_decimal(m.line())),
    b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": _pushing(lambda m: m.memo[_decimal(m.line())]),
    b"h": _pushing(lambda m: m.memo[m.number("<B")]),
    b"j": _pushing(lambda m: m.memo[m.number("<I")]),
    # Names, and what is made of them
    b"c": _pushing(lambda m: named(m.line(), m.line(), storage=m.storage)),
    b"\x93": _pushing(lambda m: named(*m.last(2), storage=m.storage)),
    b"R": _pushing(_call),
    b"\x81": _pushing(_new),
    b"b": _build,
    b"Q": _pushing(_persistent),
    b"P": _refused("persistent ids"),
    b"i": _refused("old-style instances"),
    b"o": _refused("old-style instances"),
    b"\x92": _refused("instances with named arguments"),
    b"\x82": _refused("the extension registry"),
    b"\x83": _refused("the extension registry"),
    b"\x84": _refused("the extension registry"),
    b"\x97": _refused("buffers from outside"),
    b"\x98": _refused("buffers from outside"),
}
