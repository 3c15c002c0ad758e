"""Skinning weights and the joint regressor of the open head."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from open_head.assembly import Assembly
from open_head.source import Array, Index, Source
from recon3d.conventions import GLOBAL, JAW, LEFT_EYE, NECK, RIGHT_EYE

#: MakeHuman's lower-lip bones hang on the jaw; only the bone named jaw and these carry weights.
_JAW_BONES = ("jaw", "special04", "oris01", "oris07.L", "oris07.R")


def skinning_weights(source: Source, assembly: Assembly) -> Array:
    """(V, 5) weights: the neck's base stays with ``global``, the skull follows ``neck``.

    The neck's two lower bones are shared between both so that a turn of the head spreads along the neck.
    """
    bones = source.bone_weights
    copied = assembly.copied
    jaw = np.sum([bones[b][copied] for b in _JAW_BONES], axis=0)
    low, middle = bones["neck01"][copied], bones["neck02"][copied]
    names = list(bones)
    below = 1 - np.sum([bones[b][copied] for b in names[names.index("neck01") :]], axis=0)
    weights = np.zeros((len(assembly.piece), 5))
    skin = np.zeros((len(copied), 5))
    skin[:, JAW] = np.clip(jaw, 0, 1)
    skin[:, GLOBAL] = np.clip(below + 0.85 * low + 0.35 * middle, 0, 1)
    skin[:, NECK] = np.clip(1 - skin.sum(1), 0, 1)
    weights[: len(copied)] = skin
    weights[assembly.piece == 1] = np.eye(5)[JAW]
    teeth = np.flatnonzero(assembly.piece == 2)
    lower = source.units["jawOpen"][copied[teeth]]
    weights[teeth] = np.where((np.abs(lower).sum(1) > 1e-6)[:, None], np.eye(5)[JAW], np.eye(5)[NECK])
    weights[assembly.piece == 3] = np.eye(5)[LEFT_EYE]
    weights[assembly.piece == 4] = np.eye(5)[RIGHT_EYE]
    weights = (weights + weights[assembly.mirror][:, [GLOBAL, NECK, JAW, RIGHT_EYE, LEFT_EYE]]) / 2
    return weights / weights.sum(1, keepdims=True)


def joint_regressor(heads: Array, joints: Array, assembly: Assembly) -> Array:
    """(5, V) rows that sum to one and find the joints of any identity.

    Eyes are the middle of their balls, exactly. Neck and jaw bones hang on points that MakeHuman keeps
    inside the body: each is a non-negative combination of the skin around it, fitted over the sampled
    heads (least squares), so that it stays between the vertices it comes from.

    Args:
        heads: (B, V, 3) aligned or not, m.
        joints: (B, 3, 3) neck01 (our global), neck02 (our neck), jaw, in the same space.
    """
    regressor = np.zeros((5, heads.shape[1]))
    for joint, piece in ((LEFT_EYE, 3), (RIGHT_EYE, 4)):
        # The rings are not evenly spaced: the middle of both poles is the centre.
        ball = np.flatnonzero(assembly.piece == piece)
        regressor[joint, [ball[0], ball[-1]]] = 0.5
    skin = np.flatnonzero(assembly.piece == 0)
    for joint, k in ((GLOBAL, 0), (NECK, 1), (JAW, 2)):
        regressor[joint] = _regress(heads, joints[:, k], skin, assembly.mirror)
    return regressor


def _regress(heads: Array, joint: Array, skin: Index, mirror: Index, near: int = 160) -> Array:
    """Non-negative weights over the nearest skin vertices of the mean head, symmetric, summing to one."""
    mean = heads[:, skin].mean(0)
    chosen = skin[np.argsort(np.linalg.norm(mean - joint.mean(0), axis=1))[:near]]
    chosen = np.unique(np.concatenate([chosen, mirror[chosen]]))
    sample = slice(0, 400)
    a = heads[sample][:, chosen].transpose(0, 2, 1).reshape(-1, len(chosen))
    b = joint[sample].reshape(-1)
    strong = 1e2
    solution, _ = nnls(np.vstack([a, np.full((1, len(chosen)), strong)]), np.append(b, strong), maxiter=5000)
    row = np.zeros(heads.shape[1])
    row[chosen] = solution
    row = (row + row[mirror]) / 2
    return row / row.sum()
