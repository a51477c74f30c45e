"""RCAN feature extractor (Zhang et al., ECCV 2018, Fig. 2): groups of residual channel attention blocks.

The mean shift of the paper is `Restorer.pixels`, and the tail is `PixelShuffle`. Names match the authors' `head.*` and
`body.*`.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.residual import ATTENTION_HALO, ResidualGroup
from dynres.layers.widths import check_widths


class RCAN(Backbone):
    """Head convolution; groups and a convolution under a long skip (residual in residual).

    Args:
        channels: C, also of the features.
        groups: residual groups.
        blocks: residual channel attention blocks a group.
        reduction: channel attention squeezes C to C // reduction.
        extra_conv: one more 3x3 convolution after the skip. No public code has it; TADT's Table 3 counts it.
        image_channels: 3 for colour, 1 for gray.

    Raises:
        ValueError: if a width is below 1, or channels below reduction.
    """

    unbounded = True

    def __init__(
        self,
        channels: int = 64,
        groups: int = 10,
        blocks: int = 20,
        reduction: int = 16,
        extra_conv: bool = False,
        image_channels: int = 3,
    ) -> None:
        check_widths("RCAN", channels=channels, groups=groups, blocks=blocks, image_channels=image_channels)
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(image_channels, channels, 3, padding=1))
        residual = [ResidualGroup(channels, blocks, reduction) for _ in range(groups)]
        self.body = nn.Sequential(*residual, nn.Conv2d(channels, channels, 3, padding=1))
        self.extra = nn.Conv2d(channels, channels, 3, padding=1) if extra_conv else nn.Identity()
        self.out_channels, self.image_channels = channels, image_channels
        self.halo = min(ATTENTION_HALO, groups * (2 * blocks + 1) + 2 + int(extra_conv))

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        return Features(self.extra(head + self.body(head)), image)
