"""AnySR's training: which subnet a batch trains, how often the whole network takes its place, the schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dynres.backbones.anysr import AnySR
from dynres.backbones.edsr import EDSR
from dynres.contracts import QueryBatch, Task
from dynres.methods.anysr import AnySrTraining
from dynres.restorer import Restorer
from dynres.upsamplers.arbsr import ArbSRUpsampler
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.lte_fast import LTEFast
from dynres.upsamplers.metasr import MetaSR
from dynres.upsamplers.srno import SRNO
from tests.methods.test_base import Record, batch, loader, trainer

CHANNELS = 16


def network(rule: str = "official") -> AnySR:
    torch.manual_seed(0)
    return AnySR(EDSR(CHANNELS, 2, 1.0), rule=rule)  # type: ignore[arg-type]


def training(rule: str = "official", upsampler: Upsampler | None = None, **options: Any) -> AnySrTraining:
    backbone = network(rule)
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "milestones": (0.4, 0.8), "gamma": 0.5}
    restorer = Restorer(backbone, upsampler or LIIF(CHANNELS, hidden=6, layers=1))
    return AnySrTraining(restorer, **(defaults | options)).train()


def at_scale(*scales: float, number: int = 0) -> QueryBatch:
    return batch(number, len(scales))._replace(scale=torch.tensor(scales))


def fit(method: AnySrTraining, steps: int, *batches: QueryBatch) -> Record:
    record = Record()
    trainer(steps, record).fit(method, loader(list(batches)))
    return record


def ran(record: Record) -> list[float]:
    """The width of each step."""
    return [metrics["train/width"] for metrics in record.metrics]


# --------------------------------------------------------------------------------------------------------- subnets


@pytest.mark.parametrize("scale", [1.13, 1.5, 1.74, 1.76, 2.0, 2.46, 2.54, 3.0, 3.24, 3.26, 4.1])
def test_a_batch_trains_the_subnet_of_its_scale_told_to_a_tenth(scale: float) -> None:
    """The groups end at 1.7, 2.5 and 3.2; each is told a multiple of 0.1, so that the official rule knows it."""
    record = fit(training(full_share=0.0), 1, at_scale(scale, scale))
    told = round(10 * scale)
    width = 0.5 if told <= 17 else 0.7 if told <= 25 else 0.9 if told <= 32 else 1.0
    assert ran(record) == [pytest.approx(width)]


def test_loss_is_the_l1_of_that_subnet() -> None:
    given = at_scale(1.96, 1.96)
    method = training()
    task = Task(torch.tensor([2.0, 2.0]), seed=given.seed)
    prediction, routing = method.restorer.query(given.image, given.coords, given.cell, task)
    assert routing is not None and routing.decisions.tolist() == [[1.0, 0.0, 0.0]] * 2
    expected = 2 * F.l1_loss(prediction, given.target).item()
    record = fit(method, 1, given)
    assert record.outputs[0]["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert record.metrics[0]["train/loss"] == record.metrics[0]["train/l1"] == pytest.approx(expected, rel=1e-5)
    assert not record.outputs[0]["routing"].decisions.requires_grad


def test_a_subnet_moves_its_own_channels_alone() -> None:
    method = training(full_share=0.0, learning_rate=1e-2, warmup=0.0)
    before = {name: weight.detach().clone() for name, weight in method.network.named_parameters()}
    fit(method, 1, at_scale(1.5, 1.5))
    conv = next(name for name in before if name.endswith("body.0.body.0.weight"))
    moved = (dict(method.network.named_parameters())[conv] != before[conv]).flatten(1).any(1)
    assert moved.tolist() == [True] * 8 + [False] * 8


def test_samples_of_several_scales_each_train_their_own() -> None:
    """What data.scale_step=null yields."""
    record = fit(training(full_share=0.0), 1, at_scale(1.5, 2.0, 3.0, 4.0))
    decisions = record.outputs[0]["routing"].decisions
    assert decisions.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert ran(record) == [pytest.approx((0.5 + 0.7 + 0.9 + 1) / 4)]
    whole = fit(training(full_share=1.0), 1, at_scale(1.5, 2.0, 3.0, 4.0)).outputs[0]["routing"].decisions
    assert whole.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


# ------------------------------------------------------------------------------------------------------ random width


def test_the_smallest_scales_run_the_whole_network_six_times_in_ten() -> None:
    """By the draw of each step of three runs, as `on_train_batch_start` seeds it; within four standard deviations."""
    method, image, task = training(), torch.zeros(1, 3, 8, 8), Task(torch.tensor([1.5]))
    whole = 0
    for seed in range(3):
        for step in range(400):
            torch.manual_seed((seed * 0x9E3779B1 + step) % 2**32)
            decisions = method.chosen(image, task).decisions
            whole += bool(decisions.all())
            assert bool(decisions.all()) or not bool(decisions.any()), "the smallest or the whole, nothing between"
    assert abs(whole - 720) < 4 * (1200 * 0.6 * 0.4) ** 0.5, f"{whole} of 1200"


@given(scale=st.integers(18, 41), seed=st.integers(0, 2**32 - 1))
def test_other_scales_never_do(scale: int, seed: int) -> None:
    method = training(full_share=1.0)
    torch.manual_seed(seed)
    chosen = method.chosen(torch.zeros(1, 3, 8, 8), Task(torch.tensor([scale / 10])))
    assert chosen.decisions.sum() == 1 + (scale > 25) + (scale > 32)


def test_the_draw_of_a_step_is_the_runs_own() -> None:
    """Of (seed, step) alone: not of the batches before it, and not the same in every step."""
    given = [at_scale(1.5, 1.5, number=number) for number in range(12)]
    one, same, other = (ran(fit(training(seed=seed), 12, *given)) for seed in (3, 3, 4))
    assert one == same and one != other and {round(width, 3) for width in one} == {0.5, 1.0}
    late = ran(fit(training(seed=3), 12, *given[:6], *[at_scale(2.0, 2.0)] * 6))
    assert late[:6] == one[:6] and late[6:] == [pytest.approx(0.7)] * 6


# ---------------------------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize("steps", [20, 50])
def test_the_rate_rises_linearly_and_then_decays(steps: int) -> None:
    """From a tenth over the first tenth of the run; halved at 0.4 and 0.8 of it."""
    rates = [rate for (rate,) in fit(training(), steps, at_scale(4.0)).rates]
    for step, rate in enumerate(rates):
        expected = 1e-3 * (0.1 + 0.9 * min(1.0, 10 * step / steps))
        expected *= 0.5 ** ((step >= 0.4 * steps) + (step >= 0.8 * steps))
        assert rate == pytest.approx(expected), f"step {step} of {steps}"


def test_without_a_warm_up_the_rate_begins_at_its_height() -> None:
    """What the authors' code runs, as it stands."""
    rates = [rate for (rate,) in fit(training(learning_rate=1e-5, warmup=0.0), 10, at_scale(4.0)).rates]
    assert rates == pytest.approx([1e-5] * 4 + [5e-6] * 4 + [2.5e-6] * 2)


def test_training_begins_with_the_whole_network() -> None:
    record = fit(training(pretraining=0.4, full_share=0.0), 10, at_scale(1.5), at_scale(2.0))
    assert ran(record) == pytest.approx([1.0] * 4 + [0.5, 0.7] * 3)


def test_pretraining_is_the_training_of_the_whole_network() -> None:
    """Step by step the same losses as at a scale whose subnet it is, which the upsampler is not told."""
    batches = [at_scale(1.5, number=number) for number in range(3)]
    ours = fit(training("nearest_group", pretraining=0.99), 3, *batches)
    method = training("nearest_group", full_share=1.0)
    theirs = fit(method, 3, *batches)
    losses = [[output["loss"].item() for output in record.outputs] for record in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("head", [LIIF, LTE, LTEFast, MetaSR, SRNO, ArbSRUpsampler])
def test_every_upsampler_of_any_scale_is_trained(head: Any) -> None:
    small: dict[Any, dict[str, int]] = {
        LIIF: {"hidden": 6}, LTE: {"hidden_dim": 6}, LTEFast: {"hidden_dim": 6}, MetaSR: {"hidden": 6},
        SRNO: {"width": 8, "heads": 2},
    }  # fmt: skip
    upsampler = head(CHANNELS, **small.get(head, {}))
    method = training(upsampler=upsampler, full_share=0.0, learning_rate=1e-2, warmup=0.0)
    before = {name: weight.detach().clone() for name, weight in method.restorer.named_parameters()}
    record = fit(method, 3, at_scale(2.0, 2.0))
    still = [name for name, weight in method.restorer.named_parameters() if torch.equal(weight, before[name])]
    assert not still and all(output["loss"].isfinite() for output in record.outputs), still


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 1.0}, r"warmup and pretraining must lie in \[0, 1\), got 1.0 and 0.0"),
        ({"pretraining": -0.1}, r"got 0.1 and -0.1"),
        ({"warmup_from": 0.0}, r"warmup_from must lie in \(0, 1\], got 0.0"),
        ({"full_share": 1.1}, r"full_share must lie in \[0, 1\], got 1.1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
    ],
)
def test_impossible_options_are_refused_with_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**options)


def test_a_network_without_subnets_is_refused() -> None:
    with pytest.raises(ValueError, match="trains the subnets of AnySR, got EDSR"):
        AnySrTraining(Restorer(EDSR(4, 1, 1.0), LIIF(4, hidden=6, layers=1)), 1e-3, (0.5,), 0.5)
