"""Structured pruning (Lightweight SwinIR, Sec. 3.2.2): score the inner channels of a network's blocks, rank, cut.

What is cut is gone: the result is a smaller dense network of the same class, described by its widths. It equals the
network whose cut channels are multiplied by 0, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynres.errors import UserError
from dynres.layers.channels import InnerChannels, Kind
from dynres.restorer import Restorer

Scope = Literal["mlp", "mlp_msa"]
Ranking = Literal["global", "layer"]
OPTIONS: dict[Kind, str] = {"mlp": "mlp_widths", "msa": "head_widths"}  # of the backbones


def channels_in(restorer: Restorer, scope: str) -> list[InnerChannels]:
    """The channels of a network that a scope ranks: those of the MLPs, or of the attentions too.

    Raises:
        ValueError: an unknown scope, or a network without such channels.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be one of {', '.join(get_args(Scope))}, got {scope}")
    name = type(restorer.backbone).__name__
    found = [inner for inner in restorer.backbone.inner_channels() if inner.kind in scope.split("_")]
    for kind, what in (("mlp", "MLPs"), ("msa", "attentions")):
        if kind in scope.split("_") and not any(inner.kind == kind for inner in found):
            cure = "set scope=mlp" if found else "take swinir, mstb, tadt, flexir or cat_r_2"
            raise ValueError(f"{name} has no {what} whose channels can be cut: {cure}")
    return found


def fresh_scores(channels: Sequence[InnerChannels]) -> nn.ParameterList:
    """a = 1 for every channel: (heads * width,) for each of `channels`."""
    return nn.ParameterList(torch.ones(inner.heads * inner.width) for inner in channels)


def scored(inner: InnerChannels, scores: Tensor) -> RemovableHandle:
    """Multiply channels by their scores wherever the network runs: X* = X diag(a) (Sec. 3.2.2).

    X are an MLP's activations behind its GELU; in an attention its queries, keys and values, each by the same a, since
    they are cut together.

    Args:
        scores: (heads * width,), with its gradient.
    """
    if inner.kind == "mlp":
        return inner.out.register_forward_pre_hook(lambda _, given: (given[0] * scores.to(given[0]),))
    return inner.into.register_forward_hook(lambda _, given, made: made * scores.repeat(inner.copies).to(made))


def _names(restorer: Restorer) -> dict[Tensor, str]:
    """Of its weights."""
    return {parameter: name for name, parameter in restorer.named_parameters()}


def factors(restorer: Restorer, channels: Sequence[InnerChannels], scores: Sequence[Tensor]) -> dict[str, Tensor]:
    """By what to multiply which weights of a network, so that it gives without scores what it gave with them."""
    names = _names(restorer)
    found = {}
    for inner, score in zip(channels, scores, strict=True):
        a = score.detach()
        if inner.kind == "mlp":
            found[names[inner.out.weight]] = a[None, :]
        else:
            found[names[inner.into.weight]] = a.repeat(inner.copies)[:, None]
            found[names[inner.into.bias]] = a.repeat(inner.copies)
    return found


# ---------------------------------------------------------------------------------------------------------- ranking


def ranked(
    channels: Sequence[InnerChannels], scores: Sequence[Tensor], rate: float, ranking: str = "global"
) -> list[Tensor]:
    """Which channels stay: for each of `channels` a (heads, kept) tensor of numbers below its width, ascending.

    MLPs and attentions are ranked apart, by |a|. The channels of each head are put in order, and the n-th of every head
    are cut together, by the mean of their scores: a layer's heads stay equally wide. The last of a layer stays,
    whatever its score.

    Args:
        channels: see `channels_in`.
        scores: (heads * width,) for each.
        rate: share of the channels that is cut, in (0, 1).
        ranking: "global" cuts the lowest of all layers; "layer" the same share of every layer, where it does not come
            out even in turn one more and one less, so that both cut equally many.

    Raises:
        ValueError: a rate or ranking out of range, or more to cut than leaves a channel a head in each layer.
    """
    check_ranking(rate, ranking)
    sizes = [score.detach().abs().view(inner.heads, inner.width) for inner, score in zip(channels, scores, strict=True)]
    kept = [torch.empty(0)] * len(channels)
    for kind in dict.fromkeys(inner.kind for inner in channels):
        mine = [number for number, inner in enumerate(channels) if inner.kind == kind]
        values = [sizes[number].sort(dim=1, descending=True, stable=True) for number in mine]
        cuts = (_lowest if ranking == "global" else _even)([value.values.mean(dim=0) for value in values], rate)
        for number, value, cut in zip(mine, values, cuts, strict=True):
            kept[number] = value.indices[:, : channels[number].width - cut].sort(dim=1).values
    return kept


def check_ranking(rate: float, ranking: str) -> None:
    """Refuse a rate outside (0, 1) or an unknown ranking, with a ValueError."""
    if not 0 < rate < 1:
        raise ValueError(f"rate must lie in (0, 1), got {rate}: 0.25 cuts a quarter of the channels")
    if ranking not in get_args(Ranking):
        raise ValueError(f"ranking must be one of {', '.join(get_args(Ranking))}, got {ranking}")


def _lowest(layers: Sequence[Tensor], rate: float) -> list[int]:
    """How many to cut of each layer, the lowest of all: from the importances of each, falling."""
    number = round(rate * sum(map(len, layers)))
    of = torch.cat([torch.full((len(layer) - 1,), index) for index, layer in enumerate(layers)])
    if number > len(of):
        raise ValueError(f"rate={rate:g} leaves less than one channel a head in each of {len(layers)} layers: lower it")
    lowest = torch.cat([layer[1:].cpu() for layer in layers]).argsort(stable=True)[:number]
    return torch.bincount(of[lowest], minlength=len(layers)).tolist()


def _even(layers: Sequence[Tensor], rate: float) -> list[int]:
    """The same share of each layer."""
    so_far, cuts = 0, []
    for layer in layers:
        cuts.append(round(rate * (so_far + len(layer))) - round(rate * so_far))
        so_far += len(layer)
        if cuts[-1] >= len(layer):
            raise ValueError(f"rate={rate:g} leaves nothing of a layer of {len(layer)} channels a head: lower it")
    return cuts


# ---------------------------------------------------------------------------------------------------------- cutting


@torch.no_grad()
def cut(
    restorer: Restorer, channels: Sequence[InnerChannels], kept: Sequence[Tensor], scores: Sequence[Tensor]
) -> Restorer:
    """The smaller network, with the scores folded into its weights.

    Args:
        restorer: built from a description; it stays as it is.
        channels: of its blocks, see `channels_in`.
        kept: which of them stay, see `ranked`.
        scores: by which it multiplied them.

    Raises:
        UserError: a network whose widths cannot be described.
    """
    if restorer.description is None:
        raise UserError("this network was put together by hand: build it with Restorer.from_description to prune it")
    of = {inner.into: (chosen.cpu(), number) for number, (inner, chosen) in enumerate(zip(channels, kept, strict=True))}
    state = {name: value.clone() for name, value in restorer.state_dict().items()}
    for name, factor in factors(restorer, channels, scores).items():
        state[name] *= factor.to(state[name])
    names = _names(restorer)
    columns: dict[str, list[Tensor]] = {}
    widths: dict[Kind, list[int]] = {}
    for inner in restorer.backbone.inner_channels():
        chosen = of[inner.into][0] if inner.into in of else torch.arange(inner.width).repeat(inner.heads, 1)
        widths.setdefault(inner.kind, []).append(chosen.shape[1])
        rows = (chosen + inner.width * torch.arange(inner.heads)[:, None]).flatten()
        columns.setdefault(names[inner.out.weight], []).append(inner.first + rows)
        total = inner.heads * inner.width
        every = torch.cat([rows + total * copy for copy in range(inner.copies)])
        for name in (names[inner.into.weight], names[inner.into.bias]):
            state[name] = state[name][every.to(state[name].device)]
            if inner.kind == "msa":  # the attention divides by the root of what is left
                state[name][: len(rows)] *= math.sqrt(chosen.shape[1] / inner.width)
    for name, some in columns.items():
        state[name] = state[name][:, torch.cat(some).to(state[name].device)]
    options = {OPTIONS[kind]: widths[kind] for kind in dict.fromkeys(inner.kind for inner in channels)}
    description: dict[str, Any] = dict(restorer.description)
    description["backbone"] = {**description["backbone"], **options}
    description["backbone"].pop("calibration", None)  # FlexIR's, measured on what is no longer there
    made = Restorer.from_description(description).to(next(iter(state.values())))
    made.load_state_dict(state)
    return made
