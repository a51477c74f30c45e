"""Residual blocks and the attention over channels that convolutional networks share."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.channels import SlimPart
from dynres.layers.widths import check_widths

# Input pixels of context at a cut, for networks whose attention sees the whole image, so that no margin is exact: more
# than the 10 that their authors' code leaves, and far less than the hundreds that the convolutions could reach.
ATTENTION_HALO = 64


class TwoConvolutions(nn.Module):
    """A residual block whose `body` begins with convolution, ReLU, convolution."""

    body: nn.Sequential

    def slim_parts(self) -> Iterator[SlimPart]:
        """The channels between them."""
        first, _, second, *_ = self.body
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        yield SlimPart((first,), (second,), first)


class ResidualBlock(TwoConvolutions):
    """x + r * conv(relu(conv(x))), without normalisation."""

    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_scale * self.body(x)


class ChannelAttention(nn.Module):
    """x times a weight in (0, 1) for each channel, from the channels' means over the image (RCAN, Fig. 3).

    Args:
        channels: C.
        reduction: the squeeze has C // reduction channels.

    Raises:
        ValueError: if the squeeze would have no channel.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        check_widths("ChannelAttention", channels=channels, reduction=reduction)
        if channels < reduction:
            raise ValueError(
                f"channel attention needs at least {reduction} channels to reduce by {reduction}, got {channels}"
            )
        squeeze = channels // reduction
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, squeeze, 1), nn.ReLU(), nn.Conv2d(squeeze, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(F.adaptive_avg_pool2d(x, 1))


class RCAB(TwoConvolutions):
    """Residual channel attention block (RCAN, Fig. 4): x + attention(conv(relu(conv(x))))."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelAttention(channels, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResidualGroup(nn.Module):
    """RCAN's group (Fig. 2): `blocks` RCABs and a 3x3 convolution under a skip."""

    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        attended = [RCAB(channels, reduction) for _ in range(blocks)]
        self.body = nn.Sequential(*attended, nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
