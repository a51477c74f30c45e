"""Folders of finished runs, made up."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynres.tables.sheet import FinishedRun


def finished(
    folder: Path, name: str, seed: int, levels: Mapping[str, Mapping[str, float]], **tables: Sequence[Mapping[str, Any]]
) -> FinishedRun:
    """A run's folder with summary.json, of these metrics on the photographs, and CSV files of these lines."""
    paper, _, run = name.partition("/")
    where = folder / paper / f"{run}-{seed}"
    where.mkdir(parents=True)
    usual = {"psnr": 30.0, "psnr_plain": 29.0, "ssim": 0.9, "psnr_b": None, "macs": 1e9, "macs_fraction": 1.0}
    summary = {
        "experiment": run, "profile": "demo", "seed": seed, "params": 1000, "train_seconds": 1.0,
        "metrics": {"demo": {level: usual | dict(some) for level, some in levels.items()}},
    }  # fmt: skip
    (where / "summary.json").write_text(json.dumps(summary))
    for table, rows in tables.items():
        with open(where / f"{table}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return FinishedRun(paper, run, seed, where)
