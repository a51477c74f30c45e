"""SRNO: super-resolution neural operator (Wei & Zhang, CVPR 2023), without its extractor.

Keys match the authors' `conv00`, `conv0.*`, `conv1.*`, `fc1` and `fc2`; equal to their code within 2e-5 of the largest
output (tests/golden).

Each query attends to all others that are sent with it: to the sampled pixels in training, to the whole grid in
`decode`. The others enter through one small matrix a block and head (dynres.layers.galerkin), so `decode` goes over the
image once for each block's matrices and once for the colours, in pieces, and computes anew what lies before, instead of
holding 1 KB for each output pixel. The result does not depend on the pieces.

The embedding is linear in features that are looked up and weighted, and so is every layer that follows at once: the
first block's keys, values and mixed input are lifted in `decode`, and cost a layer once a low-resolution pixel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.galerkin import GalerkinBlock
from dynres.layers.pointwise import Pointwise
from dynres.layers.precision import full_precision
from dynres.layers.sampling import ensemble, nearest_tap
from dynres.layers.widths import check_widths
from dynres.upsamplers.implicit import Colours, ImplicitUpsampler, Lift, Lifted, Taps, blended, placed

Layer = tuple[Tensor, Tensor]  # weight (n, inputs) and bias (n,)


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
    lifted_pixels = 1024

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

    @property
    def first(self) -> Layer:
        """The embedding: width outputs of the four corners' offsets (8), their weighted features (4 C) and the cell."""
        assert self.conv00.bias is not None
        return self.conv00.weight.flatten(1), self.conv00.bias

    def lift(self, features: Tensor) -> Tensor:
        return self.lifted(self.first, features)

    def lifted(self, layer: Layer, features: Tensor) -> Tensor:
        """(B, 4 n, h, W): what a layer of the embedding's inputs takes from each pixel, as any of the four corners."""
        corners = layer[0][:, 8:-2].unflatten(1, (4, -1)).transpose(0, 1).flatten(0, 1)
        return F.linear(features.permute(0, 2, 3, 1), corners).permute(0, 3, 1, 2)

    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        return tuple(nearest_tap(coord, pixels, side) for side in (-1, 1))

    def colours(self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        """(N, 3) colours of queries that attend to each other and to nothing else."""
        x = self.embedded(self.first, lifted, rows, columns, cell)
        for block in self.blocks:
            context = block.products(F.linear(x, *block.keys_values)) / x.shape[1]
            x = block(x, _mixed(x, block.mixing(context)))
        return self.coloured(x)

    def embedded(self, layer: Layer, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        """(B, N / B, n): a layer of the embedding's inputs, lifted in the table."""
        weight, bias = layer
        corners = ensemble(rows, columns)
        looked_up = (lifted.at(row.pixel, column.pixel, k, 4) for k, (row, column, _) in enumerate(corners))
        shares = [corner.weight for corner in corners]
        total = blended((values.flatten(0, -2), share) for values, share in zip(looked_up, shares, strict=True))
        shape = (*shares[0].shape, -1)
        down, right = weight[:, :8].unflatten(1, (2, 2, 2)).unbind(-1)  # of corners by row and column
        by_side = torch.stack([down.sum(2), right.sum(1)], dim=-1)
        for side, sizes in ((0, weight[:, -2:]), (1, weight[:, :0])):
            its_weight = torch.cat([by_side[:, side], sizes], dim=1)
            total = placed(total.view(shape), rows[side], columns[side], cell, its_weight)
        return total.add_(bias).unflatten(0, (shape[0], -1))

    def coloured(self, x: Tensor) -> Tensor:
        """(B, N / B, width) after the blocks -> (N, 3)."""
        return self.fc2(F.gelu(self.fc1(x))).flatten(0, 1)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        """One image at a time: what is lifted depends on its context."""
        if len(features.image) == 1:
            return super().decode(features, size)
        each = zip(features.cropped.split(1), features.image.split(1), strict=True)
        return torch.cat([super(SRNO, self).decode(Features(*one), size) for one in each])

    def colouring(self, features: Features, size: tuple[int, int]) -> tuple[Lift, Colours]:
        """`lift` and `colours` of one image with the contexts of all its pixels: a block's needs those before it."""
        first, (block, other), pixels = self.first, self.blocks, size[0] * size[1]

        def mixing(of: GalerkinBlock, lift: Layer, keys_values: Colours) -> Layer:
            """`of.mixing`, from the keys and values of every piece, whose table is lifted by a layer."""
            pieces = self.pieces(features, size, partial(self.lifted, lift))
            return of.mixing(
                sum((of.products(keys_values(*piece)) for piece, *_ in pieces), torch.tensor(0.0)) / pixels
            )

        layer = _after(block.keys_values, first)
        weight, bias = mixing(block, layer, partial(self.embedded, layer))
        mixed = _after((weight[0], bias[0]), first)
        both = torch.cat([first[0], mixed[0]]), torch.cat([first[1], mixed[1]])

        def middle(*piece: Any) -> Tensor:
            return block(*self.embedded(both, *piece).chunk(2, dim=-1))

        later = mixing(other, both, lambda *piece: F.linear(middle(*piece), *other.keys_values))

        def colours(*piece: Any) -> Tensor:
            x = middle(*piece)
            return self.coloured(other(x, _mixed(x, later)))

        return partial(self.lifted, both), colours

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs of the form that runs: three passes of which the second and third repeat the first block."""
        wide, inputs = self.conv00.weight.shape[:2]
        head, square = self.conv0.head_width, wide * wide
        weights = 3 * square * inputs + 2 * (wide + 1) * (square + wide * head)  # layers folded into each other
        lifts = 3 * 2 * wide * (inputs - 10)
        return weights + height * width * lifts + size[0] * size[1] * (7 * square + 2 * wide * head + 3 * wide)


def _after(layer: Layer, first: Layer) -> Layer:
    """One layer that is `layer` of what `first` gives; in full precision under autocast too."""
    weight, bias = layer
    with full_precision(weight):
        return weight @ first[0], weight @ first[1] + bias


def _mixed(x: Tensor, layer: Layer) -> Tensor:
    """A layer of each sample's own, weights (B, n, width) and biases (B, n), of x (B, N, width)."""
    weight, bias = layer
    return torch.baddbmm(bias[:, None].to(x.dtype), x, weight.mT.to(x.dtype))
