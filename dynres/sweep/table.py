"""The summary over the jobs of a sweep: a line for each that finished, and for each that failed with its reason."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dynres.files import write_text
from dynres.report import UNKNOWN, collect, markdown_table, print_collection
from dynres.sweep.state import Job, key_of


def write_table(folder: Path, failed: Mapping[Path, Job], swept: set[str]) -> None:
    """Write summary_table.md and summary_table.csv into a sweep's folder, and print the table.

    Args:
        failed: job's folder -> its state.
        swept: the keys that the sweep varies.
    """
    finished = any(folder.glob("*/summary.json"))
    if finished and not failed:
        print_collection(folder)
        return
    rows = collect(folder) if finished else []
    rows += [_row(job_folder.name, job, swept) for job_folder, job in failed.items()]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    rows.sort(key=lambda row: row["run"])
    lines = [[row.get(column, "") for column in columns] for row in rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    write_text(folder / "summary_table.md", markdown_table(columns, cells))
    text = io.StringIO()
    known = [["" if cell == UNKNOWN else cell for cell in line] for line in lines]
    csv.writer(text, lineterminator="\n").writerows([columns, *known])
    write_text(folder / "summary_table.csv", text.getvalue())
    title = f"{len(rows)} runs in {folder}, {len(failed)} failed (written to summary_table.md and .csv)"
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column.endswith(("dB", "GMACs")) else "left")
    for line in lines:
        table.add_row(*map(escape, line))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def _row(name: str, job: Job, swept: set[str]) -> dict[str, str]:
    """As `report.collect` has them, with the reason of the failure instead of numbers."""
    told = {key_of(one): one.partition("=")[2] for one in job.overrides}
    label = " ".join(one for one in job.label(swept).split() if key_of(one) != "seed")
    return {"run": name, "seed": told.get("seed", ""), "overrides": label, "failed": job.reason or ""}
