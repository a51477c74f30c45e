"""Arbitrary-scale super-resolution training (Chen, Liu and Wang, CVPR 2021): L1 on sampled pixels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from dynres.contracts import QueryBatch
from dynres.methods.base import RestorationTraining

# Losses are those of the authors' code, which works on colours in [-1, 1]: twice the distance in [0, 1].
COLOUR_RANGE = 2.0


class AssrTraining(RestorationTraining):
    """L1 between predicted and true colours of the queried pixels. TADT's Baseline is trained so (lambda = 0)."""

    def training_step(self, batch: QueryBatch, batch_idx: int) -> dict[str, Any]:
        prediction, target, routing = self.predicted(batch)
        loss = COLOUR_RANGE * F.l1_loss(prediction, target)
        return self.published(loss, {"train/l1": loss.detach()}, routing, batch.scale)
