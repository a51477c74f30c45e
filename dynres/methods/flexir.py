"""FlexIR's progressive self-distillation (FlexIR, Sec. 3.2, Algorithm 1)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dynres.backbones.flexir import FlexIR
from dynres.backbones.swinir import SwinIR
from dynres.contracts import PatchBatch, QueryBatch, Task
from dynres.errors import UserError
from dynres.interop.weights import load_pretrained
from dynres.methods.base import Inference, RestorationTraining
from dynres.methods.restoration import charbonnier
from dynres.restorer import Restorer

Update = Literal["block", "joint"]
Distillation = Literal["channel", "plain", "none"]


class ChannelScore(nn.Module):
    """phi = sigmoid(MLP(average pool F) + MLP(max pool F)), one number a channel (Eq. 3; CBAM's channel attention).

    Args:
        channels: C.
        reduction: the hidden layer has C / reduction channels, at least 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 1, 1) in (0, 1)."""
        return torch.sigmoid(self.mlp(features.mean((2, 3))) + self.mlp(features.amax((2, 3))))[..., None, None]


class FlexIRTraining(RestorationTraining):
    """A pointer d moves along the blocks; every active block j restores the patch and imitates the teacher's features.

    L_j = alpha * L_CA + (1 - alpha) * L_c (Eq. 2-4), weighed by j / (1 + ... + d).

    - update="block" is Algorithm 1: Adam updates block j by L_j alone, its branch and its channel scores with it, and
      for block 1 the first convolution. Blocks see the features before them without gradient, so that the updates of
      one batch touch different parameters and are one step of one Adam over the weighed sum. Adam divides a gradient
      by its own size, so j / sum j changes little there: where Adam's epsilon or gradient clipping come in, and for
      some steps after the pointer moved.
    - update="joint" is Eq. 5: the same sum, whose gradient reaches all blocks before j, where the weights then matter.

    F_t is the output of the teacher's last block, the same for every j; Eq. 4's sum over channels is read as the
    product of each channel with its score, and its L1 norm as a mean. The teacher is `teacher`, or the network itself
    as it starts (from `ckpt`, a SwinIR), or as its own first part of the run leaves it (`pretraining`).

    The paper's ablation (Table 6): SD is progressive=false update=joint distillation=none, PSD is distillation=none
    (Sec. 3.2.2 speaks of progressive training "with only Charbonnier loss"), PSD + C-WS is the default.

    Args:
        restorer: its backbone is a FlexIR.
        learning_rate: Adam's, at the end of the warm-up.
        start_rate: at the beginning and the end; 1e-5 in the paper (Sec. 4.1), which prints no other number.
        warmup: part of the training in which the rate rises linearly, in [0, 1); it falls linearly in the rest.
        seed, inference: see RestorationTraining.
        progressive: move the pointer; false: all blocks from the beginning.
        activation: part of the training after which the last block is active, in (0, 1]; blocks join evenly until then.
        update: "block" or "joint".
        distillation: "channel" (L_CA), "plain" (L_CA with phi = 1), or "none" (alpha = 0, no teacher).
        alpha: weight of L_CA.
        epsilon: of the Charbonnier loss.
        reduction: see ChannelScore; CBAM's.
        teacher: file of a SwinIR or a FlexIR with features of the same width.
        pretraining: part of the run that trains the network as a plain SwinIR first, in [0, 1), with a warm-up of its
            own; then it becomes the teacher, and its tail every branch. 0 in the paper, which starts from SwinIR's.

    Raises:
        ValueError: on another backbone, or an option out of its range.
        UserError: on a teacher that cannot be read, or of another width.
    """

    batches = "any"

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        start_rate: float = 1e-5,
        warmup: float = 0.1,
        seed: int = 0,
        inference: Inference | None = None,
        progressive: bool = True,
        activation: float = 0.5,
        update: str = "block",
        distillation: str = "channel",
        alpha: float = 0.1,
        epsilon: float = 1e-3,
        reduction: int = 16,
        teacher: str | None = None,
        pretraining: float = 0.0,
    ) -> None:
        super().__init__(restorer, learning_rate, (), 1.0, seed, inference)
        backbone = restorer.backbone
        if not isinstance(backbone, FlexIR):
            raise ValueError(f"method=flexir trains the branches of a flexir backbone, got {type(backbone).__name__}")
        if update not in get_args(Update) or distillation not in get_args(Distillation):
            raise ValueError(
                f"update must be one of {', '.join(get_args(Update))} and distillation one of "
                f"{', '.join(get_args(Distillation))}, got {update} and {distillation}"
            )
        if not 0 < start_rate <= learning_rate:
            raise ValueError(f"start_rate must lie in (0, learning_rate={learning_rate}], got {start_rate}")
        ranges = {"warmup": warmup, "pretraining": pretraining, "alpha": alpha}
        if wrong := [f"{name}={value}" for name, value in ranges.items() if not 0 <= value < 1]:
            raise ValueError(f"warmup, pretraining and alpha must lie in [0, 1), got {', '.join(wrong)}")
        if not 0 < activation <= 1 or not epsilon > 0 or reduction < 1:
            raise ValueError(
                f"activation must lie in (0, 1], epsilon be above 0 and reduction at least 1, got {activation}, "
                f"{epsilon} and {reduction}"
            )
        if teacher is not None and pretraining:
            raise ValueError(f"pretraining={pretraining} makes the teacher itself: leave out teacher, or set it to 0")
        self.start_rate, self.warmup = start_rate, warmup
        self.progressive, self.activation, self.pretraining = progressive, activation, pretraining
        self.update, self.distillation, self.epsilon = update, distillation, epsilon
        self.alpha = alpha if distillation != "none" else 0.0
        self.teacher: Restorer | None = self._teacher(teacher) if distillation != "none" else None
        scores = [ChannelScore(backbone.embed_dim, reduction) for _ in backbone.layers]
        self.scores: nn.ModuleList | None = nn.ModuleList(scores) if distillation == "channel" else None

    def _teacher(self, path: str | None) -> Restorer:
        """The frozen network behind F_t."""
        if path is None:
            teacher = copy.deepcopy(self.restorer)
        else:
            teacher = load_pretrained(Path(path))
            theirs, ours = teacher.backbone, self.restorer.backbone
            if not isinstance(theirs, FlexIR | SwinIR):
                raise UserError(f"method.teacher={path} is a {type(theirs).__name__}: give a SwinIR or a FlexIR")
            for fact in ("embed_dim", "size_multiple", "image_channels"):
                if (have := getattr(theirs, fact)) != (want := getattr(ours, fact)):
                    name = {"embed_dim": "features wide", "size_multiple": "its window"}.get(fact, "image channels")
                    raise UserError(f"method.teacher={path} does not fit: {name} {have}, this network's {want}")
        return teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FlexIRTraining:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    # ---------------------------------------------------------------------------------------------------- schedule

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.9, 0.999))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step) / self.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The learning rate of a step: from start_rate linearly to learning_rate and back, in each part of the run."""
        first, last = (0, self._pretraining_steps) if step < self._pretraining_steps else self._distillation_span
        done = (step - first) / max(1, last - first)
        share = done / self.warmup if done < self.warmup else (1 - done) / (1 - self.warmup)
        return self.start_rate + (self.learning_rate - self.start_rate) * max(0.0, share)

    def pointer(self, step: int) -> int:
        """S(e) of Algorithm 1: how many blocks are active at a step. The paper does not print its schedule."""
        backbone = self.restorer.backbone
        assert isinstance(backbone, FlexIR)
        blocks = len(backbone.layers)
        if not self.progressive:
            return blocks
        first, last = self._distillation_span
        done = (step - first) / max(1, last - first)
        return min(blocks, 1 + int(done / self.activation * (blocks - 1) + 1e-9))

    @property
    def _pretraining_steps(self) -> int:
        steps = self.pretraining * int(self.trainer.estimated_stepping_batches)
        return max(1, round(steps)) if self.pretraining else 0

    @property
    def _distillation_span(self) -> tuple[int, int]:
        return self._pretraining_steps, int(self.trainer.estimated_stepping_batches)

    # ---------------------------------------------------------------------------------------------------- steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.pretraining and self.global_step == self._pretraining_steps:
            self._graduate()

    def _graduate(self) -> None:
        """The pretrained network becomes the teacher, and its tail every branch's beginning."""
        backbone = self.restorer.backbone
        assert isinstance(backbone, FlexIR)
        for branch in backbone.branches[:-1]:
            branch.load_state_dict(backbone.branches[-1].state_dict())
        if self.teacher is not None:
            self.teacher.load_state_dict(self.restorer.state_dict())

    def training_step(self, batch: QueryBatch | PatchBatch, batch_idx: int) -> dict[str, Any]:
        if isinstance(batch, QueryBatch):  # task=sr, which the paper does not have
            batch = whole_patches(batch)
        target = self.restorer.seen(batch.target, 1)
        if self.global_step < self._pretraining_steps:
            prediction, _ = self.restorer(batch.image, Task(batch.scale, noise=batch.noise))
            loss = charbonnier(prediction, target, self.epsilon)
            return self.published(loss, {"train/charbonnier": loss.detach()}, None, batch.scale)
        normal = self.restorer.pixels.normal(self.restorer.seen(batch.image, 1))
        active = self.pointer(self.global_step)
        taught = self._taught(batch)
        parts: dict[str, Tensor] = {"train/pointer": normal.new_tensor(float(active))}
        loss = normal.new_zeros(())
        for number, restored, imitated in self._losses(normal, target, taught, active):
            one = (1 - self.alpha) * restored + self.alpha * imitated
            loss = loss + number / (active * (active + 1) / 2) * one
            parts[f"train/charbonnier_{number}"] = restored.detach()
            if taught is not None:
                parts[f"train/distillation_{number}"] = imitated.detach()
        return self.published(loss, parts, None, batch.scale)

    @torch.no_grad()
    def _taught(self, batch: PatchBatch) -> Tensor | None:
        """F_t (B, C, h, w), or None without distillation: the body alone, once a batch."""
        if self.teacher is None:
            return None
        backbone = self.teacher.backbone
        assert isinstance(backbone, FlexIR | SwinIR)
        body: Tensor = backbone.body(self.teacher.pixels.normal(self.teacher.seen(batch.image, 1)))
        return body

    def _losses(
        self, normal: Tensor, target: Tensor, taught: Tensor | None, active: int
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(j, L_c, L_CA) of every active block."""
        backbone = self.restorer.backbone
        assert isinstance(backbone, FlexIR)
        for at in backbone.exits(normal, upto=active, detach=self.update == "block"):
            restored = charbonnier(self.restorer.pixels.colours(at.colours, 1), target, self.epsilon)
            imitated = normal.new_zeros(())
            if taught is not None:
                score = self.scores[at.number - 1](at.features) if self.scores is not None else 1.0
                imitated = (at.features * score - taught).abs().mean()
            yield at.number, restored, imitated


def whole_patches(batch: QueryBatch) -> PatchBatch:
    """The patches (B, 3, s h, s w) that all their pixels, row by row, make.

    Raises:
        UserError: pixels were sampled.
    """
    height, width = (round(side * float(batch.scale[0])) for side in batch.image.shape[-2:])
    if batch.target.shape[1] != height * width:
        raise UserError(
            f"method=flexir restores whole patches of {height}x{width} pixels, and {batch.target.shape[1]} of them are "
            f"sampled: set data.queries=null"
        )
    target = batch.target.mT.unflatten(2, (height, width))
    return PatchBatch(batch.image, target, batch.scale, batch.seed, batch.noise)
