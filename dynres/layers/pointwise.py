"""Maps of the last axis: a linear one that is stored as its authors' 1x1 convolution, and long ones in pieces."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Linear):
    """(..., in) -> (..., out), with a weight of shape (out, in, 1, 1): heads that were written for grids of queries."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


CACHED = 1024  # tokens whose hidden values stay in a CPU's cache: half the time of all at once


def pieces(x: Tensor, tokens: int = 1) -> tuple[Tensor, ...]:
    """(N, ...) in pieces to be worked on one after the other; each of the N holds so many tokens.

    One piece where it makes no difference (on a GPU) or where a graph would repeat what is done to each.
    """
    whole = x.device.type != "cpu" or len(x) * tokens <= CACHED or torch.compiler.is_compiling()
    return (x,) if whole else x.split(max(1, CACHED // tokens))


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of tokens (N, C) -> (N, C'), of x (..., C), a cache full at a time."""
    parts = [function(some) for some in pieces(x.flatten(0, -2))]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).unflatten(0, x.shape[:-1])
