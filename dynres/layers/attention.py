"""Multi-head self-attention inside windows, with relative position bias, cyclic shift and pooled keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dynres.layers import windows
from dynres.layers.windows import Sides, sides


class WindowAttention(nn.Module):
    """Softmax attention of the queries of a w x w window to its keys, (B, H, W, C) -> (B, H, W, C) without projection.

    TADT, Fig. 4: with `pooled` = w this is local self-attention; with `pooled` = d < w, keys and values are reduced to
    d x d by max-pooling after the window partition (global self-attention). Swin's and SwinIR's is the local one.

    Args:
        channels: C, divisible by heads.
        heads: attention heads; the scale is (C / heads)^-1/2.
        window: w; H and W must be multiples of it.
        pooled: d, divides w.
        shift: cyclic shift of the windows in pixels, 0 for none; only without pooling.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int, pooled: int | None = None, shift: int = 0) -> None:
        super().__init__()
        pooled = pooled or window
        if channels % heads or window % pooled or (shift and pooled != window):
            raise ValueError(
                f"window attention needs heads | channels, pooled | window and no shift with pooling, got "
                f"channels={channels}, heads={heads}, window={window}, pooled={pooled}, shift={shift}"
            )
        self.heads, self.window, self.pooled, self.shift = heads, window, pooled, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        index, rows = windows.relative_position_index(window, pooled)
        self.register_buffer("index", index, persistent=False)
        self.bias_table = nn.Parameter(torch.zeros(rows, heads))
        trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        bias = position_bias(self.bias_table, self.index)
        return attend_in_windows(self.qkv(x), bias, self.window, self.shift, self.pooled)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Entries of a (rows, heads) table at an (N, M) index -> (heads, N, M)."""
    # index_select, not [...], whose gradient adds up in any order on several threads.
    return table.index_select(0, index.flatten()).view(*index.shape, -1).permute(2, 0, 1)


def attend_in_windows(qkv: Tensor, bias: Tensor, window: Sides, shift: Sides = 0, pooled: int | None = None) -> Tensor:
    """Attention of each window's queries to its keys, (B, H, W, 3C) -> (B, H, W, C).

    Args:
        qkv: queries, keys and values, C channels each, of whole windows.
        bias: (heads, h*w, keys), added to the products; its heads divide C.
        window: h x w.
        shift: of the windows to the bottom and right, smaller than they are. The image is not continued over its
            borders: what the shift brings together there does not see each other.
        pooled: side to which keys and values of a square window are max-pooled, for unshifted windows.
    """
    shifts = sides(shift)
    if any(shifts):
        qkv = qkv.roll((-shifts[0], -shifts[1]), dims=(1, 2))
    query, key, value = windows.partition(qkv, window).chunk(3, dim=-1)
    if any(shifts):
        out = _attend_shifted(query, key, value, bias, sides(window), shifts)
        return windows.merge(out, window).roll(shifts, dims=(1, 2))
    if pooled is not None:
        key, value = (_pool(x, sides(window)[0], pooled) for x in (key, value))
    return windows.merge(_attend(query, key, value, bias), window)


def _pool(x: Tensor, window: int, pooled: int) -> Tensor:
    """(B, rows, columns, w*w, C) -> (B, rows, columns, d*d, C), the maximum over each (w/d) x (w/d) square."""
    if pooled == window:
        return x
    step = window // pooled
    return x.unflatten(3, (pooled, step, pooled, step)).amax(dim=(4, 6)).flatten(3, 4)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention of (B, rows, columns, N, C) queries to M keys, with an additive (heads, N, M) bias."""
    grid, heads = query.shape[:3], len(bias)
    q, k, v = (t.flatten(0, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    return out.transpose(1, 2).flatten(2).unflatten(0, grid)


def _attend_shifted(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window: tuple[int, int], shift: tuple[int, int]
) -> Tensor:
    """`_attend` under the shift mask: four kinds of window (inner, last row, last column, corner), a call each.

    One (heads, N, N) bias a kind instead of one a window: the full mask of a 2K image at w = 16 takes gigabytes.
    """
    rows = []
    for row, last_row in _spans(query.shape[1], shift[0]):
        columns = []
        for column, last_column in _spans(query.shape[2], shift[1]):
            area = (slice(None), row, column)
            near = windows.shift_mask(window, shift, last_row, last_column, bias.device)
            masked = bias.masked_fill(~near, float("-inf")) if last_row or last_column else bias
            columns.append(_attend(query[area], key[area], value[area], masked))
        rows.append(torch.cat(columns, dim=2))
    return torch.cat(rows, dim=1)


def _spans(count: int, shift: int) -> list[tuple[slice, bool]]:
    """The windows of an axis as (all but the last, False) and (the last, True), or as one if it is not shifted."""
    if not shift:
        return [(slice(0, count), False)]
    last = (slice(count - 1, count), True)
    return [(slice(0, count - 1), False), last] if count > 1 else [last]
