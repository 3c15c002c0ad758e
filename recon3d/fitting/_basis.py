"""The head reduced to its landmarks: before joints turn, each is linear in identity and expression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.fitting.controls import Controls
from recon3d.head.contour import JAW_POINTS, LINE_POINTS, outermost
from recon3d.head.model import HeadModel, LandmarkEmbedding
from recon3d.head.rotation import axis_angle_to_matrix


@dataclass(frozen=True)
class JointBasis:
    """How J turning joints carry N landmarks along: linear blend skinning, exact for points in triangles.

    A landmark is a mean of three corners, each moved by the joints that weigh on it. What a joint adds is its
    rotation less the identity, times the *lever*: the corners relative to the joint, each times its share.
    That is linear in the L coefficients of identity and expression again.

    Attributes:
        lever: (J, N, 3) m.
        lever_directions: (J, N, 3, L) m per coefficient.
        correctives: (N, 3, 9 J) m, pose correctives of the landmarks, and ...
        lever_correctives: (J, N, 3, 9 J) ... of the levers.
    """

    lever: Tensor
    lever_directions: Tensor
    correctives: Tensor
    lever_correctives: Tensor

    @property
    def joints(self) -> int:
        """J."""
        return len(self.lever)


@dataclass(frozen=True)
class LandmarkBasis:
    """N landmarks as a function of S identity coefficients and C controls.

    Attributes:
        template: (N, 3) m.
        directions: (N, 3, S + C) m per coefficient, identity first; of joints as they begin to turn.
        shapes: S.
        turning: The joints among the controls, if there are any.
        lines: For landmarks of the 68-point scheme the candidates of the jaw line, else None.
    """

    template: Tensor
    directions: Tensor
    shapes: int
    turning: JointBasis | None = None
    lines: LandmarkBasis | None = None

    @property
    def count(self) -> int:
        """P = S + C."""
        return int(self.directions.shape[-1])

    def place(self, theta: Tensor) -> Tensor:
        """Return the landmarks (B, N, 3) of coefficients (B, P), in head space, m. Differentiable."""
        turning = self.turning
        linear = self.count if turning is None else turning.lever_directions.shape[-1]
        straight = theta[:, :linear]
        points = _linear(self.template, self.directions[..., :linear], straight)
        if turning is None:
            return points
        turns = axis_angle_to_matrix(theta[:, linear:].unflatten(1, (-1, 3)))
        turns = turns - torch.eye(3).to(turns)
        feature = turns.flatten(1)
        points = points + torch.einsum("nkf,bf->bnk", turning.correctives, feature)
        lever = _linear(turning.lever.flatten(0, 1), turning.lever_directions.flatten(0, 1), straight)
        lever = lever + torch.einsum("nkf,bf->bnk", turning.lever_correctives.flatten(0, 1), feature)
        carried = torch.einsum("bjik,bjnk->bni", turns, lever.unflatten(1, (turning.joints, -1)))
        return points + carried


def _linear(template: Tensor, directions: Tensor, theta: Tensor) -> Tensor:
    """(B, L) coefficients to (B, N, 3), of a template (N, 3) and directions (N, 3, L)."""
    offsets = theta @ directions.flatten(0, 1).T
    return template + offsets.view(len(theta), -1, 3)


def reduce_head(head: HeadModel, kind: str, shapes: int, dtype: torch.dtype = torch.float32) -> LandmarkBasis:
    """Read template and directions off the head at the landmarks of ``kind``."""
    basis = embedded_basis(head, head.embeddings[kind], shapes, dtype)
    if kind != "ibug68":
        return basis
    lines = embedded_basis(head, head.embeddings["contour"], shapes, dtype)
    return LandmarkBasis(basis.template, basis.directions, shapes, basis.turning, lines)


def embedded_basis(
    head: HeadModel, embedding: LandmarkEmbedding, shapes: int, dtype: torch.dtype = torch.float32
) -> LandmarkBasis:
    """Read template and directions off the head at the points of an embedding."""
    corners = head.faces[embedding.triangle]
    weights = embedding.barycentric.to(dtype)[:, :, None]
    template = (head.v_template[corners].to(dtype) * weights).sum(1)
    directions = torch.cat([head.shapedirs[..., :shapes], head.exprdirs], dim=-1)
    reduced = (directions[corners].to(dtype) * weights[..., None]).sum(1)
    joints = Controls.of(head).joints
    if not joints:
        return LandmarkBasis(template, reduced.contiguous(), shapes)
    turning = _turning(head, joints, corners, weights[..., 0], shapes)
    columns = [reduced, *_begun(turning)]
    return LandmarkBasis(template, torch.cat(columns, dim=-1).contiguous(), shapes, turning)


def _turning(
    head: HeadModel, joints: tuple[int, ...], corners: Tensor, barycentric: Tensor, shapes: int
) -> JointBasis:
    """Read how joints carry landmarks off the head: corners (N, 3) of triangles, and their weights."""
    chosen, dtype = list(joints), barycentric.dtype
    # (J, N, 3): how much of each corner a joint has.
    share = head.weights[corners].to(dtype)[..., chosen].permute(2, 0, 1) * barycentric
    mass = share.sum(-1)
    at = (head.J_regressor @ head.v_template)[chosen].to(dtype)
    lever = torch.einsum("jnc,ncx->jnx", share, head.v_template[corners].to(dtype))
    lever -= mass[..., None] * at[:, None]
    directions = torch.cat([head.shapedirs[..., :shapes], head.exprdirs], dim=-1).to(dtype)
    moved = torch.einsum("jnc,ncxp->jnxp", share, directions[corners])
    follow = directions.shape[-1] if head.joints_follow_expression else shapes
    at = torch.einsum("jv,vxs->jxs", head.J_regressor[chosen].to(dtype), directions[..., :follow])
    moved[..., :follow] -= torch.einsum("jn,jxs->jnxs", mass, at)
    columns = [9 * (joint - 1) + k for joint in joints for k in range(9)]
    correctives = (
        head.posedirs[..., columns]
        if head.posedirs.shape[-1]
        else head.posedirs.new_zeros((head.num_vertices, 3, len(columns)))
    )
    at_corners = correctives[corners].to(dtype)
    return JointBasis(
        lever,
        moved,
        torch.einsum("nc,ncxf->nxf", barycentric, at_corners),
        torch.einsum("jnc,ncxf->jnxf", share, at_corners),
    )


def _begun(turning: JointBasis) -> list[Tensor]:
    """Directions (N, 3, 3) of the landmarks as each joint begins to turn about X, Y and Z."""
    generators = torch.linalg.cross(
        torch.eye(3)[:, None].expand(3, 3, 3), torch.eye(3).expand(3, 3, 3), dim=-1
    ).mT.to(turning.lever)  # [a, i, k]: rotation matrices' derivatives, about axis a
    found = []
    for j in range(turning.joints):
        carried = torch.einsum("aik,nk->nia", generators, turning.lever[j])
        feature = generators.flatten(1)  # (3, 9)
        corrected = torch.einsum("nxf,af->nxa", turning.correctives[..., 9 * j : 9 * j + 9], feature)
        found.append(carried + corrected)
    return found


def slide_jaw(basis: LandmarkBasis, pixels: Tensor, line_pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the jaw points for the present view.

    Args:
        basis: Of the 68 points, with lines.
        pixels: (B, 68, 2) where the fixed points are.
        line_pixels: (B, 17 · 24, 2) where the candidates are.

    Returns:
        Template (B, 68, 3) and directions (B, 68, 3, P) with the chosen points in the jaw's place.
    """
    assert basis.lines is not None
    flat = chosen_points(pixels, line_pixels)
    template = basis.template.expand(len(pixels), -1, -1).clone()
    directions = basis.directions.expand(len(pixels), -1, -1, -1).clone()
    template[:, :JAW_POINTS] = basis.lines.template[flat]
    directions[:, :JAW_POINTS] = basis.lines.directions[flat]
    return template, directions


def chosen_points(pixels: Tensor, line_pixels: Tensor) -> Tensor:
    """Return which candidates (B, 17) are the jaw's points; see ``slide_jaw``."""
    chosen = outermost(line_pixels.unflatten(1, (JAW_POINTS, LINE_POINTS)), pixels)
    return chosen + torch.arange(JAW_POINTS, device=chosen.device) * LINE_POINTS
