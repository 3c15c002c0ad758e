"""Finds faces with BlazeFace, the detector inside ``face_landmarker.task``.

Method: V. Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019. The
numbers below are those of MediaPipe's face detector graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recon3d.face._crop import Floats, Pixels, Region, warp
from recon3d.face._task import Network

INPUT_SIZE = 128
MIN_SCORE = 0.5
#: Boxes that overlap more than this (intersection over union) are averaged into one.
MERGE_OVERLAP = 0.5
#: The landmark network wants the box with this much around it.
BOX_MARGIN = 1.5
#: (stride, anchors a cell): one layer of stride 8 and three of stride 16, two anchors each.
_ANCHOR_LAYERS = ((8, 2), (16, 6))


@dataclass(frozen=True)
class Detection:
    """A face as the detector sees it, in image pixels.

    Attributes:
        box: The detector's box, turned as the region was in which the face was found.
        keypoints: (6,2) right eye, left eye, nose tip, mouth, right ear, left ear (the subject's).
        score: In [0, 1].
    """

    box: Region
    keypoints: Floats
    score: float

    def region(self) -> Region:
        """Return the crop for the landmark network: the box, enlarged and turned along the eyes."""
        dx, dy = (float(v) for v in self.keypoints[1] - self.keypoints[0])
        width, height = self.box.width * BOX_MARGIN, self.box.height * BOX_MARGIN
        return Region(self.box.x, self.box.y, width, height, math.atan2(dy, dx))


def anchors() -> npt.NDArray[np.float32]:
    """Return the centres (896,2) in [0,1] that the detector's raw boxes are relative to."""
    layers = []
    for stride, count in _ANCHOR_LAYERS:
        cells = INPUT_SIZE // stride
        y, x = np.divmod(np.arange(cells * cells), cells)
        centres = (np.stack((x, y), axis=1) + 0.5) / cells
        layers.append(np.repeat(centres, count, axis=0))
    return np.concatenate(layers).astype(np.float32)


class Detector:
    """BlazeFace (short range) on one region of an image. Not thread-safe."""

    def __init__(self, network: Network, *, min_score: float = MIN_SCORE) -> None:
        """Wrap the loaded detector network; fainter faces than ``min_score`` are not reported."""
        self._network = network
        self._min_score = min_score
        self._anchors = anchors()

    def detect(self, pixels: Pixels, region: Region) -> list[Detection]:
        """Find the faces in a square region of the image, most certain first."""
        crop = warp(pixels, region, INPUT_SIZE, outside="black")
        outputs = self._network(crop[None] / np.float32(127.5) - np.float32(1))
        logits = outputs["classificators"].reshape(-1)
        scores = np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), np.float32)
        keep = np.flatnonzero(scores >= self._min_score)
        raw = outputs["regressors"].reshape(-1, 16)[keep].reshape(-1, 8, 2) / np.float32(INPUT_SIZE)
        raw[:, 1] /= 2  # half the size, so that the next two lines need no case for it
        raw[:, 2:] += self._anchors[keep, None]
        centre = raw[:, 0] + self._anchors[keep]
        points = np.concatenate((np.stack((centre - raw[:, 1], centre + raw[:, 1]), 1), raw[:, 2:]), 1)
        merged = merge(points, scores[keep])
        return [_to_image(group, score, region) for group, score in merged]


def merge(points: Floats, scores: Floats) -> list[tuple[Floats, float]]:
    """Average overlapping detections, weighted by their scores (BlazeFace's non-maximum suppression).

    Args:
        points: (N,8,2): the box's upper left and lower right corner, then the keypoints.
        scores: (N,).

    Returns:
        One (8,2) and the best score for each group, best first.
    """
    groups = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        overlap = overlaps(points[left[0], :2].reshape(4), points[left, :2].reshape(-1, 4))
        same = overlap > MERGE_OVERLAP
        same[0] = True  # a degenerate box overlaps nothing, not even itself
        weights = scores[left[same]]
        average = (points[left[same]] * weights[:, None, None]).sum(0) / weights.sum()
        groups.append((average.astype(np.float32), float(weights[0])))
        left = left[~same]
    return groups


def overlaps(box: Floats, boxes: Floats) -> Floats:
    """Return the intersection over union of one box (4,) with each of (N,4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    own = np.prod(np.clip(box[2:] - box[:2], 0, None))
    union = area + own - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0), np.float32)


def _to_image(points: Floats, score: float, region: Region) -> Detection:
    x, y = region.to_image(points[:2].mean(0, keepdims=True))[0].tolist()
    width, height = (points[1] - points[0]).tolist()
    box = Region(x, y, width * region.width, height * region.height, region.angle)
    return Detection(box, region.to_image(points[2:]), score)
