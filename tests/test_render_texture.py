"""Baking a photograph into a texture: where colours land, and what fills the unseen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from recon3d.render.camera import Camera
from recon3d.render.rasterize import interpolate, rasterize
from recon3d.render.texture import View, unwrap, unwrap_views

Pixels = npt.NDArray[np.uint8]
Mesh = tuple[Tensor, Tensor, Tensor, Tensor]


def globe(rows: int = 24, columns: int = 48, radius: float = 0.1) -> Mesh:
    """A ball at 0.6 m, u longitude, v latitude, its seam at the back: (verts, faces, uv, faces_uv)."""
    lat = torch.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    lon = torch.linspace(-np.pi, np.pi, columns + 1)
    a, b = torch.meshgrid(lat, lon, indexing="ij")
    points = torch.stack((a.cos() * b.sin(), -a.sin(), -a.cos() * b.cos()), dim=-1).reshape(-1, 3) * radius
    uv = torch.stack(((b + np.pi) / (2 * np.pi), (a + np.pi / 2) / np.pi), dim=-1).reshape(-1, 2)
    corner = (torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)).reshape(-1)
    below, above = corner, corner + columns + 1
    faces_uv = torch.cat(
        (torch.stack((below, below + 1, above), 1), torch.stack((below + 1, above + 1, above), 1))
    )
    welded = torch.arange(len(points)).reshape(rows + 1, columns + 1)
    welded[:, -1] = welded[:, 0]
    return points + torch.tensor([0, 0, 0.6]), welded.reshape(-1)[faces_uv], uv, faces_uv


def halves(size: int = 300) -> Pixels:
    """Left half red, right half green; a blue strip above."""
    picture = np.zeros((size, size, 3), np.uint8)
    picture[:, : size // 2] = (200, 60, 40)
    picture[:, size // 2 :] = (60, 200, 40)
    picture[: size * 2 // 5] = (40, 60, 200)
    return picture


CAMERA = Camera.create(600, (300, 300))


def test_colours_land_where_they_were_seen() -> None:
    texture = unwrap(halves(), *_args(globe()), size=256)
    assert texture.shape == (256, 256, 3) and texture.dtype == np.uint8
    assert np.abs(texture[128 + 8, 128 - 12].astype(int) - (200, 60, 40)).max() <= 2
    assert np.abs(texture[128 + 8, 128 + 12].astype(int) - (60, 200, 40)).max() <= 2
    assert np.abs(texture[128 - 40, 128].astype(int) - (40, 60, 200)).max() <= 2  # v = 1 is row 0


def _args(mesh: Mesh, camera: Camera = CAMERA) -> tuple[Tensor, Tensor, Camera, Tensor, Tensor]:
    verts, faces, uv, faces_uv = mesh
    return verts, faces, camera, uv, faces_uv


def test_the_unseen_takes_the_models_colours_in_the_tint_of_the_photo() -> None:
    verts, faces, uv, faces_uv = globe()
    colors = torch.full((len(verts), 3), 0.8)
    colors[verts[:, 2] > 0.6] = 0.4
    photo = np.empty((300, 300, 3), np.uint8)
    photo[:] = (160, 120, 80)
    texture = unwrap(photo, *_args((verts, faces, uv, faces_uv)), size=256, colors=colors)
    back = texture[128, 4].astype(float)
    np.testing.assert_allclose(back, np.array([160, 120, 80]) / 2, atol=6)
    assert np.abs(texture[:, 0].astype(int) - texture[:, -1]).max() <= 4  # no seam


def test_what_is_no_skin_keeps_its_own_colours() -> None:
    verts, faces, uv, faces_uv = globe()
    colors = torch.full((len(verts), 3), 0.8)
    photo = np.full((300, 300, 3), 60, np.uint8)
    skin = torch.zeros(len(verts), dtype=torch.bool)
    texture = unwrap(photo, *_args((verts, faces, uv, faces_uv)), size=256, colors=colors, skin=skin)
    assert np.abs(texture[128, 4].astype(int) - 204).max() <= 2
    assert np.abs(texture[128, 128].astype(int) - 60).max() <= 2


def test_a_smaller_part_behind_is_hidden_and_no_skin() -> None:
    verts, faces, uv, faces_uv = globe()
    small = (verts - torch.tensor([0, 0, 0.6])) * 0.3 + torch.tensor([0, 0, 0.75])
    keep = faces_uv.shape[0] // 2
    mesh = (
        torch.cat((verts, small)),
        torch.cat((faces, faces[:keep] + len(verts))),
        torch.cat((uv * 0.5, uv * 0.5 + 0.5)),
        torch.cat((faces_uv, faces_uv[:keep] + len(uv))),
    )
    colors = torch.tensor([0.2, 0.4, 0.9]).expand(2 * len(verts), 3)
    texture = unwrap(np.full((300, 300, 3), 200, np.uint8), *_args(mesh), size=256, colors=colors)
    assert np.abs(texture[192, 64].astype(int) - 200).max() <= 2
    assert np.abs(texture[80, 192].astype(int) - (51, 102, 230)).max() <= 2


def test_gaps_of_the_layout_continue_their_neighbours() -> None:
    verts, faces, uv, faces_uv = globe()
    shrunk = uv * 0.4 + 0.3
    texture = unwrap(
        np.full((300, 300, 3), 150, np.uint8), *_args((verts, faces, shrunk, faces_uv)), size=200
    )
    assert texture.min() > 100


@pytest.mark.parametrize("size", [1, 7, 100, 255])
def test_any_texture_size(size: int) -> None:
    assert unwrap(halves(), *_args(globe()), size=size).shape == (size, size, 3)


def test_a_head_outside_the_picture_keeps_its_colours() -> None:
    verts, faces, uv, faces_uv = globe()
    colors = torch.full((len(verts), 3), 0.5)
    for offset in ([9.0, 0, 0], [0, 0, -3.0]):
        texture = unwrap(
            halves(), *_args((verts + torch.tensor(offset), faces, uv, faces_uv)), size=64, colors=colors
        )
        assert np.abs(texture.astype(int) - 128).max() <= 1


def test_a_layout_that_has_changed_is_laid_out_anew() -> None:
    verts, faces, uv, faces_uv = globe()
    first = unwrap(halves(), *_args((verts, faces, uv, faces_uv)), size=128)
    np.testing.assert_array_equal(unwrap(halves(), *_args((verts, faces, uv, faces_uv)), size=128), first)
    uv[:, 0] = 1 - uv[:, 0]  # the same tensor: the texture is mirrored
    mirrored = unwrap(halves(), *_args((verts, faces, uv, faces_uv)), size=128)[:, ::-1]
    assert (np.abs(mirrored.astype(int) - first).max(axis=2) <= 2).mean() > 0.99
    assert unwrap(halves(), *_args(globe()), size=127).shape == (127, 127, 3)


def mirror_of(mesh: Mesh) -> Tensor:
    """The mirror image of each vertex of a globe: its columns turned about."""
    index = torch.arange(len(mesh[0])).reshape(-1, 49)
    return index.flip(1).reshape(-1)


def turned(mesh: Mesh, degrees: float) -> Mesh:
    """The mesh turned about the vertical axis through its middle."""
    angle, middle = np.radians(degrees), torch.tensor([0, 0, 0.6])
    turn = torch.tensor([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return ((mesh[0] - middle) @ turn.float().T + middle, *mesh[1:])


def test_what_is_hidden_takes_the_other_side_in_this_side_s_light() -> None:
    """A ball turned by 50°: a mark on the side that is seen appears on the hidden one, too."""
    mesh = turned(globe(), 50)
    photo = np.full((300, 300, 3), 160, np.uint8)
    shown = CAMERA.project(mesh[0][None])[0]
    side = 12 * 49 + 24 - 12  # on the equator, a quarter turn to the left of the middle
    if mesh[0][side, 2] > 0.6:  # it is the hidden one
        side = 12 * 49 + 24 + 12
    x, y = shown[side, :2].round().int().tolist()
    photo[y - 8 : y + 9, x - 8 : x + 9] = (40, 90, 160)
    args = _args(mesh)
    alone = unwrap(photo, *args, size=256, colors=torch.full((len(mesh[0]), 3), 0.7))
    both = unwrap(photo, *args, size=256, colors=torch.full((len(mesh[0]), 3), 0.7), mirror=mirror_of(mesh))
    marks = [np.abs(texture.astype(int) - (40, 90, 160)).max(axis=2) < 30 for texture in (alone, both)]
    seen = marks[0].nonzero()[1].mean()
    hidden = 255 - seen
    assert marks[0].any() and not marks[0][:, int(hidden)].any()
    assert marks[1][:, int(seen)].any() and marks[1][:, int(hidden)].any()


def test_views_are_blended_by_how_squarely_they_saw() -> None:
    left, right = turned(globe(), 40), turned(globe(), -40)
    photos = [np.full((300, 300, 3), value, np.uint8) for value in (100, 140)]
    views = [View(photo, mesh[0], CAMERA) for photo, mesh in zip(photos, (left, right), strict=True)]
    colors = torch.full((len(left[0]), 3), 0.5)
    texture = unwrap_views(iter(views), left[1], left[2], left[3], size=256, colors=colors)
    row = texture[128, :, 0].astype(int)
    middle = 128
    assert abs(row[middle] - 120) <= 3
    assert {row[middle - 50], row[middle + 50]} == {100, 140}
    assert (
        unwrap_views(views, left[1], left[2], left[3], size=256, colors=colors).tobytes() == texture.tobytes()
    )


def test_light_is_taken_out() -> None:
    """A grey ball lit from the left is a ball of one grey."""
    mesh = globe(48, 96)
    ahead = (mesh[0] - torch.tensor([0, 0, 0.6])) / 0.1
    lit = (0.6 - 0.4 * ahead[:, :1] - 0.2 * ahead[:, 2:]).clamp_min(0.05).expand(-1, 3)
    drawn = rasterize(CAMERA.project(mesh[0][None]), mesh[1], (300, 300))
    picture = interpolate(lit[None], mesh[1], drawn)[0]
    photo = (picture.clamp(0, 1).sqrt() * 255).byte().numpy()
    colors = torch.full((len(mesh[0]), 3), 0.6)
    for delight, uneven in ((False, True), (True, False)):
        texture = unwrap(photo, *_args(mesh), size=256, colors=colors, delight=delight)
        front = texture[100:156, 128 - 45 : 128 + 45].astype(float)
        assert (np.ptp(front) > 60) == uneven
        assert np.ptp(front) < 25 or uneven
