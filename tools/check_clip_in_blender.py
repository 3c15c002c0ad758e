"""Opens recon3d's animated exports in Blender and measures whether they are the capture.

Runs in Blender's Python module, as ``check_in_blender.py`` tells::

    blender-env/bin/python tools/check_clip_in_blender.py OUT/stem/animation.{glb,usdc,fbx,blend} \
        --head flame_model/open_head.npz --capture OUT/stem/capture.npz

Looked at: one animated shape key for each of the head's units, its f-curve against the capture at every
frame, and at several frames every vertex (Blender's own shape keys and armature) as the file's camera sees
it, against FLAME's formula worked out here, in camera space. Exit status 1 if anything is off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from check_in_blender import Report, new_scene

Array = npt.NDArray[Any]
#: Largest difference of a curve from the capture.
CURVE = 1e-3
#: Largest difference of a vertex, m: float32 in the file, and FBX's centimetres and degrees.
PLACE = {".glb": 2e-5, ".blend": 2e-5, ".usdc": 2e-5, ".fbx": 1e-4}
FRAMES = 6


def load(path: Path, fps: float) -> tuple[Any, float]:
    """Open a file; return bpy and the seconds of one of the scene's frames."""
    bpy = new_scene()
    render = bpy.context.scene.render
    render.fps = round(fps)
    if path.suffix == ".blend":
        bpy.ops.wm.open_mainfile(filepath=str(path))
    elif path.suffix == ".fbx":
        bpy.ops.import_scene.fbx(filepath=str(path), anim_offset=0.0)
    elif path.suffix == ".usdc":
        bpy.ops.wm.usd_import(filepath=str(path))
        return bpy, 1 / fps  # time codes become frames; their rate is rounded
    else:
        bpy.ops.import_scene.gltf(filepath=str(path))
    render = bpy.context.scene.render
    # Blender's importers leave the divisor of broken rates out (fps_base is 1.001 for 29.97).
    return bpy, (render.fps_base if path.suffix == ".blend" else 1.0) / render.fps


def head_points(head: Any, capture: Any, frame: int) -> Array:
    """(V, 3) m, camera space: FLAME's formula, joint after joint."""
    shape, pose = capture["shape"], capture["pose"][frame].astype(np.float64)
    scale = {k: head[f"{k}_scale"] if f"{k}_scale" in head.files else 1.0 for k in ("shapedirs", "exprdirs")}
    person = head["v_template"] + (head["shapedirs"].astype(np.float32) * scale["shapedirs"]) @ shape
    points = person + (head["exprdirs"].astype(np.float32) * scale["exprdirs"]) @ capture["expression"][frame]
    joints = head["J_regressor"] @ person
    world: list[tuple[Array, Array]] = []
    for j, parent in enumerate(head["kintree_table"][0]):
        turn = rotation_matrix(pose[j])
        move = joints[j] - turn @ joints[j]
        if j > 0:
            above, moved = world[int(parent)]
            turn, move = above @ turn, above @ move + moved
        world.append((turn, move))
    posed = [points @ turn.T + move for turn, move in world]
    return np.einsum("vj,jvk->vk", head["weights"], np.stack(posed)) + capture["translation"][frame]


def rotation_matrix(vector: Array) -> Array:
    """Axis-angle (3,) rad to a matrix."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def file_vertices(head: Any, suffix: str) -> Array:
    """(N,) the head model's vertex of each vertex in the file: seams are doubled, in this order."""
    if suffix == ".usdc":
        return np.arange(len(head["v_template"]))
    if "f_uv" not in head.files:
        return np.unique(head["f"])
    stride = int(head["f_uv"].max()) + 1
    return np.unique(head["f"].astype(np.int64) * stride + head["f_uv"]) // stride


def seen_points(bpy: Any, thing: Any, camera: Any) -> Array:
    """(N, 3) m: the evaluated mesh in camera space (OpenCV's axes)."""
    bpy.context.view_layer.update()
    mesh = thing.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    flat = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", flat)
    to_camera = np.array(camera.matrix_world.inverted() @ thing.matrix_world, np.float64)
    points = flat.reshape(-1, 3) @ to_camera[:3, :3].T + to_camera[:3, 3]
    return points * [1, -1, -1]


def key_curves(bpy: Any) -> Iterator[tuple[str, Array]]:
    """Yield each shape key that has a curve, and the curve's keys (n, 2): frame and value."""
    for keys in bpy.data.shape_keys:
        for curve in action_curves(keys.animation_data.action):
            if curve.data_path.startswith('key_blocks["'):
                points = np.empty(len(curve.keyframe_points) * 2, np.float32)
                curve.keyframe_points.foreach_get("co", points)
                yield curve.data_path.split('"')[1], points.reshape(-1, 2).astype(np.float64)


def action_curves(action: Any) -> Iterator[Any]:
    """Yield the f-curves of an action, as Blender has kept them since 4.4 or before."""
    if not getattr(action, "layers", None):
        yield from action.fcurves
        return
    for layer in action.layers:
        for strip in layer.strips:
            for bag in strip.channelbags:
                yield from bag.fcurves


def check(path: Path, head: Any, capture: Any, report: Report) -> None:
    """Compare one file with the capture."""
    bpy, second = load(path, float(capture["fps"]))
    names = [str(name) for name in head["expression_names"]]
    seconds = capture["timestamps"] - capture["timestamps"][0]
    found = dict(key_curves(bpy))
    report(sorted(found) == sorted(names), f"{len(found)} animated shape keys, one for each unit")
    counts = {len(points) for points in found.values()}
    if path.suffix != ".fbx":
        report(counts == {len(seconds)}, f"{len(seconds)} keys in each")
    worst = max(
        float(np.abs(found[n][:, 1] - np.interp(found[n][:, 0] * second, seconds, wanted)).max())
        for n, wanted in zip(names, capture["expression"].T, strict=True)
    )
    last = max(float(points[-1, 0]) * second for points in found.values())
    report(abs(last - seconds[-1]) < second, f"{last:.3f} s long, the capture {seconds[-1]:.3f} s")
    report(worst < CURVE, f"curves are the capture's: largest difference {worst:.1e}")
    thing = next(o for o in bpy.data.objects if o.type == "MESH" and o.data.shape_keys)
    camera = next(o for o in bpy.data.objects if o.type == "CAMERA")
    _check_places(bpy, thing, camera, second, head, capture, report, path.suffix)


def _check_places(
    bpy: Any, thing: Any, camera: Any, second: float, head: Any, capture: Any, report: Report, suffix: str
) -> None:
    vertices = file_vertices(head, suffix)
    report(len(vertices) == len(thing.data.vertices), f"{len(vertices)} vertices")
    if len(vertices) != len(thing.data.vertices):
        return
    at = (capture["timestamps"] - capture["timestamps"][0]) / second
    if suffix == ".fbx":  # baked at the clip's whole frames: the others are between its keys
        frame_length = 1 / float(capture["fps"]) / second
        chosen = np.flatnonzero(np.abs(at / frame_length - np.rint(at / frame_length)) < 1e-3)
    else:
        chosen = np.arange(len(at))
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(FRAMES, len(chosen))).astype(int)]
    worst = 0.0
    for frame in chosen:
        near = round(at[frame]) if abs(at[frame] - round(at[frame])) < 1e-3 else float(at[frame])
        bpy.context.scene.frame_set(int(near // 1), subframe=float(near % 1))
        found = seen_points(bpy, thing, camera)
        worst = max(worst, float(np.abs(found - head_points(head, capture, frame)[vertices]).max()))
    report(
        worst < PLACE[suffix],
        f"vertices before the camera, {len(chosen)} frames: largest difference {worst:.1e} m",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Check recon3d's animated exports in Blender.")
    parser.add_argument("files", nargs="+", type=Path, help="animation.glb, .usdc, .fbx and .blend")
    parser.add_argument("--head", type=Path, required=True, help="the head model's .npz")
    parser.add_argument("--capture", type=Path, required=True, help="capture.npz")
    options = parser.parse_args()
    report = Report()
    with (
        np.load(options.head, allow_pickle=False) as head,
        np.load(options.capture, allow_pickle=False) as capture,
    ):
        arrays = {name: capture[name] for name in capture.files}
        for path in options.files:
            print(path)
            check(path, head, arrays, report)
    print("failed" if report.failed else "all good")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
