"""best.ckpt and last.ckpt: when they are written, and what they say about themselves."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dynres.checkpoint_io import CheckpointNotWritten
from dynres.errors import UserError


class Checkpoints(Checkpoint):
    """Writes checkpoints/best.ckpt and checkpoints/last.ckpt in the run's folder, each replaced in place.

    best: after a validation that beats all before. last: every `every` steps, when training ends, on SIGTERM and on an
    exception. Where a validation is due at the same step, last waits for it, so that a run killed during the validation
    resumes before it and loses neither its metrics nor a best checkpoint.

    Args:
        every: steps between two writes of last.ckpt, at least 1.
        monitor: the logged metric that decides what is best.
        mode: "max" or "min".

    Attributes:
        best_model_path, last_model_path: what was written so far, "" before; the first is ckpt_path="best".
    """

    def __init__(self, every: int = 1000, monitor: str = "val/psnr", mode: str = "max") -> None:
        if every < 1:
            raise UserError(f"callbacks.checkpoints.every must be at least 1 step, got {every}")
        if mode not in ("max", "min"):
            raise UserError(f"callbacks.checkpoints.mode must be max or min, got {mode!r}")
        self.every, self.monitor, self.mode = every, monitor, mode
        self.best_score: float | None = None
        self.best_model_path = ""
        self.last_model_path = ""
        self._saved_at = -1  # step of last.ckpt
        self._network: Any = None  # the one that is trained; a method may exchange it in mid-run
        self._inside_step = False  # weights may be half updated
        self._abandoned = False  # a batch or a validation was begun and will not be finished

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        best = self._path(trainer, "best")
        self.best_model_path = str(best) if best.is_file() else ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step  # nothing new to save yet
        self._network = getattr(pl_module, "restorer", None)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._inside_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._inside_step = False
        if (network := getattr(pl_module, "restorer", None)) is not self._network:
            self._forget_best(trainer)
            self._network = network
        if self._due(trainer) and not self._validation_follows(trainer):
            self._save_last(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":  # else a resumed validation would look unfinished in every later checkpoint
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise UserError(f"callbacks.checkpoints.monitor={self.monitor} is not logged; logged are: {known}")
        better = self._better(float(score))
        if trainer.strategy.reduce_boolean_decision(better, all=True):
            self.best_score = float(score)
            self.best_model_path = str(self._path(trainer, "best"))
            trainer.save_checkpoint(self.best_model_path, weights_only=False)
        if self._due(trainer):
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved_at != trainer.global_step:
            self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.fn != "fit" or self._saved_at in (-1, trainer.global_step):
            return
        # With several processes only SIGTERM reaches them all; any other exception leaves the rest waiting elsewhere.
        alone = trainer.world_size == 1 or isinstance(exception, SIGTERMException)
        # Half an optimizer step is no step: last.ckpt stays as it is.
        if self._inside_step or not alone or isinstance(exception, CheckpointNotWritten):
            return
        try:
            self._abandoned = True
            self._save_last(trainer)
        except UserError as error:  # the exception under way says more
            print(f"warning: {error}", file=sys.stderr)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._abandoned:
            return
        loops = checkpoint["loops"]["fit_loop"]
        training, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
        for count in (training["total"], training["current"]):  # the batch will be taken again, and counted once
            count.update(ready=count["completed"], started=count["completed"], processed=count["completed"])
        if trainer.validating:  # one image begun, none finished: Lightning then validates first, from the beginning
            validation["total"].update(ready=1, started=1, processed=0, completed=0)
            validation["current"].update(ready=0, started=0, processed=0, completed=0)

    def _forget_best(self, trainer: Trainer) -> None:
        """Another network is being trained: what the one before it reached is no measure for it."""
        self.best_score, self.best_model_path = None, ""
        if trainer.is_global_zero:
            self._path(trainer, "best").unlink(missing_ok=True)

    def _due(self, trainer: Trainer) -> bool:
        return trainer.global_step % self.every == 0 and self._saved_at != trainer.global_step

    def _validation_follows(self, trainer: Trainer) -> bool:
        """Whether this very batch is followed by a validation, where val_check_interval counts batches."""
        every = trainer.val_check_batch
        if not trainer.enable_validation or trainer.check_val_every_n_epoch is not None or every is None:
            return False
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0

    def _better(self, score: float) -> bool:
        if self.best_score is None:
            return score == score  # not NaN
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _save_last(self, trainer: Trainer) -> None:
        self.last_model_path = str(self._path(trainer, "last"))
        trainer.save_checkpoint(self.last_model_path, weights_only=False)
        self._saved_at = trainer.global_step

    @staticmethod
    def _path(trainer: Trainer, name: str) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt"


class SelfDescription(Callback):
    """Puts a description (architecture, hyper-parameters, protocol, versions) into every checkpoint, under "dynres".

    The architecture is that of the module's network at the time.

    Args:
        description: nested dicts and lists of str, int, float, bool and None, so that `weights_only=True` reads it.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.description = plain(description, "description")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        network = getattr(getattr(pl_module, "restorer", None), "description", None)  # as it is by now
        checkpoint["dynres"] = self.description | ({"network": plain(network, "network")} if network else {})


def plain(value: Any, where: str) -> Any:
    """A copy in dict, list, str, int, float, bool and None.

    Raises:
        TypeError: something else is in it; the message says where.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint describes itself in plain types only")
