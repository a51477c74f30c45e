"""What image transformers share: pre-norm blocks with stochastic depth, and residual groups of them.

Tokens are (B, H, W, C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from dynres.layers.attention import initial_weights_
from dynres.layers.channels import InnerChannels, SlimPart
from dynres.layers.pointwise import in_pieces
from dynres.layers.widths import check_widths
from dynres.layers.windows import to_image, to_tokens

Connection = Literal["1conv", "3conv"]


class TransformerBlock(nn.Module, ABC):
    """x + attend(norm1(x)), then + mlp(norm2(.)), with exact GELU; keys as in Swin's code.

    Args:
        channels: C.
        hidden: width of the MLP.
        drop_path: probability that a sample skips a branch, in training (stochastic depth, Huang et al., ECCV 2016).
    """

    def __init__(self, channels: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden)
        self.drop_path = DropPath(drop_path)

    def inner_channels(self) -> Iterator[InnerChannels]:
        """Of the MLP; a block with an attention that can be cut adds that one's."""
        into, out = self.mlp.fc1, self.mlp.fc2
        assert isinstance(into, nn.Linear) and isinstance(out, nn.Linear)
        yield InnerChannels("mlp", 1, into.out_features, into, out)

    @abstractmethod
    def attend(self, x: Tensor, *context: Any) -> Tensor:
        """The block's attention with its projection, (B, H, W, C) -> (B, H, W, C)."""

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x), *context))
        return x + self.drop_path(in_pieces(lambda tokens: self.mlp(self.norm2(tokens)), x))


class ResidualGroup(nn.Module):
    """Blocks, convolution, and the group's residual; `context` goes to every block."""

    def __init__(self, channels: int, blocks: Sequence[nn.Module], connection: Connection = "1conv") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = residual_convolution(channels, connection)

    def slim_parts(self) -> Iterator[SlimPart]:
        """The convolution, the one layer that sees a whole image: a gate's place. The MLPs are `InnerChannels`."""
        if isinstance(self.conv, nn.Conv2d):
            yield SlimPart((), (), self.conv)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, *context)
        return x + to_tokens(self.conv(to_image(y)))


def residual_convolution(channels: int, connection: Connection) -> nn.Module:
    """The convolution before a residual: "1conv" is one of 3x3; "3conv" is 3x3, 1x1, 3x3 on C/4 channels.

    Raises:
        ValueError: another name, or fewer than 4 channels to squeeze.
    """
    if connection == "1conv":
        return nn.Conv2d(channels, channels, 3, padding=1)
    if connection != "3conv":
        raise ValueError(f"resi_connection must be 1conv or 3conv, got {connection!r}")
    if channels < 4:
        raise ValueError(f"resi_connection=3conv works on a quarter of the channels and needs 4, got {channels}")
    narrow = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, narrow, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, narrow, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, channels, 3, padding=1),
    )


def check_depths(network: str, depths: Sequence[int], mlp_hidden: int) -> None:
    """Refuse a network without groups, with an empty one, or with an MLP of no width."""
    check_widths(network, groups=len(depths), depths=min(depths, default=0), mlp_hidden=mlp_hidden)


def drop_path_rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Rates of the blocks of each group: from 0 at the first block linearly to `last` at the last."""
    total = sum(depths)
    rates = [last * block / max(total - 1, 1) for block in range(total)]
    return [rates[start:end] for start, end in pairwise(accumulate(depths, initial=0))]


def initialise(network: nn.Module) -> None:
    """Linear maps as in Swin's code: weights from a normal distribution of 0.02, cut off at 2; biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            initial_weights_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
