"""SwinIR (JingyunLiang/SwinIR; LTE's copy under an implicit upsampler), and what the files of CAT share with its."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dynres.backbones.swinir import SwinIR
from dynres.interop.family import Description, Family, Naming, Node, Rules, State, count, network
from dynres.layers.pixels import DIV2K_MEAN
from dynres.layers.windows import Sides, relative_position_index, shift_mask, sides
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler
from dynres.upsamplers.pixelshuffle import DirectPixelShuffle, NearestConv, PixelShuffle
from dynres.upsamplers.same_size import SameSize

BLOCK = "layers.{}.residual_group.blocks.{}."
BIAS_TABLE = "attn.relative_position_bias_table"

NAMES: Rules = (
    (r"layers\.(\d+)\.blocks\.(\d+)\.attn\.bias_table", rf"layers.\1.residual_group.blocks.\2.{BIAS_TABLE}"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.proj\.", r"layers.\1.residual_group.blocks.\2.attn.proj."),
    (r"layers\.(\d+)\.blocks\.", r"layers.\1.residual_group.blocks."),
    (r"patch_norm\.", "patch_embed.norm."),
)


def extractor(state: State) -> Node | None:
    """A body, perhaps with its narrower end, and nothing else."""
    found = _body(state)
    return found[0] if found and not found[1] else None


def whole(state: State) -> Description | None:
    """A body and one of the four tails."""
    found = _body(state)
    # The range of values leaves no trace in the weights: 255 for compression artifacts, whose windows are 7 wide.
    return described(*found, 255.0 if found[0]["window"] == 7 else 1.0) if found else None


def naming(restorer: Restorer) -> Naming:
    """Position indices and masks are constants; the authors compute masks anew for images unlike their training's.

    The size of training, to which the masks belong, leaves no trace in the weights. It is taken to be 48 for classical
    networks (those trained on DF2K had 64) and under implicit upsamplers, 64 for lightweight networks and real images,
    126 for compression artifacts (windows of 7) and 128 for noise, or the next multiple of the window.
    """
    backbone, upsampler = restorer.backbone, restorer.upsampler
    assert isinstance(backbone, SwinIR)
    size = 48
    if isinstance(upsampler, DirectPixelShuffle | NearestConv):
        size = 64
    elif isinstance(upsampler, SameSize):
        size = 126 if backbone.window == 7 else 128
    size += -size % backbone.window
    mask = attention_mask(size, backbone.window, backbone.window // 2)
    index, _ = relative_position_index(backbone.window)
    constants: dict[str, Tensor] = {}
    for group, depth in enumerate(backbone.depths):
        for block in range(depth):
            name = BLOCK.format(group, block)
            constants[name + "attn.relative_position_index"] = index
            if block % 2:
                constants[name + "attn_mask"] = mask
    return Naming(NAMES, tail_names(restorer), constants)


def _body(state: State) -> tuple[Node, dict[str, Tensor]] | None:
    """The backbone of a state dict, and what does not belong to it."""
    parts = {BIAS_TABLE} | names_of(("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"))
    found = body(state, BLOCK, parts, "patch_embed.norm", ("relative_position_index", "attn_mask"))
    if found is None:
        return None
    shapes = {tuple(value.shape) for key, value in state.items() if key.endswith(BIAS_TABLE)}
    rows, heads = next(iter(shapes)) if all(len(shape) == 2 for shape in shapes) else (0, 0)
    window = (math.isqrt(rows) + 1) // 2
    if len(shapes) > 1 or not heads or rows != (2 * window - 1) ** 2:
        return None
    return {"_target_": "dynres.backbones.swinir.SwinIR", "heads": heads, "window": window} | found[0], found[1]


def body(
    state: State, block: str, parts: set[str], norm: str, tables: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The options that SwinIR and CAT share, and the weights that do not belong to the body; None if one is missing.

    Args:
        state: of the authors.
        block: name of block {} of group {}.
        parts: names of a block's weights.
        norm: name of the normalisation before the groups.
        tables: last parts of the names of tensors that are no weights.
    """
    weights = {key: value for key, value in state.items() if not key.endswith(tables)}
    groups = count(weights, block.format("{}", 0) + "norm1.weight")
    depths = [count(weights, block.format(group, "{}") + "norm1.weight") for group in range(groups)]
    convolutions = ["conv_after_body", *(f"layers.{group}.conv" for group in range(groups))]
    slim = "conv_after_body.0.weight" in weights
    if slim:
        convolutions = [f"{name}.{number}" for name in convolutions for number in (0, 2, 4)]
    end = "conv_before_upsample.0"
    narrow = [end] if end + ".weight" in weights else []
    names = names_of(("conv_first", norm, "norm", *convolutions, *narrow))
    names |= {block.format(g, b) + part for g, depth in enumerate(depths) for b in range(depth) for part in parts}
    if not groups or not names <= weights.keys():
        return None
    first, hidden = weights["conv_first.weight"], weights[block.format(0, 0) + "mlp.fc1.weight"]
    ends = [weights[f"{name}.weight"] for name in narrow]
    if any(weight.ndim != 4 for weight in (first, *ends)) or hidden.ndim != 2 or first.shape[1] not in (1, 3):
        return None
    options = {
        "embed_dim": first.shape[0],
        "depths": depths,
        "mlp_ratio": hidden.shape[0] / first.shape[0],
        "image_channels": first.shape[1],
        "out_channels": ends[0].shape[0] if ends else None,
        "resi_connection": "3conv" if slim else "1conv",
    }
    return options, {key: value for key, value in weights.items() if key not in names}


def names_of(modules: Iterable[str]) -> set[str]:
    """Their weights and biases."""
    return {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


def tail(state: State, colours: int) -> Node | None:
    """The upsampler of what is left of a state dict once its body is taken off: classical, real, light or same-size."""
    modules = sorted({key.rpartition(".")[0] for key in state})
    if not modules or set(state) != names_of(modules) or any(state[f"{name}.weight"].ndim != 4 for name in modules):
        return None
    outputs, inputs = state[modules[-1] + ".weight"].shape[:2]
    stages, ups = (sum(name.startswith(kind) for name in modules) for kind in ("upsample.", "conv_up"))
    kind, scale = "", 0
    if modules == ["upsample.0"]:
        kind, scale = "pixelshuffle.DirectPixelShuffle", math.isqrt(outputs // colours)
    elif stages and modules == ["conv_last", *(f"upsample.{2 * stage}" for stage in range(stages))]:
        kind, scale = "pixelshuffle.PixelShuffle", 3 if outputs == 9 * inputs else 2**stages
    elif ups and modules == ["conv_hr", "conv_last", *(f"conv_up{up + 1}" for up in range(ups))]:
        kind, scale = "pixelshuffle.NearestConv", 2**ups
    elif modules == ["conv_last"]:
        return {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": colours, "skip": "add"}
    return {"_target_": f"dynres.upsamplers.{kind}", "image_channels": colours, "scale": scale} if kind else None


def described(backbone: Node, rest: State, factor: float) -> Description | None:
    """The whole network, if `rest` is a tail: colour images are seen without DIV2K's mean, gray ones as they are."""
    colours = backbone["image_channels"]
    upsampler = tail(rest, colours)
    return network(backbone, upsampler, DIV2K_MEAN if colours == 3 else 0.0, factor) if upsampler else None


def tail_names(restorer: Restorer) -> Rules:
    """The authors' names of an upsampler's tensors.

    Raises:
        ValueError: for one that is not theirs.
    """
    upsampler = restorer.upsampler
    last = (r"last\.", "conv_last.")
    if isinstance(upsampler, PixelShuffle):
        return (r"stages\.", "upsample."), last
    if isinstance(upsampler, NearestConv):
        return (
            *((rf"stages\.{n}\.", f"conv_up{n + 1}.") for n in range(len(upsampler.stages))),
            (r"hr\.", "conv_hr."),
            last,
        )
    if isinstance(upsampler, DirectPixelShuffle):
        return ((r"last\.", "upsample.0."),)
    if isinstance(upsampler, GridUpsampler) and not (isinstance(upsampler, SameSize) and upsampler.skip == "add"):
        name = type(restorer.backbone).__name__
        raise ValueError(f"{name} has an authors' form only under SameSize(skip=add), not under {upsampler}")
    return (last,)


def attention_mask(size: int, window: Sides, shift: Sides) -> Tensor:
    """(windows, h*w, h*w) float32 masks of a size x size image, 0 and -100, as the authors store them."""
    height, width = sides(window)
    rows, columns = size // height, size // width
    near = [
        shift_mask(window, shift, row == rows - 1, column == columns - 1)
        for row in range(rows)
        for column in range(columns)
    ]
    return torch.where(torch.stack(near), 0.0, -100.0)


FAMILY = Family("SwinIR", (SwinIR,), extractor, whole, naming)
