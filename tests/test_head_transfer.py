"""Carrying units from one head to another: to itself, to a reworked copy of itself, to FLAME's template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.sparse import csr_matrix, identity, vstack

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES
from recon3d.errors import InputError, NoFaceError
from recon3d.face import Face, open_face_source
from recon3d.head import HeadModel
from recon3d.head._obj import read_obj
from recon3d.head.correspondence import (
    Floats,
    Ints,
    Registration,
    Surface,
    border,
    closest_in_triangles,
    eyeballs,
    fit_sphere,
    register,
    sides_of_faces,
    similarity,
    surface_of,
)
from recon3d.head.dressing import bare_arrays, dressed
from recon3d.head.transfer import (
    Ball,
    carry_mask,
    carry_values,
    lid_seam,
    lip_seam,
    off_the_eyeballs,
    transfer_deformations,
)

FLAME = Path(__file__).resolve().parents[2] / "shared" / "data" / "flame" / "head_template.obj"
needs_flame = pytest.mark.skipif(not FLAME.is_file(), reason="FLAME's template is not here")
SHUT = (ARKIT_NAMES.index("eyeBlinkLeft"), ARKIT_NAMES.index("eyeBlinkRight"))
#: Of the reworked copy; its other changes do less.
SCALE, ANGLE = 1.15, 0.1
TURN = np.array([[np.cos(ANGLE), 0, np.sin(ANGLE)], [0, 1, 0], [-np.sin(ANGLE), 0, np.cos(ANGLE)]])
MM = 1e-3


def unit(name: str) -> int:
    return ARKIT_NAMES.index(name)


def bent(points: Floats) -> Floats:
    """Points of the open head (N, 3) where the copy has them: wider below, longer, turned and larger."""
    moved = points.copy()
    moved[:, 0] *= 1.03 - 0.4 * points[:, 1]
    moved[:, 1] *= 1.05
    moved[:, 2] += 1.5 * points[:, 1] ** 2
    return np.asarray(SCALE * moved @ TURN.T + np.array([0.01, 1.5, -0.02]))


def split_edges(faces: Ints, count: int, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Halve some edges, no two of one triangle: the new triangles, and the ends (n, 2) of what was halved."""
    ends = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, index = np.unique(ends, axis=0, return_inverse=True)
    of_face = index.reshape(3, -1).T
    rank = rng.permutation(len(edges))
    first = of_face[np.arange(len(faces)), rank[of_face].argmin(1)]
    # An edge is halved where it is the first one of all its triangles.
    chosen = np.bincount(first, minlength=len(edges)) == np.bincount(index, minlength=len(edges))
    chosen &= rng.random(len(edges)) < share
    number = np.where(chosen, count + np.cumsum(chosen) - 1, -1)
    halved = number[of_face]
    corner = (halved >= 0).argmax(1)
    whole = (halved < 0).all(1)
    rolled = np.take_along_axis(faces, (corner[:, None] + np.arange(3)) % 3, axis=1)
    a, b, c = rolled[~whole].T
    middle = halved.max(1)[~whole]
    new = np.concatenate([faces[whole], np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)])
    return new, edges[chosen]


class Copy:
    """The open head reworked: triangles halved, vertices shuffled, bent, scaled, turned and moved.

    Attributes:
        surface: It, with landmarks that are 0.3 mm off.
        weights: (V_copy, V_open) what each of its vertices is made of.
        truth: (V_copy, 3, 52) m its units, but for the bending.
    """

    def __init__(self, head: HeadModel, *, without: tuple[str, ...] = ()) -> None:
        rng = np.random.default_rng(3)
        base = surface_of(head)
        gone = np.zeros(len(base.vertices), bool)
        for name in without:
            gone |= base.regions[name]
        faces, weights = base.faces[~gone[base.faces].any(1)], identity(len(gone), format="csr")
        for _ in range(2):
            faces, ends = split_edges(faces, weights.shape[0], 0.4, rng)
            rows = np.arange(len(ends)).repeat(2)
            shape = (len(ends), weights.shape[0])
            halves = csr_matrix((np.full(len(rows), 0.5), (rows, ends.reshape(-1))), shape)
            weights = vstack([weights, halves @ weights]).tocsr()
        used = rng.permutation(np.unique(faces))
        number = np.full(weights.shape[0], -1)
        number[used] = np.arange(len(used))
        self.weights = weights[used]
        marks = base.landmarks + rng.normal(0, 0.3 * MM, base.landmarks.shape)
        self.surface = Surface(bent(self.weights @ base.vertices), number[faces], bent(marks))
        self.truth: Floats = SCALE * np.einsum("ij,vjk->vik", TURN, self.of(head.exprdirs.double().numpy()))

    def of(self, values: Floats) -> Floats:
        """Per-vertex values of the open head (V_open, ...) on the copy."""
        flat = self.weights @ values.reshape(len(values), -1)
        return np.asarray(flat).reshape(-1, *values.shape[1:])


@pytest.fixture(scope="module")
def surface(head: HeadModel) -> Surface:
    return surface_of(head)


@pytest.fixture(scope="module")
def units(head: HeadModel) -> Floats:
    """(V, 3, 52) m."""
    return np.asarray(head.exprdirs.double().numpy())


@pytest.fixture(scope="module")
def copy(head: HeadModel) -> Copy:
    return Copy(head)


@pytest.fixture(scope="module")
def registered(surface: Surface, copy: Copy) -> Registration:
    return register(surface, copy.surface)


@pytest.fixture(scope="module")
def carried(registered: Registration, units: Floats) -> Floats:
    """(V_copy, 3, 52) m the units carried over to the copy."""
    return transfer_deformations(registered, units)


@pytest.fixture(scope="module")
def itself(surface: Surface) -> Registration:
    return register(surface, surface)


def gaps(surface: Surface, moves: Floats | float = 0.0) -> list[Floats]:
    """What is left between the rims of the left and of the right lids: (N, 3) m each."""
    seams = [lid_seam(surface, eye, surface.vertices[surface.balls[eye]]) for eye in (0, 1)]
    return [seam.across(surface.vertices + moves) for seam in seams]


def test_closest_points_in_triangles() -> None:
    rng = np.random.default_rng(0)
    corners, points = rng.normal(size=(400, 3, 3)) * MM, 1.5 * rng.normal(size=(400, 3)) * MM
    weights = closest_in_triangles(corners, points)
    assert weights.min() > -1e-12 and np.allclose(weights.sum(1), 1)
    found = np.linalg.norm(np.einsum("nc,ncx->nx", weights, corners) - points, axis=1)
    grid = np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60
    tried = np.linalg.norm(np.einsum("gc,ncx->ngx", grid, corners) - points[:, None], axis=2).min(1)
    assert (found <= tried + 1e-12).all()
    assert (tried - found).max() < 0.05 * MM  # the grid's own coarseness


def test_similarity_is_found() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3))
    scale, rotation, shift = similarity(points, 2.5 * points @ TURN.T + [1.0, 2.0, 3.0])
    assert np.isclose(scale, 2.5) and np.allclose(rotation, TURN) and np.allclose(shift, [1, 2, 3])


def test_eyeballs_are_found_and_nothing_else(head: HeadModel, surface: Surface) -> None:
    for found, name in zip(surface.balls, ("left_eyeball", "right_eyeball"), strict=True):
        assert np.array_equal(found, head.regions[name])
    skin = head.faces.numpy()[~head.regions["eyeballs"][head.faces.numpy()].any(1)]
    assert not np.any(eyeballs(surface.vertices, skin))


def test_sides_of_the_slits(head: HeadModel, surface: Surface) -> None:
    """Over the mouth's slit is upper lip, and so on; what a jaw takes along is lower lip and not upper."""
    lips, y = head.regions["lips"], surface.vertices[:, 1]
    opened = np.linalg.norm(head.exprdirs[..., unit("jawOpen")].numpy(), axis=1)
    assert (surface.sides[lips] > 0).mean() > 0.7
    assert opened[lips & (surface.sides == 2)].mean() > 4 * opened[lips & (surface.sides == 1)].mean()
    for upper, x in ((3, 1), (5, -1)):
        assert y[surface.sides == upper].mean() > y[surface.sides == upper + 1].mean() + 0.01
        assert (np.sign(surface.vertices[surface.sides == upper, 0]) == x).all()


def test_a_head_on_itself(head: HeadModel, surface: Surface, itself: Registration, units: Floats) -> None:
    assert np.abs(itself.warped - surface.vertices).max() < 1e-6
    assert itself.correspondence.distance.max() < 1e-6
    found = transfer_deformations(itself, units)
    teeth = head.regions["teeth"]
    assert np.abs(found - units)[~teeth].max() < 1e-5
    assert np.abs(found - units)[teeth].max() < 0.5 * MM  # teeth move as one body, which they nearly do
    assert np.array_equal(carry_mask(itself, head.regions["lips"]), head.regions["lips"])


def test_transfer_is_linear(registered: Registration, units: Floats) -> None:
    some = units[..., [unit("jawOpen"), unit("mouthClose"), unit("eyeBlinkLeft"), unit("eyeLookUpLeft")]]
    mix = np.array([0.7, -0.4, 1.3, 0.5])
    found = transfer_deformations(registered, np.concatenate([some, (some @ mix)[..., None]], -1))
    assert np.allclose(found[..., 4], found[..., :4] @ mix, atol=1e-7)


def test_where_a_copy_lies(head: HeadModel, surface: Surface, copy: Copy, registered: Registration) -> None:
    faces = copy.of(head.regions["face"][:, None].astype(float))[:, 0] > 0.99
    away = np.linalg.norm(registered.correspondence.carry(surface.vertices, surface.faces)
                          - copy.weights @ surface.vertices, axis=1)  # fmt: skip
    assert np.median(away[faces]) < 0.5 * MM
    assert np.percentile(away[faces], 90) < 1.5 * MM


def test_upper_is_never_taken_for_lower(surface: Surface, copy: Copy, registered: Registration) -> None:
    """By the truth, not by the copy's own labels."""
    found = sides_of_faces(surface.sides, surface.faces)[registered.correspondence.triangle]
    pure = [copy.of((surface.sides == side)[:, None].astype(float))[:, 0] > 0.999 for side in range(7)]
    for one, other in ((1, 2), (3, 4), (5, 6)):
        assert pure[one].sum() > 50 and pure[other].sum() > 50
        assert (found[pure[one]] != other).all() and (found[pure[other]] != one).all()
    balls = np.flatnonzero(surface.balls[0] | surface.balls[1])
    on_ball = np.isin(surface.faces[registered.correspondence.triangle], balls).all(1)
    assert np.array_equal(on_ball, copy.surface.balls[0] | copy.surface.balls[1])


def test_a_copy_has_the_same_units(copy: Copy, carried: Floats) -> None:
    wrong = np.sqrt(((carried - copy.truth) ** 2).sum(1).mean(0) / (copy.truth**2).sum(1).mean(0))
    assert np.median(wrong) < 0.08
    # The lids follow the opening of the eyes, which the bending has changed.
    assert wrong.max() < 0.2, ARKIT_NAMES[int(wrong.argmax())]


def test_what_does_not_move_is_held(copy: Copy, carried: Floats) -> None:
    still = np.abs(copy.truth).max((1, 2)) < 1e-6
    assert still.sum() > 1000
    assert np.linalg.norm(carried, axis=1).max(1)[still].max() < 1.5 * MM
    assert np.median(np.linalg.norm(carried, axis=1).max(1)[still]) < 0.05 * MM
    neck = np.unique(border(copy.surface.faces))
    neck = neck[copy.surface.vertices[neck, 1] < np.quantile(copy.surface.vertices[:, 1], 0.05)]
    assert np.linalg.norm(carried[neck] - copy.truth[neck], axis=1).max() < 1 * MM


@pytest.mark.parametrize("name", ["eyeLookOutLeft", "eyeLookUpRight", "eyeLookDownLeft", "eyeLookInRight"])
def test_eyeballs_turn_about_their_own_middle(
    copy: Copy, carried: Floats, surface: Surface, units: Floats, name: str
) -> None:
    eye, angles = (0 if name.endswith("Left") else 1), []
    for head, moves in ((surface, units), (copy.surface, carried)):
        ball = head.balls[eye]
        before = head.vertices[ball] - fit_sphere(head.vertices[ball])[0]
        after = before + moves[ball, :, unit(name)]
        _, rotation, shift = similarity(before, after)
        assert np.abs(before @ rotation.T - after).max() < 0.02 * MM and np.abs(shift).max() < 0.02 * MM
        angles.append(np.arccos((np.trace(rotation) - 1) / 2))
    assert angles[0] > 0.4 and np.isclose(*angles, atol=1e-3)


def test_a_blink_shuts_and_lids_pass_before_the_eye(
    copy: Copy, registered: Registration, units: Floats
) -> None:
    found = transfer_deformations(registered, units[..., SHUT], shut=(0, 1))
    lifted = off_the_eyeballs(copy.surface, found)
    for eye in (0, 1):
        before, after = gaps(copy.surface)[eye], gaps(copy.surface, lifted[..., eye])[eye]
        assert np.linalg.norm(before, axis=1).mean() > 6 * MM
        # Not more than a slit in height; in depth the upper lid may end before the lower one.
        assert after[:, 1].max() < 0.4 * MM and after[:, 1].min() > -2 * MM
        assert np.abs(after[:, 2]).max() < 3 * MM
        ball = Ball.of(copy.surface.vertices[copy.surface.balls[eye]])
        lids = np.isin(copy.surface.sides, (3 + 2 * eye, 4 + 2 * eye))
        clear = lids & (copy.surface.vertices[:, 2] > ball.middle[2])
        clear &= ball.height(copy.surface.vertices) > 0.3 * MM
        # Half-way a lid may cut into the ball, as the open head's does: its way is straight.
        for strength, depth in ((0.5, 0.13 * ball.size), (1.0, 0.3 * MM)):
            height = ball.height(copy.surface.vertices + strength * lifted[..., eye])
            assert height[clear].min() > -depth
        assert np.abs(lifted[..., eye])[copy.surface.balls[1 - eye]].max() < 0.1 * MM


def test_lips_open_and_meet(copy: Copy, carried: Floats) -> None:
    seam = lip_seam(copy.surface)
    rest = seam.across(copy.surface.vertices)[:, 1]
    jaw = seam.across(copy.surface.vertices + carried[..., unit("jawOpen")])[:, 1]
    shut = carried[..., unit("jawOpen")] + carried[..., unit("mouthClose")]
    closed = seam.across(copy.surface.vertices + shut)[:, 1]
    assert jaw[4:-4].min() > 20 * MM and jaw.min() > 3 * MM
    assert np.abs(closed - rest).max() < 1.2 * MM


def test_heads_without_eyes_or_teeth(head: HeadModel, surface: Surface, units: Floats) -> None:
    bare = Copy(head, without=("eyeballs", "teeth", "tongue"))
    found = transfer_deformations(register(surface, bare.surface), units, shut=SHUT)
    wrong = np.sqrt(
        ((found - bare.truth) ** 2).sum(1).mean(0) / np.maximum((bare.truth**2).sum(1).mean(0), 1e-12)
    )
    opened = [
        unit(name) for name in ("jawOpen", "mouthSmileLeft", "browInnerUp", "mouthPucker", "noseSneerLeft")
    ]
    assert wrong[opened].max() < 0.12
    balls = [bent(surface.vertices[surface.balls[eye]]) for eye in (0, 1)]
    seam = lid_seam(bare.surface, 0, balls[0])
    assert np.abs(seam.across(bare.surface.vertices + found[..., SHUT[0]])[:, 1]).max() < 2.5 * MM


def test_masks_and_colours_are_carried(head: HeadModel, copy: Copy, registered: Registration) -> None:
    for name in ("lips", "nose", "face", "ears", "eyelids", "teeth", "tongue", "mouth_inside"):
        truth = copy.of(head.regions[name][:, None].astype(float))[:, 0] > 0.5
        found = carry_mask(registered, head.regions[name])
        assert (truth & found).sum() > 0.8 * (truth | found).sum(), name
    colors = head.colors.double().numpy()
    assert np.abs(carry_values(registered, colors) - copy.of(colors)).mean() < 0.02


class Blind:
    """A source that sees no faces."""

    def find(self, pixels: npt.NDArray[np.uint8], *, max_faces: int = 8) -> list[Face]:
        return []


def test_what_cannot_be_dressed_says_why(head: HeadModel) -> None:
    arrays = bare_arrays(head.v_template.numpy(), head.faces.numpy())
    plain = HeadModel(arrays, name="plain", digest="0")
    with pytest.raises(NoFaceError, match=r"plain: .*look along \+Z with \+Y up, in metres"):
        dressed(plain, Blind())
    arrays["v_template"] = 100 * arrays["v_template"]
    with pytest.raises(InputError, match=r"30\.8 high.*metres"):
        dressed(HeadModel(arrays, name="plain", digest="0"), Blind())


@pytest.fixture(scope="module")
def flame() -> HeadModel:
    """FLAME's template, dressed."""
    mesh = read_obj(FLAME)
    arrays = bare_arrays(mesh.vertices - [0.0, 1.5, 0.0], mesh.faces)
    worn = dressed(HeadModel(arrays, name="flame", digest="0"), open_face_source(), renders=(16, 32))
    return HeadModel(arrays | worn, name="flame", digest="1")


@pytest.mark.slow
@needs_flame
def test_flame_is_dressed(flame: HeadModel, head: HeadModel) -> None:
    assert flame.knows_arkit and flame.on_open is not None and len(flame.on_open) == 5023
    assert {"mediapipe478", "ibug68", "contour"} <= set(flame.embeddings)
    assert set(head.regions) <= set(flame.regions)
    assert torch.isfinite(flame.arkitdirs).all() and flame.arkitdirs.dtype == torch.float32
    for name, least, most in (
        ("face", 1500, 2300),
        ("lips", 90, 300),
        ("ears", 900, 1500),
        ("eyeballs", 1092, 1092),
    ):
        assert least <= flame.regions[name].sum() <= most, name
    assert not flame.regions["teeth"].any() and not flame.regions["tongue"].any()
    red = flame.colors[torch.from_numpy(flame.regions["lips"])].mean(0)
    assert red[0] > 1.5 * red[1]


@pytest.mark.slow
@needs_flame
def test_flame_blinks_and_opens_its_mouth(flame: HeadModel) -> None:
    surface, units = surface_of(flame), flame.arkitdirs.double().numpy()
    for eye in (0, 1):
        assert np.linalg.norm(gaps(surface)[eye], axis=1).mean() > 6 * MM
        shut = gaps(surface, units[..., SHUT[eye]])[eye]
        assert shut[:, 1].max() < 0.4 * MM and np.linalg.norm(shut, axis=1).max() < 2.5 * MM
        ball = Ball.of(surface.vertices[surface.balls[eye]])
        lid = surface.skin & (ball.height(surface.vertices) > 0.3 * MM)
        for strength in (0.5, 0.75, 1.0):
            assert ball.height(surface.vertices + strength * units[..., SHUT[eye]])[lid].min() > -0.2 * MM
    upper, lower = flame.landmarks(
        flame.in_units.unposed(torch.zeros(1, 0), blink())[0][None], "mediapipe478"
    )[0, [159, 145], 1]
    assert abs(float(upper - lower)) < 1 * MM  # of 10 mm
    seam = lip_seam(surface)
    assert seam.across(surface.vertices + units[..., unit("jawOpen")])[4:-4, 1].min() > 18 * MM
    closed = units[..., unit("jawOpen")] + units[..., unit("mouthClose")]
    assert np.abs(seam.across(surface.vertices + closed)[:, 1]).max() < 0.8 * MM


def blink() -> torch.Tensor:
    """(1, 52) both eyes shut."""
    expression = torch.zeros(1, 52)
    expression[0, list(SHUT)] = 1.0
    return expression


@pytest.mark.slow
@needs_flame
def test_flame_moves_alike_on_both_sides(flame: HeadModel) -> None:
    units = flame.arkitdirs.double().numpy()
    mirrored = units[flame.mirror.numpy()][..., list(ARKIT_MIRROR)] * np.array([-1, 1, 1])[:, None]
    assert np.linalg.norm(units - mirrored, axis=1).max() < 0.4 * MM


@pytest.mark.slow
@needs_flame
def test_flame_keeps_its_neck_and_eyes(flame: HeadModel) -> None:
    surface, units = surface_of(flame), flame.arkitdirs.double().numpy()
    ends = np.unique(border(surface.faces))
    neck = ends[surface.vertices[ends, 1] < -0.12]
    assert len(neck) == 30 and np.abs(units[neck]).max() < 0.1 * MM
    for eye, side in enumerate(("Left", "Right")):
        ball = surface.balls[eye]
        middle, _, _ = fit_sphere(surface.vertices[ball])
        for k, name in enumerate(ARKIT_NAMES):
            moved = surface.vertices[ball] + units[ball, :, k] - middle
            turned = np.linalg.norm(moved, axis=1) - np.linalg.norm(surface.vertices[ball] - middle, axis=1)
            assert np.abs(turned).max() < 0.02 * MM, name
            assert (np.abs(units[ball, :, k]).max() > 5 * MM) == name.startswith("eyeLook") * name.endswith(
                side
            )


@pytest.mark.slow
@needs_flame
def test_flame_smiles_upward_and_outward(flame: HeadModel) -> None:
    smiling = flame.v_template + flame.arkitdirs[..., unit("mouthSmileLeft")]
    points = flame.landmarks(torch.stack([flame.v_template, smiling]), "mediapipe478")
    corner = (points[1] - points[0])[291]
    assert corner[0] > 3 * MM and corner[1] > 3 * MM
    assert (points[1] - points[0])[61].norm() < 1.5 * MM
