"""DRUNet (Zhang et al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021, Fig. 2).

A U-Net of residual blocks without biases that is told the noise level. Its last convolution is the head,
SameSize(bias=False, skip=none). Names match the authors' `m_head` ... `m_up1`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.plain import noise_map, repeat_to_multiple
from dynres.layers.widths import check_widths


class Block(nn.Module):
    """x + conv(relu(conv(x))), without biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.res = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class DRUNet(Backbone):
    """Three levels down, a body, three levels up; the skips between the two sides are sums.

    Args:
        channels: of the four resolutions, finest first.
        blocks: residual blocks a level.
        image_channels: 1 for gray, 3 for colour.

    Raises:
        ValueError: a width below 1, or not four of them.
    """

    size_multiple = 8
    halo = 64  # what its authors' code leaves around a cut
    wants_noise = True

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512), blocks: int = 4, image_channels: int = 3) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"DRUNet has four resolutions, so it needs four widths, got channels {channels}")
        check_widths("DRUNet", channels=min(channels), blocks=blocks, image_channels=image_channels)
        first, second, third, deepest = channels
        self.m_head = nn.Conv2d(image_channels + 1, first, 3, padding=1, bias=False)
        self.m_down1 = nn.Sequential(*_blocks(first, blocks), _halve(first, second))
        self.m_down2 = nn.Sequential(*_blocks(second, blocks), _halve(second, third))
        self.m_down3 = nn.Sequential(*_blocks(third, blocks), _halve(third, deepest))
        self.m_body = nn.Sequential(*_blocks(deepest, blocks))
        self.m_up3 = nn.Sequential(_double(deepest, third), *_blocks(third, blocks))
        self.m_up2 = nn.Sequential(_double(third, second), *_blocks(second, blocks))
        self.m_up1 = nn.Sequential(_double(second, first), *_blocks(first, blocks))
        self.out_channels, self.image_channels = first, image_channels
        self.unbounded = 44 * blocks + 8 > self.halo  # how far away pixels still reach the output

    def forward(self, image: Tensor, task: Task) -> Features:
        x = repeat_to_multiple(image, self.size_multiple)
        head = self.m_head(torch.cat([x, noise_map("DRUNet", task.noise, x)], dim=1))
        half = self.m_down1(head)
        quarter = self.m_down2(half)
        eighth = self.m_down3(quarter)
        x = self.m_body(eighth)
        x = self.m_up3(x + eighth)
        x = self.m_up2(x + quarter)
        x = self.m_up1(x + half)
        return Features(x + head, image)


def _blocks(channels: int, number: int) -> list[Block]:
    return [Block(channels) for _ in range(number)]


def _halve(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 2, stride=2, bias=False)


def _double(channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out_channels, 2, stride=2, bias=False)
