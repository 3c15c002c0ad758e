"""Runs inside Blender, or in a Python that has ``bpy``: a GLB of recon3d's in, ``.blend`` or ``.fbx`` out.

``python _in_blender.py SETTINGS.json``, with in the settings ``glb`` and ``target`` (paths), ``rate`` (frames
per second), ``size`` (width and height, px) and ``principal`` (principal point, px). This file stands alone:
Blender's Python has neither recon3d nor torch. Tested with Blender 5.0.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np

#: Keys nearer to a whole frame than this part of its number belong on it: the GLB's times are float32.
SNAP = 2.0**-22


def main(settings: dict[str, Any]) -> None:
    """Convert one file."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    whole = max(1, round(settings["rate"]))
    scene.render.fps = whole
    scene.render.fps_base = 1.0  # the importer multiplies by it where it should divide
    bpy.ops.import_scene.gltf(filepath=settings["glb"])
    tidy()
    last = retime(settings["rate"] / whole)
    scene.render.fps_base = whole / settings["rate"]
    scene.frame_start, scene.frame_end = 0, math.ceil(last - 0.01)
    scene.frame_set(0)
    aim_camera(scene, settings["size"], settings["principal"])
    write(settings["target"])


def tidy() -> None:
    """Leave the rig, the head and the camera, each with the animation as its action."""
    for rig in [thing for thing in bpy.data.objects if thing.type == "ARMATURE"]:
        for bone in rig.pose.bones:
            bone.custom_shape = None
    for thing in list(bpy.data.objects):
        # A placeholder where the mesh was before it went under the rig, and the bones' display shape.
        shown = thing.type == "MESH" and any(m.type == "ARMATURE" for m in thing.modifiers)
        if thing.type not in ("ARMATURE", "CAMERA") and not shown:
            bpy.data.objects.remove(thing)
    for thing in bpy.data.objects:
        if thing.type == "MESH":
            thing.name = thing.data.name = "head"
    for animated in animations():
        for track in list(animated.nla_tracks):  # the same action, a second time
            animated.nla_tracks.remove(track)


def animations() -> Iterator[Any]:
    """Yield what animates the objects and the shape keys."""
    for block in (*bpy.data.objects, *bpy.data.shape_keys):
        if block.animation_data is not None:
            yield block.animation_data


def curves() -> Iterator[Any]:
    """Yield all f-curves, in whichever way this Blender keeps them."""
    for action in bpy.data.actions:
        if hasattr(action, "layers") and len(action.layers):
            strips = [strip for layer in action.layers for strip in layer.strips]
            for bag in [bag for strip in strips for bag in strip.channelbags]:
                yield from bag.fcurves
        else:
            yield from action.fcurves


def retime(factor: float) -> float:
    """Multiply the keys' frames by a factor; return the last frame."""
    last = 0.0
    for curve in curves():
        points = np.empty((len(curve.keyframe_points), 2), np.float32)
        curve.keyframe_points.foreach_get("co", points.reshape(-1))
        frames = points[:, 0].astype(np.float64) * factor
        near = np.abs(frames - np.rint(frames)) <= SNAP * frames
        points[:, 0] = np.where(near, np.rint(frames), frames)
        curve.keyframe_points.foreach_set("co", points.reshape(-1))
        curve.update()
        last = max(last, float(points[-1, 0]))
    return last


def aim_camera(scene: Any, size: list[int], principal: list[float]) -> None:
    """Render what the video saw: its size, and its principal point as the camera's shift."""
    scene.render.resolution_x, scene.render.resolution_y = size
    for thing in bpy.data.objects:
        if thing.type == "CAMERA":
            scene.camera = thing
            thing.data.shift_x = (size[0] / 2 - principal[0]) / max(size)
            thing.data.shift_y = (principal[1] - size[1] / 2) / max(size)


def write(target: str) -> None:
    """Write the scene in the format that the path's ending names."""
    if target.endswith(".blend"):
        bpy.ops.wm.save_as_mainfile(filepath=target, compress=True)
        return
    bpy.ops.export_scene.fbx(
        filepath=target,
        object_types={"ARMATURE", "MESH", "CAMERA"},
        add_leaf_bones=False,
        path_mode="COPY",
        embed_textures=True,
        # Strips and lists of actions leave the shape keys' curves out; without both the scene itself is
        # played, and sampled at whole frames.
        bake_anim_use_nla_strips=False,
        bake_anim_use_all_actions=False,
        bake_anim_simplify_factor=0.0,
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8")))
