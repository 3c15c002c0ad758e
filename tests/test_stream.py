"""The VMC stream: sent over a real socket, decoded by python-osc, checked against the capture."""

from __future__ import annotations

import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_message import OscMessage
from scipy.spatial.transform import Rotation
from toy_head import toy_capture, write_toy_head

from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.errors import InputError, OutputError, UsageError
from recon3d.export._angles import from_angles, unit_gaze
from recon3d.export.name_map import NameMap
from recon3d.head import HeadModel, load_head
from recon3d.stream import (
    MAX_BUNDLE,
    Performance,
    Played,
    VmcSender,
    parse_endpoint,
    perform,
    play,
    to_unity,
)


@pytest.fixture(scope="module")
def toy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz")


@pytest.fixture(scope="module")
def toy(toy_path: Path) -> HeadModel:
    torch.set_num_threads(1)
    return load_head(toy_path)


class Receiver:
    """A VMC receiver on a free port: keeps what arrives, message by message, with its bundle and its time."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.1)
        self.port: int = self.socket.getsockname()[1]
        self.packets: list[tuple[float, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.socket.close()

    def _run(self) -> None:
        while True:
            try:
                packet = self.socket.recv(65536)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            self.packets.append((time.monotonic(), packet))

    def frames(self, wanted: int) -> list[list[OscMessage]]:
        """The messages by frame, each from OK to Apply, once ``wanted`` frames are there."""
        until = time.monotonic() + 10
        while self._count() < wanted and time.monotonic() < until:
            time.sleep(0.01)
        frames: list[list[OscMessage]] = []
        for _, packet in list(self.packets):
            for message in OscBundle(packet):
                if message.address == "/VMC/Ext/OK":
                    frames.append([])
                frames[-1].append(message)
        return frames

    def _count(self) -> int:
        return sum(b"/VMC/Ext/Blend/Apply" in packet for _, packet in list(self.packets))


def values(frame: list[OscMessage]) -> dict[str, float]:
    return dict(m.params for m in frame if m.address == "/VMC/Ext/Blend/Val")


def bones(frame: list[OscMessage]) -> dict[str, tuple[float, ...]]:
    return {m.params[0]: tuple(m.params[1:]) for m in frame if m.address == "/VMC/Ext/Bone/Pos"}


def turning(head: HeadModel, frames: int = 1, **changes: Any) -> Any:
    pose = np.zeros((frames, 5, 3))
    angles = np.tile([0.3, -0.2, 0.1], (frames, 1))
    pose[:, 0] = (Rotation.from_matrix(FRONTAL) * from_angles(angles)).as_rotvec()
    return toy_capture(head, frames, pose=pose, **changes)


def test_a_receiver_gets_every_frame_whole(toy: HeadModel) -> None:
    tracked = np.array([True, False, True, True])
    capture = turning(toy, 4, tracked=tracked)
    with Receiver() as receiver, VmcSender("127.0.0.1", receiver.port) as sender:
        played = play(perform(capture, toy), sender)
        frames = receiver.frames(4)
    assert played == Played(4, 0)
    assert len(frames) == 4
    for t, frame in enumerate(frames):
        addresses = [message.address for message in frame]
        assert addresses[:2] == ["/VMC/Ext/OK", "/VMC/Ext/T"]
        assert addresses[2:5] == ["/VMC/Ext/Bone/Pos"] * 3
        assert addresses[5:] == ["/VMC/Ext/Blend/Val"] * 52 + ["/VMC/Ext/Blend/Apply"]
        assert frame[0].params == [1, 3, 0, int(tracked[t])]
        assert frame[1].params[0] == pytest.approx(t / 25, abs=0.03)
        found = values(frame)
        assert list(found) == [name[0].upper() + name[1:] for name in ARKIT_NAMES]
        np.testing.assert_allclose(list(found.values()), capture.arkit[t], atol=1e-6)
    assert max(len(packet) for _, packet in receiver.packets) <= MAX_BUNDLE


def test_bones_are_in_unitys_axes(toy: HeadModel) -> None:
    capture = turning(toy)
    with Receiver() as receiver, VmcSender("localhost", receiver.port) as sender:
        sender.send(perform(capture, toy), 0, 1.5)
        (frame,) = receiver.frames(1)
    found = bones(frame)
    assert list(found) == ["Head", "LeftEye", "RightEye"]
    assert all(numbers[:3] == (0, 0, 0) for numbers in found.values())
    # Vectors in Unity's axes are ours with X turned round; q v q* works the same in either handedness.
    flip = np.diag([-1.0, 1.0, 1.0])
    head = from_angles(np.array([[0.3, -0.2, 0.1]]))[0]
    wanted = {
        "Head": head,
        "LeftEye": unit_gaze(capture.arkit, "Left")[0],
        "RightEye": unit_gaze(capture.arkit, "Right")[0],
    }
    for name, rotation in wanted.items():
        ours = flip @ Rotation.from_quat(found[name][3:]).as_matrix() @ flip
        np.testing.assert_allclose(ours, rotation.as_matrix(), atol=1e-6, err_msg=name)


def test_an_avatar_turns_the_same_way() -> None:
    """In Unity an avatar looks along +Z and its left is -X: a turn to its left is negative about Y."""
    x, y, z, w = to_unity(from_angles(np.array([[0.4, 0.0, 0.0]])).as_quat())[0]
    assert (x, z) == pytest.approx((0, 0))
    assert (y, w) == pytest.approx((-math.sin(0.2), math.cos(0.2)))
    x, y, z, w = to_unity(from_angles(np.array([[0.0, 0.4, 0.0]])).as_quat())[0]
    assert (x, w) == pytest.approx((-math.sin(0.2), math.cos(0.2)))  # up is negative about X, as in Unity


def test_other_names(toy: HeadModel) -> None:
    capture = toy_capture(toy, 2)
    assert perform(capture, toy, lower_camel=True).names == ARKIT_NAMES
    mapped = perform(capture, toy, names=NameMap.load("vrm"))
    with Receiver() as receiver, VmcSender("127.0.0.1", receiver.port) as sender:
        sender.send(mapped, 1, 0.0)
        (frame,) = receiver.frames(1)
    wanted = NameMap.load("vrm").apply(capture.arkit.astype(float))[1]
    np.testing.assert_allclose(list(values(frame).values()), wanted, atol=1e-6)
    assert tuple(values(frame)) == NameMap.load("vrm").names


def test_resampled(toy: HeadModel) -> None:
    capture = toy_capture(toy, 3)
    performance = perform(capture, toy, fps=50.0)
    assert (len(performance), performance.fps) == (5, 50.0)
    np.testing.assert_allclose(performance.values[::2], capture.arkit, atol=1e-6)
    assert perform(toy_capture(toy), toy).fps == 60


class Clock:
    """A clock that stands still but for sleeping and for what sending takes; a sender that notes frames."""

    def __init__(self, takes: dict[int, float]) -> None:
        self.now, self.takes = 100.0, takes
        self.sent: list[tuple[int, float]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def send(self, performance: Performance, frame: int, seconds: float) -> None:
        if len(self.sent) == 1000:
            raise KeyboardInterrupt
        self.sent.append((frame, round(seconds, 9)))
        self.now += self.takes.get(len(self.sent) - 1, 0.001)


def flat(frames: int, fps: float) -> Performance:
    return Performance(fps, (), np.zeros((frames, 0)), np.zeros((frames, 3, 4)), np.ones(frames, bool))


def timed(performance: Performance, takes: dict[int, float], *, loop: bool = False) -> tuple[Clock, Any]:
    clock = Clock(takes)
    try:
        played = play(performance, clock, loop=loop, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        played = None
    return clock, played


def test_frames_are_sent_when_due_and_do_not_drift() -> None:
    clock, _ = timed(flat(10, 30.0), {}, loop=True)
    assert [frame for frame, _ in clock.sent[:12]] == [*range(10), 0, 1]
    np.testing.assert_allclose([at for _, at in clock.sent], np.arange(1000) / 30, atol=1e-8)


def test_overdue_frames_are_left_out() -> None:
    clock, played = timed(flat(10, 10.0), {2: 0.35})
    assert clock.sent[2:4] == [(2, 0.2), (5, 0.55)]
    assert clock.sent[4] == (6, 0.6)
    assert played == Played(8, 2)


def test_the_last_frame_is_shown_even_when_late() -> None:
    clock, played = timed(flat(10, 10.0), {2: 60.0})
    assert [frame for frame, _ in clock.sent] == [0, 1, 2, 9]
    assert played == Played(4, 6)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:39540", ("127.0.0.1", 39540)),
        ("studio", ("studio", 39539)),
        ("[::1]:5000", ("::1", 5000)),
        ("[::1]", ("::1", 39539)),
    ],
)
def test_endpoints(text: str, wanted: tuple[str, int]) -> None:
    assert parse_endpoint(text) == wanted


@pytest.mark.parametrize("text", ["", ":39539", "host:", "host:port", "host:0", "host:70000", "host:-1"])
def test_wrong_endpoints(text: str) -> None:
    with pytest.raises(UsageError, match=r"HOST:PORT is wanted, such as 127\.0\.0\.1:39539"):
        parse_endpoint(text)


def test_what_can_go_wrong_is_said(toy: HeadModel) -> None:
    with pytest.raises(OutputError, match="there is no such host; name one as HOST:PORT"):
        VmcSender("no.such.host.invalid")
    with pytest.raises(InputError, match="captured with the head model other/0"):
        perform(toy_capture(toy, head="other/0"), toy)
    with pytest.raises(UsageError, match="the frame rate is -5"):
        perform(toy_capture(toy, 2), toy, fps=-5)


# ---- the command line ----


def test_the_command_plays_a_capture(toy: HeadModel, toy_path: Path, tmp_path: Path) -> None:
    turning(toy, 6).save(tmp_path / "capture.npz")
    command = ["recon3d", "stream", tmp_path / "capture.npz", "--head", toy_path]
    with Receiver() as receiver:
        endpoint = f"127.0.0.1:{receiver.port}"
        done = subprocess.run(
            [*command, "--vmc", endpoint, "--fps", "50"], capture_output=True, text=True, check=False
        )
        frames = receiver.frames(11)
    assert done.returncode == 0
    assert done.stderr.startswith(f"recon3d: {tmp_path / 'capture.npz'} -> {endpoint}: 0.2 s at 50 frames/s")
    assert 8 <= len(frames) <= 11
    np.testing.assert_allclose(list(values(frames[-1]).values()), toy_capture(toy, 6).arkit[-1], atol=1e-6)


def test_ctrl_c_ends_a_loop_cleanly(toy: HeadModel, toy_path: Path, tmp_path: Path) -> None:
    header = ["Timecode", "BlendShapeCount", "JawOpen", "HeadYaw"]
    rows = [f"10:00:00:{k:02d}.000,61,0.{k + 1},0.1" for k in range(4)]
    (tmp_path / "take.csv").write_text("\n".join([",".join(header), *rows]) + "\n")
    with Receiver() as receiver:
        command = ["recon3d", "stream", tmp_path / "take.csv", "--loop", "--head", toy_path]
        process = subprocess.Popen(
            [*command, "--vmc", f"127.0.0.1:{receiver.port}"],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        frames = receiver.frames(30)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error
    jaw = [round(values(frame)["JawOpen"], 4) for frame in frames[:30]]
    assert len(set(jaw)) == 4
    assert all(b in (a, 0.1) or b > a for a, b in itertools.pairwise(jaw))


def test_wrong_usage_is_said(toy_path: Path, tmp_path: Path) -> None:
    (tmp_path / "take.csv").write_text("Timecode,JawOpen\n")
    for arguments, status, message in (
        (["take.csv", "--vmc", "host:port"], 2, "recon3d: --vmc 'host:port': HOST:PORT is wanted"),
        (["take.csv", "--head", toy_path], 1, "recon3d: take.csv: the recording holds no frame with a face"),
        (["nothing.npz", "--head", toy_path], 1, "recon3d: nothing.npz: no such file"),
    ):
        done = subprocess.run(
            ["recon3d", "stream", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == status
        assert done.stderr.startswith(message)


def test_without_python_osc_the_extra_is_named() -> None:
    """In a process of its own, in which python-osc cannot be imported."""
    code = (
        "import sys; sys.modules['pythonosc'] = None\n"
        "from recon3d.errors import MissingExtraError\n"
        "try:\n    import recon3d.stream\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "streaming needs python-osc: pip install 'recon3d[stream]'\n"
