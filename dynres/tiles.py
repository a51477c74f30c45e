"""Which tiles a backbone sees of an image: how they are cut, and how large they may be for the memory there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from dynres.backbones.base import Backbone
from dynres.contracts import Routing
from dynres.layers.tiling import spans

BLEND = 8  # pixels over which neighbouring tiles are faded into each other


class TilePlan(NamedTuple):
    """How a backbone's tiles are cut, in input pixels; see `dynres.layers.tiling.tiled`."""

    tile: int
    overlap: int
    margin: int
    multiple: int


def tile_plan(backbone: Backbone, tile: int) -> TilePlan:
    """The plan for tiles of at most `tile` pixels a side: a multiple of what the backbone would pad to.

    Raises:
        ValueError: if the tile leaves no room beside its overlap; the message gives the smallest that does.
    """
    least = least_tile(backbone)
    if tile < least:
        raise ValueError(f"tile must be at least {least} pixels for this backbone, got {tile}")
    multiple, margin = backbone.size_multiple, backbone.halo
    return TilePlan(tile // multiple * multiple, 2 * margin + BLEND, margin, multiple)


def least_tile(backbone: Backbone) -> int:
    """Side of the smallest tile that leaves room beside its overlap."""
    multiple = backbone.size_multiple
    return -(-(2 * backbone.halo + BLEND + multiple) // multiple) * multiple


def tile_sizes(height: int, width: int, plan: TilePlan) -> list[tuple[int, int]]:
    """(height, width) of every tile that `tiled` evaluates."""
    rows, columns = (spans(side, plan.tile, plan.overlap, plan.multiple) for side in (height, width))
    return [(b - a, d - c) for a, b in rows for c, d in columns]


def fitting_tile(backbone: Backbone, size: tuple[int, int], batch: int, room: int) -> int | None:
    """None where images of size (H, W) fit whole into `room` bytes, else the side of tiles that do.

    It is about the largest, and never below the smallest that the backbone can have, whatever the room.
    """
    whole = batch * backbone.memory(*size)
    if whole <= room:
        return None
    least, longest = least_tile(backbone), max(size)
    tile = min(int(math.sqrt(size[0] * size[1] * max(room, 0) / whole)), longest - 1)
    while tile > least and batch * backbone.memory(tile, tile) > room:  # padding weighs more on a tile
        tile = tile * 7 // 8
    return max(tile, least)


def check_tile(tile: int | str | None) -> None:
    """Refuse what is neither a whole number of pixels, "auto" nor None."""
    if tile not in (None, "auto") and type(tile) is not int:
        raise ValueError(f"tile must be a whole number of pixels or auto, got {tile}")


def merged(decided: Sequence[tuple[Routing, int]]) -> Routing:
    """What a network that decides inside decided for an image, from the (routing, pixels) of its tiles: the mean."""
    shares = [pixels / sum(each for _, each in decided) for _, pixels in decided]
    routings = [routing for routing, _ in decided]
    decisions = torch.stack([one.decisions * share for one, share in zip(routings, shares, strict=True)]).sum(0)
    probabilities = torch.stack([one.probabilities * share for one, share in zip(routings, shares, strict=True)]).sum(0)
    return replace(routings[0], decisions=decisions, probabilities=probabilities)
