"""The landmarks on the open head: on the parts they name, in mirrored pairs, the jaw on the silhouette."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recon3d.conventions import FRONTAL, LEFT_EYE, RIGHT_EYE
from recon3d.head import HeadModel
from recon3d.head.contour import JAW_POINTS, LINE_POINTS, landmarks68
from recon3d.head.ibug68 import ibug68_weights
from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from recon3d.render.camera import Camera
from recon3d.render.rasterize import rasterize

SIDE = 256
#: Dense landmarks along the lips, on the eyelids' rims, and their mirror partners.
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
RIGHT_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
PAIRS = (
    (33, 263),
    (133, 362),
    (61, 291),
    (48, 278),
    (159, 386),
    (145, 374),
    (70, 300),
    (234, 454),
    (172, 397),
)
MIDDLE = (10, 168, 1, 2, 0, 13, 14, 17, 152)
#: Partners of the 68 points: jaw, brows, nose, eyes, lips.
MIRROR68 = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46,
    39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip


@pytest.fixture(scope="module")
def dense(head: HeadModel) -> Tensor:
    """(478, 3) m on the template."""
    return head.landmarks(head.v_template[None], "mediapipe478")[0]


def view(head: HeadModel, yaw: float, pitch: float = 0.0) -> tuple[Tensor, Camera]:
    """Vertices in camera space (1, V, 3) and the camera of a picture that the head fills."""
    turn = axis_angle_to_matrix(torch.tensor([np.deg2rad(pitch), 0.0, 0.0]))
    turn = turn @ axis_angle_to_matrix(torch.tensor([0.0, np.deg2rad(yaw), 0.0]))
    pose = torch.zeros(1, 5, 3)
    pose[:, 0] = matrix_to_axis_angle(torch.tensor(FRONTAL, dtype=torch.float32) @ turn.float())
    vertices = head(torch.zeros(1, head.num_shape), torch.zeros(1, 52), pose).vertices
    vertices = vertices - vertices.mean(1, keepdim=True) + torch.tensor([0.0, 0.0, 1.0])
    return vertices, Camera.create(SIDE / 0.34, (SIDE, SIDE))


def test_embeddings_are_sound(head: HeadModel) -> None:
    wanted = {"mediapipe478": 478, "ibug68": 68, "contour": JAW_POINTS * LINE_POINTS}
    for name, count in wanted.items():
        embedding = head.embeddings[name]
        assert len(embedding) == count
        assert embedding.barycentric.shape == (count, 3)
        assert int(embedding.triangle.min()) >= 0 and int(embedding.triangle.max()) < len(head.faces)
        assert float(embedding.barycentric.min()) >= 0
        assert float((embedding.barycentric.sum(1) - 1).abs().max()) < 1e-5


def test_points_are_corners_blended(head: HeadModel, dense: Tensor) -> None:
    embedding = head.embeddings["mediapipe478"]
    for k in (0, 100, 470):
        corners = head.v_template[head.faces[embedding.triangle[k]]]
        torch.testing.assert_close(dense[k], embedding.barycentric[k] @ corners, atol=1e-7, rtol=0)


def test_sparse_points_are_means_of_dense_points(head: HeadModel, dense: Tensor) -> None:
    weights = ibug68_weights(dense)
    torch.testing.assert_close(weights.sum(1), torch.ones(68), atol=1e-5, rtol=0)
    assert float(weights.min()) >= 0
    sparse = head.landmarks(head.v_template[None], "ibug68")[0]
    # On the skin nearest to the mean; beside the ears that is some way off, for no jaw line runs over them.
    apart = (sparse - weights @ dense).norm(dim=-1)
    assert float(apart[JAW_POINTS:].max()) < 2e-3
    assert float(apart[3 : JAW_POINTS - 3].max()) < 2e-3 and float(apart.max()) < 0.025


def test_jaw_and_brows_are_evenly_divided(dense: Tensor) -> None:
    points = ibug68_weights(dense) @ dense
    for part in (range(17), range(17, 22), range(22, 27), range(27, 31)):
        steps = (points[part[1:]] - points[part[:-1]]).norm(dim=-1)
        assert float(steps.max() / steps.min()) < 1.15, part


def test_irises_lie_on_the_front_of_the_eyeballs(head: HeadModel, dense: Tensor) -> None:
    joints = head.rest_joints(torch.zeros(1, head.num_shape))[0]
    for points, joint, name in (
        (range(468, 473), RIGHT_EYE, "right_eyeball"),
        (range(473, 478), LEFT_EYE, "left_eyeball"),
    ):
        ball = head.regions[name]
        triangles = head.faces[head.embeddings["mediapipe478"].triangle[list(points)]].numpy()
        assert ball[triangles].all()
        off = (dense[list(points)] - joints[joint])[:, :2].norm(dim=-1)
        assert float(off[0]) < 3e-3, "the centre lies on the optical axis"
        assert float(off[1:].min()) > 4e-3 and float(off[1:].max()) < 9e-3, "the rim is that of an iris"


def test_skin_points_lie_on_the_skin(head: HeadModel) -> None:
    triangles = head.faces[head.embeddings["mediapipe478"].triangle[:468]].numpy()
    hidden = head.regions["eyeballs"] | head.regions["teeth"] | head.regions["tongue"]
    assert not hidden[triangles].any()
    skin = head.regions["face"] | head.regions["lips"] | head.regions["scalp"] | head.regions["ears"]
    skin = skin | head.regions["neck"]
    assert skin[triangles].any(1).mean() > 0.99


def test_points_lie_on_the_parts_that_they_name(head: HeadModel, dense: Tensor) -> None:
    template = head.v_template

    def distance(points: Tensor, region: str) -> Tensor:
        return torch.cdist(points, template[torch.tensor(head.regions[region])]).amin(1)

    assert float(distance(dense[list(LIPS)], "lips").max()) < 6e-3
    assert float(distance(dense[list(RIGHT_LID[:9])], "eyelids").max()) < 4e-3  # the upper one
    assert float(distance(dense[list(RIGHT_LID)], "right_eyeball").max()) < 8e-3
    assert float(distance(dense[[1, 4, 5]], "nose").max()) < 3e-3
    upper, lower = dense[13], dense[14]
    assert float((upper - lower).norm()) < 6e-3, "the inner edges of closed lips are near each other"
    assert dense[10, 1] > dense[168, 1] > dense[1, 1] > dense[13, 1] > dense[17, 1] > dense[152, 1]
    assert dense[159, 1] > dense[145, 1] and dense[386, 1] > dense[374, 1]
    # Eyes: corners further apart than pupils, pupils than inner corners.
    assert dense[263, 0] > dense[473, 0] > dense[362, 0] > 0 > dense[133, 0] > dense[468, 0] > dense[33, 0]


def test_points_are_mirrored_pairs(dense: Tensor) -> None:
    side = torch.tensor([-1.0, 1.0, 1.0])
    for right, left in PAIRS:
        torch.testing.assert_close(dense[left] * side, dense[right], atol=2e-3, rtol=0)
    assert float(dense[list(MIDDLE), 0].abs().max()) < 1.5e-3
    flipped = dense * side
    assert float(torch.cdist(flipped[:468], dense[:468]).amin(1).quantile(0.95)) < 3e-3


def test_68_points_are_mirrored_pairs(head: HeadModel) -> None:
    assert sorted(MIRROR68) == list(range(68))
    points = head.landmarks(head.v_template[None], "ibug68")[0]
    flipped = points[list(MIRROR68)] * torch.tensor([-1.0, 1.0, 1.0])
    assert float((flipped - points).norm(dim=-1).max()) < 3e-3


def test_jaw_points_of_a_frontal_view_are_the_fixed_ones(head: HeadModel) -> None:
    vertices, camera = view(head, 0.0)
    projected = camera.project(vertices)[..., :2]
    sliding = landmarks68(head, projected)[0]
    fixed = camera.project(head.landmarks(vertices, "ibug68"))[0, :, :2]
    torch.testing.assert_close(sliding[JAW_POINTS:], fixed[JAW_POINTS:], atol=0.05, rtol=0)
    assert float((sliding[:JAW_POINTS] - fixed[:JAW_POINTS]).norm(dim=-1).max()) < 4.0


@pytest.mark.parametrize("yaw", [45.0, -45.0])
def test_far_jaw_points_lie_on_the_silhouette_of_the_face(head: HeadModel, yaw: float) -> None:
    from scipy.ndimage import distance_transform_edt

    vertices, camera = view(head, yaw)
    seen = rasterize(camera.project(vertices), head.faces, camera.size)
    points = landmarks68(head, camera.project(vertices)[..., :2])[0].numpy()
    covered = seen.mask[0].numpy()
    rim = distance_transform_edt(covered) + distance_transform_edt(~covered) - 0.5
    # Turned to +X, the subject's left side is far; its jaw points come last. The chin's lie before the neck.
    far = points[10:15] if yaw > 0 else points[2:7]
    near = points[2:7] if yaw > 0 else points[10:15]
    at = rim[far[:, 1].astype(int), far[:, 0].astype(int)]
    assert at.max() < 3.0, f"{at.round(1)} px"
    inside = rim[near[:, 1].astype(int), near[:, 0].astype(int)]
    assert inside.max() > 10


@pytest.mark.parametrize("yaw", [30.0, 60.0])
def test_sliding_points_mirror(head: HeadModel, yaw: float) -> None:
    found = []
    for sign in (1.0, -1.0):
        vertices, camera = view(head, sign * yaw)
        found.append(landmarks68(head, camera.project(vertices)[..., :2])[0])
    flipped = found[1][list(MIRROR68)] * torch.tensor([-1.0, 1.0]) + torch.tensor([float(SIDE), 0.0])
    assert float((flipped - found[0]).norm(dim=-1).max()) < 6.0


def test_gradient_reaches_the_vertices(head: HeadModel) -> None:
    vertices, camera = view(head, 20.0)
    projected = camera.project(vertices)[..., :2].requires_grad_()
    landmarks68(head, projected).sum().backward()
    assert projected.grad is not None
    assert float(projected.grad.sum()) == pytest.approx(2 * 68, rel=1e-4)
