"""A photograph's face with other expressions: painted, carried over, put back."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

import recon3d
from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.export._still import camera_vertices
from recon3d.face import open_face_source
from recon3d.face._crop import Region
from recon3d.head import HeadModel
from recon3d.render.camera import Camera
from recon3d.resources import resource_path
from recon3d.synthesis.carry import Carrier
from recon3d.synthesis.geometry import GeometryPainter, in_cut_out
from recon3d.synthesis.motion import driven_expressions, driven_pose, there_and_back
from recon3d.synthesis.repaint import Portrait, Repainter
from recon3d.synthesis.wanted import wanted_expression
from recon3d.synthesis.weights import SHIPPED, load_painter

ASTRONAUT = skimage.data.astronaut()


@pytest.fixture(scope="module")
def capture() -> Capture:
    return recon3d.reconstruct(ASTRONAUT)[0]


@pytest.fixture(scope="module")
def repainter(head: HeadModel) -> Repainter:
    return Repainter(head, load_painter(resource_path(SHIPPED), head))


@pytest.fixture(scope="module")
def portrait(repainter: Repainter, capture: Capture) -> Portrait:
    return repainter.portrait(ASTRONAUT, capture)


def painted(repainter: Repainter, portrait: Portrait, asked: str) -> np.ndarray:
    wanted = wanted_expression(asked, start=portrait.capture.arkit[0])
    (picture,) = repainter.paint(portrait, wanted[None])
    return picture


def lips_apart(picture: np.ndarray) -> float:
    """How far the inner lips are apart, in parts of the eyes' distance, as the landmark network sees it."""
    (face,) = open_face_source("mediapipe").find(picture, max_faces=1)
    points = face.landmarks[:, :2]
    return float(np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[33] - points[263]))


def lids_apart(picture: np.ndarray) -> float:
    (face,) = open_face_source("mediapipe").find(picture, max_faces=1)
    points = face.landmarks[:, :2]
    return float(np.linalg.norm(points[159] - points[145]) / np.linalg.norm(points[33] - points[263]))


def test_the_same_expression_changes_not_one_pixel(repainter: Repainter, portrait: Portrait) -> None:
    (picture,) = repainter.paint(portrait, portrait.capture.expression)
    assert np.array_equal(picture, ASTRONAUT)


def test_another_expression_is_seen_by_who_knows_nothing_of_us(
    repainter: Repainter, portrait: Portrait
) -> None:
    before = lips_apart(ASTRONAUT)
    assert lips_apart(painted(repainter, portrait, "jawOpen=.7")) > before + 0.05
    closed = "mouthSmile=0,mouthUpperUp=0,mouthLowerDown=0,jawOpen=0,mouthPress=.3"
    assert lips_apart(painted(repainter, portrait, closed)) < 0.7 * before
    assert lids_apart(painted(repainter, portrait, "eyeBlink=1")) < 0.85 * lids_apart(ASTRONAUT)


def test_only_the_face_changes(repainter: Repainter, portrait: Portrait) -> None:
    picture = painted(repainter, portrait, "jawOpen=.7,browInnerUp=1")
    region = portrait.region
    rows, columns = np.nonzero((picture != ASTRONAUT).any(2))
    assert np.hypot(columns - region.x, rows - region.y).max() < 0.5 * region.width
    assert len(rows) > 1000


def test_many_pictures_are_what_each_would_be(repainter: Repainter, portrait: Portrait) -> None:
    rows = there_and_back(portrait.capture.arkit[0], wanted_expression("jawOpen=.5"))[::5]
    assert len(rows) > 10  # more than are painted at once
    together = list(repainter.paint(portrait, rows))
    (alone,) = repainter.paint(portrait, rows[5:6])
    assert len(together) == len(rows)
    assert np.abs(together[5].astype(int) - alone).max() <= 1


def test_a_cut_out_shows_the_head_where_the_photograph_does(capture: Capture, head: HeadModel) -> None:
    region = Region(230.0, 110.0, 180.0, 180.0, 0.3)
    seen = camera_vertices(capture, head, 0)[None]
    painter = GeometryPainter(head, 128)
    inside = painter.camera.project(in_cut_out(seen, capture.focal, capture.principal, region)) / 128
    camera = Camera.create(capture.focal, (512, 512), tuple(capture.principal))
    wanted = camera.project(seen)[0, :, :2].numpy()
    np.testing.assert_allclose(region.to_image(inside[0, :, :2]), wanted, atol=0.02)


def plane(shift: float) -> torch.Tensor:
    """A square of 32 px before a picture of 64, its corner at 16 and ``shift`` px to the right."""
    corners = torch.tensor(((16.0, 16, 1), (48, 16, 1), (48, 48, 1), (16, 48, 1)))
    return corners + torch.tensor((shift, 0, 0))


def carrier_of(inside: tuple[bool, bool] = (False, False)) -> Carrier:
    faces = torch.tensor(((0, 1, 2), (0, 2, 3)))
    return Carrier(plane(0), faces, 64, torch.tensor(inside), torch.ones(4, dtype=torch.bool))


def noise() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_pixels_are_carried_along_with_the_mesh() -> None:
    picture = noise()
    still, moved = carrier_of().carry(picture, torch.stack((plane(0), plane(8))))
    torch.testing.assert_close(still, picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[:, 20:44, 28:52], picture[:, 20:44, 20:44], atol=1e-4, rtol=0)
    # What is far beside stays where it was.
    torch.testing.assert_close(moved[:, :, :4], picture[:, :, :4], atol=1e-4, rtol=0)


def test_what_is_close_beside_is_drawn_along_without_a_tear() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 64, 64)
    (moved,) = carrier_of().carry(ramp, plane(3)[None])
    steps = moved[0, 32].diff()
    assert float(steps.min()) > -1e-4 and float(steps.max()) < 3.5 / 63


def test_a_fold_that_opens_tells_nothing() -> None:
    folded = plane(0)
    folded[2:, 1] = 17.0  # a square one pixel high ...
    faces = torch.tensor(((0, 1, 2), (0, 2, 3)))
    carrier = Carrier(folded, faces, 64, torch.zeros(2, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    (moved,) = carrier.carry(torch.ones(3, 64, 64), plane(0)[None])  # ... becomes one of 32
    assert float(moved[:, 20:44, 20:44].max()) == 0


def test_teeth_stay_with_the_skull() -> None:
    picture, lower = noise(), plane(0)
    lower[2:, 1] += 8  # the mouth opens; what moves with the skull, by its median, does not
    (opened,) = carrier_of((True, True)).carry(picture, lower[None])
    torch.testing.assert_close(opened[:, 20:42, 20:44], picture[:, 20:42, 20:44], atol=1e-4, rtol=0)
    assert float(opened[:, 52:54, 20:44].max()) == 0  # nobody has seen what comes to light below


def performance(capture: Capture, frames: int = 12) -> Capture:
    """A clip of another head that turns and opens its mouth."""
    from dataclasses import replace

    def rows(array: np.ndarray) -> np.ndarray:
        return np.repeat(array, frames, axis=0).copy()

    arkit, pose = rows(capture.arkit), rows(capture.pose)
    arkit[:, ARKIT_NAMES.index("jawOpen")] = np.linspace(0, 0.8, frames)
    angle = np.linspace(-0.2, 0.2, frames)
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(np.stack((0 * angle, angle, 0 * angle), axis=1))
    pose[:, 0] = (Rotation.from_rotvec(pose[:, 0]) * turn).as_rotvec()
    return replace(
        capture,
        fps=10.0,
        timestamps=np.arange(frames) / 10,
        arkit=arkit,
        expression=arkit,
        pose=pose,
        translation=rows(capture.translation),
        landmarks68=rows(capture.landmarks68),
        box=rows(capture.box),
        score=rows(capture.score),
        tracked=np.ones(frames, bool),
    )


def test_a_driver_s_expressions_whole_or_as_changes(capture: Capture) -> None:
    driver = performance(capture)
    jaw = ARKIT_NAMES.index("jawOpen")
    np.testing.assert_array_equal(driven_expressions(driver), driver.arkit)
    own = np.full(52, 0.3, np.float32)
    changed = driven_expressions(driver, own)
    np.testing.assert_allclose(changed[:, jaw], (0.3 + np.linspace(0, 0.8, 12) - 0.4).clip(0, 1), atol=1e-5)
    np.testing.assert_allclose(changed[:, jaw + 1], 0.3, atol=1e-5)


def test_a_driver_s_turns_are_added_to_the_source_s_attitude(capture: Capture) -> None:
    from scipy.spatial.transform import Rotation

    driver = performance(capture)
    pose = driven_pose(capture, driver)
    own = Rotation.from_rotvec(capture.pose[0, 0])
    turned = (own.inv() * Rotation.from_rotvec(pose[:, 0])).as_rotvec()
    np.testing.assert_allclose(turned[:, 1], np.linspace(-0.2, 0.2, 12), atol=1e-4)
    far = performance(capture)
    far.pose[0, 0] = (Rotation.from_rotvec(far.pose[0, 0]) * Rotation.from_rotvec((0, 1.5, 0))).as_rotvec()
    held = (own.inv() * Rotation.from_rotvec(driven_pose(capture, far)[0, 0])).magnitude()
    assert held == pytest.approx(np.radians(25), abs=1e-3)


def test_an_edit_s_clip_ends_where_it_began() -> None:
    own, wanted = np.zeros(52, np.float32), np.full(52, 0.8, np.float32)
    rows = there_and_back(own, wanted)
    assert np.array_equal(rows[0], own) and float(rows[-1].max()) < 0.01
    assert float(rows.max()) == pytest.approx(0.8) and float(np.abs(np.diff(rows[:, 0])).max()) < 0.15
