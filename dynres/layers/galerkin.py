"""Galerkin-type attention (Cao, NeurIPS 2021), as the super-resolution neural operator uses it (SRNO, CVPR 2023).

q (k^T v) / N costs one product of k and v a head for all N queries, and one with it a query: linear in N. What a query
gets from the others is therefore a small matrix, its context.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.pointwise import Pointwise
from dynres.layers.widths import check_widths

EPSILON = 1e-5


class HeadNorm(nn.Module):
    """(x - mean) / (std + 1e-5) over the d channels of a head, with the unbiased std; scale and shift by head."""

    def __init__(self, heads: int, head_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, head_width))
        self.bias = nn.Parameter(torch.zeros(heads, 1, head_width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, N, d) -> the same."""
        channels = x.shape[-1]
        centred = x - x.sum(dim=-1, keepdim=True) / channels
        # torch.std takes six times as long over so few channels
        std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(channels - 1)
        return centred / (std + EPSILON) * self.weight + self.bias


class GalerkinBlock(nn.Module):
    """Attention under a skip, two 1x1 layers under a second skip from the block's input.

    Args:
        width: channels.
        heads: of width / heads channels each.

    Raises:
        ValueError: if a size is below 1, or heads do not divide width into 2 channels or more.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_widths("GalerkinBlock", width=width, heads=heads)
        if width % heads or width == heads:
            raise ValueError(
                f"a Galerkin block needs heads of 2 channels or more each, got width {width}, {heads} heads"
            )
        self.heads, self.head_width = heads, width // heads
        self.qkv_proj = Pointwise(width, 3 * width)
        self.o_proj1 = Pointwise(width, width)
        self.o_proj2 = Pointwise(width, width)
        self.kln = HeadNorm(heads, self.head_width)
        self.vln = HeadNorm(heads, self.head_width)

    def context(self, x: Tensor) -> Tensor:
        """(B, heads, d, d) sum of k^T v over the N queries of x (B, N, width); divided by their number it is a mean.

        In full precision under autocast too: it sums over millions of queries.
        """
        key, value = self._projected(x, slice(1, 3)).chunk(2, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            precise = torch.promote_types(key.dtype, torch.float32)
            return self.kln(key.to(precise)).mT @ self.vln(value.to(precise))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, width) -> the same, given the mean of k^T v over all queries."""
        query = self._projected(x, slice(0, 1))
        attended = (query @ context.to(query.dtype)).transpose(1, 2).flatten(2) + x
        return self.o_proj2(F.gelu(self.o_proj1(attended))) + x

    def macs(self) -> tuple[int, int]:
        """MACs of `context` and of `forward` for one query."""
        square, product = self.o_proj1.weight.numel(), self.o_proj1.in_features * self.head_width
        return 2 * square + product, 3 * square + product

    def _projected(self, x: Tensor, which: slice) -> Tensor:
        """(B, heads, N, n d): some n of query, key and value, which the projection has head by head in this order."""
        assert self.qkv_proj.bias is not None
        weight = self.qkv_proj.weight.view(self.heads, 3, self.head_width, -1)[:, which].flatten(0, 2)
        bias = self.qkv_proj.bias.view(self.heads, 3, self.head_width)[:, which].flatten()
        return F.linear(x, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
