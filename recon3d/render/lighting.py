"""Light from all around as nine spherical harmonics, and finding it in a photograph.

A matt surface keeps little more than nine numbers a colour of whatever surrounds it (R. Ramamoorthi,
P. Hanrahan, "An efficient representation for irradiance environment maps", 2001).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Bands of order 1 and 2 count this much more than ambient light when light is fitted: few normals are seen.
_CALM = (0.0, *(0.02,) * 3, *(0.05,) * 5)
_ROUNDS = 5


def harmonics(normals: Tensor) -> Tensor:
    """Return the nine real spherical harmonics of unit normals (...,3) to order 2, (...,9).

    The first is 1 everywhere; the factors that make the others orthonormal are left to the coefficients.
    """
    x, y, z = normals.unbind(-1)
    bands = (torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1)
    return torch.stack(bands, dim=-1)


def irradiance(normals: Tensor, light: Tensor) -> Tensor:
    """Return how much light (...,3) falls on surfaces with unit normals (...,3), of coefficients (9,3).

    Linear: what a surface of colour 1 shows. Never negative. Differentiable.
    """
    return (harmonics(normals) @ light).clamp_min(0)


def fit_light(normals: Tensor, albedo: Tensor, shown: Tensor, weights: Tensor | None = None) -> Tensor:
    """Find the light under which matt surfaces of a known colour look as they do.

    Least squares, repeated with less weight on what does not fit (highlights, hair, hands before the face).

    Args:
        normals: (n,3) unit, camera space.
        albedo: (n,3) the surfaces' colours, linear.
        shown: (n,3) their colours in the picture, linear.
        weights: (n,) how much each counts, or None.

    Returns:
        (9,3) coefficients of ``irradiance``.
    """
    basis = harmonics(normals)
    base = torch.ones_like(basis[:, 0]) if weights is None else weights
    light = torch.zeros(9, 3, dtype=basis.dtype, device=basis.device)
    robust = torch.ones_like(base)
    for _ in range(_ROUNDS):
        light = torch.stack(
            [_solve(basis, albedo[:, c], shown[:, c], base * robust) for c in range(3)], dim=1
        )
        error = (albedo * (basis @ light) - shown).norm(dim=1)
        scale = 1.5 * error[base > 0].median().clamp_min(1e-4) if bool((base > 0).any()) else 1.0
        robust = 1 / (1 + (error / scale).square())
    return light


def _solve(basis: Tensor, albedo: Tensor, shown: Tensor, weights: Tensor) -> Tensor:
    rows = basis * albedo[:, None]
    weighted = rows * weights[:, None]
    matrix = weighted.T @ rows
    size = matrix[0, 0].clamp_min(1e-9)
    calm = torch.tensor(_CALM, dtype=basis.dtype, device=basis.device) + 1e-6
    return torch.linalg.solve(matrix + torch.diag(calm) * size, weighted.T @ shown)
