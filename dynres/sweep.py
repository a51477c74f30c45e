"""The table at the end of a multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dynres import report


class SummaryTable(Callback):
    """One table over the runs of a sweep, printed and written into the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if any(folder.glob("*/summary.json")):
            report.print_collection(folder)
