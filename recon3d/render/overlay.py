"""The picture a user looks at first: photograph, fitted head over it, head alone, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from recon3d.render.camera import NEAR, Camera
from recon3d.render.shading import concavity, render_head

Pixels = npt.NDArray[np.uint8]

#: How much of the photograph the head covers in the middle panel.
_OPACITY = 0.62
_CLAY = (0.60, 0.68, 0.79)
_PAPER = (0.17, 0.18, 0.20)
_LINE = (1.0, 1.0, 1.0)
_DOT = (64, 255, 160)
_GAP = 4
#: A head smaller than this part of the photograph's height is shown enlarged.
_TINY = 0.45
_LARGEST_ENLARGEMENT = 6.0


@dataclass(frozen=True)
class _View:
    """A window of the photograph: left, top, width, height in px, and the size (w, h) it is shown at."""

    window: tuple[float, float, float, float]
    size: tuple[int, int]
    scale: float


def draw_overlay(
    pixels: Pixels,
    vertices_cam: Sequence[Tensor],
    faces: Tensor,
    camera: Camera,
    *,
    landmarks: Sequence[npt.NDArray[np.floating]] | None = None,
    colors: Tensor | None = None,
    max_side: int = 640,
) -> Pixels:
    """Draw three panels side by side: the photograph, the heads over it, the heads alone.

    The whole photograph is shown unless the heads are small in it: then the window around them is, enlarged
    up to six times. The heads are half-transparent clay with a thin contour, so that the fit of eyelids,
    lips, brows and outline can be judged.

    Args:
        pixels: (H,W,3) uint8 photograph.
        vertices_cam: One (V,3) a face, camera space, m. May be empty: the panels then show no head.
        faces: (F,3) int64, shared by the heads.
        camera: The photograph's camera (batch 1, size that of the photograph).
        landmarks: Optional (N,2) or (N,3) points a face, photograph px, drawn as dots over the heads.
        colors: Optional (V,3) sRGB vertex colours: their lightness is carried over to the clay.
        max_side: Larger side of a panel, px.

    Returns:
        (h, 3 w + gaps, 3) uint8.
    """
    heads = [torch.as_tensor(head).detach().float() for head in vertices_cam]
    view = _choose_view(pixels, heads, camera, max_side)
    photo = _show_photo(pixels, view)
    over, alone = photo.copy(), np.empty_like(photo)
    alone[:] = _to_bytes(torch.tensor(_PAPER)).numpy()
    if heads:
        _draw_heads(over, alone, heads, faces, camera, colors, view)
    if landmarks is not None:
        over = _draw_dots(over, landmarks, view)
    gap = np.full((photo.shape[0], _GAP, 3), 255, np.uint8)
    return np.ascontiguousarray(np.concatenate((photo, gap, over, gap, alone), axis=1))


def _choose_view(pixels: Pixels, heads: Sequence[Tensor], camera: Camera, max_side: int) -> _View:
    height, width = pixels.shape[:2]
    window = (0.0, 0.0, float(width), float(height))
    boxes = [box for head in heads if (box := _box(head, camera, (width, height))) is not None]
    if boxes:
        x0, y0 = np.min(boxes, axis=0)[:2].tolist()
        x1, y1 = np.max(boxes, axis=0)[2:].tolist()
        largest = max(float(box[3] - box[1]) for box in boxes)
        if largest < _TINY * height and max(x1 - x0, y1 - y0) < 0.75 * max(width, height):
            margin = 0.3 * largest
            x0, y0 = max(x0 - margin, 0.0), max(y0 - margin, 0.0)
            x1, y1 = min(x1 + margin, float(width)), min(y1 + margin, float(height))
            window = (x0, y0, x1 - x0, y1 - y0)
    scale = min(max_side / max(window[2:]), _LARGEST_ENLARGEMENT)
    size = (max(1, round(window[2] * scale)), max(1, round(window[3] * scale)))
    return _View(window, size, scale)


def _box(head: Tensor, camera: Camera, size: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    """Bounding box x0, y0, x1, y1 (px) of the part of a head inside the picture; None if outside."""
    points = camera.project(head[None])[0].double().numpy()
    points = points[np.isfinite(points).all(axis=1) & (points[:, 2] > NEAR)]
    if not len(points):
        return None
    low, high = points[:, :2].min(axis=0).clip(0, size), points[:, :2].max(axis=0).clip(0, size)
    return np.concatenate((low, high)) if (high - low).min() >= 1 else None


def _show_photo(pixels: Pixels, view: _View) -> Pixels:
    left, top, width, height = view.window
    box = (left, top, left + width, top + height)
    image = Image.fromarray(pixels).resize(view.size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return np.array(image, dtype=np.uint8)


def _draw_heads(
    over: Pixels,
    alone: Pixels,
    heads: Sequence[Tensor],
    faces: Tensor,
    camera: Camera,
    colors: Tensor | None,
    view: _View,
) -> None:
    """Draw the heads into the two panels, in place; only the part that they cover is rendered."""
    count = heads[0].shape[0]
    clay = torch.cat([clay_colors(head, faces, colors) for head in heads])
    verts = torch.cat(list(heads))[None]
    all_faces = torch.cat([faces + k * count for k in range(len(heads))])
    shown = camera.cropped(*view.window[:2], (1, 1)).scaled(view.scale)
    boxes = [box for head in heads if (box := _box(head, shown, view.size)) is not None]
    if not boxes:
        return
    x0, y0 = (np.min(boxes, axis=0)[:2].astype(int) - 2).clip(0).tolist()
    x1, y1 = (np.max(boxes, axis=0)[2:].astype(int) + 3).clip(0, view.size).tolist()
    part = shown.cropped(x0, y0, (x1 - x0, y1 - y0))
    with torch.no_grad():
        render = render_head(verts, all_faces, part, clay, background=_PAPER, supersample=2)
        image, alpha = render.image[0], render.alpha[0]
        alone[y0:y1, x0:x1] = _to_bytes(image).numpy()
        below = torch.from_numpy(over[y0:y1, x0:x1]).float() / 255
        mixed = torch.lerp(below, without_paper(image, alpha), (alpha * _OPACITY)[..., None])
        line = contour(alpha)[..., None] * 0.8
        over[y0:y1, x0:x1] = _to_bytes(torch.lerp(mixed, mixed.new_tensor(_LINE), line)).numpy()


def clay_colors(head: Tensor, faces: Tensor, colors: Tensor | None) -> Tensor:
    """(V,3) clay, darker in hollows, and as light or dark as the head's own colours where it has any."""
    hollow = (concavity(head[None], faces)[0] - 0.06).clamp(0, 0.4)
    tone = 1 - 0.8 * hollow
    if colors is not None:
        luma = torch.as_tensor(colors).float() @ torch.tensor([0.299, 0.587, 0.114])
        tone = tone * (luma / luma.median().clamp_min(0.05)).clamp(0.25, 1.3) ** 0.7
    return (torch.tensor(_CLAY) * tone[:, None]).clamp(0, 1)


def without_paper(image: Tensor, alpha: Tensor) -> Tensor:
    """Undo the paper's share in the pixels at the contour, so that it does not shine through the photo."""
    paper = image.new_tensor(_PAPER)
    return ((image - paper) / alpha.clamp_min(0.25)[..., None] + paper).clamp(0, 1)


def contour(alpha: Tensor) -> Tensor:
    """(H,W) in [0,1]: a line about one pixel wide along the outline."""
    padded = F.pad(alpha[None, None], (1, 1, 1, 1), mode="replicate")
    spread = F.max_pool2d(padded, 3, 1) + F.max_pool2d(-padded, 3, 1)
    return spread[0, 0] * (1 - (2 * alpha - 1).abs() * 0.6)


def _draw_dots(panel: Pixels, landmarks: Sequence[npt.NDArray[np.floating]], view: _View) -> Pixels:
    image = Image.fromarray(panel)
    draw = ImageDraw.Draw(image)
    for points in landmarks:
        shown = (np.asarray(points, dtype=np.float64)[:, :2] - view.window[:2]) * view.scale
        radius = 2.0 if len(shown) <= 100 else 1.0
        for x, y in shown[np.isfinite(shown).all(axis=1)].tolist():
            # Pillow counts from pixel centres, we from pixel corners.
            draw.ellipse((x - 0.5 - radius, y - 0.5 - radius, x - 0.5 + radius, y - 0.5 + radius), fill=_DOT)
    return np.array(image, dtype=np.uint8)


def _to_bytes(image: Tensor) -> Tensor:
    return (image * 255 + 0.5).clamp(0, 255).byte()
