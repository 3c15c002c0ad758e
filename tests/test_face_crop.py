"""The warp against a slow, plain twin, and the geometry of regions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.face._crop import Region, warp, whole_image


def plain_warp(pixels: np.ndarray, region: Region, size: int, outside: str) -> np.ndarray:
    """Bilinear sampling, one pixel at a time."""
    height, width = pixels.shape[:2]

    def tap(x: int, y: int) -> np.ndarray:
        if outside == "black" and not (0 <= x < width and 0 <= y < height):
            return np.zeros(3)
        return pixels[min(max(y, 0), height - 1), min(max(x, 0), width - 1)].astype(np.float64)

    out = np.zeros((size, size, 3))
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    for row in range(size):
        for column in range(size):
            u, v = (column / size - 0.5) * region.width, (row / size - 0.5) * region.height
            x, y = region.x + cos * u - sin * v, region.y + sin * u + cos * v
            x0, y0 = math.floor(x), math.floor(y)
            fx, fy = x - x0, y - y0
            upper = tap(x0, y0) * (1 - fx) + tap(x0 + 1, y0) * fx
            lower = tap(x0, y0 + 1) * (1 - fx) + tap(x0 + 1, y0 + 1) * fx
            out[row, column] = upper * (1 - fy) + lower * fy
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-20, 60),
    st.floats(-20, 60),
    st.floats(1, 90),
    st.floats(1, 90),
    st.floats(-4, 4),
    st.sampled_from(["repeat", "black"]),
)
def test_warp_agrees_with_its_plain_twin(
    x: float, y: float, width: float, height: float, angle: float, outside: str
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (37, 31, 3), dtype=np.uint8)
    region = Region(x, y, width, height, angle)
    fast = warp(pixels, region, 12, outside=outside)
    slow = plain_warp(pixels, region, 12, outside)
    # Half a level for the rounding, and what float32 positions are worth on noise of 255 levels.
    assert np.abs(fast - slow).max() < 0.51


def test_warp_of_the_whole_image_at_its_own_size_changes_nothing() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(pixels, whole_image(pixels), 64), pixels)


def test_warp_of_a_region_far_outside_is_the_edge_or_black() -> None:
    pixels = np.full((8, 8, 3), 90, np.uint8)
    far = Region(1e12, -1e12, 10, 10)
    assert (warp(pixels, far, 4) == 90).all()
    assert (warp(pixels, far, 4, outside="black") == 0).all()


def test_to_image_turns_from_x_towards_y() -> None:
    region = Region(10, 20, 8, 4, math.pi / 2)
    np.testing.assert_allclose(
        region.to_image([(0.5, 0.5), (1, 0.5), (0.5, 1)]), [(10, 20), (10, 24), (8, 20)]
    )


@pytest.mark.parametrize(
    ("region", "usable"),
    [
        (Region(0, 0, 10, 10), True),
        (Region(math.nan, 0, 10, 10), False),
        (Region(0, 0, math.inf, 10), False),
        (Region(0, 0, 0.5, 10), False),
        (Region(0, 0, 10, -3), False),
    ],
)
def test_only_regions_with_an_area_are_usable(region: Region, usable: bool) -> None:
    assert region.is_usable() is usable
