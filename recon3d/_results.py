"""The result folders of a photograph: DIR/<stem>/{capture.npz, mesh.obj, mesh.glb, overlay.jpg, arkit.json}.

All folders of a photograph are written in full, under temporary names beside their places, before the first
file takes its place. So a full disk or Ctrl-C leaves nothing half-written, and what an earlier run left is
replaced file by file, each at once; whatever else lies in a result folder stays.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from recon3d._threads import one_thread, use_one_thread
from recon3d.errors import InputError, OutputError, UsageError
from recon3d.export import FORMATS, ExportOptions, export
from recon3d.export.options import DEFAULTS
from recon3d.files import make_folder, output_error, replace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from recon3d.capture import Capture
    from recon3d.head import HeadModel
    from recon3d.media.image import Photo

#: The one format of a photograph that is not an export of the capture alone.
OVERLAY = "overlay"
#: What ``recon3d photo`` writes unless told otherwise; ``capture.npz`` is always written.
PHOTO_FORMATS = ("obj", "glb", "arkit", OVERLAY)
#: What it can be asked for.
PHOTO_CHOICES = (*PHOTO_FORMATS, "flame-params")

_FACE_SUFFIX = re.compile(r"\.face\d+$")


class FolderNames:
    """Gives each input of a run a folder name of its own.

    The name is the input's without its suffix; where two inputs share it (``a/eve.jpg`` and ``b/eve.png``)
    the second becomes ``eve-2``. ``eve.face2`` is never given while ``eve`` is taken, nor the other way
    round, because it may be needed for the second face of ``eve``. Case is ignored, as some disks do.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, path: Path) -> str:
        """Return the folder name for an input, which nobody else gets from now on."""
        stem = path.stem if path.stem.strip(". ") else "input"
        name, count = stem, 1
        while _FACE_SUFFIX.sub("", name.casefold()) in self._taken:
            count += 1
            name = f"{stem}-{count}"
        self._taken.add(_FACE_SUFFIX.sub("", name.casefold()))
        return name


def folder_names(stem: str, count: int) -> list[str]:
    """Return the folder names of a photograph's faces: ``stem``, ``stem.face2``, …"""
    return [stem, *(f"{stem}.face{k}" for k in range(2, count + 1))]


def check_formats(formats: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the formats, each once, if all are ``known``.

    Raises:
        UsageError: One is not.
    """
    wanted = list(dict.fromkeys(formats))
    choices = list(known)
    for name in wanted:
        if name not in choices:
            raise UsageError(f"there is no format {name!r}; choose from {', '.join(choices)}")
    return wanted


def write_outputs(
    captures: Sequence[Capture],
    head: HeadModel,
    photo: Photo | None,
    out_dir: str | Path,
    stem: str,
    formats: Iterable[str] = PHOTO_FORMATS,
    *,
    landmark_dots: bool = False,
    save_captures: bool = True,
    options: ExportOptions = DEFAULTS,
) -> list[list[Path]]:
    """Write the result folders of a photograph; return the files of each face, the main one first.

    Args:
        captures: The faces, the most prominent first.
        head: The head model that they were made with.
        photo: The photograph, for textures and the overlay; without it meshes take the head's own colours.
        out_dir: Where the folders go; created when missing.
        stem: Name of the first face's folder; the others are ``<stem>.face2``, ``<stem>.face3``, …
        formats: Of ``PHOTO_FORMATS`` or ``recon3d.export.FORMATS``.
        landmark_dots: Draw the heads' own 68 landmarks over the overlay.
        save_captures: Write ``capture.npz`` as well.
        options: What the exporters are told.

    Raises:
        UsageError: No such format, or an overlay without a photograph.
        InputError: The head or the photograph is not the captures'.
        OutputError: The files cannot be written. A full disk leaves everything as it was.
    """
    wanted = check_formats(formats, (*FORMATS, OVERLAY))
    out = make_folder(Path(out_dir))
    with ExitStack() as stack, one_thread():
        staged = []
        for capture, name in zip(captures, folder_names(stem, len(captures)), strict=True):
            target = out / name
            folder = _temporary_folder(target, stack)
            try:
                files = _write(capture, head, photo, folder, wanted, landmark_dots, save_captures, options)
            except OutputError as error:
                raise OutputError(str(error).replace(str(folder), str(target))) from error
            except OSError as error:
                raise output_error(target, error) from error
            staged.append((folder, target, [file.name for file in files]))
        return [_publish(folder, target, names) for folder, target, names in staged]


def _temporary_folder(target: Path, stack: ExitStack) -> Path:
    """Make a folder beside ``target`` that is gone when the stack unwinds."""
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: a file is in the way of the output folder; choose another --out")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".recon3d-", dir=target.parent))
    except OSError as error:
        raise output_error(target, error) from error
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(
    capture: Capture,
    head: HeadModel,
    photo: Photo | None,
    folder: Path,
    formats: Sequence[str],
    landmark_dots: bool,
    save_capture: bool,
    options: ExportOptions,
) -> list[Path]:
    # The overlay takes as long as all the rest, and is drawn meanwhile.
    with ThreadPoolExecutor(1, initializer=use_one_thread) as beside:
        overlay = None
        if OVERLAY in formats:
            overlay = beside.submit(_write_overlay, capture, head, photo, folder, landmark_dots)
        files = []
        if save_capture:
            files.append(folder / "capture.npz")
            capture.save(files[0])
        texture = None
        if photo is not None and any(name in FORMATS and FORMATS[name].textured for name in formats):
            from recon3d.export.texture import bake_texture, texture_size

            size = texture_size(capture)
            texture = bake_texture(capture, head, photo, size=size, delight=options.delight)
        for name in formats:
            if name != OVERLAY:
                files += export(capture, head, folder, name, texture=texture, options=options)
        return files if overlay is None else [*files, overlay.result()]


def _write_overlay(
    capture: Capture, head: HeadModel, photo: Photo | None, folder: Path, landmark_dots: bool
) -> Path:
    from recon3d.media.image import write_image

    if photo is None:
        raise UsageError("an overlay is drawn over the photograph: name that too")
    target = folder / "overlay.jpg"
    write_image(target, draw(capture, head, photo, landmark_dots=landmark_dots))
    return target


def draw(
    capture: Capture, head: HeadModel, photo: Photo, *, landmark_dots: bool = False
) -> npt.NDArray[np.uint8]:
    """Draw photograph, head over it and head alone, side by side: (h, w, 3) uint8.

    Raises:
        InputError: The head or the photograph is not the capture's.
    """
    from recon3d.export._still import camera_vertices, check_head
    from recon3d.render.camera import Camera
    from recon3d.render.overlay import draw_overlay

    check_head(capture, head)
    _check_photo(capture, photo)
    principal = float(capture.principal[0]), float(capture.principal[1])
    return draw_overlay(
        photo.pixels,
        [camera_vertices(capture, head, 0)],
        head.faces,
        Camera.create(capture.focal, capture.size, principal),
        landmarks=[capture.landmarks68[0]] if landmark_dots else None,
        colors=head.colors,
    )


def _check_photo(capture: Capture, photo: Photo) -> None:
    if photo.size != capture.size:
        raise InputError(
            f"{capture.source}: the photograph has {photo.size[0]} x {photo.size[1]} pixels, "
            f"the capture was made of {capture.size[0]} x {capture.size[1]}"
        )


def _publish(folder: Path, target: Path, names: Sequence[str]) -> list[Path]:
    """Give a finished folder its name, or move its files into the folder that has that name already."""
    try:
        if not target.exists():
            umask = os.umask(0)
            os.umask(umask)
            folder.chmod(0o777 & ~umask)  # mkdtemp's own mode would keep the folder from everybody else
            folder.rename(target)
        else:
            # Backwards: the capture, which speaks for the others, is renamed last.
            for name in reversed(names):
                replace(folder / name, target / name)
    except OSError as error:
        raise output_error(target, error) from error
    return [target / name for name in names]
