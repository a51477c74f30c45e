"""The multi-layer perceptron of the implicit upsamplers; keys `layers.0`, `layers.2`, ... as in LIIF's code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.pointwise import linear_relu


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers, at least one.
        out_features: width of the output.

    Raises:
        ValueError: if there is no hidden layer or a width is below 1.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        if len(widths) < 3 or min(widths) < 1:
            raise ValueError(f"an MLP needs a hidden layer and widths of at least 1, got widths {widths}")
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*modules[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.last(self.hidden(self.first(x)))

    @property
    def first(self) -> nn.Linear:
        """The layer that sees the input; its linearity lets a caller push the input through piece by piece."""
        layer = self.layers[0]
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the output; its linearity lets a caller blend what it sees instead of what it gives."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def before_last(self, x: Tensor) -> Tensor:
        """What `last` sees, from the network's input."""
        return self._rest(linear_relu(x, self.first.weight, self.first.bias))

    def hidden(self, x: Tensor) -> Tensor:
        """What `last` sees, from what `first` gives; `x` is overwritten."""
        return self._rest(F.relu_(x))

    def _rest(self, x: Tensor) -> Tensor:
        for layer in list(self.layers)[2:-1]:
            if isinstance(layer, nn.Linear):  # with the ReLU that follows
                x = linear_relu(x, layer.weight, layer.bias)
        return x

    @property
    def hidden_macs(self) -> int:
        """MACs of `hidden` for one input."""
        return sum(layer.weight.numel() for layer in list(self.layers)[2:-1] if isinstance(layer, nn.Linear))
