"""What training methods share: the schedule, the evaluation of whole images, steps that can be repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dynres.backbones.edsr import EDSR
from dynres.contracts import EvalSample, QueryBatch, Task
from dynres.methods.assr import AssrTraining
from dynres.methods.base import Inference
from dynres.metrics import psnr, ssim
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF


def batch(number: int = 0, size: int = 2) -> QueryBatch:
    random = torch.Generator().manual_seed(number)
    coords = torch.rand(size, 9, 2, generator=random) * 2 - 1
    return QueryBatch(
        image=torch.rand(size, 3, 8, 8, generator=random),
        coords=coords,
        cell=torch.full_like(coords, 2 / 16),
        target=torch.rand(size, 9, 3, generator=random),
        scale=torch.full((size,), 2.0),
        seed=torch.arange(size) + 10 * number,
        noise=torch.zeros(size),
    )


def training(**options: Any) -> AssrTraining:
    torch.manual_seed(0)
    restorer = Restorer(EDSR(4, 1, 1.0), LIIF(4, hidden=6, layers=1))
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "milestones": (0.2, 0.4, 0.8), "gamma": 0.5}
    return AssrTraining(restorer, **(defaults | options))


def trainer(max_steps: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        max_steps=max_steps, max_epochs=-1, accelerator="cpu", callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def loader(items: list[Any]) -> DataLoader[Any]:
    """The items as they are, one after the other."""
    dataset: Any = items  # a list is all that a DataLoader asks of a data set
    return DataLoader(dataset, batch_size=None, collate_fn=lambda item: item)


class Record(Callback):
    """Learning rates of every group, and what training steps return."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.outputs: list[Any] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.outputs.append(outputs)
        self.metrics.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def fit(method: LightningModule, steps: int, batches: int = 3) -> Record:
    record = Record()
    data = loader([batch(number) for number in range(batches)])
    trainer(steps, record).fit(method, data)
    return record


@pytest.mark.parametrize("steps", [10, 25])
def test_learning_rate_decays_at_fractions_of_the_whole_training(steps: int) -> None:
    """Whatever its length, and whatever an epoch is."""
    rates = fit(training(), steps).rates
    assert len(rates) == steps
    for step, (rate,) in enumerate(rates):
        passed = sum(step >= round(fraction * steps) for fraction in (0.2, 0.4, 0.8))
        assert rate == pytest.approx(1e-3 * 0.5**passed), f"step {step} of {steps}"


def test_loss_is_the_distance_in_the_authors_range() -> None:
    """L1 of colours in [-1, 1]: twice that in [0, 1]; logged and handed to callbacks."""
    method, given = training(), batch(0)
    with torch.no_grad():
        colours, _ = method.restorer.query(given.image, given.coords, given.cell, Task(given.scale))
    expected = 2 * F.l1_loss(colours, given.target).item()
    record = fit(method, 1)
    outputs = record.outputs[0]
    assert outputs["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert record.metrics[0]["train/loss"] == record.metrics[0]["train/l1"] == pytest.approx(expected, rel=1e-6)
    assert record.metrics[0]["lr"] == pytest.approx(1e-3)
    assert outputs["routing"] is None and torch.equal(outputs["scale"], given.scale)


def test_training_lowers_the_loss() -> None:
    record = fit(training(learning_rate=1e-2), 60, batches=1)
    first, last = record.outputs[0]["loss"].item(), record.outputs[-1]["loss"].item()
    assert last < 0.8 * first, f"{first:.3f} -> {last:.3f}"


def test_what_a_step_draws_depends_on_the_seed_and_the_step_alone() -> None:
    """So that a resumed run needs no generator state."""

    def drawn(seed: int, disturbance: int, steps: int) -> list[float]:
        found: list[float] = []

        class Draw(Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                found.append(torch.rand(()).item())

        torch.manual_seed(disturbance)
        method = training(seed=seed)
        data = loader([batch(number) for number in range(4)])
        trainer(steps, Draw()).fit(method, data)
        return found

    first = drawn(0, 1, 3)
    assert drawn(0, 2, 4)[:3] == first
    assert len(set(first)) == 3 and not set(drawn(1, 1, 3)) & set(first)
    assert len(drawn(2**32 - 1, 1, 1)) == 1  # the largest seed that Lightning takes


def sample(protocol: str = "div2k") -> EvalSample:
    target = torch.rand(1, 3, 48, 60)
    image = F.interpolate(target, size=(24, 20), mode="area")
    bicubic = F.interpolate(image, size=(48, 60), mode="bicubic").clamp(0, 1)
    return EvalSample(image, target, bicubic, (2.0, 3.0), "x2x3", "Toy", "one", protocol, torch.tensor([3]))


@pytest.mark.parametrize("protocol", ["div2k", "benchmark"])
def test_evaluation_restores_to_the_targets_size_and_measures_by_the_samples_protocol(protocol: str) -> None:
    method, given = training().eval(), sample(protocol)
    evaluation = method.evaluate(given)
    image = method.restorer.restore(given.image, size=(48, 60)).image
    assert torch.equal(evaluation.restoration.image, image)
    assert evaluation.psnr == psnr(image, given.target, protocol, (2.0, 3.0))
    assert evaluation.psnr_plain == psnr(given.plain, given.target, protocol, (2.0, 3.0))
    assert evaluation.ssim == ssim(image, given.target, protocol, (2.0, 3.0))
    assert evaluation.milliseconds > 0 and evaluation.sample is given


def test_validation_logs_the_gain_over_bicubic_and_hands_on_the_evaluation() -> None:
    found: list[Any] = []

    class Keep(Callback):
        def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
            found.append(outputs)

    method = training()
    data = loader([sample(), sample()])
    (metrics,) = trainer(1, Keep()).validate(method, data, verbose=False)
    mean = sum(e.psnr for e in found) / 2
    gain = sum(e.psnr - e.psnr_plain for e in found) / 2
    assert metrics["val/psnr"] == pytest.approx(mean, rel=1e-5)
    assert metrics["val/gain"] == pytest.approx(gain, rel=1e-4)


def test_evaluation_uses_the_tile_it_was_given() -> None:
    method = training(inference=Inference(tile=20)).eval()
    tiled = method.evaluate(sample()).restoration
    assert tiled.macs.item() > tiled.full_macs, "tiles overlap, so they cost more than the whole image"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, r"method\.learning_rate must be above 0, got 0"),
        ({"learning_rate": float("nan")}, r"method\.learning_rate must be above 0, got nan"),
        ({"milestones": (0.5, 1.0)}, r"method\.milestones are fractions.*got \[0\.5, 1\.0\]"),
        ({"milestones": (200, 400)}, r"method\.milestones are fractions.*got \[200, 400\]"),
    ],
)
def test_impossible_options_are_refused_with_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**options)
