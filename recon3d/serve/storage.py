"""The data folder: where uploads and results lie, and which of them a client may have.

``queue.sqlite``; ``incoming/`` for uploads that are on their way; ``jobs/<id>/upload`` and
``jobs/<id>/results/head/…`` (``head.face2``, …). Every name is made here; what clients call their files is
text to be shown. The folders are their owner's alone (mode 0700).
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import unicodedata
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recon3d.errors import OutputError, UsageError
from recon3d.files import output_error
from recon3d.media._open import shown

#: (known, usual) formats of photographs and of clips. Only formats that are single files.
PHOTO_FORMATS = (
    ("obj", "glb", "arkit", "overlay", "usd", "csv", "json", "bvh"),
    ("obj", "glb", "arkit", "overlay"),
)
CLIP_FORMATS = (
    (
        "livelink", "glb", "overlay", "report", "csv", "json", "bvh", "usd", "glb-skeleton", "glb-curves",
        "arkit",
    ),
    ("livelink", "glb", "overlay", "report"),
)  # fmt: skip

#: What may lie in a data folder whose queue was not made any more.
_OURS = frozenset({"lock.sqlite", "incoming", "jobs"})
#: Of the main person's result folder; the others are ``head.face2``, …
STEM = "head"

_MEDIA_TYPES = {
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".mtl": "model/mtl",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".html": "text/html; charset=utf-8",
    ".npz": "application/octet-stream",
    ".bvh": "application/octet-stream",
    ".usdc": "application/octet-stream",
}
_FACE = re.compile(rf"{re.escape(STEM)}(?:\.face(\d+))?")
_LONGEST_NAME = 120
#: Names that mean devices on Windows, where somebody will unpack an archive.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Stored:
    """A result file: its public name, whose it is, and where it lies below the job's results."""

    name: str
    person: int
    folder: str
    file: str
    size: int

    @property
    def media_type(self) -> str:
        """What it is sent as; judged by the name that recon3d gave it."""
        return _MEDIA_TYPES.get(Path(self.file).suffix, "application/octet-stream")


class Storage:
    """The data folder of one server."""

    def __init__(self, root: Path) -> None:
        """Make the folders, and take possession of them until ``close``.

        Raises:
            UsageError: The folder holds something else, or another server uses it.
            OutputError: It cannot be written.
        """
        self.root = root
        self.incoming, self.jobs = root / "incoming", root / "jobs"
        self.queue = root / "queue.sqlite"
        try:
            if root.is_dir() and not self.queue.exists() and {p.name for p in root.iterdir()} - _OURS:
                raise UsageError(f"{shown(root)}: holds other files; choose an empty folder for --data")
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(root)
            for folder in (self.incoming, self.jobs):
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
            for leftover in self.incoming.iterdir():
                leftover.unlink()
        except OSError as error:
            raise OutputError(str(output_error(root, error)).replace("--out", "--data")) from error

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def new_upload(self) -> Path:
        """Return a name for an upload that begins."""
        return self.incoming / uuid.uuid4().hex

    def adopt(self, upload: Path, job: str) -> None:
        """Make an upload a job's input."""
        folder = self.jobs / job
        folder.mkdir(mode=0o700)
        upload.rename(self.upload(job))

    def upload(self, job: str) -> Path:
        """Return the path of a job's input."""
        return self.jobs / job / "upload"

    def results(self, job: str) -> Path:
        """Return the folder of a job's results."""
        return self.jobs / job / "results"

    def path(self, job: str, stored: Stored) -> Path | None:
        """Return the path of a result; None if it is gone, or is no plain file in its place."""
        path = self.results(job) / stored.folder / stored.file
        try:
            inside = path.resolve(strict=True).is_relative_to(self.results(job).resolve(strict=True))
        except OSError:
            return None
        return path if inside and path.is_file() and not path.is_symlink() else None

    def remove(self, job: str) -> None:
        """Remove all of a job; gone is fine.

        Raises:
            OSError: Something of it cannot be removed.
        """
        with suppress(FileNotFoundError):
            shutil.rmtree(self.jobs / job)

    def remove_strangers(self, known: Iterable[str]) -> None:
        """Remove folders of jobs that are not in the queue: a crash came between the two."""
        keep = set(known)
        for folder in self.jobs.iterdir():
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def free_bytes(self) -> int:
        """Return how much room the disk has."""
        return shutil.disk_usage(self.root).free


def _locked(root: Path) -> sqlite3.Connection:
    """Take a lock that ends with this process, however that ends."""
    lock = sqlite3.connect(root / "lock.sqlite", timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode = MEMORY")  # no file beside it
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" in str(error):
            raise UsageError(
                f"{shown(root)}: another server uses it; stop that, or choose another --data"
            ) from error
        raise OutputError(f"{shown(root)}: cannot be written ({error}); choose another --data") from error
    except sqlite3.DatabaseError as error:
        lock.close()
        raise UsageError(f"{shown(root)}: holds other files; choose an empty folder for --data") from error
    return lock


def list_results(folder: Path) -> list[Stored]:
    """Return the files in a job's result folders, the main person's first; links are left out."""
    found = []
    for place in sorted(folder.iterdir()):
        face = _FACE.fullmatch(place.name)
        if face is None or place.is_symlink() or not place.is_dir():
            continue
        person = int(face[1] or 1)
        for file in sorted(place.iterdir()):
            if file.is_file() and not file.is_symlink():
                name = file.name if person == 1 else f"face{person}-{file.name}"
                found.append(Stored(name, person, place.name, file.name, file.stat().st_size))
    return sorted(found, key=lambda stored: (stored.person, stored.name))


def display_name(given: str) -> str:
    """Return what a client calls its file as one short line of plain text, without folders."""
    name = unicodedata.normalize("NFC", given.encode("utf-8", "replace").decode())
    name = re.split(r"[/\\]", name)[-1].strip()
    name = "".join(c if c.isprintable() else "_" for c in name) or "file"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def archive_stem(name: str) -> str:
    """Return a folder name for archives, made of a display name: nothing that any system takes amiss."""
    stem = name.rsplit(".", 1)[0] if "." in name[1:] else name
    stem = re.sub(r"[^\w .()+-]", "_", stem).strip(" .")[:80].strip(" .")
    return f"{stem}_" if _DEVICES.fullmatch(stem.split(".")[0]) else stem or STEM
