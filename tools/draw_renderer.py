"""Draws the pictures of docs/benchmarks/render.md: ``python tools/draw_renderer.py [--out docs/render]``.

A gradient picture beside its finite-difference twin, an unwrapped texture, and a refinement before and after.
Shown are the open head and the astronaut of scikit-image (public domain).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

import recon3d.render.rasterize
from recon3d.capture import Capture
from recon3d.export._still import camera_vertices
from recon3d.export.texture import bake_texture
from recon3d.head import HeadModel, load_head
from recon3d.media.image import Photo, write_image
from recon3d.pipeline import Reconstructor
from recon3d.render.camera import Camera
from recon3d.render.maps import Surface, normal_map
from recon3d.render.sampling import sample_texture, screen_derivatives
from recon3d.render.shading import render_head

Pixels = npt.NDArray[np.uint8]

_SIDE = 256
#: Motions that are differentiated: name, and step of the finite difference (m, rad, unit).
_MOTIONS = (("to the right", 8e-4), ("nodding", 6e-3), ("jawOpen", 4e-2))


def draw_gradients(head: HeadModel) -> Pixels:
    """How pixels brighten (red) or darken (blue) as the head moves: ours, differences, what is apart."""
    # Forward derivatives take the backward pass twice, which torch's own operations allow.
    recon3d.render.rasterize.compiled_kernels = lambda: None  # type: ignore[assignment]
    head = head.double()
    rows = []
    for k, (name, step) in enumerate(_MOTIONS):
        ours, twin = _derivative(head, k), _difference(head, k, step)
        cosine = float(F.cosine_similarity(ours.flatten(), twin.flatten(), 0))
        soft, soft_twin = (F.avg_pool2d(one[None, None], 4).flatten() for one in (ours, twin))
        coarse = float(F.cosine_similarity(soft, soft_twin, 0))
        print(f"{name}: cosine a pixel {cosine:.3f}, 4 x 4 pixels {coarse:.3f}")
        scale = twin.abs().quantile(0.995)
        rows.append(torch.cat([_signed(part / scale) for part in (ours, twin, ours - twin)], dim=1))
    return _bytes(torch.cat(rows))


def _derivative(head: HeadModel, motion: int) -> Tensor:
    moves = torch.zeros(len(_MOTIONS), dtype=torch.float64, requires_grad=True)
    picture = _picture(head, moves, antialiased=True)
    probe = torch.zeros_like(picture, requires_grad=True)
    (gradient,) = torch.autograd.grad(picture, moves, probe, create_graph=True)
    return torch.autograd.grad(gradient[motion], probe)[0][0].sum(-1)


@torch.no_grad()
def _difference(head: HeadModel, motion: int, step: float) -> Tensor:
    moves = torch.zeros(len(_MOTIONS), dtype=torch.float64)
    moves[motion] = step
    ahead, back = (_picture(head, sign * moves, supersample=8) for sign in (1, -1))
    return ((ahead - back) / (2 * step))[0].sum(-1)


def _picture(head: HeadModel, moves: Tensor, *, supersample: int = 1, antialiased: bool = False) -> Tensor:
    jaw = F.one_hot(torch.tensor([head.expression_names.index("jawOpen")]), head.num_expression)
    verts = head.unposed(moves.new_zeros(1, head.num_shape), jaw.to(moves) * (0.3 + moves[2]))
    verts = (verts - head.v_template.mean(0)) * moves.new_tensor((1.0, -1, -1))
    zero = torch.zeros((), dtype=moves.dtype)
    turn = torch.stack((moves[1] + 0.1, zero + 0.4, zero))
    cross = torch.linalg.cross(torch.eye(3).to(moves), turn.expand(3, 3))
    verts = verts @ torch.linalg.matrix_exp(cross) + moves.new_tensor((0, 0, 0.6))
    verts = verts + F.pad(moves[:1], (0, 2))
    camera = Camera.create(1.6 * _SIDE, (_SIDE, _SIDE), dtype=torch.float64)
    drawn = render_head(verts, head.faces, camera, supersample=supersample, antialiased=antialiased)
    return drawn.image


def _signed(values: Tensor) -> Tensor:
    clipped = values.clamp(-1, 1)
    return torch.stack((clipped.clamp_min(0), torch.zeros_like(clipped), (-clipped).clamp_min(0)), dim=-1)


def draw_texture(head: HeadModel, capture: Capture, photo: Photo) -> Pixels:
    """Photograph, its texture, and the head turned to both sides under it."""
    plain = bake_texture(capture, head, photo, 768)
    even = bake_texture(capture, head, photo, 768, delight=True)
    assert plain is not None and even is not None
    shown = np.array(photo.pixels[:384, :384])
    views = [_turned(head, capture, plain, angle) for angle in (-0.9, 0.9)]
    left = np.concatenate([_resized(shown, 384), *(_resized(view, 384) for view in views)], axis=1)
    right = np.concatenate([_resized(plain, 576), _resized(even, 576)], axis=1)
    return np.concatenate([left, right], axis=0)


def _turned(head: HeadModel, capture: Capture, texture: Pixels, angle: float) -> Pixels:
    verts = torch.as_tensor(camera_vertices(capture, head, 0))
    middle = verts.mean(0)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=torch.float32)
    verts = (verts - middle) @ turn.T + torch.tensor([0, 0, 0.8])
    surface = Surface.of(verts[None], head.faces, Camera.create(1.9 * 768, (768, 768)))
    uv = recon3d.render.rasterize.interpolate(head.uv[None], head.faces_uv, surface.fragments)
    change = screen_derivatives(head.uv, head.faces_uv, surface.fragments, surface.verts_px, head.faces)
    skin = torch.from_numpy(texture.copy()).permute(2, 0, 1)[None].float() / 255
    light = 0.75 - 0.25 * normal_map(surface)[..., 2:]
    mask = surface.fragments.mask[..., None]
    picture = (sample_texture(skin, uv, change) * light).clamp(0, 1) * mask + 0.9 * ~mask
    return _bytes(surface.smooth(picture)[0])


def draw_refinement(photo: Photo) -> Pixels:
    """The overlay before and after, and what is printed of both."""
    from recon3d._results import draw

    pictures = []
    for refine in (False, True):
        worker = Reconstructor(refine=refine)
        (found,) = worker.fit(photo)
        picture = draw(found.capture, worker.head, photo)
        pictures.append(picture[:, picture.shape[1] // 3 : 2 * picture.shape[1] // 3])
    return np.concatenate(pictures, axis=1)


def _resized(pixels: Pixels, side: int) -> Pixels:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def _bytes(image: Tensor) -> Pixels:
    return (image.detach().clamp(0, 1) * 255 + 0.5).byte().numpy()


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "render")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    astronaut: Any = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    photo = Photo(astronaut)
    worker = Reconstructor()
    capture = replace(worker.reconstruct(photo)[0], source="astronaut")
    write_image(out / "texture.jpg", draw_texture(worker.head, capture, photo))
    write_image(out / "refine.jpg", draw_refinement(photo))
    write_image(out / "gradient.png", draw_gradients(load_head()))


if __name__ == "__main__":
    main()
