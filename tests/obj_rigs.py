"""Rigs as artists hand them over: a neutral and a folder of shapes as OBJ files, made of the open head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES
from recon3d.head import HeadModel

Array = npt.NDArray[Any]

#: Units whose side is no side of theirs: they move the whole mouth or jaw.
WHOLE = ("jawLeft", "jawRight", "mouthLeft", "mouthRight")


def obj_text(
    vertices: Array, faces: Array | None = None, uv: Array | None = None, faces_uv: Array | None = None
) -> str:
    """Return an OBJ file; the faces may be polygons of any one size."""
    text = "# a rig\n" + _lines("v %.7f %.7f %.7f\n", vertices)
    if faces is None:
        return text
    if uv is None or faces_uv is None:
        return text + _lines("f" + faces.shape[1] * " %d" + "\n", faces + 1)
    corners = np.stack([faces, faces_uv], -1).reshape(len(faces), -1) + 1
    return text + _lines("vt %.6f %.6f\n", uv) + _lines("f" + faces.shape[1] * " %d/%d" + "\n", corners)


def _lines(form: str, numbers: Array) -> str:
    return (form * len(numbers)) % tuple(numbers.ravel().tolist())


def short_name(name: str) -> str:
    """Return a unit's name as ICT writes it: ``eyeBlink_L``."""
    if name in WHOLE:
        return name
    return name.replace("Left", "_L").replace("Right", "_R")


def write_rig(
    folder: Path,
    head: HeadModel,
    *,
    units: Iterable[str] = ARKIT_NAMES,
    naming: Callable[[str], str] = str,
    place: Callable[[Array], Array] = lambda points: points,
    keep: Array | None = None,
) -> tuple[Path, Path]:
    """Write ``neutral.obj`` and ``shapes/``, in which only vertices are; return both.

    Args:
        folder: Where to; must exist.
        head: Whose neutral and units.
        units: Which of them.
        naming: From a unit's name to its file's, without suffix.
        place: From metres to the rig's space, (V, 3) to (V, 3).
        keep: (V,) which vertices the rig has; all by default.
    """
    keep = np.ones(head.num_vertices, bool) if keep is None else keep
    rows = np.flatnonzero(keep)
    renumbered = np.cumsum(keep) - 1
    inside = keep[head.faces.numpy()].all(1)
    faces, faces_uv = renumbered[head.faces.numpy()[inside]], head.faces_uv.numpy()[inside]
    rest = head.v_template.numpy().astype(np.float64)[rows]
    (folder / "shapes").mkdir()
    (folder / "neutral.obj").write_text(obj_text(place(rest), faces, head.uv.numpy(), faces_uv))
    for name in units:
        moved = rest + head.exprdirs.numpy()[rows, :, head.expression_names.index(name)]
        (folder / "shapes" / f"{naming(name)}.obj").write_text(obj_text(place(moved)))
    return folder / "neutral.obj", folder / "shapes"
