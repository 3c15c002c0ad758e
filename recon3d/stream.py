"""Playing a capture to VTubing programs in real time, by the VMC protocol (OSC over UDP).

Every frame is sent as it is due: ``/VMC/Ext/OK`` (with the tracking status), ``/VMC/Ext/T`` (s since the
start), ``/VMC/Ext/Bone/Pos`` of ``Head``, ``LeftEye`` and ``RightEye``, ``/VMC/Ext/Blend/Val`` of each unit,
and last ``/VMC/Ext/Blend/Apply``, in bundles that fit an Ethernet packet, in this order.

Rotations are local, as the protocol wants them, in Unity's axes: left-handed, +Y up, the avatar looks along
+Z with its left at -X; quaternions x, y, z, w. Positions are zero: where an avatar's bones are is the
avatar's own affair (receivers that apply positions have a switch for it). The head is turned as it was before
the camera.

Units go by the names of "Perfect Sync" clips, ``BrowDownLeft``: those of Unity's ARKit package, to which the
protocol's own pages refer. Some receivers mind the case; ``lower_camel`` sends ``browDownLeft``, and a name
map anything else.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import MissingExtraError, OutputError, UsageError
from recon3d.export._angles import eye_rotations, head_rotation
from recon3d.export._resample import at_rate
from recon3d.export._still import check_head

try:
    from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
    from pythonosc.osc_message import OscMessage
    from pythonosc.osc_message_builder import OscMessageBuilder
except ModuleNotFoundError as error:
    raise MissingExtraError("streaming needs python-osc: pip install 'recon3d[stream]'") from error

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.export.name_map import NameMap
    from recon3d.head import HeadModel

#: Where a VMC "marionette" listens unless told otherwise.
DEFAULT_PORT = 39539
#: Frames per second of a capture that has no rate.
DEFAULT_FPS = 60.0
BONES = ("Head", "LeftEye", "RightEye")
#: Largest bundle, bytes: below what an Ethernet packet carries, so that no part of a frame is lost alone.
MAX_BUNDLE = 1400
_CALIBRATED, _NORMAL_MODE = 3, 0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Performance:
    """What is sent, frame by frame.

    Attributes:
        fps: Frames per second.
        names: The n curves' names.
        values: (T, n) of the curves.
        bones: (T, 3, 4) rotations of ``BONES``, x y z w in Unity's axes.
        tracked: (T,) false where the face was not seen.
    """

    fps: float
    names: tuple[str, ...]
    values: Floats
    bones: Floats
    tracked: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Played:
    """How a performance went: frames sent, and frames left out because they were overdue."""

    sent: int
    skipped: int


def perform(
    capture: Capture,
    head: HeadModel,
    *,
    fps: float | None = None,
    names: NameMap | None = None,
    lower_camel: bool = False,
) -> Performance:
    """Work out what to send of a capture.

    Args:
        capture: What to play.
        head: The head model that it was made with.
        fps: Frames per second; the capture's own when None or 0.
        names: Sends these curves instead of the 52 units.
        lower_camel: Send ``browDownLeft`` instead of ``BrowDownLeft``.

    Raises:
        InputError: The head is not the capture's.
        UsageError: ``fps`` is no frame rate.
    """
    check_head(capture, head)
    taken = at_rate(capture, fps or capture.fps or DEFAULT_FPS)
    turned = (head_rotation(taken, head), *eye_rotations(taken, head))
    values = taken.arkit.astype(np.float64)
    plain = ARKIT_NAMES if lower_camel else tuple(name[0].upper() + name[1:] for name in ARKIT_NAMES)
    return Performance(
        fps=taken.fps,
        names=plain if names is None else names.names,
        values=values if names is None else names.apply(values).astype(np.float64),
        bones=np.stack([to_unity(rotation.as_quat()) for rotation in turned], axis=1),
        tracked=taken.tracked,
    )


def to_unity(quaternions: Floats) -> Floats:
    """Turn quaternions (..., 4) x y z w from head axes (right-handed, +X to the left) to Unity's.

    Unity's X points to the avatar's right, and the two systems are each other's mirror image.
    """
    return quaternions * np.array([1.0, -1.0, -1.0, 1.0])


class VmcSender:
    """Sends frames to one receiver; close it, or use it as a context manager."""

    def __init__(self, host: str, port: int = DEFAULT_PORT) -> None:
        """Find the receiver. UDP knows no connection: whether somebody listens does not show.

        Raises:
            OutputError: There is no such host.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket, self._address = socket.socket(*found[:3]), found[4]
        except (OSError, UnicodeError) as error:
            raise OutputError(f"{host}: there is no such host; name one as HOST:PORT") from error
        self._port = port

    def __enter__(self) -> VmcSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, performance: Performance, frame: int, seconds: float) -> None:
        """Send one frame, ``seconds`` after the start.

        Raises:
            OutputError: The network does not take it.
        """
        for bundle in bundles(messages(performance, frame, seconds)):
            try:
                self._socket.sendto(bundle, self._address)
            except OSError as error:
                reason = error.strerror or str(error)
                raise OutputError(f"{self._address[0]}:{self._port}: cannot send ({reason})") from error


def messages(performance: Performance, frame: int, seconds: float) -> list[OscMessage]:
    """Return the messages of one frame, in the order they are to arrive."""
    status = int(performance.tracked[frame])
    found = [
        _message("/VMC/Ext/OK", 1, _CALIBRATED, _NORMAL_MODE, status),
        _message("/VMC/Ext/T", float(seconds)),
    ]
    for bone, rotation in zip(BONES, performance.bones[frame].tolist(), strict=True):
        found.append(_message("/VMC/Ext/Bone/Pos", bone, 0.0, 0.0, 0.0, *rotation))
    for name, value in zip(performance.names, performance.values[frame].tolist(), strict=True):
        found.append(_message("/VMC/Ext/Blend/Val", name, value))
    return [*found, _message("/VMC/Ext/Blend/Apply")]


def bundles(contents: Sequence[OscMessage]) -> Iterator[bytes]:
    """Yield OSC bundles of at most ``MAX_BUNDLE`` bytes that hold the messages in their order."""
    builder, size = OscBundleBuilder(IMMEDIATELY), 16
    for message in contents:
        if size > 16 and size + 4 + message.size > MAX_BUNDLE:
            yield builder.build().dgram
            builder, size = OscBundleBuilder(IMMEDIATELY), 16
        builder.add_content(message)
        size += 4 + message.size
    yield builder.build().dgram


def play(
    performance: Performance,
    sender: VmcSender,
    *,
    loop: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Played:
    """Send a performance in real time; with ``loop`` again and again, until interrupted.

    Frame k is due at start + k / fps on a clock that nobody sets, so nothing drifts; a frame that is overdue
    when its turn comes is left out.

    Raises:
        OutputError: The network does not take it.
    """
    start, frame, sent, skipped = clock(), 0, 0, 0
    while loop or frame < len(performance):
        wait = start + frame / performance.fps - clock()
        if wait > 0:
            sleep(wait)
        elapsed = clock() - start
        sender.send(performance, frame % len(performance), elapsed)
        sent += 1
        following = max(frame + 1, int((clock() - start) * performance.fps))
        if not loop:  # The last frame is always shown: it is the one that stays.
            following = min(following, max(frame + 1, len(performance) - 1))
        skipped += following - frame - 1
        frame = following
    return Played(sent, skipped)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, ``HOST``, or ``[IPv6]:PORT``.

    Raises:
        UsageError: It is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--vmc {text!r}: HOST:PORT is wanted, such as 127.0.0.1:{DEFAULT_PORT}")
    return host, int(port)


def _message(address: str, *arguments: str | int | float) -> OscMessage:
    builder = OscMessageBuilder(address)
    for argument in arguments:
        kind = "s" if isinstance(argument, str) else "i" if isinstance(argument, int) else "f"
        builder.add_arg(argument, kind)
    return builder.build()
