"""RNAN feature extractor (Zhang et al., ICLR 2019, Sec. 3): residual attention modules, the outer two non-local.

Equal to the authors' network within 2e-5 of the largest output (tests/golden), which takes even sides alone: others are
padded here by one reflected row or column.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.nonlocal_attention import NonLocalBlock
from dynres.layers.residual import ResidualBlock
from dynres.layers.widths import check_widths
from dynres.layers.windows import pad_to_multiple


class MaskBranch(nn.Module):
    """How much of the trunk passes: weights in (0, 1) from a detour at half the size; even sides."""

    def __init__(self, channels: int, non_local: bool) -> None:
        super().__init__()
        attention = [NonLocalBlock(channels, channels // 2, softmax_over="queries")] if non_local else []
        self.before = nn.Sequential(*attention, ResidualBlock(channels, 1.0))
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.small = nn.Sequential(ResidualBlock(channels, 1.0), ResidualBlock(channels, 1.0))
        self.up = nn.ConvTranspose2d(channels, channels, 6, stride=2, padding=2)
        self.after = ResidualBlock(channels, 1.0)
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.conv(self.after(x + self.up(self.small(self.down(x))))).sigmoid()


class ResidualAttention(nn.Module):
    """A block, x + trunk(x) * mask(x), two blocks, and a convolution."""

    def __init__(self, channels: int, non_local: bool) -> None:
        super().__init__()
        self.first = ResidualBlock(channels, 1.0)
        self.trunk = nn.Sequential(ResidualBlock(channels, 1.0), ResidualBlock(channels, 1.0))
        self.mask = MaskBranch(channels, non_local)
        self.last = nn.Sequential(ResidualBlock(channels, 1.0), ResidualBlock(channels, 1.0))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.conv(self.last(x + self.trunk(x) * self.mask(x)))


class RNAN(Backbone):
    """Head convolution; a non-local module, local modules, a convolution, a non-local module.

    `halo` is what the middle of the authors' training patches (48 x 48) saw around itself.

    Args:
        channels: C, also of the features; at least 2.
        modules: of residual attention, at least 2; the first and the last are non-local.
        image_channels: 3 for colour, 1 for gray.
        long_skip: add the head's features at the end, as for super-resolution (upsampler pixelshuffle). The authors'
            networks for denoising, demosaicing and JPEG artifacts add the image instead (upsampler same_size).

    Raises:
        ValueError: a width below what is said above.
    """

    size_multiple = 2
    halo = 24
    unbounded = True

    def __init__(self, channels: int = 64, modules: int = 10, image_channels: int = 3, long_skip: bool = False) -> None:
        super().__init__()
        if channels < 2 or modules < 2:
            raise ValueError(f"RNAN needs channels and modules of at least 2, got {channels} and {modules}")
        check_widths("RNAN", image_channels=image_channels)
        self.image_channels, self.out_channels, self.long_skip = image_channels, channels, long_skip
        local = [ResidualAttention(channels, non_local=False) for _ in range(modules - 2)]
        self.head = nn.Sequential(nn.Conv2d(image_channels, channels, 3, padding=1))
        self.low = ResidualAttention(channels, non_local=True)
        self.body = nn.Sequential(*local, nn.Conv2d(channels, channels, 3, padding=1))
        self.high = ResidualAttention(channels, non_local=True)

    def forward(self, image: Tensor, task: Task) -> Features:
        height, width = image.shape[-2:]
        head = self.head(pad_to_multiple(image, 2))
        x = self.high(self.body(self.low(head)))
        if self.long_skip:
            x = x + head
        return Features(x[..., :height, :width], image)
