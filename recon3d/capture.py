"""Capture: what recon3d found in a photograph or a clip, and the file that keeps it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from recon3d._version import GENERATOR
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError
from recon3d.files import atomic_path
from recon3d.media._open import open_regular, shown

Array = npt.NDArray[Any]

FORMAT = "recon3d-capture/1"
#: Unpacked, an hour of 60 frames a second is a quarter of this; a file that claims more is refused unread.
MAX_BYTES = 1 << 30

#: Rates beyond are no camera's and no time-lapse's; a frame's length must be a number.
_RATES = (1e-6, 1e6)

#: Field: dtype, and shape in terms of T frames, S shape, E expression and J joints.
_LAYOUT: Mapping[str, tuple[str, tuple[str | int, ...]]] = {
    "format": ("U", ()),
    "head": ("U", ()),
    "source": ("U", ()),
    "fps": ("f8", ()),
    "timestamps": ("f8", ("T",)),
    "image_size": ("i8", (2,)),
    "focal": ("f8", ()),
    "principal": ("f8", (2,)),
    "shape": ("f4", ("S",)),
    "expression": ("f4", ("T", "E")),
    "pose": ("f4", ("T", "J", 3)),
    "translation": ("f4", ("T", 3)),
    "arkit": ("f4", ("T", 52)),
    "arkit_names": ("U", (52,)),
    "landmarks68": ("f4", ("T", 68, 2)),
    "box": ("f4", ("T", 4)),
    "score": ("f4", ("T",)),
    "tracked": ("?", ("T",)),
}


def _arkit_names() -> npt.NDArray[np.str_]:
    return np.array(ARKIT_NAMES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Capture:
    """One person in a photograph (T = 1) or a clip (T frames); ``len(capture)`` is T.

    Camera-space vertices of frame t are ``head(shape, expression[t], pose[t]).vertices + translation[t]``
    (m; +X right, +Y down, +Z into the scene), and pixels ``focal * X / Z + principal``.

    Values are converted to the stated types and checked when the object is made.

    Attributes:
        head: Name and short sha256 of the head model, ``HeadModel.id``.
        source: Name of the photograph or clip.
        fps: Frames per second; 0 for a photograph.
        timestamps: (T,) float64 s, never falling.
        image_size: (2,) int64 width and height, px.
        focal: Focal length, px.
        principal: (2,) float64 principal point, px.
        shape: (S,) float32 identity coefficients of ``head``.
        expression: (T, E) float32 expression coefficients of ``head``.
        pose: (T, J, 3) float32 axis-angle, rad; joint 0 holds the head-to-camera rotation.
        translation: (T, 3) float32 m, camera space.
        arkit: (T, 52) float32 in [0, 1], in ``ARKIT_NAMES`` order.
        landmarks68: (T, 68, 2) float32 px: the mesh's own iBUG points, projected.
        box: (T, 4) float32 x0, y0, x1, y1 of the face, px.
        score: (T,) float32 in [0, 1]: how sure the face finder was.
        tracked: (T,) bool: false where the face was not seen and the row holds or eases its neighbours.
        arkit_names: (52,) ``ARKIT_NAMES``.
        format: ``"recon3d-capture/1"``.

    Raises:
        InputError: A field has the wrong shape or type, is not finite, or is out of its range.
    """

    head: str
    source: str
    fps: float
    timestamps: npt.NDArray[np.float64]
    image_size: npt.NDArray[np.int64]
    focal: float
    principal: npt.NDArray[np.float64]
    shape: npt.NDArray[np.float32]
    expression: npt.NDArray[np.float32]
    pose: npt.NDArray[np.float32]
    translation: npt.NDArray[np.float32]
    arkit: npt.NDArray[np.float32]
    landmarks68: npt.NDArray[np.float32]
    box: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    tracked: npt.NDArray[np.bool_]
    arkit_names: npt.NDArray[np.str_] = field(default_factory=_arkit_names)
    format: str = FORMAT

    def __post_init__(self) -> None:
        checked = _validated({f.name: getattr(self, f.name) for f in fields(self)})
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in pixels."""
        return int(self.image_size[0]), int(self.image_size[1])

    def save(self, path: str | Path) -> None:
        """Write ``capture.npz``, atomically; the same content gives the same bytes, whenever written.

        Besides the fields the file says which recon3d wrote it, in ``generator``; readers leave that alone.

        Raises:
            OutputError: The file cannot be written.
        """
        arrays = {name: np.asarray(getattr(self, name)) for name in _LAYOUT}
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, generator=np.array(GENERATOR))

    @staticmethod
    def load(path: str | Path) -> Capture:
        """Read a capture file; nothing in it is executed, whatever it holds.

        Raises:
            InputError: Not a capture, damaged, of another version, or with a field that is missing, of the
                wrong shape, not finite or out of its range. The message names which.
        """
        try:
            with open_regular(path) as file:
                arrays = _read_fields(file)
            values: dict[str, Any] = {k: v.item() if v.ndim == 0 else v for k, v in arrays.items()}
            return Capture(**values)
        except _Damage as error:
            raise InputError(f"{shown(path)}: {error}") from error
        except InputError as error:
            if str(error).startswith(shown(path)):
                raise
            raise InputError(f"{shown(path)}: damaged capture: {error}") from error


class _Damage(Exception):
    """What is wrong with a capture file, before its fields can be looked at."""


def _validated(values: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields as the types of ``_LAYOUT``; the one place that says what a capture may hold.

    Raises:
        InputError: A field breaks the contract; the message names it.
    """
    arrays = {name: _converted(name, values[name]) for name in _LAYOUT}
    if str(arrays["format"]) != FORMAT:
        raise InputError(f"format is {str(arrays['format'])!r}, {FORMAT!r} is wanted")
    _check_shapes(arrays)
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InputError(f"{name} holds a value that is not finite")
    _check_ranges(arrays)
    arrays["arkit"] = arrays["arkit"].clip(0.0, 1.0)
    return {k: v.item() if v.ndim == 0 else v for k, v in arrays.items()}


def _converted(name: str, value: object) -> Array:
    """Return one field as a C-contiguous array of its type, where that loses nothing that matters."""
    kind = np.dtype(_LAYOUT[name][0]).kind
    array = np.asarray(value)
    fits = {"U": "U", "b": "b", "i": "iu", "f": "fiu"}[kind]
    if array.dtype.kind not in fits and array.size:
        raise InputError(f"{name} holds {array.dtype}, {np.dtype(_LAYOUT[name][0]).name} is wanted")
    if kind != "U":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused as such
            array = array.astype(_LAYOUT[name][0])
    return np.array(array, order="C")


def _check_shapes(arrays: Mapping[str, Array]) -> None:
    """Check every shape, with T, S, E and J taken from the fields that define them."""
    for name, ndim in (("timestamps", 1), ("shape", 1), ("expression", 2), ("pose", 3)):
        if arrays[name].ndim != ndim:
            raise InputError(f"{name} has {arrays[name].ndim} dimensions, {ndim} are wanted")
    sizes = {
        "T": arrays["timestamps"].shape[0],
        "S": arrays["shape"].shape[0],
        "E": arrays["expression"].shape[1],
        "J": arrays["pose"].shape[1],
    }
    if 0 in (sizes["T"], sizes["J"]):
        raise InputError("timestamps is empty" if sizes["T"] == 0 else "pose has no joints")
    for name, (_, layout) in _LAYOUT.items():
        wanted = tuple(sizes[n] if isinstance(n, str) else n for n in layout)
        if arrays[name].shape != wanted:
            raise InputError(f"{name} has shape {arrays[name].shape}, {wanted} is wanted")


def _check_ranges(arrays: Mapping[str, Array]) -> None:
    if tuple(arrays["arkit_names"].tolist()) != ARKIT_NAMES:
        raise InputError("arkit_names are not the 52 ARKit units in their order")
    for name in ("arkit", "score"):
        if arrays[name].min() < -1e-6 or arrays[name].max() > 1 + 1e-6:
            raise InputError(f"{name} leaves [0, 1]")
    if arrays["image_size"].min() < 1:
        raise InputError("image_size is not positive")
    if arrays["focal"] <= 0:
        raise InputError("focal is not positive")
    if arrays["fps"] < 0:
        raise InputError("fps is negative")
    if arrays["fps"] > 0 and not _RATES[0] <= arrays["fps"] <= _RATES[1]:
        raise InputError(f"fps is {float(arrays['fps']):g}, which is no frame rate")
    if (np.diff(arrays["timestamps"]) < 0).any():
        raise InputError("timestamps run backwards")


def _read_fields(file: BinaryIO) -> dict[str, Array]:
    """Read the known fields of an ``.npz``; others, which a later version may add, are left alone."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {m.filename: m for m in archive.infolist()}
            if "format.npy" not in members:
                raise _Damage("not a capture file")
            if sum(m.file_size for m in members.values()) > MAX_BYTES:
                raise _Damage(f"too large: unpacks to more than {MAX_BYTES >> 20} MiB")
            format_name = str(_read_array(archive, members["format.npy"]))
            if format_name != FORMAT:
                raise _Damage(f"is of format {shown(format_name)!r}; this version reads {FORMAT!r}")
            missing = [name for name in _LAYOUT if f"{name}.npy" not in members]
            if missing:
                raise _Damage(f"damaged capture: {', '.join(missing)} missing")
            return {name: _read_array(archive, members[f"{name}.npy"]) for name in _LAYOUT}
    except zipfile.BadZipFile as error:
        magic = _starts_like_zip(file)
        raise _Damage("damaged capture (incomplete or altered)" if magic else "not a capture file") from error
    except (OSError, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise _Damage(f"damaged capture ({error})") from error


def _starts_like_zip(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(2) == b"PK"


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read one array, after its header agreed with the bytes that follow: no pickles, no huge claims."""
    name = member.filename.removesuffix(".npy")
    if member.file_size > MAX_BYTES:
        raise _Damage(f"damaged capture: {name} is too large")
    with archive.open(member) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read(stream)
            if dtype.hasobject:
                raise _Damage(f"damaged capture: {name} holds Python objects")
            count = int(np.prod([int(n) for n in shape], dtype=object))
            if stream.tell() + count * dtype.itemsize != member.file_size:
                raise _Damage(f"damaged capture: {name} does not have the size it claims")
        except (ValueError, KeyError, TypeError, SyntaxError, OverflowError) as error:
            raise _Damage(f"damaged capture: {name} has no readable header") from error
    with archive.open(member) as stream:
        try:
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, TypeError) as error:
            raise _Damage(f"damaged capture: {name} cannot be read ({error})") from error
    return array
