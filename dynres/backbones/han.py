"""HAN feature extractor (Niu et al., ECCV 2020, Fig. 2): RCAN's body, attention over layers, channels, places.

Built as its authors' code is, which differs from the paper's text: the convolution behind the groups counts as one
more layer and is what the channel-spatial attention sees, layers attend to those *unlike* them, and a convolution
merges both attentions. The mean shift is `Restorer.pixels`, and the tail is `PixelShuffle`. Names are the authors'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.precision import full_precision
from dynres.layers.residual import ATTENTION_HALO, ResidualGroup
from dynres.layers.widths import check_widths


class LayerAttention(nn.Module):
    """To each of N layers' features, gamma times a mean of all layers is added (Fig. 3), (B, N, C, H, W) -> the same.

    The weights of the mean are softmax(-x x^T), where x holds a layer's whole features in a row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)  # N rows of C H W numbers: long and few, where fused attention kernels want short and many
        with full_precision(x):  # sums over C H W, whose differences are exponentiated
            precise = rows.to(torch.promote_types(rows.dtype, torch.float32))
            weights = (-precise @ precise.transpose(1, 2)).softmax(dim=-1)
        return x + self.gamma * (weights @ rows).view_as(x)


class ChannelSpatialAttention(nn.Module):
    """x + gamma * x * sigmoid(conv(x)), with one 3x3x3 convolution over channels, rows and columns (Fig. 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * x * self.conv(x[:, None])[:, 0].sigmoid()


class HAN(Backbone):
    """Head convolution; groups and a convolution; layer and channel-spatial attention merged under a long skip.

    Args:
        channels: C, also of the features.
        groups: residual groups.
        blocks: residual channel attention blocks a group.
        reduction: channel attention squeezes C to C // reduction.

    Raises:
        ValueError: if a width is below 1, or channels below reduction.
    """

    unbounded = True

    def __init__(self, channels: int = 64, groups: int = 10, blocks: int = 20, reduction: int = 16) -> None:
        super().__init__()
        check_widths("HAN", channels=channels, groups=groups, blocks=blocks)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        residual = [ResidualGroup(channels, blocks, reduction) for _ in range(groups)]
        self.body = nn.Sequential(*residual, nn.Conv2d(channels, channels, 3, padding=1))
        self.la, self.csa = LayerAttention(), ChannelSpatialAttention()
        self.last_conv = nn.Conv2d((groups + 1) * channels, channels, 3, padding=1)
        self.last = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.out_channels = channels
        self.halo = min(ATTENTION_HALO, groups * (2 * blocks + 1) + 4)

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        layers = [head]
        for stage in self.body:
            layers.append(stage(layers[-1]))
        newest_first = torch.stack(layers[:0:-1], dim=1)
        by_layer = self.last_conv(self.la(newest_first).flatten(1, 2))
        merged = self.last(torch.cat([self.csa(layers[-1]), by_layer], dim=1))
        return Features(head + merged, image)
