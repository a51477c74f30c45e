"""LTE: local texture estimator for implicit representation function (Lee & Jin, CVPR 2022).

Keys match the authors' `coef`, `freq`, `phase` and `imnet.*`; equal to their code within 2e-5 of the largest output
(tests/golden).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.mlp import MLP
from dynres.layers.sampling import bilinear_at, bilinear_grid, ensemble, nearest_tap
from dynres.layers.widths import check_widths
from dynres.upsamplers.implicit import ImplicitUpsampler, Lifted, Taps, offsets

TRAINED_SCALE = 4.0  # the largest scale of the authors' training


class LTE(ImplicitUpsampler):
    """Amplitudes, frequencies and phases estimated from features and cell, decoded by an MLP, + the bilinear image.

    Args:
        in_channels: C, of the features.
        hidden_dim: width of the texture estimate (half cosines, half sines) and of the MLP.
        layers: hidden layers of the MLP.

    Raises:
        ValueError: if a width or the number of layers is below 1, or hidden_dim is odd.
    """

    adds_image = True

    def __init__(self, in_channels: int, hidden_dim: int = 256, layers: int = 3) -> None:
        super().__init__()
        check_widths("LTE", in_channels=in_channels, hidden_dim=hidden_dim, layers=layers)
        if hidden_dim % 2:
            raise ValueError(f"LTE needs an even hidden_dim (half cosines, half sines), got {hidden_dim}")
        self.coef = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(in_channels, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imnet = MLP(hidden_dim, [hidden_dim] * layers, 3)

    def lift(self, features: Tensor) -> Tensor:
        """(B, 2 hidden_dim, h, W): amplitudes, then the frequencies of rows, then those of columns.

        The original's frequencies are interleaved (row, column); apart they are read without gaps.
        """
        assert self.coef.bias is not None and self.freq.bias is not None
        weight = torch.cat([self.coef.weight, self.freq.weight[0::2], self.freq.weight[1::2]])
        bias = torch.cat([self.coef.bias, self.freq.bias[0::2], self.freq.bias[1::2]])
        return F.conv2d(features, weight, bias, padding=(0, 1))

    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        return tuple(nearest_tap(coord, pixels, side) for side in (-1, 1))

    def colours(self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        phase = self.phase(cell)
        half = phase.shape[1]
        total: Tensor | None = None
        for row, column, share in ensemble(rows, columns):
            amplitude, across, along = lifted.at(row.pixel, column.pixel).split([2 * half, half, half], dim=1)
            position = offsets(row, column)
            angle = math.pi * (across * position[:, :1] + along * position[:, 1:] + phase)
            texture = amplitude * torch.cat([angle.cos(), angle.sin()], dim=1)
            colour = self.imnet(texture) * share.reshape(-1, 1)
            total = colour if total is None else total + colour
        assert total is not None
        return total

    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        return super().query(features, coords, cell) + bilinear_at(features.image, coords)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        return super().decode(features, size) + bilinear_grid(features.image, size)

    def decode_cell(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The pixel's size, times max(s / 4, 1) by axis: never finer than at the largest scale of training.

        The authors' scripts do so with one nominal scale for both axes; each axis goes by its own here.
        """
        height, width = features.image.shape[-2:]
        growth = [max(out / have / TRAINED_SCALE, 1.0) for out, have in zip(size, (height, width), strict=True)]
        cell = super().decode_cell(features, size)
        return cell * cell.new_tensor(growth)

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs of the form that runs: features lifted once a low-resolution pixel."""
        lift = self.coef.weight.numel() + self.freq.weight.numel()
        per_corner = self.imnet.first.weight.numel() + self.imnet.macs_after_first
        return height * width * lift + self.phase.weight.numel() + 4 * size[0] * size[1] * per_corner
