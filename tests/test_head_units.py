"""What the open head's units do, seen in pictures: gaze turns, lids close over the eye, lips meet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon3d.conventions import ARKIT_NAMES, LEFT_EYE, RIGHT_EYE
from recon3d.head import HeadModel
from recon3d.render.camera import Camera
from recon3d.render.rasterize import Fragments, rasterize

SIDE = 256
EYE_WIDTH, MOUTH_WIDTH = 0.05, 0.09  # m across the picture
FLIP = torch.tensor([1.0, -1.0, -1.0])
SIDES = (("Left", LEFT_EYE, "left_eyeball", 1.0), ("Right", RIGHT_EYE, "right_eyeball", -1.0))


@pytest.fixture(scope="module")
def identities(head: HeadModel) -> Tensor:
    """(6, S): the mean head and five random ones."""
    random = torch.randn(5, head.num_shape, generator=torch.Generator().manual_seed(1)) * 0.7
    return torch.cat([torch.zeros(1, head.num_shape), random])


def units(**values: float) -> Tensor:
    expression = torch.zeros(1, 52)
    for name, value in values.items():
        expression[0, ARKIT_NAMES.index(name)] = value
    return expression


def photograph(vertices: Tensor, faces: Tensor, centre: Tensor, width: float) -> Fragments:
    """Look from the front at ``width`` metres around ``centre`` (3,) of one head (V, 3)."""
    placed = (vertices - centre) * FLIP + torch.tensor([0.0, 0.0, 0.8])
    camera = Camera.create(SIDE * 0.8 / width, (SIDE, SIDE))
    return rasterize(camera.project(placed[None]), faces, camera.size)


def of_region(head: HeadModel, name: str, corners: int = 3) -> Tensor:
    """(F,) triangles with at least so many corners in a region."""
    return torch.tensor(head.regions[name])[head.faces].sum(1) >= corners


def turned_to(head: HeadModel, expression: Tensor, pose: Tensor, eyeball: str) -> Tensor:
    """How far the front of an eye moves, m (3,)."""
    zero = torch.zeros(1, head.num_shape)
    mask = torch.tensor(head.regions[eyeball])
    front = int(head.v_template[mask][:, 2].argmax())
    return head(zero, expression, pose).vertices[0][mask][front] - head.v_template[mask][front]


@pytest.mark.parametrize(("side", "joint", "eyeball", "outward"), SIDES)
def test_gaze_units_turn_the_right_eye_the_right_way(
    head: HeadModel, side: str, joint: int, eyeball: str, outward: float
) -> None:
    rest = torch.zeros(1, 5, 3)
    directions = {"Out": (outward, 0), "In": (-outward, 0), "Up": (0, 1), "Down": (0, -1)}
    other = next(s[2] for s in SIDES if s[2] != eyeball)
    for name, (x, y) in directions.items():
        moved = turned_to(head, units(**{f"eyeLook{name}{side}": 1.0}), rest, eyeball)
        assert float(moved[0]) * x + float(moved[1]) * y > 5e-3, name
        across = abs(float(moved[0] * y) + float(moved[1] * x))
        assert across < 5e-4, name
        still = turned_to(head, units(**{f"eyeLook{name}{side}": 1.0}), rest, other)
        assert float(still.abs().max()) < 1e-6


@pytest.mark.parametrize(("side", "joint", "eyeball", "outward"), SIDES)
def test_eye_joints_turn_like_the_units(
    head: HeadModel, side: str, joint: int, eyeball: str, outward: float
) -> None:
    for axis, angle, wanted in ((1, 0.4, (1.0, 0.0)), (0, -0.4, (0.0, 1.0))):
        pose = torch.zeros(1, 5, 3)
        pose[0, joint, axis] = angle  # +Y turns toward +X; -X turns up
        moved = turned_to(head, units(), pose, eyeball)
        assert float(moved[0]) * wanted[0] + float(moved[1]) * wanted[1] > 4e-3


@pytest.mark.parametrize(("side", "joint", "eyeball", "outward"), SIDES)
def test_eye_joints_turn_as_far_as_the_units(
    head: HeadModel, side: str, joint: int, eyeball: str, outward: float
) -> None:
    out = "Out" if outward > 0 else "In"
    unit = turned_to(head, units(**{f"eyeLook{out}{side}": 1.0}), torch.zeros(1, 5, 3), eyeball)
    pose = torch.zeros(1, 5, 3)
    pose[0, joint, 1] = 0.665 if out == "Out" else 0.54
    torch.testing.assert_close(turned_to(head, units(), pose, eyeball), unit, atol=1.5e-4, rtol=0)


@pytest.mark.parametrize("direction", ["Up", "Down", "In", "Out"])
def test_gaze_keeps_the_eyeball_round(head: HeadModel, identities: Tensor, direction: str) -> None:
    for side, joint, eyeball, _ in SIDES:
        expression = units(**{f"eyeLook{direction}{side}": 1.0}).expand(len(identities), -1)
        ball = head.unposed(identities, expression)[:, torch.tensor(head.regions[eyeball])]
        before = head.unposed(identities, 0 * expression)[:, torch.tensor(head.regions[eyeball])]
        middle = head.rest_joints(identities)[:, joint, None]
        radius, wanted = (ball - middle).norm(dim=-1), (before - middle).norm(dim=-1)
        assert float((radius - wanted).abs().max()) < 1.5e-3
        torch.testing.assert_close(radius[0], wanted[0], atol=4e-4, rtol=0)


def test_jaw_joint_opens_the_mouth(head: HeadModel) -> None:
    pose = torch.zeros(1, 5, 3)
    pose[0, 2, 0] = 0.3
    zero = torch.zeros(1, head.num_shape)
    moved = head(zero, units(), pose).vertices[0] - head.v_template
    chin = head.v_template[:, 1] < -0.08
    chin &= torch.tensor(head.regions["face"]) & (head.v_template[:, 0].abs() < 0.01)
    chin &= head.v_template[:, 2] > 0.08
    assert float(moved[chin, 1].max()) < -0.005
    open_pixels = mouth_inside(head, head(zero, units(), pose).vertices[0])
    assert open_pixels > 20 * max(mouth_inside(head, head.v_template), 10)


def lid_state(head: HeadModel, identity: Tensor, expression: Tensor, eye: int) -> tuple[int, int, float]:
    """Pixels of the eyeball that are seen, of those the ones seen through a lid, and how deep, m."""
    _, joint, eyeball, _ = SIDES[eye]
    vertices = head.unposed(identity, expression)[0]
    centre = head.rest_joints(identity)[0, joint] + torch.tensor([0.0, 0.0, 0.015])
    full = photograph(vertices, head.faces, centre, EYE_WIDTH)
    rest = torch.nonzero(~of_region(head, "eyeballs"))[:, 0]
    without = photograph(vertices, head.faces[rest], centre, EYE_WIDTH)
    seen = full.mask & of_region(head, eyeball)[full.triangle]
    # Without the eyeballs one sees the socket through the opening; skin there means that it was pierced.
    skin = without.mask & ~of_region(head, "eye_sockets", 1)[rest][without.triangle]
    pierced = seen & skin
    depth = (without.depth - full.depth)[pierced]
    return int(seen.sum()), int(pierced.sum()), float(depth.max()) if len(depth) else 0.0


@pytest.mark.parametrize("eye", [0, 1], ids=["left", "right"])
def test_a_full_blink_hides_the_whole_eye(head: HeadModel, identities: Tensor, eye: int) -> None:
    side = SIDES[eye][0]
    for k, identity in enumerate(identities.split(1)):
        open_pixels = lid_state(head, identity, units(), eye)[0]
        assert open_pixels > 2000, f"identity {k}"
        assert lid_state(head, identity, units(**{f"eyeBlink{side}": 1.0}), eye)[0] == 0, f"identity {k}"
        wink = lid_state(head, identity, units(**{f"eyeBlink{side}": 1.0}), 1 - eye)[0]
        assert wink > 2000, f"identity {k}: the other eye stays open"


@pytest.mark.parametrize("look", ["eyeLookDown", "eyeLookUp", "eyeLookOut", "eyeLookIn", "eyeSquint"])
def test_a_full_blink_hides_the_eye_wherever_it_looks(head: HeadModel, identities: Tensor, look: str) -> None:
    both = units(eyeBlinkLeft=1.0, **{f"{look}Left": 1.0})
    for identity in identities.split(1):
        assert lid_state(head, identity, both, 0)[0] < 10


def test_blinking_covers_more_and_more(head: HeadModel, identities: Tensor) -> None:
    for identity in identities.split(1):
        seen = [lid_state(head, identity, units(eyeBlinkLeft=k / 4), 0)[0] for k in range(5)]
        assert seen == sorted(seen, reverse=True)
        assert 0.1 < seen[2] / seen[0] < 0.6, "half a blink is half a blink"


@pytest.mark.parametrize("blink", [0.25, 0.5, 0.75, 1.0])
def test_lids_are_not_pierced_by_the_eye(head: HeadModel, identities: Tensor, blink: float) -> None:
    """At the corners of the eye the ball may look through the margin: a speck, no more."""
    square_mm = (EYE_WIDTH / SIDE * 1e3) ** 2
    for k, identity in enumerate(identities.split(1)):
        _, pierced, depth = lid_state(head, identity, units(eyeBlinkLeft=blink), 0)
        assert pierced * square_mm < 5.0, f"identity {k}: {pierced * square_mm:.1f} mm²"
        assert depth < 2e-3, f"identity {k}: {depth * 1e3:.2f} mm"


@pytest.mark.parametrize("eye", [0, 1], ids=["left", "right"])
def test_lid_rims_meet_in_a_blink(head: HeadModel, identities: Tensor, eye: int) -> None:
    """The rim is where lid and socket share vertices: its upper and lower parts come together."""
    side, joint, _, _ = SIDES[eye]
    socket = of_region(head, "eye_sockets")
    own = torch.zeros(head.num_vertices, dtype=torch.bool)
    own[head.faces[~socket & of_region(head, "eye_sockets", 1)].unique()] = True
    rim = own & torch.tensor(head.regions["eye_sockets"]) & (head.v_template[:, 0] * SIDES[eye][3] > 0)
    middle = head.rest_joints(identities)[0, joint]
    inner = rim & ((head.v_template[:, 0] - middle[0]).abs() < 0.008)
    upper, lower = inner & (head.v_template[:, 1] > middle[1]), inner & (head.v_template[:, 1] < middle[1])
    assert int(upper.sum()) >= 3 and int(lower.sum()) >= 3
    for identity in identities.split(1):
        shut = head.unposed(identity, units(**{f"eyeBlink{side}": 1.0}))[0]
        wide = head.unposed(identity, units())[0]
        gap = float(shut[upper, 1].mean() - shut[lower, 1].mean())
        before = float(wide[upper, 1].mean() - wide[lower, 1].mean())
        assert before > 5e-3
        assert gap < 0.15 * before, f"{gap * 1e3:.1f} mm of {before * 1e3:.1f} mm are left"


def mouth_inside(head: HeadModel, vertices: Tensor) -> int:
    """Pixels that show the inside of the mouth, teeth and tongue included."""
    inside = torch.tensor(head.regions["mouth_inside"] & ~head.regions["lips"])
    centre = vertices[torch.tensor(head.regions["lips"])].mean(0)
    found = photograph(vertices, head.faces, centre, MOUTH_WIDTH)
    return int((found.mask & inside[head.faces].any(1)[found.triangle]).sum())


@pytest.mark.parametrize(
    "expression",
    [{}, {"jawOpen": 1.0, "mouthClose": 1.0}, {"jawOpen": 0.5, "mouthClose": 0.5}],
    ids=["rest", "closed", "half"],
)
def test_lips_are_closed(head: HeadModel, identities: Tensor, expression: dict[str, float]) -> None:
    """A slit of a fraction of a millimetre is all that may be left of a wide open mouth."""
    for k, identity in enumerate(identities.split(1)):
        wide = mouth_inside(head, head.unposed(identity, units(jawOpen=1.0))[0])
        slit = mouth_inside(head, head.unposed(identity, units(**expression))[0])
        assert wide > 5000
        assert slit < 0.02 * wide, f"identity {k}: {100 * slit / wide:.1f} % of the open mouth"


def test_smile_and_frown_move_the_corners_apart(head: HeadModel) -> None:
    zero = torch.zeros(1, head.num_shape)
    lips = torch.tensor(head.regions["lips"])
    corner = lips & (head.v_template[:, 0] > head.v_template[lips][:, 0].max() - 2e-3)
    raised = head.unposed(zero, units(mouthSmileLeft=1.0))[0] - head.v_template
    lowered = head.unposed(zero, units(mouthFrownLeft=1.0))[0] - head.v_template
    assert float(raised[corner, 1].mean()) > 2e-3
    assert float(lowered[corner, 1].mean()) < -1e-3


def test_sided_units_stay_on_their_side(head: HeadModel) -> None:
    for k, name in enumerate(ARKIT_NAMES):
        if not name.endswith(("Left", "Right")) or name.startswith(("jaw", "mouthLeft", "mouthRight")):
            continue
        moved = head.exprdirs[..., k].norm(dim=1)
        side = head.v_template[:, 0] * (1 if name.endswith("Left") else -1)
        assert float(moved[side > 0.005].sum()) > 2 * float(moved[side < -0.005].sum()), name
