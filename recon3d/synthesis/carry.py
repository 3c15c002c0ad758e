"""Carries a photograph's own pixels over to another expression, along with the mesh."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.rasterize import Fragments, blend, rasterize, seen

#: Depth beyond the surface from which on a point counts as hidden, in parts of the cut-out's side.
_BEHIND = 0.006
#: A triangle that was so small a part of what it is now, or smaller, tells nothing; from twice that on all.
_STRETCHED = 0.2
#: Width of the border over which what was seen fades into what was not, in parts of the side.
_FADE = 0.012


class Carrier:
    """Tells where in a photograph the surface was that is seen at a pixel now."""

    def __init__(self, own: Tensor, faces: Tensor, size: int) -> None:
        """Look at the head as it is on the photograph.

        Args:
            own: (V,3) its vertices, x and y px of a picture of ``size`` px, depth in parts of its side.
            faces: (F,3).
            size: Of the pictures.
        """
        self._own, self._faces, self._size = own[None], faces, size
        self._fragments = rasterize(self._own, faces, (size, size))

    def carry(self, layers: Tensor, moved: Tensor) -> Tensor:
        """Move layers of the photograph along with the head.

        What lies beside the head stays. What the photograph does not show, or what the head uncovers where
        it was, is zero.

        Args:
            layers: (C,S,S) of the photograph.
            moved: (B,V,3) the head as it is to be, as ``own``.

        Returns:
            (B,C,S,S).
        """
        batch, size = len(moved), self._size
        fragments = rasterize(moved, self._faces, (size, size))
        places, shown = self._places(fragments, self._unstretched(moved))
        soft = _faded(shown[:, None], max(1, round(_FADE * size)))
        grid = (places / size) * 2 - 1
        there = F.grid_sample(layers.expand(batch, -1, -1, -1), grid, align_corners=False)
        return there * soft

    def _unstretched(self, moved: Tensor) -> Tensor:
        """(B,F) in [0,1]: how much of the triangles the photograph shows: a lid that closes was a fold."""
        before, now = (_areas(vertices, self._faces) for vertices in (self._own, moved))
        ratio = before * now.sign() / now.abs().clamp_min(1e-6)
        return (ratio / _STRETCHED - 1).clamp(0, 1)

    def _places(self, fragments: Fragments, unstretched: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pixel was, (B,S,S,2) px, and how far it was seen there, (B,S,S) in [0,1]."""
        batch, size = len(fragments.triangle), self._size
        axis = torch.arange(size, dtype=torch.float32) + 0.5
        here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
        places = here.expand(batch, -1, -1, -1).reshape(-1, 2).clone()
        shown = (~self._fragments.mask).float().expand(batch, -1, -1).reshape(-1).clone()
        where, triangle, weights = seen(fragments)
        before = blend(self._own, self._faces, triangle, weights, torch.zeros_like(triangle))
        places[where] = before[:, :2]
        image = where // (size * size)
        shown[where] = self._was_seen(before) * unstretched[image, triangle]
        return places.view(batch, size, size, 2), shown.view(batch, size, size)

    def _was_seen(self, points: Tensor) -> Tensor:
        """Tell which points (n,3) of the head the photograph shows."""
        x, y = points[:, 0].floor().long(), points[:, 1].floor().long()
        inside = (x >= 0) & (x < self._size) & (y >= 0) & (y < self._size)
        pixel = y.clamp(0, self._size - 1) * self._size + x.clamp(0, self._size - 1)
        depth = self._fragments.depth.reshape(-1)[pixel]
        return inside & ((depth <= 0) | (points[:, 2] <= depth + _BEHIND))


def _areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """Twice the area of triangles on the picture, (B,F) px²; seen from behind, its sign is another."""
    corners = vertices[:, faces, :2]
    first, second = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def _faded(mask: Tensor, reach: int) -> Tensor:
    """Soften a mask (B,1,S,S) inward, down to a half at its edge: an eye is hardly wider than the border."""
    mean = F.avg_pool2d(F.pad(mask, (reach,) * 4, mode="replicate"), 2 * reach + 1, stride=1)
    return mean * mask
