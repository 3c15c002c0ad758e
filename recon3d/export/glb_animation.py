"""animation.glb: the rigged head of ``mesh.glb`` with a clip's motion, in one file that any tool plays.

Format: Khronos, "glTF 2.0 Specification", section 3.11 (animations). One animation with one ``weights``
channel for all morph targets, rotation and translation of the root joint, and rotations of the other joints
where the capture uses them; linear between the frames, whose times are the video's own, from 0. Where the
head stands and how the camera sees it is told in ``recon3d/export/_motion.py``. Without its animation the
head is that of ``mesh.glb``. The node ``camera`` sees what the video saw; glTF has no off-centre cameras, so
focal length and principal point (px) are in its extras as well.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from pygltflib import (
    GLTF2,
    Animation,
    AnimationChannel,
    AnimationChannelTarget,
    AnimationSampler,
    Camera,
    Node,
    Perspective,
)

from recon3d.conventions import GLOBAL
from recon3d.export import glb
from recon3d.export._gltf_buffer import GltfBuffer
from recon3d.export._motion import Motion, motion_of
from recon3d.export._still import check_head, still
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.export.texture import Pixels
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
    """Write ``animation.glb``; see the module's text for what is in it.

    Args:
        capture: Of a clip. A photograph becomes an animation of one frame.
        head: The model that the capture was made with.
        folder: Where to write; must exist.
        texture: (H, W, 3) uint8 in the head's texture coordinates, or None for the head's own colours.
        options: ``fps`` resamples; ``names`` renames the morph targets where it is a mere renaming.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The file cannot be written.
    """
    check_head(capture, head)
    motion = motion_of(capture, head, options)
    gltf, buffer = glb.build(head, capture, still(capture, head), texture, options)
    animate(gltf, buffer, motion, capture, joints=range(head.num_joints), mesh=head.num_joints)
    _add_camera(gltf, capture, motion)
    return [save(gltf, buffer, folder / "animation.glb")]


def animate(
    gltf: GLTF2,
    buffer: GltfBuffer,
    motion: Motion,
    capture: Capture,
    *,
    joints: range = range(0),
    mesh: int | None = None,
) -> None:
    """Add the clip's one animation.

    Args:
        gltf: The document, changed in place.
        buffer: Its open buffer.
        motion: What to add.
        capture: Gives the animation its name.
        joints: Nodes of the joints, in the head's order; empty for no skeleton.
        mesh: Node of the mesh whose morph targets are driven, or None.
    """
    times = buffer.plain(motion.times.astype(np.float32), bounds=True)
    animation = Animation(name=PurePath(capture.source).stem or "animation", samplers=[], channels=[])

    def drive(node: int, path: str, values: int) -> None:
        target = AnimationChannelTarget(node=node, path=path)
        animation.channels.append(AnimationChannel(sampler=len(animation.samplers), target=target))
        animation.samplers.append(AnimationSampler(input=times, output=values, interpolation="LINEAR"))

    if mesh is not None:
        drive(mesh, "weights", buffer.plain(motion.weights.reshape(-1)))
    if joints:
        drive(joints[GLOBAL], "translation", buffer.plain(motion.root.astype(np.float32)))
    for j in sorted({GLOBAL, *motion.turning}) if joints else []:
        drive(joints[j], "rotation", buffer.plain(motion.rotations[:, j].astype(np.float32)))
    gltf.animations = [animation]


def save(gltf: GLTF2, buffer: GltfBuffer, target: Path) -> Path:
    """Write the document with its buffer as a GLB file.

    Raises:
        OutputError: The file cannot be written.
    """
    data = glb.to_bytes(gltf, buffer)
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return target


def _add_camera(gltf: GLTF2, capture: Capture, motion: Motion) -> None:
    width, height = capture.size
    gltf.cameras = [
        Camera(
            name="camera",
            type="perspective",
            perspective=Perspective(
                yfov=2 * float(np.arctan(height / (2 * capture.focal))),
                aspectRatio=width / height,
                znear=0.01,
                zfar=100.0,
            ),
            extras={
                "focal": capture.focal,
                "principal": capture.principal.tolist(),
                "image_size": [width, height],
            },
        )
    ]
    gltf.nodes.append(Node(name="camera", camera=0, translation=motion.camera.tolist()))
    gltf.scenes[0].nodes.append(len(gltf.nodes) - 1)
