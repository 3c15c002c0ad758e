"""The colours of a face, read off its photograph through the head as it lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.fitting._refine_scene import Scene, sample
from recon3d.head import HeadModel
from recon3d.render.lighting import fit_light, irradiance
from recon3d.render.maps import Surface
from recon3d.render.shading import vertex_normals

#: Regions whose colours are compared, and those that are left out although the face holds them.
_REGIONS, _LEFT_OUT = ("face", "eyeballs"), ("ears", "mouth_inside", "teeth", "tongue", "neck", "scalp")
#: Part of a vertex's colour that is its own; the rest is its neighbours' mean.
_OWN = 0.8
#: Cosine to the camera from which on a vertex shows its colour, and depth (m) by which it may be hidden.
_GRAZING, _HIDDEN = 0.15, 0.004
#: Weight of the colour that a vertex had, in parts of what is seen of the mean one.
_INERTIA = 0.02
#: Turns of light and colours.
_TURNS = 3
#: Light that is divided by, at least; and albedos that there are.
_DARK, _ALBEDO = 0.03, (0.005, 1.5)


@dataclass(frozen=True, eq=False)
class View:
    """A head in a scene.

    Attributes:
        surface: As the camera sees it.
        normals: (V,3) unit, camera space.
    """

    surface: Surface
    normals: Tensor

    @staticmethod
    def of(verts_cam: Tensor, faces: Tensor, scene: Scene) -> View:
        """Look at a head (1,V,3), m. Differentiable."""
        return View(Surface.of(verts_cam, faces, scene.camera), vertex_normals(verts_cam, faces)[0])


@dataclass(frozen=True, eq=False)
class Look:
    """Colours and light of a face.

    Attributes:
        albedo: (V,3) linear.
        light: (9,3) spherical harmonics.
        faces: (F,) bool: triangles that are compared.
    """

    albedo: Tensor
    light: Tensor
    faces: Tensor


class ColorReader:
    """Reads colours of one head model.

    Attributes:
        used: (V,) bool: the vertices that are compared.
    """

    def __init__(self, head: HeadModel) -> None:
        self._faces, self._mirror = head.faces, head.mirror
        self._painted = head.colors.square()
        self.used = _used_vertices(head)
        self._links = _links(head.faces)
        self._valence = torch.bincount(self._links[0], minlength=head.num_vertices).clamp_min(1)[:, None]

    @torch.no_grad()
    def read(self, scene: Scene, view: View) -> Look:
        """Read colours and light off the photograph, in turns."""
        weight = self.weight(scene, view)
        skin = torch.nonzero(weight > 0).squeeze(1)
        colour = sample(scene.picture, view.surface.verts_px[0, :, :2])
        albedo, light = self._painted, torch.zeros(9, 3)
        for _ in range(_TURNS):
            light = fit_light(view.normals[skin], albedo[skin], colour[skin], weight[skin])
            albedo = self._divided(colour, weight, irradiance(view.normals, light), albedo)
        return Look(albedo, light, (weight > 0)[self._faces].all(1))

    def follow(self, scene: Scene, view: View, look: Look) -> Tensor:
        """Return the colours (V,3) that are read under the same light where the head lies now.

        Differentiable to the view: to where the head looks the photograph up, and how it is lit there.
        """
        weight = self.weight(scene, view)
        colour = sample(scene.picture, view.surface.verts_px[0, :, :2])
        return self._divided(colour, weight, irradiance(view.normals, look.light), look.albedo)

    def _divided(self, colour: Tensor, weight: Tensor, falls: Tensor, before: Tensor) -> Tensor:
        """Divide colours (V,3) by the light that falls, and average both halves and neighbours."""
        falls = falls.clamp_min(_DARK)
        share = (weight * falls.detach().mean(1))[:, None]
        own = colour / falls * share
        little = _INERTIA * (share + share[self._mirror]).mean() + 1e-6
        both = own + own[self._mirror] + little * before
        albedo = both / (share + share[self._mirror] + little)
        around = torch.zeros_like(albedo).index_add(0, self._links[0], albedo[self._links[1]]) / self._valence
        return torch.lerp(around, albedo, _OWN).clamp(*_ALBEDO)

    @torch.no_grad()
    def weight(self, scene: Scene, view: View) -> Tensor:
        """(V,) how well each vertex shows its colour; 0 where it is hidden."""
        verts, pixels = view.surface.verts_cam[0], view.surface.verts_px[0]
        facing = -(view.normals * F.normalize(verts, dim=1)).sum(1)
        column, row = (pixels[:, k].long().clamp(0, len(scene.picture) - 1) for k in (0, 1))
        nearest = view.surface.fragments.depth[0][row, column]
        seen = (nearest > 0) & (pixels[:, 2] < nearest + _HIDDEN) & scene.inside[row, column] & self.used
        return (facing - _GRAZING).clamp(0, 1) * seen


def _used_vertices(head: HeadModel) -> Tensor:
    """(V,) bool: what is compared. Heads without these regions are compared whole."""
    if "face" not in head.regions:
        return torch.ones(head.num_vertices, dtype=torch.bool)
    none = np.zeros(head.num_vertices, bool)
    left_out = np.any([head.regions.get(name, none) for name in _LEFT_OUT], axis=0)
    face, eyes = (head.regions.get(name, none) for name in _REGIONS)
    return torch.from_numpy((face & ~left_out) | eyes)


def _links(faces: Tensor) -> Tensor:
    """(2,L) int64: every vertex and each of its neighbours."""
    pairs = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    return torch.unique(torch.cat((pairs, pairs.flip(1))), dim=0).T
