"""Our rasterizer against PyTorch3D's hard rasterization, where that is installed.

It has no wheel for today's torch: build it (see its installation page), then
``pytest -m slow tests/test_render_pytorch3d.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon3d.head import load_head
from recon3d.render.camera import Camera
from recon3d.render.rasterize import rasterize

pytestmark = pytest.mark.slow
pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed")

_SIDE, _POSES = 224, 20


@pytest.fixture(scope="module")
def scene() -> tuple[Tensor, Tensor]:
    """The open head in twenty poses and expressions: vertices (20,V,3) px and faces."""
    head = load_head()
    generator = torch.Generator().manual_seed(5)
    shape = torch.randn(_POSES, head.num_shape, generator=generator) * 0.7
    expression = torch.rand(_POSES, head.num_expression, generator=generator) * 0.4
    pose = torch.zeros(_POSES, head.num_joints, 3)
    pose[:, 0] = torch.randn(_POSES, 3, generator=generator) * 0.6
    with torch.no_grad():
        verts = head(shape, expression, pose).vertices * torch.tensor([1.0, -1, -1])
    verts = verts - verts.mean(1, keepdim=True) + torch.tensor([0, 0, 0.6])
    return Camera.create(1.7 * _SIDE, (_SIDE, _SIDE)).project(verts), head.faces


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("cull", [False, True])
def test_the_same_triangle_but_for_ties(scene: tuple[Tensor, Tensor], backend: str, cull: bool) -> None:
    verts, faces = scene
    ours, theirs = (
        rasterize(verts, faces, (_SIDE, _SIDE), cull_backfaces=cull, backend=name)
        for name in (backend, "pytorch3d")
    )
    assert ours.mask.float().mean() > 0.2
    differ = ours.triangle != theirs.triangle
    # Where they differ, both triangles are met at the same depth (a shared edge), or the centre lies on an
    # outline to within float32.
    tie = differ & ours.mask & theirs.mask
    assert (ours.depth - theirs.depth)[tie].abs().max() < 1e-5 if tie.any() else True
    assert (ours.mask != theirs.mask).sum() <= 2e-5 * ours.mask.sum()
    assert differ.sum() <= 2e-4 * ours.mask.sum()


def test_the_same_weights(scene: tuple[Tensor, Tensor]) -> None:
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    verts, faces = scene
    ours = rasterize(verts[:4], faces, (_SIDE, _SIDE))
    half = _SIDE / 2
    points = torch.stack(
        ((half - verts[:4, :, 0]) / half, (half - verts[:4, :, 1]) / half, verts[:4, :, 2]), -1
    )
    meshes = Meshes(verts=points, faces=faces.expand(4, -1, -1))
    index, depth, weights, _ = rasterize_meshes(
        meshes, image_size=_SIDE, blur_radius=0.0, faces_per_pixel=1, perspective_correct=True
    )
    same = ours.mask & (index[..., 0] % len(faces) == ours.triangle)
    assert same.sum() > 0.999 * ours.mask.sum()
    # Its float32 picture from -1 to 1 places a centre to 1e-5 px, which on a triangle 0.01 px high is 1e-3
    # of a weight (ours agree with float64 there): so the weights are compared as distances on the picture.
    off = (weights[..., 0, :][same] - ours.barycentric[same]).abs().amax(1)
    assert (off * _heights(verts, faces, ours.triangle)[same]).max() < 3e-5
    assert (depth[..., 0][same] - ours.depth[same]).abs().max() < 1e-5


def _heights(verts: Tensor, faces: Tensor, triangle: Tensor) -> Tensor:
    """(B,H,W) smallest height, px, of the triangle seen at every pixel."""
    image = torch.arange(len(triangle))[:, None, None, None]
    corners = verts[image, faces[triangle], :2].double()  # (B,H,W,3,2)
    edges = corners.roll(-1, 3) - corners
    first, second = edges[..., 0, :], edges[..., 1, :]
    area = (first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]).abs()
    return area / edges.norm(dim=-1).amax(-1)
