"""Learns the identity basis from random adults."""

from __future__ import annotations

import numpy as np

from open_head.assembly import Assembly
from open_head.source import Array, Index, Source, random_adults


def align(points: Array, target: Array, weight: Array) -> tuple[Array, Array]:
    """Rigid motion (no scale) that takes each of (B, V, 3) nearest to (V, 3), weighted; Kabsch 1976.

    Returns:
        Rotations (B, 3, 3) and translations (B, 3) with ``points @ R.T + t ≈ target``.
    """
    w = weight / weight.sum()
    centre, goal = np.einsum("v,bvk->bk", w, points), w @ target
    covariance = np.einsum("v,bvi,vj->bij", w, points - centre[:, None], target - goal, optimize=True)
    u, _, vt = np.linalg.svd(covariance)
    sign = np.sign(np.linalg.det(u @ vt))
    u[..., -1] *= sign[:, None]
    rotation = np.swapaxes(u @ vt, 1, 2)
    return rotation, goal - np.einsum("bij,bj->bi", rotation, centre)


def sample_heads(source: Source, assembly: Assembly, count: int, seed: int) -> tuple[Array, Array]:
    """Random adults' heads and their neck and jaw joints: (count, V, 3) and (count, 3, 3)."""
    coefficients = random_adults(source, count, seed)
    bones = ("neck01", "neck02", "jaw")
    joint_changes = np.stack([source.bone_head_changes[b] for b in bones], 1)
    joints = np.stack([source.bone_heads[b] for b in bones]) + np.einsum(
        "bc,cjk->bjk", coefficients, joint_changes
    )
    needed = np.concatenate([assembly.copied, np.arange(14598, 14742)])
    flat = source.changes[:, needed].reshape(len(source.changes), -1)
    heads = []
    for block in np.array_split(coefficients, max(1, count // 100)):
        points = np.zeros((len(block), *source.vertices.shape))
        points[:, needed] = source.vertices[needed] + (block @ flat).reshape(len(block), -1, 3)
        heads.append(assembly.geometry(points))
    return np.concatenate(heads), joints


def mirrored(points: Array, mirror: Index) -> Array:
    """Mirror images: (..., V, 3) to the same."""
    return points[..., mirror, :] * np.array([-1.0, 1.0, 1.0])


def learn_identity(
    heads: Array, joints: Array, mirror: Index, weight: Array, components: int
) -> tuple[Array, Array, Array, float]:
    """Align the heads, and find mean and principal components of them and their mirror images.

    Because each head stands beside its mirror image, the mean is symmetric and every component is
    either symmetric or antisymmetric.

    Args:
        heads: (B, V, 3) m.
        joints: (B, J, 3) m, moved along with the heads.
        mirror: (V,) partner of each vertex.
        weight: (V,) importance in both alignment and variance; the face counts more than the skull.
        components: How many to keep.

    Returns:
        Mean (V, 3), components (V, 3, S) scaled to one standard deviation, aligned joints (B, J, 3), and the
        share of the (weighted) variance that the components hold.
    """
    target = heads.mean(0)
    for _ in range(3):
        rotation, translation = align(heads, target, weight)
        moved = np.einsum("bij,bvj->bvi", rotation, heads) + translation[:, None]
        target = (moved.mean(0) + mirrored(moved.mean(0), mirror)) / 2
    joints = np.einsum("bij,bvj->bvi", rotation, joints) + translation[:, None]
    centred = moved - target
    root = np.sqrt(weight)[None, :, None]
    symmetric = (centred + mirrored(centred, mirror)) / 2
    skew = (centred - mirrored(centred, mirror)) / 2
    # Sample and mirror image span the symmetric and the antisymmetric part, each with its own variance.
    found = []
    for part in (symmetric, skew):
        u, s, _ = np.linalg.svd((part * root).reshape(len(part), -1), full_matrices=False)
        directions = np.einsum("bs,bvk->vks", u, part) / np.sqrt(len(part))
        found += [(s[i] ** 2, directions[..., i]) for i in range(len(s))]
    found.sort(key=lambda pair: -pair[0])
    energy = np.array([e for e, _ in found])
    basis = np.stack([_signed(d) for _, d in found[:components]], -1)
    return target, basis, joints, float(energy[:components].sum() / energy.sum())


def _signed(direction: Array) -> Array:
    """Fix the sign that an SVD leaves open, so that a rebuild gives the same file."""
    flat = direction.ravel()
    return direction * np.sign(flat[np.abs(flat).argmax()])
