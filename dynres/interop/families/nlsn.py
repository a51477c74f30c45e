"""NLSN (HarukiYqM/Non-Local-Sparse-Attention), the tables' NLSA."""

from __future__ import annotations

from dynres.backbones.nlsn import NLSN
from dynres.interop.families.edsr import TAIL, tail_scale
from dynres.interop.family import Description, Family, Naming, Node, State, mean_shift, network, value_range
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler

_BODY = (
    (r"body\.(\d+)\.match\.", r"body.\1.conv_match.0."),
    (r"body\.(\d+)\.assembly\.", r"body.\1.conv_assembly.0."),
)


def extractor(state: State) -> Node | None:
    """head.0, then body.N: attentions (conv_match, conv_assembly) at equal distances, the first and the last included.

    "last" is the tables' convolution to fewer channels, which the authors' own network lacks. Chunk, rounds of hashing
    and the factor on residuals leave no trace in the weights: they are the published ones.
    """
    found = {key for key in state if not key.startswith(("sub_mean.", "add_mean.", "tail."))}
    attentions = [index for index in range(len(found)) if f"body.{index}.conv_match.0.weight" in found]
    if len(attentions) < 2:
        return None
    every, end = attentions[1] - 1, attentions[-1] + 1
    blocks = [index for index in range(end) if index % (every + 1)]
    layers = ["head.0", f"body.{end}", *(f"body.{index}.body.{conv}" for index in blocks for conv in (0, 2))]
    layers += [f"body.{i}.conv_{part}.0" for i in range(0, end, every + 1) for part in ("match", "assembly")]
    layers += ["last"] if "last.weight" in found else []
    if found != {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}:
        return None
    if state["head.0.weight"].ndim != 4:
        return None
    channels = state["head.0.weight"].shape[0]
    return {
        "_target_": "dynres.backbones.nlsn.NLSN",
        "channels": channels,
        "blocks": len(blocks),
        "attention_every": every,
        "reduction": channels // state["body.0.conv_match.0.weight"].shape[0],
        "out_channels": state["last.weight"].shape[0] if "last.weight" in found else None,
    }


def whole(state: State) -> Description | None:
    """The extractor without "last", and a pixel-shuffle tail."""
    backbone, scale = extractor(state), tail_scale(state)
    if backbone is None or scale is None or backbone["out_channels"] is not None:
        return None
    upsampler = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    return network(backbone, upsampler, DIV2K_MEAN, value_range(state))


def naming(restorer: Restorer) -> Naming:
    """The mean shift is a constant."""
    whole = isinstance(restorer.upsampler, GridUpsampler)
    return Naming(_BODY, TAIL, mean_shift(restorer.pixels.factor if whole else 1.0))


FAMILY = Family("NLSN", (NLSN,), extractor, whole, naming)
