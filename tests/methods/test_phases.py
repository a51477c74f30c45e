"""Two trainings in one run: each has its own schedule, the exchange takes everything with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from dynres.callbacks.checkpoints import SelfDescription
from dynres.callbacks.ema import Ema
from dynres.methods.phases import PhasedTraining
from dynres.methods.prune import PruneTraining
from dynres.restorer import Restorer
from tests.methods.test_base import Record, batch, loader

NETWORK: dict[str, Any] = {
    "backbone": {
        "_target_": "dynres.backbones.swinir.SwinIR", "embed_dim": 8, "depths": [2], "heads": 2, "window": 4,
        "out_channels": 4, "drop_path": 0.0,
    },
    "upsampler": {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 6, "layers": 1},
}  # fmt: skip


def network(seed: int = 0) -> Restorer:
    torch.manual_seed(seed)
    return Restorer.from_description(NETWORK)


class Exchanged(PhasedTraining):
    """The second network is another one of the same kind."""

    def __init__(self, first: float = 0.5, **options: Any) -> None:
        super().__init__(network(0), 1e-2, (0.5,), 0.1, 0, None, first, "one", **options)
        self.entered = 0

    def second(self) -> Restorer:
        return network(1)

    def on_second(self) -> None:
        self.entered += 1

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        prediction, target, routing = self.predicted(batch)
        loss = (prediction - target).abs().mean()
        return self.published(loss, {}, routing, batch.scale)


def fit(method: PhasedTraining, folder: Path, *callbacks: Any, steps: int = 8) -> Trainer:
    trainer = Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", callbacks=[SelfDescription({}), *callbacks], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, loader([batch(number) for number in range(steps)]))
    return trainer


def state(method: PhasedTraining) -> dict[str, Tensor]:
    return copy.deepcopy(method.restorer.state_dict())


def test_each_phase_has_its_own_schedule(tmp_path: Path) -> None:
    seen, method = Record(), Exchanged(second_rate=0.5)
    fit(method, tmp_path, seen)
    rates = [rate for (rate,) in seen.rates]  # read before the exchange, in the step that it begins
    assert rates[:4] + rates[5:] == pytest.approx([1e-2] * 2 + [1e-3] * 2 + [5e-3] + [5e-4] * 2)
    assert method.phase == 2 and method.entered == 1


def test_the_second_phase_trains_the_second_network_and_keeps_the_first(tmp_path: Path) -> None:
    """As if each had been trained alone, by an optimiser of its own."""
    method = Exchanged()
    fit(method, tmp_path)
    alone = Exchanged(first=0.0)
    alone.restorer = network(1)
    trainer = Trainer(
        max_steps=4, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(alone, loader([batch(number) for number in range(4, 8)]))
    assert all(torch.equal(value, state(alone)[name]) for name, value in state(method).items())
    kept = torch.load(tmp_path / "checkpoints" / "one.ckpt", weights_only=True)
    assert kept["phase"] == 1 and kept["global_step"] == 4 and kept["dynres"]["network"] == NETWORK


def test_the_moving_average_starts_anew_with_the_network(tmp_path: Path) -> None:
    ema, method = Ema(decay=0.5, warmup=False), PruneTraining(network(), 1e-2, (), 1.0, rate=0.5)
    fit(method, tmp_path, ema)
    average = ema.state_dict()["weights"]
    assert {name: value.shape for name, value in average.items()} == {n: v.shape for n, v in state(method).items()}


@pytest.mark.parametrize(("share", "rate"), [(-0.1, 1.0), (1.0, 1.0), (0.5, 0.0)])
def test_shares_and_rates_out_of_range_are_refused(share: float, rate: float) -> None:
    with pytest.raises(ValueError, match="phase"):
        Exchanged(share, second_rate=rate)


# ---------------------------------------------------------------------------------------------------------- prune


def test_scores_are_pushed_down_by_gamma_alone_where_nothing_else_moves_them(tmp_path: Path) -> None:
    """L + gamma ||a||_1: the loss of a step, and the gradient gamma sign(a) of a channel that nothing reads."""
    method = PruneTraining(network(), 1e-3, (), 1.0, sparsity=0.1)
    method.ready()
    inner = method.channels[0]
    with torch.no_grad():
        inner.out.weight.zero_()
    method.published = lambda loss, *_: {"loss": loss}  # type: ignore[method-assign]
    one = batch()
    prediction, target, _ = method.predicted(one)
    outputs = method.training_step(one, 0)
    scores = sum(score.abs().sum() for score in method.scores)
    torch.testing.assert_close(outputs["loss"], (prediction - target).abs().mean() + 0.1 * scores)
    outputs["loss"].backward()
    torch.testing.assert_close(method.scores[0].grad, torch.full((16,), 0.1))
    assert (method.scores[1].grad != 0.1).any()


def test_a_larger_gamma_leaves_smaller_scores(tmp_path: Path) -> None:
    means = []
    for sparsity in (0.0, 1e-2):
        seen = Record()
        fit(PruneTraining(network(), 1e-2, (), 1.0, sparsity=sparsity), tmp_path, seen, steps=12)
        means.append(seen.metrics[5]["train/mean_score"])
    assert means[1] < means[0] - 0.01
