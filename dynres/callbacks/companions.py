"""A network beside those it came from (its teacher, itself before a cut): PSNR, parameters, MACs on the same images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from dynres.callbacks.common import EvaluationWatcher, restorer_of, save_figure, save_table
from dynres.callbacks.panels import check_pictures, draw
from dynres.contracts import Evaluation
from dynres.report import Record, grouped, record

OURS = "ours"


class Companions(EvaluationWatcher):
    """Restores every test image with the method's companions too; writes companions.csv, companions/*.png and a table.

    Nothing where a method has none.

    Args:
        pictures: images of each test set and label that are drawn, beside the first companion.
        crop: side of the enlarged crop, in output pixels.
    """

    def __init__(self, pictures: int = 1, crop: int = 72) -> None:
        super().__init__()
        check_pictures(pictures, crop)
        self.pictures, self.crop = pictures, crop
        self.networks: dict[str, Any] = {}
        self.theirs: dict[str, list[Record]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        module: Any = pl_module
        self.networks = {name: network.to(module.device).eval() for name, network in module.companions().items()}
        self.theirs = {name: [] for name in self.networks}

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
        if not isinstance(outputs, Evaluation):
            return
        module: Any = pl_module
        found = {name: module.evaluate(outputs.sample, restorer=network) for name, network in self.networks.items()}
        for name, evaluation in found.items():
            self.theirs[name].append(record(evaluation))
        mine = self.records[-1]
        seen = sum((one.dataset, one.label) == (mine.dataset, mine.label) for one in self.records)
        if found and seen <= self.pictures:
            key = "companions/" + re.sub(r"[^\w.-]+", "-", f"{mine.dataset}_{mine.label}_{mine.image}")
            save_figure(trainer, draw(outputs, mine, self.crop, next(iter(found.items()))), f"{key}.png", key)

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        if not self.networks:
            return
        lines = []
        for name, found in {**self.theirs, OURS: records}.items():
            network = self.networks.get(name) or restorer_of(module)
            params = sum(parameter.numel() for parameter in network.parameters())
            for (dataset, label), group in grouped(found).items():
                known = [item.psnr for item in group if item.psnr is not None]
                psnr = f"{fmean(known):.4f}" if known else ""
                lines.append([dataset, label, name, params, round(fmean(item.macs for item in group)), psnr])
        header = ["dataset", "label", "network", "parameters", "macs", "psnr"]
        save_table(trainer, "companions", header, lines)
        show(lines)


def show(lines: Sequence[Sequence[Any]]) -> None:
    """Print the lines of companions.csv, one test set and label after the other."""
    table = Table(title="where it came from (PSNR in dB; MACs of the backbone)", title_justify="left")
    for column in ("test set", "", "network", "M parameters", "GMACs", "PSNR"):
        table.add_column(column, justify="left" if column in ("test set", "", "network") else "right")
    for dataset, label, name, params, macs, psnr in sorted(lines, key=lambda line: (line[0], line[1])):
        shown = f"{float(psnr):.3f}" if psnr else "-"
        table.add_row(dataset, label, name, f"{params / 1e6:.3f}", f"{macs / 1e9:.3f}", shown)
    Console().print(table)
