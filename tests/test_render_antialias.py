"""Antialiased outlines: like a supersampled picture, and with gradients like its differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon3d.head import HeadModel, load_head
from recon3d.render.antialias import Edges, antialias
from recon3d.render.camera import Camera
from recon3d.render.rasterize import interpolate, rasterize
from recon3d.render.shading import render_head

_SIDE = 96


def ball() -> tuple[Tensor, Tensor]:
    """A unit ball in camera space (1,V,3), 3 m away, and its faces."""
    mesh = trimesh.creation.icosphere(3)
    verts = torch.tensor(mesh.vertices) + torch.tensor([0.013, -0.02, 3])
    return verts[None], torch.tensor(mesh.faces).long()


def white(verts_px: Tensor, faces: Tensor, size: tuple[int, int], *, smooth: bool) -> Tensor:
    """Draw a white silhouette on black, (B,H,W,1)."""
    fragments = rasterize(verts_px, faces, size)
    image = interpolate(torch.ones_like(verts_px[..., :1]), faces, fragments)
    return antialias(image, fragments, verts_px, faces) if smooth else image


def test_edges_of_a_box_with_a_hole() -> None:
    mesh = trimesh.creation.box()
    faces = torch.tensor(mesh.faces).long()
    edges = Edges.of(faces)
    assert len(edges.ends) == 18 and (edges.faces[:, 0] != edges.faces[:, 1]).all()
    edges = Edges.of(faces[1:])
    assert len(edges.ends) == 18 and (edges.faces[:, 0] == edges.faces[:, 1]).sum() == 3
    third = faces[1:][edges.faces[:, 0]]
    assert (third == edges.across[:, None]).any(1).all()
    assert not (edges.ends == edges.across[:, None]).any()


def test_coverage_of_a_straight_edge_is_exact() -> None:
    """Of an upright edge through pixels at any place, and of a slanted one on average."""
    for x in (5.0, 5.2, 5.5, 5.7, 5.99):
        verts = torch.tensor([[[-30.0, -30, 1], [x, -30, 1], [x, 40, 1], [-30, 40, 1]]])
        faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
        row = white(verts, faces, (10, 10), smooth=True)[0, 5, :, 0]
        expected = (x - torch.arange(10)).clamp(0, 1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    slanted = torch.tensor([[[-30.0, -30, 1], [4.3, -30, 1], [9.1, 40, 1], [-30, 40, 1]]])
    area = white(slanted, torch.tensor([[0, 1, 2], [0, 2, 3]]), (10, 10), smooth=True).sum()
    middle = 4.3 + (9.1 - 4.3) * (30 + 5) / 70  # where the edge passes at half the picture's height
    assert float(area) == pytest.approx(10 * middle, abs=0.02)


def test_a_ball_looks_supersampled() -> None:
    verts, faces = ball()
    camera = Camera.create(70, (64, 64), dtype=torch.float64)
    fine = white(camera.scaled(16).project(verts), faces, (1024, 1024), smooth=False)
    fine = F.avg_pool2d(fine.movedim(-1, 1), 16).movedim(1, -1)
    plain, smooth = (white(camera.project(verts), faces, (64, 64), smooth=s) for s in (False, True))
    assert (smooth - fine).abs().max() < 0.12 < 0.4 < (plain - fine).abs().max()
    assert abs(float(smooth.sum() - fine.sum())) < 0.002 * float(fine.sum())


def test_inner_outlines_are_blended_and_hidden_ones_are_not() -> None:
    near = torch.tensor([[2.3, -50, 1], [2.3, 50, 1], [50, 0, 1]])
    middle = torch.tensor([[4.6, -50, 2], [4.6, 50, 2], [90, 0, 2]])  # behind the near one
    far = torch.tensor([[-900.0, -900, 3], [900, -900, 3], [0, 900, 3]])
    verts, faces = torch.cat((near, middle, far))[None], torch.arange(9).reshape(3, 3)
    colour = torch.tensor([1.0, 0.5, 0.25]).repeat_interleave(3)[None, :, None]
    fragments = rasterize(verts, faces, (8, 8))
    image = antialias(interpolate(colour, faces, fragments), fragments, verts, faces)[0, 4, :, 0]
    torch.testing.assert_close(image, torch.tensor([0.25, 0.25, 0.25 + 0.75 * 0.7, 1, 1, 1, 1, 1]))


def test_gradcheck() -> None:
    mesh = trimesh.creation.icosphere(0)
    faces = torch.tensor(mesh.faces).long()
    points = torch.tensor(mesh.vertices) * 0.6 + torch.tensor([0.03, 0.01, 3])
    camera = Camera.create(12, (9, 8), (4.4, 4.1), dtype=torch.float64)
    verts = camera.project(points[None]).requires_grad_()
    colour = torch.rand(1, len(points), 2, dtype=torch.float64, requires_grad=True)

    def picture(v: Tensor, c: Tensor) -> Tensor:
        fragments = rasterize(v, faces, (9, 8))
        return antialias(interpolate(c, faces, fragments), fragments, v, faces)

    # Steps too small for an outline to pass a pixel's centre.
    assert torch.autograd.gradcheck(picture, (verts, colour), eps=1e-8, atol=1e-4, rtol=1e-3)


corner = st.tuples(st.floats(-9, 17, width=32), st.floats(-9, 17, width=32), st.floats(-1, 4, width=32))


@settings(max_examples=80, deadline=None)
@given(st.lists(corner, min_size=4, max_size=9))
def test_no_shape_breaks_it(points: list[tuple[float, float, float]]) -> None:
    verts = torch.tensor([points, points[::-1]], requires_grad=True)
    count = len(points)
    faces = torch.tensor([[k, (k + 1) % count, (k + 2) % count] for k in range(count)] + [[0, 0, 1]])
    image = white(verts, faces, (8, 6), smooth=True)
    assert image.isfinite().all() and image.min() > -1e-4 and image.max() < 1 + 1e-4
    (gradient,) = torch.autograd.grad(image.square().sum(), verts)
    assert gradient.isfinite().all()


@pytest.fixture(scope="module")
def head() -> HeadModel:
    """The open head in double precision."""
    return load_head().double()


def placed(head: HeadModel, p: Tensor) -> Tensor:
    """The head under translation (m), rotation (rad), scale and an opened jaw: eight numbers."""
    expression = F.one_hot(torch.tensor([head.expression_names.index("jawOpen")]), head.num_expression)
    verts = head.unposed(torch.zeros(1, head.num_shape).to(p), expression.to(p) * (0.3 + p[7]))
    middle = head.unposed(torch.zeros(1, head.num_shape).to(p), expression.to(p) * 0).mean(1, keepdim=True)
    verts = (verts - middle.detach()) * torch.tensor([1.0, -1, -1]).to(p) * (1 + p[6])
    turn = p[3:6] + torch.tensor([0.15, 0.35, 0.05]).to(p)
    cross = torch.linalg.cross(torch.eye(3).to(p), turn.expand(3, 3))
    return verts @ torch.linalg.matrix_exp(cross) + p[:3] + torch.tensor([0.01, 0.02, 0.6]).to(p)


def shown(head: HeadModel, p: Tensor, *, supersample: int = 1, smooth: bool = False) -> Tensor:
    """Draw the head."""
    camera = Camera.create(_SIDE * 1.6, (_SIDE, _SIDE), dtype=torch.float64)
    return render_head(
        placed(head, p),
        head.faces,
        camera,
        supersample=supersample,
        antialiased=smooth,
        background=(0.1, 0.3, 0.2),
    ).image


def test_gradients_follow_the_differences_of_a_supersampled_picture(head: HeadModel) -> None:
    """Of the squared distance to pictures of the head elsewhere, in each kind of parameter."""
    steps = torch.tensor([8e-4, 8e-4, 2e-3, 8e-3, 8e-3, 8e-3, 5e-3, 5e-2]).double()
    away = torch.tensor([7e-3, 7e-3, 2e-2, 7e-2, 7e-2, 7e-2, 2e-2, 0.35]).double()
    generator = torch.Generator().manual_seed(3)
    still = torch.zeros(8).double()
    targets = [shown(head, torch.randn(8, generator=generator).double() * away) for _ in range(5)]
    moved = [(still + e * s, still - e * s) for e, s in zip(torch.eye(8).double(), steps, strict=True)]
    fine = [[shown(head, p, supersample=5) for p in pair] for pair in moved]
    felt: list[Tensor] = []
    true: list[Tensor] = []
    plain: list[Tensor] = []
    for target in targets:
        true.append(torch.stack([(a - target).square().sum() - (b - target).square().sum() for a, b in fine]))
        for smooth, gradients in ((True, felt), (False, plain)):
            leaf = still.clone().requires_grad_()
            loss = (shown(head, leaf, smooth=smooth) - target).square().sum()
            gradients.append(torch.autograd.grad(loss, leaf)[0])
    differences = torch.stack(true) / (2 * steps) * away
    gradient, without = torch.stack(felt) * away, torch.stack(plain) * away
    for part in (slice(0, 3), slice(3, 6), slice(6, 7), slice(7, 8)):
        assert F.cosine_similarity(gradient[:, part].flatten(), differences[:, part].flatten(), 0) > 0.95
    assert F.cosine_similarity(without.flatten(), differences.flatten(), 0) < 0.8
