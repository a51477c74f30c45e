"""SAN (daitao/SAN, its TrainCode and TestCode)."""

from __future__ import annotations

from functools import partial

import torch

from dynres.backbones.san import NON_LOCAL_REDUCTION, SAN
from dynres.interop.families import edsr
from dynres.interop.family import Family, Naming, Node, State, count
from dynres.restorer import Restorer

_BACKBONE = ((r"(RG\.\d+\.rcab\.\d+)\.body\.", r"\1.conv_first."), (r"non_local\.", "non_local.non_local."))


def extractor(state: State) -> Node | None:
    """head.0, non_local, gamma, RG.N.{rcab.N.conv_first.{0,2},soca.conv_du.{0,2},conv_last}, and what no forward uses.

    None for the authors' later code, a slightly different network with more channels in its non-local module.
    """
    groups, blocks = count(state, "RG.{}.conv_last.weight"), count(state, "RG.0.rcab.{}.conv_first.0.weight")
    inside = [f"rcab.{block}.conv_first.{conv}" for block in range(blocks) for conv in (0, 2)]
    inside += ["soca.conv_du.0", "soca.conv_du.2", "conv_last"]
    names = [f"RG.{group}.{name}" for group in range(groups) for name in inside]
    names += ["head.0", *(f"non_local.non_local.{name}" for name in ("g", "theta", "phi", "W"))]
    used = {key: value for key, value in state.items() if key not in _unused(groups, 1)}
    if not groups or not edsr.holds_only(used, *names, alone=("gamma",)):
        return None
    squeeze, channels = state["RG.0.soca.conv_du.0.weight"].shape[:2]
    if state["non_local.non_local.g.weight"].shape[0] != max(1, channels // NON_LOCAL_REDUCTION):
        return None
    return {
        "_target_": "dynres.backbones.san.SAN",
        "channels": channels,
        "groups": groups,
        "blocks": blocks,
        "reduction": channels // squeeze,
    }


def naming(restorer: Restorer) -> Naming:
    """Their state dicts hold weights that nothing reads: a convolution, an attention, and a scale for each group."""
    found, backbone = edsr.naming(restorer), restorer.backbone
    assert isinstance(backbone, SAN)
    unused = _unused(len(backbone.RG), backbone.out_channels)
    return Naming(_BACKBONE, found.upsampler, {**found.constants, **unused})


def _unused(groups: int, channels: int) -> dict[str, torch.Tensor]:
    squeeze = max(1, channels // NON_LOCAL_REDUCTION)
    return {
        "conv_last.weight": torch.zeros(channels, channels, 3, 3),
        "conv_last.bias": torch.zeros(channels),
        "non_local.soca.conv_du.0.weight": torch.zeros(squeeze, channels, 1, 1),
        "non_local.soca.conv_du.0.bias": torch.zeros(squeeze),
        "non_local.soca.conv_du.2.weight": torch.zeros(channels, squeeze, 1, 1),
        "non_local.soca.conv_du.2.bias": torch.zeros(channels),
    } | {f"RG.{group}.gamma": torch.zeros(1) for group in range(groups)}


FAMILY = Family("SAN", (SAN,), extractor, partial(edsr.whole, extractor=extractor), naming)
