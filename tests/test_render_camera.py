"""The camera: its formula, its inverse, its gradients, and points that have no picture."""

from __future__ import annotations

import pytest
import torch

from recon3d.render.camera import NEAR, Camera


def test_the_axis_lands_on_the_principal_point_and_axes_point_right_and_down() -> None:
    camera = Camera.create(100, (64, 48))
    points = torch.tensor([[[0.0, 0, 2], [0.2, 0, 2], [0, 0.2, 2]]])
    assert camera.project(points)[0].tolist() == [[32, 24, 2], [42, 24, 2], [32, 34, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_that_of_the_points_and_one_camera_serves_a_batch(dtype: torch.dtype) -> None:
    points = torch.rand(3, 5, 3, dtype=dtype) + 1
    pixels = Camera.create(100, (64, 48)).project(points)
    assert pixels.dtype == dtype and pixels.shape == (3, 5, 3)


def test_each_image_has_its_own_camera() -> None:
    camera = Camera.create([100, 200], (64, 48))
    pixels = camera.project(torch.tensor([[[0.1, 0, 1.0]]]).expand(2, -1, -1))
    assert pixels[:, 0, 0].tolist() == [42, 52]


def test_unproject_undoes_project() -> None:
    camera = Camera.create(80, (64, 48), (30.5, 20.25), dtype=torch.float64)
    points = torch.rand(2, 7, 3, dtype=torch.float64) + 0.5
    assert torch.allclose(camera.unproject(camera.project(points)), points)


def test_points_without_a_picture_stay_finite_and_keep_their_depth() -> None:
    points = torch.tensor([[[1.0, 1, 0], [1, 1, -5], [0, 0, NEAR / 2]]], requires_grad=True)
    pixels = Camera.create(100, (64, 48)).project(points)
    (gradient,) = torch.autograd.grad(pixels.sum(), points)
    assert pixels.isfinite().all() and pixels[0, :, 2].tolist() == points[0, :, 2].tolist()
    assert gradient.isfinite().all()


def test_gradients() -> None:
    points = (torch.rand(2, 4, 3, dtype=torch.float64) + 0.5).requires_grad_()
    focal = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    principal = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)

    def project(p: torch.Tensor, f: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return Camera(f, c, (8, 8)).project(p)

    assert torch.autograd.gradcheck(project, (points, focal, principal))


def test_scaled_and_cropped_cameras_see_the_same_rays() -> None:
    camera = Camera.create(80, (64, 48), (30, 20))
    points = torch.tensor([[[0.1, -0.2, 1.5], [0.3, 0.1, 0.9]]])
    pixels = camera.project(points)[..., :2]
    assert torch.allclose(camera.scaled(0.5).project(points)[..., :2], pixels * 0.5, atol=1e-5)
    window = camera.cropped(10, 5, (20, 20))
    assert torch.allclose(window.project(points)[..., :2], pixels - torch.tensor([10.0, 5.0]), atol=1e-5)
    assert camera.scaled(0.5).size == (32, 24) and window.size == (20, 20)
