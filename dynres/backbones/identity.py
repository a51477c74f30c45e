"""No network at all: the features are the image. Goes with the bicubic upsampler, or with AsImage."""

from __future__ import annotations

from torch import Tensor

from dynres.backbones.base import Backbone
from dynres.contracts import Cost, Features, Task


class Identity(Backbone):
    """Hands the normalised image on: no parameters, no MACs.

    Args:
        image_channels: 3 for colour, 1 for gray.
    """

    def __init__(self, image_channels: int = 3) -> None:
        super().__init__()
        self.image_channels = self.out_channels = image_channels

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(image, image)

    def cost(self, height: int, width: int) -> Cost:
        return Cost(0)
