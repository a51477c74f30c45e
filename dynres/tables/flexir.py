"""FlexIR's tables: PSNR, SSIM and PSNR-B (Tables 1 and 2), and what each pointer costs (Tables 3 and 4).

Costs are published by thop's convention (dynres.cost), which leaves much out; what a network really holds and
multiplies stands beside. The quality at a pointer or threshold comes from the tradeoff.csv of a run.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from dynres.backbones.flexir import FlexIR
from dynres.cost.__main__ import measure
from dynres.cost.counter import count_parameters
from dynres.restorer import Restorer
from dynres.tables.common import DIGITS, Row, beside, choices, levels_of, number, paper_runs, published_network, show

Measured = Mapping[tuple[str, str, str, str], Mapping[str, float | None]]


def measured(runs: Path) -> Measured:
    """(experiment, test set, level, way) -> metrics, of the newest finished profile=paper run that has each.

    The way through a network with branches is "P=3" or "h=1.05"; it is "" for a run's own test.
    """
    found: dict[tuple[str, str, str, str], Mapping[str, float | None]] = {}
    for folder, result in paper_runs(runs):
        name = result["experiment"]
        for dataset, rows in result["metrics"].items():
            found |= {(name, dataset, level, ""): row for level, row in rows.items()}
        if (path := folder / "tradeoff.csv").is_file():
            with path.open(encoding="utf-8", newline="") as file:
                for line in csv.DictReader(file):
                    values = {metric: float(line[metric]) if line[metric] else None for metric in DIGITS}
                    found[name, line["dataset"], line["label"], line["way"]] = values
    return found


def run_name(network: Sequence[str]) -> str:
    """Under which name a run of these choices without an experiment is found: BACKBONE_UPSAMPLER."""
    chosen = choices(network)
    return f"{chosen['backbone']}_{chosen['upsampler']}"


def quality_rows(
    table: Mapping[str, Any], systems: Mapping[str, Mapping[str, Any] | None], results: Measured
) -> Iterator[Row]:
    """Tables 1 and 2: every system on every test set, published and ours at each level, and its backbone here."""
    for name, datasets in table["rows"].items():
        system, _, way = name.partition(" ")
        here = None if system in table["not_here"] else systems[system]
        experiment = table["experiment"] if way else run_name(here["network"]) if here else ""
        for dataset, levels in datasets.items():
            cells = [
                beside(published, results.get((experiment, dataset, level, way), {}), table["metrics"])
                for level, published in levels.items()
            ]
            yield [name, dataset, *cells, choices(here["network"])["backbone"] if here else "-"]


def cost_rows(table: Mapping[str, Any], results: Measured) -> Iterator[Row]:
    """Tables 3 and 4: published parameters, MACs and quality; ours by the same convention; everything there is."""
    tested = table["tested"]
    for name, row in table["rows"].items():
        network, pointer = published_network(row["network"]), row.get("pointer")
        way = row.get("way") or (f"P={pointer}" if pointer else "")
        if pointer:
            network = pointed(network, pointer)
        experiment = tested["experiment"] if way else run_name(row["network"])
        ours = results.get((experiment, tested["dataset"], tested["level"], way), {})
        yield [
            name,
            number(row["params"]),
            number(row["macs"]),
            beside(row["performance"], ours, tested["metrics"]),
            *costs_beside(network, tuple(table["size"]), row),
            row.get("remark", ""),
        ]


def pointed(network: Restorer, pointer: int) -> Restorer:
    """FlexIR as Tables 3 and 4 count it: the first P blocks with the last one's branch."""
    assert isinstance(network.backbone, FlexIR)
    return Restorer(network.backbone.truncated(pointer), network.upsampler)


def costs_beside(network: Restorer, size: tuple[int, int], row: Mapping[str, Any]) -> Row:
    """Parameters and GMACs by thop with their differences from the published; all parameters and all products."""
    params = count_parameters(network, "thop")
    cells = [f"{params:,} ({params / 1e6 / row['params'] - 1:+.2%})", "-", f"{count_parameters(network):,}", "-"]
    if row["macs"] is not None:
        scale = float(network.upsampler.scale or 1)
        thop, everything = (measure(network, size, name, scale)["macs"] / 1e9 for name in ("thop", "all"))
        cells[1], cells[3] = f"{thop:.3f} ({thop / row['macs'] - 1:+.2%})", f"{everything:.2f}"
    return cells


def quality(key: str, published: Mapping[str, Any], runs: Path) -> str:
    """Table 1 or 2, printed and as Markdown."""
    table = published[key]
    rows = list(quality_rows(table, published["systems"], measured(runs)))
    title = f"Table {key[-1]}: {table['title']}; published | ours"
    return show(title, ["system", "test set", *levels_of(table), "backbone here"], rows)


def costs(key: str, published: Mapping[str, Any], runs: Path) -> str:
    """Table 3 or 4, printed and as Markdown."""
    table = published[key]
    found = cost_rows(table, measured(runs))
    rows = list(track(found, "counting", len(table["rows"]), console=Console(stderr=True)))
    height, width = table["size"]
    return show(
        f"Table {key[-1]}: {table['title']}; {height} x {width} pixels; published, ours by thop's convention, all",
        ["", "M params", "GMACs", "quality", "ours: params", "GMACs", "all params", "all GMACs", "remark"],
        rows,
        [*table["notes"], "all: every parameter held; convolution, linear and attention products (convention=all)."],
    )


TABLES = {
    "flexir/1": partial(quality, "table1"),
    "flexir/2": partial(quality, "table2"),
    "flexir/3": partial(costs, "table3"),
    "flexir/4": partial(costs, "table4"),
}
