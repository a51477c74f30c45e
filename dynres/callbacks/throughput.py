"""How fast training goes, and how long it took in all, restarts included."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs train/steps_per_second (validation not counted) and keeps `seconds`, which checkpoints carry.

    Attributes:
        seconds: wall clock of training so far, validation included, over all restarts.
    """

    def __init__(self) -> None:
        self._earlier = 0.0  # seconds of the runs before the last restart
        self._started: float | None = None  # monotonic time at which this run's training began
        self._mark: tuple[float, int] | None = None  # (monotonic time, step) of the last logged value
        self._paused = 0.0  # seconds spent in validation since the mark
        self._validation_began = 0.0

    @property
    def seconds(self) -> float:
        return self._earlier + (0.0 if self._started is None else time.monotonic() - self._started)

    def state_dict(self) -> dict[str, float]:
        return {"train_seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Testing the best checkpoint after training must not forget the steps that came after the best.
        self._earlier = max(self.seconds, float(state_dict["train_seconds"]))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        self._mark, self._paused = (self._started, trainer.global_step), 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = vars(trainer)["log_every_n_steps"]
        if self._mark is None or not every or trainer.global_step % every or trainer.global_step == self._mark[1]:
            return
        now = time.monotonic()
        seconds = now - self._mark[0] - self._paused
        steps = trainer.global_step - self._mark[1]
        pl_module.log("train/steps_per_second", steps / max(seconds, 1e-9), rank_zero_only=True)
        self._mark, self._paused = (now, trainer.global_step), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.monotonic() - self._validation_began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._earlier, self._started = self.seconds, None
