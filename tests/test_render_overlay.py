"""The three panels: where the head is drawn, what is shown enlarged, and what must not break them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import trimesh
from torch import Tensor

from recon3d.render.camera import Camera
from recon3d.render.overlay import draw_overlay

Pixels = npt.NDArray[np.uint8]


def ball(x: float = 0.0, y: float = 0.0, z: float = 0.6, radius: float = 0.1) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(4, radius)
    verts = torch.tensor(np.asarray(mesh.vertices) + np.array([x, y, z])).float()
    return verts, torch.tensor(np.asarray(mesh.faces)).long()


def photo(width: int, height: int) -> Pixels:
    """A photograph whose red grows to the right and green downward."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 200, width)
    picture[..., 1] = np.linspace(0, 200, height)[:, None]
    return picture


def panels(picture: Pixels) -> list[Pixels]:
    width = (picture.shape[1] - 8) // 3
    return [picture[:, k * (width + 4) : k * (width + 4) + width] for k in range(3)]


def covered(panel: Pixels) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.abs(panel.astype(int) - panel[0, 0].astype(int)).max(axis=2) > 5
    return found


def test_panels_show_photo_fit_and_head_in_place() -> None:
    head, faces = ball(0.05)
    pixels = photo(400, 300)
    picture = draw_overlay(pixels, [head], faces, Camera.create(600, (400, 300)), max_side=400)
    assert picture.dtype == np.uint8 and picture.shape == (300, 3 * 400 + 8, 3)
    first, second, third = panels(picture)
    assert np.abs(first.astype(int) - pixels).max() <= 1
    rows, columns = np.nonzero(covered(third))
    assert columns.mean() == pytest.approx(200 + 600 * 0.05 / 0.6, abs=2)
    assert rows.mean() == pytest.approx(150, abs=2)
    changed = np.abs(second.astype(int) - first).max(axis=2) > 3
    assert changed[covered(third)].mean() > 0.9
    assert changed[~covered(third)].mean() < 0.02


def test_the_photograph_shows_through() -> None:
    head, faces = ball()
    camera = Camera.create(600, (300, 300))
    dark = panels(draw_overlay(np.zeros((300, 300, 3), np.uint8), [head], faces, camera))[1]
    light = panels(draw_overlay(np.full((300, 300, 3), 255, np.uint8), [head], faces, camera))[1]
    middle = dark.shape[0] // 2
    assert 60 < int(light[middle, middle, 0]) - int(dark[middle, middle, 0]) < 140


def test_a_small_face_is_shown_enlarged_around_itself() -> None:
    head, faces = ball(0.6, -0.3, 3.0)
    picture = draw_overlay(photo(1600, 1200), [head], faces, Camera.create(1500, (1600, 1200)), max_side=480)
    third = panels(picture)[2]
    assert covered(third).mean() > 0.15
    red = panels(picture)[0][:, :, 0].mean() / 200 * 1600
    assert red == pytest.approx(800 + 1500 * 0.2, abs=20)


def test_several_faces_hide_each_other_by_depth() -> None:
    left, faces = ball(-0.1)
    right, _ = ball(0.1)
    camera = Camera.create(600, (640, 400))
    both = covered(panels(draw_overlay(photo(640, 400), [left, right], faces, camera))[2])
    one = covered(panels(draw_overlay(photo(640, 400), [left], faces, camera))[2])
    assert both.sum() > 1.8 * one.sum()
    behind, _ = ball(-0.13, 0.0, 0.8)
    hidden = covered(panels(draw_overlay(photo(640, 400), [left, behind], faces, camera))[2])
    assert hidden.sum() < 1.05 * one.sum()


def test_vertex_colours_show_as_lightness() -> None:
    head, faces = ball()
    colors = torch.full((len(head), 3), 0.7)
    colors[head[:, 1] > 0.02] = 0.1
    camera = Camera.create(600, (300, 300))
    plain = panels(draw_overlay(photo(300, 300), [head], faces, camera))[2]
    toned = panels(draw_overlay(photo(300, 300), [head], faces, camera, colors=colors))[2]
    low, high = int(toned.shape[0] * 0.62), int(toned.shape[0] * 0.4)
    middle = toned.shape[1] // 2
    assert toned[low, middle].mean() < 0.8 * plain[low, middle].mean()
    assert toned[high, middle].mean() == pytest.approx(plain[high, middle].mean(), abs=12)


def test_landmarks_are_dots_at_their_place() -> None:
    head, faces = ball()
    camera = Camera.create(600, (300, 300))
    points = [np.array([[60.0, 90.0, 0.0], [np.nan, 1.0, 0.0]])]
    plain = panels(draw_overlay(photo(300, 300), [head], faces, camera, max_side=600))
    dotted = panels(draw_overlay(photo(300, 300), [head], faces, camera, max_side=600, landmarks=points))
    assert np.array_equal(plain[0], dotted[0]) and np.array_equal(plain[2], dotted[2])
    rows, columns = np.nonzero((plain[1] != dotted[1]).any(axis=2))
    assert columns.mean() + 0.5 == pytest.approx(120, abs=0.6)
    assert rows.mean() + 0.5 == pytest.approx(180, abs=0.6)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (700, 5), (64, 64)])
def test_any_photo_size(size: tuple[int, int]) -> None:
    head, faces = ball()
    picture = draw_overlay(photo(*size), [head], faces, Camera.create(max(size), size), max_side=320)
    assert picture.shape[2] == 3 and max(panels(picture)[0].shape) <= 384


def test_heads_that_cannot_be_seen_leave_the_photograph() -> None:
    head, faces = ball()
    camera = Camera.create(600, (300, 200))
    bad = head.clone()
    bad[:] = float("nan")
    for heads in ([], [head - torch.tensor([0, 0, 2.0])], [head + torch.tensor([9.0, 0, 0])], [bad]):
        first, second, third = panels(draw_overlay(photo(300, 200), heads, faces, camera))
        assert np.array_equal(first, second)
        assert (third == third[0, 0]).all()
