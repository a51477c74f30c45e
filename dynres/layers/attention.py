"""Multi-head self-attention inside windows, with relative position bias, cyclic shift and pooled keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dynres.layers import windows


class WindowAttention(nn.Module):
    """Softmax attention of the queries of a w x w window to its keys, (B, H, W, C) -> (B, H, W, C) without projection.

    TADT, Fig. 4: with `pooled` = w this is local self-attention; with `pooled` = d < w, keys and values are reduced to
    d x d by max-pooling after the window partition (global self-attention).

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
        qkv = self.qkv(x)
        if self.shift:
            qkv = qkv.roll((-self.shift, -self.shift), dims=(1, 2))
        query, key, value = windows.partition(qkv, self.window).chunk(3, dim=-1)
        # index_select, not [...], whose gradient adds up in any order on several threads.
        bias = self.bias_table.index_select(0, self.index.flatten())
        bias = bias.view(*self.index.shape, self.heads).permute(2, 0, 1)
        if self.shift:
            out = self._attend_shifted(query, key, value, bias)
            return windows.merge(out, self.window).roll((self.shift, self.shift), dims=(1, 2))
        return windows.merge(self._attend(query, self._pool(key), self._pool(value), bias), self.window)

    def _pool(self, x: Tensor) -> Tensor:
        """(B, rows, columns, w*w, C) -> (B, rows, columns, d*d, C), the maximum over each (w/d) x (w/d) square."""
        if self.pooled == self.window:
            return x
        step = self.window // self.pooled
        x = x.unflatten(3, (self.pooled, step, self.pooled, step)).amax(dim=(4, 6))
        return x.flatten(3, 4)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Softmax attention of (B, rows, columns, N, C) queries to M keys, with an additive (heads, N, M) bias."""
        grid = query.shape[:3]
        q, k, v = (t.flatten(0, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return out.transpose(1, 2).flatten(2).unflatten(0, grid)

    def _attend_shifted(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """`_attend` under the shift mask: four kinds of window (inner, last row, last column, corner), a call each.

        One (heads, N, N) bias a kind instead of one a window: the full mask of a 2K image at w = 16 takes gigabytes.
        """
        rows = []
        for row, last_row in _spans(query.shape[1]):
            columns = []
            for column, last_column in _spans(query.shape[2]):
                area = (slice(None), row, column)
                near = windows.shift_mask(self.window, self.shift, last_row, last_column).to(bias.device)
                masked = bias.masked_fill(~near, float("-inf")) if last_row or last_column else bias
                columns.append(self._attend(query[area], key[area], value[area], masked))
            rows.append(torch.cat(columns, dim=2))
        return torch.cat(rows, dim=1)


def _spans(count: int) -> list[tuple[slice, bool]]:
    """The windows of an axis as (all but the last, False) and (the last, True); the first is left out when empty."""
    last = (slice(count - 1, count), True)
    return [(slice(0, count - 1), False), last] if count > 1 else [last]
