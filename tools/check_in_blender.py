"""Opens recon3d's exports in Blender and measures whether they arrive as they were meant.

Needs Blender's Python module in an environment of its own (it wants other versions than recon3d)::

    python3.11 -m venv blender-env && blender-env/bin/pip install bpy
    blender-env/bin/python tools/check_in_blender.py OUT/stem/mesh.glb OUT/stem/mesh.obj \
        --head flame_model/open_head.npz --capture OUT/stem/capture.npz

For a GLB: the 52 shape keys and their names, how far each key moves each vertex against the head model's
``exprdirs`` (Blender's own evaluation, armature included), key values against the capture's expression,
bone names. For an OBJ: vertex and face counts, and whether its texture loads. Exit status 1 if anything
is off.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
JOINTS = ("global", "neck", "jaw", "left_eye", "right_eye")
#: Largest error of a vertex under a shape key, m: what the exporter leaves out, and float32's rounding.
TOLERANCE = 3e-6


class Report:
    """Prints one line a check and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, good: bool, text: str) -> None:
        """Report one check."""
        print(f"  {'ok  ' if good else 'FAIL'} {text}")
        self.failed |= not good


def new_scene() -> Any:
    """Return bpy with an empty scene."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy


def evaluated(bpy: Any, thing: Any) -> Array:
    """(N, 3) vertices after shape keys and armature, back in glTF's axes (+Y up)."""
    bpy.context.view_layer.update()
    mesh = thing.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    flat = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", flat)
    x, y, z = flat.reshape(-1, 3).T
    return np.stack([x, z, -y], axis=1)


def read_head(path: Path) -> tuple[Array, list[str]]:
    """Return exprdirs (V, 3, E) m and the units' names from a head model's file."""
    with np.load(path, allow_pickle=False) as head:
        exprdirs = head["exprdirs"].astype(np.float32)
        if "exprdirs_scale" in head.files:
            exprdirs = exprdirs * head["exprdirs_scale"]
        return exprdirs, [str(name) for name in head["expression_names"]]


def check_glb(path: Path, head: Path, capture: Path | None, report: Report) -> None:
    bpy = new_scene()
    bpy.ops.import_scene.gltf(filepath=str(path))
    meshes = [o for o in bpy.data.objects if o.type == "MESH" and o.data.shape_keys]
    report(len(meshes) == 1, f"{len(meshes)} mesh with shape keys")
    if not meshes:
        return
    thing = meshes[0]
    exprdirs, names = read_head(head)
    keys = {k.name: k for k in thing.data.shape_keys.key_blocks[1:]}
    report(list(keys) == names, f"{len(keys)} shape keys, named as the head's {len(names)} units")
    _check_values(keys, names, capture, report)
    _check_motion(bpy, thing, keys, exprdirs, names, report)
    rigs = [o for o in bpy.data.objects if o.type == "ARMATURE"]
    bones = [b.name for r in rigs for b in r.data.bones]
    report(len(rigs) == 1 and set(bones) == set(JOINTS), f"one armature with the bones {', '.join(bones)}")
    held = all(abs(sum(g.weight for g in v.groups) - 1) < 1e-4 for v in thing.data.vertices)
    report(held, f"{len(thing.data.vertices)} vertices, the bone weights of each sum to 1")
    size = thing.dimensions
    report(0.1 < max(size) < 0.6, f"{size[0]:.3f} x {size[1]:.3f} x {size[2]:.3f} m")
    images = [i for i in bpy.data.images if i.type == "IMAGE"]
    for image in images:
        report(bool(image.size[0]), f"texture of {image.size[0]} x {image.size[1]} pixels")
    colours = "COLOR_0" in thing.data.color_attributes or len(thing.data.color_attributes) > 0
    report(bool(images) or colours, "has a texture" if images else "has vertex colours")


def _check_values(keys: dict[str, Any], names: list[str], capture: Path | None, report: Report) -> None:
    if capture is None:
        return
    with np.load(capture, allow_pickle=False) as file:
        wanted = file["expression"][int(np.argmax(file["tracked"]))]
    error = max(abs(keys[n].value - float(w)) for n, w in zip(names, wanted, strict=True))
    report(error < 1e-5, f"key values are the capture's expression (largest difference {error:.1e})")


def _check_motion(
    bpy: Any, thing: Any, keys: dict[str, Any], exprdirs: Array, names: list[str], report: Report
) -> None:
    attribute = thing.data.attributes.get("_HEAD_VERTEX")
    report(attribute is not None, "tells the head model's vertex of each vertex")
    if attribute is None:
        return
    index = np.empty(len(thing.data.vertices), np.float32)
    attribute.data.foreach_get("value", index)
    index = index.astype(np.int64)
    kept = {name: key.value for name, key in keys.items()}
    for key in keys.values():
        key.value = 0.0
    neutral = evaluated(bpy, thing)
    errors, moved = [], 0
    for unit, name in enumerate(names):
        keys[name].value = 1.0
        offset = evaluated(bpy, thing) - neutral
        keys[name].value = 0.0
        errors.append(float(np.abs(offset - exprdirs[index, :, unit]).max()))
        moved += bool(np.abs(offset).max() > 1e-4)
    for name, value in kept.items():
        keys[name].value = value
    worst = float(np.max(errors))  # NaN if any is: that fails too
    at = names[int(np.argmax(errors))]
    report(worst < TOLERANCE, f"keys move vertices as the head says: largest error {worst:.2e} m ({at})")
    report(moved > 0, f"{moved} of {len(names)} keys move a vertex by more than 0.1 mm")


def check_obj(path: Path, head: Path, report: Report) -> None:
    bpy = new_scene()
    bpy.ops.wm.obj_import(filepath=str(path), forward_axis="NEGATIVE_Z", up_axis="Y")
    meshes = [o for o in bpy.data.objects if o.type == "MESH"]
    report(len(meshes) == 1, f"{len(meshes)} mesh")
    mesh = meshes[0].data
    with np.load(head, allow_pickle=False) as file:
        counts = len(file["v_template"]), len(file["f"])
    found = len(mesh.vertices), len(mesh.polygons)
    report(found == counts, f"{found[0]} vertices and {found[1]} triangles, as the head model")
    report(len(mesh.uv_layers) == 1, f"{len(mesh.uv_layers)} UV map")
    images = [i for i in bpy.data.images if i.type == "IMAGE"]
    wants_one = "map_Kd" in path.with_suffix(".mtl").read_text(encoding="utf-8")
    if wants_one:
        loaded = [i for i in images if i.size[0] and len(i.pixels)]
        report(len(loaded) == 1, f"texture loads ({', '.join(f'{i.size[0]} x {i.size[1]}' for i in loaded)})")
    else:
        report(len(mesh.color_attributes) == 1, "vertex colours")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check recon3d's GLB and OBJ exports in Blender.")
    parser.add_argument("files", nargs="+", type=Path, help="mesh.glb and mesh.obj files")
    parser.add_argument("--head", type=Path, required=True, help="the head model's .npz")
    parser.add_argument("--capture", type=Path, help="capture.npz, to compare the key values")
    options = parser.parse_args(arguments)
    report = Report()
    for path in options.files:
        print(path)
        if path.suffix == ".glb":
            check_glb(path, options.head, options.capture, report)
        else:
            check_obj(path, options.head, report)
    print("failed" if report.failed else "all good")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
