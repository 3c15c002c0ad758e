"""The head's formula and its file reader: against a slow twin, by finite differences, and with bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.transform import Rotation

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES, FRONTAL, GLOBAL, JOINT_NAMES
from recon3d.errors import InputError
from recon3d.head import HeadModel, load_head
from recon3d.head.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from recon3d.resources import resource_path

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def arrays() -> dict[str, Array]:
    with np.load(resource_path("flame_model/open_head.npz"), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def reduced(count: int = 24, shapes: int = 4, units: int = 4, *, correctives: bool = True) -> HeadModel:
    """A head of some of the real one's vertices and coefficients, with pose correctives, in float64."""
    full = load_head()
    rng = np.random.default_rng(3)
    rows = rng.choice(full.num_vertices, count, replace=False)
    regressor = rng.uniform(0, 1, (5, count))
    weights = rng.dirichlet(np.ones(5), count)
    arrays: dict[str, Array] = {
        "v_template": full.v_template.numpy()[rows],
        "f": rng.integers(0, count, (10, 3)),
        "shapedirs": full.shapedirs.numpy()[rows, :, :shapes],
        "exprdirs": full.exprdirs.numpy()[rows, :, :units],
        "posedirs": rng.normal(0, 1e-3, (count, 3, 36)) if correctives else np.zeros((count, 3, 0)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights,
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }
    return HeadModel(arrays, name="reduced", digest="0").to(torch.float64)


def flame_twin(head: HeadModel, shape: Array, expression: Array, pose: Array) -> tuple[Array, Array]:
    """FLAME's formula for one head, with loops over joints and vertices, in float64.

    The model folds its constant terms in float32 before it is converted: they agree to 2e-8 m.
    """
    own = {name: value.double().numpy() for name, value in head.named_buffers() if not name.startswith("_")}
    shaped = own["v_template"] + own["shapedirs"] @ shape
    joints = own["J_regressor"] @ shaped
    posed = shaped + own["exprdirs"] @ expression
    turns = [Rotation.from_rotvec(p).as_matrix() for p in pose]
    if own["posedirs"].shape[-1]:
        posed = posed + own["posedirs"] @ np.concatenate([(t - np.eye(3)).ravel() for t in turns[1:]])
    world: list[Array] = []
    for j, parent in enumerate(head.parents):
        local = np.eye(4)
        local[:3, :3] = turns[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    relative = []
    for j, matrix in enumerate(world):
        back = np.eye(4)
        back[:3, 3] = -joints[j]
        relative.append(matrix @ back)
    skinned = np.zeros_like(posed)
    for v in range(len(posed)):
        blend = sum(own["weights"][v, j] * relative[j] for j in range(len(relative)))
        skinned[v] = (blend @ np.append(posed[v], 1.0))[:3]
    return skinned, np.stack([matrix[:3, 3] for matrix in world])


def random_inputs(head: HeadModel, batch: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return (
        torch.tensor(rng.normal(0, 1, (batch, head.num_shape))),
        torch.tensor(rng.uniform(0, 1, (batch, head.num_expression))),
        torch.tensor(rng.normal(0, 0.6, (batch, head.num_joints, 3))),
    )


def test_shapes_and_types(head: HeadModel) -> None:
    v = head.num_vertices
    assert head.num_shape >= 80
    assert head.num_expression == 52
    assert head.joint_names == JOINT_NAMES
    assert head.parents == (-1, 0, 1, 1, 1)
    assert head.v_template.shape == (v, 3)
    assert head.weights.shape == (v, 5)
    assert head.colors.shape == (v, 3)
    assert float(head.colors.min()) >= 0 and float(head.colors.max()) <= 1
    assert head.faces.dtype == head.faces_uv.dtype == torch.int64
    assert head.faces.shape == head.faces_uv.shape
    assert int(head.faces_uv.max()) == len(head.uv) - 1
    assert float(head.uv.min()) >= 0 and float(head.uv.max()) <= 1
    assert all(mask.shape == (v,) and mask.dtype == bool for mask in head.regions.values())
    assert all(b.dtype in (torch.float32, torch.int64) for b in head.buffers())
    assert not any(b.requires_grad for b in head.buffers())
    assert all(bool(b.isfinite().all()) for b in head.buffers())


def test_expression_speaks_arkit(head: HeadModel) -> None:
    assert head.expression_names == ARKIT_NAMES
    assert head.speaks_arkit
    reach = head.exprdirs.norm(dim=1).amax(0)  # (52,) m
    assert float(reach.min()) > 1e-3, "every unit moves something visibly"
    assert float(reach.max()) < 0.06


def test_file_is_small_and_its_id_is_stable(head: HeadModel) -> None:
    assert resource_path("flame_model/open_head.npz").stat().st_size <= 6_000_000
    assert head.id == load_head().id
    name, digest = head.id.split("/")
    assert name == "open_head"
    assert len(digest) == 8


@pytest.mark.parametrize("seed", [0, 1])
def test_formula_equals_its_slow_twin(seed: int) -> None:
    full = load_head(dtype=torch.float64)
    shape, expression, pose = random_inputs(full, 1, seed)
    found = full(shape, expression, pose)
    vertices, joints = flame_twin(full, shape[0].numpy(), expression[0].numpy(), pose[0].numpy())
    np.testing.assert_allclose(found.vertices[0].numpy(), vertices, atol=2e-8)
    np.testing.assert_allclose(found.joints[0].numpy(), joints, atol=2e-8)


def test_formula_with_pose_correctives_equals_its_slow_twin() -> None:
    small = reduced()
    shape, expression, pose = random_inputs(small, 3, 5)
    found = small(shape, expression, pose)
    for k in range(3):
        vertices, joints = flame_twin(small, shape[k].numpy(), expression[k].numpy(), pose[k].numpy())
        np.testing.assert_allclose(found.vertices[k].numpy(), vertices, atol=2e-8)
        np.testing.assert_allclose(found.joints[k].numpy(), joints, atol=2e-8)


def test_single_precision_is_exact_to_a_hundredth_of_a_millimetre(head: HeadModel) -> None:
    inputs = random_inputs(head, 2, 7)
    exact = load_head(dtype=torch.float64)(*inputs).vertices
    rough = head(*(t.float() for t in inputs)).vertices
    assert float((rough - exact).abs().max()) < 1e-5


@pytest.mark.parametrize("which", [0, 1, 2], ids=["shape", "expression", "pose"])
@pytest.mark.parametrize("at_zero", [False, True])
def test_gradients(which: int, at_zero: bool) -> None:
    small = reduced()
    inputs = [t * 0 if at_zero else t for t in random_inputs(small, 2, 11)]
    inputs[which].requires_grad_()

    def evaluate(x: torch.Tensor) -> torch.Tensor:
        out = small(*(x if k == which else t for k, t in enumerate(inputs)))
        return torch.cat([out.vertices.flatten(), out.joints.flatten()]) * 100

    assert torch.autograd.gradcheck(evaluate, (inputs[which],))


def test_batch_equals_single_heads(head: HeadModel) -> None:
    shape, expression, pose = (t.float() for t in random_inputs(head, 4, 13))
    together = head(shape, expression, pose)
    for k in range(4):
        alone = head(shape[k : k + 1], expression[k : k + 1], pose[k : k + 1])
        torch.testing.assert_close(together.vertices[k], alone.vertices[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(together.joints[k], alone.joints[0], atol=1e-6, rtol=0)


def test_zero_pose_leaves_the_head_as_it_is(head: HeadModel) -> None:
    shape, expression, pose = (t.float() for t in random_inputs(head, 2, 17))
    posed = head(shape, expression, torch.zeros_like(pose))
    torch.testing.assert_close(posed.vertices, head.unposed(shape, expression), atol=1e-6, rtol=0)
    torch.testing.assert_close(posed.joints, head.rest_joints(shape), atol=1e-6, rtol=0)


def test_zero_coefficients_are_the_template(head: HeadModel) -> None:
    zero = head.unposed(torch.zeros(1, head.num_shape), torch.zeros(1, 52))
    assert torch.equal(zero[0], head.v_template)


def test_coefficients_add_their_own_directions(head: HeadModel) -> None:
    for k in (0, 7, head.num_shape - 1):
        shape = torch.zeros(1, head.num_shape)
        shape[0, k] = 1.5
        moved = head.unposed(shape, torch.zeros(1, 52))[0] - head.v_template
        torch.testing.assert_close(moved, 1.5 * head.shapedirs[..., k], atol=1e-7, rtol=0)
    for k in (0, 17, 51):
        expression = torch.zeros(1, 52)
        expression[0, k] = 0.5
        moved = head.unposed(torch.zeros(1, head.num_shape), expression)[0] - head.v_template
        torch.testing.assert_close(moved, 0.5 * head.exprdirs[..., k], atol=1e-7, rtol=0)


def test_joints_follow_the_identity_and_not_the_expression(head: HeadModel) -> None:
    shape, expression, _ = (t.float() for t in random_inputs(head, 3, 19))
    zero = torch.zeros(3, 5, 3)
    with_expression = head(shape, expression, zero).joints
    without = head(shape, torch.zeros_like(expression), zero).joints
    torch.testing.assert_close(with_expression, without, atol=1e-7, rtol=0)
    regressed = head.J_regressor @ head.unposed(shape, torch.zeros_like(expression))
    torch.testing.assert_close(without, regressed, atol=1e-6, rtol=0)


def test_global_rotation_is_rigid(head: HeadModel) -> None:
    shape, expression, pose = (t.float() for t in random_inputs(head, 2, 23))
    turned, still = pose.clone(), pose.clone()
    still[:, GLOBAL] = 0
    root = head.rest_joints(shape)[:, :1]
    rotation = axis_angle_to_matrix(turned[:, GLOBAL])
    expected = (head(shape, expression, still).vertices - root) @ rotation.mT + root
    torch.testing.assert_close(head(shape, expression, turned).vertices, expected, atol=1e-6, rtol=0)


def mirrored(points: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    return points[:, partner] * torch.tensor([-1.0, 1.0, 1.0])


def test_template_weights_colours_and_regions_are_symmetric(
    head: HeadModel, arrays: dict[str, Array]
) -> None:
    partner = arrays["mirror"]
    assert np.array_equal(partner[partner], np.arange(head.num_vertices))
    side = np.array([-1, 1, 1], np.float32)
    np.testing.assert_allclose(head.v_template.numpy()[partner] * side, head.v_template.numpy(), atol=1e-6)
    np.testing.assert_allclose(
        head.weights.numpy()[partner][:, [0, 1, 2, 4, 3]], head.weights.numpy(), atol=1e-6
    )
    np.testing.assert_array_equal(head.colors.numpy()[partner], head.colors.numpy())
    for name, mask in head.regions.items():
        other = name.replace("left", "x").replace("right", "left").replace("x", "right")
        np.testing.assert_array_equal(mask[partner], head.regions[other], err_msg=name)


def test_triangles_are_symmetric(head: HeadModel, arrays: dict[str, Array]) -> None:
    faces, partner = head.faces.numpy(), arrays["mirror"]

    def canonical(triangles: Array) -> set[tuple[int, ...]]:
        first = triangles.argmin(1)
        rolled = np.stack([np.roll(t, -k) for t, k in zip(triangles, first, strict=True)])
        return set(map(tuple, rolled.tolist()))

    # A ball's squares may be split either way; the skin must fold alike on both sides.
    faces = faces[~head.regions["eyeballs"][faces].any(1)]
    assert canonical(faces) == canonical(partner[faces][:, ::-1])


def test_every_identity_component_is_symmetric_or_antisymmetric(
    head: HeadModel, arrays: dict[str, Array]
) -> None:
    basis = head.shapedirs.numpy()
    flipped = basis[arrays["mirror"]] * np.array([-1, 1, 1], np.float32)[:, None]
    even, odd = np.abs(flipped - basis).max((0, 1)), np.abs(flipped + basis).max((0, 1))
    assert np.minimum(even, odd).max() < 2e-5
    assert (even < odd).sum() > (odd < even).sum() > 0


def test_mirrored_expression_gives_the_mirrored_head(head: HeadModel, arrays: dict[str, Array]) -> None:
    partner = torch.tensor(arrays["mirror"]).long()
    zero = torch.zeros(52, head.num_shape)
    straight = head.unposed(zero, torch.eye(52))
    flipped = head.unposed(zero, torch.eye(52)[:, list(ARKIT_MIRROR)])
    assert float((flipped - mirrored(straight, partner)).abs().max()) < 2e-5


def test_mirrored_pose_gives_the_mirrored_head(head: HeadModel, arrays: dict[str, Array]) -> None:
    _, _, pose = (t.float() for t in random_inputs(head, 1, 29))
    flipped = pose[:, [0, 1, 2, 4, 3]] * torch.tensor([1.0, -1.0, -1.0])
    shape, expression = torch.zeros(1, head.num_shape), torch.zeros(1, 52)
    expected = mirrored(head(shape, expression, pose).vertices, torch.tensor(arrays["mirror"]).long())
    torch.testing.assert_close(head(shape, expression, flipped).vertices, expected, atol=2e-5, rtol=0)


def save(path: Path, arrays: dict[str, Array]) -> Path:
    np.savez(path, **arrays)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_head(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.fixture(scope="module")
def toy() -> dict[str, Array]:
    from toy_head import toy_arrays

    return toy_arrays()


def test_reader_takes_a_sound_file(tmp_path: Path, toy: dict[str, Array]) -> None:
    loaded = load_head(save(tmp_path / "toy.npz", toy), dtype=torch.float64)
    assert loaded.name == "toy"
    assert loaded.v_template.dtype == torch.float64
    np.testing.assert_allclose(loaded.v_template.numpy(), toy["v_template"], atol=1e-6)


def test_reader_refuses_what_is_no_head(tmp_path: Path, toy: dict[str, Array]) -> None:
    assert "no such" in refused(tmp_path / "nowhere.npz")
    text = tmp_path / "text.npz"
    text.write_text("not a head")
    assert "not a head model" in refused(text)
    empty = tmp_path / "empty.npz"
    empty.touch()
    assert "not a head model" in refused(empty)
    refused(save(tmp_path / "other.npz", {"a": np.zeros(3)}))
    sound = save(tmp_path / "sound.npz", toy).read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(sound[: len(sound) // 2])
    assert "not a head model" in refused(cut)


@pytest.mark.parametrize(
    "key", ["v_template", "f", "shapedirs", "exprdirs", "J_regressor", "weights", "kintree_table"]
)
def test_reader_names_the_missing_array(tmp_path: Path, toy: dict[str, Array], key: str) -> None:
    part = {k: v for k, v in toy.items() if k != key}
    assert f"{key} missing" in refused(save(tmp_path / "part.npz", part))


@pytest.mark.parametrize("key", ["shapedirs", "exprdirs", "J_regressor", "weights", "kintree_table"])
def test_reader_names_the_array_of_the_wrong_size(tmp_path: Path, toy: dict[str, Array], key: str) -> None:
    broken = {**toy, key: toy[key][:-1]}
    assert key in refused(save(tmp_path / "broken.npz", broken))


@pytest.mark.parametrize("value", [-1, 10**6])
def test_reader_refuses_a_face_without_its_vertex(tmp_path: Path, toy: dict[str, Array], value: int) -> None:
    faces = toy["f"].astype(np.int64)
    faces[3, 1] = value
    assert "vertex that does not exist" in refused(save(tmp_path / "face.npz", {**toy, "f": faces}))


def test_reader_never_unpickles(tmp_path: Path, toy: dict[str, Array]) -> None:
    path = tmp_path / "pickled.npz"
    np.savez(path, **{**toy, "weights": np.array([{"a": 1}], dtype=object)})
    refused(path)


def random_rotations(count: int) -> torch.Tensor:
    return torch.tensor(Rotation.random(count, random_state=5).as_matrix())


def test_axis_angle_equals_scipy() -> None:
    vectors = np.random.default_rng(2).normal(0, 1.2, (50, 3))
    found = axis_angle_to_matrix(torch.tensor(vectors)).numpy()
    np.testing.assert_allclose(found, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)


def test_rotation_round_trip() -> None:
    matrices = random_rotations(200)
    back = axis_angle_to_matrix(matrix_to_axis_angle(matrices))
    torch.testing.assert_close(back, matrices, atol=1e-10, rtol=0)
    assert float(matrix_to_axis_angle(matrices).norm(dim=-1).max()) <= np.pi + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_round_trip_near_half_a_turn(dtype: torch.dtype) -> None:
    """Every frontal face in camera space is there."""
    small = torch.tensor(np.random.default_rng(1).normal(0, 1, (60, 3)) * np.logspace(-9, -1, 60)[:, None])
    matrices = (torch.tensor(FRONTAL) @ axis_angle_to_matrix(small)).to(dtype)
    back = axis_angle_to_matrix(matrix_to_axis_angle(matrices))
    torch.testing.assert_close(back, matrices, atol=2e-6 if dtype == torch.float32 else 1e-9, rtol=0)
    exact = matrix_to_axis_angle(torch.tensor(FRONTAL))
    assert exact.abs().tolist() == pytest.approx([np.pi, 0, 0])


def test_no_rotation_is_zero() -> None:
    assert matrix_to_axis_angle(torch.eye(3)).tolist() == [0.0, 0.0, 0.0]
    tiny = torch.tensor([1e-7, -2e-7, 3e-7], dtype=torch.float64)
    torch.testing.assert_close(matrix_to_axis_angle(axis_angle_to_matrix(tiny)), tiny, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-5, 0.3, 3.1])
def test_rotation_gradient(size: float) -> None:
    vector = (torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64) * size).requires_grad_()
    assert torch.autograd.gradcheck(axis_angle_to_matrix, (vector,))
    gradient = torch.autograd.functional.jacobian(axis_angle_to_matrix, vector)
    assert bool(gradient.isfinite().all())


def test_the_mirror_image_of_each_vertex(head: HeadModel) -> None:
    mirror = head.mirror
    assert torch.equal(mirror[mirror], torch.arange(head.num_vertices))
    turned = head.v_template * torch.tensor([-1.0, 1, 1])
    assert (head.v_template[mirror] - turned).norm(dim=1).max() < 1e-6
    left, right = (torch.from_numpy(head.regions[f"{side}_eyeball"]) for side in ("left", "right"))
    assert torch.equal(left[mirror], right)
