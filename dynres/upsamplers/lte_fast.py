"""LTE-fast: the authors' second form of LTE (Lee & Jin, CVPR 2022), written for whole grids of queries.

The same function with other weights: the channels of `freq` are cut in halves, and the MLP is a stack of 1x1
convolutions. Keys match the authors' `coef`, `freq`, `phase` and `layers.*`; equal to their code within 2e-5 of the
largest output (tests/golden). Neither form is faster here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from dynres.layers.pointwise import Pointwise, linear_relu
from dynres.upsamplers.lte import TextureEstimator


class LTEFast(TextureEstimator):
    """LTE with the frequencies of rows in the first half of `freq`'s channels and those of columns in the second."""

    def __init__(self, in_channels: int, hidden_dim: int = 256, layers: int = 3) -> None:
        super().__init__(in_channels, hidden_dim, layers)
        modules: list[nn.Module] = []
        for before, after in pairwise([hidden_dim] * (layers + 1) + [3]):
            modules += [Pointwise(before, after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*modules[:-1])

    @staticmethod
    def by_axis(frequencies: Tensor) -> Sequence[Tensor]:
        return frequencies.chunk(2)

    def mixed(self, texture: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            if isinstance(layer, Pointwise):  # with the ReLU that follows
                texture = linear_relu(texture, layer.weight.flatten(1), layer.bias)
        return texture

    @property
    def hidden_macs(self) -> int:
        return sum(layer.weight.numel() for layer in list(self.layers)[:-1] if isinstance(layer, Pointwise))

    @property
    def last(self) -> nn.Linear:
        layer = self.layers[-1]
        assert isinstance(layer, Pointwise)
        return layer
