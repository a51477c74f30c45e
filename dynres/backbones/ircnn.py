"""IRCNN's denoiser (Zhang et al., CVPR 2017, Fig. 1): seven dilated convolutions that estimate the noise.

All but the last are here; the last and the difference are the head, SameSize(skip=subtract).
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.plain import conv_relu, he_normal
from dynres.layers.widths import check_widths

DILATIONS = (1, 2, 3, 4, 3, 2)  # and 1 in the head


class IRCNN(Backbone):
    """Convolutions of 3x3 with growing, then shrinking dilation, each followed by ReLU.

    Args:
        channels: of every layer.
        image_channels: 1 for gray, 3 for colour.
    """

    def __init__(self, channels: int = 64, image_channels: int = 3) -> None:
        super().__init__()
        check_widths("IRCNN", channels=channels, image_channels=image_channels)
        self.body = nn.Sequential(*conv_relu(image_channels, channels, DILATIONS))
        he_normal(self)
        self.out_channels, self.image_channels = channels, image_channels
        self.halo = sum(DILATIONS)

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.body(image), image)
