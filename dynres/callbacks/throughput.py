"""How fast training goes, how much of it is waiting for data, and how long it took in all, restarts included."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs train/steps_per_second and train/data_wait_fraction, and keeps `seconds`, which checkpoints carry.

    Both cover the time since they were last logged, without validation. The fraction is what lies between the end of a
    step and the start of the next: the loader, the transfer to the device and the low-resolution images made on it, and
    what other callbacks do after a step, such as saving. A GPU may be busy with the last step meanwhile and is only
    given the images to make, so the fraction is an upper bound of its idle time.

    Attributes:
        seconds: wall clock of training so far, validation included, over all restarts.
    """

    def __init__(self) -> None:
        self._earlier = 0.0  # seconds of the runs before the last restart
        self._started: float | None = None  # monotonic time at which this run's training began
        self._mark: tuple[float, int] | None = None  # (monotonic time, step) of the last logged value
        self._paused = self._waited = 0.0  # seconds of validation, and of waiting, since the mark
        self._step_ended = self._validation_began = 0.0

    @property
    def seconds(self) -> float:
        return self._earlier + (0.0 if self._started is None else time.monotonic() - self._started)

    def state_dict(self) -> dict[str, float]:
        return {"train_seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Testing the best checkpoint after training must not forget the steps that came after the best.
        self._earlier = max(self.seconds, float(state_dict["train_seconds"]))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._step_ended = time.monotonic()
        self._restart(self._started, trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.monotonic() - self._step_ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._step_ended = time.monotonic()
        every = vars(trainer)["log_every_n_steps"]
        if self._mark is None or not every or trainer.global_step % every or trainer.global_step == self._mark[1]:
            return
        seconds = max(now - self._mark[0] - self._paused, 1e-9)
        steps = trainer.global_step - self._mark[1]
        pl_module.log("train/steps_per_second", steps / seconds, rank_zero_only=True)
        pl_module.log("train/data_wait_fraction", self._waited / seconds, rank_zero_only=True)
        self._restart(now, trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.monotonic() - self._validation_began
        self._paused += seconds
        self._step_ended += seconds  # the wait goes on where validation broke in

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._earlier, self._started = self.seconds, None

    def _restart(self, now: float, step: int) -> None:
        self._mark, self._paused, self._waited = (now, step), 0.0, 0.0
