"""Many crops at once are what Pillow and MATLAB make of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynres.data.resize import Kind, resize
from dynres.data.shrink import _weights, shrunk

WAYS = pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])


def squares(sides: Sequence[int], seed: int, extreme: bool = False) -> list[np.ndarray]:
    """(side, side, 3) uint8 noise; `extreme`: black and white alone, where the kernel overshoots most."""
    random = np.random.default_rng(seed)
    noise = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]
    return [255 * (one // 128) for one in noise] if extreme else noise


def levels(crops: list[np.ndarray], size: int, kind: Kind, together: bool) -> np.ndarray:
    """(B, size, size, 3) float64."""
    pixels = torch.from_numpy(np.concatenate([crop.reshape(-1, 3) for crop in crops]))
    return shrunk(pixels, [len(crop) for crop in crops], size, kind, together).permute(0, 2, 3, 1).numpy()


def pillow(crops: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC)) for crop in crops]
    )


@WAYS
@pytest.mark.parametrize("extreme", [False, True])
def test_every_crop_of_a_published_training_run_is_pillows_bit_for_bit(together: bool, extreme: bool) -> None:
    for first in range(48, 193, 29):
        crops = squares(range(first, first + 29), seed=first, extreme=extreme)
        np.testing.assert_array_equal(levels(crops, 48, "pillow", together), pillow(crops, 48))


@WAYS
@given(size=st.integers(1, 40), more=st.lists(st.integers(0, 100), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_any_sizes_are_pillows_bit_for_bit(together: bool, size: int, more: list[int], seed: int) -> None:
    crops = squares([size + extra for extra in more], seed)
    np.testing.assert_array_equal(levels(crops, size, "pillow", together), pillow(crops, size))


@WAYS
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_whole_scales_are_matlabs_bit_for_bit(together: bool, scale: int) -> None:
    crops = squares([48 * scale] * 3, seed=scale)
    expected = np.stack([resize(crop, (48, 48), "matlab") for crop in crops])
    np.testing.assert_array_equal(levels(crops, 48, "matlab", together), expected)


@WAYS
def test_real_scales_are_matlabs_but_for_rounding_ties(together: bool) -> None:
    crops = squares(range(48, 193), seed=0)
    expected = np.stack([resize(crop, (48, 48), "matlab") for crop in crops])
    difference = np.abs(levels(crops, 48, "matlab", together) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3, (
        f"{difference.max()}, {(difference > 0).mean():.1e}"
    )


@pytest.mark.parametrize("kind", ["pillow", "matlab"])
@given(size=st.integers(1, 64), more=st.integers(0, 200))
def test_no_sum_of_weighted_pixels_is_ever_rounded(kind: Kind, size: int, more: int) -> None:
    """So neither order nor device decides a bit: in units of the weights' grid all are whole numbers below 2^53."""
    grid = _weights(size + more, size, kind) * 2.0 ** (22 if kind == "pillow" else 43)
    assert np.array_equal(grid, np.round(grid))
    assert 255 * np.abs(grid).sum(axis=1).max() + 2.0**42 < 2**53
