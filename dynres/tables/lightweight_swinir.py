"""Lightweight SwinIR's tables: PSNR and SSIM of the distilled and the pruned networks (1), by sparsity (2), and costs.

A run belongs to a row if its config.yaml builds the row's network, with the row's options of distillation or pruning,
on the paper's small images. A pruned run describes the network before the cut; costs are those of what the cut leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from dynres.cost.__main__ import measure
from dynres.tables import acla
from dynres.tables.common import Row, beside, paper_runs, published_network, show
from dynres.tables.pruned import pictures

METHOD = ("weight", "features", "rate", "scope", "sparsity", "ranking")
DATA = ("reduce", "fraction")
LAYERS = 36  # of the classical network (Sec. 4.3.2)
Measured = Mapping[tuple[str, str, str, str], Mapping[str, float | None]]


def identity(network: str, method: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """What a row and its runs have in common: network (`acla.identity`), options other than 0, training images."""
    return json.dumps([network, {name: value for name, value in method.items() if value}, data], sort_keys=True)


def run_identity(cfg: Any) -> str:
    """Of a run's configuration."""
    method, data = (
        {name: node.get(name) for name in names} for node, names in ((cfg.method, METHOD), (cfg.data, DATA))
    )
    return identity(acla.identity(cfg), method, data)


def row_identity(table: Mapping[str, Any], name: str) -> str:
    """Of a row in published sizes."""
    system = table["systems"][name]
    return identity(acla.row_identity(*system["network"]), system["method"], table["trained"])


def measured(runs: Path) -> Measured:
    """(identity, test set, level, protocol) -> metrics, of the newest finished profile=paper run that has each."""
    found: dict[tuple[str, str, str, str], Mapping[str, float | None]] = {}
    for folder, result in paper_runs(runs):
        if (path := folder / "config.yaml").is_file():
            name = run_identity(OmegaConf.load(path))
            for dataset, rows in result["metrics"].items():
                found |= {(name, dataset, level, row["protocol"]): row for level, row in rows.items()}
    return found


def remaining(system: Mapping[str, Any]) -> list[str]:
    """The choices that build what a row restores with: its network, at the widths that are left where it is pruned."""
    widths = {option: list(islice(cycle(some), LAYERS)) for option, some in system.get("left", {}).items()}
    return [*system["network"], *(f"backbone.{option}={some}" for option, some in widths.items())]


@cache
def costs(size: tuple[int, int], scale: float, *network: str) -> dict[str, int]:
    """{"params", "macs"} of such choices for one low-resolution image of this size."""
    return measure(published_network(network), size, "all", scale)


def rows(table: Mapping[str, Any], results: Measured) -> Iterator[Row]:
    """Every system: its quality on each test set, published and ours; parameters, published and ours; GMACs."""
    for name, datasets in table["rows"].items():
        system, level, protocol = table["systems"][name], table["level"], table["protocol"]
        ours = row_identity(table, name) if results else ""
        cells = [
            beside(published, results.get((ours, dataset, level, protocol), {}), table["metrics"])
            for dataset, published in datasets.items()
        ]
        cost = costs(tuple(table["size"]), float(level[1:]), *remaining(system))
        count, printed = cost["params"], system["params"]
        off = "" if printed is None else f" ({count / (1e3 * printed) - 1:+.2%})"
        params = "-" if printed is None else f"{printed:,.2f}".removesuffix(".00")
        yield [name, *cells, params, f"{count:,}{off}", f"{cost['macs'] / 1e9:,.1f}"]


def quality(key: str, published: Mapping[str, Any], runs: Path) -> str:
    """Table 1 or 2, printed and as Markdown."""
    table = published[key]
    found = rows(table, measured(runs))
    counted = list(track(found, "counting", len(table["rows"]), console=Console(stderr=True)))
    height, width = (side * int(table["level"][1:]) for side in table["size"])
    sets = next(iter(table["rows"].values()))
    return show(
        f"Table {key.removeprefix('table')}: {table['title']}; published | ours",
        ["system", *sets, "k params", "ours: params", f"GMACs at {width} x {height}"],
        counted,
        [*table["notes"], "GMACs: convolution, linear and attention products of the whole network (convention=all)."],
    )


def by_gamma(published: Mapping[str, Any], runs: Path) -> str:
    """Table 2, and its remark on where each gamma prunes as pictures."""
    return quality("table2", published, runs) + pictures(runs)


TABLES: dict[str, Callable[[Mapping[str, Any], Path], str]] = {
    "lightweight_swinir/1": partial(quality, "table1"),
    "lightweight_swinir/2": by_gamma,
}
