"""EDSR and EDSR-baseline (sanghyun-son/EDSR-PyTorch; LIIF's copy without tail and without its mean shift)."""

from __future__ import annotations

from dynres.backbones.edsr import EDSR
from dynres.interop.family import (
    DIV2K_MEAN,
    Description,
    Family,
    Naming,
    Node,
    State,
    count,
    mean_shift,
    network,
    value_range,
)
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler

# Tails of EDSR's framework: tail.0 holds the stages, tail.1 is the last convolution.
TAIL = ((r"stages\.", "tail.0."), (r"last\.", "tail.1."))


def extractor(state: State) -> Node | None:
    """head.0, body.N.body.{0,2}, body.last: nothing else has blocks of two convolutions there."""
    blocks = count(state, "body.{}.body.2.weight")
    if not blocks or f"body.{blocks}.weight" not in state or "body.0.body.1.weight" in state:
        return None
    if "body.0.body.3.conv_du.0.weight" in state or any(key.startswith("msa.") for key in state):
        return None
    channels = state["head.0.weight"].shape[0]
    # The factor on residuals leaves no trace in the weights: 0.1 for the wide network, 1 for the baseline.
    return {
        "_target_": "dynres.backbones.edsr.EDSR",
        "channels": channels,
        "blocks": blocks,
        "residual_scale": 0.1 if channels >= 256 else 1.0,
    }


def whole(state: State) -> Description | None:
    """The extractor, and a pixel-shuffle tail."""
    backbone, scale = extractor(state), tail_scale(state)
    if backbone is None or scale is None:
        return None
    upsampler = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    return network(backbone, upsampler, DIV2K_MEAN, value_range(state))


def tail_scale(state: State) -> int | None:
    """The scale of a tail of EDSR's framework: stages of 4F channels enlarge by 2, one of 9F by 3."""
    shapes = [state[key].shape for key in sorted(state) if key.startswith("tail.0.") and key.endswith("weight")]
    if not shapes or "tail.1.weight" not in state:
        return None
    return 3 if shapes[0][0] == 9 * shapes[0][1] else 2 ** len(shapes)


def naming(restorer: Restorer) -> Naming:
    """Names are the authors' already; the mean shift is a constant, which LIIF's copy carries and never calls."""
    whole = isinstance(restorer.upsampler, GridUpsampler)
    return Naming(upsampler=TAIL, constants=mean_shift(restorer.pixels.factor if whole else 1.0))


FAMILY = Family("EDSR", (EDSR,), extractor, whole, naming)
