"""BT.601 in studio range: known colours, an inverse, and the luma that PSNR is measured on."""

from __future__ import annotations

import pytest
import torch

from dynres.layers.colour import rgb, ycbcr
from dynres.metrics import psnr

# R, G, B in [0, 1] and 255 (Y, Cb, Cr), from the standard's coefficients.
COLOURS = {
    "black": ((0, 0, 0), (16, 128, 128)),
    "white": ((1, 1, 1), (235, 128, 128)),
    "red": ((1, 0, 0), (81.481, 90.203, 240)),
    "green": ((0, 1, 0), (144.553, 53.797, 34.214)),
    "blue": ((0, 0, 1), (40.966, 240, 109.786)),
    "half gray": ((0.5, 0.5, 0.5), (125.5, 128, 128)),
}


@pytest.mark.parametrize("name", COLOURS)
def test_known_colours(name: str) -> None:
    colour, expected = (torch.tensor(values, dtype=torch.float64) for values in COLOURS[name])
    torch.testing.assert_close(255 * ycbcr(colour, dim=0), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(rgb(expected / 255, dim=0), colour, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 5, 4), 1), ((2, 7, 3), -1), ((3, 6, 5), 0), ((2, 3, 4, 5), -3)])
def test_there_and_back_along_any_axis(shape: tuple[int, ...], dim: int) -> None:
    colours = torch.rand(shape)
    converted = ycbcr(colours, dim)
    assert converted.shape == colours.shape and converted.dtype == torch.float32
    torch.testing.assert_close(rgb(converted, dim), colours, rtol=0, atol=2e-6)
    moved = ycbcr(colours.movedim(dim, 1), 1).movedim(1, dim)
    assert torch.equal(converted, moved)


def test_values_fill_the_studio_range_and_no_more() -> None:
    levels = torch.tensor([0.0, 0.5, 1.0])
    cube = torch.cartesian_prod(levels, levels, levels)
    low, high = 255 * ycbcr(cube, -1).amin(0), 255 * ycbcr(cube, -1).amax(0)
    torch.testing.assert_close(low, torch.tensor([16.0, 16, 16]))
    torch.testing.assert_close(high, torch.tensor([235.0, 240, 240]))


def test_luma_is_the_one_that_benchmarks_measure() -> None:
    """Images that differ by one constant luma have the PSNR of that constant."""
    a = torch.randint(0, 250, (1, 3, 24, 24)) / 255
    b = a + 3 / 255
    difference = (255 * (ycbcr(b) - ycbcr(a)))[:, 0].double()
    torch.testing.assert_close(difference, torch.full_like(difference, 3 * 219 / 255), rtol=0, atol=1e-4)
    expected = 10 * torch.log10(torch.tensor(255.0**2) / difference.square().mean())
    assert psnr(a, b, "benchmark", 2) == pytest.approx(expected.item(), abs=1e-3)


def test_autocast_leaves_colours_in_full_precision() -> None:
    colours = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ycbcr(colours)
        back = rgb(inside)
    assert torch.equal(inside, ycbcr(colours)) and torch.equal(back, rgb(inside))


@pytest.mark.parametrize("convert", [ycbcr, rgb])
def test_other_numbers_of_channels_are_refused(convert: object) -> None:
    assert callable(convert)
    with pytest.raises(ValueError, match=r"3 channels, axis 1 of \(1, 4, 2, 2\) has 4"):
        convert(torch.rand(1, 4, 2, 2))
