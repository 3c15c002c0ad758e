"""The cut-out of a face that the encoder looks at: eyes level, the face in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from recon3d.face._crop import Floats, Pixels, Region, warp
from recon3d.face.landmarks import OUTER_EYE_CORNERS

#: Width and height of the cut-out, px.
CROP_SIZE = 256
#: Side of the cut-out in parts of the longer side of the landmarks' box, as the landmark network's own.
CROP_MARGIN = 1.5


@dataclass(frozen=True)
class CutOut:
    """A face as the encoder wants it.

    Attributes:
        pixels: (256,256,3) uint8 RGB.
        points: (478,3) dense landmarks in parts of the cut-out's side, z on the same scale.
    """

    pixels: Pixels
    points: Floats


def face_region(landmarks: Floats) -> Region:
    """Return the square around dense landmarks (478,2 or 3), px, turned so that the eyes are level.

    Unlike the tracker's, its size does not change when the head rolls.
    """
    first, second = (landmarks[k, :2].astype(np.float64) for k in OUTER_EYE_CORNERS)
    angle = math.atan2(second[1] - first[1], second[0] - first[0])
    turn = np.array(((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))))
    level = landmarks[:, :2].astype(np.float64) @ turn.T
    low, high = level.min(0), level.max(0)
    x, y = turn.T @ ((low + high) / 2)
    side = float((high - low).max()) * CROP_MARGIN
    return Region(float(x), float(y), side, side, angle)


def cut_out(pixels: Pixels, landmarks: Floats) -> CutOut:
    """Cut a face out of a picture.

    Args:
        pixels: (H,W,3) uint8 RGB.
        landmarks: (478,3) dense landmarks, px, z on the same scale.
    """
    region = face_region(landmarks)
    points = (landmarks[:, :2] - (region.x, region.y)).astype(np.float64)
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    level = points @ np.array(((cos, -sin), (sin, cos))) / region.width + 0.5
    depth = landmarks[:, 2:] / region.width
    return CutOut(_shrunk(pixels, region), np.concatenate((level, depth), axis=1).astype(np.float32))


def _shrunk(pixels: Pixels, region: Region) -> Pixels:
    """Cut a region out; large ones are made smaller first, because sampling alone would flicker."""
    factor = int(region.width / CROP_SIZE)
    if factor < 2:
        return warp(pixels, region, CROP_SIZE).astype(np.uint8)
    # Turned by any angle, the region lies within this square.
    reach = region.width * 0.71
    height, width = pixels.shape[:2]
    left, top = max(0, int(region.x - reach)), max(0, int(region.y - reach))
    right, bottom = min(width, int(region.x + reach) + 1), min(height, int(region.y + reach) + 1)
    if right - left < factor or bottom - top < factor:
        return warp(pixels, region, CROP_SIZE).astype(np.uint8)
    part = Image.fromarray(pixels[top:bottom, left:right]).reduce(factor)
    moved = Region(
        (region.x - left) / factor,
        (region.y - top) / factor,
        region.width / factor,
        region.height / factor,
        region.angle,
    )
    return warp(np.asarray(part), moved, CROP_SIZE).astype(np.uint8)
