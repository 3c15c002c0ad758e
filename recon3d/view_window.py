"""The desktop window: a head, or a mesh file, to look around with the mouse; drawn by pyrender, with OpenGL.

Scene space is glTF's: metres, +Y up; the window first looks along -Z, a head in the face.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import trimesh

from recon3d.errors import InputError, MissingExtraError, Recon3DError
from recon3d.export._still import as_array
from recon3d.media._open import open_regular, shown
from recon3d.view import Stage

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Endings of the mesh files that are shown.
MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
SIZE = (960, 960)  # px
FIELD_OF_VIEW = np.radians(32.0)

_BACKGROUND = (0.12, 0.13, 0.15, 1.0)
_AMBIENT = (0.25, 0.25, 0.25)
_GAMMA = 2.2  # pyrender's


def require_window() -> None:
    """Find out whether a window can be opened, before the seconds that reading takes.

    Raises:
        MissingExtraError: pyrender is not installed, or the OpenGL libraries that it loads are not.
        Recon3DError: There is no display.
    """
    if sys.platform in ("darwin", "win32"):
        _pyrender()
        return
    name = os.environ.get("DISPLAY")  # pyglet, which makes pyrender's windows, speaks X11
    if not name:
        raise _no_display("DISPLAY is not set")
    _pyrender()
    import pyglet

    try:
        pyglet.canvas.get_display()
    except pyglet.canvas.xlib.NoSuchDisplayException as error:
        raise _no_display(f"nothing answers at DISPLAY={shown(name)}") from error


def capture_scene(capture: Capture, head: HeadModel) -> trimesh.Scene:
    """Return the head of a photograph, or of a clip's first tracked frame, straight and in its colours.

    Raises:
        InputError: The head is not the capture's.
    """
    stage = Stage(capture, head)
    frame = int(np.argmax(capture.tracked))  # the first one if none is
    linear = as_array(head.colors) ** _GAMMA  # pyrender takes vertex colours for linear light
    mesh = trimesh.Trimesh(
        stage.vertices(frame, moving=False),
        stage.faces,
        vertex_colors=np.rint(linear * 255).astype(np.uint8),
        process=False,
    )
    return trimesh.Scene(mesh)


def read_scene(path: Path) -> trimesh.Scene:
    """Read a mesh file of one of ``MESH_SUFFIXES``.

    Raises:
        InputError: It cannot be read, or holds no triangles.
    """
    open_regular(path).close()  # says what is wrong with a path in words
    try:
        scene: Any = trimesh.load(path, force="scene", process=False)
    except Exception as error:  # whatever trimesh stumbles over in a damaged file
        raise InputError(f"{shown(path)}: not a readable mesh file ({_one_line(error)})") from error
    solid = {
        name: part
        for name, part in scene.geometry.items()
        if isinstance(part, trimesh.Trimesh) and len(part.faces)
    }
    scene.delete_geometry(set(scene.geometry) - set(solid))
    if not solid or not np.isfinite(scene.bounds).all():
        raise InputError(f"{shown(path)}: holds no triangles to show")
    found: trimesh.Scene = scene
    return found


def to_pyrender(scene: trimesh.Scene) -> Any:
    """Return the ``pyrender.Scene`` of a scene, with the camera from which the window first sees all of it.

    Raises:
        MissingExtraError: pyrender is not installed.
    """
    pyrender = _pyrender()
    drawn = pyrender.Scene.from_trimesh_scene(scene, bg_color=_BACKGROUND, ambient_light=_AMBIENT)
    # The distance at which the field of view holds the sphere around the scene.
    distance = max(float(drawn.scale), 1e-9) / 2 / np.sin(FIELD_OF_VIEW / 2)
    pose = np.eye(4)
    pose[:3, 3] = drawn.centroid + np.array((0.0, 0.0, distance))
    camera = pyrender.PerspectiveCamera(FIELD_OF_VIEW, znear=distance / 100, zfar=distance * 100)
    drawn.add(camera, pose=pose)
    return drawn


def show(scene: trimesh.Scene, title: str) -> None:
    """Show a scene until its window is closed.

    Raises:
        MissingExtraError: pyrender is not installed.
        Recon3DError: There is no display, or it has no OpenGL 3.3.
    """
    require_window()
    pyrender = _pyrender()
    import pyglet

    try:
        pyrender.Viewer(
            to_pyrender(scene),
            viewport_size=SIZE,
            render_flags={"cull_faces": False},
            use_raymond_lighting=True,
            window_title=title,
        )
    except (pyglet.window.WindowException, pyglet.gl.ContextException) as error:
        reason = _one_line(error)
        raise Recon3DError(f"the display cannot show an OpenGL window ({reason}): {_BROWSER}") from error


_BROWSER = "without --window, recon3d view shows captures in the browser"


def _no_display(reason: str) -> Recon3DError:
    return Recon3DError(f"no display to open a window on ({reason}): {_BROWSER}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _pyrender() -> Any:
    """Import pyrender, and let it work with numpy 2."""
    try:
        import pyrender
    except ImportError as error:  # pyglet's, too, where there is no OpenGL library
        raise MissingExtraError(
            f"the window needs pyrender ({_one_line(error)}): pip install 'recon3d[viewer]'"
        ) from error
    # pyrender 0.1.45, its last release, asks numpy for `infty` there, which numpy 2 no longer has.
    pyrender.Mesh.bounds = property(_bounds)
    return pyrender


def _bounds(mesh: Any) -> npt.NDArray[np.float64]:
    """Return the lowest and the highest corner (2,3) of a pyrender mesh."""
    corners = np.concatenate([primitive.bounds for primitive in mesh.primitives])
    return np.stack((corners.min(axis=0), corners.max(axis=0)))
