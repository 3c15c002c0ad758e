"""Speed and memory of the renderer on this machine, beside PyTorch3D's where that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon3d.evaluation.machine import median_ms, peak_megabytes
from recon3d.head import HeadModel, load_head
from recon3d.render.camera import Camera
from recon3d.render.maps import Surface, grey_map
from recon3d.render.overlay import draw_overlay
from recon3d.render.rasterize import default_backend, interpolate, rasterize
from recon3d.render.shading import render_head
from recon3d.render.texture import unwrap

#: Images a batch at 224 px, and for the memory.
_BATCH, _LARGE_BATCH = 16, 32

#: A figure: its name, and its value.
Figure = tuple[str, float | None]


@dataclass(frozen=True)
class Scene:
    """Heads before a camera, 0.6 m away: about 30 % of a square picture is covered.

    Attributes:
        head: Their model.
        verts: (B,V,3) camera space, m: as many different people, poses and expressions.
    """

    head: HeadModel
    verts: Tensor

    @staticmethod
    def create(head: HeadModel, count: int) -> Scene:
        """Place ``count`` heads."""
        generator = torch.Generator().manual_seed(0)
        shape = torch.randn(count, head.num_shape, generator=generator) * 0.5
        expression = torch.rand(count, head.num_expression, generator=generator) * 0.3
        pose = torch.zeros(count, head.num_joints, 3)
        pose[:, 0] = torch.randn(count, 3, generator=generator) * 0.2
        with torch.no_grad():
            verts = head(shape, expression, pose).vertices * torch.tensor([1.0, -1.0, -1.0])
        return Scene(head, verts - verts.mean((0, 1)) + torch.tensor([0.0, 0.0, 0.6]))

    def camera(self, side: int) -> Camera:
        """Return the camera of a picture of ``side`` px."""
        return Camera.create(1.8 * side, (side, side))

    def first(self, count: int) -> Scene:
        """Return the scene of the first heads."""
        return Scene(self.head, self.verts[:count])


def bench_render(head_path: Path | None, seconds: float, backend: str | None = None) -> Iterator[Figure]:
    """Measure; yield each figure when it is known. Times are milliseconds an image, medians of many calls.

    Args:
        head_path: A head model, or None for the open head.
        seconds: Time spent on each figure.
        backend: The rasterizer; None takes the default one.

    Raises:
        Recon3DError: The head or the backend cannot be had.
    """
    scene = Scene.create(load_head(head_path), _LARGE_BATCH)
    batch, one = scene.first(_BATCH), scene.first(1)
    yield "triangles", len(scene.head.faces)
    yield "forward_ms_224", _forward(batch, 224, seconds, backend)
    yield "forward_backward_ms_224", _forward_backward(batch, 224, seconds, backend)
    yield "forward_ms_1024", _forward(one, 1024, seconds, backend)
    yield "forward_ms_224_one_image", _forward(one, 224, seconds, backend)
    yield "interpolate_backward_ms_224", _interpolation(batch, 224, seconds, backend)
    yield "grey_backward_ms_224", _grey(batch, 224, seconds)
    if backend != "torch" and default_backend(torch.device("cpu")) != "torch":
        yield "torch_forward_ms_224", _forward(batch, 224, seconds, "torch")
    before = peak_megabytes()
    _pass(scene, scene.camera(224), backend)
    yield "peak_mb_before_batch_32", before
    yield "peak_mb_after_batch_32", peak_megabytes()
    yield from _pictures(one, seconds)
    peer = _pytorch3d(one, 224)
    ours = _forward(one, 224, seconds, backend)
    yield "pytorch3d_forward_ms_224", peer
    yield "pytorch3d_ratio", None if peer is None else peer / ours


def _forward(scene: Scene, side: int, seconds: float, backend: str | None) -> float:
    camera = scene.camera(side)
    pixels, faces = camera.project(scene.verts), scene.head.faces
    return median_ms(lambda: rasterize(pixels, faces, camera.size, backend=backend), seconds) / len(pixels)


def _pass(scene: Scene, camera: Camera, backend: str | None) -> None:
    """Draw with smooth shading, and bring a gradient back to the vertices."""
    leaf = scene.verts.clone().requires_grad_()
    drawn = render_head(leaf, scene.head.faces, camera, scene.head.colors, backend=backend)
    torch.autograd.grad(drawn.image.square().sum(), leaf)


def _forward_backward(scene: Scene, side: int, seconds: float, backend: str | None) -> float:
    camera = scene.camera(side)
    return median_ms(lambda: _pass(scene, camera, backend), seconds) / len(scene.verts)


def _interpolation(scene: Scene, side: int, seconds: float, backend: str | None) -> float:
    camera, faces = scene.camera(side), scene.head.faces
    pixels = camera.project(scene.verts)

    def step() -> None:
        leaf = pixels.clone().requires_grad_()
        found = rasterize(leaf, faces, camera.size, backend=backend)
        torch.autograd.grad(interpolate(scene.verts, faces, found).square().sum(), leaf)

    return median_ms(step, seconds) / len(pixels)


def _grey(scene: Scene, side: int, seconds: float) -> float:
    camera = scene.camera(side)

    def step() -> None:
        leaf = scene.verts.clone().requires_grad_()
        grey = grey_map(Surface.of(leaf, scene.head.faces, camera))
        torch.autograd.grad(grey.square().sum(), leaf)

    return median_ms(step, seconds) / len(scene.verts)


def _pictures(scene: Scene, seconds: float) -> Iterator[Figure]:
    """One overlay (panels of 640 px) and one texture (1024 px)."""
    head, camera, verts = scene.head, scene.camera(640), scene.verts[0]
    photo = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)

    def overlay() -> None:
        draw_overlay(photo, [verts], head.faces, camera, colors=head.colors)

    def texture() -> None:
        unwrap(photo, verts, head.faces, camera, head.uv, head.faces_uv, colors=head.colors)

    yield "overlay_ms_640", median_ms(overlay, seconds)
    yield "texture_ms_1024", median_ms(texture, seconds)


def _pytorch3d(scene: Scene, side: int) -> float | None:
    """Milliseconds of PyTorch3D's hard rasterization of one image; None where it is not installed."""
    if find_spec("pytorch3d") is None:
        return None
    from recon3d.render._raster_pytorch3d import visible

    camera = scene.camera(side)
    pixels, faces = camera.project(scene.verts), scene.head.faces

    def draw() -> None:
        visible(pixels, faces, camera.size, cull_backfaces=False, near=1e-3)

    return median_ms(draw, 0.0, least=3)
