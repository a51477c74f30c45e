"""Results as they come (per_image.csv) and at the end (summary.json, summary.md, the printed table)."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import EvaluationWatcher, restorer_of, run_folder, write_csv
from dynres.callbacks.throughput import Throughput
from dynres.callbacks.wandb_log import WandbLog
from dynres.contracts import Evaluation
from dynres.report import CSV_COLUMNS, Record, Summary, print_table, summary, write_summary

RESULTS = ("psnr", "ssim", "macs")  # what W&B compares runs by


class SummaryCallback(EvaluationWatcher):
    """Writes per_image.csv line by line, so that an interrupted test loses nothing, then summary.json and summary.md.

    Args:
        experiment, profile, seed: what ran, as the summary names it.
    """

    def __init__(self, experiment: str, profile: str, seed: int) -> None:
        super().__init__()
        self.experiment, self.profile, self.seed = experiment, profile, seed

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        if trainer.is_global_zero:
            path = run_folder(trainer) / "per_image.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            first = len(self.records) == 1
            with open(path, "w" if first else "a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([*([CSV_COLUMNS] if first else []), item.csv])

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        if trainer.world_size > 1:  # the lines of the other processes
            write_csv(run_folder(trainer) / "per_image.csv", CSV_COLUMNS, [item.csv for item in records])
        timers = [callback.seconds for callback in vars(trainer)["callbacks"] if isinstance(callback, Throughput)]
        result = summary(
            records,
            self.experiment,
            self.profile,
            self.seed,
            params=sum(parameter.numel() for parameter in restorer_of(module).parameters()),
            train_seconds=timers[0] if timers else 0.0,
        )
        write_summary(run_folder(trainer), result)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLog):
                _log(logger, records, result)
        print_table(result)


def _log(log: WandbLog, records: Sequence[Record], result: Summary) -> None:
    """The tables of images and of means, and the means as columns of W&B's table over runs."""
    log.log_table("tables/per_image", CSV_COLUMNS, [item.csv for item in records])
    rows = [(dataset, label, row) for dataset, found in result["metrics"].items() for label, row in found.items()]
    columns = list(rows[0][2])
    log.log_table(
        "tables/summary",
        ["dataset", "label", *columns],
        [[dataset, label, *(row[column] for column in columns)] for dataset, label, row in rows],
    )
    known = [(f"test/{dataset}/{label}", row) for dataset, label, row in rows]
    values = {f"{name}/{key}": row[key] for name, row in known for key in RESULTS if row[key] is not None}
    log.log_result({**values, "parameters": result["params"]})
