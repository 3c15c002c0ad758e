"""USD, read back and posed by OpenUSD itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_head import moving_capture, pixels, seen, write_bare_head
from PIL import Image
from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, UsdSkel, UsdUtils, UsdValidation
from toy_head import toy_capture, write_toy_head

from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError, MissingExtraError, OutputError
from recon3d.export import ExportOptions, export
from recon3d.export.name_map import NameMap
from recon3d.head import HeadModel, load_head
from recon3d.render.shading import vertex_normals

TEXTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(scope="module", params=["toy", "open", "bare"])
def head(
    request: pytest.FixtureRequest, toy: HeadModel, tmp_path_factory: pytest.TempPathFactory
) -> HeadModel:
    """The toy, the head that ships, and one as FLAME's files are."""
    if request.param == "toy":
        return toy
    if request.param == "open":
        return load_head()
    return load_head(write_bare_head(tmp_path_factory.mktemp("bare") / "flame.npz"))


def opened(head: HeadModel, folder: Path, capture: Capture, **settings: Any) -> Usd.Stage:
    files = export(capture, head, folder, "usd", **settings)
    assert files[0].name == ("animation.usdc" if len(capture) > 1 else "mesh.usdc")
    return Usd.Stage.Open(str(files[0]))


def mesh_of(stage: Usd.Stage) -> UsdGeom.Mesh:
    (mesh,) = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    return mesh


def animation_of(stage: Usd.Stage) -> UsdSkel.Animation:
    (animation,) = [UsdSkel.Animation(p) for p in stage.Traverse() if p.IsA(UsdSkel.Animation)]
    return animation


def shape_names(stage: Usd.Stage) -> list[str]:
    return list(UsdSkel.BindingAPI(mesh_of(stage)).GetBlendShapesAttr().Get())


@pytest.mark.parametrize("texture", [None, TEXTURE], ids=["plain", "textured"])
@pytest.mark.parametrize("frames", [1, 4])
def test_usds_own_validators_find_nothing(head: HeadModel, tmp_path: Path, texture: Any, frames: int) -> None:
    capture = moving_capture(head, frames, timestamps=np.array([0.0, 0.03, 0.1, 0.13])[:frames])
    stage = opened(head, tmp_path, capture, texture=texture)
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    errors = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [error.GetErrorAsString() for error in errors] == []


def test_the_validators_would_find_something(toy: HeadModel, tmp_path: Path) -> None:
    stage = opened(toy, tmp_path, moving_capture(toy))
    mesh_of(stage).GetPrim().RemoveAppliedSchema("SkelBindingAPI")
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert UsdValidation.ValidationContext(validators).Validate(stage)


def test_baked_points_are_what_the_camera_saw(head: HeadModel, tmp_path: Path) -> None:
    """OpenUSD's own blend shapes and skinning, at every frame of a clip with uneven times."""
    times = np.array([2.0, 2.04, 2.05, 2.2, 2.31])
    capture = moving_capture(head, 5, fps=25, timestamps=times)
    stage = opened(head, tmp_path, capture)
    root = UsdSkel.Root(stage.GetPrimAtPath("/recon3d/head"))
    camera = UsdGeom.Camera(stage.GetPrimAtPath("/recon3d/camera")).GetCamera(0)
    assert UsdSkel.BakeSkinning(root, Gf.Interval.GetFullInterval())
    wanted = seen(capture, head)
    for frame, seconds in enumerate(times - times[0]):
        found = np.array(mesh_of(stage).GetPointsAttr().Get(seconds * 25))
        place = found - np.array(camera.transform.ExtractTranslation())
        assert np.abs(place - wanted[frame]).max() < 1e-5


def test_the_camera_sees_the_clips_pixels(toy: HeadModel, tmp_path: Path) -> None:
    """Principal point off the middle included."""
    capture = moving_capture(toy)
    stage = opened(toy, tmp_path, capture)
    camera = UsdGeom.Camera(stage.GetPrimAtPath("/recon3d/camera")).GetCamera(0)
    assert camera.aspectRatio == pytest.approx(640 / 480)
    project = np.array(camera.frustum.ComputeProjectionMatrix())
    points = seen(capture, toy)[0]
    clip = np.column_stack([points, np.ones(len(points))]) @ project
    drawn = (clip[:, :2] / clip[:, 3:] * [1, -1] + 1) / 2 * [640, 480]
    np.testing.assert_allclose(drawn, pixels(capture, points), atol=1e-2)


def test_units_and_times(toy: HeadModel, tmp_path: Path) -> None:
    times = 9 + np.array([0.0, 1 / 30, 0.05, 0.1])
    capture = moving_capture(toy, 4, timestamps=times)
    stage = opened(toy, tmp_path, capture)
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.y
    assert stage.GetTimeCodesPerSecond() == stage.GetFramesPerSecond() == 30
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0, 3)
    assert stage.GetDefaultPrim().GetPath() == "/recon3d"
    weights = animation_of(stage).GetBlendShapeWeightsAttr()
    assert weights.GetTimeSamples() == [0, 1, 1.5, 3]
    for code, expression in zip(weights.GetTimeSamples(), capture.expression, strict=True):
        np.testing.assert_array_equal(weights.Get(code), expression)


def test_resampling(toy: HeadModel, tmp_path: Path) -> None:
    stage = opened(toy, tmp_path, moving_capture(toy, 3), options=ExportOptions(fps=60))
    assert stage.GetTimeCodesPerSecond() == 60
    assert animation_of(stage).GetBlendShapeWeightsAttr().GetTimeSamples() == [0, 1, 2, 3, 4]


def test_shapes_hold_what_moves_and_no_more(toy: HeadModel, tmp_path: Path) -> None:
    stage = opened(toy, tmp_path, moving_capture(toy))
    assert shape_names(stage) == list(ARKIT_NAMES)
    assert list(animation_of(stage).GetBlendShapesAttr().Get()) == list(ARKIT_NAMES)
    targets = UsdSkel.BindingAPI(mesh_of(stage)).GetBlendShapeTargetsRel().GetTargets()
    neutral = np.array(mesh_of(stage).GetPointsAttr().Get())
    straight = np.array(mesh_of(stage).GetNormalsAttr().Get())
    for unit, path in enumerate(targets):
        shape = UsdSkel.BlendShape(stage.GetPrimAtPath(path))
        index = np.array(shape.GetPointIndicesAttr().Get(), int)
        wanted = toy.exprdirs[..., unit].numpy()
        points, normals = np.zeros_like(wanted), straight.copy()
        points[index] = shape.GetOffsetsAttr().Get()
        normals[index] += shape.GetNormalOffsetsAttr().Get()
        np.testing.assert_allclose(points, wanted, atol=1.1e-6)
        moved = vertex_normals(torch.as_tensor(neutral + wanted)[None], toy.faces)[0].numpy()
        np.testing.assert_allclose(normals, moved, atol=2e-4)
        assert len(index) < len(wanted)


def test_joints_that_rest_are_left_to_the_rest_pose(toy: HeadModel, tmp_path: Path) -> None:
    pose = moving_capture(toy).pose.copy()
    pose[:, 2:] = 0
    stage = opened(toy, tmp_path, moving_capture(toy, pose=pose))
    assert list(animation_of(stage).GetJointsAttr().Get()) == ["global", "global/neck"]


def test_a_photograph_stands_straight(head: HeadModel, tmp_path: Path) -> None:
    """As in ``mesh.glb``: without the photograph's head rotation, with its expression."""
    capture = toy_capture(head)
    stage = opened(head, tmp_path, capture)
    assert not stage.HasAuthoredTimeCodeRange()
    assert not stage.GetPrimAtPath("/recon3d/camera")
    root = UsdSkel.Root(stage.GetPrimAtPath("/recon3d/head"))
    assert UsdSkel.BakeSkinning(root, Gf.Interval.GetFullInterval())
    wanted = head(
        torch.as_tensor(capture.shape)[None],
        torch.as_tensor(capture.expression),
        torch.zeros(1, head.num_joints, 3),
    ).vertices[0]
    points = mesh_of(stage).GetPointsAttr()
    samples = points.GetTimeSamples()
    found = np.array(points.Get(samples[0] if samples else Usd.TimeCode.Default()))
    assert np.abs(found - wanted.numpy()).max() < 1e-5


def test_texture(toy: HeadModel, tmp_path: Path) -> None:
    files = export(moving_capture(toy), toy, tmp_path, "usd", texture=TEXTURE)
    assert [file.name for file in files] == ["animation.usdc", "animation.jpg"]
    assert Image.open(files[1]).size == (64, 64)
    layers, assets, unresolved = UsdUtils.ComputeAllDependencies(str(files[0]))
    assert (len(layers), [Path(a).name for a in assets], unresolved) == (1, ["animation.jpg"], [])
    mesh = mesh_of(stage := Usd.Stage.Open(str(files[0])))
    material, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    (source,) = surface.GetInput("diffuseColor").GetConnectedSources()[0]
    assert UsdShade.Shader(source.source).GetIdAttr().Get() == "UsdUVTexture"
    corners = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    assert corners.GetInterpolation() == UsdGeom.Tokens.faceVarying
    wanted = toy.uv[toy.faces_uv].reshape(-1, 2).numpy()
    np.testing.assert_allclose(corners.ComputeFlattened(), wanted)
    assert stage.GetRootLayer().customLayerData["head"] == toy.id


def test_without_a_texture_the_heads_colours_show(toy: HeadModel, tmp_path: Path) -> None:
    stage = opened(toy, tmp_path, moving_capture(toy))
    colours = mesh_of(stage).GetDisplayColorPrimvar().Get()
    assert list(colours[0]) == pytest.approx([0.603827, 0.318547, 0.214041], abs=1e-4)  # of sRGB .8 .6 .5
    material, _ = UsdShade.MaterialBindingAPI(mesh_of(stage)).ComputeBoundMaterial()
    (source,) = material.ComputeSurfaceSource()[0].GetInput("diffuseColor").GetConnectedSources()[0]
    assert UsdShade.Shader(source.source).GetInput("varname").Get() == "displayColor"


def test_names_that_usd_prims_cannot_have(toy: HeadModel, tmp_path: Path) -> None:
    """A renaming names the shapes as it says; the prims, which may hold letters and digits, as near."""
    names = [f"rig.{name}" for name in ARKIT_NAMES[:-1]] + ["rig_" + ARKIT_NAMES[0]]
    curves = "\n".join(f'"{new}" = "{old}"' for new, old in zip(names, ARKIT_NAMES, strict=True))
    mapped = NameMap.parse(f'format = "recon3d-names/1"\n[curves]\n{curves}\n'.encode(), "rig")
    stage = opened(toy, tmp_path, moving_capture(toy), options=ExportOptions(names=mapped))
    assert shape_names(stage) == names
    targets = UsdSkel.BindingAPI(mesh_of(stage)).GetBlendShapeTargetsRel().GetTargets()
    assert len(set(targets)) == 52
    assert targets[0] == Sdf.Path("/recon3d/head/mesh/rig_eyeBlinkLeft")


def test_the_wrong_head_is_refused(toy: HeadModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="captured with the head model open_head/00000000"):
        export(moving_capture(toy, head="open_head/00000000"), toy, tmp_path, "usd")
    assert not list(tmp_path.iterdir())


def test_without_usd_the_extra_is_named(
    toy: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "recon3d.export.usd", raising=False)
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(MissingExtraError, match=r"usd needs pxr: pip install 'recon3d\[usd\]'"):
        export(moving_capture(toy), toy, tmp_path, "usd")


def test_a_scene_is_not_replaced_when_its_texture_cannot_be(toy: HeadModel, tmp_path: Path) -> None:
    (tmp_path / "animation.jpg").mkdir()
    (tmp_path / "animation.usdc").write_text("before")
    with pytest.raises(OutputError):
        export(moving_capture(toy), toy, tmp_path, "usd", texture=TEXTURE)
    assert (tmp_path / "animation.usdc").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["animation.jpg", "animation.usdc"]


def test_times_that_frames_share(toy: HeadModel, tmp_path: Path) -> None:
    capture = replace(moving_capture(toy, 3), timestamps=np.array([0.0, 0.0, 0.1]))
    stage = opened(toy, tmp_path, capture)
    assert animation_of(stage).GetBlendShapeWeightsAttr().GetTimeSamples() == [0, 3]
