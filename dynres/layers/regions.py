"""An image as equal, overlapping regions, and the way back without seams (operations K and U of FlexIR, Alg. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dynres.layers.tiling import ramp


class Box(NamedTuple):
    """A region in input pixels; ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int


def region_boxes(height: int, width: int, regions: int, overlap: int, least: int = 1) -> tuple[Box, ...]:
    """Regions of one size that cover an image, row by row, as close to squares as their number allows.

    Args:
        regions: how many; fewer come back where an image has no room for as many.
        overlap: pixels that neighbours share at least; 0 for none but those that make all sizes equal.
        least: pixels a side that a region has for itself at least, overlaps aside; the whole image is always one.

    Raises:
        ValueError: fewer than one region, or a negative overlap.
    """
    if regions < 1:
        raise ValueError(f"regions must be at least 1, got {regions}")
    if overlap < 0:
        raise ValueError(f"overlap must be at least 0 pixels, got {overlap}")
    most = max(height // least, 1), max(width // least, 1)
    number = min(regions, most[0] * most[1])
    while not (grids := list(_grids(number, most))):
        number -= 1
    rows, columns = min(grids, key=lambda grid: abs(math.log(height / grid[0] * grid[1] / width)))
    down, across = (_spans(side, n, overlap) for side, n in ((height, rows), (width, columns)))
    return tuple(Box(*row, *column) for row in down for column in across)


def _grids(number: int, most: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """(rows, columns) with rows x columns = number, neither above its limit."""
    for rows in range(1, min(number, most[0]) + 1):
        if number % rows == 0 and number // rows <= most[1]:
            yield rows, number // rows


def _spans(length: int, number: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) on one axis: the shortest of one length that share `overlap` pixels, evenly placed, each once."""
    side = min(-(-(length + (number - 1) * overlap) // number), length)
    starts = sorted({i * (length - side) // max(number - 1, 1) for i in range(number)})
    return [(start, start + side) for start in starts]


@torch.compiler.disable
def cut(image: Tensor, boxes: Sequence[Box]) -> Tensor:
    """(B, C, H, W) -> (B R, C, h, w), the R regions of an image after those of the one before."""
    if len(boxes) == 1:
        return image
    return torch.stack([image[..., box.top : box.bottom, box.left : box.right] for box in boxes], dim=1).flatten(0, 1)


@torch.compiler.disable
def join(parts: Tensor, boxes: Sequence[Box], scale: int = 1) -> Tensor:
    """(B R, C, s h, s w) regions enlarged by s -> (B, C, s H, s W); where they overlap, one fades into the next.

    In full precision, whatever that of the parts; a single region is handed on as it is.
    """
    if len(boxes) == 1:
        return parts
    images = parts.unflatten(0, (-1, len(boxes)))
    rows = _weights(sorted({(box.top, box.bottom) for box in boxes}), scale, parts.device)
    columns = _weights(sorted({(box.left, box.right) for box in boxes}), scale, parts.device)
    shape = len(images), parts.shape[1], scale * boxes[-1].bottom, scale * boxes[-1].right
    out = torch.zeros(shape, dtype=torch.promote_types(parts.dtype, torch.float32), device=parts.device)
    for number, box in enumerate(boxes):
        row, column = rows[box.top, box.bottom], columns[box.left, box.right]
        place = out[..., scale * box.top : scale * box.bottom, scale * box.left : scale * box.right]
        place += images[:, number] * (row[:, None] * column)
    return out


def _weights(spans: Sequence[tuple[int, int]], scale: int, device: torch.device) -> dict[tuple[int, int], Tensor]:
    """(s h,) share of each span of an axis in its pixels; the shares of a pixel add up to 1."""
    length = scale * spans[-1][1]
    shared = min((before[1] - after[0] for before, after in pairwise(spans)), default=0)
    raw = {(a, b): ramp(scale * a, scale * b, length, 0, scale * shared) for a, b in spans}
    total = torch.zeros(length, dtype=torch.float32)
    for (a, b), weight in raw.items():
        total[scale * a : scale * b] += weight
    return {(a, b): (weight / total[scale * a : scale * b]).to(device) for (a, b), weight in raw.items()}
