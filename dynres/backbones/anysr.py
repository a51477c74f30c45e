"""AnySR: EDSR and RDN that run at fewer inner channels for small scales, and whose features are told the scale.

Zhan et al., "AnySR: Realizing Image Super-Resolution as Any-Scale, Any-Resource", Fig. 2-3; what the paper leaves open
is as in the authors' code (CrispyFeSo4/AnySR), to which the features are equal within 2e-5 (tests/golden). Their `fc1`
and `fc2` are `gate.fc1` and `gate.fc2` here, and their `convs.N.conv.0` is `convs.N`.

A subnet runs on the first channels of every slimmed weight. In the legends c is its number of inner channels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone, axes_of
from dynres.contracts import Cost, Features, Routing, Task
from dynres.layers.residual import ATTENTION_HALO
from dynres.layers.slimmable import FeatureInterweaving, Macs, sliced
from dynres.layers.widths import check_widths

Rule = Literal["official", "nearest_group"]

SMALLEST = 11  # tenths: the authors' list of scales begins at 1.1
ON_GRID = 1e-4  # tenths: float32 leaves less of a scale up to 30
MEAN = (0.4488, 0.4371, 0.4040)  # DIV2K's, subtracted from an image in [-1, 1] all the same


class MeanShift(nn.Module):
    """W x + b for the colours of a pixel; W the identity and b = -mean unless a checkpoint says otherwise.

    The authors meant it to be fixed and trained it by mistake, so that their files may hold anything; here it is loaded
    and not trained. Element by element, as all conversions of colours: exact under autocast, and not counted as MACs.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3).view(3, 3, 1, 1))
        self.register_buffer("bias", -torch.tensor(MEAN))

    def forward(self, x: Tensor) -> Tensor:
        mixing = self.weight - torch.eye(3, device=x.device).view(3, 3, 1, 1)
        out = x + self.bias[:, None, None]  # x leads: what follows keeps its memory format
        for colour in range(3):
            out = torch.addcmul(out, x[:, colour : colour + 1], mixing[:, colour])
        return out


class SlimResidualBlock(nn.Module):
    """x + conv(relu(gate(conv(x)))), with c channels between the convolutions.

    Convolutions and gate begin as the authors': Kaiming's normal distribution times 0.1, biases 0.
    """

    def __init__(self, channels: int, enhanced: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = FeatureInterweaving(channels) if enhanced else None
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                assert part.bias is not None
                nn.init.normal_(part.weight, std=0.1 * math.sqrt(2 / part.weight[0].numel()))
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, code: Tensor, inner: int) -> Tensor:
        y = sliced(self.conv1, x, inner)
        if self.gate is not None:
            y = self.gate(y, code)
        return x + sliced(self.conv2, F.relu(y))

    def macs(self, inner: int) -> Macs:
        gate = Macs(0, 0) if self.gate is None else self.gate.macs(inner)
        return Macs(2 * 9 * self.conv1.in_channels * inner + gate.pixel, gate.image)


class SlimDenseBlock(nn.Module):
    """RDN's dense block in whose second half every other convolution, from its first, has c outputs.

    Outputs are packed, so that what follows a narrow one reads other channels with the same weights. The gate acts on
    the last channels before the fusion, as many as the narrow convolutions have together.
    """

    def __init__(self, channels: int, growth: int, convs: int, enhanced: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(convs))
        self.LFF = nn.Conv2d(channels + convs * growth, channels, 1)
        self.slim = range(convs // 2, convs, 2)
        self.ungated = channels + (convs - len(self.slim)) * growth
        self.gate = FeatureInterweaving(len(self.slim) * growth) if enhanced else None

    def forward(self, x: Tensor, code: Tensor, inner: int) -> Tensor:
        dense = x
        for index, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv2d)
            y = F.relu(sliced(conv, dense, inner if index in self.slim else None))
            dense = torch.cat([dense, y], dim=1)
        if self.gate is not None:
            dense = torch.cat([dense[:, : self.ungated], self.gate(dense[:, self.ungated :], code)], dim=1)
        return x + sliced(self.LFF, dense)

    def macs(self, inner: int) -> Macs:
        channels, growth = self.LFF.out_channels, (self.LFF.in_channels - self.LFF.out_channels) // len(self.convs)
        inputs, pixel = channels, 0
        for index in range(len(self.convs)):
            outputs = inner if index in self.slim else growth
            pixel += 9 * inputs * outputs
            inputs += outputs
        gate = Macs(0, 0) if self.gate is None else self.gate.macs(len(self.slim) * inner)
        return Macs(pixel + inputs * channels + gate.pixel, gate.image)


class AnySR(Backbone):
    """What both networks share: which subnet runs, decided before the trunk by the larger scale or by a budget.

    They are told the vertical and horizontal scale: `Task.axes`, or `Task.scale` for both; without either they are 1.

    Routing unit k is what width k + 1 adds to width k: the subnets are the decisions 000, 100, 110 and 111, and the
    smallest one is `Cost.fixed`. `cost` is fvcore's count: 16 c (EDSR) or 32 c (RDN) a pixel of it are the means of the
    gates, and their maps cost the same for any image. Without them (`enhanced=False`) it is the convolutions alone,
    628 416 to 1 218 240 a pixel of EDSR-baseline and 19 032 000 to 21 964 480 of RDN.

    Attributes:
        inner: c of each subnet, from narrow to wide.
        units: names of the steps, as `Routing.units`: "width 0.7" is what runs beyond the next narrower one.
    """

    def _slim(
        self, channels: int, widths: Sequence[float], scale_groups: Sequence[float], rule: Rule, enhanced: bool
    ) -> None:
        """Take the options that both have; see there for what is refused."""
        name, rising = type(self).__name__, list(pairwise(widths))
        if not rising or widths[0] <= 0 or widths[-1] != 1 or any(a >= b for a, b in rising):
            raise ValueError(f"{name} needs two widths or more that rise from above 0 to 1, got {list(widths)}")
        if len(scale_groups) != len(rising) or any(a >= b for a, b in pairwise([1.0, *scale_groups])):
            raise ValueError(
                f"{name} needs scale_groups above 1 that rise, one fewer than its {len(widths)} widths, "
                f"got {list(scale_groups)}"
            )
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
        self.inner = [int(channels * width) for width in widths]
        if self.inner[0] < 1:
            raise ValueError(f"{name} has no channel left at widths={list(widths)} of {channels}")
        self.units = tuple(f"width {width:g}" for width in widths[1:])
        self.ends = [round(10 * end) for end in scale_groups]  # tenths
        self.rule = rule
        self.sub_mean = MeanShift()
        if enhanced:  # means over the image
            self.unbounded, self.halo = True, min(ATTENTION_HALO, self.halo)

    @abstractmethod
    def trunk(self, image: Tensor, code: Tensor, inner: int) -> Tensor:
        """(B, 3, H, W), and (B, 2) scales as the gates see them -> (B, C, H, W), at c inner channels."""

    @abstractmethod
    def macs(self, inner: int) -> Macs:
        """Of the subnet with c inner channels."""

    def forward(self, image: Tensor, task: Task) -> Features:
        if task.routing is None:
            steps = self._steps(image, task)
            routing = self._routing(steps, image)
        else:
            routing, steps = task.routing, _followed(task.routing)
        return Features(self._grouped(image, self.code(image, task), steps), image, routing)

    def _grouped(self, image: Tensor, code: Tensor, steps: list[int]) -> Tensor:
        """Samples of one width run together."""
        if len(set(steps)) == 1:
            return self.trunk(image, code, self.inner[steps[0]])
        parts, order = [], []
        for step in sorted(set(steps)):
            rows = [row for row, its_step in enumerate(steps) if its_step == step]
            parts.append(self.trunk(image[rows], code[rows], self.inner[step]))
            order += rows
        return torch.cat(parts)[torch.tensor(order, device=image.device).argsort()]

    def route(self, image: Tensor, task: Task) -> Routing:
        """The widest subnet that a budget pays for, whatever the scale; without a budget, that of the scale's group."""
        return self._routing(self._steps(image, task), image)

    def _routing(self, steps: list[int], image: Tensor) -> Routing:
        rows = [[float(unit < step) for unit in range(len(self.units))] for step in steps]
        decisions = torch.tensor(rows, device=image.device)
        return Routing(decisions, decisions, None, self.units)

    def _steps(self, image: Tensor, task: Task) -> list[int]:
        """Which subnet each sample runs, from 0; a budget below the smallest runs the smallest."""
        if task.budget is not None:
            cost, paid = self.cost(*image.shape[-2:]), task.budget * (1 + 1e-9)
            costs = [cost.fixed + sum(cost.units[:step]) for step in range(1, len(self.inner))]
            return [sum(macs <= paid * cost.full for macs in costs)] * len(image)
        return [self._group(scale) for scale in self._told(image, task).amax(dim=1).tolist()]

    def _group(self, scale: float) -> int:
        """The subnet of a scale: of the first group whose end is not below it, the last beyond all ends."""
        tenths = round(10 * scale)
        listed = tenths >= SMALLEST and abs(10 * scale - tenths) < ON_GRID
        return len(self.ends) if self.rule == "official" and not listed else bisect_left(self.ends, tenths)

    def _told(self, image: Tensor, task: Task) -> Tensor:
        """(B, 2) vertical and horizontal scale; to a tenth (2.25: 2.3) where the rule is the nearest group."""
        scales = axes_of(image, task)
        return (10 * scales + 0.5).floor() / 10 if self.rule == "nearest_group" else scales

    def code(self, image: Tensor, task: Task) -> Tensor:
        """(B, 2) what the gates see of the scales: both are negative where ten times the larger is an odd number."""
        told = self._told(image, task)
        tenths = 10 * told.amax(dim=1, keepdim=True)
        odd = (tenths.round().remainder(2) == 1) & ((tenths - tenths.round()).abs() < ON_GRID)
        return torch.where(odd, -told, told).to(image.dtype)

    def cost(self, height: int, width: int) -> Cost:
        """By formula; see the class for what the count includes."""
        found = [height * width * macs.pixel + macs.image for macs in map(self.macs, self.inner)]
        return Cost(found[0], tuple(wide - narrow for narrow, wide in pairwise(found)))


def _followed(routing: Routing) -> list[int]:
    """The subnets of decisions that were made elsewhere."""
    rows = routing.decisions.tolist()
    if any(row != sorted(row, reverse=True) or {*row} - {0.0, 1.0} for row in rows):
        raise ValueError(f"decisions of AnySR are steps from its smallest subnet on, such as 1, 1, 0, got {rows}")
    return [int(sum(row)) for row in rows]


class AnyEDSR(AnySR):
    """EDSR with slimmed residual blocks.

    Args:
        channels: F, also of the features.
        blocks: residual blocks.
        widths: share of the inner channels that each subnet keeps, rising to 1; c is rounded down.
        scale_groups: the upper ends of the scale groups, one fewer than widths: larger scales run the whole network.
        rule: "official": scales that are not of 1.1, 1.2, ... run the whole network, and an odd tenth (1.1, 1.3, ...)
            is told with a minus. "nearest_group": scales are first rounded to a tenth, 2.25 to 2.3, and then told and
            grouped like it; 1 is in the first group.
        enhanced: whether the blocks have the gates that are told the scale.

    Raises:
        ValueError: on a size below 1; on widths, groups or a rule that make no subnets.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 16,
        widths: Sequence[float] = (0.5, 0.7, 0.9, 1.0),
        scale_groups: Sequence[float] = (1.7, 2.5, 3.2),
        rule: Rule = "official",
        enhanced: bool = True,
    ) -> None:
        super().__init__()
        check_widths("AnyEDSR", channels=channels, blocks=blocks)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        residual = [SlimResidualBlock(channels, enhanced) for _ in range(blocks)]
        self.body = nn.Sequential(*residual, nn.Conv2d(channels, channels, 3, padding=1))
        self.out_channels, self.halo = channels, 2 * blocks + 2
        self._slim(channels, widths, scale_groups, rule, enhanced)

    def trunk(self, image: Tensor, code: Tensor, inner: int) -> Tensor:
        *blocks, last = self.body
        head = x = self.head(self.sub_mean(image))
        for block in blocks:
            x = block(x, code, inner)
        return head + last(x)

    def macs(self, inner: int) -> Macs:
        channels, blocks, first = self.out_channels, len(self.body) - 1, self.body[0]
        assert isinstance(first, SlimResidualBlock)
        block = first.macs(inner)
        return Macs(9 * channels * (3 + channels) + blocks * block.pixel, blocks * block.image)


class AnyRDN(AnySR):
    """RDN with slimmed dense blocks.

    Args:
        channels: G0, also of the features.
        growth: G, channels that each dense convolution adds; the inner channels.
        blocks: D, residual dense blocks.
        convs: C, dense convolutions a block.
        widths ... enhanced: see AnyEDSR.

    Raises:
        ValueError: on a size below 1; on widths, groups or a rule that make no subnets.
    """

    def __init__(
        self,
        channels: int = 64,
        growth: int = 64,
        blocks: int = 16,
        convs: int = 8,
        widths: Sequence[float] = (0.7, 0.8, 0.9, 1.0),
        scale_groups: Sequence[float] = (1.7, 2.5, 3.2),
        rule: Rule = "official",
        enhanced: bool = True,
    ) -> None:
        super().__init__()
        check_widths("AnyRDN", channels=channels, growth=growth, blocks=blocks, convs=convs)
        self.SFENet1 = nn.Conv2d(3, channels, 3, padding=1)
        self.SFENet2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.RDBs = nn.ModuleList(SlimDenseBlock(channels, growth, convs, enhanced) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1))
        self.out_channels, self.halo = channels, blocks * convs + 3
        self._slim(growth, widths, scale_groups, rule, enhanced)

    def trunk(self, image: Tensor, code: Tensor, inner: int) -> Tensor:
        shallow = self.SFENet1(self.sub_mean(image))
        x, outputs = self.SFENet2(shallow), []
        for block in self.RDBs:
            x = block(x, code, inner)
            outputs.append(x)
        return shallow + self.GFF(torch.cat(outputs, dim=1))

    def macs(self, inner: int) -> Macs:
        channels, blocks, first = self.out_channels, len(self.RDBs), self.RDBs[0]
        assert isinstance(first, SlimDenseBlock)
        block = first.macs(inner)
        ends = 9 * channels * (3 + channels) + (blocks + 9) * channels**2
        return Macs(ends + blocks * block.pixel, blocks * block.image)
