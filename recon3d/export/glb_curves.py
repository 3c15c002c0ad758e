"""curves.glb: the morph targets' names and weights on a mesh of one tiny triangle, without a head.

For engines that put the weights on a character of their own: the animation is the ``weights`` channel of
``glb_animation``, the targets carry the units' names. Each moves one corner by a millimetre, because some
importers drop targets that move nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pygltflib import GLTF2, Attributes, Mesh, Node, Primitive, Scene

from recon3d.export import glb
from recon3d.export._gltf_buffer import GltfBuffer
from recon3d.export._mesh import target_names
from recon3d.export._motion import motion_of
from recon3d.export._still import check_head
from recon3d.export.glb_animation import animate, save
from recon3d.export.options import DEFAULTS, ExportOptions

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Corners of the triangle, and how each target moves them, m.
_CORNERS = np.array([[0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0]], np.float32)
_OFFSETS = np.array([[0, 0, 0], [0, 0, 0], [0, 1e-3, 0]], np.float32)


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: object = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``curves.glb``; a photograph becomes an animation of one frame.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The file cannot be written.
    """
    check_head(capture, head)
    motion = motion_of(capture, head, options)
    buffer = GltfBuffer()
    gltf = GLTF2(asset=glb.asset(capture), scene=0)
    # All targets share the one accessor.
    moved = buffer.vertices(_OFFSETS, bounds=True)
    primitive = Primitive(
        attributes=Attributes(POSITION=buffer.vertices(_CORNERS, bounds=True)),
        targets=[{"POSITION": moved}] * head.num_expression,
    )
    gltf.meshes = [
        Mesh(
            name="curves",
            primitives=[primitive],
            weights=[0.0] * head.num_expression,
            extras={"targetNames": target_names(head, options)},
        )
    ]
    gltf.nodes = [Node(name="curves", mesh=0)]
    gltf.scenes = [Scene(name="recon3d", nodes=[0])]
    animate(gltf, buffer, motion, capture, mesh=0)
    return [save(gltf, buffer, folder / "curves.glb")]
