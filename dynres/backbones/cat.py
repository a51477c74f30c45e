"""CAT: Cross Aggregation Transformer without its tail (Chen et al., NeurIPS 2022); its frame is SwinIR's.

Tokens are (B, H, W, C). Equal to the authors' code within 2e-5 of the largest output (tests/golden).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynres.backbones.swinir import ResidualTransformer
from dynres.contracts import Features, Task
from dynres.layers.attention import attend_in_windows, masked_biases, position_bias
from dynres.layers.channels import check_inner_widths
from dynres.layers.precision import full_precision
from dynres.layers.transformer import Connection, ResidualGroup, TransformerBlock, check_depths, drop_path_rates
from dynres.layers.widths import check_widths
from dynres.layers.windows import pad_to_multiple, relative_offsets, relative_position_index, to_image, to_tokens

BRANCHES = 2  # halves of the channels: windows lie in one and stand in the other
Pair = tuple[int, int]


def both_windows(short: int, long: int | None, size: Pair) -> tuple[Pair, Pair]:
    """(rows, columns) of the windows of the first and of the second half of the channels, for an image of a size.

    Rectangular windows lie first, then stand. Axial ones (`long` None) are as high as the image first, then as wide.
    """
    return ((short, long), (long, short)) if long else ((size[0], short), (short, size[1]))


def both_shifts(short: int, long: int | None) -> tuple[Pair, Pair]:
    """By how much `both_windows` are shifted in every second block: half of each side that is not the image's."""
    return both_windows(short // 2, long // 2 if long else None, (0, 0))


class Positions(NamedTuple):
    """Where the tokens of a window stand to each other.

    window: (h, w); offsets: ((2h - 1)(2w - 1), 2), all that occur; pairs: (h*w, h*w), which of them each pair has.
    """

    window: Pair
    offsets: Tensor
    pairs: Tensor


def positions_in(window: Pair, device: torch.device) -> Positions:
    """Made once a group: the windows of CAT-A are the image's."""
    pairs, _ = relative_position_index(window, device=device)
    return Positions(window, relative_offsets(window, device), pairs)


class PositionMLP(nn.Module):
    """Bias of each head for a relative offset, (rows, 2) -> (rows, heads); keys are the authors' `pos.*`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        width = channels // 16
        self.pos_proj = nn.Linear(2, width)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out)) for out in (width, width, heads)
        )

    def forward(self, offsets: Tensor) -> Tensor:
        with full_precision(offsets):  # those of a whole side go beyond what bfloat16 can tell apart
            return self.pos3(self.pos2(self.pos1(self.pos_proj(offsets.to(self.pos_proj.weight.dtype)))))


class CrossAttention(nn.Module):
    """Attention of one branch, on its share of the channels, in its windows: (B, H, W, 3C/2) -> (B, H, W, C/2)."""

    def __init__(self, channels: int, heads: int, shift: Pair) -> None:
        super().__init__()
        self.pos, self.shift = PositionMLP(channels, heads), shift

    def forward(self, qkv: Tensor, positions: Positions) -> Tensor:
        bias = position_bias(self.pos(positions.offsets), positions.pairs)
        return attend_in_windows(qkv, masked_biases(bias, positions.window, self.shift), positions.window, self.shift)


class CrossBlock(TransformerBlock):
    """CATB: each half of the channels attends in windows of its own; + a convolution of the values.

    The depthwise convolution (locality complementary module) sees the values of the whole image, unshifted.
    """

    def __init__(self, channels: int, heads: int, shifts: Sequence[Pair], hidden: int, drop_path: float) -> None:
        super().__init__(channels, hidden, drop_path)
        self.qkv = nn.Linear(channels, 3 * channels)
        half = channels // BRANCHES, heads // BRANCHES
        self.attns = nn.ModuleList(CrossAttention(*half, shift) for shift in shifts)
        self.get_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.proj = nn.Linear(channels, channels)

    def attend(self, x: Tensor, *positions: Positions) -> Tensor:
        """`positions` of the windows of each half."""
        qkv = self.qkv(x).unflatten(-1, (3, BRANCHES, -1))
        halves = [attn(qkv[..., i, :].flatten(3), positions[i]) for i, attn in enumerate(self.attns)]
        value = qkv[..., 2, :, :].flatten(3).contiguous()  # whose channels lie together: several times faster
        return self.proj(torch.cat(halves, dim=-1) + to_tokens(self.get_v(to_image(value))))


class CrossGroup(ResidualGroup):
    """Residual group with windows of its own, see `both_windows`."""

    def __init__(
        self, channels: int, blocks: Sequence[CrossBlock], connection: Connection, short: int, long: int | None
    ) -> None:
        super().__init__(channels, blocks, connection)
        self.short, self.long = short, long

    def forward(self, x: Tensor) -> Tensor:
        windows = both_windows(self.short, self.long, (x.shape[1], x.shape[2]))
        return super().forward(x, *(positions_in(window, x.device) for window in windows))


class CAT(ResidualTransformer):
    """Residual groups of cross aggregation blocks: CAT-R (rectangular windows) and CAT-A (axial ones).

    Images are padded by reflection, the edge repeated, to multiples of the windows, as the authors' test script pads
    them; the features keep the padding.

    Args:
        embed_dim: C, a multiple of heads, at least 32.
        depths: blocks of each group.
        heads: of a block, half of them for each kind of window.
        short_sides: of the windows of each group.
        long_side: of the windows; None for the image's whole side (CAT-A). Every second block shifts its windows by
            half of the other sides.
        mlp_ratio: hidden width of the MLPs over C.
        image_channels, out_channels, resi_connection, drop_path, mlp_widths: as in SwinIR. The channels of its
            attention are also a convolution's, and cannot be cut.

    Raises:
        ValueError: on a width or count below 1, heads that are odd or do not divide C, not one short side a group,
            sides that do not divide the largest, or an unknown resi_connection.
    """

    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: int = 6,
        short_sides: Sequence[int] = (4, 4, 4, 4, 4, 4),
        long_side: int | None = 16,
        mlp_ratio: float = 2.0,
        image_channels: int = 3,
        out_channels: int | None = 64,
        resi_connection: Connection = "1conv",
        drop_path: float = 0.1,
        mlp_widths: Sequence[int] | None = None,
    ) -> None:
        hidden = round(embed_dim * mlp_ratio)
        check_inner_widths("a network", sum(depths), "blocks", mlp_widths=mlp_widths)
        widths = iter(mlp_widths or [hidden] * sum(depths))
        check_depths("CAT", depths, hidden)
        check_widths("CAT", image_channels=image_channels, short_sides=min(short_sides, default=0), heads=heads)
        _check_shapes(embed_dim, len(depths), heads, short_sides, long_side)
        groups = []
        for short, rates in zip(short_sides, drop_path_rates(depths, drop_path), strict=True):
            shifts = ((0, 0), (0, 0)), both_shifts(short, long_side)
            blocks = [
                CrossBlock(embed_dim, heads, shifts[number % 2], next(widths), rate)
                for number, rate in enumerate(rates)
            ]
            groups.append(CrossGroup(embed_dim, blocks, resi_connection, short, long_side))
        super().__init__(image_channels, embed_dim, groups, resi_connection, out_channels)
        self.depths, self.short_sides, self.long_side = tuple(depths), tuple(short_sides), long_side
        self.size_multiple = max(*short_sides, long_side or 1)
        self.halo = 32  # two long sides; a whole side ends with the tile
        reach = sum(depths) * (self.size_multiple - 1) + 2 * len(depths) + 4  # windows meet windows
        self.unbounded = long_side is None or reach > self.halo

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.extract(pad_to_multiple(image, self.size_multiple, repeat_edge=True)), image)


def _check_shapes(embed_dim: int, groups: int, heads: int, short_sides: Sequence[int], long_side: int | None) -> None:
    if heads % BRANCHES or embed_dim % heads or embed_dim < 16 * BRANCHES:
        raise ValueError(
            f"CAT needs an even number of heads, and a multiple of it, at least 32, for embed_dim: got heads={heads} "
            f"and embed_dim={embed_dim}"
        )
    if len(short_sides) != groups:
        raise ValueError(f"short_sides has one side a group: got {list(short_sides)} for {groups} groups")
    sides = [*short_sides, long_side or max(short_sides)]
    if min(sides) < 1 or any(max(sides) % side for side in sides):
        raise ValueError(
            f"sides of windows must divide the largest of them: got short_sides={list(short_sides)} and "
            f"long_side={long_side}"
        )
