"""What happens to a picture between the scene and the file: hands in the way, exposure, blur, noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recon3d.training.synthetic.noise import box_blur, cloud, grain
from recon3d.training.synthetic.settings import SyntheticSettings

_LUMINANCE = (0.2126, 0.7152, 0.0722)


def expose(picture: Tensor, face: Tensor, rng: np.random.Generator) -> Tensor:
    """Expose a linear picture (3,S,S) for the face (S,S) bool, and encode it: sRGB in [0,1]."""
    bright = torch.einsum("chw,c->hw", picture, picture.new_tensor(_LUMINANCE))
    level = float(bright[face].mean()) if bool(face.any()) else float(bright.mean())
    aim = float(np.clip(rng.normal(0.5, 0.12), 0.15, 0.85)) ** 2
    # Halfway to the aim: dark faces stay darker than pale ones.
    gain = (aim / max(level, 1e-3)) ** rng.uniform(0.5, 1.0)
    encoded = (picture * gain).clamp(1e-5, 4) ** (1 / rng.uniform(1.8, 2.5))
    shoulder = rng.uniform(0.7, 1.0)  # highlights roll off
    over = (encoded - shoulder).clamp_min(0)
    return (torch.minimum(encoded, encoded.new_tensor(shoulder)) + over / (1 + 2 * over)).clamp(0, 1)


def cover(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Put something before the face: a hand of a few fingers, a ball, a bar, or a corner. (3,S,S) sRGB."""
    size = picture.shape[1]
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    kind = rng.integers(4)
    if kind == 0:
        inside, form = _hand(x, y, rng)
        color = np.array((0.75, 0.55, 0.45)) * rng.uniform(0.35, 1.2)
    else:
        cx, cy = rng.uniform(-0.8, 0.8, 2)
        angle = rng.uniform(0, np.pi)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        off = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        wide, thin = rng.uniform(0.1, 0.5), rng.uniform(0.05, 0.25)
        reach = along.abs() / (wide if kind == 1 else 4) + 1e-6
        form = 1 - (reach.square() + (off / (wide if kind == 1 else thin)).square())
        rough = cloud(rng, size, (4, 10))[0] * rng.uniform(0, 0.3)
        inside = torch.sigmoid((form + rough) * 40)
        color = rng.uniform(0.03, 0.95, 3)
    shade = (0.6 + 0.5 * form.clamp(0, 1).sqrt()) * (1 + 0.08 * cloud(rng, size, (8, 30))[0])
    paint = torch.tensor(color, dtype=torch.float32)[:, None, None] * shade
    return (picture + (paint - picture) * inside * rng.uniform(0.85, 1)).clamp(0, 1)


def _hand(x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Four fingers and a palm: where they are (S,S), and how near their middle."""
    cx, cy, angle = rng.uniform(-0.7, 0.7), rng.uniform(-0.1, 0.9), rng.uniform(-1.2, 1.2)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
    form = 1 - (u / 0.26).square() - ((v - 0.25) / 0.28).square()
    for k in range(4):
        lean = (k - 1.5) * rng.uniform(0.02, 0.12)
        middle = (k - 1.5) * 0.11
        top = -rng.uniform(0.15, 0.5)
        away = (v - v.clamp(top, 0.15)).abs()
        finger = 1 - ((u - middle - lean * v).square() + away.square()) / 0.055**2
        form = torch.maximum(form, finger)
    return torch.sigmoid(form * 12), form.clamp(-1, 1)


def wear(picture: Tensor, rng: np.random.Generator, settings: SyntheticSettings) -> Tensor:
    """Spoil a picture as cameras and the web do. (3,S,S) sRGB in [0,1] in and out."""
    if rng.random() > settings.wear:
        return picture
    picture = _colors(picture, rng)
    if rng.random() < 0.35:
        picture = _blur(picture, rng)
    if rng.random() < 0.15:
        picture = _motion(picture, rng)
    if rng.random() < 0.45:
        picture = _shrink(picture, rng)
    if rng.random() < 0.5:
        picture = (
            picture + grain(rng, picture.shape[1], 3 if rng.random() < 0.5 else 1) * rng.beta(1, 4) * 0.08
        )
    picture = picture.clamp(0, 1)
    return _jpeg(picture, rng) if rng.random() < 0.5 else picture


def end_close(picture: Tensor, low: Tensor, high: Tensor, rng: np.random.Generator) -> Tensor:
    """Let the photograph end close around the face, as in many archives of faces.

    What lies beyond is as the tracker cuts it out: the edge's pixels drawn out, or black. The photograph's
    edges are tilted in the cut-out when the head is tilted in the photograph.

    Args:
        picture: (3,S,S) sRGB.
        low: (2,) px, the least x and y of the face's landmarks, and ...
        high: (2,) ... the largest.
        rng: Random numbers.
    """
    size = picture.shape[1]
    angle = rng.normal(0, 0.15)
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).float()
    margins = torch.tensor(rng.uniform(-0.06, 0.35, (2, 2)), dtype=torch.float32) * (high - low)
    half, middle = (high - low) / 2, (high + low) / 2
    axis = torch.arange(size) + 0.5
    away = (torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1) - middle) @ turn
    inside = torch.minimum(torch.maximum(away, -half - margins[0]), half + margins[1])
    places = (inside @ turn.T + middle) / size * 2 - 1
    drawn = F.grid_sample(picture[None], places[None], padding_mode="border", align_corners=False)[0]
    if rng.random() < 0.2:
        drawn = drawn * (away == inside).all(-1)
    return drawn


def _colors(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """White balance, contrast, saturation; black and white."""
    cast = torch.tensor(rng.lognormal(0, 0.05, (3, 1, 1)), dtype=torch.float32)
    picture = picture * cast
    mean = picture.mean()
    picture = (picture - mean) * rng.uniform(0.75, 1.25) + mean + rng.normal(0, 0.03)
    grey = torch.einsum("chw,c->hw", picture, picture.new_tensor((0.3, 0.59, 0.11)))[None]
    saturation = 0.0 if rng.random() < 0.25 else rng.uniform(0.4, 1.3)
    return (grey + (picture - grey) * saturation).clamp(0, 1)


def _blur(picture: Tensor, rng: np.random.Generator) -> Tensor:
    kernel = 2 * int(rng.integers(1, 3)) + 1
    return box_blur(box_blur(picture, kernel), kernel)


def _motion(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Mean along a short line."""
    length, angle = rng.uniform(2, 9), rng.uniform(0, np.pi)
    total = torch.zeros_like(picture)
    steps = np.linspace(-0.5, 0.5, 7) * length
    for step in steps:
        total += picture.roll((round(step * np.sin(angle)), round(step * np.cos(angle))), (1, 2))
    return total / len(steps)


def _shrink(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Come from a smaller picture."""
    size = picture.shape[1]
    small = round(size * np.exp(rng.uniform(np.log(0.28), np.log(0.9))))
    mode = "area" if rng.random() < 0.6 else "nearest"
    shrunk = F.interpolate(picture[None], (small, small), mode=mode)
    if rng.random() < 0.3:
        shrunk = _jpeg(shrunk[0].clamp(0, 1), rng)[None]
    return F.interpolate(shrunk, (size, size), mode="bilinear", align_corners=False)[0]


def _jpeg(picture: Tensor, rng: np.random.Generator) -> Tensor:
    pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(25, 95)))
        read = np.asarray(Image.open(io.BytesIO(file.getvalue())), np.float32)
    return torch.from_numpy(read / 255).permute(2, 0, 1)
