"""skeleton.glb: the joints and how they move, without any mesh, for engines that keep the two apart.

Head motion is rotation and translation of the root joint, neck, jaw and eyes are rotations where the capture
uses them; see ``glb_animation``, whose animation this is but for the weights. The skin stays, for it tells
importers which nodes are joints.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pygltflib import GLTF2, Scene

from recon3d.export import glb
from recon3d.export._gltf_buffer import GltfBuffer
from recon3d.export._motion import motion_of
from recon3d.export._still import check_head, still
from recon3d.export.glb_animation import animate, save
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
    """Write ``skeleton.glb``; a photograph becomes an animation of one frame.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The file cannot be written.
    """
    check_head(capture, head)
    motion = motion_of(capture, head, options)
    frame = still(capture, head)
    buffer = GltfBuffer()
    gltf = GLTF2(asset=glb.asset(capture), scene=0)
    gltf.skins = [glb.skin(buffer, head, frame)]
    gltf.nodes = glb.joint_nodes(head, frame)
    gltf.scenes = [Scene(name="recon3d", nodes=glb.roots(head))]
    animate(gltf, buffer, motion, capture, joints=range(head.num_joints))
    return [save(gltf, buffer, folder / "skeleton.glb")]
