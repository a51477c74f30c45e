"""Training on whole patches: denoising, JPEG artifacts, blind super-resolution, by any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from dynres.contracts import PatchBatch
from dynres.methods.base import Inference, RestorationTraining
from dynres.restorer import Restorer

Loss = Literal["l1", "l2", "charbonnier"]


def charbonnier(prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean over pixels and channels of sqrt(difference^2 + epsilon^2), for colours in [0, 1] (FlexIR, Eq. 2).

    The paper prints the norm of a whole image under the root; a mean of roots is what restoration networks, SwinIR
    among them, are trained with, and does not depend on the size of the patches.
    """
    return ((prediction - target).square() + epsilon**2).sqrt().mean()


def pixel_loss(kind: str, prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """The loss of a name in `Loss`: a mean over pixels and channels of colours in [0, 1]."""
    if kind == "charbonnier":
        return charbonnier(prediction, target, epsilon)
    return F.l1_loss(prediction, target) if kind == "l1" else F.mse_loss(prediction, target)


def check_loss(kind: str, epsilon: float) -> None:
    """Refuse an unknown loss, or an epsilon that is not above 0, with a ValueError."""
    if kind not in get_args(Loss) or not epsilon > 0:
        known = ", ".join(get_args(Loss))
        raise ValueError(f"loss must be one of {known} and epsilon above 0, got {kind} and {epsilon}")


class RestorationPatches(RestorationTraining):
    """One loss between restored and clean patches.

    Args:
        restorer, learning_rate, milestones, gamma, seed, inference: see RestorationTraining.
        loss: "charbonnier" (SwinIR's for denoising), "l1", or "l2" (DnCNN, FFDNet, IRCNN).
        epsilon: of the Charbonnier loss.

    Raises:
        ValueError: on an unknown loss, or an epsilon that is not above 0.
    """

    batches = "patches"

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int = 0,
        inference: Inference | None = None,
        loss: str = "charbonnier",
        epsilon: float = 1e-3,
    ) -> None:
        super().__init__(restorer, learning_rate, milestones, gamma, seed, inference)
        check_loss(loss, epsilon)
        self.loss, self.epsilon = loss, epsilon

    def training_step(self, batch: PatchBatch, batch_idx: int) -> dict[str, Any]:
        prediction, target, routing = self.predicted(batch)
        loss = pixel_loss(self.loss, prediction, target, self.epsilon)
        return self.published(loss, {f"train/{self.loss}": loss.detach()}, routing, batch.scale)
