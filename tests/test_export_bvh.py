"""BVH: read by a parser of the format's own rules, posed by its channels, compared with the head model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from toy_head import toy_capture, write_toy_head

from recon3d.capture import Capture
from recon3d.conventions import FRONTAL, JAW, LEFT_EYE, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.export import export
from recon3d.export._angles import unit_gaze
from recon3d.export._motion import motion_of
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.head import HeadModel, load_head


@dataclass
class Joint:
    """A joint of the file: its parent, offset (cm), and channels with their columns in the motion."""

    parent: str | None
    offset: np.ndarray
    channels: list[tuple[str, int]] = field(default_factory=list)
    end: np.ndarray | None = None


@dataclass
class Bvh:
    """A parsed file."""

    joints: dict[str, Joint]
    frame_time: float
    motion: np.ndarray

    def pose(self, frame: int) -> dict[str, tuple[Rotation, np.ndarray]]:
        """World rotation and place (cm) of every joint: channels apply in the order they are listed."""
        posed: dict[str, tuple[Rotation, np.ndarray]] = {}
        for name, joint in self.joints.items():
            turn, place = Rotation.identity(), joint.offset.copy()
            for channel, column in joint.channels:
                value = self.motion[frame, column]
                if channel.endswith("position"):
                    place["XYZ".index(channel[0])] += value
                else:
                    turn = turn * Rotation.from_euler(channel[0], value, degrees=True)
            if joint.parent is not None:
                above, origin = posed[joint.parent]
                turn, place = above * turn, origin + above.apply(place)
            posed[name] = turn, place
        return posed


def parse(text: str) -> Bvh:
    """Read a file by the format's rules; every word of it must be one they know."""
    words = iter(text.split())
    joints: dict[str, Joint] = {}
    stack: list[str] = []
    columns = 0
    assert next(words) == "HIERARCHY"
    for word in words:
        if word in ("ROOT", "JOINT"):
            assert (word == "ROOT") == (not stack)
            name = next(words)
            joints[name] = Joint(stack[-1] if stack else None, np.zeros(3))
            stack.append(name)
        elif word == "End":
            assert next(words) == "Site"
            stack.append("end")
        elif word == "OFFSET":
            offset = np.array([float(next(words)) for _ in range(3)])
            if stack[-1] == "end":
                joints[stack[-2]].end = offset
            else:
                joints[stack[-1]].offset = offset
        elif word == "CHANNELS":
            for _ in range(int(next(words))):
                joints[stack[-1]].channels.append((next(words), columns))
                columns += 1
        elif word == "}":
            stack.pop()
        elif word == "MOTION":
            break
        else:
            assert word == "{"
    assert not stack
    assert next(words) == "Frames:"
    frames = int(next(words))
    assert (next(words), next(words)) == ("Frame", "Time:")
    frame_time = float(next(words))
    motion = np.array([float(word) for word in words]).reshape(frames, columns)
    return Bvh(joints, frame_time, motion)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    torch.set_num_threads(1)
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


def moving(head: HeadModel, frames: int = 6) -> Capture:
    """A capture that turns every joint, the eyes by joints and by units."""
    rng = np.random.default_rng(5)
    pose = rng.normal(0, 0.25, (frames, 5, 3))
    turns = Rotation.from_rotvec(rng.normal(0, 0.4, (frames, 3)))
    pose[:, 0] = (Rotation.from_matrix(FRONTAL) * turns).as_rotvec()
    translation = np.array([0.05, 0.1, 0.7]) + rng.normal(0, 0.02, (frames, 3))
    return toy_capture(head, frames, pose=pose, translation=translation)


def written(capture: Capture, head: HeadModel, folder: Path, **options: float) -> Bvh:
    (path,) = export(capture, head, folder, "bvh", options=ExportOptions(**options))  # type: ignore[arg-type]
    assert path == folder / "head.bvh"
    return parse(path.read_text(encoding="ascii"))


def test_the_skeleton(toy: HeadModel, tmp_path: Path) -> None:
    capture = moving(toy)
    file = written(capture, toy, tmp_path)
    assert {n: j.parent for n, j in file.joints.items()} == {
        "head": None, "jaw": "head", "left_eye": "head", "right_eye": "head",
    }  # fmt: skip
    assert all(joint.end is not None for joint in file.joints.values())
    rest = 100 * toy.rest_joints(torch.as_tensor(capture.shape)[None])[0].numpy()
    for name, index in (("jaw", JAW), ("left_eye", LEFT_EYE), ("right_eye", RIGHT_EYE)):
        np.testing.assert_allclose(file.joints[name].offset, rest[index] - rest[1], atol=1e-4)
    assert file.joints["left_eye"].offset[0] > 0  # +X is the subject's left
    assert (len(file.motion), file.frame_time) == (6, pytest.approx(1 / 25))


def test_bones_are_where_and_as_the_head_model_has_them(toy: HeadModel, tmp_path: Path) -> None:
    capture = moving(toy)
    file = written(capture, toy, tmp_path)
    posed = toy(
        torch.as_tensor(capture.shape)[None].expand(6, -1),
        torch.as_tensor(capture.expression),
        torch.as_tensor(capture.pose),
    )
    seen = (posed.joints.numpy() + capture.translation[:, None]) @ FRONTAL
    joints = 100 * (seen + motion_of(capture, toy, DEFAULTS).camera)  # the scene of the animated GLB, cm
    local = Rotation.from_rotvec(capture.pose.reshape(-1, 3)).as_matrix().reshape(6, 5, 3, 3)
    head = FRONTAL @ local[:, 0] @ local[:, 1]
    gaze = {s: unit_gaze(capture.arkit, s).as_matrix() for s in ("Left", "Right")}
    wanted = {
        "head": (1, head),
        "jaw": (JAW, head @ local[:, JAW]),
        "left_eye": (LEFT_EYE, head @ local[:, LEFT_EYE] @ gaze["Left"]),
        "right_eye": (RIGHT_EYE, head @ local[:, RIGHT_EYE] @ gaze["Right"]),
    }
    for frame in range(6):
        for name, (rotation, place) in file.pose(frame).items():
            index, matrices = wanted[name]
            np.testing.assert_allclose(rotation.as_matrix(), matrices[frame], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(place, joints[frame, index], atol=1e-3, err_msg=name)


def test_uneven_frames_become_even(toy: HeadModel, tmp_path: Path) -> None:
    capture = toy_capture(toy, 3, timestamps=np.array([0.0, 0.03, 0.08]))
    file = written(capture, toy, tmp_path)
    assert (len(file.motion), file.frame_time) == (3, pytest.approx(0.04))
    file = written(capture, toy, tmp_path, fps=100.0)
    assert (len(file.motion), file.frame_time) == (9, pytest.approx(0.01))


def test_a_photograph_is_one_frame(toy: HeadModel, tmp_path: Path) -> None:
    file = written(toy_capture(toy), toy, tmp_path)
    assert (len(file.motion), file.frame_time) == (1, pytest.approx(1 / 30))


def test_another_head_is_refused(toy: HeadModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="captured with the head model other/0"):
        export(toy_capture(toy, head="other/0"), toy, tmp_path, "bvh")
    assert list(tmp_path.iterdir()) == []
