"""Apply a map to overlapping tiles of an image and blend the results without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def spans(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """(start, end) of tiles along one axis: starts are multiples of `multiple`, neighbours share >= overlap pixels."""
    if tile >= length:
        return [(0, length)]
    step = (tile - overlap) // multiple * multiple
    if step < 1:
        raise ValueError(f"tile must be at least overlap + {multiple} = {overlap + multiple} pixels, got {tile}")
    return [(start, min(start + tile, length)) for start in range(0, length - tile + step, step)]


def ramp(start: int, end: int, length: int, margin: int, overlap: int) -> Tensor:
    """Blending weight of a tile's pixels on one axis: 0 within `margin` of a cut, rising to 1 over the overlap.

    Ends of the image are no cuts. Weights are normalised by their sum afterwards, so they need not add up to one.
    """
    position = torch.arange(start, end, dtype=torch.float32)
    weight = torch.ones_like(position)
    width = max(overlap - 2 * margin, 1)
    if start > 0:
        weight = torch.minimum(weight, (position - start - margin + 0.5) / width)
    if end < length:
        weight = torch.minimum(weight, (end - position - margin - 0.5) / width)
    return weight.clamp(0, 1)


def tiled(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    tile: int,
    overlap: int,
    margin: int = 0,
    multiple: int = 1,
    watch: Callable[[Iterator[int], int], Iterator[int]] | None = None,
) -> Tensor:
    """`function` of (B, C, H, W), evaluated tile by tile.

    Args:
        function: size-preserving map (B, C, h, w) -> (B, C', h, w).
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share; results are blended linearly there.
        margin: pixels next to a cut that are computed for context and thrown away; 2 * margin <= overlap. With a
            margin of a convolutional network's halo the result equals the whole image's.
        multiple: tiles start at multiples of this.
        watch: wraps the iteration over tiles (a progress bar).
    """
    if 2 * margin > overlap:
        raise ValueError(f"tiles overlap by {overlap} pixels, which must be at least twice the margin of {margin}")
    height, width = image.shape[-2:]
    boxes = [
        (*row, *column)
        for row in spans(height, tile, overlap, multiple)
        for column in spans(width, tile, overlap, multiple)
    ]
    if len(boxes) == 1:
        return function(image)
    total: Tensor | None = None
    weights = torch.zeros(height, width, device=image.device)
    order = iter(range(len(boxes)))
    for index in watch(order, len(boxes)) if watch else order:
        top, bottom, left, right = boxes[index]
        rows, columns = ramp(top, bottom, height, margin, overlap), ramp(left, right, width, margin, overlap)
        weight = (rows[:, None] * columns[None, :]).to(image.device)
        part = function(image[..., top:bottom, left:right])
        if total is None:
            total = part.new_zeros(*part.shape[:2], height, width)
        total[..., top:bottom, left:right] += part * weight
        weights[top:bottom, left:right] += weight
    assert total is not None  # there is at least one box
    return total.div_(weights)
