"""The texture of a clip: which frames it is made of, and that they are blended."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES
from recon3d.export._still import camera_vertices
from recon3d.export.clip_texture import Keeper, bake_clip_texture, texture_frames
from recon3d.head import HeadModel
from recon3d.head.rotation import matrix_to_axis_angle
from recon3d.media.video import Frame
from recon3d.render.camera import Camera
from recon3d.render.rasterize import interpolate, rasterize

Pixels = npt.NDArray[np.uint8]

_SIZE = (256, 256)


def turning(head: HeadModel, degrees: npt.NDArray[np.float64], arkit: npt.NDArray[np.float32]) -> Capture:
    """A head that turns from side to side, 0.6 m before the camera."""
    count = len(degrees)
    pose = np.zeros((count, head.num_joints, 3), np.float32)
    for row, angle in enumerate(np.radians(degrees)):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]) @ np.diag([1.0, -1, -1])
        pose[row, 0] = matrix_to_axis_angle(torch.tensor(turn[None], dtype=torch.float32))[0]
    with torch.no_grad():
        zero = torch.zeros(count, head.num_shape), torch.from_numpy(arkit)
        middle = head(*zero, torch.from_numpy(pose)).vertices.mean(1).numpy()
    return Capture(
        head=head.id,
        source="turning.mp4",
        fps=25.0,
        timestamps=np.arange(count) / 25,
        image_size=np.array(_SIZE),
        focal=420.0,
        principal=np.array([128.0, 128.0]),
        shape=np.zeros(head.num_shape, np.float32),
        expression=arkit,
        pose=pose,
        translation=np.array([0, 0, 0.6], np.float32) - middle,
        arkit=arkit,
        landmarks68=np.zeros((count, 68, 2), np.float32),
        box=np.tile(np.array([[70, 70, 190, 190]], np.float32), (count, 1)),
        score=np.ones(count, np.float32),
        tracked=np.ones(count, bool),
    )


def test_one_frame_of_each_direction_and_the_calmest(head: HeadModel) -> None:
    degrees = np.array([0.0, 2, 1, 15, 40, 38, -15, -40, 0])
    arkit = np.zeros((9, 52), np.float32)
    arkit[0, ARKIT_NAMES.index("jawOpen")] = 0.6
    arkit[1, ARKIT_NAMES.index("eyeBlinkLeft")] = 0.3
    arkit[4, ARKIT_NAMES.index("mouthSmileLeft")] = 0.9
    capture = turning(head, degrees, arkit)
    assert texture_frames(capture) == [2, 3, 5, 6, 7]
    capture.tracked[[2, 8]] = False
    assert texture_frames(capture) == [0, 3, 5, 6, 7] or texture_frames(capture) == [1, 3, 5, 6, 7]
    capture.tracked[:] = False
    assert texture_frames(capture) == []


def drawn(head: HeadModel, capture: Capture, colors: torch.Tensor) -> list[Pixels]:
    """The frames of a head in these colours, without any light."""
    camera = Camera.create(capture.focal, _SIZE)
    frames = []
    for row in range(len(capture)):
        verts = camera_vertices(capture, head, row)[None]
        seen = rasterize(camera.project(verts), head.faces, _SIZE)
        picture = interpolate(colors[None], head.faces, seen)[0] + 0.2 * ~seen.mask[0][..., None]
        frames.append((picture * 255).byte().numpy())
    return frames


def test_both_sides_of_the_head_come_from_the_frames_that_show_them(head: HeadModel) -> None:
    """Left of the head is painted blue, right of it red: no single frame shows all of either."""
    left = (head.v_template[:, :1] > 0).float()
    colors = left * torch.tensor([0.1, 0.2, 0.9]) + (1 - left) * torch.tensor([0.9, 0.2, 0.1])
    capture = turning(head, np.array([-40.0, 0, 40]), np.zeros((3, 52), np.float32))
    pictures = dict(enumerate(drawn(head, capture, colors)))
    flat = torch.stack((head.uv[:, 0] * 512, (1 - head.uv[:, 1]) * 512, torch.ones(len(head.uv))), dim=1)
    layout = rasterize(flat[None], head.faces_uv, (512, 512))
    true = interpolate(colors[None], head.faces, layout)[0]
    cheeks = torch.from_numpy(head.regions["face"] & ~head.regions["nose"])[head.faces].all(1)
    part = torch.cat((cheeks, cheeks.new_zeros(1)))[layout.triangle[0]].numpy()
    errors = []
    for kept in (pictures, {0: pictures[0]}):
        baked = bake_clip_texture(kept, capture, head)
        assert baked is not None and baked.shape == (512, 512, 3)
        errors.append(np.abs(baked / 255 - true.numpy())[part].mean())
    assert errors[0] < 0.04 and errors[1] > 2 * errors[0]


def test_frames_are_kept_while_the_clip_is_read_or_read_for_it(head: HeadModel) -> None:
    capture = turning(head, np.array([0.0, 30, 0, -30, 0]), np.zeros((5, 52), np.float32))
    read: list[int] = []

    class Clip:
        def frames(self, ahead: int = 0) -> Iterator[Frame]:
            for index in range(5):
                read.append(index)
                yield Frame(index, index / 25, np.full((4, 4, 3), index, np.uint8))

    wanted = texture_frames(capture)
    keeper = Keeper([capture])
    assert [frame.index for frame in keeper.watch(Clip().frames())] == [0, 1, 2, 3, 4]
    watched = keeper.kept(Clip())  # type: ignore[arg-type]
    assert sorted(watched) == wanted and read == [0, 1, 2, 3, 4]
    assert all((picture == index).all() for index, picture in watched.items())
    alone = Keeper([capture]).kept(Clip())  # type: ignore[arg-type]
    assert sorted(alone) == wanted and read[5:] == list(range(wanted[-1] + 1))
    assert Keeper([]).kept(Clip()) == {}  # type: ignore[arg-type]
