"""Where numbers of ours come from in tests of the papers' tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from dynres.launch.find import composed
from dynres.tables.sheet import Cell, Measured, Recipe, Row, Sheet, System

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


class Fake:
    """sheet.Ours: some numbers by (row, test set, level, metric), and what was asked.

    Args:
        own: what `own` answers where a row has a run in the demo.
    """

    label = "of a test"

    def __init__(
        self, numbers: Mapping[tuple[str, str, str, str], float] | None = None, own: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.numbers, self._own = numbers or {}, own
        self.asked: list[tuple[System, str, str, str, str]] = []

    def measured(self, system: System, dataset: str, level: str, protocol: str, metric: str) -> Measured:
        self.asked.append((system, dataset, level, protocol, metric))
        number = self.numbers.get((system.name, dataset, level, metric))
        return Measured(note="not trained") if number is None else Measured(number, seeds=1)

    def own(self, systems: Sequence[System]) -> Sequence[tuple[str, str]]:
        return self._own if any(system.demo for system in systems) else []

    def systems(self) -> dict[str, System]:
        """Of all that was asked, by group and name."""
        return {f"{system.group}/{system.name}": system for system, *_ in self.asked}


@cache
def published(paper: str) -> Any:
    """A paper's published.yaml; not to be changed."""
    return yaml.safe_load((EXPERIMENTS / paper / "published.yaml").read_text(encoding="utf-8"))


def demo_runs(paper: str) -> set[str]:
    """Names of the runs of its demo.yaml."""
    return set(yaml.safe_load((EXPERIMENTS / paper / "demo.yaml").read_text(encoding="utf-8"))["runs"])


def row(sheet: Sheet, name: str, group: str | None = None) -> Row:
    """The one row of this name."""
    (found,) = [row for row in sheet.rows if row.name == name and group in (None, row.group)]
    return found


def cell(sheet: Sheet, name: str, column: str, group: str | None = None) -> Cell:
    """The one cell of a row and a column, whose name may stand in several groups."""
    (found,) = [
        cell
        for cell, its in zip(row(sheet, name).cells, sheet.columns, strict=True)
        if its.name == column and group in (None, its.group)
    ]
    return found


def worst_cost(sheets: Sequence[Sheet]) -> float:
    """The largest difference, as a share of the published number, of costs that can be reached."""
    shares = [
        abs(one.difference) / one.published
        for sheet in sheets
        for row in sheet.rows
        for column, one in zip(sheet.columns, row.cells, strict=True)
        if column.metric.kind == "cost" and one.reachable and one.published and one.difference is not None
    ]
    return max(shares)


def stands(recipe: Recipe, weights: Path) -> DictConfig:
    """The configuration of a recipe in the paper's size, as dynres.run checks it; so are those that it needs.

    Args:
        weights: any file, for those that other runs leave.
    """
    command = [*recipe.overrides, "profile=paper", "data=div2k", f"data.root={weights.parent}"]
    needs = {"ckpt": recipe.start, "method.trained": recipe.trained, "method.teacher": recipe.teacher}
    for option, before in needs.items():
        if before is not None:
            stands(before, weights)
            command.append(f"{option}={weights}")
    return _composed(*command)


@cache
def _composed(*command: str) -> DictConfig:
    return composed(command)
