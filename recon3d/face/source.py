"""Faces in an image: what a face source gives, and how to open one.

A face's box is that of its landmarks (not the detector's, which leaves out chin and forehead by turns),
so that it means the same whether a face was detected or tracked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError, UsageError

LandmarkKind = Literal["mediapipe478", "ibug68"]
MAX_FACES = 8


@dataclass(frozen=True)
class Face:
    """One face in an image.

    Attributes:
        box: (4,) float32 x0, y0, x1, y1 in pixels: the landmarks' bounds; may reach beyond the image.
        score: How sure it is that this is a face, in [0, 1].
        landmarks: (N,3) float32: x and y in image pixels, z on the same scale and relative, growing
            away from the camera (0 throughout where the source knows no depth).
        kind: Which points the landmarks are.
        scores: (52,) float32 in [0, 1], ``ARKIT_NAMES`` order; None where the source has none.
    """

    box: npt.NDArray[np.float32]
    score: float
    landmarks: npt.NDArray[np.float32]
    kind: LandmarkKind
    scores: npt.NDArray[np.float32] | None = None


class FaceSource(Protocol):
    """Anything that finds faces."""

    def find(self, pixels: npt.NDArray[np.uint8], *, max_faces: int = MAX_FACES) -> list[Face]:
        """Return the faces of an (H,W,3) uint8 RGB image, the most prominent first."""
        ...


def open_face_source(name: str = "mediapipe", **options: Any) -> FaceSource:
    """Open a face source by name.

    Args:
        name: ``"mediapipe"`` (478 landmarks and 52 scores) or ``"fan"`` (68 landmarks; optional extra).
        options: See :class:`recon3d.face.dense.DenseSource` and :class:`recon3d.face.fan.FanSource`.

    Raises:
        UsageError: There is no such source.
        AssetError: Its model files cannot be had.
        MissingExtraError: It needs a package that is not installed.
    """
    if name == "mediapipe":
        from recon3d.face.dense import DenseSource

        return DenseSource(**options)
    if name == "fan":
        from recon3d.face.fan import FanSource

        return FanSource(**options)
    raise UsageError(f"there is no face source called {name!r}; choose mediapipe or fan")


def check_pixels(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the image in the memory layout the warps need (a copy only where it has another).

    Raises:
        InputError: It is not an (H,W,3) uint8 image with at least one pixel.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(f"faces are sought in (H,W,3) uint8 images, not {pixels.shape} {pixels.dtype}")
    return np.ascontiguousarray(pixels)


def bounds(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the box (4,) x0, y0, x1, y1 around landmarks (N, 2 or more)."""
    return np.concatenate((landmarks[:, :2].min(0), landmarks[:, :2].max(0))).astype(np.float32)


def by_prominence(faces: list[Face], size: tuple[int, int]) -> list[Face]:
    """Sort faces: the larger and the more central in an image of ``size`` (width, height), the earlier."""
    middle = np.array(size, np.float64) / 2

    def prominence(face: Face) -> float:
        low, high = face.box[:2], face.box[2:]
        distance = float(np.linalg.norm((low + high) / 2 - middle) / np.linalg.norm(middle))
        return float(np.sqrt(np.prod(high - low))) * (1 - 0.5 * min(distance, 1.0))

    return sorted(faces, key=prominence, reverse=True)
