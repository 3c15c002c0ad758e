"""animation.fbx: the animated head for programs that read FBX; written by Blender from the GLB.

Skeleton, mesh, 52 shape keys with curves, camera, texture inside. Blender samples the clip at whole frames of
its nominal rate: with a variable frame rate the values between them are interpolated. Axes and units are
Blender's for FBX: +Y up, centimetres in the file, metres where it is imported.
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
    """Write ``animation.fbx``, or ``mesh.fbx`` of a photograph.

    Raises:
        InputError: The capture belongs to another head model.
        MissingExtraError: There is no Blender.
        OutputError: Blender failed, or the file cannot be written.
    """
    return write_with_blender(capture, head, folder, texture, options, ".fbx")
