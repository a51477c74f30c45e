"""Tiles cover the image, overlap as asked, and blend without seams."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.layers.tiling import spans, tiled


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 70), width=st.integers(1, 70), overlap=st.integers(0, 8), multiple=st.integers(1, 8),
    extra=st.integers(0, 12), margin=st.integers(0, 4),
)  # fmt: skip
def test_tiling_the_identity_returns_the_image(
    height: int, width: int, overlap: int, multiple: int, extra: int, margin: int
) -> None:
    image = torch.rand(1, 2, height, width)
    margin = min(margin, overlap // 2)
    out = tiled(nn.Identity(), image, overlap + multiple + extra, overlap, margin, multiple)
    torch.testing.assert_close(out, image, rtol=0, atol=1e-6)  # borders included


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 200), overlap=st.integers(0, 9), multiple=st.integers(1, 9), extra=st.integers(0, 20))
def test_tiles_cover_an_axis_overlap_as_asked_and_none_is_superfluous(
    length: int, overlap: int, multiple: int, extra: int
) -> None:
    tile = overlap + multiple + extra
    found = spans(length, tile, overlap, multiple)
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(start % multiple == 0 and 0 < end - start <= tile for start, end in found)
    for (_, end), (start, following) in pairwise(found):
        assert end - start >= overlap, f"{found} share less than {overlap} pixels"
        assert following > end, f"the last of {found} adds nothing"


@pytest.mark.parametrize("multiple", [1, 3])
@pytest.mark.parametrize("size", [(40, 33), (17, 60), (20, 20)])
def test_convolutions_with_their_halo_as_margin_give_the_whole_image(size: tuple[int, int], multiple: int) -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2), nn.Conv2d(4, 2, 3, padding=1)]
    network, halo = nn.Sequential(*layers), 4
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        out = tiled(network, image, tile=18, overlap=2 * halo + 3, margin=halo, multiple=multiple)
        torch.testing.assert_close(out, network(image), rtol=0, atol=1e-6)


def test_a_step_between_tiles_is_spread_over_the_overlap() -> None:
    """Tiles that answer 0, 1, 0, 1 ... meet in ramps: no pixel differs from its neighbour by more than 1 / width."""
    calls = iter(range(1000))

    def answer(part: Tensor) -> Tensor:
        return torch.full_like(part, float(next(calls) % 2))

    overlap, margin = 10, 2
    out = tiled(answer, torch.zeros(1, 1, 1, 100), tile=24, overlap=overlap, margin=margin)[0, 0, 0]
    steps = out.diff().abs()
    assert out.max() == 1 and out.min() == 0
    assert steps.max() <= 1 / (overlap - 2 * margin) + 1e-6, f"a seam of {steps.max():.3f}"


def test_pixels_within_the_margin_of_a_cut_are_thrown_away() -> None:
    """What a function spoils beside the cuts of a tile is not seen; the ends of the image are no cuts."""

    def spoilt(part: Tensor) -> Tensor:
        out = torch.full_like(part, 1000.0)
        left, right = (0 if part[..., 0].item() == 0 else 3), (0 if part[..., -1].item() == 59 else 3)
        inside = slice(left, part.shape[-1] - right)
        out[..., inside] = part[..., inside]
        return out

    image = torch.arange(60.0).view(1, 1, 1, 60)
    torch.testing.assert_close(tiled(spoilt, image, tile=20, overlap=7, margin=3), image)


def test_every_tile_is_watched_once_and_an_image_within_a_tile_runs_whole() -> None:
    seen: list[int] = []
    shapes: list[tuple[int, ...]] = []

    def watch(order: Iterator[int], count: int) -> Iterator[int]:
        for index in order:
            seen.append(count)
            yield index

    def record(part: Tensor) -> Tensor:
        shapes.append(tuple(part.shape[-2:]))
        return part

    tiled(record, torch.rand(1, 1, 30, 20), tile=16, overlap=4, watch=watch)
    assert len(shapes) == len(seen) == seen[0] == len(spans(30, 16, 4, 1)) * len(spans(20, 16, 4, 1))
    shapes.clear()
    tiled(record, torch.rand(1, 1, 16, 10), tile=16, overlap=4, watch=watch)
    assert shapes == [(16, 10)]


def test_impossible_tiles_are_refused_with_their_numbers() -> None:
    image = torch.rand(1, 1, 30, 30)
    with pytest.raises(ValueError, match=r"at least overlap \+ 4 = 12 pixels, got 11"):
        tiled(nn.Identity(), image, tile=11, overlap=8, multiple=4)
    with pytest.raises(ValueError, match=r"overlap by 8 pixels.*margin of 5"):
        tiled(nn.Identity(), image, tile=20, overlap=8, margin=5)
