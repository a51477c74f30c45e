"""Where output pixels lie on the input grid, and what is read there.

Coordinates are (row, column) in [-1, 1], corners not aligned: the centre of pixel i of n is -1 + (2 i + 1) / n.
Everything here is separable: an axis is handled alone, with integer indices, and two axes meet by broadcasting, so a
whole grid costs H' + W' positions. Coordinates stay float32 (bfloat16 would pick wrong pixels): positions are made by
element-wise arithmetic, which autocast leaves alone, and half-precision coordinates are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NUDGE = 1e-6  # added to shifted coordinates, so that a point between two pixels belongs to the right-hand one
MIN_AREA = 1e-9


class Tap(NamedTuple):
    """One pixel for each coordinate of an axis: its number (...) int64 and the offset (...) from it, unit as stated."""

    pixel: Tensor
    offset: Tensor


class Corner(NamedTuple):
    """One neighbour of each query: its row and column taps, which broadcast together, and its weight."""

    row: Tap
    column: Tap
    weight: Tensor


def pixel_centres(pixels: int, device: torch.device | None = None) -> Tensor:
    """(n,) float32 coordinates of the centres of n pixels."""
    index = torch.arange(pixels, dtype=torch.float64)
    return ((2 * index + 1) / pixels - 1).to(device, torch.float32)


def grid_coords(size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(H' W', 2) coordinates of all pixel centres, row by row."""
    axes = torch.meshgrid(pixel_centres(size[0], device), pixel_centres(size[1], device), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, 2)


def check_coords(coords: Tensor, cell: Tensor) -> None:
    """Refuse query coordinates and cells that are not both (B, Q, 2) in full precision.

    Raises:
        ValueError: with the shape or the dtype that was given.
    """
    for name, value in (("coords", coords), ("cell", cell)):
        if value.ndim != 3 or value.shape[-1] != 2:
            raise ValueError(f"{name} must be (B, Q, 2), got {tuple(value.shape)}")
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} must be float32, got {value.dtype}: half precision picks wrong pixels")
    if coords.shape != cell.shape:
        raise ValueError(f"every coordinate needs its cell, got {tuple(coords.shape)} and {tuple(cell.shape)}")


def nearest_index(coord: Tensor, pixels: int) -> Tensor:
    """Index of the nearest of n pixels for coordinates of one axis; ties to even, as grid_sample's `nearest`."""
    return ((coord + 1) * (pixels / 2) - 0.5).round().clamp(0, pixels - 1).long()


def nearest_tap(coord: Tensor, pixels: int, side: int) -> Tap:
    """The nearest pixel after a shift by half a pixel to one side.

    Args:
        coord: (...) coordinates of one axis.
        pixels: n, of the axis.
        side: -1 or +1 shifts by side / n + 1e-6; 0 does not shift.

    Returns:
        pixel, and offset = (coord - centre) n: a pixel is 2 wide. Near a border both sides give the border pixel.
    """
    shifted = coord + (side / pixels + NUDGE) if side else coord
    index = nearest_index(shifted.clamp(NUDGE - 1, 1 - NUDGE), pixels)
    centre = (2 * index + 1).to(coord.dtype) / pixels - 1
    return Tap(index, (coord - centre) * pixels)


def ensemble(rows: tuple[Tap, ...], columns: tuple[Tap, ...]) -> list[Corner]:
    """Local ensemble (LIIF, Eq. 4): corners in row-major order, each weighted by the opposite corner's area.

    Args:
        rows, columns: the taps of each axis from side -1 to +1, two or one; rows' tensors broadcast with columns'.

    Returns:
        4 corners, or 1 of weight 1; the weights of a query sum to 1.
    """
    mirrored = [(row, column) for row in reversed(rows) for column in reversed(columns)]
    areas = [(row.offset * column.offset).abs() + MIN_AREA for row, column in mirrored]
    total = torch.stack(areas).sum(0)
    pairs = [(row, column) for row in rows for column in columns]
    return [Corner(row, column, area / total) for (row, column), area in zip(pairs, areas, strict=True)]


def bilinear_at(image: Tensor, coords: Tensor) -> Tensor:
    """Bilinear samples (B, Q, C) of image (B, C, H, W) at coords (B, Q, 2); the border is repeated."""
    grid = coords.flip(-1)[:, None]
    sampled = F.grid_sample(image, grid.to(image.dtype), "bilinear", padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def cubic_weights(fraction: Tensor) -> Tensor:
    """(..., 4) weights of the pixels at -1, 0, 1, 2 for a position in [0, 1) between 0 and 1 (Keys 1981, a = -0.5)."""
    t = fraction
    outer_left = ((-0.5 * t + 1) * t - 0.5) * t
    inner_left = (1.5 * t - 2.5) * t * t + 1
    inner_right = ((-1.5 * t + 2) * t + 0.5) * t
    outer_right = (0.5 * t - 0.5) * t * t
    return torch.stack([outer_left, inner_left, inner_right, outer_right], dim=-1)


def cubic_taps(position: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """(..., 4) indices and weights for positions in pixels (0 is the first centre); the border is repeated."""
    floor = position.floor()
    index = floor.long()[..., None] + torch.arange(-1, 3, device=position.device)
    return index.clamp(0, pixels - 1), cubic_weights(position - floor)


def bicubic_at(image: Tensor, coords: Tensor) -> Tensor:
    """Bicubic samples (B, Q, C) of image (B, C, H, W) at coords (B, Q, 2): a = -0.5, border repeated, no antialiasing.

    What MATLAB's imresize does to enlarge (its older border, which repeats the edge), without rounding to 8 bits.
    """
    channels, height, width = image.shape[1:]
    row, row_weight = cubic_taps((coords[..., 0] + 1) * (height / 2) - 0.5, height)
    column, column_weight = cubic_taps((coords[..., 1] + 1) * (width / 2) - 0.5, width)
    index = (row[..., :, None] * width + column[..., None, :]).flatten(1)  # (B, 16 Q)
    values = image.flatten(2).gather(2, index[:, None].expand(-1, channels, -1)).unflatten(2, (-1, 16))
    weight = (row_weight[..., :, None] * column_weight[..., None, :]).flatten(2)
    return (values * weight[:, None].to(image.dtype)).sum(-1).transpose(1, 2)


def linear_taps(position: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """(..., 2) indices and weights for positions in pixels (0 is the first centre); the border is repeated."""
    floor = position.floor()
    index = floor.long()[..., None] + torch.arange(2, device=position.device)
    fraction = position - floor
    return index.clamp(0, pixels - 1), torch.stack([1 - fraction, fraction], dim=-1)


def bilinear_grid(image: Tensor, size: tuple[int, int], rows: slice = slice(None)) -> Tensor:
    """`bilinear_at` every pixel centre of an H' x W' grid, or of some of its rows: (B, C, H', W')."""
    return _enlarged(image, size, rows, linear_taps)


def bicubic_grid(image: Tensor, size: tuple[int, int], rows: slice = slice(None)) -> Tensor:
    """`bicubic_at` every pixel centre of an H' x W' grid, or of some of its rows: (B, C, H', W')."""
    return _enlarged(image, size, rows, cubic_taps)


def _enlarged(
    image: Tensor, size: tuple[int, int], rows: slice, taps: Callable[[Tensor, int], tuple[Tensor, Tensor]]
) -> Tensor:
    """One axis after the other."""
    for axis, pixels, chosen in ((2, size[0], rows), (3, size[1], slice(None))):
        have = image.shape[axis]
        # double precision: on an axis of 2000 pixels a float32 position is off by 1e-4 pixel
        position = (torch.arange(pixels, dtype=torch.float64)[chosen] + 0.5) * (have / pixels) - 0.5
        index, weight = taps(position, have)
        index, weight = index.to(image.device), weight.to(image.device, image.dtype)
        shape = (-1, 1) if axis == 2 else (-1,)
        total: Tensor | None = None
        for k in range(index.shape[1]):
            values, share = image.index_select(axis, index[:, k]), weight[:, k].view(shape)
            total = values.mul_(share) if total is None else total.addcmul_(values, share)
        assert total is not None
        image = total
    return image


def add_enlarged_(out: Tensor, image: Tensor, grid: Callable[[Tensor, tuple[int, int], slice], Tensor]) -> Tensor:
    """out (B, C, H', W') + `bilinear_grid` or `bicubic_grid` of an image, in place, some rows at a time."""
    size = (out.shape[-2], out.shape[-1])
    for rows in spans(0, size[0], 64):
        out[:, :, rows] += grid(image, size, rows)
    return out


def spans(start: int, stop: int, step: int) -> list[slice]:
    """[start, stop) cut into slices of at most `step`."""
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]
