"""OBJ: the person of the photograph as a plain textured mesh: mesh.obj, mesh.mtl, mesh.jpg.

Format: Wavefront, "Object Files (.obj)" and "Material Library File (.mtl)". Identity and expression in
head space (metres, +Y up, looking along +Z), without the photograph's head rotation. Written here and not
by trimesh, because its writer doubles and reorders the vertices along texture seams: here vertex k is the
head model's vertex k, so that meshes of several photographs are shapes of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d._version import GENERATOR
from recon3d.export._mesh import normals
from recon3d.export._still import Floats, as_array, check_head, still
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.export.texture import Pixels, encode_jpeg
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: Pixels | None = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``mesh.obj``, ``mesh.mtl`` and, with a texture, ``mesh.jpg``.

    All are written out in full before the first takes its name, and the mesh takes its own last: when the
    disk is full nothing changes, and a mesh never names a material that is not there.

    Args:
        capture: Of a photograph, or of a clip (its first tracked frame).
        head: The model that the capture was made with.
        folder: Where to write; must exist.
        texture: (H, W, 3) uint8 in the head's texture coordinates. Without one, the head's own colours
            follow the coordinates of each vertex, as most programs read them.
    """
    check_head(capture, head)
    textured = texture is not None and len(head.faces_uv) > 0
    contents = {
        "mesh.obj": mesh_encoder(head, textured)(still(capture, head).vertices),
        **material_files(texture if textured else None),
    }
    with ExitStack() as stack:
        # The stack unwinds backwards: the mesh, which names the others, is renamed last.
        for name, data in contents.items():
            stack.enter_context(atomic_path(folder / name)).write_bytes(data)
    return [folder / name for name in contents]


def material_files(texture: Pixels | None) -> dict[str, bytes]:
    """Return the files that a mesh's text names: the material, and the texture if there is one."""
    material = {"mesh.mtl": _material_text(texture is not None).encode()}
    return material if texture is None else {**material, "mesh.jpg": encode_jpeg(texture)}


def mesh_encoder(head: HeadModel, textured: bool) -> Callable[[Floats], bytes]:
    """Return what makes the text of ``mesh.obj`` of a head's vertices (V, 3) m.

    What all meshes of a head share is formatted once.
    """
    corner = (head.faces + 1).cpu().numpy()
    columns, pattern = [corner, corner], "%d//%d"
    uv, colours = "", as_array(head.colors)
    if len(head.faces_uv):
        columns.insert(1, (head.faces_uv + 1).cpu().numpy())
        pattern = "%d/%d/%d"
        uv = _lines("vt %.6f %.6f", as_array(head.uv))
    faces = _lines("f" + f" {pattern}" * 3, np.stack(columns, axis=-1).reshape(len(corner), -1))

    def encode(vertices: Floats) -> bytes:
        points = vertices if textured else np.hstack([vertices, colours])
        parts = [
            f"# {GENERATOR}, head model {head.id}; metres, +Y up, looking along +Z\n",
            "mtllib mesh.mtl\no head\n",
            _lines("v" + " %.6f" * points.shape[1], points),
            uv,
            _lines("vn %.4f %.4f %.4f", normals(vertices[None], head)[0]),
            "usemtl skin\ns 1\n",
            faces,
        ]
        return "".join(parts).encode()

    return encode


def _lines(pattern: str, rows: npt.NDArray[Any]) -> str:
    """Return one line a row; a single formatting call, ten times as fast as np.savetxt."""
    return (pattern + "\n") * len(rows) % tuple(rows.reshape(-1).tolist())


def _material_text(textured: bool) -> str:
    lines = ["newmtl skin", "Ka 0 0 0", "Kd 1 1 1", "Ks 0.04 0.04 0.04", "Ns 30", "d 1", "illum 2"]
    return "\n".join([*lines, *(["map_Kd mesh.jpg"] if textured else [])]) + "\n"
