"""Channels inside a block that only its own layers see: cut where made and read, they leave no trace elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import nn

Kind = Literal["mlp", "msa"]


@dataclass(frozen=True)
class InnerChannels:
    """The hidden channels of an MLP, or the channels on which the heads of an attention work.

    Attributes:
        kind: "mlp" or "msa". An MLP has one layer of channels, between `into` and `out`; attention makes queries, keys
            and values of the same channels.
        heads: h, of an MLP 1; a channel of one head is cut with one of every other, so that heads stay equally wide.
        width: w, channels a head.
        into: its rows make them: h w, or 3 h w for attention (queries, keys, values; head by head each).
        out: its columns `first` ... `first` + h w - 1 read them.
        first: see `out`.
    """

    kind: Kind
    heads: int
    width: int
    into: nn.Linear
    out: nn.Linear
    first: int = 0

    @property
    def copies(self) -> int:
        """How often `into` makes each channel: queries, keys and values of an attention."""
        return 3 if self.kind == "msa" else 1


@dataclass(frozen=True)
class SlimPart:
    """Layers of a block that can run on fewer channels (AnySR), the first of those that they make and read.

    Attributes:
        narrow: 3x3 or 1x1 convolutions or linear maps that may make fewer.
        readers: those that read what is left: of a weight's columns the first, as many as there are inputs.
        gated: the convolution with the gate that is told the scale: on its outputs, or, if it is the last reader, on
            the last of its inputs, as many as the narrow layers make together. None where no layer sees a whole image.
    """

    narrow: tuple[nn.Conv2d | nn.Linear, ...]
    readers: tuple[nn.Conv2d | nn.Linear, ...]
    gated: nn.Conv2d | None


@runtime_checkable
class Slimmable(Protocol):
    """A block that can run on fewer channels."""

    def slim_parts(self) -> Iterator[SlimPart]:
        """In the order in which they run."""


@runtime_checkable
class Cuttable(Protocol):
    """A block whose inner channels can be cut."""

    def inner_channels(self) -> Iterator[InnerChannels]:
        """Those of its attentions and of its MLP, each kind in the order of the network's option for its widths."""


def check_inner_widths(network: str, count: int, what: str, **options: Sequence[int] | None) -> None:
    """Refuse another number of widths than the network has of `what`, or a width below 1, with a ValueError.

    Args:
        options: widths by the name of their option; None for the network's usual ones.
    """
    for name, widths in options.items():
        if widths is None:
            continue
        if not isinstance(widths, list | tuple) or any(type(width) is not int for width in widths):
            raise ValueError(f"{name} must be a list of whole numbers, such as [12, 8], got {widths}")
        if len(widths) != count:
            raise ValueError(f"{name} has {len(widths)} widths for {network} of {count} {what}: one for each, or null")
        if min(widths) < 1:
            at = list(widths).index(min(widths)) + 1
            raise ValueError(f"{name} must be at least 1 in every one of the {what}, got {min(widths)} at number {at}")
