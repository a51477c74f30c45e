"""DnCNN (Zhang et al., TIP 2017, Fig. 1): a stack of convolutions that estimates the noise of its image.

All layers but the last are here; the last and the difference are the head, SameSize(skip=subtract). Published networks
come in three forms: with batch normalisation, in one code with a bias under it and in another without, and with the
normalisation folded into the convolutions, a plain stack.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.plain import conv_relu, he_normal
from dynres.layers.widths import check_widths

EPSILON = 1e-4  # of the batch normalisation, in both of the authors' codes


class DnCNN(Backbone):
    """Convolution, ReLU; then convolution, batch normalisation, ReLU.

    Args:
        channels: of every layer.
        layers: D, the head's convolution included, at least 2: 17 for one noise level, 20 for a range of them.
        image_channels: 1 for gray, 3 for colour.
        batch_norm: between convolution and ReLU, from the second layer on.
        bias: of the convolutions under a batch normalisation, which takes its effect away; KAIR has one.
        momentum: share of the newest batch in the running statistics.

    Raises:
        ValueError: a width below 1, fewer than 2 layers, or neither batch normalisation nor biases.
    """

    def __init__(
        self,
        channels: int = 64,
        layers: int = 17,
        image_channels: int = 3,
        batch_norm: bool = False,
        bias: bool = True,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_widths("DnCNN", channels=channels, image_channels=image_channels)
        if layers < 2:
            raise ValueError(f"DnCNN needs layers of at least 2, the head's included, got {layers}")
        if not batch_norm and not bias:
            raise ValueError("DnCNN without batch normalisation needs its biases: set batch_norm=true or bias=true")
        body = conv_relu(image_channels, channels, [1])
        for _ in range(layers - 2):
            norm = [nn.BatchNorm2d(channels, eps=EPSILON, momentum=momentum)] if batch_norm else []
            body += [nn.Conv2d(channels, channels, 3, padding=1, bias=bias), *norm, nn.ReLU()]
        self.body = nn.Sequential(*body)
        he_normal(self)
        self.out_channels, self.image_channels = channels, image_channels
        self.halo = layers - 1

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.body(image), image)
