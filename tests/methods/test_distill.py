"""Distillation: Eq. 5-7, what lambda does, a teacher that is asked and never taught, features, wrong teachers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from dynres.callbacks.checkpoints import SelfDescription
from dynres.contracts import PatchBatch, QueryBatch, Task
from dynres.errors import UserError
from dynres.interop.weights import load_pretrained
from dynres.methods.distill import DistillTraining
from dynres.methods.restoration import RestorationPatches, charbonnier
from dynres.restorer import Restorer
from tests.methods.test_base import Record, loader
from tests.methods.test_base import batch as queries

SHUFFLE = {"_target_": "dynres.upsamplers.pixelshuffle.DirectPixelShuffle", "scale": 2}
LIIF = {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 6, "layers": 1}
EDSR = {"_target_": "dynres.backbones.edsr.EDSR", "channels": 4, "blocks": 1, "residual_scale": 1.0}
SWINIR = {
    "_target_": "dynres.backbones.swinir.SwinIR", "embed_dim": 8, "depths": [2], "heads": 2, "window": 4,
    "out_channels": 6, "drop_path": 0.5,
}  # fmt: skip
DISTILLED = {
    "_target_": "dynres.backbones.swinir_distilled.SwinIRDistilled", "embed_dim": 8, "depths": [1, 1], "heads": 2,
    "window": 4, "drop_path": 0.0,
}  # fmt: skip
FLEXIR = {
    "_target_": "dynres.backbones.flexir.FlexIR", "embed_dim": 8, "depths": [1], "heads": 2, "window": 4, "scale": 2,
    "tail_width": 4,
}  # fmt: skip


def restorer(backbone: dict[str, Any], upsampler: dict[str, Any] = SHUFFLE, seed: int = 0) -> Restorer:
    torch.manual_seed(seed)
    description = {"backbone": backbone, "upsampler": upsampler, "pixels": {"mean": 0.4, "factor": 1.0}}
    return Restorer.from_description(description).train()


def file(folder: Path, backbone: dict[str, Any], upsampler: dict[str, Any] = SHUFFLE) -> str:
    """A trained network, as far as a training can tell."""
    restorer(backbone, upsampler, seed=7).save_pretrained(folder / "trained")
    return str(folder / "trained")


def training(student: Restorer, teacher: str | None, ready: bool = True, **options: Any) -> DistillTraining:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "milestones": (0.5,), "gamma": 0.5}
    method = DistillTraining(student, teacher=teacher, **(defaults | options))
    if ready:
        method.ready()
    return method


def patches(number: int = 0, size: int = 2) -> PatchBatch:
    random = torch.Generator().manual_seed(number)
    target = torch.rand(size, 3, 16, 16, generator=random)
    image = F.avg_pool2d(target, 2)
    return PatchBatch(image, target, torch.full((size,), 2.0), torch.arange(size), torch.zeros(size))


def fit(method: LightningModule, batches: list[Any], *callbacks: Callback, folder: Path | None = None) -> Record:
    record = Record()
    trainer = Trainer(
        max_steps=len(batches), max_epochs=-1, accelerator="cpu", callbacks=[record, *callbacks], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, loader(batches))
    return record


def plainly(network: Restorer, batch: PatchBatch | QueryBatch) -> Tensor:
    """What a network in evaluation makes of a batch."""
    with torch.no_grad():
        if isinstance(batch, QueryBatch):
            return network.eval().query(batch.image, batch.coords, batch.cell, Task(batch.scale))[0]
        return network.eval()(batch.image, Task(batch.scale))[0]


# ------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("weight", [0.25, 1.0])
@pytest.mark.parametrize("kind", ["patches", "queries"])
def test_loss_is_eq_7(kind: str, weight: float, tmp_path: Path) -> None:
    """With a teacher in evaluation: its stochastic depth would show."""
    head = SHUFFLE if kind == "patches" else LIIF
    batch: Any = patches() if kind == "patches" else queries()
    student, path = restorer(EDSR, head), file(tmp_path, SWINIR, head)
    ours, taught = plainly(copy.deepcopy(student), batch), plainly(load_pretrained(path), batch)
    record = fit(training(student, path, weight=weight), [batch])
    reconstruction, distillation = ((ours - other).abs().mean().item() for other in (batch.target, taught))
    metrics = record.metrics[0]
    assert metrics["train/l1"] == pytest.approx(reconstruction, rel=1e-5)
    assert metrics["train/distillation"] == pytest.approx(distillation, rel=1e-5)
    expected = (1 - weight) * reconstruction + weight * distillation
    assert record.outputs[0]["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_reconstruction_loss_can_be_another(tmp_path: Path) -> None:
    student, batch = restorer(EDSR), patches()
    expected = charbonnier(plainly(copy.deepcopy(student), batch), batch.target, 0.1).item()
    record = fit(training(student, file(tmp_path, EDSR), loss="charbonnier", epsilon=0.1), [batch])
    assert record.metrics[0]["train/charbonnier"] == pytest.approx(expected, rel=1e-5)
    other = record.metrics[0]["train/distillation"]
    assert record.outputs[0]["loss"].item() == pytest.approx(0.75 * expected + 0.25 * other, rel=1e-5)


def test_a_weight_of_0_is_plain_training() -> None:
    """Step by step, and without asking for the teacher's file."""
    method = training(restorer(EDSR), "nowhere.ckpt", weight=0.0)
    plain = RestorationPatches(restorer(EDSR), 1e-3, (0.5,), 0.5, loss="l1")
    records = [fit(each, [patches(number) for number in range(6)]) for each in (method, plain)]
    losses = [[output["loss"].item() for output in record.outputs] for record in records]
    assert losses[0] == losses[1] and records[0].rates == records[1].rates
    for name, tensor in plain.restorer.state_dict().items():
        assert torch.equal(method.restorer.state_dict()[name], tensor), name


@pytest.mark.parametrize("student", [EDSR, DISTILLED])
@pytest.mark.parametrize("teacher", [EDSR, SWINIR, DISTILLED, FLEXIR])
def test_any_pair_learns(student: dict[str, Any], teacher: dict[str, Any], tmp_path: Path) -> None:
    """With all of the weight on the teacher, the student comes nearer to it."""
    head = {"_target_": "dynres.upsamplers.same_size.AsImage", "scale": 2} if teacher is FLEXIR else SHUFFLE
    method = training(restorer(student), file(tmp_path, teacher, head), weight=1.0, learning_rate=3e-3)
    record = fit(method, [patches()] * 20)
    first, last = (record.metrics[step]["train/distillation"] for step in (0, -1))
    assert last < 0.9 * first, f"{first:.4f} -> {last:.4f}"


# ------------------------------------------------------------------------------------------------ the teacher


def test_the_teacher_stays_as_it_is_and_out_of_the_checkpoints(tmp_path: Path) -> None:
    path = file(tmp_path, SWINIR)
    method = training(restorer(EDSR), path, features=0.5)
    fit(method, [patches(number) for number in range(3)])
    assert method.teacher is not None and not method.teacher.training
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    before = load_pretrained(path).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.teacher.state_dict().items())
    ours = {f"restorer.{name}" for name in restorer(EDSR).state_dict()}
    assert method.state_dict().keys() == ours | {"adapter.weight", "adapter.bias"}


class Watch(Callback):
    """The network that each step trained, and its weights before."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.before: dict[str, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.kinds.append(type(pl_module.restorer.backbone).__name__)

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        kind = type(pl_module.restorer.backbone).__name__
        self.before.setdefault(kind, copy.deepcopy(pl_module.restorer.state_dict()))


def both(folder: Path, student: Restorer, steps: int = 6, **options: Any) -> tuple[DistillTraining, Record, Watch]:
    """A run that trains its teacher, a SwinIR, in the first half."""
    network = {"backbone": SWINIR, "upsampler": None}
    method, watch = training(student, None, False, teacher_network=network, **options), Watch()
    assert method.restorer is student, "what is measured where nothing is trained"
    batches = [patches(number) for number in range(steps)]
    return method, fit(method, batches, watch, SelfDescription({}), folder=folder), watch


def test_a_teacher_is_trained_first(tmp_path: Path) -> None:
    student = restorer(EDSR)
    start = copy.deepcopy(student.state_dict())
    method, record, watch = both(tmp_path, student)
    assert watch.kinds == ["SwinIR"] * 3 + ["EDSR"] * 3
    assert ["train/distillation" in metrics for metrics in record.metrics] == [False] * 3 + [True] * 3
    assert all(torch.equal(tensor, start[name]) for name, tensor in watch.before["EDSR"].items())
    assert method.restorer is student and method.teacher is not None
    saved = load_pretrained(tmp_path / "checkpoints" / "teacher.ckpt")
    assert saved.pixels == student.pixels and saved.upsampler.scale == 2
    moved = {name for name, tensor in saved.state_dict().items() if not tensor.equal(watch.before["SwinIR"][name])}
    assert moved == {name for name, _ in saved.named_parameters()}
    taught, batch = plainly(method.teacher, patches(3)), patches(3)
    assert torch.equal(taught, plainly(saved, batch))
    first = plainly(restorer(EDSR), batch)
    assert record.metrics[3]["train/distillation"] == pytest.approx((first - taught).abs().mean().item(), rel=1e-5)


def test_without_weight_the_student_of_such_a_run_is_a_plain_one(tmp_path: Path) -> None:
    method, _, _ = both(tmp_path, restorer(EDSR), weight=0.0)
    plain = RestorationPatches(restorer(EDSR), 1e-3, (0.5,), 0.5, loss="l1")
    fit(plain, [patches(number) for number in range(3, 6)])
    assert method.teacher is None
    for name, tensor in plain.restorer.state_dict().items():
        assert torch.equal(method.restorer.state_dict()[name], tensor), name


# ------------------------------------------------------------------------------------------------ features


def test_features_are_laid_over_each_other_without_their_padding(tmp_path: Path) -> None:
    """Images of 10 x 6 pixels, which a SwinIR pads."""
    path, student = file(tmp_path, SWINIR), restorer(EDSR)
    target = torch.rand(2, 3, 20, 12)
    batch = PatchBatch(F.avg_pool2d(target, 2), target, torch.full((2,), 2.0), torch.arange(2), torch.zeros(2))
    method = training(student, path, features=0.7)
    assert method.adapter is not None
    teacher, adapter, before = load_pretrained(path), copy.deepcopy(method.adapter), copy.deepcopy(student)
    with torch.no_grad():
        f_s, f_t = (net.backbone(net.pixels.normal(batch.image), Task()).cropped for net in (before, teacher))
        expected = (adapter(f_s) - f_t).abs().mean().item()
    record = fit(method, [batch])
    metrics = record.metrics[0]
    assert metrics["train/features"] == pytest.approx(expected, rel=1e-5)
    whole = 0.75 * metrics["train/l1"] + 0.25 * metrics["train/distillation"] + 0.7 * expected
    assert record.outputs[0]["loss"].item() == pytest.approx(whole, rel=1e-5)


def test_features_teach_student_and_adapter_alone(tmp_path: Path) -> None:
    method = training(restorer(DISTILLED), file(tmp_path, SWINIR), weight=0.0, features=1.0)
    before = copy.deepcopy(method.state_dict())
    fit(method, [patches(number) for number in range(3)])
    after = method.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(after)
    assert not method.restorer.backbone._forward_hooks and method.teacher is not None


def test_features_of_a_teacher_of_the_same_run(tmp_path: Path) -> None:
    method, record, _ = both(tmp_path, restorer(EDSR), features=1.0)
    assert ["train/features" in metrics for metrics in record.metrics] == [False] * 3 + [True] * 3
    assert method.adapter is not None
    learned = {id(parameter) for group in method.parameter_groups() for parameter in group["params"]}
    assert learned == {id(parameter) for parameter in method.parameters()}


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("backbone", "head", "options", "message"),
    [
        (EDSR, SHUFFLE | {"scale": 3}, {}, "gives x3, the student x2"),
        (EDSR | {"image_channels": 1}, SHUFFLE | {"image_channels": 1}, {}, "image_channels=1, the student 3"),
        (
            FLEXIR, {"_target_": "dynres.upsamplers.same_size.AsImage", "scale": 2}, {"features": 0.1},
            "features of another size",
        ),
    ],
)  # fmt: skip
def test_a_teacher_of_another_task_is_refused(
    backbone: dict[str, Any], head: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    network = {"backbone": backbone, "upsampler": head}
    with pytest.raises(UserError, match=message):
        training(restorer(EDSR), file(tmp_path, backbone, head), **options)
    with pytest.raises(UserError, match=rf"method\.teacher_network .*{message}"):
        training(restorer(EDSR), None, teacher_network=network, **options)


def test_a_teacher_of_one_scale_cannot_teach_a_student_of_any(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives x2, the student any scale"):
        training(restorer(EDSR, LIIF), file(tmp_path, EDSR))
    assert training(restorer(EDSR), file(tmp_path, EDSR, LIIF)).teacher is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"teacher": "nowhere.ckpt"}, UserError, "nowhere.ckpt does not exist"),
        ({"teacher_network": None}, UserError, "must hold the nodes of a backbone and of an upsampler"),
        ({"teacher_network": {"backbone": "edsr"}}, UserError, "must hold the nodes of a backbone"),
        ({"teacher_network": {"backbone": EDSR | {"chanels": 3}}}, UserError, r"method\.teacher_network: .*chanels"),
        ({"teacher_network": {"backbone": EDSR, "pixels": {}}}, UserError, "and nothing else"),
        ({"pretraining": 0.0}, ValueError, r"pretraining must lie in \(0, 1\), got 0.0"),
        ({"pretraining": 1.0}, ValueError, r"pretraining must lie in \(0, 1\), got 1.0"),
        ({"weight": -0.1}, ValueError, r"lambda of Eq. 6 and must lie in \[0, 1\], got -0.1"),
        ({"weight": 1.1}, ValueError, r"lambda of Eq. 6 and must lie in \[0, 1\], got 1.1"),
        ({"features": -1.0}, ValueError, "features must be at least 0, got -1.0"),
        ({"loss": "l3"}, ValueError, "loss must be one of l1, l2, charbonnier"),
    ],
)
def test_mistakes_are_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"teacher": None, "teacher_network": {"backbone": SWINIR}} | options
    with pytest.raises(error, match=message):
        training(restorer(EDSR), **given)
