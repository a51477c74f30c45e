"""Windows of an image: cutting, merging, padding, shift masks and relative positions. Tokens are (B, H, W, C)."""

from __future__ import annotations

import torch
from torch import Tensor


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B, H/w, W/w, w*w, C): the tokens of each w x w window, row by row. w must divide H and W."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels).transpose(2, 3)
    return x.reshape(batch, height // window, width // window, window * window, channels)


def merge(windows: Tensor, window: int) -> Tensor:
    """Inverse of `partition`: (B, H/w, W/w, w*w, C) -> (B, H, W, C)."""
    batch, rows, columns, _, channels = windows.shape
    x = windows.view(batch, rows, columns, window, window, channels).transpose(2, 3)
    return x.reshape(batch, rows * window, columns * window, channels)


def relative_position_index(window: int, pooled: int) -> tuple[Tensor, int]:
    """Row of the bias table for each (query, key) pair of a window, and the number of rows.

    Queries stand at 0 ... w - 1 on each axis, keys at 0, p, 2p ... with p = w / pooled; p = 1 is plain self-attention.
    Their offset takes w + (pooled - 1) p values on an axis: 2w - 1 without pooling, 92 for w = 48 pooled to 12.

    Returns:
        index (w*w, pooled*pooled) int64, and the number of table rows.
    """
    step = window // pooled
    reach = (pooled - 1) * step
    offset = torch.arange(window)[:, None] - step * torch.arange(pooled)[None, :] + reach
    values = window + reach
    index = offset[:, None, :, None] * values + offset[None, :, None, :]
    return index.reshape(window * window, pooled * pooled), values * values


def shift_mask(window: int, shift: int, last_row: bool, last_column: bool) -> Tensor:
    """(w*w, w*w) bool, True where two tokens of a window of the rolled image were neighbours before the roll.

    Only the windows of the last row and of the last column hold tokens from opposite borders of the image.
    """
    side = torch.arange(window) >= window - shift
    same = side[:, None] == side[None, :]
    anything = torch.ones(window, window, dtype=torch.bool)
    rows = same if last_row else anything
    columns = same if last_column else anything
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(window * window, window * window)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) at the bottom and right to a multiple by reflection, edge pixel not repeated; any size >= 1."""
    height, width = image.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return image
    rows = _reflected(height, -(-height // multiple) * multiple, image.device)
    columns = _reflected(width, -(-width // multiple) * multiple, image.device)
    return image[..., rows, :][..., columns]


def _reflected(size: int, padded: int, device: torch.device) -> Tensor:
    """Indices 0 ... size-1, size-2 ... 0, 1 ... of length `padded`: reflection, repeated as often as it takes."""
    period = max(2 * (size - 1), 1)
    position = torch.arange(padded, device=device) % period
    return torch.minimum(position, period - position) if size > 1 else torch.zeros_like(position)
