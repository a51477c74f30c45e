"""A distilled network beside the one that taught it: PSNR, parameters and MACs on the same test images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from dynres.callbacks.common import EvaluationWatcher, restorer_of, run_folder, save_figure, write_csv
from dynres.callbacks.panels import draw
from dynres.contracts import Evaluation
from dynres.report import Record, grouped, record


class BesideTeacher(EvaluationWatcher):
    """Restores every test image with the teacher too; writes teacher.csv, teacher/*.png and a printed table.

    Nothing where no teacher was asked.

    Args:
        pictures: images of each test set and label that are drawn.
        crop: side of the enlarged crop, in output pixels.
    """

    def __init__(self, pictures: int = 1, crop: int = 72) -> None:
        super().__init__()
        self.pictures, self.crop = pictures, crop
        self.taught: list[Record] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self.taught = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        module: Any = pl_module
        teacher = getattr(module, "teacher", None)
        if teacher is None or not isinstance(outputs, Evaluation):
            return
        evaluation = module.evaluate(outputs.sample, restorer=teacher.to(outputs.sample.image.device))
        self.taught.append(record(evaluation))
        mine = self.records[-1]
        if sum((one.dataset, one.label) == (mine.dataset, mine.label) for one in self.taught) <= self.pictures:
            name = re.sub(r"[^\w.-]+", "-", f"{mine.dataset}_{mine.label}_{mine.image}")
            figure = draw(outputs, mine, self.crop, ("teacher", evaluation))
            save_figure(trainer, figure, f"teacher/{name}.png", f"teacher/{name}")

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        if not self.taught:
            return
        teacher: Any = module.teacher
        networks = {"student": (restorer_of(module), records), "teacher": (teacher, self.taught)}
        lines = []
        for name, (network, found) in networks.items():
            params = sum(parameter.numel() for parameter in network.parameters())
            for (dataset, label), group in grouped(found).items():
                known = [item.psnr for item in group if item.psnr is not None]
                psnr = f"{fmean(known):.4f}" if known else ""
                lines.append([dataset, label, name, params, fmean(item.macs for item in group), psnr])
        write_csv(
            run_folder(trainer) / "teacher.csv", ["dataset", "label", "network", "parameters", "macs", "psnr"], lines
        )
        show(lines)


def show(lines: Sequence[Sequence[Any]]) -> None:
    """Print the lines of teacher.csv, a test set and label after the other."""
    table = Table(title="student and teacher (PSNR in dB; MACs of the backbone)", title_justify="left")
    for column in ("test set", "", "network", "M parameters", "GMACs", "PSNR"):
        table.add_column(column, justify="left" if column in ("test set", "", "network") else "right")
    for dataset, label, name, params, macs, psnr in sorted(lines, key=lambda line: (line[0], line[1])):
        shown = f"{float(psnr):.2f}" if psnr else "-"
        table.add_row(dataset, label, name, f"{params / 1e6:.3f}", f"{macs / 1e9:.3f}", shown)
    Console().print(table)
