"""FFDNet (Zhang et al., TIP 2018, Fig. 1): a denoiser at half resolution that is told the noise level.

The network ends in the image itself, so its head is AsImage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.plain import conv_relu, he_normal, noise_map, repeat_to_multiple
from dynres.layers.widths import check_widths


class FFDNet(Backbone):
    """The image as four of half its size and a map of the noise level; convolutions; four images as one.

    Args:
        channels: of every layer: 96 for colour, 64 for gray.
        layers: convolutions, at least 2: 12 for colour, 15 for gray.
        image_channels: 1 for gray, 3 for colour.
    """

    size_multiple = 2
    wants_noise = True

    def __init__(self, channels: int = 96, layers: int = 12, image_channels: int = 3) -> None:
        super().__init__()
        check_widths("FFDNet", channels=channels, image_channels=image_channels)
        if layers < 2:
            raise ValueError(f"FFDNet needs layers of at least 2, got {layers}")
        body = conv_relu(4 * image_channels + 1, channels, [1] * (layers - 1))
        self.body = nn.Sequential(*body, nn.Conv2d(channels, 4 * image_channels, 3, padding=1))
        he_normal(self)
        self.out_channels = self.image_channels = image_channels
        self.halo = 2 * layers + 1  # a pixel of half resolution each layer, and the neighbour shuffled with the pixel

    def forward(self, image: Tensor, task: Task) -> Features:
        height, width = image.shape[-2:]
        x = F.pixel_unshuffle(repeat_to_multiple(image, 2), 2)
        x = self.body(torch.cat([x, noise_map("FFDNet", task.noise, x)], dim=1))
        return Features(F.pixel_shuffle(x, 2)[..., :height, :width], image)
