"""PANet and PA-EDSR feature extractors (Mei et al., arXiv 2004.13824, Sec. 3): one pyramid attention in mid-network.

Equal to the authors' networks within 2e-5 of the largest output (tests/golden).
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.pyramid_attention import PyramidAttention
from dynres.layers.residual import ResidualBlock
from dynres.layers.widths import check_widths


class SharedActivationBlock(nn.Module):
    """x + conv(a(conv(x))), with an activation a that belongs to the network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, activation: nn.Module) -> Tensor:
        return x + self.conv2(activation(self.conv1(x)))


class PANet(Backbone):
    """For restoration at the image's own size: head convolution; blocks, attention, blocks, convolution; long skip.

    All blocks share one PReLU of one slope. `halo` is what the middle of the authors' training patches (48 x 48) saw
    around itself.

    Args:
        channels: C, also of the features.
        blocks: residual blocks, even: half of them before the attention.
        reduction: C over the channels that the attention compares.
        image_channels: 3 for colour, 1 for gray.

    Raises:
        ValueError: a width below 1, or an odd number of blocks.
    """

    halo = 24
    unbounded = True

    def __init__(self, channels: int = 64, blocks: int = 80, reduction: int = 2, image_channels: int = 3) -> None:
        super().__init__()
        _check("PANet", channels, blocks)
        check_widths("PANet", image_channels=image_channels)
        self.image_channels, self.out_channels = image_channels, channels
        self.middle = blocks // 2  # where the attention stands in the body
        before, after = ([SharedActivationBlock(channels) for _ in range(self.middle)] for _ in range(2))
        attention = PyramidAttention(channels, reduction, residual_scale=1.0)
        self.head = nn.Sequential(nn.Conv2d(image_channels, channels, 3, padding=1))
        self.activation = nn.PReLU()
        self.body = nn.ModuleList([*before, attention, *after, nn.Conv2d(channels, channels, 3, padding=1)])

    def forward(self, image: Tensor, task: Task) -> Features:
        head = x = self.head(image)
        for layer in self.body:
            x = layer(x, self.activation) if isinstance(layer, SharedActivationBlock) else layer(x)
        return Features(head + x, image)


class PAEDSR(Backbone):
    """For super-resolution: EDSR with pyramid attention after half of its blocks.

    `halo` is what the middle of the authors' training patches (48 x 48) saw around itself.

    Args:
        channels: F, also of the features.
        blocks: residual blocks, even: half of them before the attention.
        reduction: F over the channels that the attention compares.
        residual_scale: factor on each block's residual and, as in the authors' code, on the attention's input.

    Raises:
        ValueError: a width below 1, or an odd number of blocks.
    """

    halo = 24
    unbounded = True

    def __init__(self, channels: int = 256, blocks: int = 32, reduction: int = 8, residual_scale: float = 0.1) -> None:
        super().__init__()
        _check("PA-EDSR", channels, blocks)
        self.out_channels = channels
        self.middle = blocks // 2  # where the attention stands in the body
        before, after = ([ResidualBlock(channels, residual_scale) for _ in range(self.middle)] for _ in range(2))
        attention = PyramidAttention(channels, reduction, residual_scale)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        self.body = nn.Sequential(*before, attention, *after, nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        return Features(head + self.body(head), image)


def _check(network: str, channels: int, blocks: int) -> None:
    check_widths(network, channels=channels, blocks=blocks)
    if blocks % 2:
        raise ValueError(f"{network} needs an even number of blocks around its attention, got {blocks}")
