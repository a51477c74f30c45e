"""EDSR feature extractor (Lim et al., CVPRW 2017, Fig. 3), without its upsampling tail.

The mean shift of the paper is `Restorer.pixels`; the arbitrary-scale papers (LIIF, LTE, TADT) have none and give it
images in [-1, 1]. The tail is `PixelShuffle`. Names match the authors' `head.*` and `body.*`.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.residual import ResidualBlock
from dynres.layers.widths import check_widths


class EDSR(Backbone):
    """Head convolution; residual blocks and a convolution under a long skip.

    Args:
        channels: F, also of the features.
        blocks: number of residual blocks.
        residual_scale: factor on each block's residual.
        image_channels: 3 for colour, 1 for gray.

    Raises:
        ValueError: if channels or blocks is below 1.
    """

    def __init__(self, channels: int, blocks: int, residual_scale: float, image_channels: int = 3) -> None:
        super().__init__()
        check_widths("EDSR", channels=channels, blocks=blocks, image_channels=image_channels)
        self.head = nn.Sequential(nn.Conv2d(image_channels, channels, 3, padding=1))
        residual = [ResidualBlock(channels, residual_scale) for _ in range(blocks)]
        self.body = nn.Sequential(*residual, nn.Conv2d(channels, channels, 3, padding=1))
        self.out_channels, self.image_channels = channels, image_channels
        self.halo = 2 * blocks + 2  # one pixel a 3x3 convolution: head, two a block, the body's last

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        return Features(head + self.body(head), image)


def edsr_baseline(channels: int = 64, blocks: int = 16, residual_scale: float = 1.0) -> EDSR:
    """16 blocks, 64 channels, 1.22 M parameters: the row "EDSR-baseline" of the arbitrary-scale papers."""
    return EDSR(channels, blocks, residual_scale)
