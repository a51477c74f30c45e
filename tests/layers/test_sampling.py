"""Coordinates, neighbours and interpolation: laws that hold at every size and border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dynres.layers.mlp import MLP
from dynres.layers.sampling import (
    bicubic_at,
    bicubic_grid,
    bilinear_at,
    bilinear_grid,
    check_coords,
    cubic_weights,
    ensemble,
    grid_coords,
    nearest_index,
    nearest_tap,
    pixel_centres,
)

sides = st.integers(1, 40)


@given(pixels=st.integers(1, 5000))
def test_every_pixel_is_nearest_to_its_own_centre(pixels: int) -> None:
    assert torch.equal(nearest_index(pixel_centres(pixels), pixels), torch.arange(pixels))


def test_grid_coords_run_row_by_row() -> None:
    expected = [(r, c) for r in (-0.5, 0.5) for c in (-2 / 3, 0.0, 2 / 3)]
    torch.testing.assert_close(grid_coords((2, 3)), torch.tensor(expected))


@given(height=sides, width=sides, seed=st.integers(0, 2**31))
@settings(max_examples=50)
def test_nearest_index_is_grid_samples_nearest(height: int, width: int, seed: int) -> None:
    coords = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    pixels = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    sampled = F.grid_sample(pixels, coords.flip(-1)[:, None], mode="nearest", align_corners=False)[0, 0, 0]
    ours = nearest_index(coords[0, :, 0], height) * width + nearest_index(coords[0, :, 1], width)
    assert torch.equal(ours, sampled.long())


@given(pixels=st.integers(2, 2000), factor=st.integers(1, 7))
@settings(max_examples=50)
def test_the_two_sides_are_the_pixels_around_a_point(pixels: int, factor: int) -> None:
    """Neighbouring pixels in rising order; at the ends, where there is none, the border pixel twice."""
    coord = pixel_centres(pixels * factor)
    left, right = nearest_tap(coord, pixels, -1), nearest_tap(coord, pixels, +1)
    step = right.pixel - left.pixel
    assert set(step.tolist()) <= {0, 1}
    at_border = (coord < pixel_centres(pixels)[0]) | (coord > pixel_centres(pixels)[-1])
    on_a_centre = (factor % 2 == 1) & (left.offset.abs().minimum(right.offset.abs()) < 1e-3)
    assert bool((step == 1)[~at_border & ~on_a_centre].all())
    assert left.offset.abs().max() <= 2 + 1e-3, f"a neighbour is further than one pixel: {left.offset.abs().max()}"


def test_a_point_between_two_pixels_belongs_to_the_right_one() -> None:
    """x3: every third output pixel lies on an input centre, so its shifted point lies exactly between two pixels."""
    coord = pixel_centres(15)[4:5]  # the centre of input pixel 1 of 5
    assert nearest_tap(coord, 5, -1).pixel.item() == 1
    assert nearest_tap(coord, 5, +1).pixel.item() == 2


@given(height=sides, width=sides, seed=st.integers(0, 2**31))
@settings(max_examples=50)
def test_ensemble_weights_sum_to_one_and_favour_the_nearest(height: int, width: int, seed: int) -> None:
    coords = torch.rand(80, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    rows = tuple(nearest_tap(coords[:, 0], height, side) for side in (-1, 1))
    columns = tuple(nearest_tap(coords[:, 1], width, side) for side in (-1, 1))
    corners = ensemble(rows, columns)
    weights = torch.stack([corner.weight for corner in corners])
    torch.testing.assert_close(weights.sum(0), torch.ones(80))
    distance = torch.stack([(c.row.offset * c.column.offset).abs() for c in corners])
    inside = torch.stack([t[1].pixel - t[0].pixel == 1 for t in (rows, columns)]).all(0)
    nearest = torch.stack([c.row.offset.abs() + c.column.offset.abs() for c in corners]).argmin(0)
    largest = weights.max(0).values
    chosen = weights.gather(0, nearest[None])[0]
    torch.testing.assert_close(chosen[inside], largest[inside], atol=1e-5, rtol=0)
    assert distance.shape == weights.shape == (4, 80)


def test_without_ensemble_the_one_neighbour_has_weight_one() -> None:
    tap = nearest_tap(pixel_centres(7), 3, 0)
    ((_, _, weight),) = ensemble((tap,), (tap,))
    assert torch.equal(weight, torch.ones(7))


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_indices_are_the_same_under_autocast(axis: str) -> None:
    """bfloat16 would move them: the test shows that it would, and that autocast does not."""
    coord, pixels = pixel_centres(1000 if axis == "rows" else 777), 300
    plain = nearest_tap(coord, pixels, 1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = nearest_tap(coord, pixels, 1)
        cubic = bicubic_at(torch.ones(1, 1, 5, 5), grid_coords((7, 7))[None])
    assert torch.equal(cast.pixel, plain.pixel) and torch.equal(cast.offset, plain.offset)
    assert cast.offset.dtype == cubic.dtype == torch.float32
    moved = nearest_index(coord.bfloat16(), pixels) != nearest_index(coord, pixels)
    assert moved.float().mean() > 0.1, f"only {moved.float().mean():.3f} of bfloat16 coordinates pick another pixel"


def test_coordinates_in_half_precision_or_of_another_shape_are_refused() -> None:
    good = torch.zeros(2, 5, 2)
    check_coords(good, good)
    with pytest.raises(ValueError, match=r"coords must be float32, got torch\.bfloat16"):
        check_coords(good.bfloat16(), good)
    with pytest.raises(ValueError, match=r"cell must be \(B, Q, 2\), got \(2, 2\)"):
        check_coords(good, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\(2, 5, 2\) and \(2, 1, 2\)"):
        check_coords(good, good[:, :1])


@given(height=sides, width=sides, up=st.tuples(st.integers(0, 50), st.integers(0, 50)))
@settings(max_examples=40)
def test_sampling_at_pixel_centres_is_the_grid_form(height: int, width: int, up: tuple[int, int]) -> None:
    image = torch.randn(2, 3, height, width)
    size = (height + up[0], width + up[1])
    coords = grid_coords(size).expand(2, -1, -1)
    for at, grid in ((bicubic_at, bicubic_grid), (bilinear_at, bilinear_grid)):
        sampled = at(image, coords).transpose(1, 2).reshape(2, 3, *size)
        torch.testing.assert_close(sampled, grid(image, size), atol=1e-5 * float(image.abs().max()), rtol=0)


def numpy_cubic(signal: np.ndarray, count: int) -> np.ndarray:
    """One axis of bicubic enlargement, pixel by pixel, from Keys' kernel with a = -0.5 and repeated border."""
    n, out = len(signal), np.zeros((count, *signal.shape[1:]))
    for i in range(count):
        position = (i + 0.5) * n / count - 0.5
        for k in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            d = abs(position - k)
            near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            out[i] += (near if d <= 1 else far if d < 2 else 0.0) * signal[min(max(k, 0), n - 1)]
    return out


@pytest.mark.parametrize("size", [(22, 18), (33, 27), (29, 23), (11, 30)])
def test_bicubic_is_keys_kernel_with_repeated_border(size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, 11, 9, dtype=torch.float64)
    expected = numpy_cubic(numpy_cubic(image[0].permute(1, 2, 0).numpy(), size[0]).transpose(1, 0, 2), size[1])
    ours = bicubic_grid(image, size)[0].permute(2, 1, 0).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_torchs_antialiased_one_away_from_the_border(factor: int) -> None:
    image = torch.rand(1, 3, 12, 13, dtype=torch.float64)
    size = (12 * factor, 13 * factor)
    theirs = F.interpolate(image, size, mode="bicubic", antialias=True)
    inside = (..., slice(2 * factor, -2 * factor), slice(2 * factor, -2 * factor))
    torch.testing.assert_close(bicubic_grid(image, size)[inside], theirs[inside], rtol=0, atol=1e-12)


def test_bicubic_at_the_same_size_is_the_image_and_leaves_it_alone() -> None:
    image = torch.rand(1, 3, 6, 7)
    before = image.clone()
    torch.testing.assert_close(bicubic_grid(image, (6, 7)), image, rtol=0, atol=0)
    assert torch.equal(image, before)


def test_cubic_weights_reproduce_parabolas() -> None:
    t = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    places = torch.arange(-1, 3, dtype=torch.float64)
    for power in (0, 1, 2):
        torch.testing.assert_close(cubic_weights(t) @ places**power, t**power)


def test_mlp_in_pieces_is_the_sequential_network() -> None:
    network, x = MLP(5, [7, 6], 3), torch.randn(4, 5)
    torch.testing.assert_close(network(x), network.layers(x))
    assert list(network.state_dict()) == [f"layers.{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")]
    assert network.hidden_macs == 7 * 6


@pytest.mark.parametrize(("inputs", "hidden"), [(5, []), (0, [4]), (5, [4, 0])])
def test_mlp_refuses_impossible_widths(inputs: int, hidden: list[int]) -> None:
    with pytest.raises(ValueError, match="widths"):
        MLP(inputs, hidden, 3)
