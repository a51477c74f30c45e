"""The feature extraction backbone of TADT without its controller: the row "Baseline" (TADT, Sec. 3.2-3.3).

Tokens are (B, H, W, C); each of the four branches of a block works on C/4 channels. The widths that the paper does not
print (MLP ratio 2, 2 heads a branch, keys pooled to 12 x 12, normalisations) are the ones that reproduce its
parameter and MAC counts; experiments/tadt/README.md lists them. The paper is silent on shifted windows: every second
block shifts its local windows by half, as SwinIR does; the global windows are not shifted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Cost, Features, Task
from dynres.layers.attention import WindowAttention
from dynres.layers.channels import InnerChannels, check_inner_widths
from dynres.layers.pointwise import in_pieces
from dynres.layers.transformer import ResidualGroup, initialise
from dynres.layers.windows import pad_to_multiple, to_image, to_tokens

BRANCHES = 4
# Pixels of the padded image from which samples of a batch that disagree run one at a time: below, the calls of each
# cost more than the copies of grouping by branch. Measured on a CPU (benchmarks/): alone is 5 % faster at 24x24, and
# 9 % slower at 12x12.
ALONE = 20 * 20


class Turns(NamedTuple):
    """What a block runs for a batch whose decisions are made: samples, and the branches that they run in one go.

    Attributes:
        turns: samples (a slice, or (n,) indices on the device) and their branches. Either a sample has one turn, or,
            where `summed`, one for each of its branches.
    """

    turns: list[tuple[slice | Tensor, list[int]]]
    summed: bool = False


ALL = Turns([(slice(None), list(range(BRANCHES)))])


def plan(gates: Tensor, pixels: int, device: torch.device) -> list[Turns]:
    """The turns of every group: the one time that Python looks at the decisions.

    Args:
        gates: (B, 4N) in {0, 1}, group by group.
        pixels: of the padded image.
        device: of the network.
    """
    decided = (gates > 0.5).cpu().unflatten(1, (-1, BRANCHES)).transpose(0, 1)
    return [_turns(on, pixels, device) for on in decided]


def _turns(on: Tensor, pixels: int, device: torch.device) -> Turns:
    """Of one group, from its decisions (B, 4): together where samples agree, else alone or by branch."""
    active = [[j for j in range(BRANCHES) if sample[j]] for sample in on.tolist()]
    if all(branches == active[0] for branches in active):
        return Turns([(slice(None), active[0])])
    if pixels >= ALONE:
        return Turns([(slice(i, i + 1), branches) for i, branches in enumerate(active)])
    chosen = [on[:, j].nonzero().flatten() for j in range(BRANCHES)]
    return Turns([(some.to(device), [j]) for j, some in enumerate(chosen) if len(some)], summed=True)


class MSTB(nn.Module):
    """Multi-scale transformer block (Fig. 3b): x + projection([SA_1 ... SA_4](norm(x))), then + MLP(norm(.))."""

    branch_of: Tensor  # (C,) which branch each channel of the outputs is of

    def __init__(
        self,
        channels: int,
        local_windows: Sequence[int],
        global_window: int,
        pooled: int,
        heads: int,
        hidden: int,
        shifted: bool,
        head_widths: Sequence[int | None] = (None,) * BRANCHES,
    ) -> None:
        super().__init__()
        share = channels // BRANCHES
        self.norm1 = nn.LayerNorm(channels)
        local = zip(local_windows, head_widths[:-1], strict=True)
        attentions = [WindowAttention(share, heads, m, None, m // 2 if shifted else 0, width) for m, width in local]
        attentions.append(WindowAttention(share, heads, global_window, pooled, 0, head_widths[-1]))
        self.branches = nn.ModuleList(attentions)
        self.widths = [heads * attention.width for attention in self.attentions()]  # of the branches' outputs
        branch_of = [j for j, width in enumerate(self.widths) for _ in range(width)]
        self.register_buffer("branch_of", torch.tensor(branch_of), persistent=False)
        self.projection = nn.Linear(sum(self.widths), channels)
        self.norm2 = nn.LayerNorm(channels)
        self.hidden = hidden
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def attentions(self) -> list[WindowAttention]:
        """Of the branches."""
        return [branch for branch in self.branches if isinstance(branch, WindowAttention)]

    def inner_channels(self) -> Iterator[InnerChannels]:
        """Of its four attentions and of its MLP."""
        firsts = accumulate(self.widths, initial=0)
        for attention, first in zip(self.attentions(), firsts, strict=False):
            yield InnerChannels("msa", attention.heads, attention.width, attention.qkv, self.projection, first)
        into, out = self.mlp[0], self.mlp[2]
        assert isinstance(into, nn.Linear) and isinstance(out, nn.Linear)
        yield InnerChannels("mlp", 1, into.out_features, into, out)

    def forward(self, x: Tensor, routing: Tensor | Turns = ALL) -> Tensor:
        """Args: x (B, H, W, C); routing: the turns to run, or (B, 4) gates, with a gradient, to multiply by."""
        parts = self.norm1(x).chunk(BRANCHES, dim=-1)
        x = x + (self._gated(parts, routing) if isinstance(routing, Tensor) else self._routed(parts, routing))
        return x + in_pieces(lambda tokens: self.mlp(self.norm2(tokens)), x)

    def _gated(self, parts: Sequence[Tensor], gates: Tensor) -> Tensor:
        """All branches run: the straight-through gradient of a closed gate needs its branch's output (Eq. 1, 4)."""
        outputs = torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)], dim=-1)
        weight = gates.index_select(1, self.branch_of)[:, None, None, :]
        return in_pieces(self.projection, outputs * weight.to(outputs.dtype))

    def _routed(self, parts: Sequence[Tensor], routing: Turns) -> Tensor:
        if not routing.summed:
            each = [self._sliced([part[samples] for part in parts], branches) for samples, branches in routing.turns]
            return torch.cat(each) if len(each) > 1 else each[0]
        out = self.projection.bias.repeat(*parts[0].shape[:3], 1)
        for samples, (j,) in routing.turns:
            assert isinstance(samples, Tensor)
            mine = F.linear(self.branches[j](parts[j][samples]), self._columns(j))
            out.index_add_(0, samples, mine.to(out.dtype))
        return out

    def _sliced(self, parts: Sequence[Tensor], active: list[int]) -> Tensor:
        """The slice-able projection (Eq. 2): active outputs times their columns of the weight, and nothing else."""
        weight, bias = self.projection.weight, self.projection.bias
        if not active:
            return bias.expand(*parts[0].shape[:3], -1)
        if len(active) < BRANCHES:
            weight = torch.cat([self._columns(j) for j in active], dim=1)
        outputs = torch.cat([self.branches[j](parts[j]) for j in active], dim=-1)
        return in_pieces(lambda tokens: F.linear(tokens, weight, bias), outputs)

    def _columns(self, branch: int) -> Tensor:
        """W_j of Eq. 2: the (C, C/4) columns of the projection that read branch j, fewer where its heads were cut."""
        return self.projection.weight.split(self.widths, dim=1)[branch]


class MultiScaleTransformer(Backbone):
    """Shallow convolution, N groups, convolution, skip, 64-channel head (Fig. 3a).

    Args:
        channels: C, divisible by 4 * heads.
        groups: N.
        local_windows: m_1, m_2, m_3 of the three local branches; each divides global_window.
        global_window: m of the global branch; images are padded to multiples of it by reflection.
        pooled: d, keys and values of the global branch after max-pooling, a side.
        heads: attention heads of each branch.
        mlp_ratio: hidden width of the MLP over C.
        blocks_per_group: 2 in the paper.
        out_channels: channels of the feature map.
        mlp_widths: hidden channels of each block's MLP, first to last, instead of C x mlp_ratio; None for all alike.
        head_widths: channels a head of each branch, the four of the first block first, instead of C / (4 heads)
            (a pruned network, see dynres.pruning).

    Raises:
        ValueError: on sizes that do not divide each other, a count below 1, or another number of widths than blocks.
    """

    unbounded = True

    def __init__(
        self,
        channels: int = 224,
        groups: int = 8,
        local_windows: Sequence[int] = (4, 8, 16),
        global_window: int = 48,
        pooled: int = 12,
        heads: int = 2,
        mlp_ratio: float = 2.0,
        blocks_per_group: int = 2,
        out_channels: int = 64,
        mlp_widths: Sequence[int] | None = None,
        head_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(local_windows) != BRANCHES - 1 or any(global_window % m for m in local_windows):
            raise ValueError(
                f"local_windows must be three divisors of global_window={global_window}, got {list(local_windows)}"
            )
        counts = {"groups": groups, "heads": heads, "blocks_per_group": blocks_per_group, "out_channels": out_channels}
        if min(counts.values()) < 1:
            raise ValueError(f"a transformer needs at least 1 of everything, got {counts}")
        if channels < 1 or channels % (BRANCHES * heads):
            raise ValueError(f"channels must be a multiple of 4 branches x {heads} heads, got {channels}")
        self.channels, self.out_channels = channels, out_channels
        self.local_windows, self.global_window, self.pooled = tuple(local_windows), global_window, pooled
        self.size_multiple, self.halo = global_window, global_window
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.patch_norm = nn.LayerNorm(channels)
        count = groups * blocks_per_group
        check_inner_widths("a network", count, "blocks", mlp_widths=mlp_widths)
        check_inner_widths("a network", BRANCHES * count, "branches", head_widths=head_widths)
        mlps = mlp_widths or [int(channels * mlp_ratio)] * count
        of_heads: Sequence[int | None] = head_widths or [None] * (BRANCHES * count)
        sizes = (channels, local_windows, global_window, pooled, heads)
        blocks = [
            MSTB(*sizes, mlps[index], index % 2 == 1, of_heads[BRANCHES * index : BRANCHES * (index + 1)])
            for index in range(count)
        ]
        parts_of = range(0, count, blocks_per_group)
        self.groups = nn.ModuleList(ResidualGroup(channels, blocks[i : i + blocks_per_group]) for i in parts_of)
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, out_channels, 3, padding=1)
        initialise(self)

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.extract(image, None), image)

    def extract(self, image: Tensor, gates: Tensor | None) -> Tensor:
        """(B, 3, H, W) and gates (B, 4N), group by group, or None for all on -> (B, out_channels, H, W)."""
        height, width = image.shape[-2:]
        shallow = self.conv_first(pad_to_multiple(image, self.global_window))
        x = self.patch_norm(to_tokens(shallow))
        routing: Sequence[Tensor | Turns] = [ALL] * len(self.groups)
        if gates is not None:
            straight_through = gates.requires_grad
            routing = gates.split(BRANCHES, 1) if straight_through else plan(gates, shallow[0, 0].numel(), x.device)
        for group, of_group in zip(self.groups, routing, strict=True):
            x = group(x, of_group)
        x = self.conv_after_body(to_image(self.norm(x))) + shallow
        return F.leaky_relu(self.conv_last(x), 0.01)[..., :height, :width]

    def cost(self, height: int, width: int) -> Cost:
        """fvcore's count over the padded image: convolutions, linear maps and attention products, 5 a normalised value.

        A unit is one branch of all blocks of a group: its qkv, its quarter of the projection, its attention.
        """
        c, branch = self.channels, self.channels // BRANCHES
        pixels = (-(-height // self.global_window)) * (-(-width // self.global_window)) * self.global_window**2
        keys = [m * m for m in self.local_windows] + [self.pooled**2]
        fixed, units = 9 * (3 * c + (len(self.groups) + 1) * c * c + c * self.out_channels) + 2 * 5 * c, []
        for group in self.groups.children():
            assert isinstance(group, ResidualGroup)
            blocks = [block for block in group.blocks if isinstance(block, MSTB)]
            fixed += sum(2 * c * block.hidden + 2 * 5 * c for block in blocks)
            units += [
                sum((3 * branch + c + 2 * k) * block.widths[j] for block in blocks) * pixels for j, k in enumerate(keys)
            ]
        return Cost(fixed * pixels, tuple(units))
