"""The viewer: its geometry, its server, and what a real browser shows of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import viser
from browser import CHROMIUM, NO_CHROMIUM, Visit, chromium, visit
from PIL import Image, ImageChops
from playwright.sync_api import Browser, expect
from toy_head import toy_capture, write_toy_head
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from recon3d._cli_report import Reporter
from recon3d._cli_view import run_view
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError, MissingExtraError, UsageError
from recon3d.export._still import camera_vertices
from recon3d.head import HeadModel, load_head
from recon3d.view import Stage, Viewer, free_port, may_connect, parts

FRAMES = 25
SCRIPT = Path(sys.executable).with_name("recon3d")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(scope="module")
def capture(head: HeadModel) -> Capture:
    """A second of a head that turns, and a face that changes with every frame."""
    clip = toy_capture(head, FRAMES, tracked=np.arange(FRAMES) != 7)
    clip.pose[:, 0, 1] += np.linspace(-0.6, 0.6, FRAMES, dtype=np.float32)
    return clip


@pytest.fixture
def viewer(capture: Capture, head: HeadModel) -> Iterator[Viewer]:
    with Viewer(capture, head, port=0) as started:
        yield started


def drawn(viewer: Viewer) -> np.ndarray:
    """The corners of all triangles in the scene, in the parts' order."""
    return np.concatenate([np.asarray(mesh.vertices)[np.asarray(mesh.faces)] for mesh in viewer.meshes])


def expected(viewer: Viewer, frame: int, **options: Any) -> np.ndarray:
    stage = viewer.stage
    vertices = stage.vertices(frame, **options)
    found = parts(stage.faces, stage.head.colors.numpy())
    return np.concatenate([part.points(vertices)[part.faces] for part in found])


# ---- geometry ----


def area(corners: np.ndarray) -> float:
    sides = corners[:, 1:] - corners[:, :1]
    return float(np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1).sum() / 2)


@pytest.mark.parametrize("name", ["toy", "open"])
def test_parts_are_the_whole_head_in_its_colours(name: str, head: HeadModel) -> None:
    model = head if name == "toy" else load_head()
    vertices, faces = model.v_template.numpy(), model.faces.numpy()
    found = parts(faces, model.colors.numpy())
    palette = {tuple(c) for c in np.rint(model.colors.numpy() * 255).astype(int).tolist()}
    assert {part.color for part in found} == palette
    corners = np.concatenate([part.points(vertices)[part.faces] for part in found])
    assert area(corners) == pytest.approx(area(vertices[faces]), rel=1e-5)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).sum(0)
    sides = vertices[faces]
    whole = np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0]).sum(0)
    np.testing.assert_allclose(normal, whole, atol=1e-6)  # no triangle was turned over


def test_a_triangle_of_two_colours_is_cut_in_the_middle() -> None:
    vertices = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]], np.float32)
    colors = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    black, white = parts(np.array([[0, 1, 2]]), colors)
    assert (black.color, white.color) == ((0, 0, 0), (255, 255, 255))
    (tip,) = white.points(vertices)[white.faces]
    assert {tuple(p) for p in tip.tolist()} == {(2, 0, 0), (1, 0, 0), (1, 1, 0)}
    assert area(black.points(vertices)[black.faces]) == pytest.approx(1.5)


def test_a_head_of_many_colours_stays_whole(head: HeadModel) -> None:
    colors = np.random.default_rng(0).uniform(0, 1, (head.num_vertices, 3)).astype(np.float32)
    (part,) = parts(head.faces.numpy(), colors)
    np.testing.assert_array_equal(part.faces.shape, head.faces.shape)
    np.testing.assert_allclose(part.color, colors.mean(0) * 255, atol=1)


def test_a_frame_is_what_the_camera_saw(capture: Capture, head: HeadModel) -> None:
    stage = Stage(capture, head)
    for frame in (0, 12):
        seen = camera_vertices(capture, head, frame).numpy()
        np.testing.assert_allclose(stage.vertices(frame), seen * [1, -1, -1], atol=1e-6)


def test_without_motion_the_head_stands_straight(capture: Capture, head: HeadModel) -> None:
    stage = Stage(capture, head)
    face = np.zeros(52, np.float32)
    face[3] = 1.0
    found = [stage.vertices(frame, face, moving=False) for frame in (0, 9)]
    np.testing.assert_allclose(*found, atol=1e-7)
    straight = head(
        torch.as_tensor(capture.shape)[None], torch.as_tensor(face)[None], torch.zeros(1, 5, 3)
    ).vertices[0]
    moved = found[0] - straight.numpy()
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-6)


def test_another_head_is_refused(capture: Capture) -> None:
    with pytest.raises(InputError, match="captured with the head model toy/"):
        Viewer(capture, load_head(), port=0)


# ---- what the panel does ----


def test_the_slider_moves_the_head(viewer: Viewer) -> None:
    assert viewer.url.startswith("http://127.0.0.1:")
    for frame in (0, 7, 24):
        viewer.panel.frame.value = frame
        viewer.step(0.0)
        np.testing.assert_allclose(drawn(viewer), expected(viewer, frame), atol=1e-6)
        assert f"frame {frame} of 24" in viewer.panel.status.content
        assert ("face not seen" in viewer.panel.status.content) == (frame == 7)
    assert len(np.unique([drawn(viewer).sum(), expected(viewer, 7).sum(), expected(viewer, 0).sum()])) == 3


def test_playing_keeps_time(viewer: Viewer, capture: Capture) -> None:
    panel = viewer.panel
    panel.set_playing(True)
    assert panel.play.label == "Pause"
    for elapsed, frame in ((0.05, 1), (0.05, 2), (0.41, 12), (0.5, 0), (0.03, 1)):  # and round it goes
        viewer.step(elapsed)
        assert (viewer.frame, panel.frame.value) == (frame, frame)
    panel.speed.value = "0.25"
    viewer.step(0.4)
    assert viewer.frame == 3
    panel.speed.value, panel.loop.value = "1", False
    viewer.step(5.0)
    assert (viewer.frame, panel.playing, panel.play.label) == (FRAMES - 1, False, "Play")
    viewer.step(5.0)
    np.testing.assert_allclose(drawn(viewer), expected(viewer, FRAMES - 1), atol=1e-6)


def test_sliders_follow_until_they_lead(viewer: Viewer, capture: Capture) -> None:
    panel = viewer.panel
    assert list(panel.sliders) != list(ARKIT_NAMES)
    assert set(panel.sliders) == set(ARKIT_NAMES)
    assert panel.sliders["jawOpen"].disabled
    panel.frame.value = 5
    viewer.step(0.0)
    viewer.step(0.0)
    np.testing.assert_allclose(panel.units(), capture.arkit[5], atol=0.0051)
    panel.follow.value = False
    viewer.step(0.0)
    assert not panel.sliders["jawOpen"].disabled
    panel.set_units(np.zeros(52, np.float32))
    panel.sliders["jawOpen"].value = 0.7
    viewer.step(0.0)
    face = np.zeros(52, np.float32)
    face[ARKIT_NAMES.index("jawOpen")] = 0.7
    np.testing.assert_allclose(drawn(viewer), expected(viewer, 5, expression=face), atol=1e-6)
    panel.frame.value = 6
    viewer.step(0.0)
    np.testing.assert_allclose(drawn(viewer), expected(viewer, 6, expression=face), atol=1e-6)
    panel.follow.value = True
    viewer.step(0.0)
    np.testing.assert_allclose(drawn(viewer), expected(viewer, 6), atol=1e-6)
    assert panel.sliders["jawOpen"].disabled


def test_looks(viewer: Viewer) -> None:
    panel = viewer.panel
    panel.motion.value = False
    panel.wireframe.value, panel.smooth.value, panel.landmarks.value = True, False, True
    viewer.step(0.0)
    np.testing.assert_allclose(drawn(viewer), expected(viewer, 0, moving=False), atol=1e-6)
    assert all(mesh.wireframe and mesh.flat_shading for mesh in viewer.meshes)
    assert viewer.points is not None
    assert viewer.points.visible
    vertices = torch.as_tensor(viewer.stage.vertices(0, moving=False))[None]
    wanted = viewer.stage.head.landmarks(vertices, "ibug68")[0]
    np.testing.assert_allclose(viewer.points.points, wanted, atol=1e-3)  # viser sends halves of floats
    panel.wireframe.value, panel.smooth.value, panel.landmarks.value = False, True, False
    viewer.step(0.0)
    assert not any(mesh.wireframe or mesh.flat_shading for mesh in viewer.meshes)
    assert not viewer.points.visible


def test_a_photograph_and_a_head_without_units(tmp_path: Path, head: HeadModel) -> None:
    with Viewer(toy_capture(head), head, port=0) as one:
        one.panel.set_playing(True)
        one.step(1.0)
        assert one.frame == 0
    from toy_head import toy_arrays

    arrays = toy_arrays()
    for name in ("expression_names", "lmk_ibug68_triangle", "lmk_ibug68_barycentric"):
        del arrays[name]
    np.savez(tmp_path / "flame.npz", **arrays)
    bare = load_head(tmp_path / "flame.npz")
    with Viewer(toy_capture(bare, 3), bare, port=0) as other:
        other.panel.follow.value = False
        other.panel.frame.value = 2
        other.step(0.0)
        assert (other.panel.sliders, other.points) == ({}, None)
        np.testing.assert_allclose(drawn(other), expected(other, 2), atol=1e-6)


# ---- serving ----


def test_a_taken_port_gives_the_next(capture: Capture, head: HeadModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 50
    with pytest.raises(UsageError, match=r"cannot serve at 192\.0\.2\.1:8080 .*choose another --host"):
        Viewer(capture, head, host="192.0.2.1")  # a documentation address, which is nobody's


def test_nothing_is_shared(viewer: Viewer) -> None:
    assert viewer.server.request_share_url() is None
    assert viewer.server._share_tunnel is None


@pytest.mark.parametrize(
    ("origin", "host", "wanted"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://localhost:8080", "localhost:8080", True),
        (None, "127.0.0.1:8080", True),
        ("https://evil.example", "127.0.0.1:8080", False),
        ("http://evil.example:8080", "evil.example:8080", False),  # a name made to point here
        ("http://127.0.0.1:9999", "127.0.0.1:8080", False),
        ("null", "127.0.0.1:8080", False),
    ],
)
def test_who_may_connect(origin: str | None, host: str, wanted: bool) -> None:
    headers = {"Host": host, "Origin": origin}
    assert may_connect(headers.get, True) is wanted
    assert may_connect({"Host": "studio:80", "Origin": "http://studio:80"}.get, False)


@pytest.mark.parametrize(("origin", "welcome"), [(None, True), ("https://evil.example", False)])
def test_strange_pages_hear_nothing(viewer: Viewer, origin: Any, welcome: bool) -> None:
    protocol: Any = [f"viser-v{viser.__version__}"]
    address = viewer.url.replace("http", "ws")
    with connect(address, origin=origin, subprotocols=protocol, max_size=None) as caller:
        if welcome:
            assert len(caller.recv(timeout=10)) > 1000
        else:
            with pytest.raises(ConnectionClosed, match="not a page of this viewer"):
                caller.recv(timeout=10)


def test_without_viser_the_extra_is_named(
    capture: Capture, head: HeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(MissingExtraError, match=r"the viewer needs viser: pip install 'recon3d\[viewer\]'"):
        Viewer(capture, head)


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with chromium("--use-angle=swiftshader", "--enable-unsafe-swiftshader") as started:
        yield started


@pytest.fixture
def running(viewer: Viewer) -> Iterator[Viewer]:
    """A viewer whose steps are taken, as ``run`` does until it is interrupted."""
    over = threading.Event()

    def run() -> None:
        before = time.monotonic()
        while not over.wait(1 / 60):
            now = time.monotonic()
            viewer.step(now - before)
            before = now

    thread = threading.Thread(target=run)
    thread.start()
    yield viewer
    over.set()
    thread.join()


def scene(seen: Visit, path: Path) -> Image.Image:
    """The picture left of the panel, once it has stopped changing."""
    box = {"x": 320, "y": 0, "width": 260, "height": 500}
    before = None
    for _ in range(40):
        seen.page.screenshot(path=path, clip=box)
        with Image.open(path) as image:
            now = image.convert("RGB")
        if before is not None and ImageChops.difference(before, now).getbbox() is None:
            return now
        before = now
        seen.page.wait_for_timeout(150)
    raise AssertionError("the picture does not come to rest")


def change(before: Image.Image, after: Image.Image) -> float:
    """Share of the pixels that differ clearly."""
    difference = np.asarray(ImageChops.difference(before, after)).max(axis=-1)
    return float((difference > 24).mean())


def test_the_page_shows_the_head_and_plays(running: Viewer, browser: Browser, tmp_path: Path) -> None:
    with visit(browser, running.url) as seen:
        page = seen.page
        page.set_viewport_size({"width": 900, "height": 500})
        expect(page.get_by_text("frame 0 of 24")).to_be_visible(timeout=15_000)
        page.wait_for_timeout(500)
        first = scene(seen, tmp_path / "a.png")
        lit = (np.asarray(first).max(axis=-1) > 60).mean()
        assert 0.1 < lit < 0.9  # a head, before the dark
        running.panel.frame.value = 24
        expect(page.get_by_text("frame 24 of 24")).to_be_visible()
        turned = scene(seen, tmp_path / "b.png")
        assert change(first, turned) > 0.03
        page.get_by_text("Camera of the clip").click()
        assert change(turned, scene(seen, tmp_path / "c.png")) > 0.03
        page.get_by_role("button", name="First").click()
        expect(page.get_by_text("frame 0 of 24")).to_be_visible()
        page.get_by_role("button", name="Play").click()
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        page.wait_for_timeout(400)
        page.get_by_role("button", name="Pause").click()
        assert running.frame > 0
        assert page.get_by_text("Share").count() == 0
        outside = [url for url in seen.requests if not url.startswith((running.url, f"blob:{running.url}"))]
        assert outside == []


# ---- the command ----


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [SCRIPT, "view", *map(str, arguments), "--port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def folder(capture: Capture, tmp_path: Path) -> Path:
    """A result folder, and the head's file beside it."""
    (tmp_path / "take").mkdir()
    capture.save(tmp_path / "take" / "capture.npz")
    write_toy_head(tmp_path / "toy.npz")
    return tmp_path / "take"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_serves_until_interrupted(folder: Path, number: int, status: int) -> None:
    running = start(folder, "--head", folder.parent / "toy.npz", "--json")
    assert running.stdout is not None
    record = json.loads(running.stdout.readline())
    assert (record["input"], record["ok"]) == (str(folder), True)
    assert record["url"].startswith("http://127.0.0.1:")
    with urllib.request.urlopen(record["url"], timeout=10) as answer:
        assert b"<html" in answer.read()
    running.send_signal(number)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (status, "", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nothing.npz", "no such file"), (".", "capture.npz: no such file"), ("text.npz", "not a capture file")],
)
def test_what_cannot_be_viewed(folder: Path, name: str, reason: str) -> None:
    (folder.parent / "text.npz").write_text("not a capture\n")
    toy = folder.parent / "toy.npz"
    with Reporter() as reporter, pytest.raises(InputError, match=reason):
        run_view(
            folder.parent / name, head=toy, host="127.0.0.1", port=0, open_browser=False, reporter=reporter
        )


def test_the_command_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    running = start(tmp_path / "nothing.npz")
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (1, "")
    assert err == f"recon3d: {tmp_path}/nothing.npz: no such file\n"
