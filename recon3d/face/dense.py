"""The default face source: MediaPipe's open networks, run without MediaPipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon3d.face import _search
from recon3d.face._crop import Floats, Pixels, Region, whole_image
from recon3d.face._task import BLENDSHAPES, DETECTOR, LANDMARKS, load_network
from recon3d.face.blendshapes import BlendshapeScorer
from recon3d.face.detector import MIN_SCORE, Detection, Detector
from recon3d.face.landmarks import Landmarker, Landmarks, region_around
from recon3d.face.source import MAX_FACES, Face, bounds, by_prominence, check_pixels

#: Below this the landmark network says that its crop holds no face.
MIN_PRESENCE = 0.5
#: Two results that share more than this part of the smaller box are one face seen twice.
_SAME_FACE = 0.6
#: A face found by searching must be one beyond doubt ...
_SURE_PRESENCE = 0.9
#: ... and its landmarks must come to rest within this part of its size when it is cut out anew. They do
#: for faces (under 1 %), and wander over what only looks like one (3 to 20 %).
_REST = 0.02
_LOOKS = 4
#: A crop whose face is turned by more than this in it is cut again, along the landmarks' own eye line.
_MAX_TILT = math.radians(15)


@dataclass(frozen=True)
class _Seen:
    """A face with the certainty of both networks."""

    points: Floats
    presence: float
    certainty: float


class DenseSource:
    """Finds faces and gives 478 landmarks and 52 ARKit scores for each.

    On an image where MediaPipe's own Face Landmarker finds faces this finds the same with the same
    landmarks; where that finds none this looks further (see :mod:`recon3d.face._search`). Not
    thread-safe, as LiteRT's interpreters are not: open one source a thread.
    """

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        threads: int | None = None,
        min_score: float = MIN_SCORE,
        min_presence: float = MIN_PRESENCE,
        small_faces: bool = False,
    ) -> None:
        """Load the networks.

        Args:
            path: The ``.task`` file; by default the verified download.
            threads: LiteRT's thread count; by default the machine's cores, at most 4.
            min_score: The detector's threshold.
            min_presence: The landmark network's threshold, which rejects false faces.
            small_faces: Search for small faces even where larger ones were found (slower).

        Raises:
            AssetError: The model file cannot be had.
        """
        if path is None:
            from recon3d.assets import fetch

            path = fetch("face_landmarker")
        self._detector = Detector(load_network(DETECTOR, path=path, threads=threads), min_score=min_score)
        self._landmarker = Landmarker(load_network(LANDMARKS, path=path, threads=threads))
        self._scorer = BlendshapeScorer(load_network(BLENDSHAPES, path=path, threads=threads))
        self._min_presence = min_presence
        self._small_faces = small_faces

    def find(self, pixels: Pixels, *, max_faces: int = MAX_FACES, everywhere: bool = True) -> list[Face]:
        """Return at most ``max_faces`` faces of an (H,W,3) uint8 RGB image, the most prominent first.

        Args:
            pixels: The image.
            max_faces: At most this many.
            everywhere: Where one look at the whole image shows no face, search it part by part (slow).

        Raises:
            InputError: The array is not such an image.
        """
        pixels = check_pixels(pixels)
        seen = self._look(pixels, [whole_image(pixels)], searching=False)
        if not seen and everywhere:
            looks = (self._look(pixels, regions, searching=True) for regions in _search.fallbacks(pixels))
            seen = next((found for found in looks if found), [])
        elif self._small_faces:
            parts = [region for level in _search.tiles(pixels) for region in level]
            seen = _distinct([*seen, *self._look(pixels, parts, searching=True)])
        faces = [self._face(one.points, one.presence) for one in seen]
        height, width = pixels.shape[:2]
        return by_prominence(faces, (width, height))[:max_faces]

    def track(self, pixels: Pixels, previous: Face) -> Face | None:
        """Find the same face in the next frame of a clip, without the detector.

        Args:
            pixels: (H,W,3) uint8 RGB.
            previous: The face in the frame before.

        Returns:
            The face, or None where it is lost (then call :meth:`find`).
        """
        region = region_around(previous.landmarks)
        if not region.is_usable():
            return None
        (found,) = self.landmarks_in_crops(pixels, [region])
        if found.presence < self._min_presence:
            return None
        return self._face(found.points, found.presence)

    def find_new(self, pixels: Pixels, known: Sequence[Face]) -> list[Face]:
        """Return the faces of an image that are none of the ``known`` ones; one look, without a search."""
        pixels = check_pixels(pixels)
        boxes = [face.box for face in known]
        found = []
        for detection in self._detector.detect(pixels, whole_image(pixels)):
            crop = detection.region()
            if any(_is_inside(crop, box) for box in boxes) or not crop.is_usable():
                continue
            landmarks = self._confirm(pixels, crop)
            if landmarks is not None:
                found.append(self._face(landmarks.points, landmarks.presence))
        return [f for f in found if all(shared_area(f.box, box) < _SAME_FACE for box in boxes)]

    def landmarks_in_crops(self, pixels: Pixels, regions: Sequence[Region]) -> list[Landmarks]:
        """Run the landmark network alone on regions of one image (see :class:`Landmarker`)."""
        return self._landmarker.landmarks_in_crops(check_pixels(pixels), regions)

    def detect(self, pixels: Pixels) -> list[Detection]:
        """Run the detector alone on the whole image, as :meth:`find` does first; most certain first."""
        pixels = check_pixels(pixels)
        return self._detector.detect(pixels, whole_image(pixels))

    def _look(self, pixels: Pixels, regions: Iterable[Region], *, searching: bool) -> list[_Seen]:
        """Detect in the regions and confirm by landmarks, strictly where ``searching``."""
        confirm = self._settle if searching else self._confirm
        seen = []
        for region in regions:
            for detection in self._detector.detect(pixels, region):
                crop = detection.region()
                found = confirm(pixels, crop) if crop.is_usable() else None
                if found is not None:
                    seen.append(_Seen(found.points, found.presence, found.presence * detection.score))
        return _distinct(seen)

    def _confirm(self, pixels: Pixels, crop: Region) -> Landmarks | None:
        """Do as MediaPipe does: one look; and one more where the crop was turned amiss."""
        (first,) = self._landmarker.landmarks_in_crops(pixels, [crop])
        closer = region_around(first.points)
        if abs(_turn(closer.angle - crop.angle)) > _MAX_TILT and closer.is_usable():
            (second,) = self._landmarker.landmarks_in_crops(pixels, [closer])
            first = max(first, second, key=lambda found: found.presence)
        return first if first.presence >= self._min_presence else None

    def _settle(self, pixels: Pixels, crop: Region) -> Landmarks | None:
        """Cut the face out again and again along its own landmarks until they rest; None if never."""
        before: Landmarks | None = None
        for _ in range(_LOOKS):
            (found,) = self._landmarker.landmarks_in_crops(pixels, [crop])
            if before is not None and _moved(before.points, found.points) < _REST:
                sure = max(self._min_presence, _SURE_PRESENCE)
                return found if found.presence >= sure else None
            before, crop = found, region_around(found.points)
            if not crop.is_usable():
                return None
        return None

    def _face(self, points: Floats, presence: float) -> Face:
        return Face(bounds(points), presence, points, "mediapipe478", self._scorer.score(points))


def _moved(before: Floats, after: Floats) -> float:
    """Return the mean distance between two sets of landmarks over the diagonal of their box."""
    distance = np.linalg.norm(before[:, :2] - after[:, :2], axis=1).mean()
    return float(distance / max(float(np.linalg.norm(np.ptp(after[:, :2], axis=0))), 1e-6))


def _is_inside(crop: Region, box: Floats) -> bool:
    """Tell whether the middle of a crop lies in a box: then it shows the face that is there."""
    return bool(box[0] <= crop.x <= box[2] and box[1] <= crop.y <= box[3])


def _distinct(seen: list[_Seen]) -> list[_Seen]:
    """Drop the less certain of any two that are the same face."""
    kept: list[_Seen] = []
    for one in sorted(seen, key=lambda s: -s.certainty):
        if all(shared_area(bounds(one.points), bounds(other.points)) < _SAME_FACE for other in kept):
            kept.append(one)
    return kept


def shared_area(a: Floats, b: Floats) -> float:
    """Return the common area of two boxes over the area of the smaller."""
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
    return float(common / max(smaller, 1e-6))


def _turn(angle: float) -> float:
    """Return an angle in (-π, π]."""
    return math.atan2(math.sin(angle), math.cos(angle))
