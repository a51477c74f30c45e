"""AnySR: any network of residual blocks, run at fewer inner channels for small scales, with features told the scale.

Zhan et al., "AnySR: Realizing Image Super-Resolution as Any-Scale, Any-Resource", Fig. 2-3; what the paper leaves open
is as in the authors' code (CrispyFeSo4/AnySR), to whose EDSR and RDN the features are equal within 2e-5 (tests/golden).

A subnet runs on the first channels of every slimmed weight; a slice is a view.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone, axes_of
from dynres.contracts import Cost, Features, Routing, Task
from dynres.cost.counter import count_on_meta
from dynres.layers.channels import InnerChannels, SlimPart
from dynres.layers.pixels import DIV2K_MEAN
from dynres.layers.residual import ATTENTION_HALO
from dynres.layers.slimmable import Subnet, slim

Rule = Literal["official", "nearest_group"]

SMALLEST = 11  # tenths: the authors' list of scales begins at 1.1
ON_GRID = 1e-4  # tenths: float32 leaves less of a scale up to 30


class MeanShift(nn.Module):
    """W x + b for the colours of a pixel; W the identity and b = -mean unless a checkpoint says otherwise.

    The mean is DIV2K's of images in [0, 1], subtracted from one in [-1, 1] all the same.
    The authors meant it to be fixed and trained it by mistake, so that their files may hold anything; here it is loaded
    and not trained. Element by element, as all conversions of colours: exact under autocast, and not counted as MACs.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3).view(3, 3, 1, 1))
        self.register_buffer("bias", -torch.tensor(DIV2K_MEAN))

    def forward(self, x: Tensor) -> Tensor:
        mixing = self.weight - torch.eye(3, device=x.device).view(3, 3, 1, 1)
        out = x + self.bias[:, None, None]  # x leads: what follows keeps its memory format
        for colour in range(3):
            out = torch.addcmul(out, x[:, colour : colour + 1], mixing[:, colour])
        return out


class AnySR(Backbone):
    """A network whose residual blocks run at a share of their inner channels, by the larger scale or by a budget.

    It is told the vertical and horizontal scale: `Task.axes`, or `Task.scale` for both; without either they are 1.

    What is slimmed is what the blocks offer (`Backbone.slim_parts`): the channels between the two convolutions of a
    residual block, every other convolution in the second half of a dense block, the hidden channels of an MLP. The gate
    stands behind the first of the two convolutions, before the fusion of a dense block, and, in transformers, behind
    the convolution that ends a group of blocks: their MLPs see tokens and no image.

    Subnets are numbered by `step` from 0, the narrowest, one for each of `widths`; a scale belongs to a group, and so
    to a step, by the tenths at which groups end. Routing unit k is what step k + 1 adds to step k: the subnets are the
    decisions 000, 100, 110 and 111, and the smallest one is `Cost.fixed`.

    Args:
        network: a network that decides nothing itself; it is slimmed in place and keeps the names of its weights.
        widths: share of the inner channels that each subnet keeps, rising to 1; channels are rounded down.
        scale_groups: the upper ends of the scale groups, one fewer than widths: larger scales run the whole network.
        rule: "official": scales that are not of 1.1, 1.2, ... run the whole network, and are told as they are.
            "nearest_group": scales are first rounded to a tenth (2.25 to 2.2), and then told and grouped like it; 1 is
            in the first group. By either, a scale of an odd tenth (1.1, 1.3, ...) is told with a minus.
        enhanced: any-scale enhancement: whether the blocks have the gates that are told the scale.
        mean_shift: whether DIV2K's mean is subtracted from the image first, as in the authors' networks.

    Attributes:
        units: names of the steps, as `Routing.units`: "width 0.7" is what runs beyond the next narrower one.

    Raises:
        ValueError: on widths, groups or a rule that make no subnets; on a network that has nothing to slim.
    """

    def __init__(
        self,
        network: Backbone,
        widths: Sequence[float] = (0.5, 0.7, 0.9, 1.0),
        scale_groups: Sequence[float] = (1.7, 2.5, 3.2),
        rule: Rule = "nearest_group",
        enhanced: bool = True,
        mean_shift: bool = False,
    ) -> None:
        super().__init__()
        _check_numbers(widths=widths, scale_groups=scale_groups)
        if not isinstance(network, Backbone):
            raise ValueError(f"AnySR needs a network inside, such as edsr_baseline's, got {network}")
        rising = list(pairwise(widths))
        if not rising or widths[0] <= 0 or widths[-1] != 1 or any(a >= b for a, b in rising):
            raise ValueError(f"AnySR needs two widths or more that rise from above 0 to 1, got {list(widths)}")
        tenths = [round(10 * end) for end in scale_groups]
        exact = all(abs(10 * end - whole) < ON_GRID for end, whole in zip(scale_groups, tenths, strict=True))
        if len(tenths) != len(rising) or not exact or any(a >= b for a, b in pairwise([10, *tenths])):
            raise ValueError(
                f"AnySR needs scale_groups above 1 that rise by tenths, one fewer than its {len(widths)} widths, "
                f"got {list(scale_groups)}"
            )
        if rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
        parts, name = network.slim_parts(), type(network).__name__
        decides = network.regional or hasattr(network, "units")
        if decides or not any(part.narrow for part in parts):
            why = "decides by itself what runs" if decides else "has no such residual blocks or MLPs"
            raise ValueError(f"AnySR cannot slim {name}: it {why}; take edsr_baseline, edsr, rdn, rcan, swinir or mstb")
        self.subnet = Subnet()
        for part in parts:
            slim(part, widths, self.subnet, enhanced)
        self.widths, self.rule = list(widths), rule
        self.units = tuple(f"width {width:g}" for width in widths[1:])
        self.ends = tenths
        self.sub_mean = MeanShift() if mean_shift else nn.Identity()
        self.network = network
        self.out_channels, self.image_channels, self.scale = network.out_channels, network.image_channels, network.scale
        self.size_multiple, self.wants_noise = network.size_multiple, network.wants_noise
        self.halo, self.unbounded = network.halo, network.unbounded
        if enhanced:  # means over the image
            self.unbounded, self.halo = True, min(ATTENTION_HALO, self.halo)

    def forward(self, image: Tensor, task: Task) -> Features:
        steps = self._steps(image, task) if task.routing is None else _followed(task.routing)
        made = self._grouped(image, task, steps)
        return replace(made, image=image, routing=task.routing or self.decided(steps, image.device))

    def _grouped(self, image: Tensor, task: Task, steps: list[int]) -> Features:
        """Samples of one width run together."""
        if len(set(steps)) == 1:
            return self.run(image, task, steps[0])
        parts, order = [], []
        for step in sorted(set(steps)):
            rows = [row for row, its_step in enumerate(steps) if its_step == step]
            parts.append(self.run(image[rows], _of(task, rows), step))
            order += rows
        whole = torch.cat([part.map for part in parts])[torch.tensor(order, device=image.device).argsort()]
        return replace(parts[0], map=whole)

    def run(self, image: Tensor, task: Task, step: int) -> Features:
        """One subnet; the features' image is the one that the network inside saw."""
        self.subnet.step, self.subnet.code = step, self.code(image, task)
        made = self.network(self.sub_mean(image), replace(task, budget=None, routing=None))
        self.subnet.code = None
        return made

    def route(self, image: Tensor, task: Task) -> Routing:
        """The widest subnet that a budget pays for, whatever the scale; without a budget, that of the scale's group."""
        return self.decided(self._steps(image, task), image.device)

    def decided(self, steps: Sequence[int], device: torch.device | str = "cpu") -> Routing:
        """The decisions that are these subnets, numbered from 0, one a sample."""
        rows = [[float(unit < step) for unit in range(len(self.units))] for step in steps]
        decisions = torch.tensor(rows, device=device)
        return Routing(decisions, decisions, None, self.units)

    def cost(self, height: int, width: int) -> Cost:
        """Counted on the meta device, each subnet once a size, gates with their means included."""
        if (height, width) not in self._costs:
            image = torch.empty(1, self.image_channels, height, width, device="meta")
            noise = torch.empty(1, device="meta") if self.wants_noise else None
            each = (Task(noise=noise, routing=self.decided([step])) for step in range(len(self.widths)))
            macs = [count_on_meta(self, image, task) for task in each]
            self._costs[height, width] = Cost(macs[0], tuple(wide - narrow for narrow, wide in pairwise(macs)))
        return self._costs[height, width]

    def shares(self, height: int, width: int) -> list[float]:
        """The share of the full MACs that each subnet takes of an image: the budget that runs exactly it."""
        cost = self.cost(height, width)
        return [macs / cost.full for macs in accumulate(cost.units, initial=cost.fixed)]

    def slim_parts(self) -> list[SlimPart]:
        """None: it is slimmed already."""
        return []

    def inner_channels(self) -> list[InnerChannels]:
        """None: pruning would cut what its subnets share."""
        return []

    def _steps(self, image: Tensor, task: Task) -> list[int]:
        """Which subnet each sample runs, from 0; a budget below the smallest runs the smallest."""
        if task.budget is None:
            return [self._group(scale) for scale in self._told(image, task).amax(dim=1).tolist()]
        last = len(self.widths) - 1
        if task.budget >= 1:
            return [last] * len(image)
        shares, paid = self.shares(*image.shape[-2:]), task.budget * (1 + 1e-9)
        return [sum(share <= paid for share in shares[1:])] * len(image)

    def _group(self, scale: float) -> int:
        """The subnet of a scale: of the first group whose end is not below it, the last beyond all ends."""
        tenths = round(10 * scale)
        listed = tenths >= SMALLEST and abs(10 * scale - tenths) < ON_GRID
        return len(self.ends) if self.rule == "official" and not listed else bisect_left(self.ends, tenths)

    def _told(self, image: Tensor, task: Task) -> Tensor:
        """(B, 2) vertical and horizontal scale; to a tenth where the rule is the nearest group."""
        scales = axes_of(image, task)
        return (10 * scales).round() / 10 if self.rule == "nearest_group" else scales

    def code(self, image: Tensor, task: Task) -> Tensor:
        """(B, 2) what the gates see of the scales: both are negative where ten times the larger is an odd number."""
        told = self._told(image, task)
        tenths = 10 * told.amax(dim=1, keepdim=True)
        odd = (tenths.round().remainder(2) == 1) & ((tenths - tenths.round()).abs() < ON_GRID)
        return torch.where(odd, -told, told).to(image.dtype)


def _check_numbers(**options: Any) -> None:
    """Refuse what is no list of numbers, with a ValueError."""
    for name, values in options.items():
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        if not listed or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            raise ValueError(f"{name} must be a list of numbers, such as [0.5, 1.0], got {values}")


def _of(task: Task, rows: list[int]) -> Task:
    """The task of some samples."""
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    each: Any = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(task, **each)


def _followed(routing: Routing) -> list[int]:
    """The subnets of decisions that were made elsewhere."""
    rows = routing.decisions.tolist()
    if any(row != sorted(row, reverse=True) or {*row} - {0.0, 1.0} for row in rows):
        raise ValueError(f"decisions of AnySR are steps from its smallest subnet on, such as 1, 1, 0, got {rows}")
    return [int(sum(row)) for row in rows]
