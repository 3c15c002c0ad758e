"""Clips as a source of training: whole windows in order, and how mouths move in them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from face_clips import Pixels, face_frames, wall_frames, write_clip
from torch import Tensor

from recon3d.encoder.crop import CutOut
from recon3d.encoder.network import EncoderConfig, EncoderNetwork, images_of
from recon3d.encoder.weights import save_weights
from recon3d.errors import InputError
from recon3d.face.dense import DenseSource
from recon3d.head import HeadModel
from recon3d.media.video import Frame
from recon3d.training.clips import WINDOW, ClipStore, Sight, _sights, sampled, split
from recon3d.training.config import read_stage2_config
from recon3d.training.landmark_weights import pretrained_trunk
from recon3d.training.losses import EncoderLoss
from recon3d.training.mirror import Mirror
from recon3d.training.remembered import RememberedMaps
from recon3d.training.run import open_fabric
from recon3d.training.source import Source
from recon3d.training.speech import mouth_motion
from recon3d.training.stage2 import Stage2

LIPS = (17, 84, 314, 14, 87, 317, 178, 402)  # lower ones
#: Times between the frames of two windows, s.
EVEN = torch.full((2, WINDOW - 1), 0.04)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three windows, and some frames."""
    return write_clip(tmp_path_factory.mktemp("clips") / "face.mp4", face_frames(3 * WINDOW + 5))


@pytest.fixture(scope="module")
def network() -> EncoderNetwork:
    """It knows nothing yet but sees a face in the middle."""
    torch.manual_seed(0)
    network = EncoderNetwork(EncoderConfig(mixed=64))
    network.trunk.load_state_dict(pretrained_trunk()[0].state_dict())
    network.trunk.requires_grad_(False)
    return network.eval()


def store_of(folder: Path, head: HeadModel, *clips: Path, size: int = 2 * WINDOW) -> ClipStore:
    return ClipStore(folder, tuple(map(str, clips)), head.num_shape, size)


def test_a_clip_gives_whole_windows_in_order(clip: Path, tmp_path: Path, head: HeadModel) -> None:
    store = store_of(tmp_path, head, clip)
    assert store.make() == 1  # the third window does not fill a shard
    said: list[str] = []
    assert store.make(said.append) == 1 and not said  # nothing is looked at twice
    faces, sights = store.shard(0), list(_sights(clip, DenseSource(threads=1)))
    assert all(s is not None for s in sights) and len(sights) == 3 * WINDOW + 5
    wanted = np.stack([s.face.pixels for s in sights[: 2 * WINDOW] if s is not None])
    assert np.array_equal(faces.images.numpy(), wanted)
    times = np.load(tmp_path / store.folder.name / "00000.times.npy")
    assert times == pytest.approx(np.tile(np.arange(WINDOW) / 25, 2), abs=1e-3)


def test_few_windows_fill_a_shard_by_turns(clip: Path, tmp_path: Path, head: HeadModel) -> None:
    store = store_of(tmp_path, head, clip, size=5 * WINDOW + 3)
    assert store.make() == 1 and store.size == 5 * WINDOW
    images = store.shard(0).images.unflatten(0, (5, WINDOW))
    assert torch.equal(images[3:], images[:2]) and not torch.equal(images[0], images[1])


def test_a_cut_lies_between_windows(tmp_path: Path) -> None:
    def shots() -> Iterable[Pixels]:
        pictures = list(face_frames(24))
        return pictures[:12] + [picture[:, ::-1] for picture in pictures[12:]]

    path = write_clip(tmp_path / "shots.mp4", shots())
    windows = list(split(_sights(path, DenseSource(threads=1))))
    assert [round(window[0].time * 25) for window in windows] == [0, 12]


def sight(time: float, tracklet: int = 0) -> Sight:
    return Sight(tracklet, time, CutOut(np.zeros((1, 1, 3), np.uint8), np.zeros((478, 3), np.float32)))


def starts(sights: Iterable[Sight | None]) -> list[int]:
    return [round(window[0].time * 25) for window in split(sights)]


def test_what_breaks_a_window() -> None:
    rows = [sight(k / 25) for k in range(20)]
    assert starts(rows) == [0, 8]
    assert starts([*rows[:3], None, *rows[4:]]) == [4, 12]  # no face
    assert starts([*rows[:3], *rows[6:]]) == [6]  # too long in between
    assert starts([*rows[:3], *rows[4:]]) == [0, 9]  # one frame is lost: its time is known
    assert starts([*rows[:10], *(sight(s.time, 1) for s in rows[10:])]) == [0, 10]  # somebody else


def frames(times: Iterable[float]) -> Iterable[Frame]:
    return (Frame(k, time, np.zeros((1, 1, 3), np.uint8)) for k, time in enumerate(times))


@pytest.mark.parametrize("fps", [12, 23.976, 24, 25, 29.97, 30, 50, 59.94, 120])
def test_at_most_25_frames_a_second_are_taken(fps: float) -> None:
    times = [frame.time for frame in sampled(frames(k / fps for k in range(round(4 * fps))))]
    assert min(25, fps) * 0.9 < len(times) / 4 <= 25.5
    apart = np.diff(times)
    assert apart.min() >= 0.015 and apart.max() <= max(1.001 / fps, 0.08)


def test_times_that_jump_about_bring_no_frames_close_together() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.001, 0.02, 0.079, 0.3], 500))
    assert np.diff([frame.time for frame in sampled(frames(times.tolist()))]).min() >= 0.015


def test_unreadable_clips_are_passed_over(clip: Path, tmp_path: Path, head: HeadModel) -> None:
    torn, none = tmp_path / "torn.mp4", tmp_path / "none.mp4"
    torn.write_bytes(clip.read_bytes()[:500])
    said: list[str] = []
    assert store_of(tmp_path / "store", head, none, torn, clip).make(said.append) == 1
    assert len(said) == 3 and all("\n" not in line for line in said)
    assert said[0].startswith(f"{none}: ") and said[0].endswith("; passed over")
    assert said[1].startswith(f"{torn}: ") and said[1].endswith("; passed over")


def test_no_window_at_all_is_refused(tmp_path: Path, head: HeadModel) -> None:
    wall = write_clip(tmp_path / "wall.mp4", wall_frames(2 * WINDOW))
    brief = write_clip(tmp_path / "brief.mp4", face_frames(WINDOW - 1))
    wanted = f"{wall}, {brief}: no face is in sight for 8 frames of any clip there"
    with pytest.raises(InputError) as refused:
        store_of(tmp_path / "store", head, wall, brief).make()
    assert str(refused.value) == wanted


def test_windows_stay_whole_and_are_mirrored_alike(
    clip: Path, tmp_path: Path, head: HeadModel, network: EncoderNetwork
) -> None:
    store, mirror = store_of(tmp_path, head, clip, size=3 * WINDOW), Mirror.of(head)
    maps = RememberedMaps(store, network, mirror)
    maps.make(store.make())
    given = store.shard(0).images.unflatten(0, (3, WINDOW))
    lots = Source(store, range(1), 2 * WINDOW + 3, (0,), mirror, maps, WINDOW).lots()
    turned, orders = set(), set()
    for lot in (next(lots) for _ in range(8)):
        assert lot.times is not None and lot.maps is not None
        dt = lot.times.unflatten(0, (2, WINDOW)).diff(dim=1)
        assert torch.allclose(dt, EVEN, atol=1e-3)
        windows = lot.faces.images.unflatten(0, (2, WINDOW))
        flip = all(place(window, given) is None for window in windows)
        order = tuple(place(window.flip(2) if flip else window, given) for window in windows)
        assert None not in order
        seen = network.trunk_maps(images_of(windows[1, 3:4]), lot.faces.detected[WINDOW + 3 : WINDOW + 4])
        assert torch.allclose(lot.maps[WINDOW + 3], seen[0], rtol=0.01, atol=0.02)
        turned.add(flip)
        orders.add(order)
    assert turned == {False, True} and len(orders) > 2


def place(window: Tensor, windows: Tensor) -> int | None:
    """Which of some windows this one is, frame by frame."""
    return next((k for k, other in enumerate(windows) if torch.equal(window, other)), None)


def mouths(head: HeadModel, opened: list[float]) -> Tensor:
    """Landmarks (B,478,2) of a face in its cut-out whose lower lip is lowered, in parts of the face."""
    points = head.landmarks(head.v_template[None], "mediapipe478")[0, :, :2]
    points = (points - points.mean(0)) * torch.tensor((3.0, -3.0)) + 0.5
    rows = points.expand(len(opened), -1, -1).clone()
    rows[:, LIPS, 1] += torch.tensor(opened)[:, None]
    return rows


def wave(lag: int) -> list[float]:
    """Two windows of a mouth that opens and closes every eight frames."""
    return [0.04 * (1 + math.sin((k - lag) * math.pi / 4)) for k in range(2 * WINDOW)]


def test_equal_mouths_cost_nothing_whatever_their_size_and_place(head: HeadModel) -> None:
    told, found = mouths(head, wave(0)), mouths(head, wave(0))
    equal = mouth_motion(told, found, WINDOW, EVEN)
    assert float(equal.openings) == 0 and float(equal.velocities) == 0
    found = mouths(head, wave(1))
    here = mouth_motion(told, found, WINDOW, EVEN)
    there = mouth_motion(told * 1.7 - 0.3, found, WINDOW, EVEN)
    depth = mouth_motion(told, torch.cat((found, torch.rand(16, 478, 1)), dim=2), WINDOW, EVEN)
    for other in (there, depth):
        assert float(other.openings) == pytest.approx(float(here.openings), rel=1e-4)
        assert float(other.velocities) == pytest.approx(float(here.velocities), rel=1e-4)


def test_growing_does_not_help(head: HeadModel) -> None:
    """Gradients move the mouth, they do not make the whole face larger."""
    told, found = mouths(head, wave(1)).requires_grad_(), mouths(head, wave(0))
    (gradient,) = torch.autograd.grad(sum(mouth_motion(told, found, WINDOW, EVEN)), told)
    assert bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 1
    assert float((gradient * told).sum().detach()) == pytest.approx(0, abs=1e-4)


def test_a_mouth_that_lags_is_noticed(head: HeadModel) -> None:
    found = mouths(head, wave(0))
    late, wide = mouths(head, wave(2)), mouths(head, [x + 0.02 for x in wave(0)])
    assert torch.allclose(late.mean(0), found.mean(0), atol=1e-6)  # of the whole window nothing is wrong
    lagging, wider = (mouth_motion(x, found, WINDOW, EVEN) for x in (late, wide))
    assert float(lagging.velocities) > 0.5 > 1e-3 > float(wider.velocities)
    assert float(wider.openings) > 0.5


def test_velocities_are_of_time_not_of_frames(head: HeadModel) -> None:
    """A steady movement costs the same when it is looked at twice as often."""
    fast = mouths(head, [0.01 * k for k in range(WINDOW)])
    slow, rest = mouths(head, [0.005 * k for k in range(WINDOW)]), mouths(head, [0.0] * WINDOW)
    dt = EVEN[:1]
    whole, half = mouth_motion(fast, rest, WINDOW, dt), mouth_motion(slow, rest, WINDOW, dt / 2)
    assert float(half.velocities) == pytest.approx(float(whole.velocities), rel=0.01)


def test_lips_that_touch_are_closed(head: HeadModel) -> None:
    """On the head the landmarks of closed lips lie apart; found ones do not."""
    told = mouths(head, wave(0))
    rest = mouths(head, [0.0] * 16)
    lower, upper = [178, 87, 14, 317, 402], [81, 82, 13, 312, 311]
    found = told.clone()
    found[:, lower] -= (rest[:, lower] - rest[:, upper])[:1]
    assert float(mouth_motion(told, found, WINDOW, EVEN).openings) > 0.5
    assert float(mouth_motion(told, found, WINDOW, EVEN, rest).openings) < 1e-6


def test_the_encoder_learns_to_move_its_mouth(head: HeadModel, network: EncoderNetwork) -> None:
    found = torch.cat((mouths(head, wave(0)), torch.zeros(16, 478, 1)), dim=2)
    loss, maps = EncoderLoss(head, 60, torch.full((52,), 0.05)), torch.randn(16, network.maps.mean.numel())
    parameters = [p for p in network.parameters() if p.requires_grad]

    def motion() -> Tensor:
        told = network(None, found, maps)
        rest = loss.seen(told._replace(expression=torch.zeros_like(told.expression)))
        return sum(mouth_motion(loss.seen(told), found, WINDOW, EVEN, rest), torch.zeros(()))

    gradients = torch.autograd.grad(motion(), parameters, allow_unused=True)
    reached = {n for (n, _), g in zip(learning(network), gradients, strict=True) if g is not None and g.any()}
    assert {"out.weight", "judge.0.weight", "looks.2.reduce.0.weight"} <= reached


def learning(network: EncoderNetwork) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


def test_clips_are_a_list_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text("[data]\nclips = ['talks/', 'one.mp4']\n[losses]\nmouth = 1\n")
    config = read_stage2_config(path)
    assert config.data.clips == ("talks/", "one.mp4") and config.losses.mouth == 1
    assert read_stage2_config("smoke2").data.clips == () and read_stage2_config("smoke2").losses.mouth == 0
    path.write_text("[losses]\nmouth = 1\n")
    with pytest.raises(
        InputError, match=r"some\.toml: losses\.mouth is of clips, and data\.clips names none"
    ):
        read_stage2_config(path)


def test_the_second_stage_watches_clips(
    clip: Path, tmp_path: Path, head: HeadModel, network: EncoderNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path / "encoder.safetensors", network, head)
    config, seen = read_stage2_config("smoke2"), []
    data = replace(config.data, folder=str(tmp_path), renders=32, held_out=16, shard=16, clips=(str(clip),))
    learning = replace(config.learning, passes=1)
    watched = replace(
        config, data=data, painting=replace(config.painting, passes=0), learning=learning,
        losses=replace(config.losses, mouth=0.05),
    )  # fmt: skip
    real = Stage2._mouth

    def watch(self, network, lot):  # type: ignore[no-untyped-def]
        losses = real(self, network, lot)
        grads = torch.autograd.grad(
            losses["mouth: velocities"], network.encoder.out.weight, retain_graph=True
        )
        seen.append(
            (len(lot.faces.detected), float(sum(losses.values()).detach()), float(grads[0].abs().sum()))
        )
        return losses

    monkeypatch.setattr(Stage2, "_mouth", watch)
    Stage2(watched, tmp_path / "run", tmp_path / "encoder.safetensors", lambda line: None).run()
    assert len(seen) == 2
    assert all(count == 16 and 0 < loss < 10 and gradient > 0 for count, loss, gradient in seen)
    off = Stage2(replace(watched, losses=config.losses), tmp_path / "off", tmp_path / "encoder.safetensors")
    assert off._clips(open_fabric("32-true"), 16) is None
