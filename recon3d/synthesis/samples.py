"""The few pixels of a face that the neural renderer is shown, tied to the mesh so that they move with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.head import HeadModel
from recon3d.render.rasterize import Fragments, blend

#: How often a region's pixels are chosen. What expressions are read off is not given away: of eyes and
#: mouth none, of their surroundings few (after SMIRK's mask: G. Retsinas et al., 2024).
_OFTEN = {
    "eyeballs": 0.0, "eye_sockets": 0.0, "mouth_inside": 0.0, "teeth": 0.0, "tongue": 0.0, "ears": 0.0,
    "neck": 0.0, "scalp": 0.0, "eyelids": 0.05, "lips": 0.1, "nose": 0.5,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Samples:
    """K points on each of B heads, and what is seen there.

    Attributes:
        triangle: (B,K) int64.
        weights: (B,K,3) barycentric.
        colors: (B,C,K).
        valid: (B,K) bool: fewer than K were found otherwise.
    """

    triangle: Tensor
    weights: Tensor
    colors: Tensor
    valid: Tensor


def triangle_odds(head: HeadModel, faces: Tensor) -> Tensor:
    """Tell how often a pixel of each triangle is chosen, (F,) in [0,1]; outside the face never.

    Args:
        head: The head model.
        faces: (F,3) triangles of its vertices.
    """
    odds = torch.zeros(head.num_vertices)
    odds[torch.from_numpy(head.regions["face"])] = 1.0
    for name, share in _OFTEN.items():
        if name in head.regions:
            mine = torch.from_numpy(head.regions[name])
            odds[mine] = odds[mine].clamp_max(share)
    return odds[faces].amin(1)


def draw_samples(
    pictures: Tensor,
    fragments: Fragments,
    odds: Tensor,
    counts: Tensor,
    generator: torch.Generator | None = None,
) -> Samples:
    """Choose pixels of faces at random.

    Args:
        pictures: (B,C,H,W).
        fragments: Of the heads as they are seen in the pictures.
        odds: (F,) of ``triangle_odds``.
        counts: (B,) int64, pixels of each picture; K is the most of them.
        generator: Of the random numbers, on the pictures' device.
    """
    batch, height, width = fragments.triangle.shape
    triangle = fragments.triangle.reshape(batch, -1)
    chances = odds.to(pictures)[triangle.clamp_min(0)] * (triangle >= 0)
    # Gumbel's trick: the K largest of log-chances with noise are K draws without replacement.
    noise = -torch.log(-torch.log(_uniform(chances, generator)))
    keys = torch.where(chances > 0, chances.clamp_min(1e-9).log() + noise, -torch.inf)
    best, where = keys.topk(min(int(counts.max()), height * width), dim=1)
    wanted = torch.arange(best.shape[1], device=keys.device) < counts[:, None]
    weights = fragments.barycentric.reshape(batch, -1, 3)
    return Samples(
        triangle=triangle.gather(1, where).clamp_min(0),
        weights=weights.gather(1, where[..., None].expand(-1, -1, 3)).detach(),
        colors=pictures.flatten(2).gather(2, where[:, None].expand(-1, pictures.shape[1], -1)),
        valid=(best > -torch.inf) & wanted,
    )


def place_samples(
    samples: Samples, verts_px: Tensor, faces: Tensor, fragments: Fragments, *, behind: float = 0.015
) -> tuple[Tensor, Tensor]:
    """Put samples where heads show them: at home, or carried over to another expression.

    What another part of the head hides now is left out.

    Args:
        samples: Chosen on B heads.
        verts_px: (B,V,3) the heads: x and y px, depth in cut-outs.
        faces: (F,3).
        fragments: Of these heads.
        behind: Depth beyond the surface from which on a point counts as hidden.

    Returns:
        (B,C,H,W) pictures of zeros but for the samples, and (B,1,H,W) where these are, 1 or 0. No gradient.
    """
    batch, count = samples.triangle.shape
    height, width = fragments.triangle.shape[1:]
    image = torch.arange(batch, device=verts_px.device)[:, None].expand(-1, count).reshape(-1)
    with torch.no_grad():
        flat = samples.triangle.reshape(-1)
        points = blend(verts_px.detach(), faces, flat, samples.weights.reshape(-1, 3), image)
        x, y = points[:, 0].floor().long(), points[:, 1].floor().long()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & samples.valid.reshape(-1)
        pixel = image * height * width + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        depth = fragments.depth.reshape(-1)[pixel]
        kept = inside & ((depth <= 0) | (points[:, 2] <= depth + behind))
        channels = samples.colors.shape[1]
        colors = samples.colors.movedim(1, -1).reshape(-1, channels)[kept]
        canvas = colors.new_zeros(batch * height * width, channels + 1)
        canvas[pixel[kept]] = torch.cat((colors, colors.new_ones(len(colors), 1)), dim=1)
    shown = canvas.view(batch, height, width, -1).movedim(-1, 1)
    return shown[:, :channels], shown[:, channels:]


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    numbers = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return numbers.clamp(1e-9, 1 - 1e-7)
