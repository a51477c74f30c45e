"""Windows of an image: cutting, merging, padding, shift masks and relative positions. Tokens are (B, H, W, C).

Windows, and shifts of them, are one number for both axes or a pair (rows, columns).
"""

from __future__ import annotations

import torch
from torch import Tensor

Sides = int | tuple[int, int]


def sides(window: Sides) -> tuple[int, int]:
    """(rows, columns) of a window or of a shift."""
    return (window, window) if isinstance(window, int) else window


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return image.permute(0, 2, 3, 1)


def to_image(tokens: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), in channels-last memory: no copy."""
    return tokens.permute(0, 3, 1, 2)


def partition(x: Tensor, window: Sides) -> Tensor:
    """(B, H, W, C) -> (B, H/h, W/w, h*w, C): the tokens of each h x w window, row by row. h divides H, and w W."""
    batch, height, width, channels = x.shape
    h, w = sides(window)
    x = x.view(batch, height // h, h, width // w, w, channels).transpose(2, 3)
    return x.reshape(batch, height // h, width // w, h * w, channels)


def merge(windows: Tensor, window: Sides) -> Tensor:
    """Inverse of `partition`: (B, H/h, W/w, h*w, C) -> (B, H, W, C)."""
    batch, rows, columns, _, channels = windows.shape
    h, w = sides(window)
    x = windows.view(batch, rows, columns, h, w, channels).transpose(2, 3)
    return x.reshape(batch, rows * h, columns * w, channels)


def relative_position_index(
    window: Sides, pooled: Sides | None = None, device: torch.device | None = None
) -> tuple[Tensor, int]:
    """Row of the bias table for each (query, key) pair of a window, and the number of rows.

    Queries stand at 0 ... w - 1 on each axis, keys at 0, p, 2p ... with p = w / pooled; p = 1 is plain self-attention.
    Their offset takes w + (pooled - 1) p values on an axis: 2w - 1 without pooling, 92 for w = 48 pooled to 12.
    Rows of the table go by the vertical offset, then by the horizontal one, each from the least.

    Returns:
        index (h*w, pooled h * pooled w) int64, and the number of table rows.
    """
    (height, width), (keys_down, keys_right) = sides(window), sides(pooled or window)
    down, rows = _offset_index(height, keys_down, device)
    right, columns = _offset_index(width, keys_right, device)
    index = down[:, None, :, None] * columns + right[None, :, None, :]
    return index.flatten(2).flatten(0, 1), rows * columns


def _offset_index(side: int, pooled: int, device: torch.device | None) -> tuple[Tensor, int]:
    """(side, pooled) numbers of the offsets of one axis, from 0, and how many there are."""
    step = side // pooled
    reach = (pooled - 1) * step
    query, key = torch.arange(side, device=device), step * torch.arange(pooled, device=device)
    return query[:, None] - key[None, :] + reach, side + reach


def relative_offsets(window: Sides, device: torch.device | None = None) -> Tensor:
    """((2h - 1)(2w - 1), 2) float32 offsets (down, right) of a query from a key, in the order of the table's rows."""
    axes = (torch.arange(1 - side, side, dtype=torch.float32, device=device) for side in sides(window))
    return torch.cartesian_prod(*axes)


def shift_mask(
    window: Sides, shift: Sides, last_row: bool, last_column: bool, device: torch.device | None = None
) -> Tensor:
    """(h*w, h*w) bool, True where two tokens of a window of the rolled image were neighbours before the roll.

    Only the windows of the last row and of the last column hold tokens from opposite borders of the image.
    """
    (height, width), (down, right) = sides(window), sides(shift)
    rows = _together(height, down if last_row else 0, device)
    columns = _together(width, right if last_column else 0, device)
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _together(side: int, shift: int, device: torch.device | None) -> Tensor:
    """(side, side) bool of one axis: which positions come from the same border, if `shift` are from the other."""
    carried = torch.arange(side, device=device) >= side - shift
    return carried[:, None] == carried[None, :]


def pad_to_multiple(image: Tensor, multiple: int, repeat_edge: bool = False) -> Tensor:
    """Pad (B, C, H, W) at the bottom and right to a multiple by reflection; any size >= 1.

    Args:
        repeat_edge: the edge pixel comes again as the first of the reflection (a b c c b a), instead of a b c b a.
    """
    height, width = image.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return image
    rows = _reflected(height, -(-height // multiple) * multiple, repeat_edge, image.device)
    columns = _reflected(width, -(-width // multiple) * multiple, repeat_edge, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def _reflected(size: int, padded: int, repeat_edge: bool, device: torch.device) -> Tensor:
    """Indices of length `padded` that go 0 ... size-1, back to 0, and so on: reflection, as often as it takes."""
    last = 2 * size - 1 if repeat_edge else 2 * (size - 1)  # what an index and its mirror image add up to
    position = torch.arange(padded, device=device) % max(last + repeat_edge, 1)
    return torch.minimum(position, last - position)
