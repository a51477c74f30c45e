"""Multi-head self-attention inside windows, with relative position bias, cyclic shift and pooled keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dynres.layers import windows
from dynres.layers.pointwise import pieces
from dynres.layers.windows import Sides, kinds_of_windows


def initial_weights_(weights: Tensor) -> None:
    """As in Swin's code: a normal distribution of 0.02, cut off at 2. Nothing on the meta device, which takes long."""
    if not weights.is_meta:
        trunc_normal_(weights, std=0.02)


class WindowAttention(nn.Module):
    """Softmax attention of the queries of a w x w window to its keys, (B, H, W, C) -> (B, H, W, C) without projection.

    TADT, Fig. 4: with `pooled` = w this is local self-attention; with `pooled` = d < w, keys and values are reduced to
    d x d by max-pooling after the window partition (global self-attention). Swin's and SwinIR's is the local one.

    Args:
        channels: C, divisible by heads.
        heads: attention heads; the scale is (channels a head)^-1/2.
        window: w; H and W must be multiples of it.
        pooled: d, divides w.
        shift: cyclic shift of the windows in pixels, 0 for none; only without pooling.
        width: w', channels a head, C / heads by default; the result then has heads * w' channels.
    """

    index: Tensor

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        pooled: int | None = None,
        shift: int = 0,
        width: int | None = None,
    ) -> None:
        super().__init__()
        pooled = pooled or window
        if (width is None and channels % heads) or window % pooled or (shift and pooled != window):
            raise ValueError(
                f"window attention needs heads | channels, pooled | window and no shift with pooling, got "
                f"channels={channels}, heads={heads}, window={window}, pooled={pooled}, shift={shift}"
            )
        self.heads, self.window, self.pooled, self.shift = heads, window, pooled, shift
        self.width = width or channels // heads
        self.qkv = nn.Linear(channels, 3 * heads * self.width)
        index, rows = windows.relative_position_index(window, pooled)
        self.register_buffer("index", index, persistent=False)
        self.bias_table = nn.Parameter(torch.zeros(rows, heads))
        initial_weights_(self.bias_table)
        self._kept: tuple[tuple[object, ...], list[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return attend_in_windows(x, self._biases(), self.window, self.shift, self.pooled, self.qkv)

    def _biases(self) -> list[Tensor]:
        """What `attend_in_windows` takes; made once and kept while no gradient is asked for."""
        table = self.bias_table
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or table.is_inference():
            return masked_biases(position_bias(table, self.index), self.window, self.shift)
        state = (table.data_ptr(), table._version, table.dtype, table.device)
        if self._kept is None or self._kept[0] != state:
            self._kept = state, masked_biases(position_bias(table, self.index), self.window, self.shift)
        return self._kept[1]

    def train(self, mode: bool = True) -> WindowAttention:
        self._kept = None
        return super().train(mode)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Entries of a (rows, heads) table at an (N, M) index -> (heads, N, M)."""
    # index_select, not [...], whose gradient adds up in any order on several threads.
    return table.index_select(0, index.flatten()).view(*index.shape, -1).permute(2, 0, 1).contiguous()


def masked_biases(bias: Tensor, window: Sides, shift: Sides) -> list[Tensor]:
    """(1, heads, N, M) from (heads, N, M), for each of `kinds_of_windows`: -inf between opposite borders.

    One a kind instead of one a window: the full mask of a 2K image at w = 16 takes gigabytes.
    """
    return [
        bias.masked_fill(~windows.shift_mask(window, shift, *last, bias.device), float("-inf"))[None]
        if any(last)
        else bias[None]
        for last in kinds_of_windows(shift)
    ]


def attend_in_windows(
    x: Tensor,
    biases: Sequence[Tensor],
    window: Sides,
    shift: Sides = 0,
    pooled: int | None = None,
    qkv: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Attention of each window's queries to its keys, (B, H, W, C) or, without `qkv`, (B, H, W, 3C) -> (B, H, W, C).

    Args:
        x: tokens of whole windows.
        biases: `masked_biases`, added to the products; their heads divide C.
        window: h x w.
        shift: of the windows to the bottom and right, smaller than they are. The image is not continued over its
            borders: what the shift brings together there does not see each other.
        pooled: side to which keys and values of a square window are max-pooled, for unshifted windows.
        qkv: (..., C) -> (..., 3C) queries, keys and values; None if that is what x holds.
    """
    batch, height, width, _ = x.shape
    order = windows.window_order(batch, height, width, window, shift, x.device)
    tokens = windows.to_windows(x, order, window)
    parts = [
        _attend(some if qkv is None else qkv(some), bias, pooled)
        for kind, bias in zip(tokens.split(order.counts), biases, strict=True)
        for some in pieces(kind, tokens.shape[1])
        if len(some)
    ]
    out = torch.cat(parts) if len(parts) > 1 else parts[0]
    return windows.from_windows(out, order, (batch, height, width, out.shape[-1]))


def _attend(qkv: Tensor, bias: Tensor, pooled: int | None) -> Tensor:
    """Softmax attention inside windows of N tokens, (windows, N, 3C) -> (windows, N, C); bias (1, heads, N, M)."""
    query, key, value = qkv.chunk(3, dim=-1)
    if pooled is not None:
        key, value = (_pool(x, pooled) for x in (key, value))
    q, k, v = (x.unflatten(-1, (bias.shape[1], -1)).transpose(1, 2) for x in (query, key, value))
    # four axes of the bias, not three: on a CPU the fused kernel takes no other
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).transpose(1, 2)
    if torch.compiler.is_compiling():  # a graph must not rely on the order in memory that this kernel happens to leave
        out = out.clone(memory_format=torch.contiguous_format)
    return out.flatten(2)


def _pool(x: Tensor, pooled: int) -> Tensor:
    """(windows, w*w, C) -> (windows, d*d, C), the maximum over each (w/d) x (w/d) square."""
    step = math.isqrt(x.shape[1]) // pooled
    return x if step == 1 else x.unflatten(1, (pooled, step, pooled, step)).amax(dim=(2, 4)).flatten(1, 2)
