"""Photographs to train on, beside renders: nothing is known of them but where the landmarks are.

Whoever trains on photographs takes over their terms; the weights that come with recon3d saw none.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recon3d.encoder.crop import CutOut, cut_out
from recon3d.errors import InputError
from recon3d.face import open_face_source
from recon3d.files import make_folder
from recon3d.training.store import FaceStore
from recon3d.training.synthetic import Faces

Pixels = npt.NDArray[np.uint8]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
#: To be raised when the same photographs no longer give the same cut-outs.
_VERSION = 1
#: The landmark network must be this sure that it saw a face.
SURE = 0.9


class PhotographStore(FaceStore):
    """Faces cut out of photographs, one sub-folder a set of archives.

    Of what is not known of them, a shard holds zeros; their landmarks are those that the face stage found.

    The same pictures are known again wherever their archive lies: by their names and checksums.
    """

    def __init__(self, folder: Path, archives: tuple[str, ...], shapes: int, size: int = 1024) -> None:
        """Open a set; nothing is looked at yet.

        Args:
            folder: Where stores are.
            archives: Zip files or folders of pictures.
            shapes: Identity coefficients of the head.
            size: Faces a shard. What does not fill one is left out.

        Raises:
            InputError: There is no such archive.
        """
        self._archives, self._shapes = [Path(path) for path in archives], shapes
        super().__init__(Path(folder) / f"photographs-{_digest(self._archives, size)}", size)

    def make(self, say: Callable[[str], None] = lambda line: None) -> int:
        """Find the faces, unless that was done before; return how many shards there are.

        Raises:
            InputError: An archive is damaged, or there are fewer faces than fill a shard.
            OutputError: The folder cannot be written to.
        """
        done = make_folder(self.folder) / "shards.txt"
        if done.exists():
            return int(done.read_text())
        faces, count = self._faces(), 0
        while len(some := list(islice(faces, self.size))) == self.size:
            self.write(count, unknown_faces(some, self._shapes))
            count += 1
            say(f"{self.folder}: {count * self.size} faces found in photographs")
        if not count:
            raise InputError(f"{', '.join(map(str, self._archives))}: fewer than {self.size} faces")
        done.write_text(str(count))
        return count

    def _faces(self) -> Iterator[CutOut]:
        source = open_face_source("mediapipe")
        for archive in self._archives:
            for pixels in _pictures(archive):
                for face in source.find(pixels, max_faces=1):
                    if face.score >= SURE:
                        yield cut_out(pixels, face.landmarks)


def unknown_faces(faces: list[CutOut], shapes: int) -> Faces:
    """Gather faces of which nothing but the landmarks is known: zeros stand for the rest."""
    count = len(faces)
    points = torch.from_numpy(np.stack([face.points for face in faces]))
    return Faces(
        images=torch.from_numpy(np.stack([face.pixels for face in faces])),
        shape=torch.zeros(count, shapes),
        expression=torch.zeros(count, 52),
        rotation=torch.zeros(count, 3, 3),
        landmarks=points,
        detected=points,
        present=torch.ones(count, dtype=torch.bool),
    )


def _pictures(archive: Path) -> Iterator[Pixels]:
    """Pictures (H,W,3) in the order of their names; what cannot be read is passed over."""
    from PIL import Image, UnidentifiedImageError

    for data in _files(archive):
        try:
            with Image.open(io.BytesIO(data)) as image:
                yield np.ascontiguousarray(np.asarray(image.convert("RGB")))
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            continue


def _files(archive: Path) -> Iterator[bytes]:
    if archive.is_dir():
        yield from (p.read_bytes() for p in sorted(archive.rglob("*")) if p.suffix.lower() in _SUFFIXES)
        return
    with _opened(archive) as bundle:
        for name in sorted(bundle.namelist()):
            if name.lower().endswith(_SUFFIXES):
                yield bundle.read(name)


def _digest(archives: list[Path], size: int) -> str:
    whole = hashlib.sha256(f"{_VERSION} {size}".encode())
    for path in archives:
        for entry in _entries(path):
            whole.update(repr(entry).encode())
    return whole.hexdigest()[:12]


def _entries(archive: Path) -> Iterator[tuple[str | int, ...]]:
    """What tells an archive's pictures from others, without reading them.

    Of a zip file their names and checksums, of a folder their names, sizes and times.
    """
    if archive.is_dir():
        for path in sorted(archive.rglob("*")):
            if path.suffix.lower() in _SUFFIXES:
                state = path.stat()
                yield str(path.relative_to(archive)), state.st_size, state.st_mtime_ns
        return
    if not archive.exists():
        raise InputError(f"{archive}: no such archive of photographs")
    with _opened(archive) as bundle:
        yield from ((entry.filename, entry.CRC) for entry in bundle.infolist())


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as bundle:
            yield bundle
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive}: not a zip file or folder of pictures, or damaged") from error
