"""LTE: local texture estimator for implicit representation function (Lee & Jin, CVPR 2022).

Keys match the authors' `coef`, `freq`, `phase` and `imnet.*`; equal to their code within 2e-5 of the largest output
(tests/golden).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.mlp import MLP
from dynres.layers.precision import full_precision
from dynres.layers.sampling import Corner, nearest_tap
from dynres.layers.widths import check_widths
from dynres.upsamplers.implicit import CornerUpsampler, Taps


class TextureEstimator(CornerUpsampler):
    """Amplitudes, frequencies and phases estimated from features and cell, decoded by an MLP, + the bilinear image.

    Args:
        in_channels: C, of the features.
        hidden_dim: width of the texture estimate (half cosines, half sines) and of the MLP.
        layers: hidden layers of the MLP.

    Raises:
        ValueError: if a width or the number of layers is below 1, or hidden_dim is odd.
    """

    adds_image = True
    trained_scale = 4.0  # the largest scale of the authors' training
    lifted_pixels = 4096

    def __init__(self, in_channels: int, hidden_dim: int = 256, layers: int = 3) -> None:
        super().__init__()
        name = type(self).__name__
        check_widths(name, in_channels=in_channels, hidden_dim=hidden_dim, layers=layers)
        if hidden_dim % 2:
            raise ValueError(f"{name} needs an even hidden_dim (half cosines, half sines), got {hidden_dim}")
        self.coef = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)

    @staticmethod
    @abstractmethod
    def by_axis(frequencies: Tensor) -> Sequence[Tensor]:
        """The entries of `freq`'s weight or bias for rows, and those for columns."""

    @abstractmethod
    def mixed(self, texture: Tensor) -> Tensor:
        """(N, hidden_dim) -> (N, hidden_dim): the MLP without its last layer."""

    @property
    @abstractmethod
    def hidden_macs(self) -> int:
        """MACs of `mixed` for one query."""

    def lift(self, features: Tensor) -> Tensor:
        """(B, 2 hidden_dim, h, W): amplitudes, then pi times the frequencies of rows, then of columns.

        In full precision under autocast too: a frequency is multiplied by the distance, and a rounded one is another.
        """
        assert self.coef.bias is not None and self.freq.bias is not None
        weight = torch.cat([self.coef.weight, *(math.pi * part for part in self.by_axis(self.freq.weight))])
        bias = torch.cat([self.coef.bias, *(math.pi * part for part in self.by_axis(self.freq.bias))])
        with full_precision(features):
            return F.conv2d(features.to(weight.dtype), weight, bias, padding=(0, 1))

    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        return tuple(nearest_tap(coord, pixels, side) for side in (-1, 1))

    def hidden(self, values: Tensor, corner: Corner, cell: Tensor) -> Tensor:
        half = len(self.phase.weight)
        amplitude, down, right = values.split([2 * half, half, half], dim=-1)
        angle = (down * corner.row.offset[..., None]).addcmul_(right, corner.column.offset[..., None]).flatten(0, -2)
        phase = cell[:, :1] * self.phase.weight[:, 0] + cell[:, 1:] * self.phase.weight[:, 1]
        angle = angle.add_(math.pi * phase)
        return self.mixed(torch.cat([angle.cos(), angle.sin()], dim=1) * amplitude.flatten(0, -2))

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs of the form that runs: features lifted once a low-resolution pixel, colours once an output pixel."""
        lift = self.coef.weight.numel() + self.freq.weight.numel()
        return height * width * lift + size[0] * size[1] * (4 * self.hidden_macs + self.last.weight.numel())


class LTE(TextureEstimator):
    """The network of the paper: frequencies of rows and columns alternate in `freq`'s channels."""

    def __init__(self, in_channels: int, hidden_dim: int = 256, layers: int = 3) -> None:
        super().__init__(in_channels, hidden_dim, layers)
        self.imnet = MLP(hidden_dim, [hidden_dim] * layers, 3)

    @staticmethod
    def by_axis(frequencies: Tensor) -> Sequence[Tensor]:
        return frequencies[0::2], frequencies[1::2]

    def mixed(self, texture: Tensor) -> Tensor:
        return self.imnet.before_last(texture)

    @property
    def hidden_macs(self) -> int:
        return self.imnet.first.weight.numel() + self.imnet.hidden_macs
