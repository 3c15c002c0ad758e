"""Names of items: where each one's results go, under the folder of all of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from recon3d.errors import UsageError

#: Longest part of a name, bytes: with what is put before and after it, it stays under 255.
_LONGEST = 180
_BAD = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_SECOND_FACE = re.compile(r"\.face\d+$")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
#: Names that the ledger and its company have at the top.
_LEDGER = "ledger."


def safe_id(text: str) -> str:
    """Return a relative path, ``/`` between its parts, that every disk takes and that stays where it is.

    Parts that lead elsewhere, or would be hidden, are turned into plain names.
    """
    parts = [_safe_part(part) for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and parts[0].casefold().startswith(_LEDGER):
        parts[0] = f"_{parts[0]}"
    return "/".join(parts) or "_"


@lru_cache(1024)  # folders come again and again
def _safe_part(part: str) -> str:
    # Names that are not valid in the file system's encoding come with lone surrogates.
    text = part.encode("utf-8", "backslashreplace").decode("utf-8")
    text = _BAD.sub("_", unicodedata.normalize("NFC", text)).rstrip(". ").lstrip(" ")
    text = "".join(c if c.isprintable() else "_" for c in text)
    if not text or text.startswith(".") or _DEVICES.match(text):
        text = f"_{text.lstrip('.')}"
    if len(text.encode()) > _LONGEST:
        start = text.encode()[: _LONGEST - 9].decode("utf-8", "ignore")
        text = f"{start}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text


def key_of(name: str) -> str:
    """Return what two names share that some disks take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def ids_of(paths: Sequence[str]) -> list[str]:
    """Return the ids of files, by their relative paths (``/`` between the parts), each an id of its own.

    An id is the path without suffix. Where several files would share it, or it is also the name of a folder
    with items, or it looks like that of a second face, it keeps its suffix. What it becomes depends on the
    paths alone, not on their order.
    """
    short = [safe_id(_without_suffix(path)) for path in paths]
    counts = Counter(key_of(name) for name in short)
    folders = {key_of(parent) for path in paths for parent in _parents(safe_id(path))}
    found = []
    for path, name in zip(paths, short, strict=True):
        shared = counts[key_of(name)] > 1 or key_of(name) in folders
        found.append(safe_id(path) if shared or _SECOND_FACE.search(name) else name)
    counts = Counter(key_of(name) for name in found)
    return [
        name if counts[key_of(name)] == 1 and key_of(name) not in folders else _told_apart(name, path)
        for name, path in zip(found, paths, strict=True)
    ]


def _told_apart(name: str, path: str) -> str:
    """Add digits of the very path, where two differ only in what some disks do not tell apart."""
    return f"{name}~{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _without_suffix(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix else path


def _parents(name: str) -> Iterable[str]:
    parts = name.split("/")
    return ("/".join(parts[:k]) for k in range(1, len(parts)))


def check_id(text: str) -> str:
    """Return an id that a user gave, if it can be one as it is.

    Raises:
        UsageError: It leads out of the folder, is hidden, or no disk takes it.
    """
    name = text.strip()
    if name != safe_id(name) or _SECOND_FACE.search(name):
        raise UsageError(
            f"the id {text!r} cannot be a folder's name; {safe_id(_SECOND_FACE.sub('', name))!r} can"
        )
    return name
