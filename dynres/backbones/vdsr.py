"""VDSR (Kim et al., CVPR 2016, Fig. 2): 20 convolutions that estimate what the bicubic enlargement lacks.

All but the last are here; the last and the sum are the head, SameSize(skip=add).
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.plain import conv_relu, he_normal
from dynres.layers.widths import check_widths


class VDSR(Backbone):
    """Convolutions of 3x3, each followed by ReLU.

    Args:
        channels: of every layer.
        layers: D, the head's convolution included; at least 2.
        image_channels: 1 for luma, as published; 3 for colour.
    """

    def __init__(self, channels: int = 64, layers: int = 20, image_channels: int = 1) -> None:
        super().__init__()
        check_widths("VDSR", channels=channels, image_channels=image_channels)
        if layers < 2:
            raise ValueError(f"VDSR needs layers of at least 2, the head's included, got {layers}")
        self.body = nn.Sequential(*conv_relu(image_channels, channels, [1] * (layers - 1)))
        self.out_channels, self.image_channels, self.halo = channels, image_channels, layers - 1
        he_normal(self)

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.body(image), image)
