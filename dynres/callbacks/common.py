"""What the watching callbacks share: test records from every process, figures on disk and in the loggers."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from dynres.callbacks.wandb_log import Lines, WandbLog
from dynres.contracts import Evaluation
from dynres.files import atomic_file
from dynres.report import Record, record


class EvaluationWatcher(Callback):
    """Collects a Record for every image that `test` (or a `validate` of its own, not one inside fit) restores.

    Subclasses override `write`, which the first process calls once at the end with the records of all processes, or
    `watch`, called on every process after each image.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        """One image was restored."""

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        """All images were restored."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.records = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Evaluation):
            self.records.append(record(outputs))
            self.watch(trainer, outputs, self.records[-1])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        records = from_all_processes(trainer, self.records)
        if records and trainer.is_global_zero:
            self.write(trainer, pl_module, records)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)


def from_all_processes(trainer: Trainer, records: Sequence[Record]) -> list[Record]:
    """The records of every process, each image once (a set that does not divide evenly is padded with repeats)."""
    parts: list[Any] = [list(records)]
    if trainer.world_size > 1 and torch.distributed.is_initialized():
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, list(records))
    unique = {(item.dataset, item.label, item.image): item for part in parts for item in part}
    return list(unique.values())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace a CSV file, atomically."""
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def restorer_of(module: LightningModule) -> Any:
    """The dynres.restorer.Restorer of any training method."""
    return module.restorer


def run_folder(trainer: Trainer) -> Path:
    """The folder of the run."""
    return Path(trainer.default_root_dir)


def save_figure(trainer: Trainer, figure: Figure, name: str, key: str) -> None:
    """Write a figure to `name` in the run's folder and hand it to every logger that takes images, under `key`."""
    path = run_folder(trainer) / name
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight", facecolor="white")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLog):
            logger.log_image(key, path, step=trainer.global_step if trainer.state.fn == "fit" else None)
        elif isinstance(logger, TensorBoardLogger):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            logger.experiment.add_image(key, pixels, trainer.global_step, dataformats="HWC")


def save_table(
    trainer: Trainer,
    name: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    charts: Mapping[str, Lines] | None = None,
) -> None:
    """Write `name`.csv into the run's folder and hand the table to W&B as tables/`name`, each chart as charts/KEY."""
    lines = [list(row) for row in rows]
    write_csv(run_folder(trainer) / f"{name}.csv", header, lines)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLog):
            logger.log_table(f"tables/{name}", header, lines)
            for key, chart in (charts or {}).items():
                if chart.lines:
                    logger.log_chart(f"charts/{key}", chart)
