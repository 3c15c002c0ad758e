"""Python loads this before a watched program: it notes what is written where nothing may be written.

``TRUST_ALLOWED`` holds the folders (by ``os.pathsep``) below which everything is allowed, ``TRUST_NOTES`` the
file for the notes, a line each. ``TRUST_CLOCK_JUMPS`` (a number of seconds) makes the time of day jump to and
fro by up to so much at every look at it; the monotonic clock goes on as it should.
"""

from __future__ import annotations

import os
import sys

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events about paths, and which of their arguments are paths that change.
_CHANGES = {
    "os.mkdir": (0,), "os.rmdir": (0,), "os.remove": (0,), "os.rename": (0, 1), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
    "shutil.copyfile": (1,), "shutil.move": (0, 1), "shutil.rmtree": (0,), "shutil.copytree": (1,),
}  # fmt: skip
#: What processes share with each other and with their terminal; byte code is Python's own business.
_ALWAYS = ("/dev/null", "/dev/tty", "/dev/shm", "/dev/pts", "/proc/self")


def _within(event: str, arguments: tuple[object, ...], index: int) -> object:
    """Return the open folder that a path is relative to, if the event tells."""
    if event in ("os.remove", "os.rmdir"):
        return arguments[1]
    if event in ("os.rename", "os.link"):
        return arguments[2 + index]
    if event in ("os.mkdir", "os.symlink", "os.chmod"):
        return arguments[2]
    return None


def _watch(allowed: tuple[str, ...], notes: str) -> None:
    handle = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def check(event: str, path: object, within: object = None) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # an open file's number
        start = f"/proc/self/fd/{within}" if isinstance(within, int) and within >= 0 else "."
        whole = os.path.join(start, os.fsdecode(path))  # noqa: PTH118
        # Of the folder, because a link itself may lead anywhere.
        folder, name = os.path.split(os.path.normpath(whole))
        place = os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        if "__pycache__" in place or any(place == one or place.startswith(one + "/") for one in allowed):
            return
        os.write(handle, f"{event} {place!r}\n".encode("utf-8", "backslashreplace"))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and isinstance(path, (str, bytes)):
                check(f"open {mode or flags}", path)
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                check(event, arguments[index], _within(event, arguments, index))

    sys.addaudithook(hook)


def _jump(span: float) -> None:
    import random
    import time

    true, true_ns, chance = time.time, time.time_ns, random.Random(os.getpid())
    time.time = lambda: true() + chance.uniform(-span, span)
    time.time_ns = lambda: true_ns() + int(chance.uniform(-span, span) * 1e9)


if "TRUST_NOTES" in os.environ:
    _watch((*_ALWAYS, *os.environ["TRUST_ALLOWED"].split(os.pathsep)), os.environ["TRUST_NOTES"])
if "TRUST_CLOCK_JUMPS" in os.environ:
    _jump(float(os.environ["TRUST_CLOCK_JUMPS"]))
