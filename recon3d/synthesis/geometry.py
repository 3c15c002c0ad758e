"""What the neural renderer is told of the head: a picture of its form, without any likeness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.encoder.network import Encoded
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

    def vertices(self, shape: Tensor, expression: Tensor, pose: Pose) -> Tensor:
        """Return heads (B,V,3) before ``camera``, in parts of the cut-out's side. Differentiable.

        Args:
            shape: (B,S), S not more than the head has.
            expression: (B,52).
            pose: Where they stand.
        """
        missing = self.head.num_shape - shape.shape[1]
        points = self.head.unposed(F.pad(shape, (0, missing)), expression) @ pose.rotation.mT
        ahead = F.pad(pose.place[:, :2], (0, 1), value=_AWAY)
        return points * (3 * (1 + pose.place[:, 2]))[:, None, None] + ahead[:, None]

    @property
    def camera(self) -> Camera:
        """The camera of ``vertices``."""
        size = self.size
        return Camera.create(_AWAY * size, (size, size))

    def draw(self, vertices: Tensor) -> RenderOutput:
        """Draw heads (B,V,3) of ``vertices``: grey on black. Differentiable."""
        greys = self._greys.to(vertices)[:, None].expand(-1, 3)
        return render_head(vertices, self.faces, self.camera, greys, background=(0, 0, 0), antialiased=True)


def _face_only(head: HeadModel) -> Tensor:
    """Triangles without a corner on scalp, ears or neck."""
    away = torch.zeros(head.num_vertices, dtype=torch.bool)
    for name in ("scalp", "ears", "neck"):
        if name in head.regions:
            away |= torch.from_numpy(head.regions[name])
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
