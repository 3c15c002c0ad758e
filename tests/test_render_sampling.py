"""Texture sampling: derivatives over the picture, and the mip level that they choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.camera import Camera
from recon3d.render.rasterize import Fragments, interpolate, rasterize
from recon3d.render.sampling import sample_texture, screen_derivatives


def floor(size: int = 96) -> tuple[Tensor, Tensor, Tensor, Fragments]:
    """A square floor that leads away from the camera: vertices (px), faces, uv, and what is seen."""
    corners = torch.tensor([[-1.0, 0.4, 1], [1, 0.4, 1], [1, 0.4, 9], [-1, 0.4, 9]], dtype=torch.float64)
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    verts = Camera.create(size, (size, size), dtype=torch.float64).project(corners[None])
    return verts, faces, uv, rasterize(verts, faces, (size, size))


def test_derivatives_equal_differences() -> None:
    verts, faces, uv, fragments = floor()
    found = screen_derivatives(uv, faces, fragments, verts, faces)
    step = 1e-4
    here = interpolate(uv[None], faces, fragments)
    inside = F.avg_pool2d(fragments.mask[:, None].double(), 3, 1, 1)[:, 0] > 0.999
    assert inside.sum() > 300
    for axis in range(2):
        moved = verts.clone()
        moved[..., axis] -= step  # the picture moves to the left: the centre sees what lies to its right
        there = interpolate(uv[None], faces, rasterize(moved, faces, (96, 96)))
        same = inside & (rasterize(moved, faces, (96, 96)).triangle == fragments.triangle)
        torch.testing.assert_close(
            found[..., axis][same], ((there - here) / step)[same], rtol=2e-3, atol=1e-6
        )
    assert (found[~fragments.mask] == 0).all()


def test_without_derivatives_texels_are_met_exactly() -> None:
    texture = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    uv = torch.stack(((columns + 0.5) / 6, 1 - (rows + 0.5) / 4), dim=-1)[None]
    torch.testing.assert_close(sample_texture(texture, uv), texture.movedim(1, -1))


def test_a_distant_checkerboard_turns_grey_instead_of_flickering() -> None:
    verts, faces, uv, fragments = floor()
    texel = torch.arange(512)
    board = ((texel[:, None] // 2 + texel // 2) % 2).double()[None, None]
    where = interpolate(uv[None], faces, fragments)
    sharp = sample_texture(board, where)
    soft = sample_texture(board, where, screen_derivatives(uv, faces, fragments, verts, faces))
    far = fragments.mask & (fragments.depth > 5)
    assert far.sum() > 100
    assert (soft[far] - 0.5).abs().max() < 0.05
    assert (sharp[far] - 0.5).abs().mean() > 0.15


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_level_follows_the_size_on_the_picture(scale: int) -> None:
    """A texture shown at a whole fraction of its size equals its box-reduced copy."""
    texture = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(1))
    side = 64 // scale
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    uv = torch.stack(((columns + 0.5) / side, 1 - (rows + 0.5) / side), dim=-1)[None]
    derivatives = torch.tensor([[1 / side, 0], [0, -1 / side]]).expand(1, side, side, 2, 2)
    expected = F.avg_pool2d(texture, scale) if scale > 1 else texture
    torch.testing.assert_close(sample_texture(texture, uv, derivatives), expected.movedim(1, -1))


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    texture = torch.rand(1, 2, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    uv = (torch.rand(2, 3, 3, 2, generator=generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    derivatives = torch.rand(2, 3, 3, 2, 2, generator=generator, dtype=torch.float64) * 0.3
    assert torch.autograd.gradcheck(lambda t, p: sample_texture(t, p, derivatives), (texture, uv))
    assert np.isfinite(sample_texture(texture, uv, derivatives).detach().numpy()).all()
