"""The jaw line of the 68 landmarks, which is the silhouette's and slides over the surface with the view.

Each jaw point gets a line of surface points that runs from the middle of the face outward to where the point
sits in a frontal view. Seen from any side, the point is the one of its line that reaches furthest outward in
the picture: on the near side the end of the line, on the far side the silhouette. This is landmark marching
(X. Zhu, Z. Lei, J. Yan, D. Yi, S. Z. Li, "High-fidelity pose and expression normalization for face
recognition in the wild", CVPR 2015).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recon3d.head.model import HeadModel, LandmarkEmbedding

#: Points of the 68 that lie on the jaw line.
JAW_POINTS = 17
#: Points on each line, from its inner end to its outer one.
LINE_POINTS = 24


def contour_lines(head: HeadModel, sparse: LandmarkEmbedding) -> LandmarkEmbedding:
    """Lay the lines: (17 · 24) surface points, line by line, each from inside to outside.

    Args:
        head: The head.
        sparse: Its 68 points, of which the first 17 are the jaw's frontal places.
    """
    from recon3d.head.embedding import closest_on_surface, reference_surface

    points = _surface_points(head, reference_surface(head), sparse).double().numpy()
    jaw, middle = points[:JAW_POINTS], points[[33, 51, 57]].mean(0)
    # Toward the chin the lines start below the mouth, so that no line crosses the lips.
    low = np.clip((middle[1] - jaw[:, 1]) / (middle[1] - jaw[:, 1].min()), 0, 1)[:, None]
    inner = np.stack(
        [0.35 * jaw[:, 0], 0.6 * jaw[:, 1] + 0.4 * middle[1], np.full(JAW_POINTS, middle[2])], -1
    )
    chin = points[57] + (points[8] - points[57]) * 0.6
    inner = inner * (1 - low) + low * np.stack(
        [0.4 * jaw[:, 0], np.full(17, chin[1]), np.full(17, chin[2])], -1
    )
    share = np.linspace(0, 1, LINE_POINTS)[None, :, None]
    straight = inner[:, None] * (1 - share) + jaw[:, None] * share
    straight[..., 2] += 0.03 * (
        1 - share[..., 0]
    )  # in front of the skin, so that the nearest is the outer skin
    triangles = torch.tensor(np.flatnonzero(_front(head)[head.faces.numpy()].all(1)))
    return closest_on_surface(head, straight.reshape(-1, 3), triangles)


def landmarks68(head: HeadModel, projected: Tensor) -> Tensor:
    """The 68 points of posed heads as they are seen: jaw points on the silhouette, the others in their place.

    Args:
        head: The head.
        projected: (B, V, 2) its posed vertices, px.

    Returns:
        (B, 68, 2) px. Differentiable to ``projected``; the choice of the contour's points is not.
    """
    points = _embedded(projected, head, "ibug68")
    if "contour" not in head.embeddings:
        return points
    lines = _embedded(projected, head, "contour").unflatten(1, (JAW_POINTS, LINE_POINTS))
    chosen = outermost(lines.detach(), points.detach())
    jaw = lines.gather(2, chosen[:, :, None, None].expand(-1, -1, 1, 2)).squeeze(2)
    return torch.cat([jaw, points[:, JAW_POINTS:]], dim=1)


def outermost(lines: Tensor, points: Tensor) -> Tensor:
    """Which point of each line lies furthest outward in the picture.

    Args:
        lines: (B, 17, K, 2) px.
        points: (B, 68, 2) px, of which eyes and mouth tell what is upright.

    Returns:
        (B, 17) index into each line.
    """
    right = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    right = right / right.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    down = torch.stack([-right[:, 1], right[:, 0]], dim=-1)
    # In a frontal face the jaw runs from straight sideways at the ear to straight down at the chin.
    angle = torch.linspace(np.pi, 0, JAW_POINTS, dtype=lines.dtype, device=lines.device)
    outward = angle.cos()[:, None] * right[:, None] + angle.sin()[:, None] * down[:, None]  # (B, 17, 2)
    return torch.einsum("bjkc,bjc->bjk", lines, outward).argmax(-1)


def _embedded(values: Tensor, head: HeadModel, name: str) -> Tensor:
    embedding = head.embeddings[name]
    corners = values[:, head.faces[embedding.triangle]]
    return (corners * embedding.barycentric.to(values)[None, :, :, None]).sum(-2)


def _surface_points(head: HeadModel, surface: Tensor, embedding: LandmarkEmbedding) -> Tensor:
    corners = surface[head.faces[embedding.triangle]]
    return (corners * embedding.barycentric[..., None].to(corners)).sum(1)


def _front(head: HeadModel) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Vertices that a jaw line may run over: skin that is neither ear, eye nor mouth."""
    allowed = np.ones(head.num_vertices, bool)
    for region in ("eyeballs", "mouth_inside", "eye_sockets", "ears", "lips", "nose"):
        if region in head.regions:
            allowed &= ~head.regions[region]
    return allowed
