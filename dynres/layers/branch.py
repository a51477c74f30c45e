"""FlexIR's branch network: SwinIR's tail, from features of any depth to colours (FlexIR, Fig. 2b)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.transformer import Connection, residual_convolution
from dynres.layers.windows import to_image, to_tokens


class Branch(nn.Module):
    """SwinIR's tail: normalisation, residual convolution, + shallow features, and colours of s times the size.

    Args:
        channels: C.
        image_channels: c.
        scale: s; 1 for one last convolution, 2 or 4 for nearest-neighbour enlargements between convolutions.
        resi_connection: see SwinIR.
        tail_width: channels between the convolutions that enlarge.
    """

    def __init__(
        self, channels: int, image_channels: int, scale: int, resi_connection: Connection, tail_width: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = residual_convolution(channels, resi_connection)
        width = channels if scale == 1 else tail_width
        if scale > 1:
            end = nn.Conv2d(channels, width, 3, padding=1)
            self.conv_before_upsample = nn.Sequential(end, nn.LeakyReLU(0.01))
            doublings = range(scale.bit_length() - 1)
            self.stages = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in doublings)
            self.hr = nn.Conv2d(width, width, 3, padding=1)
        self.scale, self.last = scale, nn.Conv2d(width, image_channels, 3, padding=1)

    def forward(self, features: Tensor, shallow: Tensor) -> Tensor:
        """(B, C, h, w) of a block and of the first convolution -> (B, c, s h, s w)."""
        x = self.conv_after_body(to_image(self.norm(to_tokens(features)))) + shallow
        if self.scale > 1:
            x = self.conv_before_upsample(x)
            for stage in self.stages:
                x = F.leaky_relu(stage(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
            x = F.leaky_relu(self.hr(x), 0.2)
        return self.last(x)
