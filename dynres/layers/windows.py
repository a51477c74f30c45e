"""Windows of an image: cutting, merging, padding, shift masks and relative positions. Tokens are (B, H, W, C).

Windows, and shifts of them, are one number for both axes or a pair (rows, columns).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Order(NamedTuple):
    """The tokens of a batch of images, window after window, those of one kind together.

    Windows are of up to four kinds, by whether they lie in the last row and in the last column of the rolled image:
    only those hold tokens from opposite borders, which must not see each other.

    Attributes:
        tokens: (B H W,) which token stands at each place; None where it is the place's own.
        places: (B H W,) its inverse.
        counts: windows of each kind, in the order of `kinds_of_windows`.
    """

    tokens: Tensor | None
    places: Tensor | None
    counts: tuple[int, ...]


def kinds_of_windows(shift: Sides) -> list[tuple[bool, bool]]:
    """(last row, last column) of each kind of window; one kind where nothing is shifted."""
    down, right = sides(shift)
    return [
        (row, column)
        for row in ([False, True] if down else [False])
        for column in ([False, True] if right else [False])
    ]


def window_order(batch: int, height: int, width: int, window: Sides, shift: Sides, device: torch.device) -> Order:
    """Made once a size and kept. The window's sides divide height and width, and are larger than the shift's."""
    make = _window_order.__wrapped__ if torch.compiler.is_compiling() else _window_order
    return make(batch, height, width, sides(window), sides(shift), device)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # so that training may use what was made while testing
def _window_order(
    batch: int, height: int, width: int, window: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> Order:
    (h, w), (down, right) = window, shift
    grid = torch.arange(height * width, device=device).view(height, width).roll((-down, -right), dims=(0, 1))
    windows = grid.view(height // h, h, width // w, w).transpose(1, 2)
    rows, columns = (
        [slice(0, count - 1), slice(count - 1, count)] if moved else [slice(0, count)]
        for count, moved in zip(windows.shape[:2], shift, strict=True)
    )
    kinds = [windows[row, column].flatten() for row in rows for column in columns]
    counts = tuple(batch * len(kind) // (h * w) for kind in kinds)
    if not any(shift) and (height, width) == window:
        return Order(None, None, counts)
    image = torch.arange(batch, device=device)[:, None] * (height * width)
    tokens = torch.cat([(image + kind).flatten() for kind in kinds])
    return Order(tokens.int(), tokens.argsort().int(), counts)


class Reordered(torch.autograd.Function):
    """x[order], of rows; the gradient goes back through the inverse, also by lookup."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


def to_windows(x: Tensor, order: Order, window: Sides) -> Tensor:
    """(B, H, W, C) -> (windows, h*w, C): the tokens of each h x w window, row by row."""
    h, w = sides(window)
    tokens = x.reshape(-1, x.shape[-1])
    if order.tokens is not None:
        tokens = Reordered.apply(tokens, order.tokens, order.places)
    return tokens.view(-1, h * w, x.shape[-1])


def from_windows(windows: Tensor, order: Order, shape: Sequence[int]) -> Tensor:
    """The way back, to (B, H, W, C)."""
    tokens = windows.reshape(-1, windows.shape[-1])
    if order.tokens is not None:
        tokens = Reordered.apply(tokens, order.places, order.tokens)
    return tokens.view(*shape)


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
    return ~(carried[:, None] ^ carried[None, :])  # torch's compiler cannot compare truth values for a CPU


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
