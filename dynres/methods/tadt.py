"""TADT's training method (TADT, Sec. 3.4): L1 plus a penalty on the intensity beta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dynres.backbones.tadt import TADT
from dynres.contracts import QueryBatch, Task
from dynres.methods.assr import COLOUR_RANGE
from dynres.methods.base import Inference, RestorationTraining
from dynres.restorer import Restorer


def beta_loss(intensity: Tensor, scale: Tensor, alpha: Sequence[float] = (0.25, 0.25, 0.5)) -> Tensor:
    """Penalty on compute spent beyond the scale's allowance: beta * [beta >= a1 + a2 s^a3] (TADT, Eq. 6-7).

    Args:
        intensity: (B,) beta >= 0, before the clipping of Eq. 3; carries the gradient.
        scale: (B,) upscaling factor >= 1.
        alpha: a1, a2, a3; 0.25, 0.25, 0.5 in the paper.

    Returns:
        Scalar mean over the batch, no unit; the caller weighs it by lambda (Eq. 5).

    Raises:
        ValueError: if a scale is below 1; the message gives it.
    """
    if bool((scale < 1).any()):
        raise ValueError(f"scales must be at least 1, got {scale.min().item()}")
    allowance = alpha[0] + alpha[1] * scale ** alpha[2]
    return (intensity * (intensity >= allowance)).mean()


class TadtTraining(RestorationTraining):
    """L1 on queried pixels plus lambda times the beta loss (Eq. 5); gates are drawn in the backbone (Eq. 4).

    The paper starts from a trained Baseline: give its checkpoint as `ckpt` (run.py loads it), or let the first
    part of the run be that Baseline with `dense_fraction`.

    Args:
        restorer: its backbone is a TADT.
        learning_rate, milestones, gamma, seed, inference: see RestorationTraining.
        beta_weight: lambda of Eq. 5; 0 is the ablation without L_beta (Table 5).
        alpha: a1, a2, a3 of Eq. 6.
        dense_fraction: part of the training with every branch on and no penalty, in [0, 1); 0 in the paper.
        controller_rate: the controller's learning rate over the network's; 1 in the paper.
    """

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int = 0,
        inference: Inference | None = None,
        beta_weight: float = 2e-4,
        alpha: Sequence[float] = (0.25, 0.25, 0.5),
        dense_fraction: float = 0.0,
        controller_rate: float = 1.0,
    ) -> None:
        super().__init__(restorer, learning_rate, milestones, gamma, seed, inference)
        if beta_weight < 0 or not 0 <= dense_fraction < 1:
            raise ValueError(
                f"method.beta_weight must be >= 0 and method.dense_fraction in [0, 1), "
                f"got {beta_weight} and {dense_fraction}"
            )
        if not isinstance(restorer.backbone, TADT):
            raise ValueError(
                f"method=tadt routes the branches of a tadt backbone, got {type(restorer.backbone).__name__}"
            )
        self.beta_weight, self.alpha, self.dense_fraction = beta_weight, tuple(alpha), dense_fraction
        self.controller_rate = controller_rate

    def training_step(self, batch: QueryBatch, batch_idx: int) -> dict[str, Any]:
        dense = self.global_step < self.dense_fraction * self.trainer.estimated_stepping_batches
        task = Task(batch.scale, budget=1.0 if dense else None, seed=batch.seed)
        prediction, routing = self.restorer.query(batch.image, batch.coords, batch.cell, task)
        assert routing is not None and routing.intensity is not None  # a TADT always decides
        reconstruction = COLOUR_RANGE * F.l1_loss(prediction, self.restorer.seen(batch.target))
        penalty = beta_loss(routing.intensity, batch.scale, self.alpha)
        loss = reconstruction if dense else reconstruction + self.beta_weight * penalty
        parts = {
            "train/l1": reconstruction.detach(),
            "train/beta_loss": penalty.detach(),
            "train/active_fraction": routing.decisions.detach().mean(),
        }
        return self.published(loss, parts, routing, batch.scale)

    def parameter_groups(self) -> list[dict[str, Any]]:
        backbone = self.restorer.backbone
        assert isinstance(backbone, TADT)
        controller = list(backbone.controller.parameters())
        chosen = set(map(id, controller))
        network = [parameter for parameter in self.restorer.parameters() if id(parameter) not in chosen]
        return [
            {"params": network, "lr": self.learning_rate},
            {"params": controller, "lr": self.learning_rate * self.controller_rate},
        ]
