"""mesh.glb: one skinned mesh with the expression units as morph targets, in one file that any tool opens.

Format: Khronos, "glTF 2.0 Specification". The mesh is the person's neutral identity and stands straight
in head space (metres, +Y up, looking along +Z, as glTF wants it): the head rotation of the photograph is
left out, since who animates wants to set it. The photograph's expression is in the mesh's ``weights``;
rotations of jaw and eyes, where the head model uses them, are on their joints. Clips are written by
``recon3d/export/glb_animation.py``, which adds their motion to what is built here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pygltflib import (
    GLTF2,
    Asset,
    Attributes,
    Image,
    Material,
    Mesh,
    Node,
    PbrMetallicRoughness,
    Primitive,
    Sampler,
    Scene,
    Skin,
    Texture,
    TextureInfo,
)

from recon3d._version import GENERATOR
from recon3d.export._gltf_buffer import GltfBuffer
from recon3d.export._mesh import (
    SplitMesh,
    influences,
    linear_rgba,
    normal_changes,
    normals,
    split_seams,
    target_names,
)
from recon3d.export._still import Still, as_array, check_head, quaternion, still
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.export.texture import Pixels, encode_jpeg
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Offsets below these are left out of morph targets: a micrometre, and a ten-thousandth of a unit normal.
TINY_METRES, TINY_NORMAL = 1e-6, 1e-4
#: The attribute that tells which vertex of the head model a vertex of the file is (seams double some).
VERTEX_ATTRIBUTE = "_HEAD_VERTEX"


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: Pixels | None = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``mesh.glb``, or ``animation.glb`` of a clip; see the modules' texts for what is in them.

    Args:
        capture: Of a photograph or of a clip.
        head: The model that the capture was made with.
        folder: Where to write; must exist.
        texture: (H, W, 3) uint8 in the head's texture coordinates, or None for the head's own colours.
        options: ``names`` renames the morph targets where it is a mere renaming; see ``glb_animation``.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The file cannot be written.
    """
    if len(capture) > 1:
        from recon3d.export import glb_animation

        return glb_animation.write(capture, head, folder, texture, options)
    check_head(capture, head)
    frame = still(capture, head)
    target = folder / "mesh.glb"
    gltf, buffer = build(head, capture, frame, texture, options)
    data = to_bytes(gltf, buffer)
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
    return [target]


def build(
    head: HeadModel,
    capture: Capture,
    frame: Still,
    texture: Pixels | None,
    options: ExportOptions = DEFAULTS,
) -> tuple[GLTF2, GltfBuffer]:
    """Return the document and its open buffer, so that a caller can add animation before ``to_bytes``.

    Nodes 0 … J-1 are the joints in the head's order, node J holds the mesh.
    """
    buffer = GltfBuffer()
    split = split_seams(head.faces.cpu().numpy(), head.faces_uv.cpu().numpy())
    textured = texture is not None and len(split.texture) > 0
    gltf = GLTF2(asset=asset(capture), scene=0)
    attributes = _attributes(buffer, head, frame, split, textured)
    joints = head.num_joints
    gltf.meshes = [
        Mesh(
            name="head",
            primitives=[
                Primitive(
                    attributes=Attributes(**attributes),
                    indices=buffer.indices(split.faces),
                    material=0,
                    targets=_targets(buffer, head, frame, split),
                )
            ],
            weights=[round(float(w), 6) for w in frame.expression],
            extras={"targetNames": target_names(head, options)},
        )
    ]
    gltf.skins = [skin(buffer, head, frame)]
    gltf.nodes = [*joint_nodes(head, frame), Node(name="head", mesh=0, skin=0)]
    gltf.scenes = [Scene(name="recon3d", nodes=[*roots(head), joints])]
    _add_material(gltf, buffer, texture if textured else None)
    return gltf, buffer


def to_bytes(gltf: GLTF2, buffer: GltfBuffer) -> bytes:
    """Close the buffer and return the whole GLB file."""
    gltf.bufferViews, gltf.accessors, gltf.buffers = buffer.views, buffer.accessors, buffer.buffers()
    gltf.set_binary_blob(buffer.blob())
    return b"".join(gltf.save_to_bytes())


def asset(capture: Capture) -> Asset:
    """Return what a document says of itself."""
    return Asset(
        version="2.0",
        generator=GENERATOR,
        extras={"head": capture.head, "source": capture.source},
    )


def roots(head: HeadModel) -> list[int]:
    """Return the joints without a parent."""
    return [j for j, parent in enumerate(head.parents) if parent < 0]


def _attributes(
    buffer: GltfBuffer, head: HeadModel, frame: Still, split: SplitMesh, textured: bool
) -> dict[str, int]:
    joints, weights = influences(as_array(head.weights)[split.vertex])
    found = {
        "POSITION": buffer.vertices(frame.neutral[split.vertex], bounds=True),
        "NORMAL": buffer.vertices(normals(frame.neutral[None], head)[0][split.vertex]),
        "JOINTS_0": buffer.vertices(joints),
        "WEIGHTS_0": buffer.vertices(weights),
        VERTEX_ATTRIBUTE: buffer.vertices(split.vertex.astype(np.float32)),
    }
    if len(split.texture):
        uv = as_array(head.uv)[split.texture]
        found["TEXCOORD_0"] = buffer.vertices(np.column_stack([uv[:, 0], 1 - uv[:, 1]]))  # v runs down
    if not textured:
        found["COLOR_0"] = buffer.vertices(linear_rgba(as_array(head.colors)[split.vertex]), normalized=True)
    return found


def _targets(buffer: GltfBuffer, head: HeadModel, frame: Still, split: SplitMesh) -> list[dict[str, int]]:
    """Add the morph targets: offsets of the vertices at full strength, and of their normals."""
    offsets = np.ascontiguousarray(as_array(head.exprdirs).transpose(2, 0, 1))  # (E, V, 3)
    turns = normal_changes(frame.neutral, offsets, head)
    return [
        {
            "POSITION": buffer.offsets(offset, bounds=True, tiny=TINY_METRES),
            "NORMAL": buffer.offsets(turn, bounds=False, tiny=TINY_NORMAL),
        }
        for offset, turn in zip(offsets[:, split.vertex], turns[:, split.vertex], strict=True)
    ]


def skin(buffer: GltfBuffer, head: HeadModel, frame: Still) -> Skin:
    """Add the joints' inverse bind matrices; return the skin of nodes 0 … J-1."""
    inverse = np.tile(np.eye(4, dtype=np.float32), (head.num_joints, 1, 1))
    inverse[:, 3, :3] = -frame.joints  # column-major: the translation is the last row in memory
    return Skin(
        name="rig",
        joints=list(range(head.num_joints)),
        skeleton=head.parents.index(-1),
        inverseBindMatrices=buffer.plain(inverse.reshape(-1, 16)),
    )


def joint_nodes(head: HeadModel, frame: Still) -> list[Node]:
    """Return the joints' nodes in the head's order, in the frame's pose."""
    nodes = []
    for j, parent in enumerate(head.parents):
        offset = frame.joints[j] - (frame.joints[parent] if parent >= 0 else 0.0)
        turned = bool(np.abs(frame.rotations[j]).max() > 1e-6)
        nodes.append(
            Node(
                name=head.joint_names[j],
                translation=[float(x) for x in offset],
                rotation=[float(x) for x in quaternion(frame.rotations[j])] if turned else None,
                children=[c for c, p in enumerate(head.parents) if p == j],
            )
        )
    return nodes


def _add_material(gltf: GLTF2, buffer: GltfBuffer, texture: Pixels | None) -> None:
    surface = PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.6)
    if texture is not None:
        surface.baseColorTexture = TextureInfo(index=0)
        gltf.images = [
            Image(name="skin", mimeType="image/jpeg", bufferView=buffer.view(encode_jpeg(texture)))
        ]
        # Linear filters; clamped, for the texture does not repeat.
        gltf.samplers = [Sampler(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)]
        gltf.textures = [Texture(sampler=0, source=0)]
    # Both sides, because an open mouth shows the inside of the lips and cheeks.
    gltf.materials = [
        Material(
            name="skin", pbrMetallicRoughness=surface, doubleSided=True, alphaMode="OPAQUE", alphaCutoff=None
        )
    ]
