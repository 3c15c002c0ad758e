"""Takes with known curves for tests of the whole-clip solve: what a tracker would see of acting heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recon3d._records import Chunk, Records
from recon3d.conventions import ARKIT_NAMES
from recon3d.evaluation.performance import Performance, perform
from recon3d.fitting import guess_from_scores
from recon3d.head import HeadModel
from recon3d.observe import open_records

Array = npt.NDArray[Any]

FPS = 30.0
SIZE = (480, 480)
#: Middle frames of the blinks of ``acted_units``.
BLINKS = (31, 76, 118)


@dataclass(frozen=True)
class Sight:
    """One tracklet: its number, the frames (n,) it is in sight, landmarks (n, 478, 2) px, scores (n, 52)."""

    tracklet: int
    frame: Array
    pixels: Array
    scores: Array

    def part(self, frames: slice, tracklet: int | None = None) -> Sight:
        """The same face in some of the clip's frames only, as another tracklet if wanted."""
        chosen = np.isin(self.frame, np.arange(100_000)[frames])
        number = self.tracklet if tracklet is None else tracklet
        return Sight(number, self.frame[chosen], self.pixels[chosen], self.scores[chosen])


def unit(name: str) -> int:
    return ARKIT_NAMES.index(name)


def acted_units(frames: int, fps: float = FPS) -> Array:
    """(frames, 52): somebody speaks, smiles, looks about, raises the brows, and blinks three times."""
    time = np.arange(frames) / fps
    values = np.zeros((frames, 52))

    def wave(speed: float, phase: float = 0.0) -> Array:
        return np.sin(2 * np.pi * speed * time + phase)

    gaze = 0.7 * wave(0.4)
    values[:, unit("jawOpen")] = 0.25 * (1 + wave(1.3))
    values[:, unit("browInnerUp")] = 0.6 * wave(0.3, 2).clip(0)
    for side, out in (("Left", gaze), ("Right", -gaze)):
        values[:, unit(f"eyeLookOut{side}")], values[:, unit(f"eyeLookIn{side}")] = (
            out.clip(0),
            (-out).clip(0),
        )
        values[:, unit(f"mouthSmile{side}")] = 0.5 * wave(0.25).clip(0)
        for middle in BLINKS:
            blink = 0.95 * (1 - np.abs(np.arange(frames) - middle) / 3).clip(0)
            values[:, unit(f"eyeBlink{side}")] += blink
    return values


def act(head: HeadModel, units: Array, person: int) -> Performance:
    """Let a random person, who sways as a speaker does, act (T, 52) units."""
    return perform(head, torch.tensor(units, dtype=torch.float32), FPS, person)


@torch.no_grad()
def sight_of(head: HeadModel, acted: Performance, noise: float = 0.0, tracklet: int = 0) -> Sight:
    """Return what the face networks would see, with noise (px) on the landmarks, in the clip's first frames.

    The scores are as unsure as the calibration says that scores are.
    """
    frames = len(acted.expression)
    unposed = head.unposed(acted.shape.expand(frames, -1), acted.expression)
    vertices = unposed @ acted.rotation.mT + acted.translation[:, None]
    pixels = acted.camera.project(head.landmarks(vertices, "mediapipe478"))[..., :2].numpy()
    random = np.random.default_rng(tracklet)
    pixels = pixels + noise * random.normal(size=pixels.shape)
    scores = scores_of(acted.expression.numpy(), random)
    return Sight(tracklet, np.arange(frames), pixels.astype(np.float32), scores)


def scores_of(units: Array, random: np.random.Generator) -> Array:
    """(T, 52) scores that ``guess_from_scores`` takes for the units, give or take its confidence."""
    _, confidence = guess_from_scores(torch.zeros(1, 52))
    known = (confidence > 0).numpy()
    deviation = confidence.clamp_min(1e-3).rsqrt().numpy() * known
    wanted = (units + deviation * random.normal(size=units.shape)).clip(0, 1)
    low, high = np.zeros_like(wanted), np.ones_like(wanted)
    for _ in range(20):  # the guess rises with the score, so halving finds it
        middle = (low + high) / 2
        guess = guess_from_scores(torch.tensor(middle, dtype=torch.float32))[0].numpy()
        low, high = np.where(guess < wanted, middle, low), np.where(guess < wanted, high, middle)
    return np.where(known, high, 0).astype(np.float32)


def write_records(
    folder: Path,
    times: Array,
    sights: Sequence[Sight],
    *,
    cuts: Sequence[int] = (),
    chunk: int = 64,
) -> Records:
    """Write what was seen in a clip as ``observe`` does."""
    records = open_records(folder)
    for first in range(0, len(times), chunk):
        inside = np.arange(first, min(first + chunk, len(times)))
        rows = sorted(
            (int(frame), one.tracklet, k, one)
            for one in sights
            for k, frame in enumerate(one.frame)
            if frame in inside
        )
        count = len(rows)
        records.append(
            Chunk(
                times=times[inside],
                cuts=np.isin(inside, cuts),
                frame=np.array([frame for frame, *_ in rows], np.int64),
                tracklet=np.array([number for _, number, *_ in rows], np.int64),
                landmarks=np.array([one.pixels[k] for *_, k, one in rows], np.float32).reshape(-1, 478, 2),
                scores=np.array([one.scores[k] for *_, k, one in rows], np.float32).reshape(-1, 52),
                score=np.full(count, 0.9, np.float32),
                sharpness=np.full(count, 10.0, np.float32),
                light=np.full(count, 120.0, np.float32),
                state={},
                lost=0,
            )
        )
    return records
