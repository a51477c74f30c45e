"""Maps of the last axis: a linear one that is stored as its authors' 1x1 convolution, and long ones in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula


class Pointwise(nn.Linear):
    """(..., in) -> (..., out), with a weight of shape (out, in, 1, 1): heads that were written for grids of queries."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


# oneDNN's linear layer with its ReLU inside, which torch's own compiler calls; a tenth faster than two kernels.
FUSED = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

if FUSED is not None:

    @register_flop_formula(FUSED)
    def _fused_flops(x_shape: list[int], w_shape: list[int], *args: object, **kwargs: object) -> int:
        return 2 * math.prod(x_shape) * w_shape[0]


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """max(x W^T + b, 0) of x (N, C): one kernel on a CPU while no gradient is asked for, else two."""
    if FUSED is None or x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.relu_(F.linear(x, weight, bias))
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype not in (torch.float32, torch.bfloat16):
        return F.relu_(F.linear(x, weight, bias))
    return FUSED(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), "relu", [], "")


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
