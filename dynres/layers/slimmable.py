"""What slimmable networks share: convolutions on slices of their weights, and gates that are told the scale (AnySR)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.precision import full_precision

GROUP = 16  # channels after which the scale pair is inserted


class Macs(NamedTuple):
    """Multiply-accumulates (fvcore's count): for each pixel, and once an image, whatever its size."""

    pixel: int
    image: int


def sliced(conv: nn.Conv2d, x: Tensor, outputs: int | None = None) -> Tensor:
    """The convolution from the first input channels, as many as x has, to the first `outputs`; None: to all.

    Of views of its weights: a call copies nothing.
    """
    assert conv.bias is not None
    return F.conv2d(x, conv.weight[:outputs, : x.shape[1]], conv.bias[:outputs], padding=conv.padding)


def interwoven(means: Tensor, code: Tensor) -> Tensor:
    """(B, c) and (B, 2) -> (B, c + 2 (c // 16)): the pair after every 16 channels; none after a rest (Fig. 3b)."""
    groups = means.shape[1] // GROUP
    full = means[:, : groups * GROUP].reshape(len(means), groups, GROUP)
    told = torch.cat([full, code[:, None].expand(-1, groups, -1)], dim=2).flatten(1)
    return torch.cat([told, means[:, groups * GROUP :]], dim=1)


class FeatureInterweaving(nn.Module):
    """x times a weight in (0, 1) a channel, from the channels' means and the scale (AnySR, Fig. 3).

    Args:
        channels: C at full width. Below 16 no scale is inserted, and channel attention is left.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(_interwoven(channels), 2 * channels, 1)
        self.fc2 = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, c, H, W) with c <= C, and (B, 2) signed vertical and horizontal scale -> (B, c, H, W)."""
        assert self.fc1.bias is not None and self.fc2.bias is not None
        told = interwoven(x.mean(dim=(2, 3), dtype=code.dtype), code)
        with full_precision(x):  # a rounded scale is another one
            hidden = F.relu(F.linear(told, self.fc1.weight[:, : told.shape[1], 0, 0], self.fc1.bias))
            gate = F.linear(hidden, self.fc2.weight[: x.shape[1], :, 0, 0], self.fc2.bias[: x.shape[1]]).sigmoid()
        return x * gate[:, :, None, None].to(x.dtype)

    def macs(self, channels: int) -> Macs:
        """The mean, 1 a value; the two maps."""
        hidden = self.fc1.out_channels
        return Macs(channels, hidden * (_interwoven(channels) + channels))


def _interwoven(channels: int) -> int:
    return channels + 2 * (channels // GROUP)
