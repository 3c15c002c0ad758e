"""Asking the encoder about the faces of a clip while the next frames are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES
from recon3d.encoder.crop import CutOut, cut_out
from recon3d.face.tracks import Sighting

if TYPE_CHECKING:
    from recon3d.encoder.encoder import FaceEncoder, Told

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: Faces that are looked at together.
_BATCH = 16
#: A face is asked about at most so often, s; between, what was told is carried over, with the more doubt the
#: more it changes. Landmarks, which are seen in every frame, tell what is faster.
_PAUSE = 0.12
#: How fast lids may move unseen, a second (a blink closes them within 0.1 s); (52,).
_SPEED = np.where([name.startswith("eyeBlink") for name in ARKIT_NAMES], 8.0, 0.0)


class Hints(NamedTuple):
    """What the encoder tells of n faces: ``expression`` and ``variance`` (n,52), as ``Told`` has them."""

    expression: Floats
    variance: Floats


class Asked:
    """The faces of frames one after another, and what the encoder tells of them. For one chunk of a clip."""

    def __init__(self, encoder: FaceEncoder) -> None:
        """Ask this encoder."""
        self._encoder, self._waiting = encoder, list[CutOut]()
        self._pool = ThreadPoolExecutor(1, "recon3d-encoder")
        self._answers: list[Future[Told]] = []
        self._last: dict[int, float] = {}
        self._tracklets, self._times, self._sent = list[int](), list[float](), list[bool]()

    def about(self, pixels: npt.NDArray[np.uint8], time: float, sightings: Sequence[Sighting]) -> None:
        """Ask about the faces of a frame (H,W,3) that is shown at a time (s)."""
        for one in sightings:
            # A millisecond's play: times of frames are rounded.
            due = time - self._last.get(one.tracklet, -np.inf) > _PAUSE - 1e-3
            if due:
                self._last[one.tracklet] = time
                self._waiting.append(cut_out(pixels, one.face.landmarks))
            self._tracklets.append(one.tracklet)
            self._times.append(time)
            self._sent.append(due)
        if len(self._waiting) >= _BATCH:
            self._send()

    def told(self) -> Hints:
        """Return what the encoder tells of all faces, in the order in which they came."""
        self._send()
        with self._pool:
            answers = self._encoder.joined([answer.result() for answer in self._answers])
        sent, whose = np.array(self._sent, bool), np.array(self._tracklets, np.int64)
        times = np.array(self._times)
        expression, variance = (np.zeros((len(sent), 52), np.float32) for _ in range(2))
        for tracklet in np.unique(whose):
            mine = whose == tracklet
            told = answers.expression[mine[sent]], answers.variance[mine[sent]]
            expression[mine], variance[mine] = _between(times[mine & sent], *told, times[mine])
        return Hints(expression, variance)

    def _send(self) -> None:
        faces, self._waiting = self._waiting, []
        # One batch is looked at while the next is gathered; no more, so that memory stays flat.
        if len(self._answers) > 1:
            self._answers[-2].result()
        self._answers.append(self._pool.submit(self._encoder.tell, faces))


def _between(known: Doubles, values: Floats, variance: Floats, times: Doubles) -> tuple[Doubles, Doubles]:
    """Interpolate values (k,C), told with a variance at rising times (k,), linearly to other times.

    Before and after they hold. Between two that differ it may be either: that much more is their variance.
    And what moves fast may have come and gone between: lids close and open again within a tenth of a second.
    """
    after = np.searchsorted(known, times).clip(min(1, len(known) - 1), len(known) - 1)
    before = np.maximum(after - 1, 0)
    apart = np.maximum(known[after] - known[before], 1e-9)
    share = ((times - known[before]) / apart).clip(0, 1)[:, None]
    change = np.square(values[after] - values[before])
    doubt = variance[before] * (1 - share) + variance[after] * share + change * share * (1 - share)
    since = np.minimum(np.abs(times - known[before]), np.abs(times - known[after]))[:, None]
    doubt = doubt + np.square(since * _SPEED)
    return np.asarray(values[before] * (1 - share) + values[after] * share), np.asarray(doubt)
