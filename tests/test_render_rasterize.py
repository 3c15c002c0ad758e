"""The rasterizer against a slow plain twin, its gradients, and shapes that break rasterizers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import numpy as np
import numpy.typing as npt
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon3d.errors import UsageError
from recon3d.render import _raster_torch
from recon3d.render.camera import Camera
from recon3d.render.rasterize import Fragments, interpolate, rasterize


@pytest.fixture(autouse=True, scope="module", params=["numba", "torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with the compiled kernels and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr("recon3d.render.rasterize.compiled_kernels", lambda: None)
        yield request.param


def slow_rasterize(
    verts: npt.NDArray[np.float64], faces: npt.NDArray[np.int64], size: tuple[int, int], near: float = 1e-3
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Edge functions at every pixel of every triangle, one after the other.

    Returns triangle (H,W), weights (H,W,3), depth (H,W), and how clear each pixel's answer is (H,W): the
    smallest distance to a tie, be it a centre on an edge (px) or two triangles at one depth (relative).
    """
    width, height = size
    triangle = np.full((height, width), -1)
    weights = np.zeros((height, width, 3))
    depth = np.full((height, width), np.inf)
    clear = np.full((height, width), np.inf)
    for k, face in enumerate(faces):
        corners = verts[face]
        if (corners[:, 2] <= near).any():
            continue
        (x0, y0), (x1, y1), (x2, y2) = corners[:, :2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        for row in range(height):
            for column in range(width):
                x, y = column + 0.5, row + 0.5
                edges = np.array(
                    [
                        (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1),
                        (x0 - x2) * (y - y2) - (y0 - y2) * (x - x2),
                        (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0),
                    ]
                )
                lengths = np.hypot([x2 - x1, x0 - x2, x1 - x0], [y2 - y1, y0 - y2, y1 - y0])
                inside = edges / area
                distance = (np.sign(area) * edges / lengths).min()
                clear[row, column] = min(clear[row, column], abs(distance))
                if inside.min() < 0:
                    continue
                scaled = inside / corners[:, 2]
                here = 1 / scaled.sum()
                if np.isfinite(depth[row, column]):
                    clear[row, column] = min(clear[row, column], abs(here / depth[row, column] - 1))
                if here < depth[row, column]:
                    depth[row, column], triangle[row, column] = here, k
                    weights[row, column] = scaled / scaled.sum()
    depth[triangle < 0] = 0
    return triangle, weights, depth, clear


def check_against_twin(verts: Tensor, faces: Tensor, size: tuple[int, int]) -> int:
    """Compare and return how many clear pixels were covered."""
    fast = rasterize(verts, faces, size)
    tolerance = 1e-3 if verts.dtype == torch.float32 else 1e-6
    covered = 0
    for image in range(verts.shape[0]):
        triangle, weights, depth, clear = slow_rasterize(verts[image].double().numpy(), faces.numpy(), size)
        sure = clear > tolerance
        np.testing.assert_array_equal(fast.triangle[image].numpy()[sure], triangle[sure])
        np.testing.assert_allclose(fast.depth[image].numpy()[sure], depth[sure], rtol=tolerance)
        np.testing.assert_allclose(fast.barycentric[image].numpy()[sure], weights[sure], atol=tolerance)
        covered += int((triangle[sure] >= 0).sum())
        assert sure.mean() > 0.5
    return covered


def ball(
    subdivisions: int = 3, distance: float = 3.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """A unit ball in camera space (1,V,3) and its faces, seen from outside."""
    mesh = trimesh.creation.icosphere(subdivisions)
    verts = torch.tensor(np.asarray(mesh.vertices), dtype=dtype) + torch.tensor([0, 0, distance], dtype=dtype)
    return verts[None], torch.tensor(np.asarray(mesh.faces)).long()


def soup(seed: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two images of ``count`` random triangles that intersect each other and leave the 20x14 frame."""
    rng = np.random.default_rng(seed)
    verts = rng.uniform((-8, -8, 0.5), (28, 22, 3), (2, 3 * count, 3))
    return torch.tensor(verts, dtype=dtype), torch.arange(3 * count).reshape(-1, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_slow_twin_on_random_triangles(seed: int, dtype: torch.dtype) -> None:
    assert check_against_twin(*soup(seed, 12, dtype), (20, 14)) > 200


def test_equals_the_slow_twin_on_a_ball() -> None:
    verts, faces = ball(1, dtype=torch.float64)
    pixels = Camera.create(30, (24, 20), (11.3, 10.9), dtype=torch.float64).project(verts)
    assert check_against_twin(pixels, faces, (24, 20)) > 200


def test_small_chunks_give_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    verts, faces = soup(3, 40, torch.float32)
    whole = rasterize(verts, faces, (64, 48))
    monkeypatch.setattr(_raster_torch, "_ROWS", 7)
    monkeypatch.setattr(_raster_torch, "_PIXELS", 11)
    monkeypatch.setattr("recon3d.render.rasterize._CHUNK", 13)
    parts = rasterize(verts, faces, (64, 48))
    assert torch.equal(whole.triangle, parts.triangle)
    assert torch.equal(whole.barycentric, parts.barycentric)
    assert torch.equal(whole.depth, parts.depth)


def test_a_batch_is_its_images() -> None:
    verts, faces = soup(4, 30, torch.float32)
    both = rasterize(verts, faces, (20, 14))
    for image in range(2):
        alone = rasterize(verts[image : image + 1], faces, (20, 14))
        assert torch.equal(both.triangle[image], alone.triangle[0])
        assert torch.equal(both.barycentric[image], alone.barycentric[0])


def test_shared_edges_leave_no_cracks_even_on_pixel_centres() -> None:
    grid = torch.arange(9) + 0.5  # corners on pixel centres: every pixel lies on an edge
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    verts = torch.stack((x, y, torch.ones_like(x)), dim=-1).reshape(1, -1, 3)
    corner = (torch.arange(8)[:, None] * 9 + torch.arange(8)).reshape(-1)
    faces = torch.cat([torch.stack((corner + a, corner + b, corner + 9), 1) for a, b in ((0, 1), (1, 10))])
    assert (rasterize(verts, faces, (9, 9)).triangle >= 0).all()
    rotation = torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    turned = 100 * (verts - 4.5) @ rotation.T
    turned[..., 2] = 1
    assert (rasterize(turned + torch.tensor([30.0, 30.0, 0.0]), faces, (60, 60)).triangle >= 0).all()


def test_of_equal_depths_the_lowest_triangle_is_seen() -> None:
    verts = torch.tensor([[[0.0, 0, 1], [8, 0, 1], [0, 8, 1]]])
    faces = torch.tensor([[1, 2, 0], [0, 1, 2], [2, 1, 0]])
    seen = rasterize(verts, faces, (4, 4)).triangle
    assert (seen == 0).all()


def test_nearer_wins_whatever_the_order() -> None:
    verts = torch.tensor([[[-9.0, -9, 2], [30, -9, 2], [-9, 30, 2], [-9, -9, 1], [30, -9, 1], [-9, 30, 1]]])
    for faces, nearest in (([[0, 1, 2], [3, 4, 5]], 1), ([[3, 4, 5], [0, 1, 2]], 0)):
        result = rasterize(verts, torch.tensor(faces), (4, 4))
        assert (result.triangle == nearest).all()
        assert torch.allclose(result.depth, torch.ones(1, 4, 4))


def test_culling_keeps_the_front_only() -> None:
    verts, faces = ball()
    pixels = Camera.create(60, (64, 64)).project(verts)
    plain = rasterize(pixels, faces, (64, 64))
    culled = rasterize(pixels, faces, (64, 64), cull_backfaces=True)
    assert torch.equal(plain.triangle, culled.triangle)
    inside_out = rasterize(pixels, faces.flip(1), (64, 64), cull_backfaces=True)
    assert inside_out.depth[0, 32, 32] > 3.9 > 2.1 > culled.depth[0, 32, 32]


def test_interpolated_positions_project_to_their_own_pixel() -> None:
    verts, faces = ball(dtype=torch.float64)
    verts = torch.cat((verts, verts * 1.1))
    camera = Camera.create(70, (50, 40), dtype=torch.float64)
    fragments = rasterize(camera.project(verts), faces, camera.size)
    points = interpolate(verts, faces, fragments)
    back = camera.project(points.reshape(2, -1, 3)).reshape(points.shape)
    rows, columns = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(50) + 0.5, indexing="ij")
    centres = torch.stack((columns, rows), dim=-1).double().expand(2, -1, -1, -1)
    mask = fragments.mask
    assert mask.sum() > 1000
    assert torch.allclose(back[..., :2][mask], centres[mask], atol=1e-9)
    assert torch.allclose(points[..., 2], fragments.depth)
    assert (points[~mask] == 0).all()


def test_barycentric_weights_are_weights() -> None:
    verts, faces = ball(4)
    fragments = rasterize(Camera.create(200, (224, 224)).project(verts), faces, (224, 224))
    weights = fragments.barycentric[fragments.mask]
    assert weights.min() >= 0 and weights.max() <= 1
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-6)


def test_one_row_of_attributes_serves_the_batch() -> None:
    verts, faces = soup(5, 10, torch.float32)
    fragments = rasterize(verts, faces, (20, 14))
    shared = torch.rand(1, verts.shape[1], 5)
    expected = interpolate(shared.expand(2, -1, -1), faces, fragments)
    assert torch.equal(interpolate(shared, faces, fragments), expected)


def test_gradients_to_positions_and_attributes() -> None:
    generator = torch.Generator().manual_seed(0)
    verts, faces = ball(0, dtype=torch.float64)
    camera = Camera.create(9, (8, 7), (4.1, 3.4), dtype=torch.float64)
    verts = torch.cat((verts, verts + 0.1)).requires_grad_()
    attributes = torch.rand(
        2, verts.shape[1], 2, generator=generator, dtype=torch.float64, requires_grad=True
    )

    def picture(points: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        fragments = rasterize(camera.project(points), faces, camera.size)
        return interpolate(values, faces, fragments), fragments.depth

    assert picture(verts, attributes)[0].detach().count_nonzero() > 60
    assert torch.autograd.gradcheck(picture, (verts, attributes), eps=1e-7, atol=1e-5)


def test_gradient_and_plain_forward_agree() -> None:
    verts, faces = soup(6, 30, torch.float32)
    values = torch.rand(2, verts.shape[1], 4)
    plain = interpolate(values, faces, rasterize(verts, faces, (20, 14)))
    verts.requires_grad_()
    felt = interpolate(values, faces, rasterize(verts, faces, (20, 14)))
    assert torch.allclose(plain, felt.detach(), atol=1e-6)


def test_dropped_triangles_do_not_spoil_gradients() -> None:
    bad = [
        [3, 3, 0],
        [3, 9, -1],
        [float("nan"), 2, 1],
        [1e30, 1, 1],
        [2, float("inf"), 1],
        [5, 5, 1e-30],
        [5, 5, 0.5],
    ]
    verts = torch.tensor([[[1.0, 1, 1], [9, 1, 1], [1, 9, 1], *bad]], requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 1, 1], *([0, 1, k] for k in range(3, 9)), [3, 4, 5], [9, 0, 1]])
    fragments = rasterize(verts, faces, (8, 8))
    assert set(fragments.triangle.flatten().tolist()) == {-1, 0, 3, 9}
    drawn = interpolate(torch.rand(1, 10, 1), faces, fragments)
    (gradient,) = torch.autograd.grad(drawn.sum(), verts)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
anything = st.floats(allow_nan=True, allow_infinity=True, width=32)
near_frame = st.floats(-20, 30, width=32)
coordinate = st.one_of(near_frame, st.sampled_from([0.0, 0.5, 1.5, 4.0]), finite, anything)
depth = st.one_of(st.floats(0.25, 4, width=32), st.sampled_from([0.0, 1.0, -1.0, 1e-3, 1e-30]), anything)
point = st.tuples(coordinate, coordinate, depth)


def assert_sound(fragments: Fragments, num_faces: int) -> None:
    assert fragments.triangle.min() >= -1 and fragments.triangle.max() < num_faces
    assert fragments.barycentric.isfinite().all() and fragments.depth.isfinite().all()
    assert fragments.barycentric.min() >= 0
    sums = fragments.barycentric.sum(-1)
    assert torch.allclose(sums, fragments.mask.to(sums.dtype), atol=1e-5)
    assert (fragments.depth[~fragments.mask] == 0).all()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(point, min_size=3, max_size=12), st.sampled_from([torch.float32, torch.float64]), st.booleans()
)
def test_no_shape_breaks_it(points: list[tuple[float, float, float]], dtype: torch.dtype, cull: bool) -> None:
    verts = torch.tensor([points], dtype=dtype, requires_grad=True)
    count = len(points)
    faces = torch.tensor(
        [[k, (k + 1) % count, (k + 2) % count] for k in range(count)] + [[0, 0, 1], [2, 2, 2]]
    )
    fragments = rasterize(verts, faces, (8, 6), cull_backfaces=cull)
    assert_sound(fragments, len(faces))
    values = interpolate(torch.ones(1, count, 2, dtype=dtype), faces, fragments)
    assert values.isfinite().all()
    (gradient,) = torch.autograd.grad(values.sum() + fragments.depth.sum(), verts)
    assert gradient.isfinite().all()


def test_what_is_too_near_is_cut_off_through_the_middle_of_triangles() -> None:
    """Against rays through the pixel centres, met with the triangles in the camera's space."""
    camera, near = Camera.create(20, (24, 18), dtype=torch.float64), 0.3
    generator = torch.Generator().manual_seed(1)
    verts = torch.rand(1, 90, 3, generator=generator, dtype=torch.float64) * 4 - 2
    faces = torch.arange(90).reshape(-1, 3)
    drawn = rasterize(camera.project(verts), faces, camera.size, near=near)
    rows, columns = torch.meshgrid(torch.arange(18) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    rays = camera.unproject(
        torch.stack((columns, rows, torch.ones_like(rows)), -1).reshape(1, -1, 3).double()
    )[0]
    corners = verts[0][faces].mT  # (F, 3 coordinates, 3 corners): their mix is the ray times the depth
    mix = torch.linalg.solve(corners[:, None], rays[None, :, :, None].expand(30, -1, -1, 1))[..., 0]
    depth = 1 / mix.sum(-1)
    met = ((mix * depth[..., None]).amin(-1) >= 0) & (depth >= near)
    depth = torch.where(met, depth, torch.inf)
    expected = torch.where(met.any(0), depth.argmin(0), -1).reshape(18, 24)
    crossing = (verts[0][faces][..., 2] <= near).any(1) & (verts[0][faces][..., 2] > near).any(1)
    assert crossing[expected[expected >= 0]].sum() > 50
    assert (drawn.triangle[0] == expected).float().mean() > 0.995
    same = (drawn.triangle[0] == expected) & (expected >= 0)
    torch.testing.assert_close(drawn.depth[0][same], depth.amin(0).reshape(18, 24)[same])


def test_compiled_and_torch_agree_on_pictures_and_gradients() -> None:
    found = [picture_and_gradients(compiled) for compiled in (True, False)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def picture_and_gradients(compiled: bool) -> list[Tensor]:
    """Draw random triangles with the compiled kernels, or without."""
    kernels = import_module("recon3d.render._raster_numba") if compiled else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recon3d.render.rasterize.compiled_kernels", lambda: kernels)
        verts, faces = soup(7, 30, torch.float64)
        verts.requires_grad_()
        fragments = rasterize(verts, faces, (20, 14))
        values = interpolate(verts * torch.tensor([0.1, 0.2, 0.3]), faces, fragments)
        (gradient,) = torch.autograd.grad(values.square().sum() + fragments.depth.sum(), verts)
        return [fragments.triangle, fragments.barycentric, fragments.depth, values, gradient]


def test_nothing_to_draw() -> None:
    empty = rasterize(torch.zeros(2, 3, 3), torch.tensor([[0, 1, 2]]), (5, 4))
    assert (empty.triangle == -1).all() and (empty.barycentric == 0).all()
    none = rasterize(torch.zeros(1, 3, 3), torch.zeros(0, 3, dtype=torch.int64), (5, 4))
    assert none.triangle.shape == (1, 4, 5) and (none.triangle == -1).all()
    assert interpolate(torch.ones(2, 3, 1), torch.tensor([[0, 1, 2]]), empty).abs().sum() == 0


def test_triangles_over_the_whole_frame_stay_within_memory() -> None:
    verts = torch.tensor([[[-1e5, -1e5, 1.0], [1e6, -1e5, 1], [-1e5, 1e6, 1]]]).repeat(1, 30, 1)
    verts[..., 2] += torch.arange(30).repeat_interleave(3) * 0.1
    fragments = rasterize(verts, torch.arange(90).reshape(-1, 3), (512, 512))
    assert (fragments.triangle == 0).all()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UsageError, match="'fast' does not exist; choose one of numba, torch"):
        rasterize(torch.zeros(1, 3, 3), torch.tensor([[0, 1, 2]]), (2, 2), backend="fast")
