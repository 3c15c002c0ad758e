"""Following faces through a clip: one tracklet a face, from where it is found to where it is lost.

A face is followed by its own landmarks, as in MediaPipe's video mode: the crop of a frame is cut around the
landmarks of the frame before, so the detector rests while all goes well. It is asked when a face is lost,
after a cut, and twice a second for new faces. Which tracklets are one person is decided later, when their
identities are known (recon3d.fitting.persons).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.face._crop import Floats, Pixels
from recon3d.face.dense import DenseSource, shared_area
from recon3d.face.source import MAX_FACES, Face, bounds

#: New faces are looked for this often, s; and, where nobody is in sight, in every corner this often.
_LOOK_EVERY, _SEARCH_EVERY = 0.5, 1.0
#: A face found again within this time, s, and at the same place, goes on as the same tracklet.
_FORGET_AFTER = 1.0
_SAME_PLACE = 0.3
#: Two tracklets that share more than this part of the smaller box follow one face.
_SAME_FACE = 0.6
#: A tracklet jumps no farther than this part of its face's size between two frames without a new look.
_LARGEST_JUMP = 1.0
#: A cut: the thumbnails' mean difference in grey levels, and how many times the usual one it must be.
_CUT_LEVELS, _CUT_TIMES = 24.0, 5.0


@dataclass(frozen=True)
class Sighting:
    """A face in a frame.

    Attributes:
        tracklet: Number of the tracklet, counted from 0 through the clip.
        face: The face.
        sharpness: Mean difference of neighbouring pixels of the face, in grey levels: small when blurred.
        light: Mean grey level of the face, in [0, 255].
    """

    tracklet: int
    face: Face
    sharpness: float
    light: float


@dataclass
class _Tracklet:
    number: int
    face: Face
    seen: float  # s
    lost: bool = False


class FaceTracker:
    """Follows the faces of one clip, frame by frame, in order. Its state can be saved between frames."""

    def __init__(self, source: DenseSource, *, max_faces: int = MAX_FACES) -> None:
        """Follow at most ``max_faces`` at a time."""
        self._source, self._max_faces = source, max_faces
        self._tracklets: list[_Tracklet] = []
        self._count = 0
        self._looked, self._searched = -np.inf, -np.inf
        self._thumbnail: Floats | None = None
        self._usual_change = 0.0

    def step(self, pixels: Pixels, time: float) -> tuple[list[Sighting], bool]:
        """Look at the next frame.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            time: s.

        Returns:
            The faces in sight, and whether a cut lies before this frame.
        """
        cut = self._is_cut(pixels)
        if cut:
            self._tracklets.clear()
        for tracklet in self._tracklets:
            self._follow(tracklet, pixels, time)
        self._drop_doubles()
        if self._must_look(time):
            self._look(pixels, time)
        self._tracklets = [t for t in self._tracklets if time - t.seen <= _FORGET_AFTER]
        in_sight = [t for t in self._tracklets if not t.lost]
        return [Sighting(t.number, t.face, *_quality(pixels, t.face.box)) for t in in_sight], cut

    def save(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state as arrays, from which :meth:`restore` goes on as if nothing had happened."""
        faces = self._tracklets
        points = np.stack([t.face.landmarks for t in faces]) if faces else np.zeros((0, 478, 3), np.float32)
        thumbnail = np.zeros((0, 0), np.float32) if self._thumbnail is None else self._thumbnail
        return {
            "numbers": np.array([t.number for t in faces], np.int64),
            "points": points,
            "scores": np.array([t.face.score for t in faces], np.float64),
            "seen": np.array([t.seen for t in faces], np.float64),
            "lost": np.array([t.lost for t in faces], bool),
            "scalars": np.array([self._count, self._looked, self._searched, self._usual_change]),
            "thumbnail": thumbnail,
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up a state that :meth:`save` returned."""
        rows = zip(
            state["numbers"], state["points"], state["scores"], state["seen"], state["lost"], strict=True
        )
        self._tracklets = [
            _Tracklet(int(n), _bare_face(p, float(s)), float(t), bool(gone)) for n, p, s, t, gone in rows
        ]
        count, self._looked, self._searched, self._usual_change = state["scalars"].tolist()
        self._count = int(count)
        self._thumbnail = state["thumbnail"] if state["thumbnail"].size else None

    def _follow(self, tracklet: _Tracklet, pixels: Pixels, time: float) -> None:
        if tracklet.lost:
            return
        found = self._source.track(pixels, tracklet.face)
        if found is None or _jump(tracklet.face.box, found.box) > _LARGEST_JUMP:
            tracklet.lost = True
        else:
            tracklet.face, tracklet.seen = found, time

    def _must_look(self, time: float) -> bool:
        in_sight = sum(not t.lost for t in self._tracklets)
        if in_sight < len(self._tracklets) or not in_sight:
            return True
        return in_sight < self._max_faces and time - self._looked >= _LOOK_EVERY

    def _look(self, pixels: Pixels, time: float) -> None:
        """Ask the detector for faces that nobody follows; a lost one goes on where it is met again."""
        self._looked = time
        known = [t.face for t in self._tracklets if not t.lost]
        if known:
            found = self._source.find_new(pixels, known)
        else:
            everywhere = time - self._searched >= _SEARCH_EVERY
            found = self._source.find(pixels, max_faces=self._max_faces, everywhere=everywhere)
            self._searched = time if everywhere and not found else self._searched
        for face in found[: self._max_faces - len(known)]:
            again = next((t for t in self._tracklets if t.lost and self._is_at(t, face)), None)
            if again is None:
                self._tracklets.append(_Tracklet(self._count, face, time))
                self._count += 1
            else:
                again.face, again.seen, again.lost = face, time, False

    @staticmethod
    def _is_at(tracklet: _Tracklet, face: Face) -> bool:
        return shared_area(tracklet.face.box, face.box) > _SAME_PLACE

    def _drop_doubles(self) -> None:
        """Where two tracklets have come to follow one face, the older one keeps it."""
        kept: list[_Tracklet] = []
        for tracklet in self._tracklets:
            others = (t.face.box for t in kept if not t.lost)
            if tracklet.lost or all(shared_area(box, tracklet.face.box) < _SAME_FACE for box in others):
                kept.append(tracklet)
        self._tracklets = kept

    def _is_cut(self, pixels: Pixels) -> bool:
        """Compare the frame's thumbnail with the one before; the usual change is a running mean."""
        now, before = _thumbnail(pixels), self._thumbnail
        self._thumbnail = now
        if before is None or before.shape != now.shape:
            return before is not None
        change = float(np.abs(now - before).mean())
        cut = change > _CUT_LEVELS and change > _CUT_TIMES * self._usual_change
        if not cut:
            self._usual_change += 0.2 * (change - self._usual_change)
        return cut


def _thumbnail(pixels: Pixels) -> Floats:
    """About 64 × 36 evenly spread green values: enough to tell cuts, and free."""
    height, width = pixels.shape[:2]
    sample = pixels[:: max(1, height // 36), :: max(1, width // 64), 1]
    return sample.astype(np.float32)


def _quality(pixels: Pixels, box: Floats) -> tuple[float, float]:
    """Sharpness and light of the face in ``box``, from every fourth row."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box.astype(int).tolist()
    part = pixels[max(y0, 0) : min(y1, height) : 4, max(x0, 0) : min(x1, width), 1]
    if part.shape[0] < 1 or part.shape[1] < 3:
        return 0.0, 0.0
    grey = part.astype(np.int16)
    return float(np.abs(np.diff(grey, axis=1)).mean()), float(grey.mean())


def _jump(before: Floats, after: Floats) -> float:
    """How far a box moved, over its size."""
    size = float(np.sqrt(np.prod(np.maximum(before[2:] - before[:2], 1))))
    return float(np.abs(after - before).max()) / size


def _bare_face(points: Floats, score: float) -> Face:
    return Face(bounds(points), score, points, "mediapipe478")
