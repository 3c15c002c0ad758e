"""A stand-in for FLAME: its dimensions, its file form, its manner of showing expressions, but bases of ours.

FLAME's own bases may not be handed on. So identity, expressions, joints and weights are carried over from the
open head: to FLAME's real template, where that is at hand, or to the open head itself, cut down to as many
vertices as FLAME has.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flame_files import write_flame_pickle

from recon3d.assets import FACE_LANDMARKER, fetch
from recon3d.conventions import JAW
from recon3d.face import open_face_source
from recon3d.head import HeadModel, load_head
from recon3d.head._obj import read_obj
from recon3d.head.dressing import bare_arrays, dressed

Array = npt.NDArray[Any]

VERTICES, SHAPES, EXPRESSIONS = 5023, 300, 100
#: First identity coefficients of somebody unlike the mean.
_STRANGER = (-1.5, 1.2, -1.0, 1.3, -1.2, 1.0, 1.2, -1.0, 0.8, -0.8)


def cut_stand_in(stranger: bool = False) -> dict[str, Array]:
    """Return a stand-in of the open head's shape: without a tongue, and with holes behind the eyes.

    ``stranger``: its template is somebody unlike the mean, as another model's would be.
    """
    head = load_head()
    away = np.flatnonzero(head.regions["tongue"])
    sockets = np.flatnonzero(head.regions["eye_sockets"])
    hindmost = sockets[np.argsort(head.v_template[sockets, 2].numpy(), kind="stable")]
    away = np.concatenate([away, hindmost[: head.num_vertices - VERTICES - len(away)]])
    kept = np.setdiff1d(np.arange(head.num_vertices), away)
    number = np.full(head.num_vertices, -1)
    number[kept] = np.arange(VERTICES)
    faces = number[head.faces.numpy()]
    carried = [getattr(head, name).numpy()[kept] for name in ("shapedirs", "exprdirs", "weights")]
    template = head.v_template.numpy()[kept]
    if stranger:
        template = (template + carried[0][..., : len(_STRANGER)] @ np.array(_STRANGER)) * (1.05, 0.97, 1.0)
    return _official(template, faces[(faces >= 0).all(1)], *carried)


def template_stand_in(dressed: dict[str, Array]) -> dict[str, Array]:
    """Return a stand-in of FLAME's real template, which ``dressed`` (recon3d.head.dressing) has been."""
    head = load_head()
    corners = head.faces.numpy()[dressed["lmk_open_head_triangle"]]
    share = dressed["lmk_open_head_barycentric"].astype(np.float64)
    shapes, weights = (
        np.einsum("vc,vc...->v...", share, getattr(head, name).numpy()[corners])
        for name in ("shapedirs", "weights")
    )
    for side, joint in (("left", 3), ("right", 4)):
        ball = dressed[f"region_{side}_eyeball"]
        weights[:, joint] = 0
        weights[ball] = np.eye(5)[joint]
    weights /= weights.sum(1, keepdims=True)
    return _official(dressed["v_template"], dressed["f"], shapes, dressed["arkitdirs"], weights)


def write_stand_in(path: Path, arrays: dict[str, Array]) -> Path:
    """Write it as official files are: a pickle of Python 2 with chumpy's arrays."""
    return write_flame_pickle(path, arrays)


def _official(vertices: Array, faces: Array, shapes: Array, units: Array, weights: Array) -> dict[str, Array]:
    """Arrays of FLAME's sizes: what the jaw's turn does not do of the units goes into the components."""
    regressor = _regressor(vertices, weights)
    turned = _turned_jaw(vertices, weights[:, JAW], regressor[JAW] @ vertices)
    flat = units.reshape(3 * VERTICES, -1).astype(np.float64)
    by_joint = turned @ np.linalg.lstsq(turned, flat, rcond=None)[0]
    basis, sizes, _ = np.linalg.svd(flat - by_joint, full_matrices=False)
    # As if faces showed each unit at a third of its strength.
    components = np.zeros((VERTICES, 3, EXPRESSIONS))
    components[..., : flat.shape[1]] = (basis * sizes / 3).reshape(VERTICES, 3, -1)
    identity = np.zeros((VERTICES, 3, SHAPES))
    identity[..., : shapes.shape[2]] = shapes
    correctives = np.zeros((VERTICES, 3, 36))
    correctives[:, 2, 9 + 5] = 0.002 * weights[:, JAW]
    return {
        "v_template": vertices.astype(np.float64),
        "f": faces.astype(np.uint32),
        "shapedirs": identity,
        "exprdirs": components,
        "posedirs": correctives,
        "J_regressor": regressor,
        "weights": weights.astype(np.float64),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], range(5)]),
    }


def _turned_jaw(vertices: Array, share: Array, joint: Array) -> Array:
    """(3 V, 3): how vertices move as the jaw begins to turn about X, Y and Z."""
    axes = np.eye(3)
    moves = [np.cross(axis, vertices - joint) * share[:, None] for axis in axes]
    return np.stack([move.ravel() for move in moves], axis=1)


def _regressor(vertices: Array, weights: Array) -> Array:
    """(5, V) rows that give the open head's joints as affine means of a few vertices near them."""
    head = load_head()
    wanted = (head.J_regressor @ head.v_template).double().numpy()
    eyes = np.stack([vertices[weights[:, joint] > 0.5].mean(0) for joint in (3, 4)])
    wanted[:3] += eyes.mean(0) - wanted[3:].mean(0)  # the two heads' origins differ
    wanted[3:] = eyes
    rows = np.zeros((5, VERTICES))
    for joint, aim in enumerate(wanted):
        near = np.argsort(np.linalg.norm(vertices - aim, axis=1))[:60]
        system = np.vstack([vertices[near].T, np.ones(60)])
        rows[joint, near] = np.linalg.lstsq(system, np.append(aim, 1.0), rcond=None)[0]
    return rows


def dressed_template(path: Path) -> dict[str, Array]:
    """Read FLAME's template (an OBJ file), and find on it what the open head lends."""
    mesh = read_obj(path)
    vertices = (mesh.vertices - mesh.vertices.mean(0)).astype(np.float32)
    head = HeadModel(bare_arrays(vertices, mesh.faces), name="template", digest="0")
    source = open_face_source("mediapipe", path=fetch(FACE_LANDMARKER.name, quiet=True))
    return dressed(head, source) | {"v_template": vertices, "f": mesh.faces}


def main() -> None:
    """Write a stand-in: of FLAME's template, for benchmarks, or of a made-up head, for pictures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--template", type=Path, help="FLAME's head_template.obj")
    options = parser.parse_args()
    template = options.template
    made_up = template is None
    write_stand_in(
        options.out, cut_stand_in(True) if made_up else template_stand_in(dressed_template(template))
    )


if __name__ == "__main__":
    main()
