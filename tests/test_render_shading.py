"""Normals, light, and pictures of a head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from recon3d.render.camera import Camera
from recon3d.render.shading import SOFT, STUDIO, Lighting, concavity, render_head, shade, vertex_normals


def ball(subdivisions: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions)
    verts = torch.tensor(np.asarray(mesh.vertices), dtype=dtype)[None]
    return verts, torch.tensor(np.asarray(mesh.faces)).long()


def test_normals_of_a_ball_point_outward() -> None:
    verts, faces = ball()
    normals = vertex_normals(torch.cat((verts, verts * 3)), faces)
    assert torch.allclose(normals[0], verts[0], atol=0.03)
    assert torch.allclose(normals[0], normals[1], atol=1e-5)


def test_normals_equal_a_plain_sum_over_faces() -> None:
    rng = np.random.default_rng(0)
    verts, faces = rng.normal(size=(9, 3)), rng.integers(0, 9, (40, 3))
    expected = np.zeros((9, 3))
    for a, b, c in faces:
        for corner in (a, b, c):
            expected[corner] += np.cross(verts[b] - verts[a], verts[c] - verts[a])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = vertex_normals(torch.tensor(verts)[None], torch.tensor(faces))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_normals_have_gradients_and_survive_vertices_without_faces() -> None:
    verts, faces = ball(0, torch.float64)
    verts = (verts + 0.1 * torch.rand_like(verts)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, faces), (verts,))
    lonely = torch.zeros(1, 13, 3, dtype=torch.float64, requires_grad=True)
    normals = vertex_normals(lonely, faces)
    (gradient,) = torch.autograd.grad(normals.sum(), lonely)
    assert (normals == 0).all() and gradient.isfinite().all()


def test_concavity_tells_dents_from_bumps() -> None:
    verts, faces = ball()
    flat = concavity(verts, faces)
    assert (flat < 0).all()
    dented = verts.clone()
    dented[0, 7] *= 0.8
    assert concavity(dented, faces)[0, 7] > 0.3


def test_light_comes_from_where_it_stands() -> None:
    verts, faces = ball(4)
    camera = Camera.create(100, (96, 96))
    for direction, bright, dark in (
        ((-1.0, -1.0, -1.0), (28, 28), (68, 68)),
        ((1.0, 0.0, -1.0), (48, 68), (48, 28)),
    ):
        lighting = Lighting(key_direction=direction, fill=0.0, rim=0.0)
        image = render_head(verts + torch.tensor([0, 0, 3.0]), faces, camera, lighting=lighting).image[0]
        assert image[bright].mean() > 1.5 * image[dark].mean()


def test_lambert_alone_is_the_cosine() -> None:
    lights = Lighting((0, 0, -1), key=1.0, fill=0, sky=0, ground=0, wrap=0, specular=0, rim=0)
    normals = torch.tensor([[0.0, 0, -1], [0.8, 0, -0.6], [1, 0, 0]])
    squared = shade(normals, torch.tensor([0.5, 0.5, 0.5]), lights).square()
    assert torch.allclose(squared[:, 0], torch.tensor([0.5, 0.3, 0.0]), atol=1e-5)


def test_what_a_picture_holds() -> None:
    verts, faces = ball()
    camera = Camera.create([60, 80], (64, 48))
    colors = torch.rand(verts.shape[1], 3)
    out = render_head(
        (verts + torch.tensor([0, 0, 3.0])).expand(2, -1, -1),
        faces,
        camera,
        colors,
        background=(0.1, 0.2, 0.3),
    )
    assert out.image.shape == (2, 48, 64, 3) and out.alpha.shape == out.depth.shape == (2, 48, 64)
    assert out.image.min() >= 0 and out.image.max() <= 1
    assert torch.allclose(out.image[0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(out.alpha > 0, out.fragments.mask)
    assert out.alpha[1].sum() > 1.5 * out.alpha[0].sum()
    lengths = out.normals.norm(dim=-1)
    assert torch.allclose(lengths, out.fragments.mask.float(), atol=1e-5)
    assert out.depth[0, 24, 32] == pytest.approx(2.0, abs=0.01)


def test_supersampling_smooths_the_edge_and_keeps_the_rest() -> None:
    verts, faces = ball()
    verts, camera = verts + torch.tensor([0, 0, 3.0]), Camera.create(60, (64, 48))
    plain, smooth = render_head(verts, faces, camera), render_head(verts, faces, camera, supersample=2)
    assert smooth.image.shape == plain.image.shape and smooth.depth.shape == (1, 96, 128)
    assert set(plain.alpha.flatten().tolist()) == {0.0, 1.0}
    assert set(smooth.alpha.flatten().tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}
    inside = smooth.alpha == 1
    assert (plain.image - smooth.image)[inside].abs().max() < 0.1
    assert abs(plain.alpha.sum() - smooth.alpha.sum()) < 0.02 * plain.alpha.sum()


def test_surfaces_seen_from_behind_are_lit_toward_the_viewer() -> None:
    verts, faces = ball()
    verts, camera = verts + torch.tensor([0, 0, 3.0]), Camera.create(60, (64, 48))
    inside_out = render_head(verts, faces.flip(1), camera)
    assert torch.allclose(inside_out.image, render_head(verts, faces, camera).image, atol=1e-4)


def test_picture_has_gradients_to_shape_and_colour() -> None:
    verts, faces = ball(0, torch.float64)
    verts = (verts + torch.tensor([0.03, 0.02, 3.0])).requires_grad_()
    colors = torch.full((verts.shape[1], 3), 0.6, dtype=torch.float64, requires_grad=True)
    camera = Camera.create(9, (8, 7), (4.1, 3.4), dtype=torch.float64)

    def picture(v: Tensor, c: Tensor) -> Tensor:
        return render_head(v, faces, camera, c, lighting=SOFT, cull_backfaces=True).image

    assert torch.autograd.gradcheck(picture, (verts, colors), eps=1e-7, atol=1e-4)


def test_a_head_behind_the_camera_leaves_the_background() -> None:
    verts, faces = ball()
    out = render_head(verts - torch.tensor([0, 0, 3.0]), faces, Camera.create(60, (32, 32)), lighting=STUDIO)
    assert (out.image == 0.5).all() and (out.alpha == 0).all() and (out.normals == 0).all()


def test_compiled_and_torch_normals_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    verts = torch.rand(2, 9, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    faces = torch.randint(0, 9, (14, 3), generator=generator)
    push = torch.rand(2, 9, 3, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(2):
        normals = vertex_normals(verts, faces)
        found.append((normals, torch.autograd.grad((normals * push).sum(), verts)[0]))
        monkeypatch.setattr("recon3d.render.rasterize.compiled_kernels", lambda: None)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
