"""The parametric head in FLAME's formula.

Source of the method: T. Li, T. Bolkart, M. J. Black, H. Li, J. Romero, "Learning a model of facial shape
and expression from 4D scans" (FLAME), ACM Transactions on Graphics 36(6), 2017: a template plus linear
shape, expression and pose-corrective offsets, then linear blend skinning over five joints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recon3d.conventions import ARKIT_NAMES, JOINT_NAMES
from recon3d.errors import InputError
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.resources import OPEN_HEAD, resource_path

Arrays = dict[str, npt.NDArray[Any]]

_REQUIRED = ("v_template", "f", "shapedirs", "exprdirs", "J_regressor", "weights", "kintree_table")


class HeadOutput(NamedTuple):
    """Posed geometry of a batch of heads."""

    vertices: Tensor
    """(B, V, 3) m."""
    joints: Tensor
    """(B, J, 3) m, after posing."""


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Points fixed to the surface: a triangle and barycentric weights each."""

    triangle: Tensor
    """(N,) int64, index into ``faces``."""
    barycentric: Tensor
    """(N, 3), rows sum to 1."""

    def __len__(self) -> int:
        return int(self.triangle.shape[0])


class HeadModel(nn.Module):
    """A head with identity, expression and pose: the parameters' own formula, nothing else.

    Buffers (V vertices, S shape, E expression, J joints, U texture points):
        v_template (V, 3) m, faces (F, 3), shapedirs (V, 3, S) m per standard deviation,
        exprdirs (V, 3, E) m per unit, posedirs (V, 3, 9 (J - 1)) or (V, 3, 0), J_regressor (J, V),
        weights (V, J), uv (U, 2) in [0, 1] with v up, faces_uv (F, 3), colors (V, 3) sRGB in [0, 1],
        arkitdirs (V, 3, 52) m per ARKit unit: carried over to heads that show expressions in other terms,
        else (V, 3, 0).
    """

    v_template: Tensor
    faces: Tensor
    shapedirs: Tensor
    exprdirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    weights: Tensor
    uv: Tensor
    faces_uv: Tensor

    def __init__(
        self, arrays: Arrays, *, name: str, digest: str, lacking: Callable[[HeadModel], Arrays] | None = None
    ) -> None:
        """Build it of the arrays of a file.

        Args:
            arrays: See ``flame_model/README.md``.
            name: Of the file.
            digest: Of its contents.
            lacking: Finds what the file does not tell, which takes a while: asked when that is first needed,
                it returns the arrays with colours, regions, landmarks and units among them.
        """
        super().__init__()
        self.name = name
        self.digest = digest
        v = arrays["v_template"].shape[0]
        joints = arrays["weights"].shape[1]
        for key in ("v_template", "shapedirs", "exprdirs", "J_regressor", "weights"):
            self.register_buffer(key, torch.tensor(arrays[key], dtype=torch.float32))
        self.register_buffer("faces", torch.tensor(arrays["f"].astype(np.int64)))
        posedirs = arrays.get("posedirs", np.zeros((v, 3, 0), np.float32))
        self.register_buffer("posedirs", torch.tensor(posedirs, dtype=torch.float32))
        uv, faces_uv = arrays.get("uv"), arrays.get("f_uv")
        has_uv = uv is not None and faces_uv is not None
        self.register_buffer("uv", torch.tensor(uv if has_uv else np.zeros((0, 2)), dtype=torch.float32))
        self.register_buffer(
            "faces_uv", torch.tensor(faces_uv if has_uv else np.zeros((0, 3)), dtype=torch.int64)
        )
        self.parents = tuple(int(p) if 0 <= p < joints else -1 for p in arrays["kintree_table"][0])
        self.joint_names = JOINT_NAMES[:joints]
        #: As in FLAME, joints are read off the face as it is, expression included; else off the identity.
        self.joints_follow_expression = bool(arrays.get("joints_follow_expression", False))
        self.expression_names = tuple(str(n) for n in arrays.get("expression_names", ()))
        self._lacking = lacking
        self._wear(arrays)
        self._fold_static_terms()

    def _wear(self, arrays: Arrays) -> None:
        """Take over what tells the surface's meaning, not its form."""
        count = self.num_vertices
        colors = arrays.get("colors", np.full((count, 3), 0.7))
        units = arrays.get("arkitdirs", np.zeros((count, 3, 0)))
        for name, values in (("_colors", colors), ("_arkitdirs", units)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).to(self.v_template))
        self._regions = {k[7:]: arrays[k].astype(bool) for k in arrays if k.startswith("region_")}
        self._embeddings = _embeddings(arrays)
        self._on_open = self._embeddings.pop("open_head", None)

    def _completed(self) -> HeadModel:
        """Find what the file does not tell, unless that was done before."""
        lacking, self._lacking = self._lacking, None  # who finds it looks at the head as it is
        if lacking is not None:
            try:
                with torch.inference_mode(False), torch.no_grad():
                    self._wear(lacking(self))
            except BaseException:
                self._lacking = lacking
                raise
        return self

    @property
    def colors(self) -> Tensor:
        """(V, 3) sRGB in [0, 1]."""
        return self._completed().get_buffer("_colors")

    @property
    def arkitdirs(self) -> Tensor:
        """(V, 3, 52) m per ARKit unit, or (V, 3, 0)."""
        return self._completed().get_buffer("_arkitdirs")

    @property
    def regions(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Masks (V,) by name."""
        return self._completed()._regions

    @property
    def embeddings(self) -> dict[str, LandmarkEmbedding]:
        """Landmarks by name: mediapipe478, ibug68, contour."""
        return self._completed()._embeddings

    @property
    def on_open(self) -> LandmarkEmbedding | None:
        """Where on the open head each vertex (V,) lies; None for the open head itself, or if unknown."""
        return self._completed()._on_open

    def _fold_static_terms(self) -> None:
        """Precompute what does not depend on the pose: one matrix for all offsets, and joints from β."""
        basis = torch.cat([self.shapedirs, self.exprdirs], dim=-1).flatten(0, 1).T.contiguous()
        self.register_buffer("_basis", basis, persistent=False)  # (S + E, 3 V)
        self.register_buffer("_joint_template", self.J_regressor @ self.v_template, persistent=False)
        for name, moves in (("_joint_dirs", self.shapedirs), ("_joint_exprdirs", self.exprdirs)):
            joint_dirs = torch.einsum("jv,vks->sjk", self.J_regressor, moves).flatten(1)
            self.register_buffer(name, joint_dirs.contiguous(), persistent=False)  # (S, 3 J), (E, 3 J)

    @property
    def num_vertices(self) -> int:
        """V."""
        return int(self.v_template.shape[0])

    @property
    def num_shape(self) -> int:
        """S."""
        return int(self.shapedirs.shape[-1])

    @property
    def num_expression(self) -> int:
        """E."""
        return int(self.exprdirs.shape[-1])

    @property
    def num_joints(self) -> int:
        """J."""
        return int(self.weights.shape[1])

    @property
    def id(self) -> str:
        """Name and short hash, as captures record it: ``open_head/1a2b3c4d``."""
        return f"{self.name}/{self.digest}"

    @cached_property
    def form(self) -> str:
        """Short hash of template, triangles, identity and expression: what learnt coefficients depend on."""
        parts = (self.v_template, self.faces, self.shapedirs, self.exprdirs)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:8]

    @property
    def speaks_arkit(self) -> bool:
        """Whether the expression coefficients are the 52 ARKit units themselves."""
        return self.expression_names == ARKIT_NAMES

    @property
    def knows_arkit(self) -> bool:
        """Whether it can show the 52 ARKit units, be it that they were carried over to it."""
        return self.speaks_arkit or self.arkitdirs.shape[-1] == len(ARKIT_NAMES)

    @cached_property
    def in_units(self) -> HeadModel:
        """The same head with the ARKit units for expressions, as animators know it; itself if it is that.

        Units move jaw and eyeballs, so that its joints may rest, and pose correctives are left out.

        Raises:
            InputError: It knows no units.
        """
        if self.speaks_arkit:
            return self
        if not self.knows_arkit:
            raise InputError(f"the head model {self.id} does not know the ARKit units")
        names = ("v_template", "shapedirs", "J_regressor", "weights", "uv", "colors")
        arrays: Arrays = {name: getattr(self, name).cpu().numpy() for name in names}
        arrays |= {"f": self.faces.cpu().numpy(), "f_uv": self.faces_uv.cpu().numpy()}
        arrays |= {"exprdirs": self.arkitdirs.cpu().numpy(), "expression_names": np.array(ARKIT_NAMES)}
        arrays["kintree_table"] = np.array([self.parents, range(self.num_joints)])
        arrays |= {f"region_{name}": mask for name, mask in self.regions.items()}
        head = HeadModel(arrays, name=self.name, digest=f"{self.digest}+arkit").to(self.v_template)
        head._embeddings, head._on_open = self.embeddings, self.on_open
        return head.requires_grad_(False)

    @cached_property
    def mirror(self) -> Tensor:
        """(V,) int64: the vertex that lies where each one's mirror image does, left for right."""
        turned = self.v_template * self.v_template.new_tensor((-1.0, 1.0, 1.0))
        return torch.cat([torch.cdist(part, self.v_template).argmin(1) for part in turned.split(1024)])

    def unposed(self, shape: Tensor, expression: Tensor) -> Tensor:
        """Return the head before posing: (B, S) and (B, E) coefficients to (B, V, 3) m."""
        basis: Tensor = self.get_buffer("_basis")
        offsets = torch.cat([shape, expression], dim=-1) @ basis
        return self.v_template + offsets.view(-1, self.num_vertices, 3)

    def rest_joints(self, shape: Tensor, expression: Tensor | None = None) -> Tensor:
        """Return the joints before posing, (B, J, 3) m; expressions (B, E) count on some heads."""
        offsets = shape @ self.get_buffer("_joint_dirs")
        if expression is not None and self.joints_follow_expression:
            offsets = offsets + expression @ self.get_buffer("_joint_exprdirs")
        rest: Tensor = self.get_buffer("_joint_template") + offsets.view(-1, self.num_joints, 3)
        return rest

    def forward(self, shape: Tensor, expression: Tensor, pose: Tensor) -> HeadOutput:
        """Evaluate the model; differentiable in every argument.

        Args:
            shape: (B, S) identity coefficients, in standard deviations.
            expression: (B, E) expression coefficients (the open head: ARKit units in [0, 1]).
            pose: (B, J, 3) axis-angle rotations, rad, each relative to the parent joint.

        Returns:
            Vertices (B, V, 3) and joints (B, J, 3), m. With the head-to-camera rotation in ``pose[:, 0]``
            they are in camera space but for the translation.
        """
        vertices = self.unposed(shape, expression)
        rotations = axis_angle_to_matrix(pose)
        if self.posedirs.shape[-1]:
            eye = torch.eye(3, dtype=pose.dtype, device=pose.device)
            feature = (rotations[:, 1:] - eye).flatten(1)
            vertices = vertices + torch.einsum("vkp,bp->bvk", self.posedirs, feature)
        rest = self.rest_joints(shape, expression)
        rotation, translation = _chain(rotations, rest, self.parents)
        # Linear blend skinning. The blended 3×4 transform of every vertex, column by column: (4, B, V, 3).
        columns = torch.cat([rotation, translation[..., None]], dim=-1).permute(3, 0, 1, 2)
        x, y, z, moved = torch.matmul(self.weights, columns).unbind(0)
        posed = torch.addcmul(moved, x, vertices[..., :1])
        posed = torch.addcmul(posed, y, vertices[..., 1:2])
        posed = torch.addcmul(posed, z, vertices[..., 2:])
        joints = torch.einsum("bjik,bjk->bji", rotation, rest) + translation
        return HeadOutput(posed, joints)

    def within(self, *names: str) -> Tensor:
        """Tell which vertices belong to any of some regions, (V,) bool; one it does not have holds none."""
        inside = torch.zeros(self.num_vertices, dtype=torch.bool)
        for name in names:
            if name in self.regions:
                inside |= torch.from_numpy(self.regions[name])
        return inside

    def landmarks(self, vertices: Tensor, name: str) -> Tensor:
        """Return the surface points of an embedding: (B, V, 3) vertices to (B, N, 3)."""
        embedding = self.embeddings[name]
        corners = vertices[:, self.faces[embedding.triangle]]
        weights = embedding.barycentric.to(vertices)[None, :, :, None]
        return (corners * weights).sum(-2)


def _chain(rotations: Tensor, rest: Tensor, parents: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Compose joint rotations down the tree, each about its own joint.

    Args:
        rotations: (B, J, 3, 3) relative to the parent.
        rest: (B, J, 3) joints before posing.
        parents: Index of the parent of each joint, -1 for the root; parents come first.

    Returns:
        World rotation (B, J, 3, 3) and translation (B, J, 3) that map an unposed point to its place.
    """
    world_rotation: list[Tensor] = []
    world_translation: list[Tensor] = []
    for j, parent in enumerate(parents):
        about = rest[:, j] - torch.einsum("bik,bk->bi", rotations[:, j], rest[:, j])
        if parent < 0:
            world_rotation.append(rotations[:, j])
            world_translation.append(about)
        else:
            world_rotation.append(world_rotation[parent] @ rotations[:, j])
            moved = torch.einsum("bik,bk->bi", world_rotation[parent], about)
            world_translation.append(moved + world_translation[parent])
    return torch.stack(world_rotation, 1), torch.stack(world_translation, 1)


def _embeddings(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, LandmarkEmbedding]:
    """Collect the embeddings stored as ``lmk_<name>_triangle`` and ``lmk_<name>_barycentric``."""
    found: dict[str, LandmarkEmbedding] = {}
    for key in arrays:
        if key.startswith("lmk_") and key.endswith("_triangle"):
            name = key[4:-9]
            found[name] = LandmarkEmbedding(
                torch.tensor(arrays[key].astype(np.int64)),
                torch.tensor(arrays[f"lmk_{name}_barycentric"], dtype=torch.float32),
            )
    return found


def _read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """Read a head model's ``.npz`` without unpickling anything, and a digest of it.

    Raises:
        InputError: The file is missing, damaged, or is not a head model.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such head model file") from error
    except (OSError, ValueError, BadZipFile, EOFError, AttributeError) as error:
        raise InputError(f"{path}: not a head model (an .npz in FLAME's format is wanted)") from error
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise InputError(f"{path}: not a head model in FLAME's format: {', '.join(missing)} missing")
    _check_sizes(path, arrays)
    # int8/float16 storage is a matter of the file alone: everything downstream is float32.
    for key in ("shapedirs", "exprdirs", "arkitdirs"):
        if key not in arrays:
            continue
        scale = arrays.pop(f"{key}_scale", None)
        arrays[key] = arrays[key].astype(np.float32) * (1.0 if scale is None else scale)
    return arrays, hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def _check_sizes(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    v, j = arrays["v_template"].shape[0], arrays["weights"].shape[-1]
    wanted = {
        "v_template": (v, 3),
        "shapedirs": (v, 3, arrays["shapedirs"].shape[-1]),
        "exprdirs": (v, 3, arrays["exprdirs"].shape[-1]),
        "J_regressor": (j, v),
        "weights": (v, j),
        "kintree_table": (2, j),
        "f": (arrays["f"].shape[0], 3),
    }
    for key, size in wanted.items():
        if arrays[key].shape != size:
            raise InputError(f"{path}: damaged head model: {key} is {arrays[key].shape}, {size} is wanted")
    if arrays["f"].min() < 0 or arrays["f"].max() >= v:
        raise InputError(f"{path}: damaged head model: a face names a vertex that does not exist")


def _opened(path: Path) -> HeadModel:
    """Read a head model of ours or of another project's."""
    from recon3d.assets import HEAD_MANIFEST, fetch
    from recon3d.head.prepared import foreign_head, is_ours

    if str(path) in HEAD_MANIFEST and not path.exists():
        path = fetch(str(path))
    if not is_ours(path):
        return foreign_head(path)
    arrays, digest = _read_arrays(path)
    return HeadModel(arrays, name=path.stem, digest=digest)


def load_head(
    path: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> HeadModel:
    """Load a head model; the open head that ships with recon3d when ``path`` is None.

    FLAME's own files and GNM's are taken as well; "gnm" is downloaded. Their landmarks and ARKit units are
    found when they are first asked for, which takes a minute, once (``prepared.py``).

    Raises:
        InputError: ``path`` is not a head model.
        AssetError: What is to be downloaded cannot be had.
    """
    file = resource_path(OPEN_HEAD) if path is None else Path(path)
    if path is None:
        arrays, digest = _read_arrays(file)
        head = HeadModel(arrays, name=file.stem, digest=digest)
    else:
        head = _opened(file)
    head.requires_grad_(False)
    return head.to(device=device, dtype=dtype)
