"""``recon3d view``, in the browser or in a window."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path

from recon3d._cli_report import Reporter
from recon3d.export import in_units


def run_view(
    path: Path, *, head: Path | None, host: str, port: int, open_browser: bool, reporter: Reporter
) -> int:
    """Serve the viewer until Ctrl-C, which is how it ends well; return the exit status.

    Raises:
        MissingExtraError: viser is not installed.
        InputError: The capture or the head model cannot be used.
        UsageError: The address cannot be served at.
    """
    from recon3d.view import Viewer, require_viser

    require_viser()  # before the seconds that reading takes
    from recon3d._takes import read_take
    from recon3d.head import load_head
    from recon3d.media._open import shown

    model = load_head(head)
    capture, model = in_units(read_take(path / "capture.npz" if path.is_dir() else path, model), model)
    try:
        with Viewer(capture, model, host=host, port=port) as viewer:
            reporter.done(path, f"{shown(path)}: {viewer.url}  (Ctrl-C ends)", url=viewer.url)
            if open_browser:
                webbrowser.open(viewer.url)
            viewer.run()
    except KeyboardInterrupt:
        pass
    return 0


def run_window(path: Path, *, head: Path | None, reporter: Reporter) -> int:
    """Show a capture, or a mesh file, in a desktop window until it is closed; return the exit status.

    Raises:
        MissingExtraError: pyrender is not installed.
        InputError: The file or the head model cannot be used.
        Recon3DError: There is no display.
    """
    from recon3d.media._open import shown
    from recon3d.view_window import MESH_SUFFIXES, capture_scene, read_scene, require_window, show

    require_window()  # before the seconds that reading takes
    if path.suffix.lower() in MESH_SUFFIXES:
        scene = read_scene(path)
    else:
        from recon3d._takes import read_take
        from recon3d.head import load_head

        model = load_head(head)
        capture = read_take(path / "capture.npz" if path.is_dir() else path, model)
        scene = capture_scene(*in_units(capture, model))
    reporter.done(path, f"{shown(path)}: in the window  (closing it ends)")
    with suppress(KeyboardInterrupt):
        show(scene, f"{path.name} - recon3d")
    return 0
