"""Regions: equal, overlapping, covering; joined again they are the image, without seams."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynres.layers.regions import cut, join, region_boxes

SIDES = st.integers(1, 70)


@given(SIDES, SIDES, st.integers(1, 12), st.integers(0, 20), st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_cut_and_joined_again_it_is_the_image(h: int, w: int, n: int, overlap: int, least: int, scale: int) -> None:
    boxes = region_boxes(h, w, n, overlap, least)
    image = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(h + w))
    parts = cut(image, boxes)
    assert len(parts) == 2 * len(boxes) and 1 <= len(boxes) <= n
    enlarged = [x.repeat_interleave(scale, -1).repeat_interleave(scale, -2) for x in (parts, image)]
    torch.testing.assert_close(join(enlarged[0], boxes, scale), enlarged[1], rtol=0, atol=1e-6)


@given(SIDES, SIDES, st.integers(1, 12), st.integers(0, 20))
def test_regions_are_equal_and_neighbours_share_the_overlap(h: int, w: int, n: int, overlap: int) -> None:
    boxes = region_boxes(h, w, n, overlap)
    assert len({(b.bottom - b.top, b.right - b.left) for b in boxes}) == 1
    assert (boxes[0].top, boxes[0].left, boxes[-1].bottom, boxes[-1].right) == (0, 0, h, w)
    assert len(set(boxes)) == len(boxes) and list(boxes) == sorted(boxes)
    for spans in ({(b.top, b.bottom) for b in boxes}, {(b.left, b.right) for b in boxes}):
        ordered = sorted(spans)
        for (_, end), (start, _) in pairwise(ordered):
            assert overlap <= end - start, f"{end - start} pixels shared"


@pytest.mark.parametrize(
    ("size", "regions", "expected"),
    [((64, 64), 4, (2, 2)), ((32, 128), 4, (1, 4)), ((128, 32), 4, (4, 1)), ((60, 90), 6, (2, 3)),
     ((50, 50), 5, (1, 5)), ((50, 50), 1, (1, 1)), ((100, 101), 9, (3, 3))],
)  # fmt: skip
def test_regions_are_as_square_as_their_number_allows(
    size: tuple[int, int], regions: int, expected: tuple[int, int]
) -> None:
    boxes = region_boxes(*size, regions, 0)
    grid = len({b.top for b in boxes}), len({b.left for b in boxes})
    assert len(boxes) == regions and (grid == expected or (size[0] == size[1] and grid == expected[::-1]))


def test_without_overlap_it_is_a_bare_partition() -> None:
    assert region_boxes(48, 64, 4, 0) == ((0, 24, 0, 32), (0, 24, 32, 64), (24, 48, 0, 32), (24, 48, 32, 64))
    parts = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 24, 32)
    joined = join(parts, region_boxes(48, 64, 4, 0))
    assert torch.equal(joined[0, 0, ::24, ::32], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert set(joined.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_each_region_has_room_for_a_window_of_its_own() -> None:
    assert len(region_boxes(16, 24, 100, 4, least=8)) == 6
    assert len(region_boxes(15, 24, 100, 4, least=8)) == 3
    assert len(region_boxes(7, 7, 4, 4, least=8)) == 1
    assert len(region_boxes(40, 10, 7, 0, least=8)) == 5  # neither 7 nor 6 strips have it


@pytest.mark.parametrize("scale", [1, 3])
def test_regions_that_disagree_meet_without_a_seam(scale: int) -> None:
    """Four regions of one colour each: from pixel to pixel the image moves by no more than their difference over the
    overlap."""
    boxes = region_boxes(60, 80, 4, overlap=12)
    side = boxes[0]
    colours = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(4, 1, 1, 1)
    joined = join(colours.expand(4, 1, scale * side.bottom, scale * side.right), boxes, scale)
    assert joined.shape == (1, 1, 60 * scale, 80 * scale)
    steps = max(joined.diff(dim=-1).abs().max().item(), joined.diff(dim=-2).abs().max().item())
    assert steps <= 1.01 / (12 * scale), f"a seam of {steps:.3f}"
    torch.testing.assert_close(joined[..., 0, :], joined[..., 0, :].cummax(dim=-1).values)


def test_joining_is_in_full_precision_and_carries_gradients() -> None:
    boxes = region_boxes(20, 20, 4, 6)
    parts = cut(torch.full((1, 1, 20, 20), 1.0), boxes).bfloat16().requires_grad_()
    joined = join(parts, boxes)
    assert joined.dtype == torch.float32
    torch.testing.assert_close(joined, torch.ones(1, 1, 20, 20))
    joined.sum().backward()
    assert parts.grad is not None and parts.grad.sum().item() == pytest.approx(400, rel=1e-2)


@pytest.mark.parametrize(
    ("regions", "overlap", "message"), [(0, 4, "regions must be at least 1, got 0"), (4, -1, "overlap .* got -1")]
)
def test_impossible_partitions_are_refused(regions: int, overlap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_boxes(20, 20, regions, overlap)
