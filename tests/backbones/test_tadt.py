"""TADT: decisions by Eq. 3-4 or a budget, branches that are bypassed for real, gradients that reach the controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.backbones import mstb
from dynres.backbones.mstb import MultiScaleTransformer
from dynres.backbones.tadt import TADT
from dynres.contracts import Routing, Task
from dynres.cost.counter import count_macs, count_parameters

STRUCTURE: dict[str, Any] = {
    "channels": 16, "groups": 2, "local_windows": (2, 4, 8), "global_window": 8, "pooled": 4, "out_channels": 5
}  # fmt: skip
UNITS = 8
PATTERNS = {
    "none": [0] * 8,
    "all": [1] * 8,
    "one branch": [0, 0, 1, 0, 0, 0, 0, 0],
    "one group": [1, 1, 1, 1, 0, 0, 0, 0],
    "mixed": [1, 0, 0, 1, 0, 1, 1, 1],
}


def build(**options: Any) -> TADT:
    """A small TADT in evaluation mode, with weights large enough for every branch and probability to matter."""
    torch.manual_seed(0)
    network = TADT(**(STRUCTURE | {"controller_width": 6} | options))
    for name, parameter in network.named_parameters():
        if "scale_branch" not in name:
            nn.init.normal_(parameter, std=0.15)
    nn.init.normal_(network.controller.linear.weight, std=3.0)
    return network.eval()


def images(batch: int, height: int = 8, width: int = 16) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, height, width, generator=random)


def decided(rows: list[list[int]]) -> Routing:
    decisions = torch.tensor(rows, dtype=torch.float32)
    return Routing(decisions, decisions, torch.ones(len(rows)), tuple(map(str, range(UNITS))))


def task(batch: int = 1, scale: float = 2.0, **more: Any) -> Task:
    return Task(torch.full((batch,), scale), **more)


def branch_calls(network: TADT) -> dict[tuple[int, int, int], list[int]]:
    """(group, block, branch) -> number of samples in each call, filled while the network runs."""
    calls: dict[tuple[int, int, int], list[int]] = {}

    def watch(key: tuple[int, int, int]) -> Callable[..., None]:
        calls[key] = []
        return lambda module, inputs: calls[key].append(len(inputs[0]))

    groups: Any = network.groups
    for g, group in enumerate(groups):
        for b, block in enumerate(group.blocks):
            for j, branch in enumerate(block.branches):
                branch.register_forward_pre_hook(watch((g, b, j)))
    return calls


# ------------------------------------------------------------------------------------------------ size and cost


def test_parameter_count_prints_as_published() -> None:
    with torch.device("meta"):
        parameters = count_parameters(TADT())
    assert parameters == 9_180_865 and f"{parameters / 1e6:.2f}" == "9.18"


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [(8, 8), (5, 19)])
def test_counted_macs_are_the_fixed_part_and_the_units_that_ran(pattern: str, size: tuple[int, int]) -> None:
    network, decisions = build(), PATTERNS[pattern]
    cost = network.cost(*size)
    expected = cost.fixed + sum(m for m, on in zip(cost.units, decisions, strict=True) if on)
    with torch.no_grad():
        given = task(routing=decided([decisions]))
        counted = count_macs(lambda: network(images(1, *size), given)) + network.controller.cost(*size)
    assert counted == expected, f"counted {counted}, formula {expected}"


@pytest.mark.parametrize("seed", range(4))
def test_counted_macs_of_a_network_that_decides_itself(seed: int) -> None:
    """The controller included."""
    network, image = build(), images(1)
    given = task(seed=torch.tensor([seed]), scale=1.2)
    with torch.no_grad():
        decisions = network(image, given).routing.decisions[0]
        counted = count_macs(lambda: network(image, given))
    cost = network.cost(8, 16)
    assert counted == cost.fixed + int(decisions.double() @ torch.tensor(cost.units, dtype=torch.double))


def test_counted_macs_of_a_batch_that_disagrees_are_the_sum_over_its_samples() -> None:
    network, rows = build(), list(PATTERNS.values())
    cost = network.cost(8, 16)
    expected = sum(cost.fixed + sum(m for m, on in zip(cost.units, row, strict=True) if on) for row in rows)
    with torch.no_grad():
        counted = count_macs(lambda: network(images(5), task(5, routing=decided(rows))))
    assert counted + 5 * network.controller.cost(8, 16) == expected


def test_counted_macs_at_published_size() -> None:
    with torch.device("meta"):
        network = TADT().eval()
    decisions = torch.zeros(1, 32)
    decisions[0, ::3] = 1
    given = Task(torch.tensor([2.0]), routing=Routing(decisions, decisions, torch.ones(1), network.units))
    cost = network.cost(48, 48)
    counted = count_macs(lambda: network(torch.empty(1, 3, 48, 48, device="meta"), given))
    assert counted + network.controller.cost(48, 48) == cost.fixed + sum(cost.units[::3])


def test_controller_is_the_difference_to_the_baseline() -> None:
    network, baseline = build(), MultiScaleTransformer(**STRUCTURE)
    ours, theirs = network.cost(9, 7), baseline.cost(9, 7)
    assert ours.units == theirs.units and ours.fixed - theirs.fixed == network.controller.cost(9, 7)
    assert network.units[0] == "group 1 2x2" and network.units[-1] == "group 2 global" and len(network.units) == UNITS


# ------------------------------------------------------------------------------------------------ bypassing


@pytest.mark.parametrize("how", ["a budget of 1", "decisions all on"])
def test_all_branches_on_is_the_baseline_with_the_same_weights(how: str) -> None:
    network, baseline = build(), MultiScaleTransformer(**STRUCTURE).eval()
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith("controller.")}
    baseline.load_state_dict(weights)
    given = task(2, budget=1.0) if how == "a budget of 1" else task(2, routing=decided([[1] * UNITS] * 2))
    with torch.no_grad():
        ours, theirs = network(images(2), given), baseline(images(2), Task())
    torch.testing.assert_close(ours.map, theirs.map, rtol=1e-6, atol=1e-6)
    assert ours.routing.decisions.min() == 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bypassed_branches_run_no_kernel(pattern: str) -> None:
    """Unit 4 (i - 1) + j is branch j of both blocks of group i."""
    network, decisions = build(), PATTERNS[pattern]
    calls = branch_calls(network)
    with torch.no_grad():
        network(images(3), task(3, routing=decided([decisions] * 3)))
    for (group, _, branch), seen in calls.items():
        assert seen == ([3] if decisions[4 * group + branch] else []), f"branch {branch} of group {group}"


def test_bypassed_branches_run_no_kernel_in_a_batch_that_disagrees() -> None:
    """Each branch is called at most once a block, on exactly the samples that want it."""
    network, rows = build(), [[1, 0, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0, 1]]
    calls = branch_calls(network)
    with torch.no_grad():
        network(images(3), task(3, routing=decided(rows)))
    for (group, _, branch), seen in calls.items():
        wanted = sum(row[4 * group + branch] for row in rows)
        assert seen == ([wanted] if wanted else []), f"branch {branch} of group {group} ran on {seen}"


@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("alone_from", [0, 10**9], ids=["one at a time", "grouped by branch"])
@given(rows=st.lists(st.lists(st.integers(0, 1), min_size=UNITS, max_size=UNITS), min_size=2, max_size=4))
def test_a_sample_alone_equals_the_sample_in_a_batch(alone_from: int, rows: list[list[int]]) -> None:
    """In both ways to run a batch that disagrees; the images' size chooses between them."""
    network, batch = build(), images(len(rows))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mstb, "ALONE", alone_from)
        together = network(batch, task(len(rows), routing=decided(rows))).map
        for index, row in enumerate(rows):
            alone = network(batch[index : index + 1], task(routing=decided([row]))).map[0]
            error = (alone - together[index]).abs().max().item()
            assert error < 1e-5, f"sample {index} differs by {error:.2g}"


def test_decisions_of_a_sample_are_the_same_alone_and_in_a_batch() -> None:
    network, batch, scales = build(), images(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
    seeds = torch.tensor([5, 6, 7, 8])
    with torch.no_grad():
        together = network(batch, Task(scales, seed=seeds))
        assert len({tuple(row.tolist()) for row in together.routing.decisions}) > 1, "the batch has to disagree"
        for i in range(4):
            alone = network(batch[i : i + 1], Task(scales[i : i + 1], seed=seeds[i : i + 1]))
            assert torch.equal(alone.routing.decisions[0], together.routing.decisions[i])
            torch.testing.assert_close(alone.map[0], together.map[i], rtol=1e-5, atol=1e-5)


def test_training_computes_what_inference_computes_for_the_same_decisions() -> None:
    """Training multiplies by the gates, inference skips: Eq. 1 and Eq. 2."""
    network, batch = build().train(), images(3)
    trained = network(batch, task(3, scale=1.2, seed=torch.arange(3)))
    routing = trained.routing
    assert routing.decisions.requires_grad and 0 < routing.decisions.mean() < 1
    network.eval()
    fixed = Routing(routing.decisions.detach(), routing.probabilities, routing.intensity, routing.units)
    with torch.no_grad():
        skipped = network(batch, task(3, routing=fixed)).map
    torch.testing.assert_close(trained.map.detach(), skipped, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_closed_gate_reaches_the_controller() -> None:
    network = build(intensity="constant", intensity_value=0.3).train()
    features = network(images(2), task(2, seed=torch.arange(2)))
    decisions = features.routing.decisions
    decisions.retain_grad()
    features.map.pow(2).sum().backward()
    closed = decisions.detach() == 0
    assert closed.any() and (decisions.grad[closed] != 0).all(), "a closed gate got no gradient"
    still = [name for name, p in network.controller.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still, f"no gradient reaches the controller's {still}"


def test_the_gradient_of_a_closed_gate_is_what_opening_it_would_change() -> None:
    """d output / d r_j at r_j = 0 is branch j times its columns of the projection (Eq. 1, 4), by finite differences."""
    network, image = build().double(), images(1).double()
    gates = torch.tensor([PATTERNS["mixed"]], dtype=torch.double, requires_grad=True)
    weight = torch.randn(1, 5, 8, 16, dtype=torch.double)
    (gradient,) = torch.autograd.grad((network.extract(image, gates) * weight).sum(), gates)
    for unit in range(UNITS):
        step = torch.zeros_like(gates)
        step[0, unit] = 1e-5
        up, down = ((network.extract(image, gates + s) * weight).sum() for s in (step, -step))
        assert gradient[0, unit].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-4), f"unit {unit}"


# ------------------------------------------------------------------------------------------------ decisions


def test_probabilities_are_equation_3() -> None:
    network, batch, scale = build(), images(3), torch.tensor([1.0, 2.5, 4.0])
    c = network.controller
    with torch.no_grad():
        routing = network.route(batch, Task(scale))
        for i in range(3):
            hidden = F.conv2d(batch[i : i + 1], c.conv1.weight, c.conv1.bias, padding=1).relu()
            e = F.conv2d(hidden, c.conv2.weight, c.conv2.bias, padding=1).mean((2, 3))[0]
            sigma = (1 / (1 + torch.exp(-(c.linear.weight @ e + c.linear.bias)))).tolist()
            beta = routing.intensity[i].item()
            expected = [min(beta * UNITS * s / sum(sigma), 1.0) for s in sigma]
            assert routing.probabilities[i].tolist() == pytest.approx(expected, rel=1e-4)
    assert (routing.probabilities == 1).any() and (routing.probabilities < 1).any()


def test_beta_starts_near_one_so_that_training_starts_from_the_baseline() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        beta = TADT(**STRUCTURE).controller.beta(torch.linspace(1, 4, 7))
        assert (beta - 1).abs().max() < 0.25, f"seed {seed}: {beta.tolist()}"


def test_beta_of_the_ablations() -> None:
    """Table 4: beta = 0.5 and beta = 0.25 s have nothing to learn about the scale."""
    scale = torch.tensor([1.0, 2.0, 3.5, 4.0])
    constant = build(intensity="constant", intensity_value=0.5).controller
    proportional = build(intensity="proportional", intensity_value=0.25).controller
    assert constant.beta(scale).tolist() == [0.5] * 4
    assert proportional.beta(scale).tolist() == [0.25, 0.5, 0.875, 1.0]
    for controller in (constant, proportional):
        assert not any(name.startswith("scale_branch") for name, _ in controller.named_parameters())
        with torch.no_grad():
            probability, beta = controller(images(4), scale)
        assert torch.equal(beta, controller.beta(scale)) and (probability.mean(1) <= beta + 1e-6).all()


def test_the_scale_branch_sees_the_scale_or_the_relative_cell() -> None:
    by_scale, by_cell = build().controller, build(scale_input="cell").controller
    by_cell.load_state_dict(by_scale.state_dict())
    for controller in (by_scale, by_cell):
        weight = controller.get_parameter("scale_branch.4.weight")
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1.0, 1.7, 4.0, 30.0])
    torch.testing.assert_close(by_cell.beta(scale), by_scale.beta(2 / scale))
    assert (by_scale.beta(scale).diff() != 0).all()
    torch.testing.assert_close(by_cell.beta(torch.tensor([1e9])), by_scale.beta(torch.tensor([0.0])))


def test_bernoulli_decisions_are_a_pure_function_of_the_seed() -> None:
    network, batch = build(), images(1)
    with torch.no_grad():
        torch.manual_seed(1)
        first = network.route(batch, task(scale=1.2, seed=torch.tensor([4]))).decisions
        torch.manual_seed(2)
        assert torch.equal(network.route(batch, task(scale=1.2, seed=torch.tensor([4]))).decisions, first)
        many = [network.route(batch, task(scale=1.2, seed=torch.tensor([s]))).decisions[0] for s in range(400)]
    probability = network.route(batch, task(scale=1.2)).probabilities[0]
    share = torch.stack(many).mean(0)
    error = (share - probability).abs().max().item()
    assert error < 4 * 0.5 / 400**0.5, f"drawn {share.tolist()}, asked {probability.tolist()}"


def test_no_seed_is_seed_zero() -> None:
    network = build()
    seeded = network.route(images(2), task(2, seed=torch.zeros(2, dtype=torch.int64)))
    assert torch.equal(network.route(images(2), task(2)).decisions, seeded.decisions)


def test_threshold_takes_what_is_more_probable_than_not_whatever_the_seed() -> None:
    network = build(sampling="threshold")
    for seed in range(3):
        routing = network.route(images(2), task(2, scale=1.2, seed=torch.tensor([seed, seed + 1])))
        assert torch.equal(routing.decisions, (routing.probabilities >= 0.5).float())
    assert 0 < routing.decisions.mean() < 1


def test_route_decides_what_forward_decides() -> None:
    network, given = build(), task(2, scale=1.3, seed=torch.tensor([1, 9]))
    with torch.no_grad():
        ahead, forward = network.route(images(2), given), network(images(2), given).routing
    assert torch.equal(ahead.decisions, forward.decisions) and torch.equal(ahead.intensity, forward.intensity)


# ------------------------------------------------------------------------------------------------ budget


def spent(network: TADT, routing: Routing, size: tuple[int, int]) -> Tensor:
    cost = network.cost(*size)
    return cost.fixed + routing.decisions.double() @ torch.tensor(cost.units, dtype=torch.double)


@settings(max_examples=40, deadline=None)
@given(budget=st.floats(0.01, 1.0), height=st.integers(1, 20), width=st.integers(1, 20))
def test_a_budget_is_kept_wherever_the_fixed_part_fits(budget: float, height: int, width: int) -> None:
    network = build()
    routing = network.route(images(2, height, width), task(2, budget=budget))
    cost = network.cost(height, width)
    used = spent(network, routing, (height, width)).max().item()
    assert used <= max(budget * cost.full * (1 + 1e-12), cost.fixed), f"{used / cost.full:.4f} of a budget of {budget}"


def test_the_most_probable_branches_are_kept_first_and_none_that_fits_is_left_out() -> None:
    network, size = build(), (8, 16)
    cost = network.cost(*size)
    for budget in torch.linspace(cost.fixed / cost.full, 1, 25).tolist():
        routing = network.route(images(3), task(3, budget=budget))
        for sample in range(3):
            left = budget * cost.full - cost.fixed
            for unit in routing.probabilities[sample].argsort(descending=True, stable=True).tolist():
                fits = cost.units[unit] <= left
                assert bool(routing.decisions[sample, unit]) == fits, f"budget {budget:.3f}, unit {unit}, {left} left"
                left -= cost.units[unit] if fits else 0


def test_a_larger_budget_never_spends_less() -> None:
    network = build()
    budgets = torch.linspace(0.02, 1, 50).tolist()
    used = [spent(network, network.route(images(2), task(2, budget=b)), (8, 16)) for b in budgets]
    steps = torch.stack(used).diff(dim=0)
    assert (steps >= 0).all() and (steps > 0).any()
    assert torch.equal(used[-1], torch.full((2,), network.cost(8, 16).full, dtype=torch.double))


def test_a_budget_decides_alone_without_seed_or_sampling() -> None:
    network, drawn = build(sampling="threshold"), build()
    expected = drawn.route(images(2), task(2, budget=0.7)).decisions
    for seed in range(3):
        given = task(2, budget=0.7, seed=torch.tensor([seed, seed]))
        assert torch.equal(network.route(images(2), given).decisions, expected)


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "budget"}, "bernoulli or threshold, got 'budget'"),
        ({"intensity": "linear"}, "learned, constant or proportional, got 'linear'"),
        ({"scale_input": "size"}, "scale or cell, got 'size'"),
    ],
)
def test_unknown_choices_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TADT(**(STRUCTURE | options))


def test_routing_without_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Task\.scale is missing"):
        build()(images(1), Task())
