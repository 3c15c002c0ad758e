"""The 52 ARKit scores from dense landmarks, by the network inside ``face_landmarker.task``."""

from __future__ import annotations

import numpy as np

from recon3d.conventions import ARKIT_NAMES
from recon3d.face._crop import Floats
from recon3d.face._task import Network

#: The landmarks that the network reads, in its order (a fact of MediaPipe's face blendshapes graph).
LANDMARKS_READ: tuple[int, ...] = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67,
    70, 78, 80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146,
    148, 149, 150, 152, 153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181,
    185, 191, 195, 197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293,
    295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361,
    362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398,
    400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)  # fmt: skip

#: What the network's outputs mean: first one that nobody uses, then the units sorted by name. It knows
#: no ``tongueOut``.
OUTPUT_NAMES: tuple[str, ...] = ("_neutral", *sorted(set(ARKIT_NAMES) - {"tongueOut"}))


class BlendshapeScorer:
    """Turns landmarks into ARKit scores. Not thread-safe."""

    def __init__(self, network: Network) -> None:
        """Wrap the loaded blendshape network."""
        self._network = network
        self._to_arkit = [ARKIT_NAMES.index(name) for name in OUTPUT_NAMES[1:]]

    def score(self, points: Floats) -> Floats:
        """Return the scores (52,) float32 in [0,1], ``ARKIT_NAMES`` order; ``tongueOut`` is always 0.

        Args:
            points: (478, 2 or 3) landmarks in image pixels; scale and place do not matter.
        """
        outputs = self._network(np.ascontiguousarray(points[None, LANDMARKS_READ, :2], dtype=np.float32))
        (raw,) = outputs.values()
        scores = np.zeros(len(ARKIT_NAMES), np.float32)
        scores[self._to_arkit] = np.clip(raw.reshape(-1)[1:], 0, 1)
        return scores
