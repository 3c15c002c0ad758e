"""Google's GNM Head as a head model: a reader for ``gnm_head.npz``.

GNM ("Generative aNthropometric Model", Google, 2026, code and weights Apache-2.0) is published at
https://huggingface.co/google/gnm-v3 (``v3_0/gnm_head.npz``) and https://github.com/google/GNM. Its formula is
FLAME's but for the joints: vertices are ``template + identity·β + expression·ψ``, skinned linearly over the
joints neck (the root), head, left eye and right eye, whose places are ``template + identity·β`` of their own.
There is no jaw joint: the jaw is moved by the expression. Axes are ours: metres, +Y up, looking along +Z.

Layout of version 3.0, from GNM's ``gnm/shape/gnm_xnp.py`` and its tests, and from ``body_models.gnm._io`` of
PyPI's body-models 0.26.2; with V = 17,821 vertices, I = 253, E = 383, J = 4, T = 35,324 triangles,
Q = 17,662 quads, G = 46 groups:

=========================================== ================ ==============================================
``version``, ``variant``                    ()               "3.0", "head"
``template_vertex_positions``               (V, 3)           m
``vertex_identity_basis``                   (I, V, 3)        m per standard deviation
``expression_basis``                        (E, V, 3)        the same
``template_joint_positions``                (J, 3)           m
``joint_identity_basis``                    (I, J, 3)        m per standard deviation
``joint_regressor``                         (J, V)           vertices to joints
``skinning_weights``                        (J, V)
``joint_parent_indices``, ``joint_names``   (J,)             the root's parent is itself or -1
``pose_correctives_regressor``              (9 J, 3 V)       of all joints, the root included; zero in 3.0
``triangles``, ``triangle_uvs``             (T, 3), (T, 3, 2) v up, each part on a square of its own
``vertex_groups``, ``vertex_group_names``   (G, V), (G,)     soft masks
``mesh_component_names``                    (6,)             the groups that are the mesh's separate parts
``identity_names``, ``expression_names``    (I,), (E,)
``quads``, ``quad_uvs``, ``mirror_indices``, ``bone_aligned_template_joint_orientations``: not read
=========================================== ================ ==============================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d._npz import member_names, read_npz, texts
from recon3d.conventions import GLOBAL, JAW, JOINT_NAMES, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.media._open import shown

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

#: In float64 the real file would unpack to 0.3 GB.
MAX_BYTES = 1 << 30

_NUMBERS = (
    "template_vertex_positions",
    "vertex_identity_basis",
    "expression_basis",
    "template_joint_positions",
    "joint_identity_basis",
    "joint_regressor",
    "skinning_weights",
    "joint_parent_indices",
    "triangles",
)
_TEXTS = ("version", "variant", "joint_names", "expression_names")
_REQUIRED = (*_NUMBERS, *_TEXTS)
_OPTIONAL = (
    "pose_correctives_regressor",
    "triangle_uvs",
    "vertex_groups",
    "vertex_group_names",
    "mesh_component_names",
)
_SNIFFED = ("template_vertex_positions", "vertex_identity_basis", "expression_basis")

#: GNM's joints, and which of ours each is: its neck is what FLAME calls global.
_JOINTS: Mapping[str, int] = {"neck": GLOBAL, "head": NECK, "left_eye": LEFT_EYE, "right_eye": RIGHT_EYE}
#: Regions of ours, each made of GNM's groups of which there are any.
_REGIONS: Mapping[str, tuple[str, ...]] = {
    "face": ("hockey_mask",),
    "lips": ("upper_lip", "lower_lip"),
    "brows": ("left_brow_region", "right_brow_region"),
    "nose": ("nose_region",),
    "ears": ("ears",),
    "eyeballs": ("left_eye", "right_eye"),
    "left_eyeball": ("left_eye",),
    "right_eyeball": ("right_eye",),
    "eye_sockets": ("eye_sockets",),
    "mouth_inside": ("mouth_sock",),
    "teeth": ("upper_teeth_and_gums", "lower_teeth_and_gums"),
    "tongue": ("tongue",),
}
_SKIN = (0.78, 0.6, 0.51)
#: Plain colours by group, sRGB, later ones over earlier ones: what detectors see of a face.
_COLORS: Mapping[str, tuple[float, float, float]] = {
    "upper_lip": (0.66, 0.36, 0.34),
    "lower_lip": (0.66, 0.36, 0.34),
    "mouth_sock": (0.35, 0.13, 0.13),
    "gums": (0.7, 0.36, 0.36),
    "teeth": (0.9, 0.88, 0.82),
    "tongue": (0.7, 0.36, 0.36),
    "left_eye": (0.93, 0.91, 0.89),
    "right_eye": (0.93, 0.91, 0.89),
    "irises": (0.33, 0.23, 0.15),
    "pupils": (0.03, 0.03, 0.03),
}
#: A vertex belongs to a group from this weight on.
_MEMBER = 0.5
#: Joints farther than this from what the file's regressor gives are regressed anew, m (β: m per deviation).
_REGRESSOR_SLACK = 1e-5


def looks_like_gnm(path: str | Path) -> bool:
    """Tell from the names in it whether a file is a GNM model; False for whatever cannot be read."""
    return member_names(path).issuperset(_SNIFFED)


def read_gnm(path: str | Path) -> dict[str, Array]:
    """Read GNM Head 3 as the arrays that ``HeadModel`` takes.

    Its neck becomes our joint global and its head our neck. The jaw joint lies where the neck does and moves
    nothing. Where the joints that the file's regressor gives are not those that its identity basis says, the
    regressor is corrected as little as possible. The square texture of each separate part is moved to a place
    of its own, the skin's being the largest.

    Returns:
        ``v_template`` (V, 3), ``f`` (F, 3), ``shapedirs`` (V, 3, 253), ``exprdirs`` (V, 3, 383),
        ``posedirs`` (V, 3, 0) or (V, 3, 36), ``J_regressor`` (5, V), ``weights`` (V, 5), ``kintree_table``
        (2, 5), ``expression_names`` (383,), ``colors`` (V, 3); with what the file has for them ``uv`` (U, 2),
        ``f_uv`` (F, 3) and ``region_*`` (V,).

    Raises:
        InputError: The file is missing, damaged, is no GNM head of version 3, or has pose correctives of its
            root.
    """
    name = shown(path)
    file = read_npz(path, (*_REQUIRED, *_OPTIONAL), what="a GNM head", max_bytes=MAX_BYTES)
    missing = [key for key in _REQUIRED if key not in file]
    if missing:
        raise InputError(f"{name}: not a GNM head: {', '.join(missing)} missing")
    version, variant = (" ".join(texts(file[key])) for key in ("version", "variant"))
    if variant != "head" or version.split(".")[0] != "3":
        raise InputError(
            f"{name}: is GNM version {shown(version)!r}, variant {shown(variant)!r}; "
            "recon3d reads version 3, variant 'head'"
        )
    _check(file, name)
    places = _joint_places(file, name)
    groups = _groups(file)
    template = file["template_vertex_positions"].astype(np.float32)
    arrays: dict[str, Array] = {
        "v_template": template,
        "f": file["triangles"].astype(np.int64),
        "shapedirs": np.ascontiguousarray(np.moveaxis(file["vertex_identity_basis"], 0, -1), np.float32),
        "exprdirs": np.ascontiguousarray(np.moveaxis(file["expression_basis"], 0, -1), np.float32),
        "posedirs": _posedirs(file, places, name),
        "J_regressor": _regressor(file, places),
        "weights": _weights(file, places),
        "kintree_table": _kintree(file, places, name),
        "expression_names": np.array(texts(file["expression_names"])),
        "colors": _colors(groups, len(template)),
        **_regions(groups),
    }
    if "triangle_uvs" in file:
        arrays["uv"], arrays["f_uv"] = _texture(file, groups)
    return arrays


def _check(file: Mapping[str, Array], name: str) -> None:
    """Refuse arrays that do not fit together, or hold what is no number.

    Raises:
        InputError: One does; the message names it.
    """
    v, e = len(file["template_vertex_positions"]), len(file["expression_basis"])
    i, j, t = len(file["vertex_identity_basis"]), len(file["joint_names"]), len(file["triangles"])
    g = len(file.get("vertex_group_names", ()))
    sizes = {
        "template_vertex_positions": (v, 3),
        "vertex_identity_basis": (i, v, 3),
        "expression_basis": (e, v, 3),
        "template_joint_positions": (j, 3),
        "joint_identity_basis": (i, j, 3),
        "joint_regressor": (j, v),
        "skinning_weights": (j, v),
        "joint_parent_indices": (j,),
        "triangles": (t, 3),
        "expression_names": (e,),
        "pose_correctives_regressor": (9 * j, 3 * v),
        "triangle_uvs": (t, 3, 2),
        "vertex_groups": (g, v),
    }
    for key, size in sizes.items():
        if key not in file:
            continue
        if file[key].shape != size:
            raise InputError(f"{name}: damaged GNM head: {key} is {file[key].shape}, {size} is wanted")
        kind = file[key].dtype.kind
        if key in (*_NUMBERS, *_OPTIONAL) and kind not in "fiu":
            raise InputError(f"{name}: damaged GNM head: {key} holds {file[key].dtype}, numbers are wanted")
        if kind == "f" and not np.isfinite(file[key]).all():
            raise InputError(f"{name}: damaged GNM head: {key} holds a value that is not finite")
    if not (v and t):
        raise InputError(f"{name}: damaged GNM head: it has no surface")
    if file["triangles"].min() < 0 or file["triangles"].max() >= v:
        raise InputError(f"{name}: damaged GNM head: a triangle names a vertex that does not exist")


def _joint_places(file: Mapping[str, Array], name: str) -> list[int]:
    """Return which of our joints each of the file's is.

    Raises:
        InputError: The file has other joints, or the eyes are on each other's side.
    """
    names = texts(file["joint_names"])
    if sorted(names) != sorted(_JOINTS):
        raise InputError(
            f"{name}: the joints are {shown(', '.join(names))}; {', '.join(_JOINTS)} are those of GNM Head 3"
        )
    left, right = (file["template_joint_positions"][names.index(eye), 0] for eye in ("left_eye", "right_eye"))
    if left <= right:
        raise InputError(
            f"{name}: the left eye is not on the side of +X; the head is mirrored or looks along -Z"
        )
    return [_JOINTS[joint] for joint in names]


def _weights(file: Mapping[str, Array], places: Sequence[int]) -> Floats:
    weights = np.zeros((file["skinning_weights"].shape[1], len(JOINT_NAMES)), np.float32)
    weights[:, places] = file["skinning_weights"].T
    return weights


def _kintree(file: Mapping[str, Array], places: Sequence[int], name: str) -> npt.NDArray[np.int64]:
    """Return FLAME's table of joints: parents, and the joints themselves; the jaw hangs on the neck.

    Raises:
        InputError: The joints do not hang on the neck, each on one before it.
    """
    parents = np.full(len(JOINT_NAMES), NECK)
    for own, parent in enumerate(file["joint_parent_indices"].tolist()):
        inside = 0 <= parent < len(places) and parent != own
        parents[places[own]] = places[int(parent)] if inside else -1
    order = np.arange(len(JOINT_NAMES))
    if (parents >= order).any() or (parents < 0).sum() != 1:
        raise InputError(f"{name}: damaged GNM head: its joints make no tree with the neck as its root")
    return np.stack([parents, order])


def _regressor(file: Mapping[str, Array], places: Sequence[int]) -> Floats:
    """Return the regressor of our joints (5, V), which gives the file's joints for every identity."""
    regressor = np.zeros((len(JOINT_NAMES), file["joint_regressor"].shape[1]), np.float32)
    regressor[list(places)] = _corrected(file)
    regressor[JAW] = regressor[NECK]
    return regressor


def _corrected(file: Mapping[str, Array]) -> npt.NDArray[np.float64]:
    """Return the file's regressor (J, V), if need be with the smallest change that makes it exact.

    Exact means that it gives the template's joints, what the identity basis adds to them, and that it goes
    along when the head is moved. That is a linear system with one equation a coordinate and component, of
    which the solution nearest to the file's regressor is taken.
    """
    own = file["joint_regressor"].astype(np.float64)
    template = file["template_vertex_positions"].astype(np.float64)
    basis = file["vertex_identity_basis"]
    per_vertex = np.concatenate(
        [template, np.moveaxis(basis, 0, -1).reshape(len(template), -1), np.ones((len(template), 1))], axis=1
    )
    joints = file["template_joint_positions"].astype(np.float64)
    directions = np.moveaxis(file["joint_identity_basis"], 0, -1).reshape(len(joints), -1)
    wanted = np.concatenate([joints, directions, np.ones((len(joints), 1))], axis=1)
    short = wanted - own @ per_vertex
    if np.abs(short).max() <= _REGRESSOR_SLACK:
        return own
    # Equations of one size each: the components' sizes differ by orders of magnitude.
    size = np.linalg.norm(per_vertex, axis=0)
    size[size == 0] = 1
    per_vertex /= size
    inverse = np.linalg.pinv(per_vertex.T @ per_vertex, rcond=1e-10, hermitian=True)
    return own + short / size @ inverse @ per_vertex.T


def _posedirs(file: Mapping[str, Array], places: Sequence[int], name: str) -> Floats:
    """Return the pose correctives in FLAME's form, (V, 3, 36), or (V, 3, 0) where they do nothing.

    Raises:
        InputError: The root has some. FLAME's formula has none there, because in it turning the whole head
            changes nothing else.
    """
    vertices = len(file["template_vertex_positions"])
    correctives = file.get("pose_correctives_regressor")
    if correctives is None or not correctives.any():
        return np.zeros((vertices, 3, 0), np.float32)
    by_joint = correctives.reshape(len(places), 9, vertices, 3).astype(np.float32)
    posedirs = np.zeros((vertices, 3, len(JOINT_NAMES) - 1, 9), np.float32)
    for own, place in enumerate(places):
        if place != GLOBAL:
            posedirs[:, :, place - 1] = np.moveaxis(by_joint[own], 0, -1)
        elif by_joint[own].any():
            raise InputError(f"{name}: has pose correctives of its root joint, which recon3d cannot apply")
    return posedirs.reshape(vertices, 3, -1)


def _groups(file: Mapping[str, Array]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the members of each group, (V,)."""
    if "vertex_groups" not in file or "vertex_group_names" not in file:
        return {}
    return {
        group: weight > _MEMBER
        for group, weight in zip(texts(file["vertex_group_names"]), file["vertex_groups"], strict=True)
    }


def _regions(groups: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, Array]:
    regions: dict[str, Array] = {}
    for region, parts in _REGIONS.items():
        found = [groups[part] for part in parts if part in groups]
        if found:
            regions[f"region_{region}"] = np.any(found, axis=0)
    if "region_face" in regions and "skin" in groups:
        regions["region_face"] &= groups["skin"]
    return regions


def _colors(groups: Mapping[str, npt.NDArray[np.bool_]], vertices: int) -> Floats:
    colors = np.tile(np.array(_SKIN, np.float32), (vertices, 1))
    for group, color in _COLORS.items():
        if group in groups:
            colors[groups[group]] = color
    return colors


def _texture(
    file: Mapping[str, Array], groups: Mapping[str, npt.NDArray[np.bool_]]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return texture points (U, 2) and which of them each triangle's corners have (T, 3).

    In the file every separate part of the mesh fills the unit square. Here the skin has the largest square
    that leaves a column at the right for the others, which share it from the bottom up.
    """
    corners = file["triangle_uvs"].astype(np.float32).copy()
    parts = [part for part in texts(file.get("mesh_component_names", np.array([], str))) if part in groups]
    if len(parts) > 1:
        first = file["triangles"][:, 0]
        parts.sort(key=lambda part: int(groups[part].sum()), reverse=True)
        side = 1 / len(parts)
        for place, part in enumerate(parts):
            scale, corner = (1 - side, (0.0, 0.0)) if place == 0 else (side, (1 - side, side * (place - 1)))
            inside = groups[part][first]
            corners[inside] = corners[inside] * np.float32(scale) + np.array(corner, np.float32)
    points, index = np.unique(corners.reshape(-1, 2), axis=0, return_inverse=True)
    return points, index.reshape(-1, 3).astype(np.int64)
