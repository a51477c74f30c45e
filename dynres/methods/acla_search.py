"""The search for where cross-layer attention pays (ACLA, Sec. 3.1, "Search Procedure", Eq. 10-14)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from dynres.backbones.acla import CrossLayer
from dynres.contracts import PatchBatch, QueryBatch
from dynres.methods.base import Inference, RestorationTraining
from dynres.restorer import Restorer

COLOUR_RANGE = 255.0  # lambda of Table 9 weighs log cost against an error of 8-bit colours
Batch = PatchBatch | QueryBatch


class AclaSearch(RestorationTraining):
    """L(w, alpha) = MSE + lambda log cost (Eq. 14) on a supernet, in two stages.

    First the weights w alone are trained. Then w, by the first half of each batch, and the architecture parameters
    alpha, by the second half, take turns from step to step; data.halves=true draws the halves from disjoint halves of
    the training images. The gates of Eq. 10 are drawn anew each step in both stages, and their temperature falls
    geometrically in the second. A layer loses its module where alpha ends below 0 (`CrossLayer.found`).

    The paper prints the learning rate, its cosine schedule, 200 epochs and lambda. Where it is silent: both stages take
    half of the steps, tau falls from 1 to 0.1, alpha begins at 1 and has ten times the weights' learning rate (at 1e-4
    Adam could move it by 0.9 in the whole search, and no module would ever go), and colours of the MSE range to 255:
    lambda of 0.15 to 0.3 would outweigh an error of colours in [0, 1] a hundredfold.

    Args:
        restorer: its backbone is a supernet (backbone=acla_edsr backbone.searched=true backbone.positions=all).
        learning_rate: Adam's at the beginning; it falls to 0 along a cosine.
        seed, inference: see RestorationTraining.
        cost_weight: lambda of Eq. 14.
        weights_only: part of the training that is the first stage, in [0, 1).
        temperature: (first, last) tau of Eq. 10, above 0 and not rising.
        alpha_rate: learning rate of alpha over that of the weights.

    Raises:
        ValueError: on another backbone, or an option out of its range.
    """

    batches = "any"

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        seed: int = 0,
        inference: Inference | None = None,
        cost_weight: float = 0.15,
        weights_only: float = 0.5,
        temperature: Sequence[float] = (1.0, 0.1),
        alpha_rate: float = 10.0,
    ) -> None:
        super().__init__(restorer, learning_rate, (), 1.0, seed, inference)
        if getattr(restorer.backbone, "alpha", None) is None:
            raise ValueError(
                "method=acla_search needs a supernet: backbone=acla_edsr (or acla_rcan) backbone.searched=true "
                "backbone.positions=all"
            )
        if cost_weight < 0:
            raise ValueError(f"cost_weight must be at least 0, got {cost_weight}")
        if not 0 <= weights_only < 1:
            raise ValueError(f"weights_only must lie in [0, 1), got {weights_only}")
        if not alpha_rate > 0:
            raise ValueError(f"alpha_rate must be above 0, got {alpha_rate}")
        numbers = list(temperature) if isinstance(temperature, Sequence) else []
        plain = len(numbers) == 2 and all(isinstance(tau, int | float) for tau in numbers)
        if not plain or not 0 < numbers[1] <= numbers[0]:
            raise ValueError(f"temperature must be two falling numbers above 0, such as [1, 0.1], got {temperature}")
        self.cost_weight, self.weights_only, self.alpha_rate = cost_weight, weights_only, alpha_rate
        self.temperature = (float(numbers[0]), float(numbers[1]))

    @property
    def supernet(self) -> CrossLayer:
        """The backbone that is searched."""
        backbone = self.restorer.backbone
        assert isinstance(backbone, CrossLayer)
        return backbone

    @property
    def alpha(self) -> nn.Parameter:
        """(L,) the architecture parameters."""
        assert self.supernet.alpha is not None
        return self.supernet.alpha

    # ---------------------------------------------------------------------------------------------------- schedule

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameter_groups(), lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        weights = [parameter for parameter in self.restorer.parameters() if parameter is not self.alpha]
        return [
            {"params": weights, "lr": self.learning_rate},
            {"params": [self.alpha], "lr": self.learning_rate * self.alpha_rate},
        ]

    @property
    def _steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    @property
    def _first_stage(self) -> int:
        return round(self.weights_only * self._steps)

    def searching(self, step: int) -> bool:
        """Whether a step moves alpha: every second one after the first stage."""
        past = step - self._first_stage
        return past >= 0 and past % 2 == 1

    def gate_temperature(self, step: int) -> float:
        """tau of Eq. 10 at a step."""
        first, last = self.temperature
        done = max(0.0, step - self._first_stage) / max(1, self._steps - self._first_stage)
        return first * math.pow(last / first, min(1.0, done))

    # ---------------------------------------------------------------------------------------------------- steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.supernet.gate_temperature = self.gate_temperature(self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        searching = self.searching(self.global_step)
        half = len(batch.image) // 2
        if half == 0:
            raise ValueError("the search splits batches in two: set data.batch_size to at least 2")
        mine = type(batch)(*(field[half:] if searching else field[:half] for field in batch))
        prediction, target, routing = self.predicted(mine)
        assert routing is not None  # a supernet always decides
        error = COLOUR_RANGE**2 * F.mse_loss(prediction, target)
        cost = self.supernet.searched_cost(routing, mine.image.shape[-2] * mine.image.shape[-1])
        loss = error + self.cost_weight * cost.log().to(error.dtype)
        parts = {
            "train/mse": error.detach(),
            "train/log_cost": cost.detach().log(),
            "train/temperature": error.new_tensor(self.supernet.gate_temperature),
            "train/validation_half": error.new_tensor(float(searching)),
            **{f"alpha/layer{number}": value for number, value in enumerate(self.alpha.detach().clone(), start=1)},
        }
        return self.published(loss, parts, routing, mine.scale)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Both got gradients; Adam leaves alone what has none.
        if self.searching(self.global_step):
            for parameter in self.restorer.parameters():
                if parameter is not self.alpha:
                    parameter.grad = None
        else:
            self.alpha.grad = None
