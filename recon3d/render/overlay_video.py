"""The fitted heads over the frames of a clip, in batches: what a user looks at to believe the curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from recon3d.render.camera import NEAR, Camera
from recon3d.render.overlay import clay_colors
from recon3d.render.rasterize import blend, images_of, rasterize, seen
from recon3d.render.shading import shade, vertex_normals

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel
    from recon3d.media.video import Frame

Pixels = npt.NDArray[np.uint8]

#: How much of the frame a head covers, and the white line along its outline.
_OPACITY, _LINE = 0.6, 0.28
#: Frames drawn together, and the larger side (px) that a head is drawn at; larger heads are enlarged.
_BATCH, _SIDE = 8, 256
#: Room around a head for its contour, px of the drawn picture.
_ROOM = 3


@dataclass(frozen=True)
class _Window:
    """Where a head lies in its frame: x0, y0, x1, y1 px, whole numbers; may reach beyond the frame."""

    frame: int
    box: tuple[int, int, int, int]
    depth: float


class OverlayArtist:
    """Draws one clip's heads."""

    def __init__(self, captures: Sequence[Capture], head: HeadModel, *, side_by_side: bool = False) -> None:
        """Prepare for a clip.

        Args:
            captures: Its persons; all have one row a frame of the clip.
            head: Their head model.
            side_by_side: Show the frame left of the frame with the heads.
        """
        self._captures, self._head, self._side_by_side = captures, head, side_by_side
        self._clay = [_person_clay(capture, head) for capture in captures]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures, px."""
        width, height = self._captures[0].size
        return (2 * width if self._side_by_side else width), height

    def draw(self, frames: Iterable[Frame]) -> Iterator[tuple[Pixels, float]]:
        """Yield each frame's picture (h, w, 3) uint8 and its time, s."""
        rest = iter(frames)
        while batch := list(islice(rest, _BATCH)):
            pictures = [frame.pixels.copy() for frame in batch]
            known = len(self._captures[0])
            rows = [frame.index for frame in batch if frame.index < known]
            if rows:
                self._draw_heads(pictures, np.array(rows))
            for frame, picture in zip(batch, pictures, strict=True):
                whole = np.concatenate([frame.pixels, picture], axis=1) if self._side_by_side else picture
                yield whole, frame.time

    @torch.no_grad()
    def _draw_heads(self, pictures: Sequence[Pixels], rows: npt.NDArray[np.int64]) -> None:
        drawn: list[tuple[_Window, Pixels]] = []
        for capture, clay in zip(self._captures, self._clay, strict=True):
            tracked = np.flatnonzero(capture.tracked[rows])
            if len(tracked):
                drawn += self._render(capture, clay, rows[tracked], tracked)
        for window, layer in sorted(drawn, key=lambda item: -item[0].depth):
            _paste(pictures[window.frame], window.box, layer)

    def _render(
        self, capture: Capture, clay: Tensor, rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
    ) -> list[tuple[_Window, Pixels]]:
        """Draw one person in some frames: windows, and what is laid over them (S, S, 4)."""
        vertices = posed_vertices(capture, self._head, rows)
        focal = torch.full((len(rows),), float(capture.focal))
        principal = torch.from_numpy(capture.principal).float().expand(len(rows), 2)
        pixels = vertices[..., :2] / vertices[..., 2:].clamp_min(NEAR) * focal[:, None, None]
        pixels = pixels + principal[:, None]
        low, high = pixels.amin(1), pixels.amax(1)
        extent = (high - low).amax(1)
        inside = (extent > 1) & (extent < 16 * max(capture.size)) & (vertices[..., 2].amin(1) > NEAR)
        keep = inside.nonzero()[:, 0]
        if not len(keep):
            return []
        side = min(_SIDE, int(extent[keep].max().ceil()) + 2 * _ROOM)
        vertices, low, high, principal = vertices[keep], low[keep], high[keep], principal[keep]
        corner, extent = low.floor() - _ROOM, (high - low).amax(1).ceil() + 2 * _ROOM
        scale = side / extent
        camera = Camera(focal[keep] * scale, (principal - corner) * scale[:, None], (side, side))
        layers = _draw_layers(vertices, self._head.faces, camera, clay).numpy()
        windows = []
        for k, index in enumerate(keep.tolist()):
            x, y = corner[k].int().tolist()
            box = (x, y, x + int(extent[k]), y + int(extent[k]))
            window = _Window(int(places[index]), box, float(vertices[k, :, 2].mean()))
            windows.append((window, layers[k]))
        return windows


def posed_vertices(capture: Capture, head: HeadModel, rows: npt.NDArray[np.int64]) -> Tensor:
    """Return the head in some frames: (n, V, 3) m, camera space."""
    shape = torch.from_numpy(capture.shape).expand(len(rows), -1)
    posed = head(shape, torch.from_numpy(capture.expression[rows]), torch.from_numpy(capture.pose[rows]))
    vertices: Tensor = posed.vertices + torch.from_numpy(capture.translation[rows])[:, None]
    return vertices


def _person_clay(capture: Capture, head: HeadModel) -> Tensor:
    with torch.no_grad():
        zero = torch.zeros(1, head.num_expression)
        return clay_colors(
            head.unposed(torch.from_numpy(capture.shape)[None], zero)[0], head.faces, head.colors
        )


def _draw_layers(vertices: Tensor, faces: Tensor, camera: Camera, clay: Tensor) -> Tensor:
    """Draw what is laid over the frames, premultiplied RGBA bytes (n, S, S, 4).

    Light is computed at the vertices: at this size a triangle is about two pixels, and there are a fifth as
    many vertices as pixels. Surfaces seen from behind (the inside, below the neck) are left out.
    """
    fragments = rasterize(camera.project(vertices), faces, camera.size, cull_backfaces=True)
    where, triangle, weights = seen(fragments)
    lit = shade(vertex_normals(vertices, faces), clay.square()) * (255 * _OPACITY)
    cover = torch.full((*lit.shape[:2], 1), 255 * _OPACITY)
    colours = blend(torch.cat((lit, cover), dim=-1), faces, triangle, weights, images_of(where, fragments))
    layer = torch.zeros(fragments.mask.numel(), 4, dtype=torch.uint8)
    layer[where] = (colours + 0.5).byte()
    line = _outline(fragments.mask).reshape(-1).nonzero().squeeze(1)
    layer[line] = (layer[line] * (1 - _LINE) + (255 * _LINE + 0.5)).byte()
    return layer.reshape(*fragments.mask.shape, 4)


def _outline(mask: Tensor) -> Tensor:
    """Return the pixels (n, H, W) bool on both sides of the outline of a mask (n, H, W) bool."""
    line = torch.zeros_like(mask)
    across, down = mask[:, :, 1:] ^ mask[:, :, :-1], mask[:, 1:] ^ mask[:, :-1]
    line[:, :, 1:] |= across
    line[:, :, :-1] |= across
    line[:, 1:] |= down
    line[:, :-1] |= down
    return line


def _paste(picture: Pixels, box: tuple[int, int, int, int], layer: Pixels) -> None:
    """Lay a square RGBA picture (S, S, 4), enlarged to its window, over a frame, in place."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if right <= left or bottom <= top:
        return
    scale = layer.shape[0] / (x1 - x0)
    inside = ((left - x0) * scale, (top - y0) * scale, (right - x0) * scale, (bottom - y0) * scale)
    size = (right - left, bottom - top)
    # "RGBX" keeps Pillow from multiplying by the alpha, which has been done.
    shown = Image.frombytes("RGBX", layer.shape[1::-1], layer.tobytes())
    rgba = np.asarray(shown.resize(size, Image.Resampling.BILINEAR, box=inside))
    part = picture[top:bottom, left:right]
    rest = 256 - rgba[..., 3].astype(np.uint16)
    for channel in range(3):  # several times as fast as all three at once, for want of broadcasting
        below = part[..., channel] * rest
        part[..., channel] = rgba[..., channel] + (below >> 8).astype(np.uint8)
