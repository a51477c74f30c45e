"""NLSN feature extractor (Mei et al., CVPR 2021, Sec. 3): EDSR's body with non-local sparse attention in between.

"NLSA" in the tables of the arbitrary-scale papers, with a last convolution to 64 channels (39.58 M parameters). Equal
to the authors' network within 2e-5 of the largest output, given their random directions (tests/golden).
"""

from __future__ import annotations

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.residual import ResidualBlock
from dynres.layers.sparse_attention import SparseAttention
from dynres.layers.widths import check_widths


class NLSN(Backbone):
    """Head convolution; attention, then blocks and attention by turns, and a convolution under a long skip.

    `halo` is what the middle of the authors' training patches (48 x 48) saw around itself.

    Args:
        channels: F.
        blocks: residual blocks, a multiple of attention_every.
        attention_every: blocks after which an attention stands; one more stands before the first.
        chunk: pixels of a chunk of an attention.
        hashes: rounds of hashing of an attention.
        reduction: F over the channels that are hashed and compared.
        residual_scale: factor on the residual of each block and each attention.
        out_channels: of a last 3x3 convolution, as the tables count it; None: F, as in the authors' whole network.
        seed: fixes the hashing in evaluation, each attention having its own. Training draws anew at every step.

    Raises:
        ValueError: a width below 1, or blocks that attention_every does not divide.
    """

    halo = 24
    unbounded = True

    def __init__(
        self,
        channels: int = 256,
        blocks: int = 32,
        attention_every: int = 8,
        chunk: int = 144,
        hashes: int = 4,
        reduction: int = 4,
        residual_scale: float = 0.1,
        out_channels: int | None = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_widths("NLSN", channels=channels, blocks=blocks, attention_every=attention_every)
        if blocks % attention_every:
            raise ValueError(f"blocks must be a multiple of attention_every={attention_every}, got {blocks}")
        if out_channels is not None:
            check_widths("NLSN", out_channels=out_channels)
        attentions = blocks // attention_every + 1

        def attention(index: int) -> SparseAttention:
            own_seed = seed * attentions + index
            return SparseAttention(channels, reduction, chunk, hashes, residual_scale, own_seed)

        body: list[nn.Module] = [attention(0)]
        for index in range(1, attentions):
            body += [ResidualBlock(channels, residual_scale) for _ in range(attention_every)]
            body.append(attention(index))
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        self.body = nn.Sequential(*body, nn.Conv2d(channels, channels, 3, padding=1))
        self.last = nn.Identity() if out_channels is None else nn.Conv2d(channels, out_channels, 3, padding=1)
        self.out_channels = out_channels or channels

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        return Features(self.last(head + self.body(head)), image)
