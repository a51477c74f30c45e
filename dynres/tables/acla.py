"""ACLA's tables: PSNR and SSIM (1, 2, 3, 10, 12), parameters and MACs of networks for x2 (4 to 8, 11).

Rows of a table differ in options of one network, so a run belongs to a row if its config.yaml builds the row's network.
Costs are those of the whole network, upsampler included; ACLA's MACs, which depend on the image, are a range.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from dynres.backbones.acla import CrossLayer
from dynres.build import network_description
from dynres.contracts import Task
from dynres.cost.counter import count_macs, count_parameters
from dynres.restorer import Restorer
from dynres.tables.common import (
    Row,
    beside,
    choices,
    levels_of,
    number,
    paper_runs,
    published_config,
    published_network,
    show,
)
from dynres.upsamplers.base import GridUpsampler

Measured = Mapping[tuple[str, str, str, str], Mapping[str, float | None]]


def identity(cfg: Any) -> str:
    """What two configurations have in common if their results belong to one row: network and budget."""
    described = network_description(cfg)
    del described["pixels"]
    return json.dumps([described, cfg.inference.budget], sort_keys=True)


@cache
def row_identity(*network: str) -> str:
    """`identity` of choices of conf/ in published sizes."""
    return identity(published_config(network))


def measured(runs: Path) -> Measured:
    """(identity, test set, level, protocol) -> metrics, of the newest finished profile=paper run that has each."""
    found: dict[tuple[str, str, str, str], Mapping[str, float | None]] = {}
    for folder, result in paper_runs(runs):
        if (path := folder / "config.yaml").is_file():  # without it nobody knows which row a result belongs to
            name = identity(OmegaConf.load(path))
            for dataset, rows in result["metrics"].items():
                found |= {(name, dataset, level, row["protocol"]): row for level, row in rows.items()}
    return found


def at(network: Sequence[str], level: str) -> list[str]:
    """A row's choices at a level: "x3" is a scale, which heads are built for; "sigma30" changes no network."""
    return [*network, f"task.scale={level[1:]}"] if level.startswith("x") else list(network)


def ours(
    results: Measured, network: Sequence[str] | None, dataset: str, level: str, protocol: str
) -> Mapping[str, float | None]:
    """What a run of this network measured; empty where none did."""
    if network is None or not results:
        return {}
    return results.get((row_identity(*at(network, level)), dataset, level, protocol), {})


# ---------------------------------------------------------------------------------------------------------- quality


def quality_rows(table: Mapping[str, Any], results: Measured) -> Iterator[Row]:
    """Tables 1, 2, 3, 10: every system on every test set, published and ours at each level, and its backbone here."""
    for name, datasets in table["rows"].items():
        network = table["systems"][name]["network"]
        for dataset, levels in datasets.items():
            cells = [
                beside(published, ours(results, network, dataset, level, table["protocol"]), table["metrics"])
                for level, published in levels.items()
            ]
            yield [name, dataset, *cells, backbone(network)]


def backbone(network: Sequence[str] | None) -> str:
    """Its name in conf/backbone; a dash where there is none."""
    return "-" if network is None else choices(network)["backbone"]


def parameter_rows(table: Mapping[str, Any]) -> Iterator[Row]:
    """Millions of parameters, published and ours at each scale (where heads differ), of every system that has any."""
    for name, system in table["systems"].items():
        if system["params"] is None:
            continue
        cells = ["-"] * len(scales(table))
        if system["network"] is not None:
            counts = [count_parameters(published_network(at(system["network"], level))) for level in scales(table)]
            cells = [differing([count / 1e6], system["params"], 3) for count in counts]
        yield [name, f"{system['params']:g}", *cells]


def scales(table: Mapping[str, Any]) -> list[str]:
    """The levels at which networks differ; one of them where they do not."""
    levels = levels_of(table)
    return [level for level in levels if level.startswith("x")] or levels[:1]


def quality(key: str, published: Mapping[str, Any], runs: Path) -> str:
    """Table 1, 2, 3 or 10, and its column of parameters as a table of its own, printed and as Markdown."""
    table = published[key]
    title = f"Table {key.removeprefix('table')}"
    columns = ["system", "test set", *levels_of(table), "backbone here"]
    rows = list(quality_rows(table, measured(runs)))
    measures = show(f"{title}: {table['title']}; published | ours", columns, rows, table["notes"])
    found = parameter_rows(table)
    counted = list(track(found, "counting", len(table["systems"]), console=Console(stderr=True)))
    heads = [f"ours: {level}" for level in scales(table)] if len(scales(table)) > 1 else ["ours"]
    return measures + "\n" + show(f"{title}: M params", ["system", "published", *heads], counted, remarks(table))


# ------------------------------------------------------------------------------------------------------------ costs


def gmacs(network: Restorer, size: tuple[int, int]) -> tuple[float, float]:
    """Of one image, with no key kept and with all keys; the same for any network but ACLA."""
    body, head = network.backbone, network.upsampler
    assert isinstance(head, GridUpsampler)
    image = torch.empty(1, body.image_channels, *size, device="meta")
    every, keys = count_macs(lambda: head(body(image, Task())), "all"), 0
    if isinstance(body, CrossLayer) and body.units:
        costs = zip(body.units, body.cost(*size).units, strict=True)
        keys = sum(macs for name, macs in costs if " keys" in name)
    return (every - keys) / 1e9, every / 1e9


def cost_rows(table: Mapping[str, Any], results: Measured) -> Iterator[Row]:
    """Tables 4 to 8 and 11: published, then ours; a line a variant where a row may stand for several networks."""
    tested = table["tested"]
    for name, row in table["rows"].items():
        for variant, more in table.get("variants", {"": []}).items():
            choice = at([*row["network"], *more], tested["level"])
            network = published_network(choice)
            macs = sorted(set(gmacs(network, tuple(table["size"]))))
            yield [
                f"{name}, {variant}" if variant else name,
                number(row["params"]),
                number(row["macs"]),
                differing([count_parameters(network) / 1e6], row["params"]),
                differing(macs, row["macs"]),
                *psnr_cells(row["psnr"], tested, results, choice),
            ]


def psnr_cells(
    published: Sequence[float], tested: Mapping[str, Any], results: Measured, network: Sequence[str]
) -> Iterator[str]:
    """ "38.24 | -" on each test set."""
    for dataset, value in zip(tested["sets"], published, strict=True):
        yield beside([value], ours(results, network, dataset, tested["level"], tested["protocol"]), ["psnr"])


def differing(counts: Sequence[float], published: float, digits: int = 2) -> str:
    """ "42.00 (-0.31%)", "97.43-97.58 (+0.47%, +0.63%)": ours, one or a range, and how far from the published it is."""
    off = ", ".join(f"{count / published - 1:+.2%}" for count in counts)
    return "-".join(f"{count:.{digits}f}" for count in counts) + f" ({off})"


def remarks(table: Mapping[str, Any]) -> list[str]:
    """What the rows or systems of a table say of themselves, once each, with their names before it."""
    names: dict[str, list[str]] = {}
    for name, row in (table.get("systems") or table["rows"]).items():
        if "remark" in row:
            names.setdefault(row["remark"], []).append(name)
    return [f"{'; '.join(who)}: {remark}" for remark, who in names.items()]


def costs(key: str, published: Mapping[str, Any], runs: Path) -> str:
    """One of Tables 4 to 8 and 11, printed and as Markdown."""
    table = published[key]
    (height, width), tested = table["size"], table["tested"]
    what = f"{height} x {width} pixels, {tested['level']}; PSNR (dB), Y: published | ours"
    found = cost_rows(table, measured(runs))
    count = len(table["rows"]) * len(table.get("variants", [""]))
    rows = list(track(found, "counting", count, console=Console(stderr=True)))
    return show(
        f"Table {key.removeprefix('table')}: {table['title']}; {what}",
        ["", "M params", "GMACs", "ours: M params", "ours: GMACs", *tested["sets"]],
        rows,
        [*remarks(table), *table["notes"]],
    )


def times(published: Mapping[str, Any], runs: Path) -> str:
    """Table 12, printed and as Markdown."""
    table, results = published["table12"], measured(runs)
    tested = table["tested"]
    rows = [
        [
            name,
            number(row["time"], 1),
            *psnr_cells(row["psnr"], tested, results, at(row["network"], tested["level"])),
            backbone(row["network"]),
        ]
        for name, row in table["rows"].items()
    ]
    columns = ["", "time", *tested["sets"], "backbone here"]
    return show(f"Table 12: {table['title']}; published | ours", columns, rows, table["notes"])


TABLES: dict[str, Callable[[Mapping[str, Any], Path], str]] = {
    "acla/1": partial(quality, "table1"),
    "acla/2": partial(quality, "table2"),
    "acla/3": partial(quality, "table3"),
    "acla/4": partial(costs, "table4"),
    "acla/5": partial(costs, "table5"),
    "acla/6": partial(costs, "table6"),
    "acla/7": partial(costs, "table7"),
    "acla/8": partial(costs, "table8"),
    "acla/10": partial(quality, "table10"),
    "acla/11": partial(costs, "table11"),
    "acla/12": times,
}
