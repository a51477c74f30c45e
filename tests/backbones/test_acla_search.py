"""The supernet of ACLA's search: it is the network that it finds; gates and costs are those of Eq. 10-13."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynres.backbones.acla import CrossLayerEDSR
from dynres.backbones.edsr import EDSR
from dynres.contracts import Routing, Task
from dynres.layers import cross_layer
from tests.backbones.test_acla import CHANNELS, KEYS, edsr, image, run


def supernet(alpha: list[float], **options: Any) -> CrossLayerEDSR:
    network = edsr("all", blocks=len(alpha), searched=True, **options)
    with torch.no_grad():
        network.alpha.copy_(torch.tensor(alpha))
    return network


def derived(network: CrossLayerEDSR, **options: Any) -> CrossLayerEDSR:
    """The network that a search found, with the supernet's weights."""
    found = network.found()
    small = edsr(found, blocks=len(network.positions), refer_head=network.refer_head, **options)
    assert not small.load_state_dict(
        {key: value for key, value in network.state_dict().items() if not key.startswith(("inserted", "alpha"))},
        strict=False,
    ).unexpected_keys
    with torch.no_grad():
        for position in found:
            whole, part = network.inserted[str(position)], small.inserted[str(position)]
            referred = [*([0] if network.refer_head else []), *range(1, position + 1)]
            left = [referred.index(one) for one in small._referred(position)]
            for name, parameter in whole.query.named_parameters():
                kept = parameter.unflatten(0, (3, len(referred), KEYS))[:, left].flatten(0, 2)
                part.query.get_parameter(name).copy_(kept)
            for own, source in zip(part.value, left, strict=True):
                own.load_state_dict(whole.value[source].state_dict())
            for own, source in zip(part.mask, left, strict=True):
                own.load_state_dict(whole.mask[source].state_dict())
            part.output.load_state_dict(whole.output.state_dict())
    return small


@pytest.mark.parametrize("refer_head", [False, True])
@pytest.mark.parametrize("mask_units", ["per_key", "one"])
@pytest.mark.parametrize("alpha", [[1.0, -1, 0.5, 2], [-1.0, -1, -1, 1], [1.0, 1, 1, 1], [0.0, 3, -0.1, -2]])
def test_a_supernet_in_evaluation_is_the_network_it_found(
    refer_head: bool, mask_units: str, alpha: list[float]
) -> None:
    network = supernet(alpha, refer_head=refer_head, mask_units=mask_units)
    small = derived(network, mask_units=mask_units)
    assert list(small.positions) == network.found() == [n for n, value in enumerate(alpha, start=1) if value >= 0]
    (ours, decided), (expected, routing) = run(network), run(small)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    decisions = dict(zip(network.units, decided.decisions.unbind(1), strict=True))
    for unit, column in zip(small.units, routing.decisions.unbind(1), strict=True):
        torch.testing.assert_close(decisions.pop(unit), column)
    assert not any(column.any() for column in decisions.values()), "what was dropped does nothing"


def test_a_supernet_that_found_nothing_is_the_trunk() -> None:
    network = supernet([-1.0, -1.0])
    assert network.found() == []
    torch.testing.assert_close(run(network)[0], EDSR.forward(network, image(), Task()).map)


def test_a_supernet_knows_its_cost_and_memory() -> None:
    network = supernet([1.0, -1.0, 1.0])
    everything = edsr("all", blocks=3)
    assert network.cost(9, 11) == everything.cost(9, 11)
    assert network.memory(9, 11) == pytest.approx(everything.memory(9, 11), rel=0.1)


def test_gates_are_drawn_in_training_only() -> None:
    network = supernet([2.0, -2.0]).train()
    strengths = [network._gates(image()).strength for _ in range(2)]
    assert not torch.equal(*strengths) and all(0 < value < 1 for one in strengths for value in one.tolist())
    network.eval()
    assert network._gates(image()).strength.tolist() == [1, 0]
    network.train()
    network.gate_temperature = 1e-3
    cold = torch.stack([network._gates(image()).strength for _ in range(4000)]).detach()
    assert ((cold < 1e-2) | (cold > 0.99)).double().mean() > 0.99, "a low temperature decides"
    torch.testing.assert_close((cold > 0.5).float().mean(0), torch.tensor([2.0, -2.0]).sigmoid(), rtol=0, atol=0.035)


def test_a_module_counts_by_its_strength_in_training() -> None:
    """s_j of Eq. 13 and Figure 3; a single map's own presence cancels in the soft-max."""
    network, x = supernet([0.3]).train(), image()
    torch.manual_seed(2)
    ours = network(x, Task()).map
    torch.manual_seed(2)
    strength = network._gates(x).strength
    head = network.head(x)
    y = network.body[0](head)
    attended, _ = network.inserted["1"](y, [y])
    expected = head + network.body[1](y + strength * (attended - y))
    torch.testing.assert_close(ours, expected)
    assert 0.01 < strength < 0.99 and (attended - y).abs().max() > 0.1


@pytest.mark.parametrize("refer_head", [False, True])
def test_alpha_is_reached_by_finite_differences(refer_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the strength of a module and the presence of its layer's map (Eq. 10-11), with the noise held."""
    monkeypatch.setattr(cross_layer, "straight_through", lambda soft: soft)
    network = supernet([0.5, -0.3, 0.2], refer_head=refer_head).double().train()
    x = image(3, 4, batch=1).double()

    def out(alpha: Tensor) -> Tensor:
        torch.manual_seed(11)
        found: Tensor = torch.func.functional_call(network, {"alpha": alpha}, (x, Task())).map
        return found

    alpha = network.alpha.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(out, (alpha,), eps=1e-6, atol=1e-6, rtol=1e-4)
    (gradient,) = torch.autograd.grad(out(alpha).square().sum(), alpha)
    assert (gradient.abs() > 1e-4).all()


def test_searched_cost_is_eq_12_and_13() -> None:
    network = supernet([0.5, -0.3, 0.2], refer_head=True).train()
    routing = network(image(), Task()).routing
    assert routing is not None
    seen = dict(zip(routing.units, routing.decisions.mean(0).tolist(), strict=True))
    n, c, k, total = 99, CHANNELS, KEYS, 0.0
    for j in (1, 2, 3):
        for l in ["head", *range(1, j + 1)]:  # noqa: E741
            s_l = 1.0 if l == "head" else seen[f"layer {l} module"]
            m = seen[f"layer {j} keys@{l}"]
            total += (
                seen[f"layer {j} module"] * s_l * sum(2 * m * n * c**2 + 2 * n * c**2 + 6 * k * n * c for _ in range(k))
            )
    cost = network.searched_cost(routing, 99)
    assert cost.item() == pytest.approx(total, rel=1e-6)
    cost.log().backward()
    assert (network.alpha.grad > 0).all(), "a module more costs more"


def test_eq_12_with_every_gate_open_by_hand() -> None:
    network = supernet([1.0, 1.0])
    ones = torch.ones(3, len(network.units), dtype=torch.double)
    routing = Routing(ones, ones, None, network.units)
    one = KEYS * 10 * (4 * CHANNELS**2 + 6 * KEYS * CHANNELS)
    assert network.searched_cost(routing, 10).item() == pytest.approx(3 * one)
