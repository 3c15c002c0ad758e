"""Who is seen: identities within and beyond the head's own, each with a way of showing expressions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon3d.head import HeadModel
from recon3d.training.synthetic.settings import SyntheticSettings

#: Random waves of which smooth fields are made.
_WAVES = 10
#: Shortest and longest wave over the head, m.
_LENGTHS = (0.08, 0.3)
#: Smooth fields that vary how a unit moves different parts of the face.
_FIELDS = 3


@dataclass(frozen=True, eq=False)
class People:
    """B persons.

    Attributes:
        shape: (B,S) identity coefficients.
        offset: (B,V,3) m: what makes their heads differ beyond that.
        gain: (B,E) strength with which they show each unit ...
        bend: (B,K,E) ... how that varies over the face, with ...
        fields: (B,V,K) ... smooth fields of unit spread.
    """

    shape: Tensor
    offset: Tensor
    gain: Tensor
    bend: Tensor
    fields: Tensor

    def vertices(self, head: HeadModel, expression: Tensor) -> Tensor:
        """Return the heads (B,V,3) m, unposed, with expressions (B,E)."""
        strong = expression * self.gain
        kinds = torch.cat((strong[:, None], strong[:, None] * self.bend), dim=1)  # (B,1+K,E)
        basis = head.exprdirs.reshape(-1, head.num_expression).T
        moves = (kinds.flatten(0, 1) @ basis).view(*kinds.shape[:2], -1, 3)
        varied = (self.fields.permute(0, 2, 1)[..., None] * moves[:, 1:]).sum(1)
        neutral = head.unposed(self.shape, torch.zeros_like(expression))
        return neutral + self.offset + moves[:, 0] + varied


def draw_people(
    head: HeadModel, settings: SyntheticSettings, generators: list[np.random.Generator]
) -> People:
    """Draw a person for each generator."""
    calm = _calm(head)
    parts = [_draw_one(head, settings, rng, calm) for rng in generators]
    return People(*(torch.stack(column) for column in zip(*parts, strict=True)))


def _draw_one(
    head: HeadModel, settings: SyntheticSettings, rng: np.random.Generator, calm: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    spread = rng.uniform(*settings.identity)
    shape = rng.normal(0, spread, head.num_shape)
    waves = _waves(head.v_template, rng, 3 + _FIELDS)
    # Most people are near the model: few go all the way beyond it.
    size = settings.warp / 1000 * rng.beta(1.2, 2) * 2
    offset = size * _symmetric(waves[:, :3], head, keep=rng.uniform(0, 0.3))
    offset = offset * _rigid_parts(head)[:, None]
    names = head.expression_names
    sure = np.array([n.startswith(("eyeLook", "eyeBlink", "mouthClose")) for n in names])
    gain = np.where(sure, 1.0, rng.lognormal(0, settings.style, len(names)))
    bend = np.where(sure, 0.0, rng.normal(0, settings.style, (_FIELDS, len(names))))
    kept = (torch.tensor(x, dtype=torch.float32) for x in (shape, gain, bend))
    identity, strength, bends = kept
    return identity, offset, strength, bends, waves[:, 3:] * calm[:, None]


def _waves(points: Tensor, rng: np.random.Generator, count: int) -> Tensor:
    """(V,count) smooth random fields of spread 1."""
    lengths = np.exp(rng.uniform(math.log(_LENGTHS[0]), math.log(_LENGTHS[1]), _WAVES))
    directions = rng.normal(size=(_WAVES, 3))
    directions *= (2 * np.pi / lengths / np.linalg.norm(directions, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, _WAVES)
    waves = torch.sin(points @ torch.tensor(directions.T, dtype=torch.float32) + torch.tensor(phases).float())
    mixed = rng.normal(0, np.sqrt(2 / _WAVES), (_WAVES, count))
    return waves @ torch.tensor(mixed, dtype=torch.float32)


def _symmetric(field: Tensor, head: HeadModel, keep: float) -> Tensor:
    """Make displacements (V,3) alike on both sides, but for a part ``keep``."""
    flip = field.new_tensor((-1.0, 1.0, 1.0))
    mean = (field + field[head.mirror] * flip) / 2
    return mean + keep * (field - mean)


def _rigid_parts(head: HeadModel) -> Tensor:
    """(V,) 0 on what must keep its form: eyeballs and what lies around them move little."""
    weight = torch.ones(head.num_vertices)
    centres = [head.v_template[torch.from_numpy(head.regions[k])].mean(0) for k in _EYES if k in head.regions]
    for centre in centres:
        away = (head.v_template - centre).norm(dim=1)
        weight = torch.minimum(weight, ((away - 0.018) / 0.03).clamp(0, 1))
    return weight


_EYES = ("left_eyeball", "right_eyeball")


def _calm(head: HeadModel) -> Tensor:
    """(V,) how far expressions may vary: little where lids and lips have to meet, not at all in the eyes."""
    weight = torch.ones(head.num_vertices)
    for name, amount in (("eyelids", 0.3), ("lips", 0.4), ("mouth_inside", 0.4), ("eyeballs", 0.0)):
        if name in head.regions:
            weight[torch.from_numpy(head.regions[name])] = amount
    if "eye_sockets" in head.regions:
        weight[torch.from_numpy(head.regions["eye_sockets"])] = 0.3
    return weight


class Identifier:
    """Finds the identity coefficients that come nearest to a head."""

    def __init__(self, head: HeadModel) -> None:
        """Prepare least squares over the face, with a little pull to the mean."""
        face = torch.from_numpy(head.regions["face"]) if "face" in head.regions else slice(None)
        self._face = face
        basis = head.shapedirs[face].flatten(0, 1) * 1000  # mm
        matrix = basis.T @ basis + torch.eye(basis.shape[1]) * len(basis) * 0.05**2
        self._solve = torch.linalg.solve(matrix, basis.T) * 1000

    def nearest(self, people: People) -> Tensor:
        """Return coefficients (B,S)."""
        return people.shape + people.offset[:, self._face].flatten(1) @ self._solve.T
