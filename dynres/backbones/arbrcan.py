"""ArbRCAN: RCAN whose features adapt to the scale (ArbSR, Wang et al., ICCV 2021), without its upsampler.

Names match the authors' `head.*`, `body.*` and `sa_adapt.*`; equal to their code within 2e-5 of the largest output
(tests/golden).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone, axes_of
from dynres.contracts import Features, Task
from dynres.layers.precision import full_precision
from dynres.layers.residual import ATTENTION_HALO, ResidualGroup
from dynres.layers.widths import check_widths

MASK_CHANNELS = 16
ROUTING_WIDTH = 64


class ScaleAwareConv(nn.Module):
    """A 3x3 convolution without bias whose kernel is a mixture of experts, weighed by the inverse scales."""

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        kernels = [nn.Conv2d(channels, channels, 3).weight.detach() for _ in range(experts)]
        self.weight_pool = nn.Parameter(torch.stack(kernels))
        self.routing = nn.Sequential(
            nn.Linear(2, ROUTING_WIDTH), nn.ReLU(), nn.Linear(ROUTING_WIDTH, experts), nn.Softmax(dim=1)
        )

    def forward(self, x: Tensor, inverse_scales: Tensor) -> Tensor:
        """(B, C, H, W) and (B, 2) vertical and horizontal 1/s -> (B, C, H, W); each image has a kernel of its own."""
        with full_precision(x):  # a rounded scale is another one
            shares = self.routing(inverse_scales.to(self.weight_pool.dtype))
        kernels = torch.einsum("be,eoihw->boihw", shares, self.weight_pool).flatten(0, 1)
        return F.conv2d(x.flatten(0, 1)[None], kernels, padding=1, groups=len(x)).view_as(x)


class ScaleAwareAdaption(nn.Module):
    """x + mask * adapted: where and how much features change with the scale.

    The mask is made at half resolution. Beyond an odd side the last row or column counts twice there; the authors' code
    takes even sides only.
    """

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        width = MASK_CHANNELS
        self.mask = nn.Sequential(
            *_conv_norm(channels, width), nn.ReLU(), nn.AvgPool2d(2, ceil_mode=True),
            *_conv_norm(width, width), nn.ReLU(),
            *_conv_norm(width, width), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"),
            *_conv_norm(width, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.adapt = ScaleAwareConv(channels, experts)

    def forward(self, x: Tensor, inverse_scales: Tensor) -> Tensor:
        mask = self.mask(x)[..., : x.shape[-2], : x.shape[-1]]
        return x + self.adapt(x, inverse_scales) * mask


class ArbRCAN(Backbone):
    """RCAN with an adaption after each residual group.

    It is told the vertical and horizontal scale: `Task.axes`, or `Task.scale` for both; without either they are 1.

    Args:
        channels: C, also of the features.
        groups: residual groups.
        blocks: residual channel attention blocks a group.
        reduction: channel attention squeezes C to C // reduction.
        experts: kernels that are mixed for a scale.

    Raises:
        ValueError: if a width is below 1, or channels below reduction.
    """

    size_multiple = 2
    unbounded = True

    def __init__(
        self, channels: int = 64, groups: int = 10, blocks: int = 20, reduction: int = 16, experts: int = 4
    ) -> None:
        super().__init__()
        check_widths("ArbRCAN", channels=channels, groups=groups, blocks=blocks, experts=experts)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        residual = [ResidualGroup(channels, blocks, reduction) for _ in range(groups)]
        self.body = nn.Sequential(*residual, nn.Conv2d(channels, channels, 3, padding=1))
        self.sa_adapt = nn.ModuleList(ScaleAwareAdaption(channels, experts) for _ in range(groups))
        self.out_channels = channels
        self.halo = ATTENTION_HALO

    def forward(self, image: Tensor, task: Task) -> Features:
        inverse_scales = 1 / axes_of(image, task).to(image)
        *groups, last = self.body
        head = x = self.head(image)
        for group, adapt in zip(groups, self.sa_adapt, strict=True):
            x = adapt(group(x), inverse_scales)
        return Features(head + last(x), image)


def _conv_norm(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
