"""AnySR's training: one network whose subnets take turns, as the scale of the batch decides.

Zhan et al., "AnySR: Realizing Image Super-Resolution as Any-Scale, Any-Resource"; numbers and what the paper leaves
open are those of the authors' code (CrispyFeSo4/AnySR).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynres.backbones.anysr import AnySR
from dynres.contracts import QueryBatch, Routing, Task
from dynres.methods.assr import COLOUR_RANGE
from dynres.methods.base import Inference, RestorationTraining
from dynres.restorer import Restorer


class AnySrTraining(RestorationTraining):
    """L1 on queried pixels; each scale trains its own subnet, and the smallest scales the whole network at times.

    Meant for batches of one scale (data.scale_step, which method=anysr sets), so that a batch runs one subnet; the
    network is told the scale to a tenth, at which groups of scales and their codes are made. Where the smallest subnet
    is due, the whole network runs in its place with probability `full_share`: one draw a batch, the same in all
    processes.

    The paper starts from a trained network: give it as `ckpt` (run.py loads it), or let the first part of the run
    train the whole network with `pretraining`.

    Two things are what the authors' code says and not what it does. Its configuration has the warm-up, which its
    schedule leaves out where milestones are given as well: learning_rate=1e-5 warmup=0 is what then runs. And its
    training script has no option by which the draw of a random width is reached: full_share=0 is what then runs.

    Args:
        restorer: its backbone is an AnySR.
        learning_rate: Adam's, at the end of the warm-up.
        milestones, gamma, seed, inference: see RestorationTraining.
        warmup: part of the training in which the rate rises linearly, in [0, 1).
        warmup_from: where it begins, as a share of `learning_rate`, in (0, 1].
        full_share: see above, in [0, 1].
        pretraining: part of the training in which the whole network runs at every scale, in [0, 1); 0 in the paper.

    Raises:
        ValueError: on another backbone, or an option out of its range.
    """

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int = 0,
        inference: Inference | None = None,
        warmup: float = 0.1,
        warmup_from: float = 0.1,
        full_share: float = 0.6,
        pretraining: float = 0.0,
    ) -> None:
        super().__init__(restorer, learning_rate, milestones, gamma, seed, inference)
        if not isinstance(restorer.backbone, AnySR):
            raise ValueError(f"method=anysr trains the subnets of AnySR, got {type(restorer.backbone).__name__}")
        if not 0 <= warmup < 1 or not 0 <= pretraining < 1:
            raise ValueError(f"warmup and pretraining must lie in [0, 1), got {warmup} and {pretraining}")
        if not 0 < warmup_from <= 1:
            raise ValueError(f"warmup_from must lie in (0, 1], got {warmup_from}")
        if not 0 <= full_share <= 1:
            raise ValueError(f"full_share must lie in [0, 1], got {full_share}")
        self.warmup, self.warmup_from = warmup, warmup_from
        self.full_share, self.pretraining = full_share, pretraining

    # ---------------------------------------------------------------------------------------------------- schedule

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameter_groups(), lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def decay(self, step: int) -> float:
        """The rate of a step over `learning_rate`: from `warmup_from` to 1, then times gamma at each milestone."""
        steps = self.scheduled_steps
        risen = min(1.0, step / (self.warmup * steps)) if self.warmup else 1.0
        passed = sum(step >= max(1, round(fraction * steps)) for fraction in self.milestones)
        return (self.warmup_from + (1 - self.warmup_from) * risen) * self.gamma**passed

    # ---------------------------------------------------------------------------------------------------- steps

    def training_step(self, batch: QueryBatch, batch_idx: int) -> dict[str, Any]:
        whole = self.global_step < self.pretraining * self.scheduled_steps
        task = Task((10 * batch.scale).round() / 10, budget=1.0 if whole else None, seed=batch.seed)
        chosen = self.chosen(batch.image, task)
        prediction, routing = self.restorer.query(batch.image, batch.coords, batch.cell, replace(task, routing=chosen))
        loss = COLOUR_RANGE * F.l1_loss(prediction, self.restorer.seen(batch.target))
        parts = {"train/l1": loss.detach(), "train/width": self._width(chosen)}
        return self.published(loss, parts, routing, batch.scale)

    def chosen(self, image: Tensor, task: Task) -> Routing:
        """The backbone's own decisions, but every step where none is due and the draw says so.

        Draws once from torch's generator on the CPU, whatever is due.
        """
        routing = self.network.route(image, task)
        if float(torch.rand(())) >= self.full_share:
            return routing
        smallest = routing.decisions.sum(dim=1, keepdim=True) == 0
        decisions = torch.where(smallest, 1.0, routing.decisions)
        return replace(routing, decisions=decisions, probabilities=decisions)

    @property
    def network(self) -> AnySR:
        """The backbone that is trained."""
        assert isinstance(self.restorer.backbone, AnySR)
        return self.restorer.backbone

    def _width(self, routing: Routing) -> Tensor:
        """Share of the inner channels that ran, mean over the batch."""
        widths = routing.decisions.new_tensor(self.network.widths)
        return widths[routing.decisions.sum(dim=1).long()].mean()
