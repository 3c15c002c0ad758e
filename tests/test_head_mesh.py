"""The open head as a mesh: closed where it must be, facing outward, and its parts where they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from recon3d.conventions import JAW, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.head import HeadModel

Array = npt.NDArray[Any]
EYES = ((LEFT_EYE, "left_eyeball"), (RIGHT_EYE, "right_eyeball"))


def directed_edges(faces: Array) -> Array:
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def pieces(edges: Array, count: int) -> Array:
    """(count,) label of the connected piece of each vertex."""
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def border(faces: Array) -> Array:
    """(n, 2) edges that only one triangle has."""
    edges, uses = np.unique(np.sort(directed_edges(faces), axis=1), axis=0, return_counts=True)
    return np.asarray(edges[uses == 1])


def volume(points: Array, faces: Array) -> float:
    a, b, c = (points[faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def part(head: HeadModel, name: str) -> Array:
    """Triangles whose three corners are of a region."""
    faces = head.faces.numpy()
    return np.asarray(faces[head.regions[name][faces].all(1)])


def test_every_vertex_is_used_and_no_triangle_is_degenerate(head: HeadModel) -> None:
    faces, points = head.faces.numpy(), head.v_template.double().numpy()
    assert np.array_equal(np.unique(faces), np.arange(head.num_vertices))
    assert len(np.unique(np.sort(faces, axis=1), axis=0)) == len(faces)
    corners = points[faces]
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert area.min() > 1e-8  # m²: a hundredth of a square millimetre
    assert (edge.max(1) ** 2 / (2 * area)).max() < 25  # longest side over its height


def test_edges_are_manifold_and_orientation_is_consistent(head: HeadModel) -> None:
    edges = directed_edges(head.faces.numpy())
    assert len(np.unique(edges, axis=0)) == len(edges), (
        "two triangles run along an edge in the same direction"
    )
    _, uses = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)
    assert uses.max() == 2


def test_pieces_are_skin_eyes_teeth_and_tongue(head: HeadModel) -> None:
    label = pieces(directed_edges(head.faces.numpy()), head.num_vertices)
    found = {}
    for k in np.unique(label):
        inside = label == k
        names = [
            n for n in ("left_eyeball", "right_eyeball", "teeth", "tongue") if head.regions[n][inside].all()
        ]
        found[int(k)] = names[0] if names else "skin"
    assert sorted(found.values()) == ["left_eyeball", "right_eyeball", "skin", "teeth", "teeth", "tongue"]


def test_skin_has_one_border_a_clean_ring_around_the_neck(head: HeadModel) -> None:
    faces, points = head.faces.numpy(), head.v_template.double().numpy()
    label = pieces(directed_edges(faces), head.num_vertices)
    skin = faces[label[faces[:, 0]] == np.bincount(label).argmax()]
    rim = border(skin)
    used, degree = np.unique(rim, return_counts=True)
    assert (degree == 2).all()
    assert len(np.unique(pieces(rim, head.num_vertices)[used])) == 1
    ring = points[used]
    assert len(ring) > 20
    assert head.regions["neck"][used].all()
    assert ring[:, 1].max() < points[head.regions["lips"], 1].min()
    centred = ring - ring.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    normal = axes[2] * np.sign(axes[2, 1])
    assert normal[1] > 0.8, "the neck is cut across"
    assert np.abs(centred @ normal).max() < 0.15 * np.linalg.norm(np.ptp(ring, axis=0))
    assert spread[2] < 0.2 * spread[1]
    # One closed and smooth curve: around the middle once, without a saw.
    order = [int(used[0])]
    while True:
        here = rim[(rim == order[-1]).any(1)]
        ahead = [int(n) for n in np.setdiff1d(here, order)]
        if not ahead:
            break
        order.append(ahead[0])
    assert len(order) == len(used)
    steps = np.diff(points[[*order, order[0]]], axis=0)
    bend = np.einsum("ij,ij->i", steps, np.roll(steps, 1, axis=0))
    bend /= np.linalg.norm(steps, axis=1) * np.linalg.norm(np.roll(steps, 1, axis=0), axis=1)
    assert np.rad2deg(np.arccos(np.clip(bend, -1, 1))).max() < 60


def test_eyes_and_tongue_are_closed_and_teeth_have_one_rim_each(head: HeadModel) -> None:
    for name in ("left_eyeball", "right_eyeball", "tongue"):
        assert len(border(part(head, name))) == 0, name
    teeth = border(part(head, "teeth"))
    assert len(np.unique(pieces(teeth, head.num_vertices)[np.unique(teeth)])) == 2


def test_surfaces_face_outward(head: HeadModel) -> None:
    points = head.v_template.double().numpy()
    for name in ("left_eyeball", "right_eyeball"):
        ball = part(head, name)
        middle = points[head.regions[name]].mean(0)
        corners = points[ball]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (np.einsum("ij,ij->i", normal, corners.mean(1) - middle) > 0).all(), name
    assert volume(points - points[head.regions["tongue"]].mean(0), part(head, "tongue")) > 0
    for name, direction in (("face", (0, 0, 1)), ("scalp", (0, 0.6, -0.8))):
        corners = points[part(head, name)]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).sum(0)
        assert normal @ np.array(direction) / np.linalg.norm(normal) > 0.7, name


def test_random_identities_stay_heads(head: HeadModel) -> None:
    """No identity of usual size turns the skin inside out: triangles keep facing the way they did."""
    faces = head.faces.numpy()
    shapes = torch.randn(5, head.num_shape, generator=torch.Generator().manual_seed(4)) * 0.7
    heads = head.unposed(shapes, torch.zeros(5, 52)).double().numpy()
    skin = head.regions["face"][faces].all(1)

    def normals(points: Array) -> Array:
        a, b, c = (points[faces[skin][:, k]] for k in range(3))
        n = np.cross(b - a, c - a)
        return np.asarray(n / np.linalg.norm(n, axis=1, keepdims=True))

    before = normals(head.v_template.double().numpy())
    for points in heads:
        assert 0.16 < np.ptp(points[:, 0]) < 0.23  # m, ears included
        assert 0.25 < np.ptp(points[:, 1]) < 0.40
        assert (np.einsum("ij,ij->i", normals(points), before) > 0).mean() > 0.99


def test_regions_are_where_their_names_say(head: HeadModel) -> None:
    points, regions = head.v_template.numpy(), head.regions
    wanted = {
        "face", "lips", "eyelids", "brows", "nose", "ears", "scalp", "neck", "eyeballs", "left_eyeball",
        "right_eyeball", "eye_sockets", "mouth_inside", "teeth", "tongue",
    }  # fmt: skip
    assert wanted <= set(regions)
    assert all(regions[name].sum() >= 12 for name in wanted)
    middle = {name: points[mask].mean(0) for name, mask in regions.items()}
    assert middle["neck"][1] < middle["lips"][1] < middle["nose"][1] < middle["eyelids"][1]
    assert middle["eyelids"][1] < middle["brows"][1] < middle["scalp"][1] + 0.02
    assert points[regions["nose"], 2].max() == points[:, 2].max()
    assert middle["left_eyeball"][0] > 0.02 and middle["right_eyeball"][0] < -0.02
    assert np.abs(points[regions["ears"], 0]).min() > np.abs(points[regions["lips"], 0]).max()
    assert np.linalg.norm(points[regions["lips"]] - middle["lips"], axis=1).max() < 0.035
    assert middle["mouth_inside"][2] < middle["lips"][2]
    eye = np.stack([middle["left_eyeball"], middle["right_eyeball"]])
    distance = np.linalg.norm(points[regions["eyelids"], None] - eye, axis=2).min(1)
    assert np.quantile(distance, 0.95) < 0.04


def test_regions_do_not_overlap_where_they_must_not(head: HeadModel) -> None:
    regions = head.regions
    assert np.array_equal(regions["eyeballs"], regions["left_eyeball"] | regions["right_eyeball"])
    exclusive = ("face", "ears", "scalp", "neck", "eyeballs", "teeth", "tongue", "eye_sockets")
    assert np.stack([regions[name] for name in exclusive]).sum(0).max() == 1
    assert not (regions["left_eyeball"] & regions["right_eyeball"]).any()
    for name in ("lips", "nose"):
        assert (regions[name] & regions["eyeballs"]).sum() == 0
        assert (regions[name] & regions["face"]).sum() > 0.4 * regions[name].sum()
    for name in ("teeth", "tongue"):
        assert (regions["mouth_inside"] | ~regions[name]).all()
    covered = np.stack(list(regions.values())).any(0)
    assert covered.all(), f"{int((~covered).sum())} vertices belong to no region"


def test_skinning_weights(head: HeadModel) -> None:
    weights = head.weights
    assert float((weights.sum(1) - 1).abs().max()) < 1e-6
    assert float(weights.min()) >= 0
    for joint, name in EYES:
        assert bool((weights[torch.tensor(head.regions[name]), joint] == 1).all())
        assert bool((weights[~torch.tensor(head.regions[name]), joint] == 0).all())
    scalp, neck = torch.tensor(head.regions["scalp"]), torch.tensor(head.regions["neck"])
    assert float(weights[scalp, NECK].mean()) > 0.95
    assert float(weights[neck, 0].mean()) > 0.2
    assert float(weights[torch.tensor(head.regions["tongue"]), JAW].min()) == 1
    upper = torch.tensor(head.regions["lips"]) & (head.v_template[:, 1] > -0.047)
    lower = torch.tensor(head.regions["lips"]) & (head.v_template[:, 1] < -0.06)
    assert float(weights[lower, JAW].mean()) > float(weights[upper, JAW].mean()) + 0.5


def test_joint_regressor(head: HeadModel) -> None:
    assert float((head.J_regressor.sum(1) - 1).abs().max()) < 1e-5
    assert float(head.J_regressor.min()) >= 0
    joints = head.rest_joints(torch.zeros(1, head.num_shape))[0]
    assert float(joints[:3, 0].abs().max()) < 1e-5, "neck and jaw are in the middle"
    assert joints[0, 1] < joints[1, 1] < joints[2, 1] < joints[3, 1]
    eyes = joints[3:, 2].mean()
    assert joints[2, 2] < eyes, "the jaw hinges at the ears, behind the eyes"


def test_eye_joints_are_the_middle_of_their_balls_for_any_identity(head: HeadModel) -> None:
    shapes = torch.randn(8, head.num_shape, generator=torch.Generator().manual_seed(0)) * 0.9
    points, joints = head.unposed(shapes, torch.zeros(8, 52)).double(), head.rest_joints(shapes).double()
    for joint, name in EYES:
        ball = points[:, torch.tensor(head.regions[name])]
        # Least squares sphere: |p|² = 2 c·p + (r² - |c|²).
        system = torch.cat([2 * ball, torch.ones_like(ball[..., :1])], -1)
        solution = torch.linalg.lstsq(system, ball.square().sum(-1, keepdim=True)).solution[..., 0]
        centre = solution[:, :3]
        radius = (solution[:, 3] + centre.square().sum(-1)).sqrt()
        assert float((centre - joints[:, joint]).norm(dim=-1).max()) < 1e-4
        assert float(((ball - centre[:, None]).norm(dim=-1) - radius[:, None]).abs().max()) < 1e-4
        assert float(radius.min()) > 0.010 and float(radius.max()) < 0.020


def test_texture_triangles_cover_the_square_without_overlap(head: HeadModel) -> None:
    corners = head.uv[head.faces_uv].double().numpy()
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    assert (area > 0).mean() > 0.99 or (area < 0).mean() > 0.99, "texture triangles keep one orientation"
    assert 0.3 < np.abs(area).sum() <= 1
