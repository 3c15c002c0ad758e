"""Heads in other projects' files, made ready: read, given what they lack, and kept for the next time.

FLAME's and GNM's files know nothing of the ARKit units, nor of our landmarks. Finding these takes a while
(``dressing.py``), so what came of it is kept beside the downloaded files, under a hash of all it depends on.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recon3d._npz import member_names
from recon3d.assets import FACE_LANDMARKER, cache_folder, fetch
from recon3d.errors import InputError, OutputError
from recon3d.files import atomic_path, make_folder
from recon3d.head._unpickle import MAX_BYTES
from recon3d.head.flame import looks_like_flame, read_flame
from recon3d.head.gnm import looks_like_gnm, read_gnm
from recon3d.media._open import shown
from recon3d.resources import OPEN_HEAD, resource_path

if TYPE_CHECKING:
    from recon3d.head.model import HeadModel

Arrays = dict[str, npt.NDArray[Any]]

#: Of what is kept; raised when reading or dressing gives something else.
_VERSION = 1
#: What may lie beside a FLAME file and becomes part of the head.
_BESIDE = ("head_template.obj", "FLAME_masks.pkl", "l_eyelid.npy", "r_eyelid.npy")
_logger = logging.getLogger("recon3d")


def is_ours(path: Path) -> bool:
    """Tell whether a file is a head model of our format, or else nothing that could be another project's.

    What is neither is left to FLAME's reader, which knows best what people take for a FLAME file.
    """
    if not path.is_file():
        return True
    packed = path.suffix.lower() == ".npz" or bool(member_names(path))
    return packed and not looks_like_flame(path) and not looks_like_gnm(path)


def foreign_head(path: Path) -> HeadModel:
    """Return a head model of another project's; what its file does not tell is found when it is needed.

    Raises:
        InputError: It cannot be read. And later, on first use:
        NoFaceError: Nothing on it looks like a face.
        AssetError: The face networks' file cannot be had.
    """
    from recon3d.head.model import HeadModel

    if path.stat().st_size > MAX_BYTES:  # before all of it is read for its digest
        _read(path)
    digest = _digest(path)
    kept = cache_folder() / "heads" / f"{digest[:16]}-{_open_head()}-{_VERSION}.npz"
    found = _kept(kept)
    arrays = _read(path) if found is None else found

    def lacking(head: HeadModel) -> Arrays:
        # One line for whoever waits; a program that wants none sets this logger's level.
        _logger.warning("%s: first use; finding its landmarks and units takes a minute, once", shown(path))
        whole = arrays | dress(head)
        _keep(kept, whole)
        return whole

    return HeadModel(arrays, name=path.stem, digest=digest[:8], lacking=lacking if found is None else None)


def dress(head: HeadModel) -> Arrays:
    """Find what a head lacks: landmarks, regions, colours, the ARKit units, its place on the open head.

    Raises:
        NoFaceError: Nothing on it looks like a face.
        AssetError: The face networks' file cannot be had.
    """
    from recon3d.face import open_face_source
    from recon3d.head.dressing import dressed

    return dressed(head, open_face_source("mediapipe", path=fetch(FACE_LANDMARKER.name, quiet=True)))


def _read(path: Path) -> Arrays:
    if looks_like_gnm(path):
        return read_gnm(path)
    return read_flame(path) | {"joints_follow_expression": np.array(True)}


def _digest(path: Path) -> str:
    """Of a file, and of what lies beside it and becomes part of the head."""
    whole = hashlib.sha256()
    for file in (path, *(path.parent / name for name in _BESIDE)):
        try:
            if file == path or file.is_file():
                whole.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise InputError(f"{shown(file)}: cannot be read ({error.strerror})") from error
    return whole.hexdigest()


def _open_head() -> str:
    """What the units were carried over from."""
    return hashlib.sha256(resource_path(OPEN_HEAD).read_bytes()).hexdigest()[:8]


def _kept(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception:  # whatever is wrong with it, it is made anew
        return None


def _keep(path: Path, arrays: Arrays) -> None:
    try:
        make_folder(path.parent)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OutputError as error:
        _logger.warning("%s; the head has to be prepared anew the next time", error)
