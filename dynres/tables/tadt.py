"""TADT's tables: costs of extractors (Table 3) and PSNR on DIV2K (Table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from dynres.backbones.base import Backbone
from dynres.cost.counter import count_parameters
from dynres.paths import conf_dir
from dynres.tables.common import Row, finished, number, published_network, show


def mean_macs(backbone: Backbone, long_side: int, short_sides: Mapping[int, int], scale: int) -> float:
    """Mean MACs over validation images, long_side x short_side -> number of images, at 1/scale of their size."""
    total = sum(count * backbone.cost(short // scale, long_side // scale).full for short, count in short_sides.items())
    return total / sum(short_sides.values())


def extractor(network: str) -> Backbone:
    """A backbone of conf/backbone in its published size, on the meta device."""
    return published_network([f"backbone={network}"]).backbone


def cost_rows(table: Mapping[str, Any], known: set[str]) -> Iterator[Row]:
    """Table 3: parameters and MACs, published | ours | difference. A routed network is counted with every branch on."""
    for network, published in table["rows"].items():
        row = [network, *(number(published[key]) for key in ("params", "x2", "x3", "x4"))]
        if network not in known:
            yield [*row, *["-"] * 4, "not here"]
            continue
        backbone, ours = extractor(network), []
        for scale in (2, 3, 4):
            macs = mean_macs(backbone, table["long_side"], table["short_sides"], scale) / 1e9
            theirs = published[f"x{scale}"]
            ours.append(f"{macs:.2f}" + (f" ({macs / theirs - 1:+.2%})" if theirs else ""))
        yield [*row, f"{count_parameters(backbone) / 1e6:.2f}", *ours, published.get("remark", "")]


def psnr_rows(table: Mapping[str, Any], runs: Mapping[tuple[str, str], Any], dataset: str) -> Iterator[Row]:
    """Table 1: for each upsampler and backbone, published and ours at every scale."""
    for upsampler, backbones in table["psnr"].items():
        for backbone, published in backbones.items():
            prefix = {"mstb": "baseline", "tadt": "tadt"}.get(backbone, backbone)
            ours = runs.get((f"{prefix}_{upsampler}", dataset), {})
            cells = [
                f"{number(value)} | {number(ours.get(scale, {}).get('psnr'))}" for scale, value in published.items()
            ]
            yield [upsampler, backbone, *cells]


def costs(published: Mapping[str, Any], runs: Path) -> str:
    """Table 3, printed and as Markdown."""
    known = {path.stem for path in (conf_dir() / "backbone").glob("*.yaml")}
    table = published["table3"]
    rows = list(track(cost_rows(table, known), "counting", len(table["rows"]), console=Console(stderr=True)))
    return show(
        f"Table 3: {table['title']}; {table['convention']}; published, then ours",
        ["backbone", "params", "x2", "x3", "x4", "ours: params", "x2", "x3", "x4", "remark"],
        rows,
    )


def quality(published: Mapping[str, Any], runs: Path) -> str:
    """Table 1, printed and as Markdown."""
    table = published["table1"]
    scales = list(next(iter(next(iter(table["psnr"].values())).values())))
    return show(
        f"Table 1: {table['title']}; published | ours",
        ["upsampler", "backbone", *scales],
        list(psnr_rows(table, finished(runs), "DIV2K")),
    )


TABLES = {"tadt/3": costs, "tadt/1": quality}
