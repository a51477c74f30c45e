"""A linear map of the last axis, stored as its authors' 1x1 convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Linear):
    """(..., in) -> (..., out), with a weight of shape (out, in, 1, 1): heads that were written for grids of queries."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)
