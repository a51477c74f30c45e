"""What the tables of all papers share: finished runs, numbers as text, and a table on the terminal and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from dynres.build import build_restorer, compose_checked, network_description
from dynres.restorer import Restorer

Row = list[str]
DIGITS = {"psnr": 2, "ssim": 4, "psnr_b": 2}


def published_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration of the choices of conf/, such as ["backbone=rdn"], in published sizes."""
    return compose_checked(["profile=paper", "method=assr", *overrides])


def published_network(overrides: Sequence[str]) -> Restorer:
    """The network of such choices, on the meta device."""
    with torch.device("meta"):
        return build_restorer(network_description(published_config(overrides))).eval()


def choices(network: Sequence[str]) -> dict[str, str]:
    """["backbone=rdn", ...] as a dictionary."""
    return dict(choice.split("=", 1) for choice in network)


def paper_runs(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, summary.json) of every finished profile=paper run below `runs`, the newest last."""
    for path in sorted(runs.rglob("summary.json"), key=lambda path: path.stat().st_mtime):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["profile"] == "paper":
            yield path.parent, result


def finished(runs: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(experiment, test set) -> metrics by scale or level, of the newest finished profile=paper run that has each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, result in paper_runs(runs):
        for dataset, rows in result["metrics"].items():
            found.setdefault((result["experiment"], dataset), {}).update(rows)
    return found


def number(value: float | None, digits: int = 2) -> str:
    """With so many digits after the point; a dash for what is not known."""
    return "-" if value is None else f"{float(value):.{digits}f}"


def beside(published: Sequence[float | None], ours: Mapping[str, float | None], metrics: Sequence[str]) -> str:
    """ "34.52/0.9081/33.72 | -": the metrics as published, and ours; one dash where no run has any."""
    theirs = "/".join(number(value, DIGITS[metric]) for value, metric in zip(published, metrics, strict=True))
    mine = "/".join(number(ours[metric], DIGITS[metric]) for metric in metrics) if ours else "-"
    return f"{'-' if set(published) == {None} else theirs} | {mine}"


def levels_of(table: Mapping[str, Any]) -> list[str]:
    """The levels or scales of a table whose "rows" are system -> test set -> level -> metrics."""
    return list(next(iter(next(iter(table["rows"].values())).values())))


def show(title: str, columns: Row, rows: list[Row], notes: Sequence[str] = ()) -> str:
    """Print a table, notes below it; returns it as Markdown."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
    lines = [columns, ["---"] * len(columns), *[[cell.replace("|", "/") for cell in row] for row in rows]]
    text = f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    return text + "".join(f"\n{note}\n" for note in notes)
