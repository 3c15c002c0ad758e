"""obj/frame_000001.obj …: the posed head of every frame, with the material and texture of ``mesh.obj``.

Vertex k is the head model's vertex k in every file. See ``recon3d/export/_sequence.py`` for the space.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.export import obj
from recon3d.export._sequence import write_sequence
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.export.texture import Pixels

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
    """Write the folder ``obj``; the one of an earlier run is replaced as a whole.

    Args:
        capture: Of a clip; a photograph is one frame.
        head: The model that the capture was made with.
        folder: Where to write; must exist.
        texture: (H, W, 3) uint8 in the head's texture coordinates, or None for the head's own colours.
        options: ``fps`` resamples.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The folder cannot be written.
    """
    textured = texture is not None and len(head.faces_uv) > 0
    encode = obj.mesh_encoder(head, textured)
    beside = obj.material_files(texture if textured else None)
    return write_sequence(capture, head, folder / "obj", ".obj", encode, options, beside)
