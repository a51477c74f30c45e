"""CAT (zhengchen1999/CAT): CAT-R with rectangular windows, CAT-A with axial ones."""

from __future__ import annotations

import math

from torch import Tensor

from dynres.backbones.cat import CAT, both_shifts, both_windows
from dynres.interop.families.swinir import attention_mask, body, described, names_of, tail_names
from dynres.interop.family import Description, Family, Naming, Node, Rules, State
from dynres.layers.windows import relative_offsets, relative_position_index
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler

BLOCK = "layers.{}.blocks.{}."
ATTENTION = BLOCK + "attns.{}."
POSITION = "attns.0.pos.pos3.2.weight"  # the last of the position MLP: a row a head of its branch
NAMES: Rules = ((r"patch_norm\.", "before_RG.1."),)
TABLES = ("rpe_biases", "relative_position_index", "attn_mask_0", "attn_mask_1")


def extractor(state: State) -> Node | None:
    """A body with its narrower end, and nothing else."""
    found = _body(state)
    return found[0] if found and not found[1] else None


def whole(state: State) -> Description | None:
    """A body under a classical or a same-size tail."""
    found = _body(state)
    # The range of values leaves no trace in the weights: 255 for compression artifacts, the only gray networks.
    return described(*found, 255.0 if found[0]["image_channels"] == 1 else 1.0) if found else None


def naming(restorer: Restorer) -> Naming:
    """Offsets, position indices and masks are constants; the authors make them anew for images unlike their training's.

    The size of training, to which masks belong, leaves no trace in the weights: it is 64 for enlargement and 128 for
    compression artifacts, or the next multiple of the windows.
    """
    backbone, upsampler = restorer.backbone, restorer.upsampler
    assert isinstance(backbone, CAT)
    size = 128 if isinstance(upsampler, GridUpsampler) and upsampler.same_size else 64
    size += -size % backbone.size_multiple
    constants: dict[str, Tensor] = {}
    for group, (depth, short) in enumerate(zip(backbone.depths, backbone.short_sides, strict=True)):
        windows = both_windows(short, backbone.long_side, (size, size))
        shifts = both_shifts(short, backbone.long_side)
        for branch, (window, shift) in enumerate(zip(windows, shifts, strict=True)):
            mask, tables = attention_mask(size, window, shift), {}
            if backbone.long_side:
                index, _ = relative_position_index(window)
                tables = {"rpe_biases": relative_offsets(window), "relative_position_index": index}
            for block in range(depth):
                name = ATTENTION.format(group, block, branch)
                constants |= {name + table: value for table, value in tables.items()}
                if block % 2:
                    constants[BLOCK.format(group, block) + f"attn_mask_{branch}"] = mask
    return Naming(NAMES, tail_names(restorer), constants)


def _body(state: State) -> tuple[Node, dict[str, Tensor]] | None:
    """The backbone of a state dict, and what does not belong to it."""
    steps = ("pos_proj", *(f"pos{step}.{layer}" for step in (1, 2, 3) for layer in (0, 2)))
    position = (f"attns.{branch}.pos.{step}" for branch in (0, 1) for step in steps)
    parts = names_of(("norm1", "qkv", *position, "get_v", "proj", "norm2", "mlp.fc1", "mlp.fc2"))
    found = body(state, BLOCK, parts, "before_RG.1", TABLES)
    if found is None or state[BLOCK.format(0, 0) + POSITION].ndim != 2:
        return None
    windows = _windows(state, len(found[0]["depths"]))
    if windows is None:
        return None
    heads = {"heads": 2 * state[BLOCK.format(0, 0) + POSITION].shape[0]}
    return {"_target_": "dynres.backbones.cat.CAT"} | heads | windows | found[0], found[1]


def _windows(state: State, groups: int) -> Node | None:
    """Their sides, which leave a trace in the authors' tables alone: those of CAT-R if a state dict has no tables."""
    found: list[tuple[int, int | None] | None] = [(4, 16)] * groups
    if any(key.endswith(TABLES) for key in state):
        found = [_sides(state, group) for group in range(groups)]
    known = [sides for sides in found if sides is not None]
    if len(known) < groups or len({long for _, long in known}) > 1:
        return None
    return {"short_sides": [short for short, _ in known], "long_side": known[0][1]}


def _sides(state: State, group: int) -> tuple[int, int | None] | None:
    """(short, long) of a group, from the numbers of tokens and offsets of a window, or of windows under a mask."""
    offsets, index = (state.get(ATTENTION.format(group, 0, 0) + table) for table in TABLES[:2])
    mask = state.get(BLOCK.format(group, 1) + "attn_mask_0")
    if offsets is not None and index is not None and offsets.ndim == index.ndim == 2:
        rows, tokens = offsets.shape[0], index.shape[0]  # (2h - 1)(2w - 1) and h w
        both = (4 * tokens + 1 - rows) // 2  # h + w
        short = (both - math.isqrt(max(both**2 - 4 * tokens, 0))) // 2
        long = both - short
        return (short, long) if short * long == tokens and (2 * short - 1) * (2 * long - 1) == rows else None
    if mask is None or mask.ndim != 3 or 0 in mask.shape:
        return None
    short = math.isqrt(mask.shape[1] // mask.shape[0])  # size / short windows of short * size tokens
    return (short, None) if short and short**2 * mask.shape[0] == mask.shape[1] else None


FAMILY = Family("CAT", (CAT,), extractor, whole, naming)
