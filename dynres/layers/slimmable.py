"""What slimmable networks share: layers on slices of their weights, and gates that are told the scale (AnySR)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.channels import SlimPart
from dynres.layers.precision import full_precision

GROUP = 16  # channels after which the scale pair is inserted


@dataclass
class Subnet:
    """What a network's slimmed layers run at the moment; its owner sets it before each pass.

    The layers are deep inside networks that know nothing of subnets, so that it cannot be an argument. It means nothing
    between passes.

    Attributes:
        step: number of the width, from 0.
        code: (B, 2) what the gates are told.
    """

    step: int = 0
    code: Tensor | None = None


class _Slim:
    """A layer on the first channels of its weights: as many inputs as come, as many outputs as the subnet has.

    Attributes:
        widths: outputs of each subnet; None for all.
        tail: of each subnet, how many of the last inputs pass the gate (of the fusion of a dense block: what its narrow
            convolutions make together, though others stand between them); None: the outputs do.
    """

    subnet: Subnet
    widths: Sequence[int] | None = None
    tail: Sequence[int] | None = None
    gate: FeatureInterweaving | None

    def sliced(self, weight: Tensor, bias: Tensor | None, inputs: int) -> tuple[Tensor, Tensor | None]:
        """Views of its weight and bias."""
        outputs = None if self.widths is None else self.widths[self.subnet.step]
        return weight[:outputs, :inputs], None if bias is None else bias[:outputs]


class SlimConv2d(_Slim, nn.Conv2d):
    """A convolution with zero padding, of stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None and self.tail is not None:
            first = x.shape[1] - self.tail[self.subnet.step]
            x = torch.cat([x[:, :first], self.gate(x[:, first:], self.subnet)], dim=1)
        y = F.conv2d(x, *self.sliced(self.weight, self.bias, x.shape[1]), padding=self.padding)
        return y if self.gate is None or self.tail is not None else self.gate(y, self.subnet)


class SlimLinear(_Slim, nn.Linear):
    """A linear map of the last axis; it has no gate, as it may run on a few tokens of an image at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.sliced(self.weight, self.bias, x.shape[-1]))


def slim(part: SlimPart, widths: Sequence[float], subnet: Subnet, enhanced: bool) -> None:
    """Slim the layers of a part where they are: their names and weights stay; a gate is a module of its layer's.

    Args:
        part: of a network.
        widths: the share of the channels that each subnet keeps, rising to 1; rounded down.
        subnet: where the layers look what runs.
        enhanced: whether to add the gate.

    Raises:
        ValueError: a width that leaves no channel, or a convolution with strides, groups or another padding.
    """
    for layer in (*part.narrow, *part.readers):
        if isinstance(layer, nn.Conv2d) and not _simple(layer):
            raise ValueError(f"only convolutions of stride 1, one group and zero padding can be slimmed, got {layer}")
    kept = [[int(_outputs(layer) * width) for width in widths] for layer in part.narrow]
    if any(each[0] < 1 for each in kept):
        raise ValueError(f"no channel is left at width {widths[0]:g} of {min(map(_outputs, part.narrow))}: widen it")
    for layer in {*part.narrow, *part.readers, *([part.gated] if part.gated is not None else [])}:
        layer.__class__ = SlimConv2d if isinstance(layer, nn.Conv2d) else SlimLinear
        assert isinstance(layer, _Slim)
        layer.subnet, layer.gate = subnet, None
    for layer, each in zip(part.narrow, kept, strict=True):
        assert isinstance(layer, _Slim)
        layer.widths = each
    if enhanced and part.gated is not None:
        assert isinstance(part.gated, SlimConv2d)
        reads = part.gated in part.readers
        part.gated.gate = FeatureInterweaving(sum(map(_outputs, part.narrow)) if reads else _outputs(part.gated))
        part.gated.tail = [sum(each) for each in zip(*kept, strict=True)] if reads else None


def cut_to_subnet(layer: SlimConv2d | SlimLinear, inputs: int) -> None:
    """Leave a layer the weights alone that its subnet of the moment uses of them, where it reads so many channels."""
    weight, bias = layer.sliced(layer.weight, layer.bias, inputs)
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    layer.widths = None
    if layer.gate is not None:
        layer.gate.cut(len(weight) if layer.tail is None else layer.tail[layer.subnet.step])


def _simple(conv: nn.Conv2d) -> bool:
    spread = {*conv.stride, *conv.dilation, conv.groups}
    return spread == {1} and conv.padding_mode == "zeros"


def _outputs(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.weight.shape[0]


def interwoven(means: Tensor, code: Tensor) -> Tensor:
    """(B, c) and (B, 2) -> (B, c + 2 (c // 16)): the pair after every 16 channels; none after a rest (Fig. 3b)."""
    groups = means.shape[1] // GROUP
    full = means[:, : groups * GROUP].reshape(len(means), groups, GROUP)
    told = torch.cat([full, code[:, None].expand(-1, groups, -1)], dim=2).flatten(1)
    return torch.cat([told, means[:, groups * GROUP :]], dim=1)


def _told(channels: int) -> int:
    """Length of what is `interwoven`."""
    return channels + 2 * (channels // GROUP)


class FeatureInterweaving(nn.Module):
    """x times a weight in (0, 1) a channel, from the channels' means and the scale (AnySR, Fig. 3).

    It begins as in the authors' EDSR: Kaiming's normal distribution times 0.1, biases 0.

    Args:
        channels: C at full width. Below 16 no scale is inserted, and channel attention is left.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(_told(channels), 2 * channels, 1)
        self.fc2 = nn.Conv2d(2 * channels, channels, 1)
        for part in (self.fc1, self.fc2):
            assert part.bias is not None
            nn.init.normal_(part.weight, std=0.1 * math.sqrt(2 / part.in_channels))
            nn.init.zeros_(part.bias)

    def cut(self, channels: int) -> None:
        """To the weights that c channels use."""
        for part, outputs, inputs in ((self.fc1, None, _told(channels)), (self.fc2, channels, None)):
            assert part.bias is not None
            part.weight = nn.Parameter(part.weight[:outputs, :inputs].detach().clone())
            part.bias = nn.Parameter(part.bias[:outputs].detach().clone())

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        """(B, c, H, W) with c <= C, and the signed vertical and horizontal scale -> (B, c, H, W)."""
        code = subnet.code
        assert code is not None and self.fc1.bias is not None and self.fc2.bias is not None
        told = interwoven(x.mean(dim=(2, 3), dtype=code.dtype), code)
        with full_precision(x):  # a rounded scale is another one
            hidden = F.relu(F.linear(told, self.fc1.weight[:, : told.shape[1], 0, 0], self.fc1.bias))
            gate = F.linear(hidden, self.fc2.weight[: x.shape[1], :, 0, 0], self.fc2.bias[: x.shape[1]]).sigmoid()
        return x * gate[:, :, None, None].to(x.dtype)
