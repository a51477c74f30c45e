"""AnySR's tables: what each scale costs, beside the authors' code (1), and PSNR of subnets in finished runs (2).

No table of the paper is known here, so that (2) shows runs of any profile, each under its name: † is the subnet of the
scale, ‡ the whole network. A run with enhancement and one without make one table if all else agrees.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from dynres.backbones.anysr import AnySR
from dynres.build import network_description
from dynres.callbacks.subnets import BY_SCALE
from dynres.contracts import Task
from dynres.cost.counter import count_parameters
from dynres.nodes import plain
from dynres.tables.common import Row, number, published_config, published_network, show

# ------------------------------------------------------------------------------------------------------------ costs


@cache
def extractor(enhanced: bool, *network: str) -> AnySR:
    """Of such choices in published size, on the meta device."""
    backbone = published_network([*network, f"backbone.enhanced={str(enhanced).lower()}"]).backbone
    assert isinstance(backbone, AnySR)
    return backbone


def macs_of(backbone: AnySR, height: int, width: int, step: int) -> int:
    """What a subnet, numbered from 0, takes of one image."""
    cost = backbone.cost(height, width)
    return cost.fixed + sum(cost.units[:step])


def step_of(backbone: AnySR, scale: float) -> int:
    """Which subnet a scale runs."""
    return int(backbone.route(torch.empty(1, 3, 1, 1), Task(torch.tensor([scale]))).decisions.sum())


def cost_rows(table: Mapping[str, Any]) -> Iterator[Row]:
    """A line a scale group; ours are counted at every scale that is given for it."""
    height, width = table["size"]
    for name, system in table["systems"].items():
        gated, bare = (extractor(enhanced, *system["network"]) for enhanced in (True, False))
        full = bare.cost(height, width).full
        for group in system["groups"]:
            steps = sorted({step_of(gated, scale) for scale in group["scales"]})
            counts = [macs_of(bare, height, width, step) for step in steps]
            gates = []
            for step in steps:
                once, twice = (
                    macs_of(gated, height, times * width, step) - macs_of(bare, height, times * width, step)
                    for times in (1, 2)
                )
                gates.append(f"{2 * once - twice:,} + {(twice - once) / (height * width):g} a pixel")
            first, last, *others = group["scales"]
            yield [
                name,
                ", ".join([f"x{first:g} - x{last:g}", *(f"x{scale:g}" for scale in others)]),
                f"{group['width']:g} ({group['channels']})",
                ", ".join(f"{gated.widths[step]:g}" for step in steps),
                f"{group['macs']:,}",
                ", ".join(f"{count / (height * width):,.0f}" for count in counts),
                ", ".join(f"{count - group['macs'] * height * width:+,}" for count in counts),
                ", ".join(f"{count / full:.1%}" for count in counts),
                number(group["gates"]),
                "; ".join(gates),
            ]


def parameter_rows(table: Mapping[str, Any]) -> Iterator[Row]:
    """With the gates and without: the authors' code, ours and the difference."""
    for name, system in table["systems"].items():
        row: Row = [name]
        for key, enhanced in (("params", True), ("plain", False)):
            backbone = extractor(enhanced, *system["network"])
            count = count_parameters(backbone)
            row += [f"{system[key]:,}", f"{count:,}", f"{count - system[key]:+,}"]
        held = sum(buffer.numel() for buffer in backbone.sub_mean.buffers())
        yield [*row, f"{system['mean_shift']}", f"{held}"]


def costs(published: Mapping[str, Any], runs: Path) -> str:
    """Table 1, printed and as Markdown."""
    table = published["table1"]
    count = sum(len(system["groups"]) for system in table["systems"].values())
    rows = list(track(cost_rows(table), "counting", count, console=Console(stderr=True)))
    text = show(
        f"Table 1: {table['title']}",
        ["", "scales", "width (channels)", "ours", "MACs a pixel", "ours", "difference", "of full", "M gates", "ours"],
        rows,
        table["notes"],
    )
    columns = ["", "with gates", "ours", "difference", "without", "ours", "difference", "mean shift", "ours"]
    return text + "\n" + show("Table 1: parameters", columns, list(parameter_rows(table)))


# ---------------------------------------------------------------------------------------------------------- quality

Cells = dict[str, dict[str, dict[str, float | None]]]  # way -> label -> column of subnets.csv -> value


@dataclass
class Pair:
    """Finished runs that differ in enhancement alone, the newest of each.

    Attributes:
        name: experiment, profile and seed.
        network: `identity` of the network, for paper-size systems to be found.
        found: by enhancement: test set -> cells.
    """

    name: str
    network: str
    found: dict[bool, dict[str, Cells]] = field(default_factory=dict)


def identity(cfg: Any) -> str:
    """What a configuration builds, whatever its enhancement and its range of pixel values."""
    described = network_description(cfg)
    described["backbone"].pop("enhanced", None)
    del described["pixels"]
    return json.dumps(described, sort_keys=True)


def pairs(runs: Path) -> list[Pair]:
    """Of all finished runs that have a subnets.csv."""
    found: dict[str, Pair] = {}
    for file in sorted(runs.rglob("subnets.csv"), key=lambda path: path.stat().st_mtime):
        summary, config = file.with_name("summary.json"), file.with_name("config.yaml")
        if not summary.is_file() or not config.is_file():
            continue
        result, cfg = json.loads(summary.read_text(encoding="utf-8")), OmegaConf.load(config)
        about = [result["profile"], result["seed"], plain(cfg.method), plain(cfg.trainer).get("max_steps")]
        tested = None if cfg.mode == "fit" else cfg.ckpt
        head = str(cfg.upsampler["_target_"]).rpartition(".")[2]
        name = f"{result['experiment']} under {head}, profile {result['profile']}, seed {result['seed']}"
        key = json.dumps([identity(cfg), *about, tested], sort_keys=True)
        pair = found.setdefault(key, Pair(f"{name}, {tested}" if tested else name, identity(cfg)))
        pair.found[bool(cfg.backbone.get("enhanced", True))] = read(file)
    return list(found.values())


def read(file: Path) -> dict[str, Cells]:
    """A subnets.csv by test set, way and scale."""
    sets: dict[str, Cells] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            values = {key: float(line[key]) if line[key] else None for key in ("psnr", "psnr_plain", "fraction")}
            sets.setdefault(line["dataset"], {}).setdefault(line["way"], {})[line["label"]] = values
    return sets


def quality_rows(pair: Pair, dataset: str, labels: Sequence[str]) -> Iterator[Row]:
    """Bicubic, † and ‡ with enhancement and without, what it gains, and the compute of † where it is known."""

    def values(enhanced: bool, way: str, column: str) -> list[float | None]:
        ways = pair.found.get(enhanced, {}).get(dataset, {})
        some = [cells for name, cells in ways.items() if (name == BY_SCALE) == (way == "†")]
        return [some[-1].get(label, {}).get(column) if some else None for label in labels]  # the widest is the last

    either = dataset in pair.found.get(True, {})
    yield ["bicubic", *map(number, values(either, "†", "psnr_plain"))]
    for enhanced in (True, False):
        for way in ("†", "‡"):
            name = way if enhanced else f"{way} without enhancement"
            yield [name, *map(number, values(enhanced, way, "psnr"))]
    both = zip(*(values(enhanced, "†", "psnr") for enhanced in (True, False)), strict=True)
    yield ["† gains by enhancement", *("-" if None in two else f"{two[0] - two[1]:+.2f}" for two in both)]
    spent = values(either, "†", "fraction")
    yield ["MACs of †, of ‡", *("-" if share is None else f"{share:.1%}" for share in spent)]


def quality(published: Mapping[str, Any], runs: Path) -> str:
    """Table 2, printed and as Markdown: one a pair of runs and test set; last, the paper-size systems without runs."""
    table, parts, found = published["table2"], [], pairs(runs)
    for pair in found:
        for dataset in dict.fromkeys(name for sets in pair.found.values() for name in sets):
            known = [sets[dataset][BY_SCALE] for sets in pair.found.values() if dataset in sets]
            labels = list(dict.fromkeys(label for cells in known for label in cells))
            if any(cell["psnr"] is not None for cells in known for cell in cells.values()):
                rows = list(quality_rows(pair, dataset, labels))
                parts.append(show(f"Table 2: {pair.name}: {dataset}", ["", *labels], rows))
    trained = {pair.network for pair in found}
    missing = [name for name, network in table["systems"].items() if identity(published_config(network)) not in trained]
    if missing:
        dashes = ["-"] * len(table["levels"])
        rows = [[name, dataset, *dashes] for name in missing for dataset in table["sets"]]
        title = "Table 2: profile paper, † and ‡: no finished run yet"
        parts.append(show(title, ["system", "test set", *table["levels"]], rows))
    for note in table["notes"]:
        print(note)
    return "\n".join([f"# {table['title']}\n", *parts, *(f"{note}\n" for note in table["notes"])])


TABLES = {"anysr/1": costs, "anysr/2": quality}
