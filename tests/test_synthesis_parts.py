"""The neural renderer's parts: geometry, samples that move with the mesh, the mask, the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.head import HeadModel
from recon3d.render.shading import RenderOutput
from recon3d.synthesis._pools import averaged, narrowed, widened
from recon3d.synthesis.geometry import GeometryPainter, Heads, Pose
from recon3d.synthesis.mask import face_mask
from recon3d.synthesis.painter import FacePainter, PainterConfig
from recon3d.synthesis.samples import Samples, draw_samples, place_samples, triangle_odds

SIZE = 96
JAW = ARKIT_NAMES.index("jawOpen")


@pytest.fixture(scope="module")
def painter(head: HeadModel) -> GeometryPainter:
    return GeometryPainter(head, SIZE)


def frontal(x: float = 0.0, y: float = 0.05, count: int = 1) -> Pose:
    rotation = torch.tensor(FRONTAL, dtype=torch.float32).expand(count, 3, 3)
    return Pose(rotation, torch.tensor(((x, y, 0.2),)).expand(count, 3))


def drawn(painter: GeometryPainter, pose: Pose, jaw: float = 0.0) -> tuple[Tensor, RenderOutput]:
    expression = torch.zeros(len(pose.place), 52)
    expression[:, JAW] = jaw
    vertices = painter.vertices(Heads(torch.zeros(len(expression), 60), expression, pose))
    return painter.camera.project(vertices), painter.draw(vertices)


def sampled(painter: GeometryPainter, pose: Pose, count: int) -> tuple[Tensor, Tensor, Samples]:
    """A picture, how often each triangle's pixels are chosen, and those that were, on a head in this pose."""
    picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    odds = triangle_odds(painter.head, painter.faces)
    fragments = drawn(painter, pose)[1].fragments
    return (
        picture,
        odds,
        draw_samples(picture, fragments, odds, torch.tensor((count,)), torch.Generator().manual_seed(1)),
    )


def placed(painter: GeometryPainter, samples: Samples, pose: Pose, jaw: float = 0.0) -> tuple[Tensor, Tensor]:
    """Samples where a head in this pose shows them: their colours, and where they are."""
    pixels, output = drawn(painter, pose, jaw)
    return place_samples(samples, pixels, painter.faces, output.fragments)


def test_the_head_is_drawn_where_the_encoder_says(painter: GeometryPainter, head: HeadModel) -> None:
    pose = frontal(x=0.1)
    pixels, output = drawn(painter, pose)
    points = head.landmarks(head.v_template[None], "mediapipe478") @ pose.rotation.mT
    wanted = (points[..., :2] * 3 * 1.2 + pose.place[:, None, :2] + 0.5) * SIZE
    found = head.landmarks(pixels, "mediapipe478")[..., :2]
    assert float((found - wanted).abs().max()) < 0.3  # px: the camera is far, not infinitely far
    assert output.image.shape == (1, SIZE, SIZE, 3) and float(output.image[:, :4].max()) == 0
    assert 0.1 < float(output.fragments.mask.float().mean()) < 0.6


def test_expressions_and_place_feel_the_picture(painter: GeometryPainter) -> None:
    pose = frontal()
    expression = torch.full((1, 52), 0.1, requires_grad=True)
    place = pose.place.clone().requires_grad_()
    moved = Pose(pose.rotation, place)
    output = painter.draw(painter.vertices(Heads(torch.zeros(1, 60), expression, moved)))
    (output.image * torch.linspace(0, 1, SIZE)[:, None]).sum().backward()
    assert expression.grad is not None and float(expression.grad[0, JAW].abs()) > 0
    assert place.grad is not None and bool((place.grad[0, 1:].abs() > 0).all())


def test_heads_settle_on_their_landmarks(painter: GeometryPainter, head: HeadModel) -> None:
    true = Heads(torch.randn(2, 60), torch.full((2, 52), 0.1), frontal(x=0.05, count=2))
    points = head.landmarks(painter.camera.project(painter.vertices(true)), "mediapipe478") / SIZE
    lost = Heads(true.shape, true.expression, Pose(true.pose.rotation, torch.zeros(2, 3)))
    found = painter.settled(lost, points).pose.place
    torch.testing.assert_close(found, true.pose.place, atol=0.01, rtol=0)  # the camera is not infinitely far


def test_samples_lie_where_they_came_from(painter: GeometryPainter, head: HeadModel) -> None:
    picture, odds, samples = sampled(painter, frontal(), 60)
    colors, known = placed(painter, samples, frontal())
    assert 55 <= int(known.sum()) <= 60
    torch.testing.assert_close(colors, picture * known)
    # None on eyes, mouth or beyond the face.
    assert float(odds[samples.triangle].min()) > 0
    mouth = torch.from_numpy(head.regions["mouth_inside"] | head.regions["eyeballs"])
    assert float(odds[mouth[painter.faces].any(1)].max()) == 0


def test_each_picture_has_its_own_number_of_samples(painter: GeometryPainter) -> None:
    fragments = drawn(painter, frontal(count=2))[1].fragments
    odds = triangle_odds(painter.head, painter.faces)
    samples = draw_samples(torch.rand(2, 3, SIZE, SIZE), fragments, odds, torch.tensor((10, 100)))
    assert samples.valid.sum(1).tolist() == [10, 100]


def test_samples_move_with_the_mesh(painter: GeometryPainter) -> None:
    _, _, samples = sampled(painter, frontal(), 60)
    _, home = placed(painter, samples, frontal())
    _, there = placed(painter, samples, frontal(x=8 / SIZE))
    assert torch.equal(home.roll(8, 3), there)
    _, low = placed(painter, samples, frontal(), jaw=1.0)
    # The chin's go down.
    assert int(low[0, 0].nonzero()[:, 0].max()) > int(home[0, 0].nonzero()[:, 0].max()) + 2


def test_hidden_samples_are_left_out(painter: GeometryPainter) -> None:
    _, _, samples = sampled(painter, frontal(), 200)
    turn = torch.tensor(((0.5, 0, 0.866), (0, 1, 0), (-0.866, 0, 0.5)))
    _, home = placed(painter, samples, frontal())
    _, known = placed(painter, samples, Pose(frontal().rotation @ turn, frontal().place))
    assert 0.3 * float(home.sum()) < float(known.sum()) < 0.85 * float(home.sum())


def test_a_picture_without_a_head_gives_no_samples(painter: GeometryPainter) -> None:
    _, _, samples = sampled(painter, frontal(x=3.0), 20)
    _, known = placed(painter, samples, frontal(x=3.0))
    assert not bool(samples.valid.any()) and float(known.sum()) == 0


def test_the_mask_covers_the_face_and_no_more(painter: GeometryPainter, head: HeadModel) -> None:
    pixels, output = drawn(painter, frontal())
    points = head.landmarks(pixels, "mediapipe478")[..., :2] / SIZE
    mask = face_mask(points, output.fragments.mask)
    assert bool((mask[:, 0][output.fragments.mask] == 1).all())
    spots = (points * SIZE).long().clamp(0, SIZE - 1)[0]
    assert bool((mask[0, 0][spots[:, 1], spots[:, 0]] == 1).all())
    assert float(mask[..., :4, :].sum()) == 0 and 0.15 < float(mask.mean()) < 0.6


@pytest.mark.parametrize("patch", [1, 2])
def test_the_painter_learns_a_picture_from_its_geometry(painter: GeometryPainter, patch: int) -> None:
    _, output = drawn(painter, frontal())
    geometry = output.image.movedim(-1, 1).detach()
    network = FacePainter(PainterConfig(size=SIZE, patch=patch, width=16, levels=2))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    wanted = 1 - geometry
    nothing = torch.zeros_like(geometry)
    losses = []
    for _ in range(40):
        painted = network(geometry, nothing, nothing[:, :1])
        loss = (painted - wanted).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert painted.shape == geometry.shape and losses[-1] < 0.35 * losses[0]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"size": 100}, "multiple of 16: 96, not 100"),
        ({"width": 20}, "width must be a multiple of 8"),
        ({"blocks": 0}, "positive"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PainterConfig(**sizes)


@pytest.mark.parametrize("reach", [1, 4])
def test_pools_are_torch_s_own(reach: int) -> None:
    maps = torch.rand(2, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    size, edge = 2 * reach + 1, reach
    torch.testing.assert_close(averaged(maps, reach), torch.nn.functional.avg_pool2d(maps, size, 1, edge))
    assert torch.equal(widened(maps, reach), torch.nn.functional.max_pool2d(maps, size, 1, edge))
    assert torch.equal(narrowed(maps, reach), -torch.nn.functional.max_pool2d(-maps, size, 1, edge))
