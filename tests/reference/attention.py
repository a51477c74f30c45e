"""Attention in windows as Swin's and SwinIR's codes write it, instead of dynres.layers.attention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from dynres.layers.attention import WindowAttention
from dynres.layers.windows import shift_mask


def manual_attention(attention: WindowAttention, x: Tensor) -> Tensor:
    """(B, H, W, C) -> the same: windows of the rolled image, products, bias, mask, softmax, products."""
    batch, height, width, channels = x.shape
    window, heads = attention.window, attention.heads
    if attention.shift:
        x = torch.roll(x, (-attention.shift, -attention.shift), dims=(1, 2))
    rows, columns = height // window, width // window
    x = x.view(batch, rows, window, columns, window, channels).permute(0, 1, 3, 2, 4, 5)
    x = x.contiguous().view(-1, window * window, channels)
    qkv = attention.qkv(x).view(len(x), -1, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], _pooled(attention, qkv[1]), _pooled(attention, qkv[2])
    weights = (query * (channels // heads) ** -0.5) @ key.transpose(-2, -1)
    bias = attention.bias_table[attention.index.flatten()].view(*attention.index.shape, heads)
    weights = weights + bias.permute(2, 0, 1).contiguous()[None]
    if attention.shift:
        # made once a size in the authors' codes as well
        mask = _mask(rows, columns, window, attention.shift, x)
        weights = (weights.view(batch, len(mask), heads, *weights.shape[2:]) + mask[:, None]).view_as(weights)
    out = (torch.softmax(weights, dim=-1) @ value).transpose(1, 2).reshape(len(x), -1, channels)
    out = out.view(batch, rows, columns, window, window, channels).permute(0, 1, 3, 2, 4, 5).contiguous()
    out = out.view(batch, height, width, channels)
    if attention.shift:
        out = torch.roll(out, (attention.shift, attention.shift), dims=(1, 2))
    return out


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Within it every WindowAttention runs by hand."""
    fast = WindowAttention.forward
    WindowAttention.forward = manual_attention  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        WindowAttention.forward = fast  # type: ignore[method-assign]


_MASKS: dict[tuple[object, ...], Tensor] = {}


def _mask(rows: int, columns: int, window: int, shift: int, like: Tensor) -> Tensor:
    """(windows, N, N): 0 within a region of the rolled image, -100 between two."""
    key = (rows, columns, window, shift, like.dtype, like.device)
    if key not in _MASKS:
        together = [
            shift_mask(window, shift, row == rows - 1, column == columns - 1, like.device)
            for row in range(rows)
            for column in range(columns)
        ]
        _MASKS[key] = torch.stack(together).logical_not().to(like.dtype) * -100
    return _MASKS[key]


def _pooled(attention: WindowAttention, x: Tensor) -> Tensor:
    """(windows, heads, w*w, d) -> (windows, heads, d*d, d): the maximum over squares."""
    if attention.pooled == attention.window:
        return x
    step = attention.window // attention.pooled
    return x.unflatten(2, (attention.pooled, step, attention.pooled, step)).amax(dim=(3, 5)).flatten(2, 3)
