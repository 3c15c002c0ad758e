"""animation.blend: the animated head as a Blender file, texture inside; made by Blender from the GLB.

Keys are at the true timestamps times the scene's frame rate, from frame 0; the scene's camera renders the
video's size as the video saw it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recon3d.export._blender import write_with_blender
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
    """Write ``animation.blend``, or ``mesh.blend`` of a photograph.

    Raises:
        InputError: The capture belongs to another head model.
        MissingExtraError: There is no Blender.
        OutputError: Blender failed, or the file cannot be written.
    """
    return write_with_blender(capture, head, folder, texture, options, ".blend")
