"""An exponential moving average of the restorer's weights, used for validation and test."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from dynres.callbacks.common import restorer_of


class Ema(Callback):
    """Keeps timm's ModelEmaV3 of `restorer` and exchanges it with the trained weights while images are evaluated.

    Checkpoints hold the trained weights in their "state_dict" and the average in this callback's state, from where
    `checkpoint_io.restorer_weights` takes it; so a resumed run continues both, bit for bit.

    Args:
        decay: weight of the past at each step, in [0, 1).
        warmup: let the decay grow from 0 with the steps, 1 - (1 + step)^(-2/3), until it reaches `decay`.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}: 0.999 averages over about 1000 steps")
        self.decay, self.warmup = decay, warmup
        self._average: Any = None  # timm's ModelEmaV3, built when the weights are on their device
        self._of: Any = None  # the network it is of: it starts anew where a method exchanges that in mid-run
        self._loaded: dict[str, Tensor] | None = None
        self._since = 0  # the step at which it began
        self._step = -1
        self._exchanged = False

    def state_dict(self) -> dict[str, Any]:
        if self._average is None:
            return {"weights": self._loaded, "since": self._since}
        weights = {key: value.detach().clone() for key, value in self._average.module.state_dict().items()}
        return {"weights": weights, "since": self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded, self._average = state_dict["weights"], None
        self._since = state_dict.get("since", 0)

    @property
    def state_key(self) -> str:
        return "Ema"

    def _ensure(self, module: LightningModule) -> None:
        """Build the average from the loaded weights, or from the module's own at the start of training."""
        if self._average is None or self._of is not restorer_of(module):
            from timm.utils import ModelEmaV3

            self._of = restorer_of(module)
            self._average = ModelEmaV3(restorer_of(module), decay=self.decay, use_warmup=self.warmup)
            if self._loaded is not None:
                self._average.module.load_state_dict(self._loaded)
                self._loaded = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ensure(pl_module)
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:  # not while gradients accumulate
            self._step = trainer.global_step
            if self._of is not restorer_of(pl_module):
                self._since = self._step - 1
            self._ensure(pl_module)
            self._average.update(restorer_of(pl_module), step=self._step - self._since)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._average is not None or self._loaded is not None:  # else nothing was averaged: the weights as they are
            self._ensure(pl_module)
            exchange(restorer_of(pl_module), self._average.module)
            self._exchanged = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._exchanged:
            exchange(restorer_of(pl_module), self._average.module)
            self._exchanged = False

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_start(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)  # before a checkpoint of the exception is written


@torch.no_grad()
def exchange(one: nn.Module, other: nn.Module) -> None:
    """Swap the values of two modules of the same architecture, in place, exactly."""
    theirs = other.state_dict()
    for key, mine in one.state_dict().items():
        kept = mine.clone()
        mine.copy_(theirs[key])
        theirs[key].copy_(kept)
