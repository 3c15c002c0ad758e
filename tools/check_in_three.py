"""Plays an animated GLB in three.js, in a real browser, and measures whether it is the capture.

Needs Chromium, recon3d with its test extra (playwright), and three.js, looked for where this is run::

    npm install three
    python tools/check_in_three.py OUT/stem/animation.glb --capture OUT/stem/capture.npz [--picture FILE.png]

The file is loaded by GLTFLoader and played by AnimationMixer. At several times its numbers are compared
with the capture's: the morph target influences, the root joint as the file's camera sees it, and the pixels
of vertices after three.js' own morphing, skinning and projection. Exit status 1 if anything is off.
"""

from __future__ import annotations

import argparse
import mimetypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from playwright.sync_api import Page, Route, sync_playwright
from scipy.spatial.transform import Rotation

from recon3d.capture import Capture
from recon3d.conventions import FRONTAL
from recon3d.head import HeadModel, load_head

Array = npt.NDArray[Any]
SITE = "http://localhost/"  # never reached: every request is answered from the disk
FLAGS = (
    "--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
#: Largest differences: of an influence, of a matrix's number (m, or a rotation's), of a vertex (px).
INFLUENCE, MATRIX, PIXELS = 1e-3, 1e-3, 0.05
#: Every so many-th vertex is followed.
STRIDE = 37

PAGE = """<!doctype html><title>check</title><style>body { margin: 0 }</style>
<script type="importmap">{"imports": {"three": "/three/build/three.module.js"}}</script>
<script type="module">
import * as THREE from "three";
import { GLTFLoader } from "/three/examples/jsm/loaders/GLTFLoader.js";

const { scene, animations, cameras } = await new GLTFLoader().loadAsync("/file.glb");
const mixer = new THREE.AnimationMixer(scene);
const action = mixer.clipAction(animations[0]).setLoop(THREE.LoopOnce);
action.clampWhenFinished = true;
action.play();
let mesh;
scene.traverse((thing) => { if (thing.isSkinnedMesh) mesh = thing; });
const root = mesh.skeleton.bones[0];
const camera = cameras[0];
const view = new THREE.Scene().add(scene);
view.background = new THREE.Color(0x404448);
view.add(new THREE.HemisphereLight(0xffffff, 0x555555, 3));
const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
renderer.setSize(window.innerWidth, window.innerHeight);
document.body.append(renderer.domElement);

window.facts = () => ({
  clips: animations.length, duration: animations[0].duration, tracks: animations[0].tracks.length,
  names: mesh.morphTargetDictionary, vertices: Array.from(mesh.geometry.attributes._head_vertex.array),
});
window.show = (seconds, stride) => {
  mixer.setTime(seconds);
  scene.updateMatrixWorld(true);
  mesh.skeleton.update();
  const seen = camera.matrixWorld.clone().invert().multiply(root.matrixWorld);
  const points = [], point = new THREE.Vector3();
  for (let i = 0; i < mesh.geometry.attributes.position.count; i += stride) {
    mesh.getVertexPosition(i, point).applyMatrix4(mesh.matrixWorld).project(camera);
    points.push([point.x, point.y]);
  }
  renderer.render(view, camera);
  return { influences: Array.from(mesh.morphTargetInfluences), root: seen.transpose().elements, points };
};
window.ready = true;
</script>"""


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("glb", type=Path)
    parser.add_argument("--capture", type=Path, required=True)
    parser.add_argument("--head", type=Path, help="head model; the open head by default")
    parser.add_argument("--three", type=Path, default=Path("node_modules/three"))
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    parser.add_argument("--picture", type=Path, help="where to put a picture of the middle frame")
    options = parser.parse_args()
    if not (options.three / "build").is_dir():
        parser.error(f"{options.three} is not there: npm install three")
    capture, head = Capture.load(options.capture), load_head(options.head)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": capture.size[0], "height": capture.size[1]})
        failures = _open(page, options.glb, options.three)
        good = not failures and _compare(page, capture, head, options.picture)
        browser.close()
    return 0 if good else 1


def _open(page: Page, glb: Path, three: Path) -> list[str]:
    """Load the file; return what the page complained of."""

    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(SITE)
        if path == "":
            route.fulfill(body=PAGE, content_type="text/html")
            return
        file = glb if path == "file.glb" else three / path.removeprefix("three/")
        if file.is_file():
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            route.fulfill(body=file.read_bytes(), content_type=kind)
        else:
            route.fulfill(status=404)

    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route("**", answer)
    page.goto(SITE)
    page.wait_for_function("window.ready || false", timeout=60_000)
    for text in complaints:
        print(f"  FAIL {text}")
    return complaints


def _compare(page: Page, capture: Capture, head: HeadModel, picture: Path | None) -> bool:
    facts = page.evaluate("facts()")
    seconds = capture.timestamps - capture.timestamps[0]
    print(f"  {facts['clips']} clip of {facts['duration']:.3f} s with {facts['tracks']} tracks")
    names = sorted(facts["names"], key=facts["names"].get)
    checks = [abs(facts["duration"] - seconds[-1]) < 1e-3, len(names) == head.num_expression]
    if head.expression_names:
        checks.append(names == list(head.expression_names))
    vertices = np.array(facts["vertices"], np.int64)[::STRIDE]
    worst = np.zeros(3)
    frames = np.unique(np.linspace(0, len(capture) - 1, 12).astype(int))
    for frame in frames:
        shown = page.evaluate("([t, s]) => show(t, s)", [float(seconds[frame]), STRIDE])
        worst = np.maximum(worst, _differences(shown, capture, head, int(frame), vertices))
        if picture is not None and frame == frames[len(frames) // 2]:
            page.screenshot(path=picture)
    limits = np.array([INFLUENCE, MATRIX, PIXELS])
    checks += list(worst < limits)  # NaN fails too
    for name, value, limit in zip(("influence", "root joint", "vertex, px"), worst, limits, strict=True):
        print(f"  {'ok  ' if value < limit else 'FAIL'} {name}: largest difference {value:.2e}")
    print(f"  {len(frames)} of {len(capture)} frames looked at, {len(vertices)} vertices in each")
    return all(checks)


def _differences(
    shown: dict[str, Any], capture: Capture, head: HeadModel, frame: int, vertices: Array
) -> Array:
    """Return the largest differences (3,) of the influences, of the root's matrix, and of pixels."""
    rotation = Rotation.from_rotvec(capture.pose[frame, 0]).as_matrix()
    with torch.no_grad():
        shape = torch.as_tensor(capture.shape)[None]
        joint = head.rest_joints(shape)[0, 0].numpy() + capture.translation[frame]
        posed = head(
            shape,
            torch.as_tensor(capture.expression[frame : frame + 1]),
            torch.as_tensor(capture.pose[frame : frame + 1]),
        )
    points = posed.vertices[0].numpy()[vertices] + capture.translation[frame]
    wanted = np.column_stack([FRONTAL @ rotation, FRONTAL @ joint])
    found = np.array(shown["root"]).reshape(4, 4)[:3]
    # A glTF camera looks through the middle of its picture.
    middle = capture.image_size / 2
    pixels = capture.focal * points[:, :2] / points[:, 2:] + middle
    drawn = np.array(shown["points"]) * [1, -1] * middle + middle
    return np.array(
        [
            np.abs(np.array(shown["influences"]) - capture.expression[frame]).max(),
            np.abs(found - wanted).max(),
            np.abs(drawn - pixels).max(),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
