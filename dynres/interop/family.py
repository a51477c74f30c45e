"""What is known of an author's code: how its state dicts are recognised, and how its tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynres.backbones.base import Backbone
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer

State = Mapping[str, Tensor]  # of the authors, without wrappers and prefixes
Node = dict[str, Any]  # a class and its options: {"_target_": "dynres.backbones...", ...}
Description = dict[str, Any]  # {"backbone": Node, "upsampler": Node, "image_skip": False, "pixels": {...}}
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Naming:
    """The authors' names of a restorer's tensors.

    Attributes:
        backbone, upsampler: rules (regular expression, replacement) for our names without "backbone." or "upsampler.".
            The first that matches the name's beginning replaces what it matches; other names are theirs already.
        constants: tensors of their state dict that are no weights of ours (mean shifts, index tables, masks, second
            names of one tensor), made anew when exporting and not read when loading.
    """

    backbone: Rules = ()
    upsampler: Rules = ()
    constants: Mapping[str, Tensor] = field(default_factory=dict)


class Family(NamedTuple):
    """One architecture of its authors.

    Attributes:
        name: as the tables call it.
        backbones: our classes.
        extractor: the backbone of a state dict of features alone ("encoder." taken off), or None if it is another's.
        whole: the network of a whole state dict (with its tail), or None if it is another's.
        naming: the authors' names for a restorer whose backbone is one of `backbones`. Under an implicit upsampler the
            backbone's names and constants get "encoder." in front.
        by_name: as `whole`, for a state dict that its user says is this family's, where names and shapes do not tell.
    """

    name: str
    backbones: tuple[type[Backbone], ...]
    extractor: Callable[[State], Node | None]
    whole: Callable[[State], Description | None]
    naming: Callable[[Restorer], Naming]
    by_name: Callable[[State], Description | None] | None = None


def network(backbone: Node, upsampler: Node, mean: Any = 0.5, factor: float = 2.0) -> Description:
    """A description that `build_restorer` takes."""
    return {
        "backbone": backbone,
        "upsampler": upsampler,
        "image_skip": False,
        "pixels": {"mean": list(mean) if isinstance(mean, tuple) else mean, "factor": factor},
    }


def count(state: State, pattern: str) -> int:
    """How many of `pattern` with {} = 0, 1, 2, ... in a row are keys: the number of blocks."""
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def mean_shift(value_range: float = 1.0, mean: tuple[float, ...] = DIV2K_MEAN) -> dict[str, Tensor]:
    """sub_mean and add_mean of EDSR's descendants: 1x1 convolutions with identity weight and bias -/+ range * mean."""
    shift: dict[str, Tensor] = {}
    for name, sign in (("sub_mean", -1.0), ("add_mean", 1.0)):
        shift[f"{name}.weight"] = torch.eye(3).view(3, 3, 1, 1)
        shift[f"{name}.bias"] = sign * value_range * torch.tensor(mean)
    return shift


def value_range(state: State) -> float:
    """The range of values (1 or 255) that a network of EDSR's kind was trained on, from its mean shift."""
    if "sub_mean.bias" not in state:
        return 255.0  # a network without a mean shift: EDSR's framework defaults to 8-bit values
    return round(float(-state["sub_mean.bias"][0]) / DIV2K_MEAN[0], 3)
