"""The head reduced to its landmarks: before posing, each is linear in identity and expression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.head.contour import JAW_POINTS, LINE_POINTS, outermost
from recon3d.head.model import HeadModel, LandmarkEmbedding


@dataclass(frozen=True)
class LandmarkBasis:
    """N landmarks as a linear function of S identity and E expression coefficients.

    Attributes:
        template: (N, 3) m.
        directions: (N, 3, S + E) m per coefficient, identity first.
        shapes: S.
        lines: For landmarks of the 68-point scheme the candidates of the jaw line, else None.
    """

    template: Tensor
    directions: Tensor
    shapes: int
    lines: LandmarkBasis | None = None

    @property
    def count(self) -> int:
        """P = S + E."""
        return int(self.directions.shape[-1])


def reduce_head(head: HeadModel, kind: str, shapes: int, dtype: torch.dtype = torch.float32) -> LandmarkBasis:
    """Read template and directions off the head at the landmarks of ``kind``."""
    basis = _at(head, head.embeddings[kind], shapes, dtype)
    if kind != "ibug68":
        return basis
    lines = _at(head, head.embeddings["contour"], shapes, dtype)
    return LandmarkBasis(basis.template, basis.directions, shapes, lines)


def _at(head: HeadModel, embedding: LandmarkEmbedding, shapes: int, dtype: torch.dtype) -> LandmarkBasis:
    corners = head.faces[embedding.triangle]
    weights = embedding.barycentric.to(dtype)[:, :, None]
    template = (head.v_template[corners].to(dtype) * weights).sum(1)
    directions = torch.cat([head.shapedirs[..., :shapes], head.exprdirs], dim=-1)
    reduced = (directions[corners].to(dtype) * weights[..., None]).sum(1)
    return LandmarkBasis(template, reduced.contiguous(), shapes)


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
    chosen = outermost(line_pixels.unflatten(1, (JAW_POINTS, LINE_POINTS)), pixels)
    flat = chosen + torch.arange(JAW_POINTS, device=chosen.device) * LINE_POINTS
    template = basis.template.expand(len(pixels), -1, -1).clone()
    directions = basis.directions.expand(len(pixels), -1, -1, -1).clone()
    template[:, :JAW_POINTS] = basis.lines.template[flat]
    directions[:, :JAW_POINTS] = basis.lines.directions[flat]
    return template, directions
