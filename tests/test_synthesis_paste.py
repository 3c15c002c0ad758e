"""A painted face goes back where it came from."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from recon3d.face._crop import Region, warp
from recon3d.synthesis.paste import feathered, paste

REGION = Region(222.0, 112.0, 210.0, 210.0, 0.15)


def cut(frame: np.ndarray, region: Region, size: int = 256) -> Tensor:
    whole = torch.from_numpy(warp(frame, region, 256) / 255).permute(2, 0, 1)
    return torch.nn.functional.interpolate(whole[None], (size, size), mode="area")[0]


def disc(size: int) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return ((x.square() + y.square()) < 0.4).float()[None]


@pytest.mark.parametrize("size", [256, 128])
def test_the_same_picture_changes_nothing(size: int) -> None:
    frame = skimage.data.astronaut()
    given = cut(frame, REGION, size)
    pasted = paste(frame, REGION, given, given, disc(size))
    off = np.abs(pasted.astype(float) - frame).mean(2)
    # Two interpolations blur: 2.6 and 5.3 grey levels. Half a pixel aside it would be 6.2 and 7.1.
    assert off[80:150, 180:260].mean() < (3.5 if size == 256 else 6.0)


def test_nothing_beyond_the_mask_changes() -> None:
    frame = skimage.data.astronaut()
    given = cut(frame, REGION)
    pasted = paste(frame, REGION, 1 - given, given, disc(256))
    changed = np.abs(pasted.astype(int) - frame).max(2) > 0
    rows, columns = np.nonzero(changed)
    away = np.hypot(columns - REGION.x, rows - REGION.y)
    assert 40 < away.max() < 0.5 * REGION.width * 0.4**0.5 + 2
    assert np.array_equal(pasted[300:], frame[300:])


def test_tint_is_matched_around_the_face() -> None:
    frame = skimage.data.astronaut()
    given = cut(frame, REGION)
    tinted = (given * 0.8 + torch.tensor((0.1, 0.0, 0.05))[:, None, None]).clamp(0, 1)
    plain = paste(frame, REGION, given, given, disc(256)).astype(float)
    with_tint = paste(frame, REGION, tinted, given, disc(256)).astype(float)
    assert np.abs(with_tint - plain)[80:140, 190:250].mean() < 20  # unmatched: up to 36


def test_a_face_at_the_frame_s_edge_or_beyond() -> None:
    frame = skimage.data.astronaut()
    edge = Region(10.0, 20.0, 200.0, 200.0, -0.4)
    given = cut(frame, edge)
    assert paste(frame, edge, given, given, disc(256)).shape == frame.shape
    beyond = Region(-900.0, 20.0, 200.0, 200.0, 0.0)
    assert np.array_equal(paste(frame, beyond, given, given, disc(256)), frame)


def test_feathering_stays_within_the_mask() -> None:
    mask = disc(128)
    soft = feathered(mask)
    assert float(soft.max()) == 1 and float((soft * (1 - mask)).max()) == 0
    assert 0.5 * float(mask.sum()) < float(soft.sum()) < float(mask.sum())
