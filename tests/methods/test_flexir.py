"""FlexIR's training: Algorithm 1 against its plain form, Eq. 2-5, the schedule, the teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dynres.backbones.edsr import EDSR
from dynres.backbones.flexir import FlexIR
from dynres.backbones.swinir import SwinIR
from dynres.contracts import PatchBatch
from dynres.errors import UserError
from dynres.layers.pixels import Pixels
from dynres.methods.flexir import ChannelScore, FlexIRTraining
from dynres.methods.restoration import charbonnier
from dynres.restorer import Restorer
from dynres.upsamplers.same_size import AsImage, SameSize
from tests.methods.test_base import Record, loader, trainer
from tests.reference.flexir import one_batch, own_parameters

PIXELS = Pixels(0.0, 1.0)  # the network sees colours as they are: losses of the reference need no conversion


def restorer(blocks: int = 3, seed: int = 0, embed_dim: int = 8) -> Restorer:
    torch.manual_seed(seed)
    backbone = FlexIR(embed_dim=embed_dim, depths=[1] * blocks, heads=2, window=4, drop_path=0.0)
    return Restorer(backbone, AsImage(3), pixels=PIXELS)


def training(**options: Any) -> FlexIRTraining:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "warmup": 0.0, "start_rate": 1e-3}
    return FlexIRTraining(options.pop("restorer", None) or restorer(), **(defaults | options)).train()


def patches(number: int = 0, size: int = 2) -> PatchBatch:
    random = torch.Generator().manual_seed(number)
    clean = torch.rand(size, 3, 8, 8, generator=random)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=random)
    noise = torch.full((size,), 0.1)
    return PatchBatch(noisy, clean, torch.ones(size), torch.arange(size), noise)


def fit(method: FlexIRTraining, steps: int, *callbacks: Callback) -> Record:
    record = Record()
    trainer(steps, record, *callbacks).fit(method, loader([patches(number) for number in range(steps)]))
    return record


def network_of(method: FlexIRTraining) -> FlexIR:
    assert isinstance(method.restorer.backbone, FlexIR)
    return method.restorer.backbone


# ------------------------------------------------------------------------------------------------ Algorithm 1


def test_block_updates_are_those_of_one_adam_a_block() -> None:
    method = training(activation=0.5)
    network, scores = copy.deepcopy(network_of(method)), copy.deepcopy(method.scores)
    teacher = copy.deepcopy(network)
    assert scores is not None
    adams = [
        torch.optim.Adam([*own_parameters(network, block), *scores[block - 1].parameters()], lr=1e-3)
        for block in (1, 2, 3)
    ]
    steps = 8
    seen = []
    for step in range(steps):
        batch = patches(step)
        active = min(3, 1 + step * 2 // 4)  # 3 blocks over the first half
        seen.append(active)
        with torch.no_grad():
            taught = teacher.body(batch.image)
        one_batch(network, list(scores), adams, batch.image, batch.target, taught, active, alpha=0.1, epsilon=1e-3)
    record = fit(method, steps)
    assert [metrics["train/pointer"] for metrics in record.metrics] == seen
    ours, theirs = network_of(method).state_dict(), network.state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_joint_updates_reach_the_blocks_before() -> None:
    for update, reached in (("block", False), ("joint", True)):
        method = training(update=update, progressive=False, distillation="none")
        exits = list(network_of(method).exits(patches().image, detach=update == "block"))
        exits[-1].colours.sum().backward()
        gradient = next(network_of(method).layers[0].parameters()).grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reached


def test_inactive_blocks_do_not_move() -> None:
    method = training(activation=1.0)
    before = copy.deepcopy(network_of(method).state_dict())
    record = fit(method, 6)
    assert [metrics["train/pointer"] for metrics in record.metrics] == [1, 1, 1, 2, 2, 2]
    after = network_of(method).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("layers.2", "branches.2")) for name in moved)
    assert any(name.startswith("layers.1") for name in moved) and any(name.startswith("branches.0") for name in moved)


def test_loss_is_eq_5() -> None:
    method = training(progressive=False, update="joint", alpha=0.3)
    batch = patches()
    record = fit_one(method, batch)
    network, scores = network_of(training()), training().scores
    assert scores is not None
    taught = network.body(batch.image)
    expected = 0.0
    for number, at in enumerate(network.exits(batch.image), start=1):
        score = torch.sigmoid(
            scores[number - 1].mlp(at.features.mean((2, 3))) + scores[number - 1].mlp(at.features.amax((2, 3)))
        )
        imitated = (at.features * score[:, :, None, None] - taught).abs().mean()
        restored = torch.sqrt((at.colours - batch.target) ** 2 + 1e-6).mean()
        expected += number / 6 * (0.3 * imitated.item() + 0.7 * restored.item())
    assert record.outputs[0]["loss"].item() == pytest.approx(expected, rel=1e-5)


def fit_one(method: FlexIRTraining, batch: PatchBatch) -> Record:
    record = Record()
    trainer(1, record).fit(method, loader([batch]))
    return record


def test_charbonnier_by_hand() -> None:
    a, b = torch.tensor([0.0, 0.3]), torch.tensor([0.0, 0.7])
    assert charbonnier(a, b).item() == pytest.approx((1e-3 + (0.16 + 1e-6) ** 0.5) / 2)


def test_channel_scores_by_hand() -> None:
    score = ChannelScore(4, reduction=4)
    features = torch.randn(2, 4, 3, 5)
    pooled = score.mlp(features.flatten(2).mean(2)) + score.mlp(features.flatten(2).max(2).values)
    torch.testing.assert_close(score(features)[:, :, 0, 0], 1 / (1 + torch.exp(-pooled)))


# ------------------------------------------------------------------------------------------------ schedule, teacher


def test_rate_rises_and_falls_linearly() -> None:
    method = training(learning_rate=1e-3, start_rate=1e-4, warmup=0.4, distillation="none")
    rates = [rate for (rate,) in fit(method, 10).rates]
    assert rates[0] == pytest.approx(1e-4) and rates[4] == pytest.approx(1e-3)
    assert rates[2] == pytest.approx((1e-4 + 1e-3) / 2) and rates[7] == pytest.approx((1e-4 + 1e-3) / 2)


def test_the_teacher_does_not_move_and_runs_once_without_gradient() -> None:
    method = training()
    assert method.teacher is not None
    before = copy.deepcopy(method.teacher.state_dict())
    calls: list[bool] = []
    body = method.teacher.backbone.body

    def counted(image: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return body(image)

    method.teacher.backbone.body = counted  # type: ignore[method-assign,assignment,union-attr]
    fit(method, 3)
    assert calls == [False] * 3 and not method.teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in method.teacher.state_dict().items())


def test_without_distillation_there_is_no_teacher() -> None:
    method = training(distillation="none")
    assert method.teacher is None and method.scores is None and method.alpha == 0
    assert training(distillation="plain").scores is None


class Graduation(Callback):
    """The network as the first part of the run leaves it."""

    def __init__(self, step: int) -> None:
        self.step, self.state = step, {}  # type: ignore[var-annotated]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.state = copy.deepcopy(pl_module.restorer.state_dict())  # type: ignore[operator,union-attr]


def test_pretraining_makes_the_teacher_and_the_branches() -> None:
    method, graduation = training(pretraining=0.5), Graduation(3)
    record = fit(method, 6, graduation)
    assert "train/pointer" not in record.metrics[2] and record.metrics[3]["train/pointer"] == 1
    assert method.teacher is not None
    taught = method.teacher.state_dict()
    for name, tensor in graduation.state.items():
        if name.startswith("backbone.branches."):
            last = name.replace(name[: len("backbone.branches.0")], "backbone.branches.2")
            torch.testing.assert_close(taught[name], graduation.state[last], msg=name)
        else:
            torch.testing.assert_close(taught[name], tensor, msg=name)


def swinir(path: Path, embed_dim: int) -> Path:
    torch.manual_seed(3)
    body = {"_target_": "dynres.backbones.swinir.SwinIR", "embed_dim": embed_dim, "depths": [1, 1], "heads": 2}
    network = {
        "backbone": body | {"window": 4, "out_channels": None},
        "upsampler": {"_target_": "dynres.upsamplers.same_size.SameSize"},
        "pixels": {"mean": 0.0, "factor": 1.0},
    }
    made = Restorer.from_description(network)
    assert isinstance(made.backbone, SwinIR) and isinstance(made.upsampler, SameSize)
    made.save_pretrained(path)
    return path


def test_a_swinir_file_teaches(tmp_path: Path) -> None:
    method = training(teacher=str(swinir(tmp_path / "teacher", 8)))
    fit(method, 2)


def test_a_teacher_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method.teacher=.* does not fit: features wide 16, this network's 8"):
        training(teacher=str(swinir(tmp_path / "teacher", 16)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "both"}, "update must be one of block, joint"),
        ({"distillation": "all"}, "distillation one of channel, plain, none"),
        ({"start_rate": 1.0}, "start_rate must lie in"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"activation": 0.0}, "activation must lie in"),
        ({"teacher": "x.pth", "pretraining": 0.5}, "makes the teacher itself"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**options)


def test_other_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match="flexir backbone, got EDSR"):
        FlexIRTraining(Restorer(EDSR(4, 1, 1.0), SameSize(4)), 1e-3)
