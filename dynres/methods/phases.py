"""Two trainings in one run, the second of another network: a teacher then its student, a network then what is cut."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from dynres.errors import UserError
from dynres.methods.base import Inference, RestorationTraining
from dynres.restorer import Restorer


class PhasedTraining(RestorationTraining):
    """The network is exchanged in mid-run, with its optimiser and schedule; a run resumes in either phase.

    `restorer` is the network that is being trained, and so what is validated, saved and tested. A subclass gives the
    first one and makes the second one in `second`. What the first phase ends with is kept as checkpoints/NAME.ckpt.
    Milestones are fractions of each phase.

    Attributes:
        phase: 1 or 2.

    Args:
        restorer, learning_rate, milestones, gamma, seed, inference: see RestorationTraining.
        first: share of the steps in the first phase, in [0, 1); 0 for the second alone.
        first_name: NAME.
        second_rate: learning rate of the second phase over that of the first, above 0.

    Raises:
        ValueError: a share or a rate out of its range.
    """

    batches = "any"

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int,
        inference: Inference | None,
        first: float,
        first_name: str,
        second_rate: float = 1.0,
    ) -> None:
        super().__init__(restorer, learning_rate, milestones, gamma, seed, inference)
        if not 0 <= first < 1:
            raise ValueError(f"the share of the first phase must lie in [0, 1), got {first}")
        if not second_rate > 0:
            raise ValueError(f"the learning rate of the second phase must be above 0, got {second_rate} of the first's")
        self.phase = 1 if first else 2
        self.first, self.first_name, self.second_rate = first, first_name, second_rate

    @abstractmethod
    def second(self) -> Restorer:
        """The network of the second phase, made from what the first has learned."""

    def restore_second(self, description: Mapping[str, Any]) -> Restorer:
        """The same from the description in a checkpoint of the second phase; its weights are loaded afterwards."""
        return Restorer.from_description(description)

    def on_second(self) -> None:
        """What else changes with the network, which is `restorer` by now."""

    # ---------------------------------------------------------------------------------------------------- schedule

    @property
    def boundary(self) -> int:
        """The first step of the second phase."""
        steps = int(self.trainer.estimated_stepping_batches)
        return min(max(round(self.first * steps), 1), steps - 1) if self.first else 0

    @property
    def scheduled_steps(self) -> int:
        return self.boundary if self.phase == 1 else int(self.trainer.estimated_stepping_batches) - self.boundary

    @property
    def initial_rate(self) -> float:
        return self.learning_rate * (self.second_rate if self.phase == 2 else 1.0)

    # ---------------------------------------------------------------------------------------------------- the exchange

    def on_fit_start(self) -> None:
        strategy = self.trainer.strategy
        if self.first and not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
            raise UserError(
                f"this method exchanges its network in mid-run, which {type(strategy).__name__} cannot follow: use "
                f"strategy=auto or strategy=ddp"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.phase == 1 and self.global_step >= self.boundary:
            folder = Path(self.trainer.default_root_dir) / "checkpoints"
            self.trainer.save_checkpoint(folder / f"{self.first_name}.ckpt", weights_only=False)
            self._enter(self.second())
            self._follow()
        super().on_train_batch_start(batch, batch_idx)

    def _enter(self, restorer: Restorer) -> None:
        self.restorer, self.phase = restorer.to(self.device).train(), 2
        self.on_second()

    def _follow(self) -> None:
        """Everything that held the parameters of the first network takes those of the second."""
        strategy = self.trainer.strategy
        strategy.precision_plugin.convert_module(self)
        if isinstance(strategy, DDPStrategy):
            strategy.model = self
            strategy.configure_ddp()
        strategy.setup_optimizers(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["phase"] = self.phase

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.phase == 1 and checkpoint["phase"] == 2:
            self._enter(self.restore_second(checkpoint["dynres"]["network"]))
