"""What people wear: hair, beards and glasses, as geometry around the head.

Hair is a second skin: the head's own triangles, lifted off where hair grows and sunk below the surface where
it does not; and a curtain behind, for long hair. Every head has the same triangles, so that a batch shares
them; what a person lacks has no area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon3d.head import HeadModel
from recon3d.training.synthetic.canvas import Canvas, lookup
from recon3d.training.synthetic.settings import SyntheticSettings

#: Materials of triangles.
SKIN, EYE, MOUTH, TEETH, TONGUE, HAIR, FRAME, LENS = range(8)

#: The curtain's grid, and the glasses' rims: points around, and around the tube.
_DROPS, _STEPS = 36, 10
_RIM, _TUBE = 22, 5
_NO_HAIR = ("eyelids", "lips", "eyeballs", "eye_sockets", "mouth_inside", "teeth", "tongue", "ears")


@dataclass(frozen=True, eq=False)
class Wardrobe:
    """What is the same for every person.

    Attributes:
        faces: (F,3) of head, hair, curtain, frames and lenses, one after another.
        material: (F,) int64.
        places: (W,2) each vertex's place on the painted plane, m; for hair, where its strands run.
        skin: (H,) head vertices that the second skin repeats.
        template: (V,3) the head at rest, m.
        beard: (V,) where a beard grows, [0,1].
    """

    faces: Tensor
    material: Tensor
    places: Tensor
    skin: Tensor
    template: Tensor
    beard: Tensor

    @staticmethod
    def of(head: HeadModel, canvas: Canvas) -> Wardrobe:
        """Prepare for a head model with regions."""
        hairy, skin = _second_skin(head)
        grid, rim, lens = _curtain_faces(), _rim_faces(), _lens_faces()
        sizes = [head.num_vertices, len(skin), _DROPS * _STEPS, 2 * _RIM * _TUBE + 24, 2 * _RIM]
        starts = np.cumsum([0, *sizes]).tolist()
        parts = [head.faces, hairy + starts[1], grid + starts[2], rim + starts[3], lens + starts[4]]
        kinds = [
            _materials(head),
            *(torch.full((len(p),), k) for p, k in zip(parts[1:], _KINDS, strict=True)),
        ]
        own = canvas.coordinates
        drops = torch.linspace(-0.28, 0.28, _DROPS)[:, None].expand(_DROPS, _STEPS)
        depth = torch.linspace(0.1, -0.12, _STEPS).expand(_DROPS, _STEPS)
        curtain = torch.stack((drops, depth), dim=-1).reshape(-1, 2)
        rest = torch.zeros(sizes[3] + sizes[4], 2)
        masks = torch.stack((canvas.moustache, canvas.chin, canvas.jaw))
        return Wardrobe(
            faces=torch.cat(parts),
            material=torch.cat(kinds),
            places=torch.cat((own, own[skin], curtain, rest)),
            skin=skin,
            template=head.v_template,
            beard=_beard_at(masks, own, head),
        )


_KINDS = (HAIR, HAIR, FRAME, LENS)


@dataclass(frozen=True, eq=False)
class Outfit:
    """What one person wears.

    Attributes:
        thickness: (H,) m: how far hair stands off the second skin; negative where there is none.
        curtain: (_DROPS * _STEPS, 3) m, in the head's space.
        frames: (n,3), and ...
        lenses: ... (m,3) of the glasses, relative to the bridge of the nose; zeros unless they are dark.
    """

    thickness: Tensor
    curtain: Tensor
    frames: Tensor
    lenses: Tensor


def draw_outfit(wardrobe: Wardrobe, settings: SyntheticSettings, rng: np.random.Generator) -> Outfit:
    """Draw hair, beard and glasses."""
    thickness = torch.full((len(wardrobe.skin),), -0.004)
    curtain = torch.zeros(_DROPS * _STEPS, 3)
    if rng.random() < settings.hair:
        thickness = _cap(wardrobe.template[wardrobe.skin], rng)
        if rng.random() < 0.45:
            curtain = _curtain(rng)
    if rng.random() < settings.beard:
        thick = rng.uniform(0.002, 0.014)
        grown = wardrobe.beard[wardrobe.skin] * (0.85 + 0.3 * _rough(wardrobe.template[wardrobe.skin], rng))
        thickness = torch.maximum(thickness, grown * thick - 0.15 * thick)
    if rng.random() < settings.glasses:
        frames, lenses = _glasses(rng)
        dark = rng.random() < 0.2
        return Outfit(thickness, curtain, frames, lenses if dark else torch.zeros_like(lenses))
    return Outfit(thickness, curtain, torch.zeros(2 * _RIM * _TUBE + 24, 3), torch.zeros(2 * _RIM, 3))


def dress(head_verts: Tensor, normals: Tensor, bridge: Tensor, wardrobe: Wardrobe, outfit: Outfit) -> Tensor:
    """Put an outfit on a head.

    Args:
        head_verts: (V,3) m, head space.
        normals: (V,3) outward.
        bridge: (3,) the bridge of the nose.
        wardrobe: For this head model.
        outfit: What to put on.

    Returns:
        (W,3) vertices of everything, in the order of ``wardrobe.places``.
    """
    skin = head_verts[wardrobe.skin] + normals[wardrobe.skin] * outfit.thickness[:, None]
    worn = [part + bridge if bool(part.any()) else part for part in (outfit.frames, outfit.lenses)]
    return torch.cat((head_verts, skin, outfit.curtain, *worn))


def _second_skin(head: HeadModel) -> tuple[Tensor, Tensor]:
    """Faces (f,3) of the second skin, numbered within it, and the vertices (H,) that it repeats."""
    bare = np.any([head.regions[name] for name in _NO_HAIR if name in head.regions], axis=0)
    chosen = ~torch.from_numpy(bare)[head.faces].any(1)
    faces = head.faces[chosen]
    skin, local = torch.unique(faces, return_inverse=True)
    return local, skin


def _materials(head: HeadModel) -> Tensor:
    kinds = torch.full((len(head.faces),), SKIN)
    for name, kind in (("mouth_inside", MOUTH), ("eye_sockets", SKIN), ("eyeballs", EYE), ("teeth", TEETH),
                       ("tongue", TONGUE)):  # fmt: skip
        if name in head.regions:
            kinds[torch.from_numpy(head.regions[name])[head.faces].all(1)] = kind
    return kinds


def _beard_at(masks: Tensor, places: Tensor, head: HeadModel) -> Tensor:
    weight = lookup(masks, places).amax(1)
    behind = head.v_template[:, 2] < 0.0
    return torch.where(behind, 0.0, weight)


def _rough(points: Tensor, rng: np.random.Generator) -> Tensor:
    """(n,) bumpy noise in about [-1,1]."""
    directions = rng.normal(size=(6, 3)) / rng.uniform(0.006, 0.03, (6, 1))
    phases = rng.uniform(0, 6.3, 6)
    waves = torch.sin(points @ torch.tensor(directions.T).float() + torch.tensor(phases).float())
    return waves.mean(1) * 1.7


def _cap(points: Tensor, rng: np.random.Generator) -> Tensor:
    """Thickness of hair over the skull: above a hairline that runs from the forehead to the nape."""
    x, y, z = points.unbind(-1)
    front = rng.uniform(0.062, 0.1) if rng.random() < 0.65 else rng.uniform(0.03, 0.065)
    nape = rng.uniform(-0.1, -0.02)
    slope = (front - nape) / 0.17
    line = front - slope * (0.085 - z)
    # At the temples hair starts further back.
    line = line + rng.uniform(0.0, 0.5) * (x.abs() - 0.045).clamp_min(0) * (z > 0)
    line = line + 0.004 * torch.sin(x * rng.uniform(40, 160) + rng.uniform(0, 6)) * rng.uniform(0, 1)
    line = line + rng.normal(0, 0.12) * x + 0.003 * _rough(points, rng)
    inside = torch.sigmoid((y - line) / rng.uniform(0.002, 0.006))
    thick = rng.uniform(0.003, 0.012) if rng.random() < 0.4 else rng.uniform(0.01, 0.04)
    shape = 0.8 + 0.45 * _rough(points, rng) * rng.uniform(0.2, 1)
    return inside * thick * shape.clamp_min(0.2) - 0.004 * (1 - inside)


def _curtain(rng: np.random.Generator) -> Tensor:
    """Long hair: a wall around the back of the head that hangs down."""
    reach = rng.uniform(1.5, 2.5)  # rad from the back to each side
    angle = torch.linspace(-reach, reach, _DROPS)[:, None]
    down = torch.linspace(0, 1, _STEPS)[None]
    length = rng.uniform(0.1, 0.28)
    radius = rng.uniform(0.084, 0.1) + rng.uniform(-0.01, 0.025) * down
    wave = 0.006 * rng.uniform(0, 1) * torch.sin(angle * rng.uniform(8, 25) + down * rng.uniform(0, 12))
    radius = radius + wave
    top = rng.uniform(0.02, 0.07)
    x = torch.sin(angle) * radius
    z = -torch.cos(angle) * radius * 1.15 - 0.005
    y = (top - down * length + 0 * angle).expand_as(x)
    return torch.stack((x, y, z), dim=-1).reshape(-1, 3)


def _curtain_faces() -> Tensor:
    row, column = torch.meshgrid(torch.arange(_DROPS - 1), torch.arange(_STEPS - 1), indexing="ij")
    a = (row * _STEPS + column).reshape(-1)
    return torch.cat(
        (torch.stack((a, a + 1, a + _STEPS), 1), torch.stack((a + 1, a + _STEPS + 1, a + _STEPS), 1))
    )


def _glasses(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two rims, a bridge and two temples, around the bridge of the nose at (0,0,0)."""
    half_width, half_height = rng.uniform(0.02, 0.028), rng.uniform(0.014, 0.024)
    square, tube = rng.uniform(0.5, 1.0), rng.uniform(0.0006, 0.0024)
    between, drop = half_width + rng.uniform(0.006, 0.011), rng.uniform(-0.004, 0.01)
    turn = torch.arange(_RIM) / _RIM * 2 * math.pi
    round_ = torch.stack((turn.cos(), turn.sin()), 1)
    outline = round_.sign() * round_.abs() ** square * torch.tensor((half_width, half_height))
    rims, lenses = [], []
    for side in (1.0, -1.0):
        x = outline[:, 0] + side * between
        centre = torch.stack((x, outline[:, 1] - drop, 0.008 - x.square() * 4), 1)
        ring = torch.arange(_TUBE) / _TUBE * 2 * math.pi
        out = torch.cat((round_, torch.zeros(_RIM, 1)), 1)
        deep = torch.tensor((0.0, 0.0, 1.0))
        rims.append(
            (
                centre[:, None] + tube * (ring.cos()[:, None] * out[:, None] + ring.sin()[:, None] * deep)
            ).reshape(-1, 3)
        )
        lenses.append(centre)
    wide, thin = between + half_width, tube * 1.2
    bars = []
    for start, end in (
        ((-(between - half_width), -drop + 0.004, 0.006), (between - half_width, -drop + 0.004, 0.006)),
        ((wide, -drop + 0.004, 0.008 - wide**2 * 4), (0.082, 0.002, -0.085)),
        ((-wide, -drop + 0.004, 0.008 - wide**2 * 4), (-0.082, 0.002, -0.085)),
    ):
        for point in (start, end):
            for dy, dz in ((thin, 0.0), (-thin, thin), (-thin, -thin), (thin, thin)):
                bars.append((point[0], point[1] + dy, point[2] + dz))
    return torch.cat((*rims, torch.tensor(bars))), torch.cat(lenses)


def _rim_faces() -> Tensor:
    found = []
    for rim in range(2):
        k, j = torch.meshgrid(torch.arange(_RIM), torch.arange(_TUBE), indexing="ij")
        a = (k * _TUBE + j).reshape(-1)
        b = (k * _TUBE + (j + 1) % _TUBE).reshape(-1)
        c = (((k + 1) % _RIM) * _TUBE + j).reshape(-1)
        d = (((k + 1) % _RIM) * _TUBE + (j + 1) % _TUBE).reshape(-1)
        both = torch.cat((torch.stack((a, b, c), 1), torch.stack((b, d, c), 1)))
        found.append(both + rim * _RIM * _TUBE)
    bar = torch.tensor(
        [(i, (i + 1) % 4, i + 4) for i in range(4)]
        + [((i + 1) % 4, (i + 1) % 4 + 4, i + 4) for i in range(4)]
    )
    start = 2 * _RIM * _TUBE
    return torch.cat((*found, *(bar + start + 8 * k for k in range(3))))


def _lens_faces() -> Tensor:
    k = torch.arange(1, _RIM - 1)
    fan = torch.stack((torch.zeros_like(k), k, k + 1), 1)
    return torch.cat((fan, fan + _RIM))
