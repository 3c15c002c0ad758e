"""The options of ``recon3d serve``, and how sizes and times are written."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from recon3d.errors import UsageError

#: Shorter tokens could be guessed.
SHORTEST_TOKEN = 12
#: Space that is left free on the disk, bytes.
MIN_FREE = 500_000_000
#: Workers that say nothing for so long, s, are replaced.
STALL_SECONDS = 600.0

_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_BYTES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}


@dataclass(frozen=True)
class ServeSettings:
    """How to serve.

    Attributes:
        data: Folder of the queue, the uploads and the results.
        host: Address to listen at.
        port: Port to listen at; 0 takes any.
        token: What clients have to know; None: nothing, for this machine alone.
        allowed_hosts: Names besides the obvious ones by which the server may be called.
        keep: Seconds after which finished jobs are deleted.
        max_upload: Bytes of one request.
        max_duration: Seconds of one clip.
        max_files: Files of one request.
        max_jobs: Jobs that wait or run at a time.
        max_uploads: Requests that upload at a time.
        max_streams: Event streams that are open at a time.
        upload_stall: Seconds after which an upload that brings nothing is given up.
        stall: Seconds after which a worker that says nothing is replaced.
        min_free: Bytes that are left free on the disk.
        workers: Jobs done at a time.
        head: File of a head model, or None for the open head.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    keep: float = 86400.0
    max_upload: int = 500_000_000
    max_duration: float = 600.0
    max_files: int = 16
    max_jobs: int = 64
    max_uploads: int = 4
    max_streams: int = 64
    upload_stall: float = 60.0
    stall: float = STALL_SECONDS
    min_free: int = MIN_FREE
    workers: int = 1
    head: Path | None = None


def is_local(host: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def choose_token(host: str, given: str | None) -> tuple[str | None, bool]:
    """Return the token to ask for, and whether it was made here, so that somebody has to be told.

    Raises:
        UsageError: The one that was given is too short, or cannot stand in a header.
    """
    if given:
        if len(given) < SHORTEST_TOKEN or not re.fullmatch(r"[\w.~+/=-]+", given, re.ASCII):
            raise UsageError(
                f"the token must have {SHORTEST_TOKEN} or more letters, digits or signs of . _ ~ + / = -"
            )
        return given, False
    return (None, False) if is_local(host) else (secrets.token_urlsafe(24), True)


def parse_seconds(text: str, option: str) -> float:
    """Read "90s", "10min", "24h" or "7d".

    Raises:
        UsageError: It is none of them, or nothing at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower(), re.ASCII)
    if not found or found[2] not in _SECONDS or float(found[1]) <= 0:
        raise UsageError(f"{option} {text!r}: a time is wanted, like 90s, 10min, 24h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


def parse_bytes(text: str, option: str) -> int:
    """Read "500MB", "2GB" or "64MiB".

    Raises:
        UsageError: It is none of them, or nothing at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if not found or found[2].upper() not in _BYTES or float(found[1]) <= 0:
        raise UsageError(f"{option} {text!r}: a size is wanted, like 500MB or 2GB")
    return max(1, int(float(found[1]) * _BYTES[found[2].upper()]))
