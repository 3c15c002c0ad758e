"""Short clips of a real face for tests: a photograph that moves and is zoomed into, as a hand-held camera."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage.data
from PIL import Image

from recon3d.media.video import VideoWriter

Pixels = npt.NDArray[np.uint8]

#: Around the face of the photograph, px: left, top, right, bottom.
_FACE = (80.0, 0.0, 400.0, 240.0)


def face_picture(step: float, size: tuple[int, int] = (320, 240)) -> Pixels:
    """One frame (h, w, 3) of the moving face; ``step`` counts frames."""
    left, top, right, bottom = _FACE
    zoom = 1 + 0.08 * np.sin(step / 9)
    x, y = 12 * np.sin(step / 5), 8 * (1 + np.sin(step / 7))
    width, height = (right - left) / zoom, (bottom - top) / zoom
    box = (left + x, top + y, left + x + width, top + y + height)
    photo = Image.fromarray(skimage.data.astronaut())
    return np.asarray(photo.resize(size, Image.Resampling.BILINEAR, box=box))


def face_frames(count: int, size: tuple[int, int] = (320, 240)) -> Iterator[Pixels]:
    """The moving face, ``count`` frames of it."""
    return (face_picture(step, size) for step in range(count))


def pair_frames(count: int) -> Iterator[Pixels]:
    """A large face left and a smaller one, turned round and moving otherwise, right: 480 x 240."""
    for step in range(count):
        whole = np.full((240, 480, 3), 90, np.uint8)
        whole[:, :280] = face_picture(step, (320, 240))[:, 20:300]
        whole[60:210, 280:] = face_picture(40 - step, (200, 150))[:, ::-1]
        yield whole


def wall_frames(count: int) -> Iterator[Pixels]:
    """Nobody: a wall with a slow shadow."""
    for step in range(count):
        column = np.linspace(120, 200, 160) + 10 * np.sin(step / 5)
        yield np.broadcast_to(column[None, :, None], (120, 160, 3)).astype(np.uint8)


def write_clip(path: Path, pictures: Iterable[Pixels], fps: float = 25.0) -> Path:
    """Write frames (all of one size) as a video."""
    rest = iter(pictures)
    first = next(rest)
    with VideoWriter(path, (first.shape[1], first.shape[0]), fps, preset="ultrafast") as video:
        video.write(first, 0.0)
        for index, picture in enumerate(rest, 1):
            video.write(picture, index / fps)
    return path
