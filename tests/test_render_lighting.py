"""Spherical-harmonic light: against an integral over the sphere, and recovered from a picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.lighting import fit_light, harmonics, irradiance


def directions(count: int, seed: int = 0) -> Tensor:
    """Random unit vectors (count,3)."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)


def test_the_nine_are_orthogonal() -> None:
    basis = harmonics(directions(200_000))
    gram = basis.T @ basis / len(basis)
    length = gram.diagonal().sqrt()
    assert (gram / (length[:, None] * length) - torch.eye(9)).abs().max() < 0.02


def test_they_hold_what_a_matt_surface_keeps_of_a_lamp() -> None:
    """The cosine of Lambert's law, lacking by a few hundredths, as the paper says."""
    normals, lamp = directions(4000), F.normalize(torch.tensor([[0.3, -0.8, -0.5]]).double(), dim=1)[0]
    true = (normals @ lamp).clamp_min(0)[:, None].expand(-1, 3)
    light = torch.linalg.lstsq(harmonics(normals), true).solution
    assert (irradiance(normals, light) - true).abs().mean() < 0.03
    assert (irradiance(normals, light) - true).abs().max() < 0.1


@pytest.mark.parametrize("spoiled", [0.0, 0.2])
def test_light_is_recovered_even_where_things_do_not_fit(spoiled: float) -> None:
    normals = directions(3000, 1)
    normals = normals[normals[:, 2] < -0.1]  # what a camera sees
    generator = torch.Generator().manual_seed(2)
    albedo = torch.rand(len(normals), 3, generator=generator, dtype=torch.float64) * 0.5 + 0.3
    light = torch.randn(9, 3, generator=generator, dtype=torch.float64) * 0.1
    light[0] = torch.tensor([0.8, 0.7, 0.6])
    shown = albedo * irradiance(normals, light)
    bad = torch.rand(len(normals), generator=generator) < spoiled
    shown[bad] = torch.rand(int(bad.sum()), 3, generator=generator, dtype=torch.float64)
    found = albedo * irradiance(normals, fit_light(normals, albedo, shown))
    good = ~bad
    assert (found - shown)[good].abs().mean() < 0.02


def test_points_without_weight_do_not_count() -> None:
    normals = directions(500, 3)
    albedo = torch.full((500, 3), 0.5).double()
    shown = albedo * irradiance(normals, torch.eye(9, 3).double() + 0.2)
    spoiled = torch.cat((shown[:250], torch.zeros(250, 3).double()))
    weights = torch.cat((torch.ones(250), torch.zeros(250))).double()
    alone = fit_light(normals[:250], albedo[:250], shown[:250])
    torch.testing.assert_close(fit_light(normals, albedo, spoiled, weights), alone)


def test_nothing_seen_gives_no_light() -> None:
    none = torch.zeros(0, 3)
    assert torch.equal(fit_light(none, none, none), torch.zeros(9, 3))


def test_gradients() -> None:
    normals = directions(6).requires_grad_()
    light = torch.rand(9, 3, dtype=torch.float64, requires_grad=True) + 0.5
    assert torch.autograd.gradcheck(irradiance, (normals, light))
