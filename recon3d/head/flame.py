"""FLAME's own files as a head model: a reader for each release's ``.pkl``, and for ``.npz`` made of it.

T. Li, T. Bolkart, M. J. Black, H. Li, J. Romero, "Learning a model of facial shape and expression from 4D
scans", ACM Transactions on Graphics 36(6), 2017; https://flame.is.tue.mpg.de, under its own licences. Axes
and units are ours: metres, +Y up, looking along +Z, +X the subject's left.

Layout, alike in 2017, 2019, 2020, 2023 and 2023 Open; V = 5,023 vertices, F = 9,976 triangles, J = 5 joints:

================= ============= ==========================================================================
``v_template``    (V, 3)        m; chumpy arrays in most releases, like what follows
``f``             (F, 3)        triangles
``shapedirs``     (V, 3, 400)   300 of identity and 100 of expression, m per standard deviation
``posedirs``      (V, 3, 36)    pose correctives
``J_regressor``   (J, V)        a sparse matrix of scipy's
``weights``       (V, J)
``kintree_table`` (2, J)        parents and numbers of the joints; the root's parent is 4,294,967,295
``J``, ``bs_type``, ``bs_style``: not read
================= ============= ==========================================================================

2023 Open adds ``supr_expression_metadata`` (``n_expr`` tells the number of expression components). Files that
others publish for the same mesh are used where they lie beside the model: ``head_template.obj`` (texture
coordinates), ``FLAME_masks.pkl`` (regions), ``l_eyelid.npy`` and ``r_eyelid.npy`` (SMIRK's eyelid shapes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError
from recon3d.head._obj import read_obj
from recon3d.head._unpickle import (
    MAX_BYTES,
    TORCH_START,
    Unreadable,
    archive_names,
    in_file,
    npy_shape,
    numbers,
    read_npy,
    read_npz,
    read_pickle,
)
from recon3d.media._open import open_regular, shown

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

VERTICES = 5023
JOINTS = 5
_SHAPES, _EXPRESSIONS = 300, 100
_ROOT = 0xFFFFFFFF
_REQUIRED = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
_WANTED = "give a FLAME model: generic_model.pkl, flame2023.pkl, flame2023_Open.pkl, or an .npz of one"

#: What a file that is neither a pickle nor an ``.npz`` begins with, and what it is.
_STARTS = (
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml)",
     "is a web page; log in at the FLAME site and download the file again"),
    (rb"version https://git-lfs", "is a pointer of git-lfs; fetch the file itself with git lfs pull"),
    (re.escape(TORCH_START), f"holds the weights of a network (a torch file); {_WANTED}"),
    (rb"\x89HDF\r\n", f"is an HDF5 file, such as a Basel Face Model; {_WANTED}"),
    (rb"MATLAB ", f"is a MATLAB file, such as a Basel Face Model; {_WANTED}"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|(?s:.{257})ustar",
     "is an archive; unpack it and give the .pkl from it"),
    (rb"\x93NUMPY", f"is a single array, such as landmarks or an eyelid shape; {_WANTED}"),
    (rb"glTF|#|v |o |mtllib ", f"is a mesh, or other text; {_WANTED}"),
    (rb"(?s)[^\x80(}\]c]", f"is neither a pickle nor an .npz; {_WANTED}"),
)  # fmt: skip
#: Keys that tell what else a file is, where it holds no ``v_template``.
_OTHERS = (
    (("scalp", "left_eyeball"), f"holds region masks; leave it beside the model, and {_WANTED}"),
    (("static_lmk_faces_idx",), f"holds landmarks; {_WANTED}"),
    (("lmk_face_idx",), f"holds landmarks; {_WANTED}"),
    (("tex_dir",), f"holds FLAME's texture space, which has no shape; {_WANTED}"),
    (("specMU",), f"holds FLAME's albedo space, which has no shape; {_WANTED}"),
    (("shapeMU",), f"is a Basel Face Model; {_WANTED}"),
    (("idBase",), f"is a Basel Face Model; {_WANTED}"),
    (("state_dict",), f"holds the weights of a network; {_WANTED}"),
    (("template_vertex_positions",), f"is a GNM head; {_WANTED}"),
)
#: Models in the same layout, by vertices and joints.
_BODIES: dict[tuple[int, ...], str] = {
    (6890, 24): "SMPL, a body model",
    (6890, 52): "SMPL+H, a body model",
    (10475, 55): "SMPL-X, a body model",
    (778, 16): "MANO, a model of hands",
}
#: Our regions, and which of FLAME's masks they are made of; it has none of the brows and the mouth's inside.
#: Nearly all vertices of its two eye regions move with the eyelid shapes; ``boundary`` is the neck's end.
_REGIONS = {
    "face": ("face",),
    "lips": ("lips",),
    "eyelids": ("left_eye_region", "right_eye_region"),
    "nose": ("nose",),
    "ears": ("left_ear", "right_ear"),
    "scalp": ("scalp",),
    "neck": ("neck", "boundary"),
    "eyeballs": ("left_eyeball", "right_eyeball"),
    "left_eyeball": ("left_eyeball",),
    "right_eyeball": ("right_eyeball",),
}
#: Start of the sha256 of official files, as projects that check their downloads have published them.
_RELEASES = {
    "efcd14cc": ("2020", "generic", False),
    "8fb1af0d": ("2023", "", False),
    "b291fcd1": ("2023", "", True),
    "e75a0990": ("2023 Open", "", False),
}


@dataclass(frozen=True)
class FlameVersion:
    """Which FLAME a file is, as far as it can be told; ``str(version)`` says it in words."""

    release: str = ""
    """2017, 2019, 2020, 2023, 2023 Open, or nothing."""
    gender: str = ""
    """generic, female, male, or nothing."""
    without_jaw: bool = False
    """2023 comes in a form whose expressions hold the jaw's movements too."""

    def __str__(self) -> str:
        release = self.release or "(version not told)"
        jaw = " without jaw" if self.without_jaw else ""
        return f"FLAME {release}{jaw}" + (f", {self.gender}" if self.gender else "")


def flame_version(path: str | Path) -> FlameVersion:
    """Tell which FLAME a file is: by its contents, else by its name, else by its folder's.

    The arrays themselves do not tell one release from another.

    Raises:
        InputError: It cannot be read, or is no FLAME model.
    """
    path = Path(path)
    stored = _stored(path)
    with open_regular(path) as file:
        digest = hashlib.sha256(file.read(MAX_BYTES)).hexdigest()[:8]
    if digest in _RELEASES:
        return FlameVersion(*_RELEASES[digest])
    stem, folder = path.stem.lower(), path.absolute().parent.name.lower()
    release = _release(stem) or _release(folder)
    if "supr_expression_metadata" in stored:
        release = "2023 Open"
    gender = re.search("female|male|generic|neutral", stem)
    return FlameVersion(
        release,
        gender[0].replace("neutral", "generic") if gender else "",
        re.search("no_?jaw", stem) is not None,
    )


def _release(name: str) -> str:
    found = re.search(r"flame[ _-]*(2017|2019|2020|2023)[ _-]*(open)?", name)
    if found is None:
        return ""
    return "2023 Open" if found[1] == "2023" and found[2] else found[1]


def looks_like_flame(path: str | Path) -> bool:
    """Tell by a file's contents whether :func:`read_flame` is the one to ask; never raises.

    True for a pickle with FLAME's keys (body models have the same, which ``read_flame`` tells apart), and for
    an ``.npz`` with FLAME's vertices, unless it has landmarks of ours: then it is a head model already.
    """
    try:
        with open_regular(path) as file:
            start = file.read(2)
            if start != b"PK":
                data = file.read(MAX_BYTES) if re.match(rb"[\x80(}\]c]", start) else b""
                return all(key in data for key in (b"v_template", b"shapedirs", b"kintree_table"))
        names = archive_names(path)
        if "shapedirs.npy" not in names or any(name.startswith("lmk_") for name in names):
            return False
        return npy_shape(path, "v_template")[:1] == (VERTICES,)
    except (InputError, OSError):
        return False


def read_flame(
    path: str | Path, *, shapes: int | None = None, expressions: int | None = None
) -> dict[str, Array]:
    """Read a FLAME model; nothing in it is executed, whatever it holds.

    Args:
        path: An official ``.pkl``, or an ``.npz`` with its arrays (``exprdirs`` may stand apart there).
        shapes: How many identity components to keep, the first ones; all (300) when None.
        expressions: The same for expression components (100).

    Returns:
        What ``HeadModel`` is made of: v_template (V, 3), shapedirs (V, 3, S), exprdirs (V, 3, E), posedirs
        (V, 3, 36), J_regressor (5, V) and weights (V, 5), float32; f (F, 3) and kintree_table (2, 5), int32,
        the root's parent being -1. From files beside the model that are of this mesh: uv (U, 2) with v up,
        f_uv (F, 3), region_* (V,) bool; and if both eyelid shapes are there, they are the last two of
        exprdirs, left and right, and expression_names (E,) says so.

    Raises:
        InputError: It cannot be read, is damaged, or is something else; the message names it and says what.
    """
    path = Path(path)
    stored = _stored(path)
    with in_file(path):
        arrays = _model(stored)
        arrays["shapedirs"], arrays["exprdirs"] = _bases(stored, shapes, expressions)
    folder = path.parent
    arrays |= _texture(folder / "head_template.obj", arrays["f"])
    arrays |= _regions(folder / "FLAME_masks.pkl")
    return arrays | _eyelids(folder, arrays["exprdirs"])


def _stored(path: Path) -> dict[str, object]:
    """Return what a FLAME model stores by name; whatever is none is refused by what it is."""
    with open_regular(path) as file, in_file(path):
        start = file.read(512)
    with in_file(path):
        if start.startswith(b"PK"):
            _check_archive(archive_names(path))
        else:
            for pattern, what in _STARTS:
                if re.match(pattern, start):
                    raise Unreadable(what)
    stored = read_npz(path) if start.startswith(b"PK") else read_pickle(path)
    with in_file(path):
        _check_kind(stored)
    return stored


def _check_archive(names: Sequence[str]) -> None:
    """Refuse archives that are no ``.npz``."""
    if any(name.endswith("data.pkl") for name in names):
        raise Unreadable(f"holds the weights of a network (a torch file); {_WANTED}")
    models = sorted(name for name in names if name.endswith(".pkl"))
    if models:
        raise Unreadable(
            f"is a zip archive; unpack it and give a file from it: {shown(', '.join(models[:5]))}"
        )


def _check_kind(stored: Mapping[str, object]) -> None:
    """Refuse files that hold something else than FLAME.

    Raises:
        Unreadable: It says what it is, or what is missing.
    """
    if "v_template" not in stored:
        for keys, what in _OTHERS:
            if all(key in stored for key in keys):
                raise Unreadable(what)
        held = shown(", ".join(sorted(stored)[:6]))[:200]
        raise Unreadable(f"is no FLAME model (it holds {held or 'no arrays'}); {_WANTED}")
    vertices = _numbers(stored, "v_template").shape[:1]
    joints = _numbers(stored, "weights").shape[-1:] if "weights" in stored else ()
    if vertices + joints in _BODIES:
        raise Unreadable(f"is {_BODIES[vertices + joints]}; {_WANTED}")
    if vertices != (VERTICES,):
        raise Unreadable(
            f"is no FLAME model: it has {vertices[0] if vertices else 0:,} vertices, FLAME has {VERTICES:,}"
        )
    missing = [key for key in _REQUIRED if key not in stored]
    if missing:
        raise Unreadable(f"is no whole FLAME model: {', '.join(missing)} missing")


def _numbers(stored: Mapping[str, object], key: str) -> Array:
    try:
        return numbers(stored[key])
    except Unreadable as error:
        raise Unreadable(f"{key} {error}") from error


def _floats(stored: Mapping[str, object], key: str, size: tuple[int, ...]) -> Floats:
    return _single(_numbers(stored, key), key, size)


def _single(values: Array, key: str, size: tuple[int, ...]) -> Floats:
    """Return numbers as float32, of the wanted size and finite."""
    if values.shape != size:
        raise Unreadable(f"damaged: {key} is {values.shape}, {size} is wanted")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused as such
        single = values.astype(np.float32, order="C")
    if not np.isfinite(single).all():
        raise Unreadable(f"damaged: {key} holds a value that is not finite")
    return single


def _whole_numbers(stored: Mapping[str, object], key: str) -> npt.NDArray[np.int64]:
    values = _numbers(stored, key)
    if values.dtype.kind not in "iu":
        raise Unreadable(f"damaged: {key} holds no whole numbers")
    return values.astype(np.int64)


def _model(stored: Mapping[str, object]) -> dict[str, Array]:
    """Return all of a model but its two bases."""
    return {
        "v_template": _floats(stored, "v_template", (VERTICES, 3)),
        "f": _faces(stored),
        "posedirs": _floats(stored, "posedirs", (VERTICES, 3, 9 * (JOINTS - 1))),
        "J_regressor": _floats(stored, "J_regressor", (JOINTS, VERTICES)),
        "weights": _floats(stored, "weights", (VERTICES, JOINTS)),
        "kintree_table": _joints(stored),
    }


def _faces(stored: Mapping[str, object]) -> Indices:
    faces = _whole_numbers(stored, "f")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise Unreadable(f"damaged: f is {faces.shape}, rows of three are wanted")
    if faces.min() < 0 or faces.max() >= VERTICES:
        raise Unreadable("damaged: a face names a vertex that does not exist")
    return faces.astype(np.int32)


def _joints(stored: Mapping[str, object]) -> Indices:
    """Return the joints' parents and numbers, if every parent comes before its children."""
    table = _whole_numbers(stored, "kintree_table")
    if table.shape != (2, JOINTS):
        raise Unreadable(f"damaged: kintree_table is {table.shape}, {(2, JOINTS)} is wanted")
    parents = np.where(table[0] == _ROOT, -1, table[0])
    numbered = np.arange(JOINTS)
    if (
        parents[0] != -1
        or (parents[1:] < 0).any()
        or (parents >= numbered).any()
        or (table[1] != numbered).any()
    ):
        raise Unreadable("damaged: kintree_table is no tree of joints")
    return np.stack([parents, numbered]).astype(np.int32)


def _bases(
    stored: Mapping[str, object], shapes: int | None, expressions: int | None
) -> tuple[Floats, Floats]:
    """Part identity from expression and keep as many components of each as are wanted."""
    joined = _basis(stored, "shapedirs")
    if "exprdirs" in stored:
        identity, expression = joined[..., :_SHAPES], _basis(stored, "exprdirs")
    else:
        first = joined.shape[2] - _expression_count(stored, joined.shape[2])
        if first < 1:
            raise Unreadable(
                f"has {joined.shape[2]} columns of shapedirs and no exprdirs: {_SHAPES} of identity and "
                f"{_EXPRESSIONS} of expression are wanted"
            )
        identity, expression = joined[..., :first], joined[..., first:]
    return _kept(identity, shapes, "identity"), _kept(expression, expressions, "expression")


def _basis(stored: Mapping[str, object], key: str) -> Array:
    values = _numbers(stored, key)
    if values.ndim != 3 or values.shape[:2] != (VERTICES, 3):
        raise Unreadable(f"damaged: {key} is {values.shape}, {(VERTICES, 3)} and more is wanted")
    return values


def _expression_count(stored: Mapping[str, object], columns: int) -> int:
    """Return how many columns, the last ones, are expression: as the file says, or those past the 300th."""
    metadata = stored.get("supr_expression_metadata")
    if isinstance(metadata, dict) and "n_expr" in metadata:
        told = numbers(metadata["n_expr"])
        if told.size == 1 and 0 < told.item() < columns:
            return int(told.item())
    return columns - _SHAPES if columns > _SHAPES else columns


def _kept(basis: Array, wanted: int | None, what: str) -> Floats:
    columns = basis.shape[2]
    if wanted is not None and not 0 <= wanted <= columns:
        raise Unreadable(f"has {columns} {what} components, {wanted} are asked for")
    kept = basis if wanted is None else basis[..., :wanted]
    return _single(kept, f"the basis of {what}", kept.shape)


def _texture(path: Path, faces: Indices) -> dict[str, Array]:
    """Read texture coordinates for the model's triangles; nothing where there are none of this mesh."""
    if not path.is_file():
        return {}
    mesh = read_obj(path)
    if mesh.uv is None or mesh.faces_uv is None or len(mesh.vertices) != VERTICES:
        return {}
    found = _same_triangles(mesh.faces, mesh.faces_uv, faces)
    return {} if found is None else {"uv": mesh.uv.astype(np.float32), "f_uv": found.astype(np.int32)}


def _same_triangles(theirs: Array, theirs_uv: Array, ours: Array) -> Array | None:
    """Return the texture corners of our triangles, which may stand and start elsewhere in their list."""
    if np.array_equal(theirs, ours):
        return theirs_uv
    (keys, turned), (wanted, ours_turned) = _from_lowest(theirs), _from_lowest(ours)
    order = np.argsort(keys)
    place = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    if (keys[place] != wanted).any():
        return None
    corners = np.take_along_axis(theirs_uv, turned, 1)[place]
    found = np.empty_like(corners)
    np.put_along_axis(found, ours_turned, corners, 1)
    return found


def _from_lowest(faces: Array) -> tuple[Array, Array]:
    """Return a number for each triangle, wherever it starts, and its corners (N, 3) from the lowest on."""
    corners = (faces.argmin(1)[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(faces.astype(np.int64), corners, 1).T
    return (a * VERTICES + b) * VERTICES + c, corners


def _regions(path: Path) -> dict[str, Array]:
    """Read the regions that are ours, too; nothing where there are none of this mesh."""
    if not path.is_file():
        return {}
    stored = read_pickle(path)
    with in_file(path):
        masks = {
            key: _whole_numbers(stored, key) for keys in _REGIONS.values() for key in keys if key in stored
        }
    if any(mask.min(initial=0) < 0 or mask.max(initial=0) >= VERTICES for mask in masks.values()):
        return {}
    made: dict[str, Array] = {}
    for region, keys in _REGIONS.items():
        if all(key in masks for key in keys):
            made[f"region_{region}"] = np.zeros(VERTICES, bool)
            for key in keys:
                made[f"region_{region}"][masks[key]] = True
    return made


def _eyelids(folder: Path, exprdirs: Floats) -> dict[str, Array]:
    """Append the shapes that close the left and the right eye; nothing where not both are of this mesh."""
    shapes = []
    for path in (folder / "l_eyelid.npy", folder / "r_eyelid.npy"):
        shape = read_npy(path) if path.is_file() else None
        if not isinstance(shape, np.ndarray) or shape.shape != (VERTICES, 3) or shape.dtype.kind != "f":
            return {}
        with in_file(path):
            shapes.append(_single(shape, "the eyelid shape", shape.shape))
    names = [f"expression{e:03d}" for e in range(exprdirs.shape[2])]
    return {
        "exprdirs": np.concatenate([exprdirs, np.stack(shapes, 2)], axis=2),
        "expression_names": np.array([*names, "eyelidLeft", "eyelidRight"]),
    }
