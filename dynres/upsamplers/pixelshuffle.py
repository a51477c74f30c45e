"""Upsampling at one whole scale: sub-pixel convolution (Shi et al., CVPR 2016), and nearest + convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.widths import check_widths
from dynres.upsamplers.base import GridUpsampler


class PixelShuffle(GridUpsampler):
    """The classical tail: a 3x3 convolution and a shuffle for each factor of 2 (or one of 3), then 3x3 to colours.

    Args:
        in_channels: C, of the features and of every stage.
        scale: a power of 2, or 3.
        image_channels: 3 for colour, 1 for gray.

    Raises:
        ValueError: another scale.
    """

    def __init__(self, in_channels: int, scale: int, image_channels: int = 3) -> None:
        super().__init__(in_channels, scale, image_channels)
        check_widths("PixelShuffle", in_channels=in_channels, image_channels=image_channels)
        stages: list[nn.Module] = []
        for factor in _factors(scale, "pixelshuffle"):
            stages += [nn.Conv2d(in_channels, factor**2 * in_channels, 3, padding=1), nn.PixelShuffle(factor)]
        self.stages = nn.Sequential(*stages)
        self.last = nn.Conv2d(in_channels, image_channels, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        return self.last(self.stages(features.map))

    def zero_output(self) -> None:
        _zero(self.last)


class DirectPixelShuffle(GridUpsampler):
    """One 3x3 convolution to c s^2 channels and one shuffle: the tail of lightweight networks.

    Args:
        in_channels: C, of the features.
        scale: s, at least 2.
        image_channels: c.
    """

    def __init__(self, in_channels: int, scale: int, image_channels: int = 3) -> None:
        super().__init__(in_channels, scale, image_channels)
        check_widths("DirectPixelShuffle", in_channels=in_channels, image_channels=image_channels)
        if scale < 2:
            raise ValueError(f"pixelshuffle_direct enlarges by 2, 3, 4, ..., got scale {scale}")
        self.last = nn.Conv2d(in_channels, scale**2 * image_channels, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        return F.pixel_shuffle(self.last(features.map), self.scale)

    def zero_output(self) -> None:
        _zero(self.last)


class NearestConv(GridUpsampler):
    """Nearest-neighbour enlargement by 2, each followed by a 3x3 convolution, and two more: SwinIR's real-world tail.

    Args:
        in_channels: C, of the features and of every stage.
        scale: a power of 2.
        image_channels: 3 for colour, 1 for gray.

    Raises:
        ValueError: another scale.
    """

    def __init__(self, in_channels: int, scale: int, image_channels: int = 3) -> None:
        super().__init__(in_channels, scale, image_channels)
        check_widths("NearestConv", in_channels=in_channels, image_channels=image_channels)
        factors = _factors(scale, "nearest_conv")
        if 3 in factors:
            raise ValueError(f"nearest_conv enlarges by powers of 2, got scale {scale}")
        self.stages = nn.ModuleList(nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in factors)
        self.hr = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.last = nn.Conv2d(in_channels, image_channels, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        x = features.map
        for stage in self.stages:
            x = F.leaky_relu(stage(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.last(F.leaky_relu(self.hr(x), 0.2))

    def zero_output(self) -> None:
        _zero(self.last)


def _factors(scale: int, name: str) -> list[int]:
    """The factors of the stages: [2] * n for 2^n, [3] for 3."""
    if scale == 3:
        return [3]
    if scale < 2 or scale & (scale - 1):
        raise ValueError(f"{name} enlarges by 2, 3, 4, 8, ..., got scale {scale}")
    return [2] * (scale.bit_length() - 1)


def _zero(last: nn.Conv2d) -> None:
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
