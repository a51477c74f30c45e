"""EDSR and EDSR-baseline (sanghyun-son/EDSR-PyTorch; LIIF's copy without tail and without its mean shift).

Also what every network of EDSR's framework shares: its tail, its mean shift, and the test for exactly these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from dynres.backbones.edsr import EDSR
from dynres.interop.family import Description, Family, Naming, Node, State, count, mean_shift, network, value_range
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler

# Tails of EDSR's framework: tail.0 holds the stages, tail.1 is the last convolution.
TAIL = ((r"stages\.", "tail.0."), (r"last\.", "tail.1."))
SHIFT = mean_shift().keys()


def extractor(state: State) -> Node | None:
    """head.0, body.N.body.{0,2} and body.last, and nothing else."""
    blocks = count(state, "body.{}.body.2.weight")
    convs = [f"body.{block}.body.{conv}" for block in range(blocks) for conv in (0, 2)]
    if not blocks or not holds_only(state, "head.0", *convs, f"body.{blocks}"):
        return None
    channels = state["head.0.weight"].shape[0]
    # The factor on residuals leaves no trace in the weights: 0.1 for the wide network, 1 for the baseline.
    return {
        "_target_": "dynres.backbones.edsr.EDSR",
        "channels": channels,
        "blocks": blocks,
        "residual_scale": 0.1 if channels >= 256 else 1.0,
    }


def whole(state: State, extractor: Callable[[State], Node | None]) -> Description | None:
    """An extractor of EDSR's framework, its pixel-shuffle tail and its mean shift."""
    backbone = extractor({key: value for key, value in state.items() if not key.startswith("tail.")})
    scale = tail_scale(state)
    if backbone is None or scale is None:
        return None
    upsampler = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    return network(backbone, upsampler, DIV2K_MEAN, value_range(state))


def holds_only(state: State, *layers: str, alone: Iterable[str] = ()) -> bool:
    """Whether its keys are weights and biases of these layers and the tensors `alone`, with or without a mean shift."""
    expected = {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    return state.keys() - SHIFT == expected.union(alone)


def tail_scale(state: State) -> int | None:
    """The scale of a tail of EDSR's framework: stages of 4F channels enlarge by 2, one of 9F by 3."""
    tail = {key: value for key, value in state.items() if key.startswith("tail.")}
    stages = [f"tail.0.{2 * stage}" for stage in range(len(tail) // 2 - 1)]
    if not stages or not holds_only(tail, *stages, "tail.1"):
        return None
    outputs, inputs = tail[f"{stages[0]}.weight"].shape[:2]
    return 3 if outputs == 9 * inputs else 2 ** len(stages)


def naming(restorer: Restorer) -> Naming:
    """Names are the authors' already; the mean shift is a constant, which LIIF's copy carries and never calls."""
    whole = isinstance(restorer.upsampler, GridUpsampler)
    return Naming(upsampler=TAIL, constants=mean_shift(restorer.pixels.factor if whole else 1.0))


FAMILY = Family("EDSR", (EDSR,), extractor, partial(whole, extractor=extractor), naming)
