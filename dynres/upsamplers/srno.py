"""SRNO: super-resolution neural operator (Wei & Zhang, CVPR 2023), without its extractor.

Keys match the authors' `conv00`, `conv0.*`, `conv1.*`, `fc1` and `fc2`; equal to their code within 2e-5 of the largest
output (tests/golden).

Each query attends to all others that are sent with it: to the sampled pixels in training, to the whole grid in
`decode`. The others enter through one small matrix a block and head (dynres.layers.galerkin), so `decode` goes over the
image once for each block's matrices and once for the colours, in pieces, and computes anew what lies before: two fifths
more compute in all, instead of 1 KB held for each output pixel. The result does not depend on the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.galerkin import GalerkinBlock
from dynres.layers.pointwise import Pointwise
from dynres.layers.sampling import ensemble, nearest_tap
from dynres.layers.widths import check_widths
from dynres.upsamplers.implicit import ImplicitUpsampler, Lifted, Taps, offsets


class SRNO(ImplicitUpsampler):
    """Weighted features of the four nearest pixels, lifted to `width`; two Galerkin blocks; colours + bilinear image.

    Args:
        in_channels: C, of the features.
        width: of the kernel integrals.
        heads: of each block; width / heads channels, at least 2, each.

    Raises:
        ValueError: if a size is below 1, or heads do not divide width.
    """

    adds_image = True
    trained_scale = 4.0  # the largest scale of the authors' training
    reach = 0  # queries read the features themselves
    chunk_pixels = 1024

    def __init__(self, in_channels: int, width: int = 256, heads: int = 16) -> None:
        super().__init__()
        check_widths("SRNO", in_channels=in_channels, width=width, heads=heads)
        self.conv00 = Pointwise(4 * in_channels + 10, width)
        self.conv0 = GalerkinBlock(width, heads)
        self.conv1 = GalerkinBlock(width, heads)
        self.fc1 = Pointwise(width, width)
        self.fc2 = Pointwise(width, 3)

    @property
    def blocks(self) -> tuple[GalerkinBlock, GalerkinBlock]:
        """In the order in which they run."""
        return self.conv0, self.conv1

    @property
    def last(self) -> nn.Linear:
        return self.fc2

    def lift(self, features: Tensor) -> Tensor:
        return features

    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        return tuple(nearest_tap(coord, pixels, side) for side in (-1, 1))

    def colours(
        self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor, contexts: Sequence[Tensor] | None = None
    ) -> Tensor:
        """(N, 3) colours; without the blocks' contexts the queries attend to each other and to nothing else."""
        x = self.embedded(lifted, rows, columns, cell)
        for index, block in enumerate(self.blocks):
            x = block(x, block.context(x) / x.shape[1] if contexts is None else contexts[index])
        return self.fc2(F.gelu(self.fc1(x))).flatten(0, 1)

    def embedded(self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        """(B, N / B, width) from the four corners' relative coordinates, their weighted features, and the cell."""
        positions, features = [], []
        for row, column, share in ensemble(rows, columns):
            positions.append(offsets(row, column))
            features.append(lifted.at(row.pixel, column.pixel) * share.reshape(-1, 1))
        inputs = torch.cat([*positions, *features, cell.expand(len(positions[0]), 2)], dim=1)
        return self.conv00(inputs).unflatten(0, (len(rows[0].pixel), -1))

    def colouring(self, features: Features, size: tuple[int, int]) -> Callable[[Lifted, Taps, Taps, Tensor], Tensor]:
        """`colours` with the contexts of all pixels of the grid: a block's needs those of the blocks before."""
        contexts: list[Tensor] = []
        for block in self.blocks:
            total: Tensor | None = None
            for piece, _ in self.pieces(features, size):
                x = self.embedded(*piece)
                for before, context in zip(self.blocks, contexts, strict=False):
                    x = before(x, context)
                products = block.context(x)
                total = products if total is None else total + products
            assert total is not None
            contexts.append(total / (size[0] * size[1]))

        def colours(lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
            return self.colours(lifted, rows, columns, cell, contexts)

        return colours

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs of the form that runs: three passes, with the embedding in each and the first block in two."""
        context, mix = self.conv0.macs()
        head = self.fc1.weight.numel() + self.fc2.weight.numel()
        return size[0] * size[1] * (3 * self.conv00.weight.numel() + 2 * context + 3 * mix + head)
