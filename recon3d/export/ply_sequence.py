"""ply/frame_000001.ply …: the posed head of every frame as binary PLY with the head's colours.

Written by trimesh. Vertex k is the head model's vertex k in every file. See ``recon3d/export/_sequence.py``
for the space.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recon3d._version import GENERATOR
from recon3d.export._sequence import write_sequence
from recon3d.export._still import Floats, as_array
from recon3d.export.options import DEFAULTS, ExportOptions

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write the folder ``ply``; the one of an earlier run is replaced as a whole.

    Args:
        capture: Of a clip; a photograph is one frame.
        head: The model that the capture was made with.
        folder: Where to write; must exist.
        texture: Not used: PLY has no agreed way to name one.
        options: ``fps`` resamples.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The folder cannot be written.
    """
    from trimesh import Trimesh
    from trimesh.exchange.ply import export_ply

    faces = head.faces.cpu().numpy()
    colours = np.rint(as_array(head.colors).clip(0, 1) * 255).astype(np.uint8)

    def encode(vertices: Floats) -> bytes:
        mesh = Trimesh(vertices, faces, vertex_colors=colours, process=False, validate=False)
        data: bytes = export_ply(mesh, encoding="binary", vertex_normal=False)
        return data.replace(b"\nelement", f"\ncomment {GENERATOR}\nelement".encode(), 1)

    return write_sequence(capture, head, folder / "ply", ".ply", encode, options)
