"""Opens a head.bvh in Blender and measures whether head and eyes turn as in the capture's other exports.

Needs Blender's Python module in an environment of its own (see ``check_in_blender.py``), and three exports of
one clip at its own rate::

    recon3d export clip/capture.npz --out out --format bvh,arkit,livelink --fps 0 --slate s
    cd out/clip && blender-env/bin/python tools/check_bvh_in_blender.py head.bvh arkit.json s_1_recon3d.csv

Blender's own importer builds the armature. In every frame the world rotation of each bone against its rest is
compared: the head with ``headRotation``, the eyes with the Live Link angles. Exit status 1 if anything is
off.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

#: Largest difference of a rotation, degrees: what six decimals and Blender's float32 leave.
TOLERANCE = 0.01


def imported(path: Path) -> tuple[Any, Any]:
    """Return bpy and the armature that its importer makes of a BVH file."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_anim.bvh(
        filepath=str(path), axis_forward="-Z", axis_up="Y", global_scale=0.01, update_scene_fps=True
    )
    (armature,) = [thing for thing in bpy.data.objects if thing.type == "ARMATURE"]
    return bpy, armature


def turned(bone: Any) -> Any:
    """Return how a pose bone is turned against its rest, in the file's axes (+Y up), as a quaternion."""
    from mathutils import Matrix

    upright = Matrix.Rotation(-math.pi / 2, 3, "X")  # Blender's +Z up back to the file's +Y up
    rotation = bone.matrix.to_3x3() @ bone.bone.matrix_local.to_3x3().inverted()
    return (upright @ rotation @ upright.inverted()).to_quaternion()


def head_rotation(frame: dict[str, Any]) -> Any:
    """Return a frame's head rotation in ``arkit.json``."""
    from mathutils import Quaternion

    x, y, z, w = frame["headRotation"]
    return Quaternion((w, x, y, z))


def eye_rotation(row: dict[str, str], eye: str) -> Any:
    """Return an eye's rotation to the head in a Live Link row in radians: signs turned round, yaw first."""
    from mathutils import Matrix

    yaw, pitch, roll = (float(row[f"{eye}{axis}"]) for axis in ("Yaw", "Pitch", "Roll"))
    axes = Matrix.Rotation(-yaw, 3, "Y"), Matrix.Rotation(pitch, 3, "X"), Matrix.Rotation(-roll, 3, "Z")
    return (axes[0] @ axes[1] @ axes[2]).to_quaternion()


def apart(a: Any, b: Any) -> float:
    """Return the angle between two rotations, degrees; by matrices, as a quaternion's w hides small ones."""
    difference = a.to_matrix() - b.to_matrix()
    length = math.sqrt(sum(value * value for row in difference for value in row))
    return math.degrees(2 * math.asin(min(length / math.sqrt(8), 1.0)))


def main() -> int:
    """Import, compare, print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("bvh", "arkit", "livelink"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    frames = json.loads(options.arkit.read_text(encoding="utf-8"))["frames"]
    with options.livelink.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    bpy, armature = imported(options.bvh)
    bones = armature.pose.bones
    worst = {"head": 0.0, "left_eye": 0.0, "right_eye": 0.0}
    for index, (frame, row) in enumerate(zip(frames, rows, strict=True), start=1):
        bpy.context.scene.frame_set(index)
        head = head_rotation(frame)
        wanted = {
            "head": head,
            "left_eye": head @ eye_rotation(row, "LeftEye"),
            "right_eye": head @ eye_rotation(row, "RightEye"),
        }
        for name, rotation in wanted.items():
            worst[name] = max(worst[name], apart(turned(bones[name]), rotation))
    scene = bpy.context.scene
    print(f"bones {', '.join(bones.keys())}; {len(frames)} frames at {scene.render.fps} frames/s")
    for name, angle in worst.items():
        print(f"  {'ok  ' if angle < TOLERANCE else 'FAIL'} {name}: at most {angle:.5f} degrees off")
    return int(any(angle >= TOLERANCE for angle in worst.values()))


if __name__ == "__main__":
    sys.exit(main())
