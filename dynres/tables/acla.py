"""ACLA's tables: quality (1, 2, 3, 10), costs of networks for x2 (4 to 8, 11), the search's settings (9), times (12).

Costs are those of the whole network, upsampler included; ACLA's MACs, which depend on the image, are a range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from dynres.backbones.acla import CrossLayer
from dynres.contracts import Task
from dynres.cost.counter import count_macs, count_parameters
from dynres.tables.published import network, said
from dynres.tables.rows import at, cost, counted, levels_of, measures, with_costs, with_digits
from dynres.tables.sheet import METRICS, NOTHING, Cell, Column, Measured, Metric, Ours, Row, Sheet, TableMaker
from dynres.upsamplers.base import GridUpsampler

PARAMS, MACS = Column("Params", METRICS["params"]), Column("FLOPs", METRICS["gmacs"])
TIME = Column("Inference Time", METRICS["time"])
# Of Table 9: no results, so that none is best.
WEIGHT = Metric("weight", "", 2, None, (0.0, 1.0), "cost")
POSITION = Metric("position", "", 0, None, (1, 32), "cost")
NOT_TIMED = "published on a V100; not timed there"
NOT_SEARCHED = "not searched at the paper's size"


@cache
def parameters(overrides: tuple[str, ...]) -> float:
    """Millions, of what a recipe trains."""
    return count_parameters(network(overrides)) / 1e6


@cache
def gmacs(overrides: tuple[str, ...], size: tuple[int, int]) -> tuple[float, float]:
    """Of one image, with no key kept and with all keys; the same for any network but ACLA."""
    built = network(overrides)
    body, head = built.backbone, built.upsampler
    assert isinstance(head, GridUpsampler)
    image = torch.empty(1, body.image_channels, *size, device="meta")
    every, keys = count_macs(lambda: head(body(image, Task())), "all"), 0
    if isinstance(body, CrossLayer) and body.units:
        costs = zip(body.units, body.cost(*size).units, strict=True)
        keys = sum(macs for name, macs in costs if " keys" in name)
    return (every - keys) / 1e9, every / 1e9


def measured_params(overrides: tuple[str, ...] | None) -> Measured | None:
    """None for what is not here."""
    return None if overrides is None else Measured(parameters(overrides))


def measured_macs(overrides: tuple[str, ...], size: tuple[int, int]) -> Measured:
    """A range where keys are chosen."""
    low, high = gmacs(overrides, size)
    return Measured(low) if low == high else Measured(low, top=high, note="no key to every key")


def benchmarks(number: int, published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 1, 2, 3 or 10: quality; parameters at each scale, where heads differ, of every system that has any."""
    table = published[f"table{number}"]
    found = measures(f"acla/{number}", table, ours)
    levels = levels_of(table)
    scales = [level for level in levels if level.startswith("x")]
    columns = [replace(PARAMS, name=scale, group="Params") for scale in scales] or [PARAMS]
    cells = []
    for name in table["rows"]:
        about, mine = table["systems"][name], list[Cell]()
        for level in scales or levels[:1]:
            here = measured_params(counted(about, level)) if about["params"] is not None else None
            cell = cost(about, "params", here)
            mine.append(cell if level == table.get("params_at", level) else replace(cell, reachable=False))
        cells.append(mine)
    return [with_digits(with_costs(found, columns, cells), {"params": 3})]


def ablation(number: int, published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 4 to 8 or 11: parameters and MACs of one image, and quality."""
    table = published[f"table{number}"]
    (level,), size = levels_of(table), tuple(table["size"])
    cells = []
    for name in table["rows"]:
        about = table["systems"][name]
        overrides = at(about["recipe"], level)
        macs = cost(about, "macs", measured_macs(overrides, size))
        cells.append([cost(about, "params", measured_params(overrides)), macs])
    return [with_costs(measures(f"acla/{number}", table, ours), [PARAMS, MACS], cells)]


def settings(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 9: lambda of Eq. 14, and where the search found that modules should stand."""
    table = published["table9"]
    most = max(len(row["positions"]) for row in table["rows"].values())
    columns = [Column("Value of lambda", WEIGHT)]
    columns += [Column(str(place), POSITION, "Insert Positions") for place in range(1, most + 1)]
    missing, rows = Measured(note=NOT_SEARCHED), []
    for name, row in table["rows"].items():
        numbers = [row["lambda"], *row["positions"], *[None] * (most - len(row["positions"]))]
        cells = tuple(Cell(number, missing if number is not None else None, reachable=False) for number in numbers)
        rows.append(Row(name, cells))
    title, label = f"Table 9: {table['title']}", NOTHING
    return [Sheet("acla/9", title, tuple(columns), tuple(rows), label, **said(table))]


def times(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 12."""
    table = published["table12"]
    cells = [[cost(table["systems"][name], "time", Measured(note=NOT_TIMED))] for name in table["rows"]]
    found = measures("acla/12", table, ours)
    return [replace(with_costs(found, [TIME], cells), label=found.label)]


TABLES: dict[str, TableMaker] = {
    **{f"acla/{number}": partial(benchmarks, number) for number in (1, 2, 3)},
    **{f"acla/{number}": partial(ablation, number) for number in (4, 5, 6, 7, 8)},
    "acla/9": settings,
    "acla/10": partial(benchmarks, 10),
    "acla/11": partial(ablation, 11),
    "acla/12": times,
}
