"""Captures said in the terms of other heads: the same surface before the camera, the same units, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jointed_head import write_jointed_head
from toy_head import toy_capture, write_toy_head

from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.convert import Converter
from recon3d.errors import InputError
from recon3d.export._still import camera_vertices
from recon3d.fitting.controls import Controls
from recon3d.fitting.units import UnitMap, bounded_least_squares
from recon3d.head import HeadModel, load_head


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head()


@pytest.fixture(scope="module")
def jointed(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    """Enough components that hardly anything is lost."""
    return load_head(write_jointed_head(tmp_path_factory.mktemp("jointed") / "jointed.npz", 40))


@pytest.fixture(scope="module")
def capture(head: HeadModel) -> Capture:
    """Twelve frames of a person unlike the mean, with a few units each and the head turned."""
    rng = np.random.default_rng(3)
    units = (rng.uniform(size=(12, 52)) * (rng.uniform(size=(12, 52)) < 0.15)).astype(np.float32)
    shape = rng.normal(0, 0.7, head.num_shape) / (1 + 0.05 * np.arange(head.num_shape))
    pose = np.zeros((12, 5, 3))
    pose[:, 0] = np.array([np.pi - 0.1, 0.1, 0.1]) + rng.normal(0, 0.05, (12, 3))
    pose[:, 1] = rng.normal(0, 0.05, (12, 3))
    return toy_capture(head, 12, shape=shape, expression=units, arkit=units, pose=pose)


def surface(capture: Capture, head: HeadModel, frame: int) -> torch.Tensor:
    return camera_vertices(capture, head, frame)[head.within("face")]


def test_a_head_that_turns_its_jaw_shows_the_same_surface(
    head: HeadModel, jointed: HeadModel, capture: Capture
) -> None:
    said = Converter(head, jointed).convert(capture)
    assert said.head == jointed.id and said.expression.shape == (12, 40)
    np.testing.assert_array_equal(said.arkit, capture.arkit)
    np.testing.assert_array_equal(said.timestamps, capture.timestamps)
    for frame in range(12):
        apart = (surface(said, jointed, frame) - surface(capture, head, frame)).norm(dim=1)
        assert float(apart.mean()) < 0.0007, frame
    moved = np.linalg.norm(said.landmarks68 - _landmarks(capture, head), axis=-1)
    assert np.median(moved) < 2


def _landmarks(capture: Capture, head: HeadModel) -> np.ndarray:
    from recon3d.head.contour import landmarks68
    from recon3d.render.camera import Camera

    camera = Camera.create(capture.focal, capture.size, tuple(capture.principal.tolist()))
    vertices = torch.stack([camera_vertices(capture, head, k) for k in range(len(capture))])
    return landmarks68(head, camera.project(vertices)[..., :2]).numpy()


def test_there_and_back_again(head: HeadModel, jointed: HeadModel, capture: Capture) -> None:
    there = Converter(head, jointed).convert(capture)
    # What the units were is forgotten: they are to be read off the geometry.
    blank = replace(there, arkit=np.zeros_like(there.arkit))
    values = Controls.of(jointed).joined(torch.from_numpy(blank.expression), torch.from_numpy(blank.pose))
    read = UnitMap.of(jointed).units_of(values)
    assert float((read - torch.from_numpy(capture.arkit)).abs().mean()) < 0.04
    back = Converter(jointed, head).convert(there)
    assert np.abs(back.arkit - capture.arkit).mean() < 0.02
    for frame in range(12):
        apart = (surface(back, head, frame) - surface(capture, head, frame)).norm(dim=1)
        assert float(apart.mean()) < 0.0007


def test_the_same_head_is_left_alone(head: HeadModel, capture: Capture) -> None:
    assert Converter(head, head).convert(capture) is capture


def test_heads_that_cannot_be_compared_are_refused(
    head: HeadModel, jointed: HeadModel, capture: Capture, tmp_path: Path
) -> None:
    bare = load_head(write_jointed_head(tmp_path / "bare.npz", units=False))
    with pytest.raises(InputError, match=r"bare/.* does not know the ARKit units"):
        Converter(head, bare)
    toy = load_head(write_toy_head(tmp_path / "toy.npz"))
    with pytest.raises(InputError, match=r"toy/.* does not know"):
        Converter(toy, head)
    with pytest.raises(InputError, match="captured with the head model"):
        Converter(jointed, head).convert(capture)


def test_bounded_least_squares_finds_what_a_slow_search_finds() -> None:
    rng = np.random.default_rng(2)
    factor = torch.tensor(rng.normal(size=(9, 6)), dtype=torch.float32)
    matrix, right = factor.T @ factor + 0.1 * torch.eye(6), torch.tensor(rng.normal(0, 3, (4, 6))).float()
    found = bounded_least_squares(matrix, right)
    slow = torch.full((4, 6), 0.5)
    for _ in range(20000):
        slow = (slow - 0.02 * (slow @ matrix - right)).clamp(0, 1)
    torch.testing.assert_close(found, slow, atol=1e-3, rtol=0)
    assert float(((found == 0) | (found == 1)).float().mean()) > 0.2


def test_the_jaw_opens_by_its_joint_where_nothing_else_can(tmp_path: Path) -> None:
    options = {"left_out": ("eyeLook", "jaw")}
    head = load_head(write_jointed_head(tmp_path / "hinged.npz", 40, **options))
    units = torch.eye(52)[[ARKIT_NAMES.index("jawOpen")]] * torch.tensor([[0.25], [0.5], [1.0]])
    found = UnitMap.of(head)
    values = found.controls_of(units)
    turned = values[:, 40]
    assert 0.05 < float(turned[0]) < float(turned[1]) < float(turned[2]) < 0.5
    moved = found.basis.place(values) - found.basis.template
    wanted = torch.einsum("nku,tu->tnk", found.units, units)
    assert float((moved - wanted).norm(dim=-1).mean()) < 0.3 * float(wanted.norm(dim=-1).mean())
    read = found.units_of(values)
    assert float((read - units)[:, ARKIT_NAMES.index("jawOpen")].abs().max()) < 0.15


def test_what_lies_within_limits_stays(jointed: HeadModel) -> None:
    found = UnitMap.of(jointed).controls_of(torch.eye(52))
    controls = Controls.of(jointed)
    assert bool((found >= controls.lower).all()) and bool((found <= controls.upper).all())
    expression, pose = controls.split(found, 5)
    torch.testing.assert_close(controls.joined(expression, pose), found)
