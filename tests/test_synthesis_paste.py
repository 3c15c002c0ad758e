"""A face is cut out and its change put back, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from recon3d.face._crop import Region
from recon3d.synthesis.paste import cut, feathered, paste

REGION = Region(222.0, 112.0, 210.0, 210.0, 0.15)


def disc(size: int) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return ((x.square() + y.square()) < 0.4).float()[None]


def test_an_upright_cut_out_of_the_same_size_is_the_picture() -> None:
    frame = skimage.data.astronaut()
    square = cut(frame, Region(200.0, 150.0, 100.0, 100.0, 0.0), 100)
    wanted = torch.from_numpy(frame[100:200, 150:250]).permute(2, 0, 1) / 255
    torch.testing.assert_close(square, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [256, 128])
def test_a_change_lands_where_it_was_cut_out(size: int) -> None:
    # What a cut-out of the brighter picture has more is put into the darker one.
    frame = skimage.data.astronaut() // 2
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    bump = np.exp(-((columns - 230) ** 2 + (rows - 105) ** 2) / (2 * 12.0**2))[..., None] * 100
    brighter = (frame + bump).astype(np.uint8)
    change = cut(brighter, REGION, size) - cut(frame, REGION, size)
    pasted = paste(frame, REGION, change, disc(size)).astype(float)
    assert np.abs(pasted - brighter).max() < 4  # half a pixel aside it would be 7, not turned 20
    assert np.abs(pasted - frame).max() > 90


def test_without_a_change_the_picture_is_what_it_was() -> None:
    frame = skimage.data.astronaut()
    pasted = paste(frame, REGION, torch.zeros(3, 128, 128), disc(128))
    assert np.array_equal(pasted, frame) and pasted is not frame


def test_nothing_beyond_the_mask_changes() -> None:
    frame = skimage.data.astronaut()
    pasted = paste(frame, REGION, torch.full((3, 256, 256), 0.5), disc(256))
    changed = np.abs(pasted.astype(int) - frame).max(2) > 0
    rows, columns = np.nonzero(changed)
    away = np.hypot(columns - REGION.x, rows - REGION.y)
    assert 40 < away.max() < 0.5 * REGION.width * 0.4**0.5 + 2
    assert np.array_equal(pasted[300:], frame[300:])


def test_a_face_at_the_frame_s_edge_or_beyond() -> None:
    frame = skimage.data.astronaut()
    edge = Region(10.0, 20.0, 200.0, 200.0, -0.4)
    assert cut(frame, edge, 64).isfinite().all()
    assert paste(frame, edge, torch.ones(3, 64, 64), disc(64)).shape == frame.shape
    beyond = Region(-900.0, 20.0, 200.0, 200.0, 0.0)
    assert cut(frame, beyond, 64).isfinite().all()
    assert np.array_equal(paste(frame, beyond, torch.ones(3, 64, 64), disc(64)), frame)


def test_feathering_stays_within_the_mask() -> None:
    mask = disc(128)
    soft = feathered(mask)
    assert float(soft.max()) == 1 and float((soft * (1 - mask)).max()) == 0
    assert 0.5 * float(mask.sum()) < float(soft.sum()) < float(mask.sum())
