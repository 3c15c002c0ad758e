"""A stand-in for Google's ``gnm_head.npz`` with exactly its arrays, names, axes and order.

The surfaces are balls: skin, two eyes, two rows of teeth and a tongue, each of quads and with the texture
square that GNM gives every part of its mesh. What it holds is made up; how it is laid out is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.head import load_head

Array = npt.NDArray[Any]

PARTS = ("skin", "left_eye", "right_eye", "upper_teeth_and_gums", "lower_teeth_and_gums", "tongue")
JOINTS = ("neck", "head", "left_eye", "right_eye")
#: Part: squares along an edge of its cube, half axes and centre, m.
_BALLS = {
    "skin": (8, (0.08, 0.13, 0.1), (0.0, 0.0, 0.0)),
    "left_eye": (3, (0.013,) * 3, (0.032, 0.02, 0.08)),
    "right_eye": (3, (0.013,) * 3, (-0.032, 0.02, 0.08)),
    "upper_teeth_and_gums": (2, (0.025, 0.01, 0.02), (0.0, -0.04, 0.06)),
    "lower_teeth_and_gums": (2, (0.025, 0.01, 0.02), (0.0, -0.06, 0.06)),
    "tongue": (2, (0.015, 0.008, 0.025), (0.0, -0.05, 0.05)),
}
_IDENTITY = {"head": 170, "eyes": 3, "teeth": 80}
_EXPRESSION = {"left_eye_region": 100, "right_eye_region": 100, "lower_face_region": 150}


def cube_ball(n: int) -> tuple[Array, Array, Array]:
    """A unit sphere from a cube: points (6 n² + 2, 3), quads (6 n², 4), and their uv (6 n², 4, 2)."""
    ticks = np.linspace(-1, 1, n + 1)
    corners, texture = [], []
    for axis in range(3):
        for sign in (1.0, -1.0):
            for a in range(n):
                for b in range(n):
                    square = [(a, b), (a + 1, b), (a + 1, b + 1), (a, b + 1)]
                    square = square if sign > 0 else square[::-1]
                    for i, j in square:
                        point = np.empty(3)
                        point[axis], point[(axis + 1) % 3], point[(axis + 2) % 3] = sign, ticks[i], ticks[j]
                        corners.append(point)
                        texture.append([(axis + i / n) / 3, ((sign > 0) + j / n) / 2])
    points, index = np.unique(np.round(corners, 9), axis=0, return_inverse=True)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, index.reshape(-1, 4), np.array(texture).reshape(-1, 4, 2)


def gnm_arrays(*, small: bool = True, seed: int = 0) -> dict[str, Array]:
    """Return the 23 arrays of the file.

    Args:
        small: Fewer components, so that tests are quick; else 253 and 383 of them.
        seed: Of everything made up.
    """
    random = np.random.default_rng(seed)
    vertices, quads, quad_uvs, owner = [], [], [], []
    for index, (n, axes, centre) in enumerate(_BALLS.values()):
        points, squares, texture = cube_ball(n)
        quads.append(squares + sum(map(len, vertices)))
        vertices.append(points * axes + np.array(centre))
        quad_uvs.append(texture)
        owner += [index] * len(points)
    v, q, uv, part = (
        np.concatenate(vertices),
        np.concatenate(quads),
        np.concatenate(quad_uvs),
        np.array(owner),
    )
    count = len(v)

    identity_names = [f"{k}_{i:03d}" for k, n in _IDENTITY.items() for i in range(min(n, 4 if small else n))]
    expression_names = [
        *(f"{k}_{i:03d}" for k, n in _EXPRESSION.items() for i in range(min(n, 5 if small else n))),
        "tongue_mean",
        *(f"tongue_{i:03d}" for i in range(3 if small else 31)),
        "pupils_000",
    ]
    groups = {name: part == index for index, name in enumerate(PARTS)}
    front = groups["skin"] & (v[:, 2] > 0.05)
    groups |= {
        "hockey_mask": v[:, 2] > 0.02,
        "skin_exterior": groups["skin"],
        "left": v[:, 0] > 0,
        "right": v[:, 0] < 0,
        "upper_lip": front & (abs(v[:, 1] + 0.045) < 0.015),
        "lower_lip": front & (abs(v[:, 1] + 0.07) < 0.015),
        "nose_region": front & (abs(v[:, 1]) < 0.02),
        "left_brow_region": front & (v[:, 1] > 0.03) & (v[:, 0] > 0.01),
        "right_brow_region": front & (v[:, 1] > 0.03) & (v[:, 0] < -0.01),
        "ears": groups["skin"] & (abs(v[:, 0]) > 0.07),
        "mouth_sock": groups["skin"] & (v[:, 1] < -0.1),
        "teeth": groups["upper_teeth_and_gums"] | groups["lower_teeth_and_gums"],
        "irises": (groups["left_eye"] | groups["right_eye"]) & (v[:, 2] > 0.088),
        "pupils": (groups["left_eye"] | groups["right_eye"]) & (v[:, 2] > 0.0915),
    }

    weights = np.zeros((4, count))
    weights[1] = np.clip((v[:, 1] + 0.1) / 0.05, 0, 1)
    weights[0] = 1 - weights[1]
    regressor = np.zeros((4, count))
    regressor[0], regressor[1] = v[:, 1] < -0.09, abs(v[:, 1] + 0.05) < 0.03
    for joint, eye in ((2, "left_eye"), (3, "right_eye")):
        weights[:, groups[eye]] = np.eye(4)[joint][:, None]
        regressor[joint] = groups[eye]
    regressor /= regressor.sum(1, keepdims=True)
    identity = 0.002 * np.sin(v @ random.normal(0, 60, (len(identity_names), 3, 3)))
    template_joints, joint_basis = regressor @ v, regressor @ identity
    triangles = np.concatenate([q[:, :3], q[:, [2, 3, 0]]])
    mirror = ((v[:, None] * (-1, 1, 1) - v[None]) ** 2).sum(-1).argmin(1)
    single = {"dtype": np.float32}
    return {
        "version": np.array("3.0"),
        "variant": np.array("head"),
        "template_vertex_positions": np.array(v, **single),
        "template_joint_positions": np.array(template_joints, **single),
        "vertex_identity_basis": np.array(identity, **single),
        "joint_identity_basis": np.array(joint_basis, **single),
        "expression_basis": np.array(
            0.001 * np.cos(v @ random.normal(0, 20, (len(expression_names), 3, 3))), **single
        ),
        "identity_names": np.array(identity_names),
        "joint_names": np.array(JOINTS),
        "expression_names": np.array(expression_names),
        "joint_parent_indices": np.array([0, 0, 1, 1], np.int32),
        "skinning_weights": np.array(weights, **single),
        "quads": q.astype(np.int32),
        "triangles": triangles.astype(np.int32),
        "quad_uvs": np.array(uv, **single),
        "triangle_uvs": np.concatenate([uv[:, :3], uv[:, [2, 3, 0]]]).astype(np.float32),
        "mesh_component_names": np.array(PARTS),
        "mirror_indices": mirror.astype(np.int32),
        "joint_regressor": np.array(regressor, **single),
        "pose_correctives_regressor": np.zeros((36, 3 * count), np.float32),
        "bone_aligned_template_joint_orientations": np.tile(np.eye(3, **single), (4, 1, 1)),
        "vertex_groups": np.array(list(groups.values()), **single),
        "vertex_group_names": np.array(list(groups)),
    }


def write_gnm(path: Path, **changes: Any) -> Path:
    """Write the stand-in, some arrays changed or (None) left out; return ``path``."""
    arrays = {key: value for key, value in {**gnm_arrays(), **changes}.items() if value is not None}
    np.savez(path, allow_pickle=False, **arrays)
    return path


def gnm_vertices(
    arrays: dict[str, Array], identity: Array, expression: Array, rotations: Array
) -> tuple[Array, Array]:
    """GNM's own formula as its code says it, with loops, in float64: posed vertices (V, 3) and joints (4, 3).

    Args:
        arrays: Of the file.
        identity: (I,).
        expression: (E,).
        rotations: (4, 3, 3), each joint's to its parent.
    """
    own = {k: a.astype(np.float64) for k, a in arrays.items() if a.dtype.kind == "f"}
    vertices = own["template_vertex_positions"] + np.tensordot(identity, own["vertex_identity_basis"], 1)
    vertices = vertices + np.tensordot(expression, own["expression_basis"], 1)
    feature = (rotations - np.eye(3)).ravel()
    vertices = vertices + (feature @ own["pose_correctives_regressor"]).reshape(-1, 3)
    joints = own["template_joint_positions"] + np.tensordot(identity, own["joint_identity_basis"], 1)
    world: list[Array] = []
    for j, parent in enumerate(arrays["joint_parent_indices"]):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = joints[j] - (joints[parent] if j else 0)
        world.append(world[parent] @ local if j else local)
    posed = np.zeros_like(vertices)
    for j, matrix in enumerate(world):
        moved = vertices @ matrix[:3, :3].T + (matrix[:3, 3] - matrix[:3, :3] @ joints[j])
        posed += own["skinning_weights"][j][:, None] * moved
    return posed, np.stack([matrix[:3, 3] for matrix in world])


def gnm_of_open_head() -> dict[str, Array]:
    """Return the open head in GNM's layout and sizes: with a face, and without a jaw joint."""
    head = load_head()
    count, vertices, regions = head.num_vertices, head.v_template.numpy(), head.regions
    units = head.exprdirs.numpy().reshape(3 * count, -1).astype(np.float64)
    basis, sizes, _ = np.linalg.svd(units, full_matrices=False)
    expression, identity = np.zeros((383, count, 3)), np.zeros((253, count, 3))
    expression[: units.shape[1]] = (basis * sizes / 3).T.reshape(-1, count, 3)
    identity[: head.num_shape] = head.shapedirs.permute(2, 0, 1).numpy()
    weights, chosen = head.weights.numpy(), head.J_regressor.numpy()[[0, 1, 3, 4]]
    groups = {
        "skin": ~(regions["eyeballs"] | regions["teeth"] | regions["tongue"]),
        "left_eye": regions["left_eyeball"],
        "right_eye": regions["right_eyeball"],
        "tongue": regions["tongue"],
        "upper_teeth_and_gums": regions["teeth"],
        "hockey_mask": regions["face"],
        "upper_lip": regions["lips"],
        "ears": regions["ears"],
        "mouth_sock": regions["mouth_inside"],
    }
    arrays = gnm_arrays() | {
        "template_vertex_positions": vertices,
        "vertex_identity_basis": identity,
        "expression_basis": expression,
        "template_joint_positions": chosen @ vertices,
        "joint_identity_basis": np.einsum("jv,svk->sjk", chosen, identity),
        "joint_regressor": chosen,
        "skinning_weights": np.stack([weights[:, 0], weights[:, 1] + weights[:, 2], *weights[:, 3:].T]),
        "expression_names": np.array([f"expression_{k:03d}" for k in range(383)]),
        "identity_names": np.array([f"identity_{k:03d}" for k in range(253)]),
        "triangles": head.faces.numpy().astype(np.int32),
        "vertex_groups": np.array(list(groups.values())),
        "vertex_group_names": np.array(list(groups)),
        "mesh_component_names": np.array(list(groups)[:5]),
    }
    for name in ("pose_correctives_regressor", "triangle_uvs", "quads", "quad_uvs", "mirror_indices"):
        del arrays[name]
    return {k: a.astype(np.float32) if a.dtype.kind in "fb" else a for k, a in arrays.items()}
