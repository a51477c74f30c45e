"""RDN feature extractor (Zhang et al., CVPR 2018, Fig. 2): residual dense blocks and the fusion of all their outputs.

There is no mean shift; the tail is `PixelShuffle`. Names match the authors' `SFENet*`, `RDBs.*` and `GFF.*`, but for
the dense convolutions (`convs.N.conv.0` there).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.channels import SlimPart
from dynres.layers.widths import check_widths


class ResidualDenseBlock(nn.Module):
    """Convolutions that each append `growth` channels to what they read, fused to `channels` under a skip (Fig. 3).

    Args:
        channels: G0, of input and output.
        growth: G, channels of each convolution.
        convs: C, number of dense convolutions.
    """

    def __init__(self, channels: int, growth: int, convs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(convs))
        self.LFF = nn.Conv2d(channels + convs * growth, channels, 1)

    def slim_parts(self) -> Iterator[SlimPart]:
        """Every other convolution of the second half, from its first (AnySR's code)."""
        convs = [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]
        half = len(convs) // 2
        yield SlimPart(tuple(convs[half::2]), (*convs[half + 1 :], self.LFF), self.LFF)

    def forward(self, x: Tensor) -> Tensor:
        dense = x
        for conv in self.convs:
            dense = torch.cat([dense, F.relu(conv(dense))], dim=1)
        return x + self.LFF(dense)


class RDN(Backbone):
    """Two shallow convolutions; dense blocks in a row, all of them fused; a skip from the first convolution.

    Args:
        channels: G0, also of the features.
        growth: G, channels that each dense convolution adds.
        blocks: D, number of residual dense blocks.
        convs: C, dense convolutions a block.

    Raises:
        ValueError: if one of them is below 1.
    """

    def __init__(self, channels: int = 64, growth: int = 64, blocks: int = 16, convs: int = 8) -> None:
        super().__init__()
        check_widths("RDN", channels=channels, growth=growth, blocks=blocks, convs=convs)
        self.SFENet1 = nn.Conv2d(3, channels, 3, padding=1)
        self.SFENet2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(channels, growth, convs) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1))
        self.out_channels = channels
        self.halo = blocks * convs + 3  # one pixel a 3x3 convolution: two shallow, the dense, the last

    def forward(self, image: Tensor, task: Task) -> Features:
        shallow = self.SFENet1(image)
        x, outputs = self.SFENet2(shallow), []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        return Features(shallow + self.GFF(torch.cat(outputs, dim=1)), image)
