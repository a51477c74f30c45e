"""Galerkin-type attention (Cao, NeurIPS 2021), as the super-resolution neural operator uses it (SRNO, CVPR 2023).

q (k^T v) / N costs one product of k and v a head for all N queries, and one with it a query: linear in N. What a query
gets from the others is therefore a small matrix, its context; given that, all up to a block's GELU is one linear layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.pointwise import Pointwise
from dynres.layers.precision import full_precision
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

    @property
    def keys_values(self) -> tuple[Tensor, Tensor]:
        """Weight (2 width, width) and bias of the layer that gives keys and values, head by head."""
        return self._projection(slice(1, 3))

    def products(self, keys_values: Tensor) -> Tensor:
        """(B, heads, d, d) sum of k^T v over N queries, from (B, N, 2 width); divided by their number it is a context.

        In full precision under autocast too: it sums over millions of queries.
        """
        key, value = keys_values.unflatten(2, (self.heads, -1)).transpose(1, 2).chunk(2, dim=-1)
        with full_precision(key):
            precise = torch.promote_types(key.dtype, torch.float32)
            return self.kln(key.to(precise)).mT @ self.vln(value.to(precise))

    def mixing(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (B, width, width) and bias (B, width) of all that comes before the block's GELU, given its context.

        o_proj1(q context + x), with q linear in x, is one layer.
        """
        weight, bias = self._projection(slice(0, 1))
        with full_precision(context):
            heads = (self.heads, self.head_width)
            attended = (context.mT @ weight.unflatten(0, heads)).flatten(1, 2)
            constant = (context.mT @ bias.unflatten(0, heads)[..., None]).flatten(1)
            out = self.o_proj1.weight.flatten(1)
            return out @ attended + out, constant @ out.t() + self.o_proj1.bias

    def forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        """(B, N, width) -> the same, given what the layer of `mixing` makes of x."""
        return self.o_proj2(F.gelu(mixed)) + x

    def _projection(self, which: slice) -> tuple[Tensor, Tensor]:
        """Weight and bias of some of query, key and value, which the projection has head by head in this order."""
        assert self.qkv_proj.bias is not None
        weight = self.qkv_proj.weight.view(self.heads, 3, self.head_width, -1)[:, which].flatten(0, 2)
        return weight, self.qkv_proj.bias.view(self.heads, 3, self.head_width)[:, which].flatten()
