"""Carries a photograph's own pixels over to another expression, along with the mesh."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.rasterize import blend, rasterize, seen
from recon3d.synthesis._pools import averaged

#: Depth beyond the surface from which on a point counts as hidden, in parts of the cut-out's side.
_BEHIND = 0.006
#: A triangle that was so small a part of what it is now, or smaller, tells nothing; from twice that on all.
_STRETCHED = 0.2
#: Width of the border over which what was seen fades into what was not, in parts of the side.
_FADE = 0.012
#: How far around the head the picture is drawn along with it, in parts of the side, and how large the
#: picture is on which that is worked out, px.
_AROUND, _COARSE = 0.06, 128


class Carrier:
    """Tells where in a photograph the surface was that is seen at a pixel now."""

    def __init__(self, own: Tensor, faces: Tensor, size: int, inside: Tensor, skull: Tensor) -> None:
        """Look at the head as it is on the photograph.

        Args:
            own: (V,3) its vertices, x and y px of a picture of ``size`` px, depth in parts of its side.
            faces: (F,3).
            size: Of the pictures.
            inside: (F,) bool: triangles within the mouth. Teeth that are seen between lips are the upper
                ones: they stay with the skull, whatever the mesh takes them for.
            skull: (V,) bool: vertices that move with the skull, and hardly else.
        """
        self._own, self._faces, self._size = own[None], faces, size
        self._inside, self._skull = inside, skull
        self._fragments = rasterize(self._own, faces, (size, size))
        self._was_inside = inside[self._fragments.triangle.clamp_min(0)] & self._fragments.mask

    def carry(self, layers: Tensor, moved: Tensor) -> Tensor:
        """Move layers of the photograph along with the head.

        What lies close beside the head is drawn along, less the farther it is. What the photograph does not
        show of the head is zero.

        Args:
            layers: (C,S,S) of the photograph.
            moved: (B,V,3) the head as it is to be, as ``own``.

        Returns:
            (B,C,S,S).
        """
        batch, size = len(moved), self._size
        offsets, drawn, shown = self._offsets(moved)
        offsets = torch.where(drawn, offsets, _around(offsets, drawn))
        axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size
        here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
        grid = (here + offsets).movedim(1, -1) * 2 - 1
        there = F.grid_sample(
            layers.expand(batch, -1, -1, -1), grid, padding_mode="border", align_corners=False
        )
        return there * _faded(shown, max(1, round(_FADE * size)))

    def _offsets(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From where to where, (B,2,S,S) in parts of the side; where heads are drawn; how far that was seen.

        The latter two are (B,1,S,S), bool and [0,1].
        """
        size = self._size
        fragments = rasterize(moved, self._faces, (size, size))
        where, triangle, weights = seen(fragments)
        image = where // (size * size)
        pixel = where - image * size * size
        here = torch.stack((pixel % size, pixel // size), dim=1) + 0.5
        inside = self._inside[triangle]
        with_skull = here - self._skull_moves(moved)[image]
        along = blend(self._own, self._faces, triangle, weights)
        before = torch.where(inside[:, None], with_skull, along[:, :2])
        told = self._was_seen(along) * self._unstretched(moved)[image, triangle]
        offsets, shown = torch.zeros(len(moved) * size * size, 2), torch.ones(len(moved) * size * size)
        offsets[where] = (before - here) / size
        shown[where] = torch.where(inside, self._was_mouth(with_skull), told)
        offsets = offsets.view(-1, size, size, 2).movedim(-1, 1)
        return offsets, fragments.mask[:, None], shown.view(-1, 1, size, size)

    def _skull_moves(self, moved: Tensor) -> Tensor:
        """How far the skull is from where it was, (B,2) px."""
        return (moved - self._own)[:, self._skull, :2].median(dim=1).values

    def _unstretched(self, moved: Tensor) -> Tensor:
        """(B,F) in [0,1]: how much of the triangles the photograph tells: a lid that closes was a fold."""
        before, now = (_areas(vertices, self._faces) for vertices in (self._own, moved))
        ratio = before * now.sign() / now.abs().clamp_min(1e-6)
        return (ratio / _STRETCHED - 1).clamp(0, 1)

    def _was_mouth(self, points: Tensor) -> Tensor:
        """1 where the photograph shows the inside of the mouth at points (n,2), else 0."""
        pixel, inside = self._pixel(points)
        return (inside & self._was_inside.reshape(-1)[pixel]).float()

    def _was_seen(self, points: Tensor) -> Tensor:
        """Tell which points (n,3) of the head the photograph shows."""
        pixel, inside = self._pixel(points)
        depth = self._fragments.depth.reshape(-1)[pixel]
        return inside & ((depth <= 0) | (points[:, 2] <= depth + _BEHIND))

    def _pixel(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Flat index of the pixels that points (n,2 or 3) lie in, and whether they lie in the picture."""
        x, y = points[:, 0].floor().long(), points[:, 1].floor().long()
        inside = (x >= 0) & (x < self._size) & (y >= 0) & (y < self._size)
        return y.clamp(0, self._size - 1) * self._size + x.clamp(0, self._size - 1), inside


def _around(offsets: Tensor, drawn: Tensor) -> Tensor:
    """Offsets (B,2,S,S) beside heads, drawn (B,1,S,S) bool: their nearest ones, falling off to zero."""
    size = offsets.shape[-1]
    small = min(size, _COARSE)
    reach = max(1, round(_AROUND * small))
    cover = F.interpolate(drawn.to(offsets), (small, small), mode="area")
    known = (cover > 0).to(offsets)
    near = F.interpolate(offsets * drawn, (small, small), mode="area") / cover.clamp_min(1e-6)
    fall = known
    for _ in range(reach):  # one pixel farther at a time
        wider = averaged(known, 1)
        mean = averaged(near * known, 1) / wider.clamp_min(1e-6)
        near, known = torch.where(known > 0, near, mean), (wider > 0).to(offsets)
        fall = fall + known
    spread = near * (fall / (reach + 1))
    return F.interpolate(spread, (size, size), mode="bilinear", align_corners=False)


def _areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """Twice the area of triangles on the picture, (B,F) px²; seen from behind, its sign is another."""
    corners = vertices[:, faces, :2]
    first, second = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def _faded(mask: Tensor, reach: int) -> Tensor:
    """Soften a mask (B,1,S,S) inward, down to a half at its edge: an eye is hardly wider than the border."""
    wide = averaged(F.pad(mask, (reach,) * 4, mode="replicate"), reach)
    return wide[..., reach:-reach, reach:-reach] * mask
