"""The numbers of a finished run, by test set, level and way through the network."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

MEAN_OF_POINTERS = "mean P"  # the way that is the mean over all pointers of a network with branches


class Result:
    """What a run's folder says.

    Args:
        folder: with summary.json; tradeoff.csv and subnets.csv where its network has several ways.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return found

    @cached_property
    def ways(self) -> dict[tuple[str, str, str], dict[str, float | None]]:
        """(test set, level, way) -> the numbers of tradeoff.csv or subnets.csv."""
        return {
            (line["dataset"], line["label"], line["way"]): {key: _number(value) for key, value in line.items()}
            for name in ("tradeoff.csv", "subnets.csv")
            for line in self.lines(name)
        }

    def lines(self, name: str) -> Iterator[dict[str, str]]:
        """Of a CSV file of the run; none where it has no such file."""
        file = self.folder / name
        if file.is_file():
            with file.open(encoding="utf-8", newline="") as lines:
                yield from csv.DictReader(lines)

    def levels(self) -> list[tuple[str, str]]:
        """(test set, level) of its own test."""
        return [(dataset, level) for dataset, rows in self.summary["metrics"].items() for level in rows]

    def value(self, dataset: str, level: str, key: str, way: str = "") -> float | None:
        """One number; None where there is none.

        Args:
            key: psnr, ssim, psnr_b, macs, macs_fraction, beta, active_fraction ...; gmacs: macs / 1e9.
            way: "" for the run's own test; MEAN_OF_POINTERS; else as tradeoff.csv and subnets.csv name it.
        """
        if key == "gmacs":
            macs = self.value(dataset, level, "macs", way)
            return None if macs is None else macs / 1e9
        if not way:
            row = self.summary["metrics"].get(dataset, {}).get(level, {})
            return None if row.get(key) is None else float(row[key])
        if way == MEAN_OF_POINTERS:
            known = [
                value
                for (of, at, name), values in self.ways.items()
                if (of, at) == (dataset, level) and name.startswith("P=") and (value := values[key]) is not None
            ]
            return fmean(known) if known else None
        return self.ways.get((dataset, level, way), {}).get(key)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
