"""Finished runs by paper and name, what their files say, and means over seeds."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from dynres.errors import UserError
from dynres.pareto.report import SIZES
from dynres.report import read_summary
from dynres.tables.sheet import FinishedRun, Measured

DATASET = "demo"  # the bundled photographs, as summary.json calls them
Published = Mapping[str, Mapping[str, Any]]


class Runs:
    """Finished runs by paper and name, each name's by seed."""

    def __init__(self, runs: Sequence[FinishedRun]) -> None:
        self.all = sorted(runs, key=lambda run: run.seed)
        self._found: dict[tuple[str, str], list[FinishedRun]] = {}
        for run in self.all:
            self._found.setdefault((run.paper, run.name), []).append(run)

    def of(self, paper: str, name: str) -> list[FinishedRun]:
        """All seeds; empty where the run is not finished."""
        return self._found.get((paper, name), [])

    def named(self, paper: str, names: Iterable[str]) -> dict[str, list[FinishedRun]]:
        """Those of the names that have runs."""
        return {name: runs for name in names if (runs := self.of(paper, name))}


def lines(run: FinishedRun, file: str) -> list[dict[str, str]]:
    """The lines of a CSV file in a run's folder.

    Raises:
        UserError: it is missing, empty, or a line is cut short.
    """
    path = run.folder / file
    try:
        with open(path, newline="", encoding="utf-8") as text:
            found = list(csv.DictReader(text))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not found or any(None in line.values() or None in line for line in found):
        raise UserError(f"{path} is damaged: a line has another number of cells than the header, or there is none")
    return found


def photographs(run: FinishedRun, file: str) -> list[dict[str, str]]:
    """Those lines of a CSV file that are about the bundled photographs."""
    found = [line for line in lines(run, file) if line["dataset"] == DATASET]
    if not found:
        raise UserError(f"{run.folder / file} has no line about the photographs ({DATASET})")
    return found


def metrics(run: FinishedRun) -> Mapping[str, Mapping[str, Any]]:
    """Level -> metric -> value, of the bundled photographs.

    Raises:
        UserError: summary.json is missing, damaged, or of other images.
    """
    found = read_summary(run.folder)["metrics"]
    if DATASET not in found:
        raise UserError(f"{run.folder / 'summary.json'} has no results on the photographs ({DATASET})")
    return dict(found[DATASET])


def over_seeds(values: Iterable[float]) -> Measured:
    """Mean and sample standard deviation."""
    found = [float(value) for value in values]
    return Measured(fmean(found), stdev(found) if len(found) > 1 else None, len(found))


def value(found: Measured) -> float:
    """The mean of what was measured."""
    assert found.value is not None  # as `over_seeds` makes them
    return found.value


def metric(runs: Sequence[FinishedRun], level: str, name: str, factor: float = 1.0) -> Measured:
    """A number of summary.json, times a factor, over the seeds."""
    found = []
    for run in runs:
        if (one := metrics(run).get(level, {}).get(name)) is None:
            raise UserError(f"{run.folder / 'summary.json'} has no {name} at {level}")
        found.append(factor * float(one))
    return over_seeds(found)


def less(runs: Sequence[FinishedRun], base: Sequence[FinishedRun], level: str, name: str) -> Measured | None:
    """A number of summary.json less that of another run with the same seed; None where no seed has both."""
    others = {run.seed: run for run in base}
    pairs = [(run, others[run.seed]) for run in runs if run.seed in others]
    both = [(value(metric([one], level, name)), value(metric([other], level, name))) for one, other in pairs]
    return over_seeds(mine - its for mine, its in both) if both else None


def networks(*groups: Sequence[FinishedRun]) -> str:
    """What was drawn, for captions: "demo-size networks trained for minutes; one seed (0)"."""
    runs = [run for group in groups for run in group]
    seeds = sorted({run.seed for run in runs})
    profile = read_summary(runs[0].folder)["profile"]
    spread = f"mean and standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else f"one seed ({seeds[0]})"
    return f"{SIZES.get(profile, f'profile {profile}')}; {spread}"


def sentence(text: str) -> str:
    """With its first letter large."""
    return text[:1].upper() + text[1:]
