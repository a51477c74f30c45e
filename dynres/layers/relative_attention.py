"""Multi-head self-attention over an image with relative positions (Bello et al., "Attention Augmented Convolutional
Networks", ICCV 2019, Sec. 3.1-3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.cross_layer_dense import from_heads, queries_at_once, recomputed, to_heads
from dynres.layers.precision import full_precision
from dynres.layers.widths import check_widths


class RelativeAttention(nn.Module):
    """x + out(attention), every pixel to every pixel, with 1x1 convolutions C -> C, (B, C, H, W) -> the same.

    The score of query i and key j of a head of d channels is q_i . (k_j + r_W[j_x - i_x] + r_H[j_y - i_y]) / sqrt(d)
    (Eq. 3); heads share r_W and r_H, as in the paper. Distances beyond `reach` count as `reach`, so that images may be
    of any size. `out` begins at zero, so that the module begins as the identity. Memory grows with the pixels, not
    with their pairs, in training too; under autocast scores and sums stay in full precision.

    Args:
        channels: C.
        heads: attention heads; they divide C.
        reach: the largest distance in pixels that has an embedding of its own, along each axis; 47 covers 48 x 48.

    Raises:
        ValueError: a size below 1, or heads that do not divide the channels.
    """

    def __init__(self, channels: int, heads: int, reach: int = 47) -> None:
        super().__init__()
        check_widths("relative attention", channels=channels, heads=heads, reach=reach)
        if channels % heads:
            raise ValueError(f"relative attention needs heads that divide channels={channels}, got {heads}")
        self.heads, width = heads, channels // heads
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.r_W, self.r_H = (nn.Parameter(torch.randn(2 * reach + 1, width) / math.sqrt(width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (to_heads(conv(x), self.heads) for conv in (self.q, self.k, self.v))
        pixels = torch.arange(query.shape[2], device=x.device)
        step = queries_at_once(query, key)
        with full_precision(x):
            parts = [
                recomputed(_attend, some, places, key, value, self.r_W, self.r_H, *x.shape[-2:])
                for some, places in zip(query.split(step, dim=2), pixels.split(step), strict=True)
            ]
        return x + self.out(from_heads(torch.cat(parts, dim=2), x))


def _attend(
    query: Tensor, pixels: Tensor, key: Tensor, value: Tensor, r_W: Tensor, r_H: Tensor, height: int, width: int
) -> Tensor:
    """Attention of n queries (B, heads, n, d), the (n,) pixels of an image, to all its keys and values."""
    query = query / math.sqrt(query.shape[-1])
    # In place and in this shape, by query and key: the one table over pairs of pixels beside the scores.
    bias = _along_axis(query, r_W, pixels % width, width).repeat(1, 1, 1, height)
    bias.unflatten(3, (height, width)).add_(_along_axis(query, r_H, pixels // width, height)[..., None])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)


def _along_axis(query: Tensor, embeddings: Tensor, places: Tensor, side: int) -> Tensor:
    """(B, heads, n, side) products of queries at n places of an axis with the embedding of each place's distance."""
    reach = len(embeddings) // 2
    distance = torch.arange(side, device=places.device) - places[:, None]
    index = distance.clamp(-reach, reach) + reach
    products = query @ embeddings.to(query.dtype).t()
    return products.gather(3, index.expand(*query.shape[:2], -1, -1))
