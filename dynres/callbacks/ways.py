"""What callbacks share that restore every test image in several ways: records by way, means, tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from dynres.callbacks.common import EvaluationWatcher, from_all_processes
from dynres.callbacks.wandb_log import Lines
from dynres.report import UNKNOWN, Record, markdown_table


class WaysWatcher(EvaluationWatcher, ABC):
    """Keeps records of each way through a network: of this process in `watch`, of all processes in `write`.

    Attributes:
        ways: records by the name of the way, in the order of `names`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ways: dict[str, list[Record]] = {}

    @abstractmethod
    def names(self, module: LightningModule) -> Sequence[str]:
        """The ways through the network, the same in every process; none for a network that has one alone."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self.ways = {name: [] for name in self.names(pl_module)}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ways = {name: from_all_processes(trainer, items) for name, items in self.ways.items()}
        super().on_test_end(trainer, pl_module)


class Shown(NamedTuple):
    """A table of texts, and lines below it."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    notes: Sequence[str] = ()


def filled(table: Shown) -> Shown:
    """Without the columns that nothing fills."""
    kept = [column for column in range(len(table.headers)) if any(row[column] != UNKNOWN for row in table.rows)]
    rows = [[row[column] for column in kept] for row in table.rows]
    return table._replace(headers=[table.headers[column] for column in kept], rows=rows)


def markdown(tables: Iterable[Shown]) -> str:
    """As sections of a Markdown file."""
    parts = []
    for title, headers, rows, notes in tables:
        text = f"## {title}\n\n{markdown_table(headers, rows)}"
        parts.append(text + "".join(f"\n{note}\n" for note in notes))
    return "\n".join(parts)


def against_macs(points: Iterable[tuple[str, float, float | None]]) -> Lines:
    """A chart of (line, MACs, PSNR in dB) points, in the order of the MACs; without those of unknown PSNR."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name, macs, psnr in sorted((point for point in points if point[2] is not None), key=lambda point: point[:2]):
        xs, ys = lines.setdefault(name, ([], []))
        xs.append(macs / 1e9)
        ys.append(psnr or 0.0)
    return Lines("PSNR in dB against GMACs", "GMACs", lines)


def show(tables: Iterable[Shown], width: int = 120) -> None:
    """On the terminal; `width` where there is none."""
    console = Console()
    if not console.is_terminal:
        console.width = width  # a file or a pipe has no width of its own
    for title, headers, rows, notes in tables:
        table = Table(title=title, title_justify="left")
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        for note in notes:
            console.print(note, highlight=False, markup=False)
