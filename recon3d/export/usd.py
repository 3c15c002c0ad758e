"""animation.usdc, mesh.usdc: the rigged head as UsdSkel, in OpenUSD's binary form.

Format: OpenUSD's schemas UsdSkel, UsdGeom and UsdShade. ``/recon3d/head`` is a SkelRoot with the skeleton,
the mesh (vertex k is the head model's vertex k; texture coordinates per corner, so no seams), one BlendShape
with sparse offsets for each unit, and a SkelAnimation with the weights, the root joint's motion and the
rotations of the joints that turn. Metres, +Y up; time codes are the true timestamps times the frame rate,
from 0, and may be broken. Of a photograph the head stands straight, as in ``mesh.glb``; of a clip it moves as
told in ``recon3d/export/_motion.py``, and ``/recon3d/camera`` sees what the video saw, principal point
included.

FLAME's pose correctives have no place in UsdSkel and are left out, as in the GLB.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdShade, UsdSkel, Vt

from recon3d._version import GENERATOR
from recon3d.conventions import GLOBAL
from recon3d.errors import OutputError
from recon3d.export._mesh import influences, linear_rgba, normal_changes, normals, target_names
from recon3d.export._motion import Motion, motion_of, still_motion
from recon3d.export._still import Still, as_array, check_head, still
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.export.texture import Pixels, encode_jpeg
from recon3d.files import atomic_path

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Offsets below these are left out of blend shapes: a micrometre, and a ten-thousandth of a unit normal.
TINY_METRES, TINY_NORMAL = 1e-6, 1e-4
#: Width of the camera's film in tenths of the scene's unit, as USD counts it: 36 mm in a scene of metres.
FILM = 0.36

_TOP, _HEAD, _MESH, _SKIN = "/recon3d", "/recon3d/head", "/recon3d/head/mesh", "/recon3d/skin"


def write(
    capture: Capture,
    head: HeadModel,
    folder: Path,
    texture: Pixels | None = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write ``animation.usdc``, or ``mesh.usdc`` of a photograph, and the texture beside it as ``.jpg``.

    Args:
        capture: Of a photograph or of a clip.
        head: The model that the capture was made with.
        folder: Where to write; must exist.
        texture: (H, W, 3) uint8 in the head's texture coordinates, or None for the head's own colours.
        options: ``fps`` resamples; ``names`` renames the blend shapes where it is a mere renaming.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The files cannot be written.
    """
    check_head(capture, head)
    moving = len(capture) > 1
    stem = "animation" if moving else "mesh"
    frame = still(capture, head)
    motion = motion_of(capture, head, options) if moving else still_motion(capture, frame)
    image = encode_jpeg(texture) if texture is not None and len(head.faces_uv) else None
    stage = _stage(capture, motion)
    _add_skeleton(stage, head, motion)
    _add_mesh(stage, head, frame, target_names(head, options))
    _add_motion(stage, head, motion, target_names(head, options))
    _add_material(stage, None if image is None else f"./{stem}.jpg")
    if moving:
        _add_camera(stage, capture, motion)
    with ExitStack() as stack:
        # The stack unwinds backwards: the scene, which names the texture, is renamed last.
        files = [folder / f"{stem}.usdc"]
        _save(stage, stack.enter_context(atomic_path(files[0])), files[0])
        if image is not None:
            files.append(folder / f"{stem}.jpg")
            stack.enter_context(atomic_path(files[1])).write_bytes(image)
    return files


def _save(stage: Usd.Stage, temporary: Path, target: Path) -> None:
    try:
        written = stage.GetRootLayer().Export(str(temporary))
    except Tf.ErrorException as error:
        raise OutputError(f"{target}: cannot be written; is there space left on the disk?") from error
    if not written:
        raise OutputError(f"{target}: cannot be written; is there space left on the disk?")


def _stage(capture: Capture, motion: Motion) -> Usd.Stage:
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetTimeCodesPerSecond(motion.rate)
    stage.SetFramesPerSecond(motion.rate)
    if len(motion) > 1:
        codes = _time_codes(motion)
        stage.SetStartTimeCode(codes[0])
        stage.SetEndTimeCode(codes[-1])
    stage.GetRootLayer().customLayerData = {
        "generator": GENERATOR, "head": capture.head, "source": capture.source,
    }  # fmt: skip
    top = UsdGeom.Xform.Define(stage, _TOP)
    Usd.ModelAPI(top).SetKind("component")
    stage.SetDefaultPrim(top.GetPrim())
    UsdSkel.Root.Define(stage, _HEAD)
    return stage


def _time_codes(motion: Motion) -> list[float]:
    """Return the frames' time codes; a frame k / rate becomes k itself, whatever the division rounded."""
    codes: list[float] = np.round(motion.times * motion.rate, 6).tolist()
    return codes


def _joint_paths(head: HeadModel) -> list[str]:
    """Return the joints as UsdSkel names them, by the way down from the root."""
    paths: list[str] = []
    for name, parent in zip(head.joint_names, head.parents, strict=True):
        paths.append(name if parent < 0 else f"{paths[parent]}/{name}")
    return paths


def _add_skeleton(stage: Usd.Stage, head: HeadModel, motion: Motion) -> None:
    skeleton = UsdSkel.Skeleton.Define(stage, f"{_HEAD}/skeleton")
    skeleton.CreateJointsAttr(_joint_paths(head))
    parents = np.array(head.parents)
    above = np.where(parents[:, None] >= 0, motion.joints[parents], 0.0)
    skeleton.CreateBindTransformsAttr(_moves(motion.joints))
    skeleton.CreateRestTransformsAttr(_moves(motion.joints - above))
    binding = UsdSkel.BindingAPI.Apply(skeleton.GetPrim())
    binding.CreateAnimationSourceRel().SetTargets([f"{_HEAD}/motion"])


def _moves(places: npt.NDArray[np.floating]) -> Vt.Matrix4dArray:
    """Return translations by (N, 3) as matrices, which USD writes with the translation in the last row."""
    matrices = np.tile(np.eye(4), (len(places), 1, 1))
    matrices[:, 3, :3] = places
    return Vt.Matrix4dArray.FromNumpy(matrices)


def _add_mesh(stage: Usd.Stage, head: HeadModel, frame: Still, names: list[str]) -> None:
    mesh = UsdGeom.Mesh.Define(stage, _MESH)
    faces = head.faces.cpu().numpy()
    mesh.CreatePointsAttr(_vectors(frame.neutral))
    mesh.CreateExtentAttr(_vectors(np.stack([frame.neutral.min(0), frame.neutral.max(0)])))
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1).astype(np.int32)))
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateDoubleSidedAttr(True)  # an open mouth shows the inside of the lips and cheeks
    mesh.CreateNormalsAttr(_vectors(normals(frame.neutral[None], head)[0]))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    colours = mesh.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
    colours.Set(_vectors(linear_rgba(as_array(head.colors))[:, :3] / np.float32(65535)))
    if len(head.faces_uv):
        kind = Sdf.ValueTypeNames.TexCoord2fArray
        corners = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar("st", kind, UsdGeom.Tokens.faceVarying)
        corners.Set(Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(as_array(head.uv))))
        corner = head.faces_uv.cpu().numpy().reshape(-1).astype(np.int32)
        corners.SetIndices(Vt.IntArray.FromNumpy(corner))
    _bind(mesh, head, _add_blend_shapes(stage, head, frame, names), names)


def _bind(mesh: UsdGeom.Mesh, head: HeadModel, shapes: list[Sdf.Path], names: list[str]) -> None:
    """Tie the mesh to its skeleton and its blend shapes."""
    joints, weights = influences(as_array(head.weights))
    binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateSkeletonRel().SetTargets([f"{_HEAD}/skeleton"])
    count = joints.shape[1]
    binding.CreateJointIndicesPrimvar(False, count).Set(
        Vt.IntArray.FromNumpy(joints.reshape(-1).astype(np.int32))
    )
    binding.CreateJointWeightsPrimvar(False, count).Set(Vt.FloatArray.FromNumpy(weights.reshape(-1)))
    binding.CreateGeomBindTransformAttr(Gf.Matrix4d(1))
    binding.CreateBlendShapesAttr(names)
    binding.CreateBlendShapeTargetsRel().SetTargets(shapes)
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(
        UsdShade.Material.Define(mesh.GetPrim().GetStage(), _SKIN)
    )


def _add_blend_shapes(stage: Usd.Stage, head: HeadModel, frame: Still, names: list[str]) -> list[Sdf.Path]:
    """Add what each unit moves, and nothing else; return the prims' paths."""
    offsets = np.ascontiguousarray(as_array(head.exprdirs).transpose(2, 0, 1))  # (E, V, 3)
    turns = normal_changes(frame.neutral, offsets, head)
    paths: dict[Sdf.Path, None] = {}
    for name, offset, turn in zip(names, offsets, turns, strict=True):
        label = Tf.MakeValidIdentifier(name)
        while (path := Sdf.Path(f"{_MESH}/{label}")) in paths:
            label += "_"
        paths[path] = None
        shape = UsdSkel.BlendShape.Define(stage, path)
        moved = (np.abs(offset).max(1) > TINY_METRES) | (np.abs(turn).max(1) > TINY_NORMAL)
        kept = np.flatnonzero(moved)
        shape.CreatePointIndicesAttr(Vt.IntArray.FromNumpy(kept.astype(np.int32)))
        shape.CreateOffsetsAttr(_vectors(offset[kept]))
        shape.CreateNormalOffsetsAttr(_vectors(turn[kept]))
    return list(paths)


def _vectors(values: npt.NDArray[np.floating]) -> Vt.Vec3fArray:
    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values, np.float32))


def _add_motion(stage: Usd.Stage, head: HeadModel, motion: Motion, names: list[str]) -> None:
    """Add the SkelAnimation: of joints only those that turn, for the others rest."""
    animation = UsdSkel.Animation.Define(stage, f"{_HEAD}/motion")
    joints = sorted({GLOBAL, *motion.turning})
    paths = _joint_paths(head)
    animation.CreateJointsAttr([paths[j] for j in joints])
    animation.CreateBlendShapesAttr(names)
    animation.CreateScalesAttr(Vt.Vec3hArray(len(joints), Gf.Vec3h(1)))
    translations = motion.offsets(head.parents)[:, joints]
    rotations = motion.rotations[:, joints].astype(np.float32)
    weights = animation.CreateBlendShapeWeightsAttr()
    turned, moved = animation.CreateRotationsAttr(), animation.CreateTranslationsAttr()
    codes = _time_codes(motion) if len(motion) > 1 else [Usd.TimeCode.Default()]
    for code, w, q, t in zip(codes, motion.weights, rotations, translations, strict=True):
        weights.Set(Vt.FloatArray.FromNumpy(w), code)
        turned.Set(Vt.QuatfArray.FromNumpy(q), code)
        moved.Set(_vectors(t), code)


def _add_material(stage: Usd.Stage, image: str | None) -> None:
    """Add the skin: the texture, or the mesh's own colours."""
    material = UsdShade.Material.Define(stage, _SKIN)
    surface = _shader(stage, "surface", "UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(0.6)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    colour = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
    if image is None:
        own = _shader(stage, "colours", "UsdPrimvarReader_float3")
        own.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
        colour.ConnectToSource(own.CreateOutput("result", Sdf.ValueTypeNames.Float3))
    else:
        corner = _shader(stage, "corners", "UsdPrimvarReader_float2")
        corner.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
        photo = _shader(stage, "texture", "UsdUVTexture")
        photo.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(image)
        photo.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
        for side in ("wrapS", "wrapT"):
            photo.CreateInput(side, Sdf.ValueTypeNames.Token).Set("clamp")
        place = photo.CreateInput("st", Sdf.ValueTypeNames.Float2)
        place.ConnectToSource(corner.CreateOutput("result", Sdf.ValueTypeNames.Float2))
        colour.ConnectToSource(photo.CreateOutput("rgb", Sdf.ValueTypeNames.Float3))
    shown = surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
    material.CreateSurfaceOutput().ConnectToSource(shown)


def _shader(stage: Usd.Stage, name: str, kind: str) -> UsdShade.Shader:
    shader = UsdShade.Shader.Define(stage, f"{_SKIN}/{name}")
    shader.CreateIdAttr(kind)
    return shader


def _add_camera(stage: Usd.Stage, capture: Capture, motion: Motion) -> None:
    width, height = capture.size
    right, up = (capture.image_size / 2 - capture.principal) / width * FILM * [1, -1]
    camera = UsdGeom.Camera.Define(stage, f"{_TOP}/camera")
    camera.CreateProjectionAttr(UsdGeom.Tokens.perspective)
    camera.CreateFocalLengthAttr(capture.focal / width * FILM)
    camera.CreateHorizontalApertureAttr(FILM)
    camera.CreateVerticalApertureAttr(FILM * height / width)
    camera.CreateHorizontalApertureOffsetAttr(float(right))
    camera.CreateVerticalApertureOffsetAttr(float(up))
    camera.CreateClippingRangeAttr(Gf.Vec2f(0.01, 100))
    camera.AddTranslateOp().Set(Gf.Vec3d(*motion.camera.tolist()))
