"""What plain restoration networks share: their stack of convolutions, the noise level as a map, and their padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv_relu(in_channels: int, channels: int, dilations: Sequence[int]) -> list[nn.Module]:
    """Convolution, ReLU, convolution, ReLU, ...: 3x3, of these dilations, zeros around the image, its size kept."""
    widths = [in_channels] + [channels] * (len(dilations) - 1)
    layers: list[nn.Module] = []
    for width, dilation in zip(widths, dilations, strict=True):
        layers += [nn.Conv2d(width, channels, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return layers


def he_normal(network: nn.Module) -> None:
    """Fresh weights that keep a signal's size through a deep stack of ReLU (He et al., ICCV 2015, Eq. 10)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def noise_map(network: str, noise: Tensor | None, like: Tensor) -> Tensor:
    """The noise level (B,) as one more channel (B, 1, h, w) for like (B, c, h, w).

    Raises:
        ValueError: if there is none; the message names the network.
    """
    if noise is None:
        raise ValueError(f"{network} must be told the noise level: give Task.noise, sigma / 255 of each image")
    return noise.to(like.dtype).view(-1, 1, 1, 1).expand(len(like), 1, *like.shape[-2:])


def repeat_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) at the bottom and right to a multiple by repeating the last row and column; any size >= 1."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
