"""478 dense landmarks of a face, by the network inside ``face_landmarker.task``.

Method: I. Grishchenko et al., Attention Mesh: High-fidelity Face Mesh Prediction in Real-time, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon3d.face._crop import Floats, Pixels, Region, warp
from recon3d.face._task import Network

INPUT_SIZE = 256
NUM_LANDMARKS = 478
#: Outer corners of the right and the left eye (the subject's).
OUTER_EYE_CORNERS = (33, 263)
#: Room around the landmarks' box for the next crop of the same face.
TRACK_MARGIN = 1.5


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of one crop: (478,3) image pixels (z on the same scale, 0 at the head's centre)."""

    points: Floats
    presence: float


class Landmarker:
    """The landmark network. Not thread-safe."""

    def __init__(self, network: Network) -> None:
        """Wrap the loaded landmark network."""
        self._network = network

    def landmarks_in_crops(self, pixels: Pixels, regions: Sequence[Region]) -> list[Landmarks]:
        """Run the network on regions of one image, without the detector.

        Args:
            pixels: (H,W,3) uint8.
            regions: Crops from :meth:`Detection.region` or :func:`region_around`.

        Returns:
            One result a region, in order; ``presence`` in [0, 1] says whether a face is there at all.
        """
        return [self._run(pixels, region) for region in regions]

    def _run(self, pixels: Pixels, region: Region) -> Landmarks:
        crop = warp(pixels, region, INPUT_SIZE)
        outputs = self._network(crop[None] / np.float32(255))
        raw = outputs["Identity"].reshape(NUM_LANDMARKS, 3) / np.float32(INPUT_SIZE)
        depth = raw[:, 2:] * np.float32(region.width)
        presence = 1 / (1 + math.exp(-float(np.clip(outputs["Identity_1"], -80, 80).reshape(()))))
        return Landmarks(np.concatenate((region.to_image(raw[:, :2]), depth), axis=1), presence)


def region_around(points: Floats) -> Region:
    """Return the square crop for the next look at a face whose landmarks (478,2 or 3) are known.

    As MediaPipe's: the upright box of the landmarks, its longer side, enlarged, turned along the eyes.
    """
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    x, y = ((low + high) / 2).tolist()
    side = float((high - low).max()) * TRACK_MARGIN
    dx, dy = (points[OUTER_EYE_CORNERS[1], :2] - points[OUTER_EYE_CORNERS[0], :2]).tolist()
    return Region(x, y, side, side, math.atan2(dy, dx))
