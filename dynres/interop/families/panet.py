"""PANet and PA-EDSR (SHI-Labs/Pyramid-Attention-Networks). Both store some tensors under several names."""

from __future__ import annotations

import torch
from torch import Tensor

from dynres.backbones.panet import PAEDSR, PANet
from dynres.interop.families.edsr import TAIL, tail_scale
from dynres.interop.family import Description, Family, Naming, Node, State, mean_shift, network, value_range
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler

_ATTENTION = {"query": "conv_match_L_base", "key": "conv_match", "value": "conv_assembly"}
_LEAST_NORM = torch.tensor([1e-4])  # of a patch, a constant that their attention carries
_BODY = (
    *((rf"body\.(\d+)\.{ours}\.", rf"body.\1.{theirs}.") for ours, theirs in _ATTENTION.items()),
    (r"body\.(\d+)\.conv1\.", r"body.\1.body.0."),
    (r"body\.(\d+)\.conv2\.", r"body.\1.body.2."),
)


def pa_edsr(state: State) -> Node | None:
    """EDSR's names, an attention in their middle, and the same tensors as "msa"."""
    middle = _middle(state)
    if middle is None or _named(state) != _layers(middle) | _attention("msa"):
        return None
    return _node("PAEDSR", state, middle)


def panet(state: State) -> Node | None:
    """EDSR's names, an attention in their middle, and one slope under a name in each block."""
    middle = _middle(state)
    if middle is None or _named(state) != _layers(middle) | set(_slopes(middle)):
        return None
    return _node("PANet", state, middle) | {"image_channels": state["head.0.weight"].shape[1]}


def whole_pa_edsr(state: State) -> Description | None:
    """The extractor, and a pixel-shuffle tail."""
    backbone, scale = pa_edsr(state), tail_scale(state)
    if backbone is None or scale is None:
        return None
    upsampler = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    return network(backbone, upsampler, DIV2K_MEAN, value_range(state))


def whole_panet(state: State) -> Description | None:
    """The extractor, and one convolution to colours. Its mean shift is never called, but tells the range of values."""
    backbone = panet(state)
    if backbone is None or {key for key in state if key.startswith("tail.")} != {"tail.0.weight", "tail.0.bias"}:
        return None
    image_channels = backbone["image_channels"]
    head = {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": image_channels, "skip": "none"}
    return network(backbone, head, 0.0, value_range(state))


def naming_pa_edsr(restorer: Restorer) -> Naming:
    """Our attention is the one in the body; "msa" repeats it."""
    assert isinstance(restorer.backbone, PAEDSR)
    middle = restorer.backbone.middle
    constants = {f"{home}.escape_NaN": _LEAST_NORM for home in (f"body.{middle}", "msa")}
    for name, value in restorer.backbone.body[middle].state_dict().items():
        part, _, leaf = name.partition(".")
        constants[f"msa.{_ATTENTION[part]}.{leaf}"] = value
    return Naming(_BODY, TAIL, _shift(restorer) | constants)


def naming_panet(restorer: Restorer) -> Naming:
    """Our slope is the one of the last block; the other blocks' names repeat it."""
    assert isinstance(restorer.backbone, PANet)
    middle, slope = restorer.backbone.middle, restorer.backbone.activation.weight.detach()
    *others, last = _slopes(middle)
    rules = (*_BODY, (r"activation\.weight", last))
    constants = {f"body.{middle}.escape_NaN": _LEAST_NORM} | dict.fromkeys(others, slope)
    return Naming(rules, ((r"last\.", "tail.0."),), _shift(restorer) | constants)


def _middle(state: State) -> int | None:
    """The attention's place in the body: half the number of blocks."""
    head = state.get("head.0.weight")
    if head is None or head.ndim != 4:
        return None
    middle = next((index for index in range(len(state)) if f"body.{index}.conv_match.0.weight" in state), 0)
    return middle or None


def _named(state: State) -> set[str]:
    """The tensors of the extractor, without the constants."""
    ignored = ("sub_mean.", "add_mean.", "tail.")
    return {key for key in state if not key.startswith(ignored) and not key.endswith(".escape_NaN")}


def _layers(middle: int) -> set[str]:
    """Names of the convolutions and of the attention in the body."""
    end = 2 * middle + 1
    blocks = [f"body.{index}.body.{conv}" for index in range(end) if index != middle for conv in (0, 2)]
    convs = {f"{layer}.{leaf}" for layer in ("head.0", *blocks, f"body.{end}") for leaf in ("weight", "bias")}
    return convs | _attention(f"body.{middle}")


def _attention(home: str) -> set[str]:
    return {f"{home}.{part}.{leaf}" for part in _ATTENTION.values() for leaf in ("0.weight", "0.bias", "1.weight")}


def _slopes(middle: int) -> list[str]:
    return [f"body.{index}.body.1.weight" for index in range(2 * middle + 1) if index != middle]


def _node(name: str, state: State, middle: int) -> Node:
    channels = state["head.0.weight"].shape[0]
    return {
        "_target_": f"dynres.backbones.panet.{name}",
        "channels": channels,
        "blocks": 2 * middle,
        "reduction": channels // state[f"body.{middle}.conv_match.0.weight"].shape[0],
    }


def _shift(restorer: Restorer) -> dict[str, Tensor]:
    return mean_shift(restorer.pixels.factor if isinstance(restorer.upsampler, GridUpsampler) else 1.0)


FAMILIES = (
    Family("PANet", (PANet,), panet, whole_panet, naming_panet),
    Family("PA-EDSR", (PAEDSR,), pa_edsr, whole_pa_edsr, naming_pa_edsr),
)
