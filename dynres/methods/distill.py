"""Knowledge distillation for restoration (Kim et al., Lightweight Transformer Super-Resolution, Sec. 3.2.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import PatchBatch, QueryBatch
from dynres.errors import UserError
from dynres.interop.weights import load_pretrained
from dynres.methods.base import Inference, elsewhere
from dynres.methods.phases import PhasedTraining
from dynres.methods.restoration import check_loss, pixel_loss
from dynres.restorer import Restorer

TEACHER = "teacher"  # of the run's checkpoints, the one that the first phase ends with


@dataclass
class Aside:
    """What is not being trained at the moment: in a record, where neither optimisers nor checkpoints see it."""

    inference: Inference | None = None  # of the student
    student: Restorer | None = None
    teacher: Restorer | None = None
    adapter: nn.Module | None = None


class DistillTraining(PhasedTraining):
    """L = (1 - lambda) |S(x) - HQ|_1 + lambda |T(x) - S(x)|_1 (Eq. 6-7), for any student and teacher of one task.

    Both norms are means over pixels and channels of colours in [0, 1]. The teacher T is read from a file, or trained in
    the first part of the run by the reconstruction loss alone. It is frozen, runs in evaluation mode, and is no part of
    the checkpoints of its student.

    Beyond the paper, `features` adds mean |A(f_S) - f_T| of what the two backbones give their heads, where A is a 1x1
    convolution that learns with the student and stays outside it (FitNets, Romero et al., ICLR 2015, with L1).

    Args:
        restorer: S.
        learning_rate, milestones, gamma, seed, inference: see RestorationTraining; the schedule is that of each part.
        teacher: anything `load_pretrained` reads; None: `teacher_network`, trained in the same run.
        teacher_network: {"backbone": node, "upsampler": node, or None for one like the student's}; it sees pixels as
            the student does. Not looked at where `teacher` is given, nor is `pretraining`.
        pretraining: share of the run that trains the teacher, in (0, 1).
        weight: lambda, in [0, 1]. At 0, without `features`, no teacher is read or asked, while the parts of the run
            stay the same: a plain student of as many steps.
        features: weight of feature distillation, at least 0.
        loss, epsilon: the reconstruction loss, see RestorationPatches; "l1" in the paper.

    Raises:
        ValueError: an option out of its range.
        UserError: from `prepare`: neither teacher nor teacher_network, or a teacher that cannot be read or built, or of
            other image channels or another scale; with `features`, one with features of another size.
    """

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int = 0,
        inference: Inference | None = None,
        teacher: str | None = None,
        teacher_network: Mapping[str, Any] | None = None,
        pretraining: float = 0.5,
        weight: float = 0.25,
        features: float = 0.0,
        loss: str = "l1",
        epsilon: float = 1e-3,
    ) -> None:
        check_loss(loss, epsilon)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight is lambda of Eq. 6 and must lie in [0, 1], got {weight}")
        if not features >= 0:
            raise ValueError(f"features must be at least 0, got {features}")
        if teacher is None and not 0 < pretraining < 1:
            raise ValueError(
                f"pretraining must lie in (0, 1), got {pretraining}: the share of the run that trains the teacher; or "
                f"give the file of one as method.teacher"
            )
        first = pretraining if teacher is None else 0.0
        super().__init__(restorer, learning_rate, milestones, gamma, seed, inference, first, TEACHER)
        self.weight, self.features, self.loss, self.epsilon = weight, features, loss, epsilon
        self.adapter: nn.Module | None = None
        self._file, self._network = teacher, teacher_network
        self._aside = Aside()

    def prepare(self) -> None:
        # Not before: where nothing is trained, the student is what is measured.
        student, made = self.restorer, None
        if self.phase == 1:
            made = _untrained(self._network, student)
            _check_pair(made, student, "method.teacher_network", self.features > 0)
            self._aside.student, self._aside.inference = student, self.inference
            self.restorer, self.inference = made, elsewhere(self.inference)
        elif self._asks_teacher:
            assert self._file is not None
            made = self._aside.teacher = load_pretrained(Path(self._file))
            made.requires_grad_(False)
            _check_pair(made, student, f"method.teacher={self._file}", self.features > 0)
        if self.features:
            assert made is not None
            adapter = nn.Conv2d(student.backbone.out_channels, made.backbone.out_channels, 1)
            if self.phase == 2:
                self.adapter = adapter
            else:
                self._aside.adapter = adapter

    def about(self) -> str:
        student = self._aside.student
        if student is None:
            return super().about()
        count = sum(parameter.numel() for parameter in student.parameters())
        return f"a teacher of {super().about()}, then a student of {count:,} parameters"

    @property
    def _asks_teacher(self) -> bool:
        return self.weight > 0 or self.features > 0

    @property
    def teacher(self) -> Restorer | None:
        """T, once it is trained; None before, and where nobody asks it."""
        return self._aside.teacher

    def companions(self) -> dict[str, Restorer]:
        return {} if self.teacher is None else {"teacher": self.teacher}

    def parameter_groups(self) -> list[dict[str, Any]]:
        learned = [self.restorer] if self.adapter is None else [self.restorer, self.adapter]
        return [{"params": [parameter for part in learned for parameter in part.parameters()]}]

    # ---------------------------------------------------------------------------------------------------- phases

    def second(self) -> Restorer:
        student, inference = self._aside.student, self._aside.inference
        assert student is not None and inference is not None
        self._aside.student, self.inference = None, inference
        return student

    def restore_second(self, description: Mapping[str, Any]) -> Restorer:
        return self.second()

    def on_second(self) -> None:
        if self._asks_teacher:
            # From the file also where it was written just now: a resumed run has the same one, averaged or not.
            path = Path(self.trainer.default_root_dir) / "checkpoints" / f"{TEACHER}.ckpt"
            self._aside.teacher = load_pretrained(path)
            self._aside.teacher.requires_grad_(False)
        if self._aside.adapter is not None:
            self.adapter, self._aside.adapter = self._aside.adapter.to(self.device), None
        self._place()

    def on_train_start(self) -> None:
        self._place()

    def _place(self) -> None:
        """The teacher where the student is: Lightning does not see it."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    # ---------------------------------------------------------------------------------------------------- steps

    def training_step(self, batch: PatchBatch | QueryBatch, batch_idx: int) -> dict[str, Any]:
        with features_of(self.restorer.backbone) as ours:
            prediction, target, routing = self.predicted(batch)
        restored = pixel_loss(self.loss, prediction, target, self.epsilon)
        parts, loss = {f"train/{self.loss}": restored.detach()}, restored
        if self.teacher is not None:
            with torch.no_grad(), features_of(self.teacher.backbone) as theirs:
                taught, _, _ = self.predicted(batch, self.teacher)
            imitated = F.l1_loss(prediction, taught)
            loss = (1 - self.weight) * restored + self.weight * imitated
            parts["train/distillation"] = imitated.detach()
            if self.adapter is not None:
                likeness = F.l1_loss(self.adapter(ours[0]), theirs[0])
                loss = loss + self.features * likeness
                parts["train/features"] = likeness.detach()
        return self.published(loss, parts, routing, batch.scale)


@contextmanager
def features_of(backbone: Backbone) -> Iterator[list[Tensor]]:
    """The maps (B, C, s H, s W) that a backbone gives its head meanwhile, without padding."""
    maps: list[Tensor] = []
    handle = backbone.register_forward_hook(lambda module, inputs, features: maps.append(features.cropped))
    try:
        yield maps
    finally:
        handle.remove()


def _untrained(network: Mapping[str, Any] | None, student: Restorer) -> Restorer:
    """The teacher that is to be trained; it sees pixels as the student does."""
    nodes = dict(network) if isinstance(network, Mapping) else {}
    nodes["upsampler"] = nodes.get("upsampler") or (student.description or {}).get("upsampler")
    if nodes.keys() != {"backbone", "upsampler"} or not all(isinstance(node, Mapping) for node in nodes.values()):
        raise UserError(
            "method.teacher_network must hold the nodes of a backbone and of an upsampler (or null for one like the "
            "student's), and nothing else; or give the file of a trained network as method.teacher"
        )
    try:
        return Restorer.from_description(nodes | {"image_skip": student.image_skip, "pixels": asdict(student.pixels)})
    except UserError as error:
        raise UserError(f"method.teacher_network: {error}") from error


def _check_pair(teacher: Restorer, student: Restorer, name: str, features: bool) -> None:
    """Refuse a teacher whose colours, or features, cannot be laid over the student's."""
    theirs, ours = teacher.backbone.image_channels, student.backbone.image_channels
    if theirs != ours:
        raise UserError(f"{name} has image_channels={theirs}, the student {ours}: choose a teacher of the same task")
    its, own = teacher.upsampler.scale, student.upsampler.scale
    if its not in (None, own):
        wanted = "any scale" if own is None else f"x{own}"
        raise UserError(f"{name} gives x{its}, the student {wanted}: choose a teacher of the same scale")
    sizes = [(net.backbone.scale, net.upsampler.same_size) for net in (teacher, student)]
    if features and sizes[0] != sizes[1]:
        raise UserError(f"{name} has features of another size than the student's: leave out method.features")
