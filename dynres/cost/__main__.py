"""python -m dynres.cost backbone=NAME size=[H,W] [upsampler=NAME scale=S] [format=table|json] [KEY=VALUE ...]

Parameters and MACs of a feature extractor on an H x W low-resolution image, every branch on; with `upsampler=` also the
decoding to `scale`. Nothing is computed: the networks are built on the meta device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dynres.backbones.base import Backbone
from dynres.build import build_restorer, compose_checked, network_description
from dynres.contracts import Task
from dynres.cost.counter import CONVENTIONS, Convention, count_macs, count_parameters
from dynres.errors import UserError, clean_exit
from dynres.nodes import check_options, make, plain
from dynres.restorer import Restorer, output_size
from dynres.upsamplers.base import GridUpsampler

_OWN = ("size", "scale", "format", "convention")
USAGE = "dynres.cost backbone=NAME size=[H,W] [upsampler=NAME scale=S] [format=table|json] [convention=fvcore|thop|all]"


def measure(
    network: Backbone | Restorer, size: tuple[int, int], convention: Convention, scale: float
) -> dict[str, int]:
    """{"params", "macs"} for one (H, W) image, every branch on; of a backbone, or of a restorer decoding to a scale.

    The network lives on the meta device: no memory, no arithmetic. A head of convolutions runs behind its backbone; any
    other is counted by its formula, under the fvcore convention. A network that may leave early runs to its end.

    Raises:
        UserError: a head of one scale at another.
    """
    backbone = network.backbone if isinstance(network, Restorer) else network
    head = network.upsampler if isinstance(network, Restorer) else None
    one = torch.ones(1, device="meta")
    if head is not None and head.same_size:  # which works on the enlarged image
        size, scale = output_size(size, scale, None), 1.0
    if head is not None and head.scale not in (None, 1, scale):
        raise UserError(f"this head enlarges by {head.scale}, not {scale:g}: set task.scale={scale:g}")
    image = torch.empty(1, backbone.image_channels, *size, device="meta")
    task = Task(one, budget=None if backbone.regional else 1.0, noise=one if backbone.wants_noise else None)
    network.eval()
    if isinstance(head, GridUpsampler):
        macs = count_macs(lambda: head(backbone(image, task)), convention)
    else:
        macs = count_macs(lambda: backbone(image, task), convention)
        macs += 0 if head is None else head.macs(*size, output_size(size, scale, None))
    return {"params": count_parameters(network, convention), "macs": macs}


def _options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """(this command's options, overrides for the configuration)."""
    own, overrides = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"expected KEY=VALUE, got {argument!r}; usage: {USAGE}")
        if key in _OWN:
            own[key] = value
        else:
            overrides.append(argument)
    return own, overrides


def _size(text: str | None) -> tuple[int, int]:
    try:
        height, width = json.loads(str(text))
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            return height, width
    except (ValueError, TypeError):
        pass
    raise UserError(f"size=[H,W] takes two whole numbers of low-resolution pixels, such as size=[678,1020], got {text}")


def _chosen(text: str, known: Collection[str], name: str) -> str:
    if text not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {text}")
    return text


def _scale(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        scale = float(text)
        output_size((1, 1), scale, None)
    except ValueError as error:
        raise UserError(f"scale={text}: {error}") from error
    return scale


@clean_exit
def main() -> None:
    """The command line."""
    own, overrides = _options(sys.argv[1:])
    size, scale = _size(own.get("size")), _scale(own.get("scale"))
    form = _chosen(own.get("format", "table"), ("table", "json"), "format")
    convention: Any = _chosen(own.get("convention", "fvcore"), CONVENTIONS, "convention")
    with_head = any(override.startswith("upsampler=") for override in overrides)
    if with_head and scale is None:
        raise UserError("upsampler=NAME needs scale=S: decoding costs by output pixel")
    if refused := [override for override in overrides if override.split("=")[0] in ("network", "ckpt")]:
        raise UserError(f"{refused[0]}: costs are those of backbone=NAME; `python -m dynres.interop FILE` shows a file")
    cfg = compose_checked(["profile=paper", "data=demo", "method=assr", *overrides])
    check_options(cfg.backbone, "backbone")
    if with_head:
        check_options(cfg.upsampler, "upsampler", ("in_channels",))
    with torch.device("meta"):
        network = build_restorer(network_description(cfg)) if with_head else make(plain(cfg.backbone), "backbone")
    result = measure(network, size, convention, scale or 1.0) | {"convention": convention}
    if form == "json":
        print(json.dumps(result))
        return
    what = f"{size[0]} x {size[1]} input" + (f", decoded to x{scale:g}" if with_head else ", backbone alone")
    table = Table(title=what, caption=f"{convention}: {CONVENTIONS[convention]}", min_width=60)
    for column in ("params", "GMACs"):
        table.add_column(column, justify="right")
    table.add_row(f"{result['params']:,}", f"{result['macs'] / 1e9:,.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
