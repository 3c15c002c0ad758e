"""What a pickle of a head model may name, and the plain data that is made of it; see ``_unpickle.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from recon3d.media._open import shown

Array = npt.NDArray[Any]

_MAX_NAME = 256


class Unreadable(Exception):
    """What is wrong with a file or with a value of it; the reader puts the file's name before it."""


def damaged(what: str) -> Unreadable:
    """Say that a file is damaged, and how."""
    return Unreadable(f"damaged ({what}); get the file again")


# --- Stand-ins. None of them compares or prints what it holds, which may hold itself. -----------------------


@dataclass(frozen=True, eq=False, repr=False)
class Name:
    """A class or function that the file names; to us a mere name."""

    full: str
    role: str


@dataclass(eq=False, repr=False)
class Instance:
    """An instance of a class of chumpy or scipy.sparse: the name of the class, and what was stored of it."""

    kind: str
    state: dict[object, object] | None = None


@dataclass(eq=False, repr=False)
class StoredArray:
    """An array as stored: ``values`` for numbers and texts, ``items`` for objects."""

    values: Array | None = None
    items: list[object] | None = None


@dataclass(eq=False, repr=False)
class NumberType:
    """A type of numbers by its code (``f8``), None for objects; the byte order comes with the state."""

    code: str | None
    order: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Storage:
    """The numbers of a torch tensor, not yet looked at."""

    data: bytes


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """A torch tensor: some numbers of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


# --- Names -------------------------------------------------------------------------------------------------

_ROLES = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "view",
    "numpy._core.numeric._frombuffer": "view",
    "numpy.ndarray": "array class",
    "numpy.matrix": "array class",
    "numpy.matrixlib.defmatrix.matrix": "array class",
    "numpy.dtype": "type",
    "copy_reg._reconstructor": "instance",
    "copyreg._reconstructor": "instance",
    "__builtin__.object": "object",
    "builtins.object": "object",
    "__builtin__.set": "set",
    "builtins.set": "set",
    "__builtin__.bytes": "bytes",
    "_codecs.encode": "encode",
    "collections.OrderedDict": "dictionary",
    "torch._utils._rebuild_tensor_v2": "tensor",
    "torch.storage._load_from_bytes": "storage",
}
#: Type of the numbers by the name of torch's storage; only a storage itself may name these.
STORAGES = {
    "torch.HalfStorage": "f2",
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.IntStorage": "i4",
    "torch.LongStorage": "i8",
}
SPARSE = re.compile(r"scipy\.sparse\.(_?(csc|csr|coo)\.)?(?P<form>csc|csr|coo)_(matrix|array)", re.ASCII)
_CHUMPY = re.compile(r"chumpy(\.[A-Za-z_]\w*)+", re.ASCII)
_CODE = re.compile(r"f[248]|[iu][1248]|b1|[SU][1-9]\d{0,4}", re.ASCII)


def text(value: object) -> str:
    """Return a stored text: of Python 3, or a string of Python 2, or the only element of an array of texts.

    Raises:
        Unreadable: It is something else, or too long for a name.
    """
    if isinstance(value, StoredArray):
        value = value.values
    if isinstance(value, np.ndarray) and value.size == 1:
        value = _letters(value)
    if isinstance(value, (str, bytes)) and len(value) <= _MAX_NAME:
        return value if isinstance(value, str) else value.decode("latin1")
    raise damaged("something else where a name should be")


def _letters(array: Array) -> object:
    """Return an array's only element; None where it is a text of letters that do not exist."""
    try:
        return array.item()
    except ValueError:
        return None


def named(module: object, name: object, *, storage: bool) -> Name:
    """Look up a name of the file; ``storage`` if it stands in a torch storage.

    Raises:
        Unreadable: No head model needs it.
    """
    full = f"{text(module)}.{text(name)}"
    if full in _ROLES:
        return Name(full, _ROLES[full])
    if _CHUMPY.fullmatch(full) or SPARSE.fullmatch(full):
        return Name(full, "class")
    if storage and full in STORAGES:
        return Name(full, "storage type")
    raise Unreadable(f"asks for {shown(full)}, which no head model needs; nothing of the file was run")


def role(value: object) -> str:
    """Return what a name of the file stands for; nothing for what is no name."""
    return value.role if isinstance(value, Name) else ""


# --- Arrays ------------------------------------------------------------------------------------------------


def number_type(code: str, order: str) -> np.dtype[Any]:
    """Return numpy's type of a code like ``f8``, ``u4``, ``b1``, ``S5`` or ``U3``.

    Raises:
        Unreadable: It is neither numbers nor text.
    """
    if not _CODE.fullmatch(code) or order not in ("<", ">", "|", "="):
        raise damaged(f"an array of type {shown(order + code)}, which is neither numbers nor text")
    return np.dtype(order.replace("=", "<") + code)


def checked_shape(value: object) -> tuple[int, ...]:
    """Return an array's shape, if it is one.

    Raises:
        Unreadable: It is none, or of a size that no array has.
    """
    if not isinstance(value, tuple) or len(value) > 8:
        raise damaged("an array without a shape")
    if not all(type(n) is int and 0 <= n < 1 << 31 for n in value):
        raise damaged("an array of an impossible shape")
    return cast("tuple[int, ...]", value)


def count(shape: tuple[int, ...]) -> int:
    """Return how many elements a shape has; Python's integers do not overflow."""
    elements = 1
    for n in shape:
        elements *= n
    return elements


def view(raw: object, kind: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> Array:
    """See bytes as an array.

    Raises:
        Unreadable: They are no bytes, or not just as many as it takes.
    """
    if not isinstance(raw, bytes):
        raise damaged("an array without its bytes")
    if count(shape) * kind.itemsize != len(raw):
        raise damaged("an array does not have the size it claims")
    if not raw:
        return np.zeros(shape, kind)
    return np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C")


def _numpy_type(value: object) -> np.dtype[Any]:
    if not isinstance(value, NumberType) or value.code is None:
        raise damaged("an array that does not tell what numbers it holds")
    return number_type(value.code, value.order or "<")


# --- What is made where Python would call what a name stands for -------------------------------------------


def _make_type(code: object, *_: object) -> NumberType:
    name = text(code)
    if name in ("O", "O4", "O8"):
        return NumberType(None)
    number_type(name, "<")
    return NumberType(name)


def _make_array(kind: object, *_: object) -> StoredArray:
    if role(kind) != "array class":
        raise damaged("an array of an unknown class")
    return StoredArray()


def _make_scalar(kind: object, raw: object) -> StoredArray:
    return StoredArray(view(raw, _numpy_type(kind), (), False))


def _make_view(raw: object, kind: object, shape: object, order: object) -> StoredArray:
    return StoredArray(view(raw, _numpy_type(kind), checked_shape(shape), text(order) == "F"))


def make_instance(kind: object, base: object = None, state: object = None) -> Instance:
    """Make an instance without its state.

    Raises:
        Unreadable: It is of no class that may be named, or made of something else.
    """
    if not isinstance(kind, Name) or kind.role != "class":
        raise damaged("an instance of no class")
    if state is not None or not (base is None or role(base) == "object"):
        raise damaged("an instance made of another one")
    return Instance(kind.full)


def _make_set(items: object = ()) -> object:
    """Leave a set's items as they are: nobody asks for them, and they need not be hashable."""
    return items


def _make_storage(data: object) -> Storage:
    if not isinstance(data, bytes):
        raise damaged("a tensor without its bytes")
    return Storage(data)


def _make_tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> Tensor:
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise damaged("a tensor without its numbers")
    return Tensor(storage, offset, checked_shape(shape), checked_shape(stride))


#: By role; each takes a constant time and keeps references to what it is given, or views.
MAKERS: dict[str, Callable[..., object]] = {
    "array": _make_array,
    "scalar": _make_scalar,
    "view": _make_view,
    "type": _make_type,
    "instance": make_instance,
    "set": _make_set,
    "bytes": lambda: b"",
    "dictionary": lambda: {},
    "tensor": _make_tensor,
    "storage": _make_storage,
}


# --- State -------------------------------------------------------------------------------------------------


def build(made: object, state: object) -> None:
    """Give an array, a type or an instance what was stored of it; each once.

    Raises:
        Unreadable: It takes none, has it already, or the parts do not agree.
    """
    if isinstance(made, StoredArray):
        _build_array(made, state)
    elif isinstance(made, NumberType):
        _build_type(made, state)
    elif isinstance(made, Instance) and made.state is None and isinstance(state, dict):
        made.state = state
    else:
        raise damaged("a state for what takes none")


def _build_array(array: StoredArray, state: object) -> None:
    """Fill an array: version (newer files only), shape, type, Fortran order, and the bytes or objects."""
    empty = array.values is None and array.items is None
    if not empty or not isinstance(state, tuple) or len(state) not in (4, 5):
        raise damaged("an array without its state")
    shape, kind, fortran, raw = state[-4:]
    if not isinstance(kind, NumberType) or kind.code is not None:
        array.values = view(raw, _numpy_type(kind), checked_shape(shape), bool(fortran))
    elif isinstance(raw, list) and len(raw) == count(checked_shape(shape)):
        array.items = raw
    else:
        raise damaged("an array does not have the size it claims")


def _build_type(kind: NumberType, state: object) -> None:
    """Take a type's byte order; sub-arrays, fields and metadata are refused."""
    if kind.order or not isinstance(state, tuple) or len(state) not in (8, 9):
        raise damaged("a type of numbers without its state")
    if any(part is not None for part in state[2:5]) or (len(state) == 9 and state[8]):
        raise damaged("an array of records, where numbers are wanted")
    kind.order = text(state[1])
    if kind.code is not None:
        number_type(kind.code, kind.order)
