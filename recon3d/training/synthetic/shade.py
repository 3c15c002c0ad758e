"""Light on skin, eyes, teeth and hair: the colour of every pixel that shows a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.head import HeadModel
from recon3d.render.lighting import irradiance
from recon3d.render.rasterize import blend
from recon3d.training.synthetic.canvas import lookup
from recon3d.training.synthetic.extras import EYE, FRAME, HAIR, LENS, MOUTH, SKIN, TEETH, TONGUE, Wardrobe
from recon3d.training.synthetic.eyes import Eyes, eye_directions
from recon3d.training.synthetic.noise import strands
from recon3d.training.synthetic.scene import Light
from recon3d.training.synthetic.skin import Skin

#: How far red, green and blue light travel in skin, as a wrap around the form.
_BLEED = (0.22, 0.09, 0.05)
#: Depth (m) over which it gets dark in the mouth.
_THROAT = 0.022
_HAIR_SIDE = 192


@dataclass(frozen=True, eq=False)
class Makeup:
    """What a person is coloured with.

    Attributes:
        skin: Of the face.
        eyes: Of the eyes.
        mouth: (3,) colour inside the mouth, linear; tongue and ...
        teeth: (3,) ... teeth.
        strands: (1,S,S) light and dark strands of hair.
        frame: (3,) colour of the glasses' frame.
        sheen: Strength of the hair's highlights.
    """

    skin: Skin
    eyes: Eyes
    mouth: Tensor
    teeth: Tensor
    strands: Tensor
    frame: Tensor
    sheen: float


def draw_makeup(skin: Skin, eyes: Eyes, rng: np.random.Generator) -> Makeup:
    """Draw the colours of mouth, hair and glasses."""
    mouth = np.array((rng.uniform(0.3, 0.65), rng.uniform(0.06, 0.2), rng.uniform(0.08, 0.2)))
    teeth = np.clip(np.array((0.85, 0.8, 0.68)) * rng.uniform(0.6, 1.1) * rng.lognormal(0, 0.06, 3), 0, 0.97)
    if skin.plain and rng.random() < 0.5:
        mouth = teeth = np.array(skin.lips)
    frame = np.full(3, 0.01) if rng.random() < 0.5 else rng.uniform(0, 0.7, 3) ** 2
    lines = strands(rng, _HAIR_SIDE, int(rng.integers(3, 14)), int(rng.integers(40, 150)))
    kept = (torch.tensor(x, dtype=torch.float32) for x in (mouth, teeth, frame))
    first, second, third = kept
    return Makeup(skin, eyes, first, second, lines[None], third, float(rng.uniform(0.02, 0.35)))


class Shader:
    """Colours pixels. Holds what every head has in common."""

    def __init__(self, head: HeadModel, wardrobe: Wardrobe) -> None:
        """Prepare for a head model and what its heads wear."""
        extra = len(wardrobe.places) - head.num_vertices
        lips = torch.from_numpy(head.regions["lips"]).float()
        fixed = torch.cat((eye_directions(head), lips[:, None], head.v_template[:, 2:]), dim=1)
        self._fixed = torch.cat((wardrobe.places, F.pad(fixed, (0, 0, 0, extra))), dim=1)[None]
        self._wardrobe = wardrobe
        front = head.v_template[torch.from_numpy(head.regions["lips"]), 2]
        self._lips_depth = float(front.max()) - 0.006

    def fixed(self, triangle: Tensor, weights: Tensor) -> Tensor:
        """(n,7) what surface points carry whoever the person: place (2), eye direction (3), lips, depth."""
        return blend(self._fixed, self._wardrobe.faces, triangle, weights)

    def colors(
        self,
        makeup: Makeup,
        light: Light,
        triangle: Tensor,
        carried: Tensor,
        points: Tensor,
        normals: Tensor,
        lit: Tensor,
        reached: Tensor,
    ) -> Tensor:
        """Return linear colours (n,3) of one picture's surface points.

        Args:
            makeup: The person's colours.
            light: The scene's.
            triangle: (n,) where the points lie.
            carried: (n,7) from ``fixed``.
            points: (n,3) camera space, m.
            normals: (n,3) unit, outward, camera space.
            lit: (n,) whether the lamp reaches them, [0,1].
            reached: (n,) how much of the light from all around does.
        """
        material = self._wardrobe.material[triangle]
        view = F.normalize(-points, dim=1)
        facing = (normals * view).sum(1, keepdim=True)
        normals = torch.where((material >= HAIR)[:, None] & (facing < 0), -normals, normals)
        albedo, gloss, shine = self._materials(makeup, material, carried)
        bleed = points.new_tensor(_BLEED) * ((material == SKIN) | (material == TONGUE))[:, None] + light.soft
        towards = (normals @ light.lamp)[:, None]
        direct = ((towards + bleed) / (1 + bleed)).clamp_min(0) * light.color
        lit = lit[:, None]
        around = irradiance(normals, light.around) * reached[:, None]
        inside = self._inside(material, carried[:, 6])
        half = F.normalize(view + light.lamp, dim=1)
        lobe = (normals * half).sum(1).clamp_min(1e-4) ** shine * gloss
        color = albedo * (around + direct * lit) + (lobe[:, None] * light.color * (towards > 0) * lit)
        rim = (1 - facing.abs().clamp(0, 1)) ** 4 * gloss[:, None] * 0.25
        return (color + rim * around) * inside[:, None]

    def _materials(self, makeup: Makeup, material: Tensor, carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Albedo (n,3), strength (n,) and sharpness (n,) of highlights."""
        skin = makeup.skin
        lips = carried[:, 5:6]
        albedo = lookup(skin.canvas, carried[:, :2])
        albedo = albedo + (skin.lips - albedo) * (lips * skin.lip_share)
        gloss = skin.gloss + (skin.lip_gloss - skin.gloss) * lips[:, 0]
        shine = torch.full_like(gloss, skin.shininess)
        for kind, color, strength, sharp in (
            (MOUTH, makeup.mouth, 0.1, 40.0),
            (TEETH, makeup.teeth, 0.25, 60.0),
            (TONGUE, makeup.mouth * 1.25, 0.15, 40.0),
            (FRAME, makeup.frame, 0.3, 40.0),
            (LENS, makeup.frame.new_full((3,), 0.01), 0.8, 120.0),
        ):
            chosen = material == kind
            albedo = torch.where(chosen[:, None], color, albedo)
            gloss, shine = gloss.masked_fill(chosen, strength), shine.masked_fill(chosen, sharp)
        eye = torch.nonzero(material == EYE)[:, 0]
        albedo[eye] = makeup.eyes.colors(carried[eye, 2:5])
        gloss[eye], shine[eye] = makeup.eyes.gloss, 180.0
        hair = torch.nonzero(material == HAIR)[:, 0]
        strand = lookup(makeup.strands, carried[hair, :2])
        albedo[hair] = skin.hair * (1 + 0.55 * strand).clamp(0.15, 2.2)
        gloss[hair], shine[hair] = makeup.sheen, 14.0
        return albedo, gloss, shine

    def _inside(self, material: Tensor, depth: Tensor) -> Tensor:
        """(n,) how much light reaches a point in the mouth; 1 elsewhere."""
        behind = (self._lips_depth - depth).clamp_min(0)
        dim = torch.exp(-behind / _THROAT).clamp_min(0.04)
        return torch.where((material == MOUTH) | (material == TEETH) | (material == TONGUE), dim, 1.0)
