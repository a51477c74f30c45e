"""SAN feature extractor (Dai et al., CVPR 2019, Fig. 2): groups scaled by second-order channel attention.

Built as in its authors' TrainCode and TestCode: the long skip starts before the first non-local module, which works on
an eighth of the channels (in the code that they published later: behind it, and on a quarter). The mean shift is
`Restorer.pixels`, and the tail is `PixelShuffle`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.precision import full_precision
from dynres.layers.residual import ATTENTION_HALO, ChannelAttention, ResidualBlock
from dynres.layers.widths import check_widths

ITERATIONS = 5  # of Newton and Schulz
NON_LOCAL_REDUCTION = 8  # of the channels inside the non-local module


class SecondOrderAttention(ChannelAttention):
    """x times a weight for each channel, from the square root of the channels' covariance (Sec. 3.3).

    Of very large images the authors' code sees a central crop of 1000 pixels a side, beyond what its memory allows.
    """

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):  # an iteration that rounding leads astray
            root = matrix_square_root(covariance(x.to(torch.promote_types(x.dtype, torch.float32))), ITERATIONS)
        return x * self.conv_du(root.mean(dim=1)[..., None, None])


def covariance(x: Tensor) -> Tensor:
    """Of the channels over all places, (B, C, H, W) -> (B, C, C); divided by the number of places."""
    rows = x.flatten(2)
    rows = rows - rows.mean(dim=2, keepdim=True)
    return rows @ rows.transpose(1, 2) / rows.shape[2]


def matrix_square_root(matrix: Tensor, iterations: int) -> Tensor:
    """Approximate square root of symmetric positive semi-definite (B, C, C), by coupled Newton-Schulz iterations.

    Y -> Y T, Z -> T Z with T = (3 - Z Y) / 2 take Y to the root and Z to its inverse, from Y = the matrix over its
    trace and Z = 1 (Li et al., CVPR 2018). The covariance of places that are all alike is zero, and so is its root.
    """
    trace = matrix.diagonal(dim1=1, dim2=2).sum(dim=1).clamp_min(1e-12)[:, None, None]
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    y = matrix / trace
    step = (3 * identity - y) / 2
    y, z = y @ step, step
    for _ in range(iterations - 2):
        step = (3 * identity - z @ y) / 2
        y, z = y @ step, step @ z
    return y @ (3 * identity - z @ y) / 2 * trace.sqrt()


class NonLocal(nn.Module):
    """x + W softmax(theta(x) phi(x)^T) g(x) between the places of each quarter of the image (Wang et al., CVPR 2018).

    W begins at 0, and the module as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // NON_LOCAL_REDUCTION)
        self.g, self.theta, self.phi = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.W = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.W.weight)
        assert self.W.bias is not None
        nn.init.zeros_(self.W.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = [torch.cat([self._attend(part) for part in halves(half, 3)], dim=3) for half in halves(x, 2)]
        return torch.cat(rows, dim=2)

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2).transpose(1, 2)[:, None] for conv in (self.theta, self.phi, self.g))
        mean = F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
        return x + self.W(mean.transpose(1, 2).unflatten(2, x.shape[2:]))


def halves(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """The two halves of a tensor along an axis, of which the second may be longer by one; one alone for length 1."""
    length = x.shape[dim]
    return x.split([length // 2, length - length // 2], dim) if length > 1 else (x,)


class SecondOrderGroup(nn.Module):
    """Local-source residual attention group (Fig. 2): residual blocks, attention and a convolution under a skip."""

    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.rcab = nn.Sequential(*(ResidualBlock(channels, 1.0) for _ in range(blocks)))
        self.soca = SecondOrderAttention(channels, reduction)
        self.conv_last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_last(self.soca(self.rcab(x)))


class SAN(Backbone):
    """Head convolution; groups between two runs of one non-local module, each with a share of the groups' source.

    Args:
        channels: C, also of the features.
        groups: G, local-source residual attention groups.
        blocks: M, residual blocks a group.
        reduction: second-order channel attention squeezes C to C // reduction.

    Raises:
        ValueError: if a width is below 1, or channels below reduction.
    """

    unbounded = True

    def __init__(self, channels: int = 64, groups: int = 20, blocks: int = 10, reduction: int = 16) -> None:
        super().__init__()
        check_widths("SAN", channels=channels, groups=groups, blocks=blocks)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        self.non_local = NonLocal(channels)
        self.RG = nn.ModuleList(SecondOrderGroup(channels, blocks, reduction) for _ in range(groups))
        self.gamma = nn.Parameter(torch.zeros(1))
        self.out_channels = channels
        self.halo = min(ATTENTION_HALO, groups * (2 * blocks + 1) + 1)

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        source = self.non_local(head)
        x = source
        for group in self.RG:
            x = group(x) + self.gamma * source
        return Features(head + self.non_local(x), image)
