"""The interactive viewer: plays a capture in a browser, on this machine alone.

viser serves the page and carries the geometry over a socket of this machine; the page is whole in itself and
asks no other machine for anything. Two doors of viser's are shut: the one that would lend the scene out by a
public address, and the one by which a web page from elsewhere could read it in the same browser.

Scene space is glTF's: metres, +Y up; the clip's camera is at the origin and looks along -Z.
"""

from __future__ import annotations

import errno
import io
import socket
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from recon3d._threads import one_thread
from recon3d.conventions import ARKIT_NAMES, FRONTAL, GLOBAL, NECK
from recon3d.errors import MissingExtraError, UsageError
from recon3d.export._report.regions import REGIONS
from recon3d.export._still import as_array, as_batch, check_head

if TYPE_CHECKING:
    import viser

    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Floats = npt.NDArray[np.float32]

#: How often a second the panel is read and the head drawn, and the unit sliders follow it, at most.
REDRAWS, FOLLOWS = 60, 8
#: Ports tried after the one asked for, where that is taken.
MORE_PORTS = 50
#: Heads whose vertices have more colours than this are drawn in one.
MOST_COLORS = 16
LANDMARKS = "ibug68"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SPEEDS = ("0.1", "0.25", "0.5", "1", "2")
_LANDMARK_COLOR = (40, 230, 140)
_CLOSE_UP_FOV, _CLOSE_UP_DISTANCE = np.radians(32.0), 0.62  # rad, m


# ---- geometry ----


class Stage:
    """The head of a capture in scene space, frame by frame or posed by hand.

    Raises:
        InputError: The head is not the capture's.
    """

    def __init__(self, capture: Capture, head: HeadModel) -> None:
        check_head(capture, head)
        self.capture = capture
        self.head = head
        self.faces = head.faces.cpu().numpy()
        seen = capture.tracked if capture.tracked.any() else np.ones(len(capture), bool)
        self._place: Floats = np.median(capture.translation[seen], axis=0).astype(np.float32)
        self.center: npt.NDArray[np.float64] = self.vertices(0, moving=False).mean(axis=0).astype(np.float64)

    def vertices(self, frame: int, expression: Floats | None = None, *, moving: bool = True) -> Floats:
        """Return the vertices (V, 3) m of a frame.

        Args:
            frame: Index of the frame.
            expression: (E,) coefficients instead of the frame's own.
            moving: False leaves head and neck straight before the camera; jaw and eyes stay as they are.
        """
        import torch

        pose = self.capture.pose[frame].copy()
        place = self.capture.translation[frame]
        if not moving:
            pose[GLOBAL], place = (np.pi, 0.0, 0.0), self._place  # half a turn about X: facing the camera
            pose[NECK : NECK + 1] = 0.0
        chosen = self.capture.expression[frame] if expression is None else expression
        with torch.no_grad():
            posed = self.head(
                as_batch(self.capture.shape, self.head),
                as_batch(chosen, self.head),
                as_batch(pose, self.head),
            )
        seen: Floats = (as_array(posed.vertices[0]) + place) * np.diag(FRONTAL).astype(np.float32)
        return seen

    @property
    def has_landmarks(self) -> bool:
        """Whether the head model knows where the 68 landmarks are."""
        return LANDMARKS in self.head.embeddings

    def landmarks(self, vertices: Floats) -> Floats:
        """Return the 68 landmarks (68, 3) m of vertices (V, 3)."""
        return as_array(self.head.landmarks(as_batch(vertices, self.head), LANDMARKS)[0])


@dataclass(frozen=True)
class Part:
    """The triangles of one colour.

    Attributes:
        ends: (N, 2) each point is the middle between two vertices of the head, mostly twice the same one.
        faces: (F, 3) index into ``ends``.
        color: sRGB in 0 … 255.
    """

    ends: npt.NDArray[np.int64]
    faces: npt.NDArray[np.int64]
    color: tuple[int, int, int]

    def points(self, vertices: Floats) -> Floats:
        """Return the part's points (N, 3) of the head's vertices (V, 3)."""
        middle: Floats = vertices[self.ends].mean(axis=1, dtype=np.float32)
        return middle


def parts(faces: npt.NDArray[np.int64], colors: Floats) -> list[Part]:
    """Split a head by colour, since the viewer gives each mesh a single one.

    Where two colours meet, triangles are cut between the middles of their sides, so that lips and brows have
    a line for an edge and no teeth. Heads of many colours stay whole, in their mean.

    Args:
        faces: (F, 3) triangles.
        colors: (V, 3) sRGB in [0, 1].
    """
    palette, code = np.unique(np.rint(colors * 255), axis=0, return_inverse=True)
    if len(palette) > MOST_COLORS:
        palette, code = np.rint(colors.mean(axis=0, keepdims=True) * 255), np.zeros(len(colors), np.int64)
    triangles, of_face = _cut(faces, code.reshape(-1))
    found = []
    for index in np.unique(of_face):
        corners = triangles[of_face == index].reshape(-1, 2)
        ends, local = np.unique(corners, axis=0, return_inverse=True)
        red, green, blue = (int(c) for c in palette[index])
        found.append(Part(ends, local.reshape(-1, 3), (red, green, blue)))
    return found


def _cut(
    faces: npt.NDArray[np.int64], code: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut the triangles (F, 3) whose corners have two colours; ``code`` (V,) tells a vertex's.

    Returns:
        (F', 3, 2) triangles whose corners are middles between two vertices, and their colours (F',). A
        triangle of three colours takes its first corner's.
    """
    one, two, three = code[faces].T
    # The corner that differs from the two others comes first; -1 where none does.
    odd = np.select([two == three, one == three, one == two], [0, 1, 2], default=-1)
    odd[(one == two) & (two == three)] = -1
    mixed = odd >= 0
    turned = np.take_along_axis(faces[mixed], (odd[mixed, None] + np.arange(3)) % 3, axis=1)
    a, b, c = (np.stack([corner, corner], axis=1) for corner in turned.T)
    ab, ac = (np.sort(turned[:, [0, k]], axis=1) for k in (1, 2))
    pieces = [(a, ab, ac), (ab, b, c), (ab, c, ac)]
    whole = np.repeat(faces[~mixed, :, None], 2, axis=2)
    triangles = np.concatenate([whole, *(np.stack(piece, axis=1) for piece in pieces)])
    first, other = code[turned[:, 0]], code[turned[:, 1]]
    return triangles, np.concatenate([one[~mixed], first, other, other])


# ---- the panel ----


def assign(control: viser.GuiInputHandle[Any], value: float) -> None:
    """Set a control, here and in every browser; nothing is sent where it has the value already."""
    control.value = value  # type: ignore[misc]  # mypy takes viser's property for a read-only one


class Panel:
    """The controls beside the scene. Reading them is all it takes: nothing else happens in callbacks."""

    def __init__(self, gui: viser.GuiApi, capture: Capture, *, units: bool, landmarks: bool) -> None:
        self.playing = False
        self._gui = gui
        last = len(capture) - 1
        self.status = gui.add_markdown("")
        self.frame = gui.add_slider("Frame", 0, max(last, 1), 1, 0, disabled=last == 0)
        self.play = gui.add_button("Play", disabled=last == 0)
        self.play.on_click(lambda _: self.set_playing(not self.playing))
        self.jump = gui.add_button_group("Step", ("First", "−1", "+1", "Last"), disabled=last == 0)
        self.jump.on_click(lambda _: self._jump(last))
        self.speed = gui.add_dropdown("Speed", _SPEEDS, initial_value="1")
        self.loop = gui.add_checkbox("Loop", True)
        with gui.add_folder("Look"):
            self.motion = gui.add_checkbox("Head motion", True)
            self.smooth = gui.add_checkbox("Smooth shading", True)
            self.wireframe = gui.add_checkbox("Wireframe", False)
            self.landmarks = gui.add_checkbox("Landmarks", False, visible=landmarks)
            self.close_up = gui.add_button("Close-up")
            self.clip_camera = gui.add_button("Camera of the clip")
        self.sliders: dict[str, viser.GuiSliderHandle[float]] = {}
        with gui.add_folder("Units", visible=units):
            self.follow = gui.add_checkbox(
                "Follow the capture", True, hint="Off: the sliders pose the face, from where it is now."
            )
            self.neutral = gui.add_button("All to zero", disabled=True)
            self.neutral.on_click(lambda _: self.set_units(np.zeros(len(ARKIT_NAMES), np.float32)))
            if units:
                self._add_sliders()

    def _add_sliders(self) -> None:
        for region in REGIONS:
            names = [name for row in region.rows for name in row.curves if name in ARKIT_NAMES]
            if not names:
                continue
            with self._gui.add_folder(region.title, expand_by_default=False):
                for name in names:
                    self.sliders[name] = self._gui.add_slider(name, 0.0, 1.0, 0.01, 0.0, disabled=True)

    def set_playing(self, playing: bool) -> None:
        """Play or pause, and let the button say so."""
        self.playing = playing
        self.play.label = "Pause" if playing else "Play"

    def _jump(self, last: int) -> None:
        self.set_playing(False)
        frame = self.frame.value
        places = {"First": 0, "−1": max(frame - 1, 0), "+1": min(frame + 1, last), "Last": last}
        assign(self.frame, places[self.jump.value])

    def set_units(self, values: Floats) -> None:
        """Move the sliders to the units' values (52,)."""
        for name, value in zip(ARKIT_NAMES, values, strict=True):
            assign(self.sliders[name], round(float(value), 2))

    def units(self) -> Floats:
        """Return where the sliders stand (52,)."""
        return np.array([self.sliders[name].value for name in ARKIT_NAMES], np.float32)

    def by_hand(self) -> bool:
        """Whether the sliders pose the face; lets them be moved only then."""
        by_hand = bool(self.sliders) and not self.follow.value
        if self.neutral.disabled == by_hand:
            self.neutral.disabled = not by_hand
            for slider in self.sliders.values():
                slider.disabled = not by_hand
        return by_hand


# ---- the viewer ----


class Viewer:
    """Serves one capture; ``run`` plays it until interrupted. Use it in a ``with`` statement.

    Args:
        capture: What to play.
        head: The head model that it was made with.
        host: Address to serve at; others than this machine's own let the network in.
        port: Port to serve at, or the next free one; 0 takes any.

    Raises:
        MissingExtraError: viser is not installed.
        InputError: The head is not the capture's.
        UsageError: The address cannot be served at.
    """

    def __init__(
        self, capture: Capture, head: HeadModel, *, host: str = "127.0.0.1", port: int = 8080
    ) -> None:
        require_viser()
        self.stage = Stage(capture, head)
        self.server = _serve(host, free_port(host, port), capture.source)
        self.frame = 0
        self._times = capture.timestamps - capture.timestamps[0]
        self._end = float(self._times[-1]) + (1 / capture.fps if capture.fps > 0 else 1.0)
        self._time = 0.0
        self._followed = -np.inf
        self._drawn: tuple[object, ...] = ()
        self.panel = Panel(
            self.server.gui, capture, units=head.speaks_arkit, landmarks=self.stage.has_landmarks
        )
        self._parts = parts(self.stage.faces, as_array(head.colors))
        self._build_scene()
        self.step(0.0)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the viewer is."""
        host = self.server.get_host()
        shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.server.get_port()}"

    def close(self) -> None:
        """Stop serving."""
        with redirect_stdout(io.StringIO()):  # viser says goodbye there
            self.server.stop()

    def run(self) -> None:
        """Play until interrupted (KeyboardInterrupt)."""
        with one_thread():
            before = time.monotonic()
            while True:
                now = time.monotonic()
                self.step(now - before)
                before = now
                time.sleep(max(0.0, 1 / REDRAWS - (time.monotonic() - now)))

    def step(self, elapsed: float) -> None:
        """Do what the panel says after ``elapsed`` seconds: move on, and draw what has changed."""
        self._move(elapsed)
        by_hand = self.panel.by_hand()
        units = self.panel.units() if by_hand else None
        moving, marked = bool(self.panel.motion.value), bool(self.panel.landmarks.value)
        wanted = (self.frame, moving, marked, None if units is None else units.tobytes())
        self._dress()
        if wanted == self._drawn:
            if not by_hand and not self.panel.playing:
                self._follow()
            return
        vertices = self.stage.vertices(self.frame, units, moving=moving)
        with self.server.atomic():
            for mesh, part in zip(self.meshes, self._parts, strict=True):
                mesh.vertices = part.points(vertices)
            if self.points is not None and marked:
                self.points.points = self.stage.landmarks(vertices)
        self._drawn = wanted
        self._tell()
        if not by_hand and time.monotonic() - self._followed > 1 / FOLLOWS:
            self._follow()

    def _build_scene(self) -> None:
        server, vertices = self.server, self.stage.vertices(0)
        server.scene.set_up_direction("+y")
        server.gui.configure_theme(
            dark_mode=True, show_logo=False, show_share_button=False, brand_color=(79, 134, 247)
        )
        self.meshes = [
            server.scene.add_mesh_simple(
                f"/head/part{k}", part.points(vertices), part.faces, color=part.color, side="double"
            )
            for k, part in enumerate(self._parts)
        ]
        self.points = None
        if self.stage.has_landmarks:
            self.points = server.scene.add_point_cloud(
                "/landmarks",
                self.stage.landmarks(vertices),
                _LANDMARK_COLOR,
                point_size=0.002,
                point_shape="circle",
                visible=False,
            )
        first = self._close_up()
        initial = server.initial_camera
        initial.position, initial.look_at, initial.up, initial.fov = (
            first.position,
            first.look_at,
            _UP,
            first.fov,
        )
        self.panel.close_up.on_click(lambda _: self._show_from(self._close_up()))
        self.panel.clip_camera.on_click(lambda _: self._show_from(self._clip_camera()))

    def _move(self, elapsed: float) -> None:
        """Go where the user moved the slider, or on in time."""
        wanted = min(int(self.panel.frame.value), len(self._times) - 1)
        if wanted != self.frame:
            self.frame, self._time = wanted, float(self._times[wanted])
        elif self.panel.playing:
            self._play_on(elapsed * float(self.panel.speed.value))

    def _play_on(self, elapsed: float) -> None:
        """Move on by ``elapsed`` seconds of the clip; at its end, begin anew or stop."""
        self._time += elapsed
        if self._time >= self._end and self.panel.loop.value:
            self._time %= self._end
        elif self._time >= self._end:
            self._time = float(self._times[-1])
            self.panel.set_playing(False)
        self.frame = max(0, int(np.searchsorted(self._times, self._time, side="right")) - 1)
        assign(self.panel.frame, self.frame)

    def _dress(self) -> None:
        """Pass on how the head is to be drawn."""
        panel = self.panel
        for mesh in self.meshes:
            if mesh.wireframe != panel.wireframe.value:
                mesh.wireframe = panel.wireframe.value
            if mesh.flat_shading == panel.smooth.value:
                mesh.flat_shading = not panel.smooth.value
        if self.points is not None and self.points.visible != panel.landmarks.value:
            self.points.visible = panel.landmarks.value

    def _follow(self) -> None:
        """Let the unit sliders show the frame's values; seldom while it plays, for each is a message."""
        if self.panel.sliders:
            self.panel.set_units(self.stage.capture.arkit[self.frame])
        self._followed = time.monotonic()

    def _tell(self) -> None:
        minutes, seconds = divmod(float(self._times[self.frame]), 60)
        lost = "" if self.stage.capture.tracked[self.frame] else " · **face not seen**"
        last = len(self._times) - 1
        self.panel.status.content = f"{int(minutes)}:{seconds:06.3f} · frame {self.frame} of {last}{lost}"

    # ---- cameras ----

    def _close_up(self) -> _Camera:
        center = self.stage.center
        return _Camera(center + np.array([0.0, 0.0, _CLOSE_UP_DISTANCE]), center, float(_CLOSE_UP_FOV))

    def _clip_camera(self) -> _Camera:
        """The camera that took the clip, but for a principal point out of the middle."""
        capture = self.stage.capture
        fov = 2 * np.arctan(capture.size[1] / 2 / capture.focal)
        ahead = np.array([0.0, 0.0, min(self.stage.center[2], -0.05)])
        return _Camera(np.zeros(3), ahead, float(fov))

    def _show_from(self, camera: _Camera) -> None:
        for client in self.server.get_clients().values():
            with client.atomic():
                client.camera.up_direction = _UP
                client.camera.position = camera.position
                client.camera.look_at = camera.look_at
                client.camera.fov = camera.fov


_UP = (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class _Camera:
    """Where one looks from and at (m, scene space), and the vertical field of view, rad."""

    position: npt.NDArray[np.float64]
    look_at: npt.NDArray[np.float64]
    fov: float


# ---- serving ----


def require_viser() -> None:
    """Import viser.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import viser  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the viewer needs {error.name}: pip install 'recon3d[viewer]'") from error


def free_port(host: str, port: int) -> int:
    """Return the first port from ``port`` on that is free at ``host``; 0 takes any.

    viser would try for ever where none can be had, so it is asked for one that can.

    Raises:
        UsageError: The address is not this machine's, or its ports are taken or not for us.
    """
    problem = "all taken"
    for candidate in range(port, port + MORE_PORTS) if port else (0,):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
                return int(trial.getsockname()[1])
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                continue
            problem = getattr(error, "strerror", None) or str(error)
            break
    raise UsageError(f"cannot serve at {host}:{port} ({problem}); choose another --host or --port")


def _serve(host: str, port: int, label: str) -> viser.ViserServer:
    """Start viser's server with its two doors to the outside shut."""
    import viser

    class LocalServer(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> str | None:
            """Never: a public address would lend the face out through somebody else's machine."""
            return None

    with redirect_stdout(io.StringIO()):  # our own line is said by the command
        server = LocalServer(host=host, port=port, label=label or None, verbose=False)
    _refuse_strangers(server, host in _LOOPBACK)
    return server


def _refuse_strangers(server: viser.ViserServer, loopback: bool) -> None:
    """Hang up on pages that are not our own; browsers let any page call a socket of this machine."""
    sockets: Any = server._websock_server  # viser has no public way to see who calls

    async def check(connection: Any) -> None:
        caller = sockets._live_connections[connection.client_id]
        if not may_connect(caller.request.headers.get, loopback):
            await caller.close(1008, "not a page of this viewer")

    sockets.on_client_connect(check)


def may_connect(header: Callable[[str], str | None], loopback: bool) -> bool:
    """Whether a caller is the viewer's own page, or a program (which sends no Origin).

    Args:
        header: Gives a header of the request by its name.
        loopback: Whether we serve this machine alone; then a name that somebody's name server made to
            point here is a stranger's, too.
    """
    origin, host = header("Origin"), header("Host") or ""
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    return not loopback or urlsplit(f"//{host}").hostname in _LOOPBACK
