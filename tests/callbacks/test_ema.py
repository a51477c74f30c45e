"""The average is the formula's, is what gets evaluated, and never disturbs training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dynres.callbacks.ema import Ema, exchange
from dynres.checkpoint_io import read_checkpoint, restorer_weights

KEY = "backbone.conv.weight"


class Trace(Callback):
    """The weights after each step, at each validation and at the test."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []
        self.tested: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.trained.append(pl_module.restorer.state_dict()[KEY].clone())  # type: ignore[union-attr]

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self.validated.append(pl_module.restorer.state_dict()[KEY].clone())  # type: ignore[union-attr]

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self.tested.append(pl_module.restorer.state_dict()[KEY].clone())  # type: ignore[union-attr]


def average(weights: list[torch.Tensor], decay: float, warmup: bool) -> torch.Tensor:
    """The formula, step by step: the first step is taken whole, then the decay is applied (grown by 1 - n^(-2/3))."""
    mean = weights[0]
    for step, value in enumerate(weights[1:], 1):
        now = min(decay, 1 - (1 + step) ** (-2 / 3)) if warmup else decay
        mean = now * mean + (1 - now) * value
    return mean


@pytest.mark.parametrize("warmup", [False, True])
def test_validation_sees_the_average_and_training_does_not(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any], warmup: bool
) -> None:
    with_average, without = Trace(), Trace()
    fit(make_trainer(Ema(decay=0.7, warmup=warmup), with_average, folder=tmp_path / "a"))
    fit(make_trainer(without, folder=tmp_path / "b"))
    for step, (one, other) in enumerate(zip(with_average.trained, without.trained, strict=True)):
        assert torch.equal(one, other), f"step {step}: training changed by {(one - other).abs().max()}"
    expected = average(with_average.trained[:6], 0.7, warmup)
    torch.testing.assert_close(with_average.validated[0], expected, rtol=0, atol=1e-6)
    assert not torch.equal(with_average.validated[0], with_average.trained[5])


def test_the_test_sees_the_average_also_from_a_checkpoint_alone(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any], check: Callable[..., Any]
) -> None:
    ema, trace = Ema(decay=0.7), Trace()
    module = fit(make_trainer(ema))
    last = tmp_path / "checkpoints" / "last.ckpt"
    kept = restorer_weights(read_checkpoint(last))[KEY]
    after = module.restorer.state_dict()[KEY].clone()
    check(ema, trace, folder=tmp_path, module=module)
    check(Ema(decay=0.7), trace, folder=tmp_path, ckpt_path=last)
    assert len(trace.tested) == 12 and all(torch.equal(seen, kept) for seen in trace.tested)
    assert torch.equal(module.restorer.state_dict()[KEY], after), "the trained weights are back after the test"
    assert not torch.equal(kept, after)


def test_exchanging_twice_changes_nothing() -> None:
    one, other = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    one(torch.rand(2, 3, 4, 4))
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in (one, other)]
    exchange(one, other)
    assert all(torch.equal(one.state_dict()[k], v) for k, v in before[1].items())
    assert all(torch.equal(other.state_dict()[k], v) for k, v in before[0].items())
    exchange(one, other)
    assert all(torch.equal(one.state_dict()[k], v) for k, v in before[0].items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay must be in \\[0, 1\\), got {decay}"):
        Ema(decay=decay)
