"""EDSR and RCAN with attention over earlier layers: CLA and ACLA, and what they are compared with (ACLA, Sec. 3-4).

A layer is a residual block of EDSR or a residual group of RCAN. A module after layer j attends from that layer's output
to the outputs of the layers 1 ... j that carry modules (Eq. 3-6), and what it gives goes on to layer j + 1; what later
modules refer to is the layer's output before the module. The supernet of the search has a module after every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.backbones.edsr import EDSR
from dynres.backbones.rcan import RCAN
from dynres.contracts import Cost, Features, Routing, Task
from dynres.cost.counter import count_on_meta
from dynres.layers.cross_layer import CrossLayerAttention, Keys, MaskUnits
from dynres.layers.cross_layer_dense import CrossLayerNonLocal
from dynres.layers.gates import logistic
from dynres.layers.nonlocal_attention import NonLocalBlock
from dynres.layers.relative_attention import RelativeAttention
from dynres.layers.residual import ATTENTION_HALO, ChannelAttention
from dynres.layers.widths import check_widths

Attention = Literal["acla", "cla", "nonlocal", "clnl", "mha", "se"]


class Insertion(NamedTuple):
    """What is inserted into a trunk, and where.

    positions: layers, from 1, after which modules stand; a whole number n: n of them, evenly; "all": every layer.
    attention: "acla"; "cla", which keeps every key; "nonlocal", within a layer; "clnl", to every pixel of the referred
        layers (Eq. 3); "mha" with relative positions; "se", squeeze and excitation.
    keys: K, sampled from each referred map; acla keeps at most so many.
    refer_head: whether the output of the first convolution is referred to as well.
    mask_units, temperature: see CrossLayerAttention.
    searched: acla's supernet with architecture parameters alpha (Eq. 10-11); needs positions="all".
    then_se: squeeze and excitation after each module (Table 11).
    reduction: of squeeze and excitation.
    heads: of mha.
    """

    positions: int | str | Sequence[int]
    attention: Attention = "acla"
    keys: int = 16
    refer_head: bool = False
    mask_units: MaskUnits = "per_key"
    temperature: float = 1.0
    searched: bool = False
    then_se: bool = False
    reduction: int = 16
    heads: int = 8


class CrossLayer(Backbone):
    """A trunk of head, layers, convolution and long skip, with modules inserted. Subclasses build the trunk.

    Attributes:
        positions: layers after which a module stands.
        units: names of the routing units of acla, as `Routing.units`: the convolutions of each module ("layer 12
            module") and its keys in each referred map ("layer 12 keys@3", "layer 12 keys@head"); a decision about keys
            is the share of them that is kept, over all queries.
        alpha: (L,) architecture parameters of a supernet; a module stays where they are not negative. None otherwise.
        gate_temperature: tau of Eq. 10, which the search lowers.
    """

    unbounded = True
    head: nn.Sequential
    body: nn.Sequential

    def _insert(self, channels: int, layers: int, options: Insertion) -> None:
        """Build the modules. Raises ValueError on an option out of range."""
        if options.attention not in get_args(Attention):
            raise ValueError(f"attention must be one of {', '.join(get_args(Attention))}, got {options.attention!r}")
        self.positions = resolved(options.positions, layers)
        self.channels, self.keys, self.refer_head = channels, options.keys, options.refer_head
        self.adaptive = options.attention == "acla"
        if options.searched and (not self.adaptive or len(self.positions) < layers):
            raise ValueError(
                "searched=true needs attention=acla and positions=all: the supernet has a module everywhere"
            )
        self.inserted = nn.ModuleDict()
        for position in self.positions:
            self.inserted[str(position)] = _module(channels, len(self._referred(position)), options)
        self.excited = nn.ModuleDict()
        if options.then_se:
            self.excited.update({str(p): ChannelAttention(channels, options.reduction) for p in self.positions})
        self.alpha = nn.Parameter(torch.ones(layers)) if options.searched else None  # gates mostly open
        self.gate_temperature = 1.0
        self.units = tuple(self._unit_names()) if self.adaptive else ()
        self.halo = min(ATTENTION_HALO, self.halo) if options.attention == "se" else ATTENTION_HALO

    def _referred(self, position: int) -> list[int]:
        """Numbers of the layers that the module at a position refers to; 0 is the head."""
        return [0] * self.refer_head + [other for other in self.positions if other <= position]

    def _unit_names(self) -> Iterator[str]:
        for position in self.positions:
            yield f"layer {position} module"
            yield from (f"layer {position} keys@{other or 'head'}" for other in self._referred(position))

    # ------------------------------------------------------------------------------------------------------ forward

    def forward(self, image: Tensor, task: Task) -> Features:
        head = self.head(image)
        paid = {} if task.budget is None or not self.adaptive else self._paid(task.budget, *image.shape[-2:])
        gates = self._gates(head) if self.alpha is not None else None
        x, maps, decided = head, [head] * self.refer_head, []
        for number, layer in enumerate(list(self.body)[:-1], start=1):
            x = layer(x)
            if str(number) not in self.inserted:
                continue
            maps.append(x)
            if self.adaptive:
                x, decisions = self._adaptive(number, x, maps, paid.get(number), gates)
                decided.append(decisions)
            else:
                x = _attended(self.inserted[str(number)], x, maps)
            if str(number) in self.excited:
                x = self.excited[str(number)](x)
        return Features(head + self.body[-1](x), image, self._routing(decided))

    def _adaptive(
        self, number: int, x: Tensor, maps: list[Tensor], most: float | None, gates: Gates | None
    ) -> tuple[Tensor, Decided]:
        """A module of acla, and what it decided."""
        module = self.inserted[str(number)]
        assert isinstance(module, CrossLayerAttention)
        strength = x.new_ones(()) if gates is None else gates.strength[number - 1]
        absent = gates is not None and not (self.training or x.is_meta or bool(strength))
        if most == 0 or absent:
            # Without keys nothing but h's bias is left; a module that the search dropped leaves nothing.
            assert module.output.bias is not None
            return x if absent else x + module.output.bias[:, None, None], Decided.none(x, len(maps))
        presence = None if gates is None else F.pad(gates.presence[:number], (int(self.refer_head), 0))
        attended, keys = module(x, maps, most, presence)
        if gates is not None:
            attended = x + strength * (attended - x)
        return attended, Decided.of(keys, strength, len(maps))

    def _gates(self, like: Tensor) -> Gates:
        """s_j of every layer: drawn in training (Eq. 10), 1 where alpha >= 0 otherwise."""
        assert self.alpha is not None
        if self.training:
            logit = (self.alpha + logistic(self.alpha)) / self.gate_temperature
            return Gates(torch.sigmoid(logit), F.logsigmoid(logit))
        on = (self.alpha >= 0).to(like.dtype)
        return Gates(on, on.log())

    def _routing(self, decided: list[Decided]) -> Routing | None:
        if not decided:
            return None
        decisions, probabilities = (torch.cat(parts, dim=1) for parts in zip(*decided, strict=True))
        return Routing(decisions, probabilities, None, self.units)

    # -------------------------------------------------------------------------------------------------------- costs

    def cost(self, height: int, width: int) -> Cost:
        """The dispatcher's count; of acla with the convolutions of each module and the keys of each map as units."""
        if not self.adaptive or not self.positions:
            return super().cost(height, width)
        if (height, width) not in self._costs:
            full = count_on_meta(self, torch.empty(1, self.image_channels, height, width, device="meta"), Task())
            units = tuple(height * width * macs for p in self.positions for macs in self._unit_macs(p))
            self._costs[height, width] = Cost(full - sum(units), units)
        return self._costs[height, width]

    def _unit_macs(self, position: int) -> list[int]:
        """MACs a pixel of a module's convolutions, and of all keys in each referred map."""
        module = self.inserted[str(position)]
        convolutions = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d))
        return [convolutions] + [self.keys * self.channels] * len(self._referred(position))

    def _paid(self, budget: float, height: int, width: int) -> dict[int, float]:
        """The share of its keys that a budget pays for in each module.

        The last modules, which refer to most maps, go first when it does not pay the convolutions of all; the keys of
        those that stay share what is left.
        """
        if budget == 1:
            return dict.fromkeys(self.positions, 1.0)
        paid = dict.fromkeys(self.positions, 0.0)
        standing = self.positions if self.alpha is None else self.found()
        cost = self.cost(height, width)
        for count in range(len(standing), 0, -1):
            kept = standing[:count]
            macs = [[height * width * one for one in self._unit_macs(position)] for position in kept]
            keys = sum(sum(one[1:]) for one in macs)
            left = budget * cost.full - cost.fixed - sum(one[0] for one in macs)
            if left >= 0:
                return paid | dict.fromkeys(kept, min(1.0, left / keys))
        return paid

    # ------------------------------------------------------------------------------------------------------- search

    def found(self) -> list[int]:
        """The layers after which a searched supernet keeps its module: alpha >= 0."""
        assert self.alpha is not None
        return [number for number, value in enumerate(self.alpha.tolist(), start=1) if value >= 0]

    def searched_cost(self, routing: Routing, pixels: int) -> Tensor:
        """FLOPs of all inserted modules, sum of s_j cost_j (Eq. 12-13), mean over the batch; a scalar with gradients.

        Eq. 12 to the letter: its sum over k stands before all three terms. The head, if referred to, has s = 1.

        Args:
            routing: of a forward in training; its decisions are s_j and the mean of m over a map's keys and queries.
            pixels: N.
        """
        decisions = dict(zip(routing.units, routing.decisions.mean(dim=0).unbind(), strict=True))
        present = {p: decisions[f"layer {p} module"] for p in self.positions}
        c, k = self.channels, self.keys
        total = routing.decisions.new_zeros(())
        for position in self.positions:
            for other in self._referred(position):
                kept = decisions[f"layer {position} keys@{other or 'head'}"]
                one = k * pixels * (2 * kept * c**2 + 2 * c**2 + 6 * k * c)
                total = total + present[position] * present.get(other, 1.0) * one
        return total


class Gates(NamedTuple):
    """(L,) s_j in [0, 1] and log s_j of a supernet."""

    strength: Tensor
    presence: Tensor


class Decided(NamedTuple):
    """(B, 1 + n) decisions and probabilities of a module: itself, and its keys in each referred map."""

    decisions: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, keys: Keys, strength: Tensor, maps: int) -> Decided:
        assert keys.kept is not None and keys.soft is not None
        own = strength.double().expand(len(keys.kept), 1)
        each = (
            keys.kept[0].numel() / maps
        )  # sums, not means: a mean counts as MACs (dynres.cost), and this is no network
        sums = (values.unflatten(2, (maps, -1)).sum((1, 3), dtype=torch.float64) for values in (keys.kept, keys.soft))
        return cls(*(torch.cat([own, one / each], dim=1) for one in sums))

    @classmethod
    def none(cls, x: Tensor, maps: int) -> Decided:
        zeros = torch.zeros(len(x), 1 + maps, dtype=torch.float64, device=x.device)
        return cls(zeros, zeros)


class CrossLayerEDSR(CrossLayer, EDSR):
    """EDSR with a module after each of the residual blocks `positions`.

    Args:
        channels, blocks, residual_scale, image_channels: see EDSR.
        positions ... heads: see Insertion. Table 9 has 3, 12, 26, 31, 32 of 32 blocks for super-resolution.

    Raises:
        ValueError: on an option out of range.
    """

    def __init__(
        self,
        channels: int,
        blocks: int,
        residual_scale: float,
        positions: int | str | Sequence[int],
        attention: Attention = "acla",
        keys: int = 16,
        refer_head: bool = False,
        mask_units: MaskUnits = "per_key",
        temperature: float = 1.0,
        searched: bool = False,
        then_se: bool = False,
        reduction: int = 16,
        heads: int = 8,
        image_channels: int = 3,
    ) -> None:
        super().__init__(channels, blocks, residual_scale, image_channels)
        options = Insertion(
            positions, attention, keys, refer_head, mask_units, temperature, searched, then_se, reduction, heads
        )
        self._insert(channels, blocks, options)


class CrossLayerRCAN(CrossLayer, RCAN):
    """RCAN with a module after each of the residual groups `positions`.

    Args:
        channels, groups, blocks, image_channels: see RCAN; reduction serves squeeze and excitation here and there.
        positions ... heads: see Insertion. Table 9 has 1, 3, 5, 9 of 10 groups.

    Raises:
        ValueError: on an option out of range.
    """

    def __init__(
        self,
        positions: int | str | Sequence[int],
        channels: int = 64,
        groups: int = 10,
        blocks: int = 20,
        reduction: int = 16,
        attention: Attention = "acla",
        keys: int = 16,
        refer_head: bool = False,
        mask_units: MaskUnits = "per_key",
        temperature: float = 1.0,
        searched: bool = False,
        then_se: bool = False,
        heads: int = 8,
        image_channels: int = 3,
    ) -> None:
        super().__init__(channels, groups, blocks, reduction, image_channels=image_channels)
        options = Insertion(
            positions, attention, keys, refer_head, mask_units, temperature, searched, then_se, reduction, heads
        )
        self._insert(channels, groups, options)


def resolved(positions: Any, layers: int) -> tuple[int, ...]:
    """Layers from 1 to `layers`, in order, from what `Insertion.positions` may say.

    Raises:
        ValueError: on anything else.
    """
    if positions == "all":
        return tuple(range(1, layers + 1))
    if type(positions) is int and 1 <= positions <= layers:
        return tuple(round(layers * (index + 1) / positions) for index in range(positions))
    listed = list(positions) if isinstance(positions, Sequence) and not isinstance(positions, str) else None
    if (
        listed is None
        or any(type(p) is not int or not 1 <= p <= layers for p in listed)
        or len(set(listed)) < len(listed)
    ):
        raise ValueError(
            f"positions must be different layers from 1 to {layers}, such as [1, {layers}], or how many to spread "
            f"evenly, or all; got {positions}"
        )
    return tuple(sorted(listed))


def _attended(module: nn.Module, x: Tensor, maps: list[Tensor]) -> Tensor:
    """What a module that decides nothing makes of x."""
    if isinstance(module, CrossLayerAttention):
        return module(x, maps)[0]
    out: Tensor = module(x, maps) if isinstance(module, CrossLayerNonLocal) else module(x)
    return out


def _module(channels: int, maps: int, options: Insertion) -> nn.Module:
    """One module that refers to so many maps."""
    if options.attention in ("acla", "cla"):
        adaptive = options.attention == "acla"
        return CrossLayerAttention(channels, maps, options.keys, adaptive, options.mask_units, options.temperature)
    if options.attention == "clnl":
        return CrossLayerNonLocal(channels, maps, channels)
    if options.attention == "nonlocal":
        return NonLocalBlock(channels, channels)
    if options.attention == "mha":
        check_widths("multi-head attention", heads=options.heads)
        return RelativeAttention(channels, options.heads)
    return ChannelAttention(channels, options.reduction)
