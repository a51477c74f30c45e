"""The summary over the jobs of a sweep: a line for each that finished, and for each that failed with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dynres.report import print_collection
from dynres.sweep.state import Job, key_of


def write_table(folder: Path, failed: Mapping[Path, Job], swept: set[str]) -> None:
    """Write summary_table.md and summary_table.csv into a sweep's folder, and print the table.

    Args:
        failed: job's folder -> its state.
        swept: the keys that the sweep varies.
    """
    rows = [_row(job_folder.name, job, swept) for job_folder, job in failed.items()]
    if rows or any(folder.glob("*/summary.json")):
        print_collection(folder, failed=rows)


def _row(name: str, job: Job, swept: set[str]) -> dict[str, str]:
    """As `report.collect` has them, with the reason of the failure instead of numbers."""
    told = {key_of(one): one.partition("=")[2] for one in job.overrides}
    label = " ".join(one for one in job.label(swept).split() if key_of(one) != "seed")
    return {"run": name, "seed": told.get("seed", ""), "overrides": label, "failed": job.reason or ""}
