"""LIIF: learning continuous image representation with local implicit image function (Chen et al., CVPR 2021).

Keys match the authors' `imnet.*`; equal to their code within 2e-5 of the largest output (tests/golden).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dynres.layers.mlp import MLP
from dynres.layers.sampling import Corner, nearest_tap
from dynres.layers.widths import check_widths
from dynres.upsamplers.implicit import CornerUpsampler, Taps, placed


class LIIF(CornerUpsampler):
    """MLP of [nearest features, relative coordinate, relative cell], blended over the four nearest pixels (Eq. 2-5).

    The MLP's first layer is linear in its three inputs: the feature part is lifted (see ImplicitUpsampler).

    Args:
        in_channels: C, of the features.
        hidden: width of the MLP.
        layers: hidden layers of the MLP.
        local_ensemble: blend four neighbours; else the nearest pixel alone.
        feat_unfold: the MLP sees 3x3 neighbourhoods, zero beyond the border.
        cell_decode: the MLP sees the size of the output pixel.

    Raises:
        ValueError: if a width or the number of layers is below 1.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int = 256,
        layers: int = 4,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__()
        check_widths("LIIF", in_channels=in_channels, hidden=hidden, layers=layers)
        self.in_channels, self.cell_decode = in_channels, cell_decode
        self.sides = (-1, 1) if local_ensemble else (0,)
        self.reach = 1 if feat_unfold else 0
        self.unfolded = in_channels * (2 * self.reach + 1) ** 2
        self.imnet = MLP(self.unfolded + (4 if cell_decode else 2), [hidden] * layers, 3)

    def lift(self, features: Tensor) -> Tensor:
        """The feature part of the MLP's first layer; its columns are ordered (channel, row, column of the 3x3)."""
        side = 2 * self.reach + 1
        weight = self.imnet.first.weight[:, : self.unfolded].unflatten(1, (self.in_channels, side, side))
        return F.conv2d(features, weight, self.imnet.first.bias, padding=(0, self.reach))

    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        return tuple(nearest_tap(coord, pixels, side) for side in self.sides)

    def hidden(self, values: Tensor, corner: Corner, cell: Tensor) -> Tensor:
        weight = self.imnet.first.weight[:, self.unfolded :]
        return self.imnet.hidden(placed(values, corner.row, corner.column, cell, weight))

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs of the form that runs: features lifted once a low-resolution pixel, colours once an output pixel."""
        lift, corners = self.unfolded * len(self.imnet.first.weight), len(self.sides) ** 2
        return height * width * lift + size[0] * size[1] * (
            corners * self.imnet.hidden_macs + self.imnet.last.weight.numel()
        )
