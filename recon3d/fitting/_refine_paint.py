"""The colours of a face by few parameters: the head's own painting, tinted.

Skin, lips, brows, irises ... keep the shape that they are painted in. Each of these colours is found anew for
a photograph, and all of them brighten and darken smoothly over the face. Such colours cannot imitate features
that lie elsewhere, so they tell where those of the head belong even where both halves are wrong alike.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.fitting._refine_colors import ColorReader, Look, View
from recon3d.fitting._refine_scene import Scene, sample
from recon3d.head import HeadModel
from recon3d.render.lighting import fit_light, irradiance

#: Degree of the polynomials of the place on the face by which colours vary smoothly.
_DEGREE = 4
#: How much a tint counts against what is seen (1 in all): a colour's own, and the smooth ones'.
_OWN_TINT, _SMOOTH_TINT = 0.01, 0.02
#: Turns of light and tints, and within each of them of weights by what fits.
_TURNS, _ROBUST_TURNS = 3, 4
#: Albedos that there are.
_ALBEDO = (0.003, 1.5)
#: Light that is divided by, at least.
_DARK = 0.03
#: Fewer vertices than this tell nothing.
_FEW = 50


class Painter:
    """Tints the painting of one head model."""

    def __init__(self, head: HeadModel, colors: ColorReader) -> None:
        self._faces, self._colors = head.faces, colors
        self._painted = head.colors.square().clamp_min(_ALBEDO[0])
        kinds, kind = torch.unique(head.colors, dim=0, return_inverse=True)
        own = F.one_hot(kind, len(kinds)).to(self._painted)
        smooth = _smooth_fields(head, colors.used)
        self._tints = torch.cat((own, smooth), dim=1)
        calm = (_OWN_TINT,) * own.shape[1] + (_SMOOTH_TINT,) * smooth.shape[1]
        self._calm = torch.diag(torch.tensor(calm))

    @torch.no_grad()
    def read(self, scene: Scene, view: View) -> Look:
        """Find light and tints under which the painting looks like the photograph."""
        weight = self._colors.weight(scene, view)
        seen = torch.nonzero(weight > 0).squeeze(1)
        albedo, light = self._painted, torch.zeros(9, 3)
        colour = sample(scene.picture, view.surface.verts_px[0, :, :2])
        if len(seen) >= _FEW:
            for _ in range(_TURNS):
                light = fit_light(view.normals[seen], albedo[seen], colour[seen], weight[seen])
                shown = (colour / irradiance(view.normals, light).clamp_min(_DARK)).clamp(_ALBEDO[0], 2)
                tint = self._tint((shown / self._painted).log(), (weight * colour.mean(1))[seen], seen)
                albedo = (self._painted * tint.exp()).clamp(*_ALBEDO)
        return Look(albedo, light, (weight > 0)[self._faces].all(1))

    def _tint(self, wanted: Tensor, weight: Tensor, seen: Tensor) -> Tensor:
        """Robust least squares in logarithms, where tints are sums: (V,3)."""
        rows, wanted = self._tints[seen], wanted[seen]
        robust = torch.ones_like(weight)
        for _ in range(_ROBUST_TURNS):
            share = (weight * robust / (weight * robust).sum())[:, None]
            found = torch.linalg.solve(rows.T @ (rows * share) + self._calm, rows.T @ (wanted * share))
            apart = (rows @ found - wanted).norm(dim=1)
            scale = 1.5 * apart.median().clamp_min(1e-3)
            robust = 1 / (1 + (apart / scale).square()).square()
        return self._tints @ found


def _smooth_fields(head: HeadModel, used: Tensor) -> Tensor:
    """(V,K) fields that vary smoothly over the skin that is compared, 1 in the mean square; else zero.

    Polynomials of the place on the mean face, made orthogonal.
    """
    skin = used.clone()
    if "eyeballs" in head.regions:
        skin &= ~torch.from_numpy(head.regions["eyeballs"])
    place = head.v_template[skin].double()
    place = (place - place.mean(0)) / place.std(0).clamp_min(1e-6)
    powers = [c for d in range(1, _DEGREE + 1) for c in combinations_with_replacement(range(3), d)]
    columns = [torch.ones(len(place), dtype=place.dtype), *(place[:, list(c)].prod(1) for c in powers)]
    orthogonal = torch.linalg.qr(torch.stack(columns, dim=1))[0][:, 1:] * len(place) ** 0.5
    fields = torch.zeros(head.num_vertices, orthogonal.shape[1])
    fields[skin] = orthogonal.float()
    return fields
