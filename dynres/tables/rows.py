"""From published.yaml to sheets, for tables whose rows are trained networks (FlexIR, ACLA, reference).

A table has `rows` (row -> test set -> level -> a number a metric) and `systems`, which say of each row:
recipe: arguments of `python -m dynres.run`, complete but for the level; null: not here.
start: arguments of the run from whose weights it starts.
levels: false where one training serves all levels.
way, demo, remark, group: see `sheet.System`.
params, macs, time: published costs.
network: what costs are counted of, where it is not the recipe's.
unreachable: costs that no rebuilt network can have; the remark or a note of the table says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dynres.tables.published import said
from dynres.tables.sheet import Cell, Column, Measured, Ours, Recipe, Sheet, System, quality

LEVELS = {"x": "task.scale", "sigma": "task.sigma", "q": "task.quality"}
Systems = Mapping[str, Mapping[str, Any]]


def at(overrides: Sequence[str], level: str) -> tuple[str, ...]:
    """A recipe at a level: "x3", "sigma25", "q10", or the pattern of a mosaic."""
    found = re.fullmatch(r"([a-z]+)(\d+)", level)
    return (*overrides, f"{LEVELS[found[1]]}={found[2]}" if found else f"task.pattern={level}")


def recipe(about: Mapping[str, Any]) -> Callable[[str], Recipe] | None:
    """How a system is trained, as `System` takes it."""
    if about["recipe"] is None:
        return None

    def of(level: str) -> Recipe:
        if not about.get("levels", True):
            return Recipe(tuple(about["recipe"]))
        start = Recipe(at(about["start"], level)) if "start" in about else None
        return Recipe(at(about["recipe"], level), start)

    return of


def systems(table: Mapping[str, Any]) -> list[System]:
    """The rows of a table, in its order."""
    found = []
    for name, datasets in table["rows"].items():
        about = table["systems"][name]
        cells = {(dataset, level): row for dataset, levels in datasets.items() for level, row in levels.items()}
        told = {key: about[key] for key in ("group", "demo", "way", "remark") if key in about}
        found.append(System(name, cells, recipe(about), **told))
    return found


def measures(key: str, table: Mapping[str, Any], ours: Ours, title: str | None = None) -> Sheet:
    """The columns of quality of a table.

    Args:
        key: "acla/1".
        title: None: "Table 1: " and the table's own.
    """
    title = title or f"Table {key.partition('/')[2]}: {table['title']}"
    return quality(key, title, systems(table), table["metrics"], table["protocol"], ours, **said(table))


def with_costs(sheet: Sheet, columns: Sequence[Column], cells: Sequence[Sequence[Cell]]) -> Sheet:
    """A sheet with columns of costs before its own.

    Args:
        cells: of each row.
    """
    rows = (replace(row, cells=(*mine, *row.cells)) for row, mine in zip(sheet.rows, cells, strict=True))
    label = f"costs: counted at the paper's size; quality: {sheet.label}"
    return replace(sheet, columns=(*columns, *sheet.columns), rows=tuple(rows), label=label)


def with_digits(sheet: Sheet, digits: Mapping[str, int]) -> Sheet:
    """Metrics printed with as many digits as the paper has in this table."""
    columns = (
        replace(column, metric=replace(column.metric, digits=digits.get(column.metric.name, column.metric.digits)))
        for column in sheet.columns
    )
    return replace(sheet, columns=tuple(columns))


def cost(about: Mapping[str, Any], name: str, measured: Measured | None) -> Cell:
    """A published cost of a system beside ours."""
    return Cell(about.get(name), measured, reachable=name not in about.get("unreachable", ()))


def counted(about: Mapping[str, Any], level: str) -> tuple[str, ...] | None:
    """What builds the network whose costs a row has; None where it is not here."""
    if "network" in about:
        return tuple(about["network"])
    return None if about["recipe"] is None else at(about["recipe"], level)


def levels_of(table: Mapping[str, Any]) -> list[str]:
    """The levels of a table, of its first row's first test set."""
    return list(next(iter(next(iter(table["rows"].values())).values())))
