"""TADT's training: Eq. 5-7, the dense beginning, and gradients for every part of the controller."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn import functional as F

from dynres.backbones.edsr import EDSR
from dynres.backbones.tadt import TADT, TARC, Intensity
from dynres.contracts import EvalSample, QueryBatch, Task
from dynres.methods.base import Inference
from dynres.methods.tadt import TadtTraining, beta_loss
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF
from tests.methods.test_base import Record, batch, loader, trainer


def training(intensity: Intensity = "learned", **options: Any) -> TadtTraining:
    torch.manual_seed(0)
    backbone = TADT(
        channels=8, groups=2, local_windows=(2, 4, 4), global_window=8, pooled=4, heads=1, out_channels=4,
        controller_width=5, intensity=intensity, intensity_value=0.3,
    )  # fmt: skip
    nn.init.normal_(backbone.controller.linear.weight, std=2.0)
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "milestones": (0.5,), "gamma": 0.5, "beta_weight": 0.1}
    method = TadtTraining(Restorer(backbone, LIIF(4, hidden=6, layers=1)), **(defaults | options))
    return method.train()


def controller_of(method: TadtTraining) -> TARC:
    assert isinstance(method.restorer.backbone, TADT)
    return method.restorer.backbone.controller


def fit(method: TadtTraining, steps: int) -> Record:
    record = Record()
    data = loader([batch(number) for number in range(3)])
    trainer(steps, record).fit(method, data)
    return record


# ------------------------------------------------------------------------------------------------ Eq. 6-7


def test_beta_loss_by_hand() -> None:
    """Allowances 0.5, 0.75 and 1 at scales 1, 4 and 9: within it nothing, at or beyond it beta itself."""
    scale = torch.tensor([1.0, 4.0, 9.0, 1.0, 4.0])
    beta = torch.tensor([0.49, 0.75, 1.2, 0.5, 0.7])
    assert beta_loss(beta, scale).item() == pytest.approx((0.75 + 1.2 + 0.5) / 5)


def test_beta_loss_follows_its_coefficients() -> None:
    beta, scale = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 3.0])
    assert beta_loss(beta, scale, (0.0, 0.25, 1.0)).item() == 1.0  # 0.5 and 0.75 allowed
    assert beta_loss(beta, scale, (0.0, 0.4, 1.0)).item() == 0.5  # 0.8 and 1.2 allowed
    assert beta_loss(beta, scale, (0.25, 0.25, 2.0)).item() == 0.0  # 1.25 and 2.5 allowed


def test_the_gradient_of_the_beta_loss_is_one_over_the_batch_where_it_is_due() -> None:
    beta = torch.tensor([0.4, 0.9, 2.0, 0.1], requires_grad=True)
    beta_loss(beta, torch.tensor([1.0, 1.0, 4.0, 4.0])).backward()
    assert beta.grad is not None and beta.grad.tolist() == [0.0, 0.25, 0.25, 0.0]


def test_scales_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        beta_loss(torch.ones(2), torch.tensor([2.0, 0.5]))


# ------------------------------------------------------------------------------------------------ steps


def test_a_step_with_gates_gives_gradients_to_every_parameter_of_the_controller() -> None:
    """To every branch as well, those bypassed included: Eq. 4 needs their outputs."""
    method = training()
    given = batch(1)
    task = Task(given.scale, seed=given.seed)
    prediction, routing = method.restorer.query(given.image, given.coords, given.cell, task)
    assert routing is not None and 0 < routing.decisions.mean() < 1, "some gates have to be closed"
    F.l1_loss(prediction, given.target).backward()  # without the beta loss: through the gates alone
    controller = controller_of(method)
    still = [name for name, p in controller.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still, f"no gradient reaches {still}"


def test_a_training_step_moves_every_part_of_the_controller() -> None:
    method = training()
    before = {name: p.clone() for name, p in controller_of(method).named_parameters()}
    fit(method, 2)
    still = [n for n, p in controller_of(method).named_parameters() if torch.equal(p, before[n])]
    assert not still, f"{still} did not move"


def test_loss_is_reconstruction_plus_lambda_times_the_beta_loss() -> None:
    """Eq. 5, with the logged parts adding up."""
    method, given = training(beta_weight=0.5), batch(0)
    task = Task(given.scale, seed=given.seed)
    prediction, routing = method.restorer.query(given.image, given.coords, given.cell, task)
    assert routing is not None
    l1 = 2 * F.l1_loss(prediction, given.target).item()
    penalty = beta_loss(routing.intensity, given.scale).item()
    record = fit(method, 1)
    metrics = record.metrics[0]
    assert penalty > 0, "beta has to exceed its allowance for this test to say anything"
    assert record.outputs[0]["loss"].item() == pytest.approx(l1 + 0.5 * penalty, rel=1e-5)
    assert metrics["train/l1"] == pytest.approx(l1, rel=1e-5)
    assert metrics["train/beta_loss"] == pytest.approx(penalty, rel=1e-5)
    assert metrics["train/active_fraction"] == pytest.approx(routing.decisions.mean().item())


def test_without_the_beta_loss_the_loss_is_the_reconstruction() -> None:
    """Table 5's ablation."""
    record = fit(training(beta_weight=0.0), 1)
    assert record.outputs[0]["loss"].item() == pytest.approx(record.metrics[0]["train/l1"])


def test_what_callbacks_read_carries_no_graph() -> None:
    routing = fit(training(), 1).outputs[0]["routing"]
    assert not any(t.requires_grad for t in (routing.decisions, routing.probabilities, routing.intensity))
    assert routing.decisions.shape == (2, 8) and len(routing.units) == 8
    assert set(routing.decisions.flatten().tolist()) <= {0.0, 1.0}


def test_training_begins_dense_and_then_routes() -> None:
    """Every branch on and no penalty for the first part of the steps; the controller rests meanwhile."""
    method = training("constant", dense_fraction=0.4)
    controller = {name: p.clone() for name, p in controller_of(method).named_parameters()}
    moved: list[bool] = []

    class Watch(Record):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *more: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *more)
            now = controller_of(pl_module).named_parameters()
            moved.append(any(not torch.equal(p, controller[name]) for name, p in now))

    record = Watch()
    data = loader([batch(number) for number in range(3)])
    trainer(10, record).fit(method, data)
    active = [output["routing"].decisions.mean().item() for output in record.outputs]
    assert active[:4] == [1.0] * 4, f"dense steps had {active[:4]} of the branches on"
    assert max(active[4:]) < 1, f"routed steps had {active[4:]} of the branches on"
    assert moved == [False] * 4 + [True] * 6
    for output, metrics in zip(record.outputs[:4], record.metrics[:4], strict=True):
        assert output["loss"].item() == pytest.approx(metrics["train/l1"]), "a penalty in a dense step"


def test_dense_training_is_the_training_of_the_baseline() -> None:
    """Step by step the same losses as every branch on by force."""
    dense = fit(training(dense_fraction=0.99), 4)
    method = training(beta_weight=0.0)
    backbone = method.restorer.backbone
    route = backbone.route
    backbone.route = lambda image, task: route(image, Task(task.scale, budget=1.0))  # type: ignore[method-assign]
    forced = fit(method, 4)
    ours, theirs = ([output["loss"].item() for output in record.outputs] for record in (dense, forced))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_gates_are_drawn_by_the_seeds_of_the_batch() -> None:
    method = training("constant")
    first = fit(method, 1).outputs[0]["routing"].decisions
    given: QueryBatch = batch(0)
    method = training("constant")
    expected = method.restorer.backbone.route(2 * given.image - 1, Task(given.scale, seed=given.seed))
    assert expected is not None
    assert torch.equal(first, expected.decisions.detach())


# ------------------------------------------------------------------------------------------------ options


def test_the_controller_has_its_own_learning_rate() -> None:
    method = training(controller_rate=3.0)
    record = fit(method, 4)
    network, controller = method.parameter_groups()
    assert {id(p) for p in controller["params"]} == {id(p) for p in controller_of(method).parameters()}
    together = [*network["params"], *controller["params"]]
    assert len(together) == len({id(p) for p in together}) == len(list(method.restorer.parameters()))
    assert record.rates[0] == pytest.approx([1e-3, 3e-3])
    assert record.rates[3] == pytest.approx([5e-4, 1.5e-3]), "both decay at the milestone"


def test_evaluation_keeps_the_budget() -> None:
    method = training(inference=Inference(budget=0.85)).eval()
    image = torch.rand(1, 3, 16, 24)
    target = F.interpolate(image, scale_factor=2, mode="bilinear")
    sample = EvalSample(image, target, target, (2.0, 2.0), "x2", "Toy", "one", "benchmark", torch.tensor([0]))
    restoration = method.evaluate(sample).restoration
    assert restoration.macs.item() <= 0.85 * restoration.full_macs
    free = training().eval().evaluate(sample).restoration
    assert not torch.equal(free.macs, restoration.macs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_weight": -1e-4}, r"beta_weight must be >= 0.*got -0\.0001"),
        ({"dense_fraction": 1.0}, r"dense_fraction in \[0, 1\).*1\.0"),
        ({"dense_fraction": -0.1}, r"dense_fraction in \[0, 1\).*-0\.1"),
        ({"learning_rate": -1.0}, r"learning_rate must be above 0, got -1"),
    ],
)
def test_impossible_options_are_refused_with_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**options)


def test_a_network_without_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="routes the branches of a tadt backbone, got EDSR"):
        TadtTraining(Restorer(EDSR(4, 1, 1.0), LIIF(4, hidden=6, layers=1)), 1e-3, (0.5,), 0.5)
