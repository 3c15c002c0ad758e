"""The desktop window: what it says where it cannot open, what it shows; and OpenGL as a check of our drawing.

The tests that draw with pyrender are not in the default run: only the extra `viewer` has it, and it needs
OpenGL (Debian: ``apt-get install libegl1 libgl1-mesa-dri``, and ``xvfb`` for the window)::

    pip install -c constraints.txt ".[viewer]" && pytest -m slow tests/test_view_window.py

Without a screen they draw through EGL, or with ``PYOPENGL_PLATFORM=osmesa`` through OSMesa (``libosmesa6``).
For OSMesa the PyOpenGL that pyrender pins is too old: ``pip install --no-deps PyOpenGL==3.1.10`` first.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import ImageGrab
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial.transform import Rotation
from toy_head import toy_capture, write_toy_head

from recon3d.errors import InputError, MissingExtraError
from recon3d.head import HeadModel, load_head
from recon3d.render.camera import Camera
from recon3d.render.maps import Surface, normal_map
from recon3d.view_window import capture_scene, read_scene, require_window

#: Camera space to OpenGL's, and back.
TURN = np.array([1.0, -1.0, -1.0])
SIZE, FOCAL, PRINCIPAL = (800, 720), 1100.0, (410.3, 333.7)
GAMMA = 2.2  # pyrender's


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


def run_window(path: Path, display: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    if display is not None:
        environment["DISPLAY"] = display
    command = [sys.executable, "-m", "recon3d", "view", str(path), "--window"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


# ---- where it cannot open ----


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there is always a display")
def test_without_a_display_one_line_says_so(tmp_path: Path) -> None:
    done = run_window(tmp_path / "capture.npz", None)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "recon3d: no display to open a window on (DISPLAY is not set): without --window, recon3d view shows "
        "captures in the browser\n"
    )


def test_without_pyrender_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "pyrender", None)  # what makes Python's import fail
    with pytest.raises(MissingExtraError, match=r"needs pyrender .*pip install 'recon3d\[viewer\]'$"):
        require_window()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there is always a display")
def test_a_display_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("pyrender")
    done = run_window(tmp_path / "capture.npz", ":4077")
    assert done.returncode == 1
    assert "nothing answers at DISPLAY=:4077" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- what it shows ----


def test_the_first_tracked_frame_straight_and_in_colour(toy: HeadModel) -> None:
    capture = toy_capture(toy, 4, tracked=np.array([False, False, True, True]))
    (mesh,) = capture_scene(capture, toy).geometry.values()
    expression = torch.from_numpy(capture.expression[2:3])
    shape = torch.from_numpy(capture.shape[None])
    face = toy(shape, expression, torch.zeros(1, toy.num_joints, 3)).vertices[0].numpy()
    np.testing.assert_array_equal(mesh.faces, toy.faces.numpy())
    # Head space but for where the head stands.
    np.testing.assert_allclose(mesh.vertices - mesh.vertices.mean(0), face - face.mean(0), atol=1e-5)
    back = (mesh.visual.vertex_colors[:, :3] / 255) ** (1 / GAMMA)
    np.testing.assert_allclose(back, toy.colors.numpy(), atol=0.01)


@pytest.mark.parametrize("suffix", ["obj", "glb", "ply", "stl"])
def test_mesh_files_keep_their_form(suffix: str, tmp_path: Path) -> None:
    box = trimesh.creation.box((0.1, 0.2, 0.3))
    box.export(tmp_path / f"box.{suffix}")
    np.testing.assert_allclose(read_scene(tmp_path / f"box.{suffix}").extents, (0.1, 0.2, 0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.obj", None, "no such file"),
        ("damaged.glb", b"glTF and then nothing", "not a readable mesh file"),
        ("points.obj", b"v 0 0 0\nv 1 0 0\n", "no triangles|not a readable mesh file"),
        ("endless.obj", b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "no triangles"),
    ],
)
def test_mesh_files_that_cannot_be_shown(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_scene(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.fixture
def screen() -> Iterator[str]:
    """A display of its own, in memory."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    ends = os.pipe()
    command = ["Xvfb", "-displayfd", str(ends[1]), "-screen", "0", "1000x1000x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=ends[1:], stderr=subprocess.DEVNULL) as server:
        os.close(ends[1])
        with os.fdopen(ends[0]) as told:
            name = f":{told.readline().strip()}"
        try:
            yield name
        finally:
            server.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["capture", "mesh"])
def test_the_window_shows_a_head_until_ctrl_c(kind: str, screen: str, tmp_path: Path) -> None:
    """Head and background are told apart by their brightness; the head stands in the middle."""
    pytest.importorskip("pyrender")
    head = load_head()
    capture = toy_capture(head)
    path = tmp_path / ("capture.npz" if kind == "capture" else "mesh.glb")
    if kind == "capture":
        capture.save(path)
    else:
        capture_scene(capture, head).export(path)
    environment = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    command = [sys.executable, "-m", "recon3d", "view", str(path), "--window"]
    with subprocess.Popen(command, env={**environment, "DISPLAY": screen}, stderr=subprocess.PIPE) as window:
        try:
            lit = np.zeros((1000, 1000), bool)
            end = time.monotonic() + 60
            while lit.mean() < 0.1 and time.monotonic() < end and window.poll() is None:
                time.sleep(0.3)
                lit = np.asarray(ImageGrab.grab(xdisplay=screen).convert("L")) > 80
        finally:
            window.send_signal(signal.SIGINT)
            assert window.stderr is not None
            said = window.stderr.read().decode()
    assert (window.returncode, said) == (0, "")
    assert 0.1 < lit.mean() < 0.6
    rows, columns = np.nonzero(lit)
    assert abs((rows.min() + rows.max()) / 2 - 480) < 40
    assert abs((columns.min() + columns.max()) / 2 - 480) < 40


# ---- the independent check ----


@pytest.fixture
def offscreen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """pyrender, drawing without a screen and once a pixel, at its centre, as we do."""
    monkeypatch.setenv("PYOPENGL_PLATFORM", os.environ.get("PYOPENGL_PLATFORM", "egl"))
    pyrender = pytest.importorskip("pyrender")
    # Its framebuffer has four samples a pixel, none of them at the centre, and its depth is one of theirs.
    original = pyrender.renderer.glRenderbufferStorageMultisample

    def one_sample(target: int, samples: int, *rest: int) -> None:
        original(target, 0, *rest)

    monkeypatch.setattr(pyrender.renderer, "glRenderbufferStorageMultisample", one_sample)
    return pyrender


def drawn_by_pyrender(pyrender: Any, points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey picture (H,W) in [0,1] and depth (H,W) m of a matt white mesh (V,3) m, lit from the camera."""
    mesh = trimesh.Trimesh(points * TURN, faces, process=False)
    white = pyrender.MetallicRoughnessMaterial(
        baseColorFactor=(1.0, 1.0, 1.0, 1.0), metallicFactor=0.0, roughnessFactor=1.0
    )
    scene = pyrender.Scene(ambient_light=(0, 0, 0), bg_color=(0, 0, 0))
    scene.add(pyrender.Mesh.from_trimesh(mesh, material=white, smooth=True))
    scene.add(pyrender.IntrinsicsCamera(FOCAL, FOCAL, *PRINCIPAL, znear=0.2, zfar=1.5))
    scene.add(pyrender.DirectionalLight(intensity=3.0))
    renderer = pyrender.OffscreenRenderer(*SIZE)
    try:
        picture, depth = renderer.render(scene, flags=pyrender.RenderFlags.SKIP_CULL_FACES)
    finally:
        renderer.delete()
    return picture[..., 0] / 255, depth


@pytest.mark.slow
@pytest.mark.parametrize("yaw", [0.0, 0.5, -1.2])
def test_depth_outlines_and_shading_agree_with_opengl(yaw: float, offscreen: Any) -> None:
    """The open head, drawn by OpenGL and by us.

    Needs what the top of this file names. Run it so, and it prints the differences:
    ``pytest -m slow -s tests/test_view_window.py -k opengl``
    """
    head = load_head()
    template = head.v_template.numpy()
    turned = Rotation.from_euler("y", yaw).apply(template - template.mean(0)) * TURN
    points = (turned + np.array([0.01, 0.02, 0.6])).astype(np.float32)
    camera = Camera.create(FOCAL, SIZE, PRINCIPAL)
    surface = Surface.of(torch.from_numpy(points)[None], head.faces, camera)
    depth = surface.fragments.depth[0].numpy()
    grey, their_depth = drawn_by_pyrender(offscreen, points, head.faces.numpy())

    ours, theirs = depth > 0, their_depth > 0
    assert ours.mean() > 0.15
    outline = binary_dilation(ours) & ~binary_erosion(ours)
    assert not ((ours != theirs) & ~outline).any()
    assert (ours != theirs).sum() < 0.01 * outline.sum()

    both = ours & theirs
    off = np.abs(depth - their_depth)[both]
    assert np.median(off) < 1e-4
    assert (off < 1e-3).mean() > 0.99

    lambert = (-normal_map(surface)[0, ..., 2].numpy()[both]).clip(0)
    light = grey[both] ** GAMMA
    correlation = np.corrcoef(lambert, light)[0, 1]
    assert light.max() < 0.999  # nothing is cut off at white
    assert correlation > 0.99
    print(
        f"\nyaw {yaw:+.1f}: {both.sum()} px, outline differs at {(ours != theirs).sum()}; depth "
        f"median {np.median(off) * 1e3:.6f} mm, 99 % {np.percentile(off, 99) * 1e3:.6f}, most "
        f"{off.max() * 1e3:.4f}; shading correlates {correlation:.5f}"
    )
