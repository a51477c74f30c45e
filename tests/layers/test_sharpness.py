"""The score of a restored image: closed forms of Eq. 6-8, and what leaves it unchanged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynres.layers.sharpness import BETA, gray, roberts, sharpness


def ramp(height: int, width: int, step: float) -> Tensor:
    """Every column `step` brighter than the one before."""
    return (step * torch.arange(width)).expand(1, 1, height, width)


def test_a_step_edge_scores_its_height_and_the_inverse_of_the_share_of_pixels_on_it() -> None:
    """32 x 32, two halves 100 apart: one column of 32 has |G| = 100 sqrt(2), the mean is a 32nd of that."""
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 100
    height = 100 * 2**0.5
    expected = height**BETA * 32 ** (1 - BETA)
    torch.testing.assert_close(sharpness(image), torch.tensor([expected]))


def test_the_largest_gradient_is_looked_for_in_the_centre_alone() -> None:
    """48 x 64 has B = 3: one row above and two below are left out, one column and two."""
    quiet = torch.zeros(1, 1, 48, 64)
    loud = {}
    for row, column in [(0, 30), (1, 30), (45, 30), (46, 30), (20, 0), (20, 1), (20, 61), (20, 62)]:
        image = quiet.clone()
        image[..., row : row + 1, column : column + 1] = 1.0
        loud[row, column] = bool(sharpness(image) > 0)
    # a pixel shows in the gradient of its own place and of the one above, left or both
    assert loud == {
        (0, 30): False, (1, 30): True, (45, 30): True, (46, 30): True,
        (20, 0): False, (20, 1): True, (20, 61): True, (20, 62): True,
    }  # fmt: skip
    for row, column in [(47, 30), (20, 63)]:
        image = quiet.clone()
        image[..., row, column] = 1.0
        assert not sharpness(image).any(), "the border was looked at"


def test_the_gradient_is_that_of_the_two_diagonals() -> None:
    image = torch.tensor([[1.0, 4.0], [2.0, 9.0]])[None]
    expected = torch.tensor([[(8**2 + 2**2) ** 0.5, 5 * 2**0.5], [7 * 2**0.5, 0.0]])[None]
    torch.testing.assert_close(roberts(image), expected)


def test_a_slope_scores_its_gradient_and_little_variability() -> None:
    """All of the centre has one gradient but the repeated last column, which is cut off: VG = 0."""
    assert sharpness(ramp(64, 64, 3.0)).item() == 0
    gradient = roberts(gray(ramp(64, 64, 3.0)))
    torch.testing.assert_close(gradient[..., :-1], torch.full((1, 64, 63), 3 * 2**0.5))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (8, 8), (250, 3)])
def test_flat_images_score_nothing(size: tuple[int, int]) -> None:
    assert torch.equal(sharpness(torch.full((2, 3, *size), 0.7)), torch.zeros(2))


def test_colours_are_weighed_as_bt_601_luma() -> None:
    image = torch.rand(2, 3, 20, 30)
    luma = torch.einsum("c,bchw->bhw", torch.tensor([0.299, 0.587, 0.114]), image)
    torch.testing.assert_close(sharpness(image), sharpness(luma[:, None]))
    with pytest.raises(ValueError, match="gray or RGB images, got 4"):
        sharpness(torch.rand(1, 4, 8, 8))


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 300.0))
def test_a_factor_comes_out_with_the_power_beta_and_a_constant_not_at_all(h: int, w: int, factor: float) -> None:
    image = torch.rand(3, 1, h, w, generator=torch.Generator().manual_seed(h * 50 + w))
    scores = sharpness(image)
    assert scores.isfinite().all() and (scores >= 0).all()
    torch.testing.assert_close(sharpness(factor * (image + 0.25)), scores * factor**BETA, rtol=1e-3, atol=1e-4)
