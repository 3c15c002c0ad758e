"""What the neural renderer is told of the head: a picture of its form, without any likeness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.encoder.network import Encoded
from recon3d.face._crop import Region
from recon3d.fitting._basis import LandmarkBasis, reduce_head
from recon3d.head import HeadModel
from recon3d.render.camera import Camera
from recon3d.render.shading import RenderOutput, render_head

#: Grey of the skin, sRGB; of what is told apart from it: gaze, lips and teeth move over the skin's form
#: without changing it much.
_SKIN = 0.62
_GREYS = {"lips": 0.5, "mouth_inside": 0.2, "eyeballs": 0.9, "teeth": 0.85, "tongue": 0.4}
_IRIS_GREY = 0.15
#: Radius of the iris, m (the visible iris of adults is 11 to 12 mm wide).
_IRIS = 0.0058
#: How far away the cut-out's camera is, in cut-outs: nearly weak perspective, as the encoder tells it.
_AWAY = 50.0


@dataclass(frozen=True, eq=False)
class Heads:
    """B heads in their cut-outs.

    Attributes:
        shape: (B,S).
        expression: (B,52).
        pose: Where they stand.
    """

    shape: Tensor
    expression: Tensor
    pose: Pose

    @staticmethod
    def of(told: Encoded) -> Heads:
        """Take them from what the encoder tells."""
        return Heads(told.shape, told.expression, Pose.of(told))

    def detached(self) -> Heads:
        """Return them without gradient."""
        pose = Pose(self.pose.rotation.detach(), self.pose.place.detach())
        return Heads(self.shape.detach(), self.expression.detach(), pose)

    def showing(self, expression: Tensor) -> Heads:
        """Return them with other expressions (B,52)."""
        return Heads(self.shape, expression, self.pose)


@dataclass(frozen=True, eq=False)
class Pose:
    """Where heads stand in their cut-outs, weak perspective.

    Attributes:
        rotation: (B,3,3) head to camera.
        place: (B,3) as ``Encoded`` has it: the origin's x and y, and how large a metre is there.
    """

    rotation: Tensor
    place: Tensor

    @staticmethod
    def of(told: Encoded) -> Pose:
        """Take it from what the encoder tells."""
        return Pose(told.rotation, told.place)


class GeometryPainter:
    """Draws grey faces: hair, ears and neck are left to the photograph.

    Attributes:
        head: The head model.
        size: Width and height of the pictures, px.
        faces: (F',3) the triangles that are drawn.
    """

    def __init__(self, head: HeadModel, size: int) -> None:
        """Draw pictures of ``size`` by ``size`` px."""
        self.head, self.size = head, size
        self.faces = _face_only(head)
        self._greys = _greys(head)
        self._bases: dict[int, LandmarkBasis] = {}

    def vertices(self, heads: Heads) -> Tensor:
        """Return heads (B,V,3) before ``camera``, in parts of the cut-out's side. Differentiable."""
        missing = self.head.num_shape - heads.shape.shape[1]
        points = self.head.unposed(F.pad(heads.shape, (0, missing)), heads.expression)
        turned = points @ heads.pose.rotation.mT
        ahead = F.pad(heads.pose.place[:, :2], (0, 1), value=_AWAY)
        return turned * _scale(heads.pose)[:, None, None] + ahead[:, None]

    def settled(self, heads: Heads, points: Tensor) -> Heads:
        """Move and scale heads so that their landmarks come to lie on those that were found.

        A least-squares solution; the encoder's own place is off by half as much again. Differentiable.

        Args:
            heads: B heads; their place is not asked for.
            points: (B,478,2 or more) dense landmarks, parts of the cut-out.
        """
        shapes = heads.shape.shape[1]
        if shapes not in self._bases:
            self._bases[shapes] = reduce_head(self.head, "mediapipe478", shapes)
        basis = self._bases[shapes]
        weights = torch.cat((heads.shape, heads.expression), dim=1)
        change = (weights @ basis.directions.to(weights).flatten(0, 1).T).unflatten(1, (-1, 3))
        turned = ((basis.template.to(weights) + change) @ heads.pose.rotation.mT)[..., :2]
        middle, wanted = turned.mean(1, keepdim=True), points[..., :2].mean(1, keepdim=True)
        off = turned - middle
        scale = (off * (points[..., :2] - wanted)).sum((1, 2)) / off.square().sum((1, 2))
        place = wanted[:, 0] - 0.5 - scale[:, None] * middle[:, 0]
        pose = Pose(heads.pose.rotation, torch.cat((place, scale[:, None] / 3 - 1), dim=1))
        return Heads(heads.shape, heads.expression, pose)

    @property
    def camera(self) -> Camera:
        """The camera of ``vertices``."""
        size = self.size
        return Camera.create(_AWAY * size, (size, size))

    def draw(self, vertices: Tensor) -> RenderOutput:
        """Draw heads (B,V,3) of ``vertices``: grey on black. Differentiable."""
        greys = self._greys.to(vertices)[:, None].expand(-1, 3)
        return render_head(vertices, self.faces, self.camera, greys, background=(0, 0, 0), antialiased=True)


def in_cut_out(vertices: Tensor, focal: float, principal: npt.NDArray[np.float64], region: Region) -> Tensor:
    """Bring heads of a real camera before the ``camera`` of ``GeometryPainter``: they look the same there.

    Args:
        vertices: (B,V,3) m, camera space.
        focal: Focal length, px.
        principal: (2,) px.
        region: Of the cut-out in the picture.

    Returns:
        (B,V,3) in parts of the cut-out's side.
    """
    depth = vertices[..., 2:].clamp_min(1e-3)
    off = vertices[..., :2] * (focal / depth) + torch.tensor(principal - (region.x, region.y)).to(vertices)
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    level = off @ torch.tensor(((cos, -sin), (sin, cos))).to(vertices) / region.width
    middle = depth.mean(dim=1, keepdim=True)
    ahead = _AWAY + (depth - middle) * (focal / (middle * region.width))
    return torch.cat((level * (ahead / _AWAY), ahead), dim=-1)


def _scale(pose: Pose) -> Tensor:
    """How large a metre is, (B,), in parts of the cut-out's side."""
    return 3 * (1 + pose.place[:, 2])


def _face_only(head: HeadModel) -> Tensor:
    """Triangles without a corner on scalp, ears or neck."""
    away = head.within("scalp", "ears", "neck")
    return head.faces[~away[head.faces].any(1)]


def _greys(head: HeadModel) -> Tensor:
    """(V,) grey of each vertex, sRGB."""
    greys = torch.full((head.num_vertices,), _SKIN)
    for name, grey in _GREYS.items():
        if name in head.regions:
            greys[torch.from_numpy(head.regions[name])] = grey
    for name in ("left_eyeball", "right_eyeball"):
        if name in head.regions:
            ball = torch.from_numpy(head.regions[name])
            points = head.v_template[ball]
            off = points - (points.amin(0) + points.amax(0)) / 2
            ahead = (off[:, 2] > 0) & (off[:, :2].norm(dim=1) < _IRIS)
            greys[ball.nonzero()[:, 0][ahead]] = _IRIS_GREY
    return greys
