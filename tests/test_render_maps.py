"""Depth, normals, texture coordinates, regions and visibility of the open head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon3d.head import HeadModel
from recon3d.render.camera import Camera
from recon3d.render.maps import (
    Surface,
    grey_map,
    head_regions,
    normal_map,
    region_map,
    uv_map,
    visible_vertices,
)
from recon3d.render.rasterize import interpolate

_CAMERA = Camera.create(330, (224, 224))


@pytest.fixture(scope="module")
def verts(head: HeadModel) -> Tensor:
    """Two heads before the camera, one straight and one turned away by half a circle, (2,V,3)."""
    zero = torch.zeros(1, head.num_shape), torch.zeros(1, head.num_expression)
    front = head.unposed(*zero)[0] * torch.tensor([1.0, -1, -1])
    front = front - front.mean(0)
    back = front * torch.tensor([-1.0, 1, -1])
    return torch.stack((front, back)).detach() + torch.tensor([0, 0, 0.6])


@pytest.fixture(scope="module")
def surface(head: HeadModel, verts: Tensor) -> Surface:
    """What is seen of them."""
    return Surface.of(verts, head.faces, _CAMERA)


def test_normals_are_unit_and_face_the_camera(surface: Surface) -> None:
    normals, mask = normal_map(surface), surface.fragments.mask
    assert mask.float().mean() > 0.2
    torch.testing.assert_close(normals[mask].norm(dim=-1), torch.ones(int(mask.sum())))
    assert (normals[~mask] == 0).all()
    assert (normals[..., 2][mask] < 0).float().mean() > 0.95


def test_normals_agree_with_the_slope_of_the_depth(surface: Surface) -> None:
    """Away from steps in depth, the surface through neighbouring pixels stands upright on the normal."""
    rows, columns = torch.meshgrid(torch.arange(224) + 0.5, torch.arange(224) + 0.5, indexing="ij")
    depth = surface.fragments.depth[0]
    pixels = torch.stack((columns, rows, depth), dim=-1).reshape(1, -1, 3)
    points = _CAMERA.unproject(pixels).reshape(224, 224, 3)
    right, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    mask = surface.fragments.mask[0]
    whole = mask[1:-1, 2:] & mask[1:-1, :-2] & mask[2:, 1:-1] & mask[:-2, 1:-1]
    even = whole & (right[..., 2].abs() < 0.004) & (down[..., 2].abs() < 0.004)
    upright = torch.nn.functional.normalize(torch.linalg.cross(down, right), dim=-1)
    agreement = (upright * normal_map(surface)[0, 1:-1, 1:-1]).sum(-1)[even]
    assert even.sum() > 5000
    assert agreement.median() > 0.99 and (agreement > 0.9).float().mean() > 0.93


def test_texture_coordinates_name_the_point_that_is_seen(head: HeadModel, surface: Surface) -> None:
    uv = uv_map(surface, head.uv, head.faces_uv)
    mask = surface.fragments.mask
    assert uv[mask].min() >= 0 and uv[mask].max() <= 1 and (uv[~mask] == 0).all()
    # The nose is one patch of the layout, and its neighbours on the picture are neighbours there.
    nose = region_map(surface, head_regions(head))["nose"][0]
    assert nose.sum() > 100 and uv[0][nose].std(0).max() < 0.15
    step = (uv[0, :, 1:] - uv[0, :, :-1])[nose[:, 1:] & nose[:, :-1]].norm(dim=-1)
    assert step.max() < 0.05


def test_regions_lie_where_they_should(head: HeadModel, surface: Surface) -> None:
    found = region_map(surface, head_regions(head))
    assert set(found) == set(head.regions)
    middle = {
        name: mask[0].nonzero().float().mean(0)
        for name, mask in found.items()
        if name in ("nose", "lips", "brows")
    }
    assert middle["brows"][0] < middle["nose"][0] < middle["lips"][0]
    assert abs(middle["nose"][1] - 112) < 6
    assert not found["lips"][1].any()  # from behind
    assert all(not (mask & ~surface.fragments.mask).any() for mask in found.values())


def test_visible_vertices_are_those_in_front(head: HeadModel, surface: Surface, verts: Tensor) -> None:
    seen = visible_vertices(surface)
    nose = torch.from_numpy(head.regions["nose"])
    assert seen[0][nose].float().mean() > 0.8 and not seen[1][nose].any()
    shown = interpolate(verts, head.faces, surface.fragments)
    triangle = surface.fragments.triangle
    assert seen[0][head.faces[triangle[0][surface.fragments.mask[0]]]].all()
    assert seen.sum() < seen.numel() * 0.6 and shown.isfinite().all()


def test_the_grey_picture_feels_expression_and_outline(head: HeadModel, verts: Tensor) -> None:
    grey, nearer = (
        grey_map(Surface.of(verts - torch.tensor([0, 0, way]), head.faces, _CAMERA)) for way in (0, 0.02)
    )
    assert grey.shape == (2, 224, 224, 1) and grey.min() >= 0 and grey.max() <= 1
    leaf = verts[:1].clone().requires_grad_()
    picture = grey_map(Surface.of(leaf, head.faces, _CAMERA))
    (gradient,) = torch.autograd.grad(picture.sum(), leaf)
    # The sum grows when the head comes nearer: only the outline tells that.
    assert gradient.isfinite().all() and gradient[0, :, 2].sum() < 0
    assert float(nearer.sum()) > float(grey.sum())
