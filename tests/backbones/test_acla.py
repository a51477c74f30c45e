"""EDSR and RCAN with attention over earlier layers: where modules stand, what they decide, what a budget buys."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.backbones.acla import CrossLayer, CrossLayerEDSR, CrossLayerRCAN, resolved
from dynres.backbones.edsr import EDSR
from dynres.backbones.rcan import RCAN
from dynres.contracts import Routing, Task
from dynres.cost.counter import count_macs
from dynres.layers import cross_layer
from dynres.layers.cross_layer import CrossLayerAttention
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle

CHANNELS, KEYS = 8, 4
ATTENTIONS = ["acla", "cla", "nonlocal", "clnl", "mha", "se"]


def edsr(positions: Any = (1, 3, 4), blocks: int = 4, **options: Any) -> CrossLayerEDSR:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"keys": KEYS, "reduction": 4, "heads": 2, **options}
    return trained(CrossLayerEDSR(CHANNELS, blocks, 1.0, positions, **chosen))


def rcan(positions: Any = (1, 2), **options: Any) -> CrossLayerRCAN:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"keys": KEYS, "reduction": 4, "heads": 2, **options}
    return trained(CrossLayerRCAN(positions, CHANNELS, 2, 1, **chosen))


def trained(network: Any) -> Any:
    """With modules that do something: keys between pixels, of which about half are left out."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("inserted."):
                parameter.normal_(0, 0.4)
            if name.endswith("conv_du.0.bias"):
                parameter.fill_(1.0)  # no narrow squeeze is dead
        hooks = [module.register_forward_pre_hook(halved) for module in network.inserted.values()]
        network.eval()(image(channels=network.image_channels), Task())
        for hook in hooks:
            hook.remove()
    return network


def halved(module: Any, args: Any) -> None:
    """Move the biases of mask units to where half of the pixels have a mask of 1."""
    for unit, one in zip(getattr(module, "mask", None) or (), args[1] if len(args) > 1 else (), strict=False):
        unit.bias.sub_(unit(one).transpose(0, 1).flatten(1).median(dim=1).values)


def image(height: int = 9, width: int = 11, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(height * width))


def run(network: CrossLayer, x: Tensor | None = None, task: Task | None = None) -> tuple[Tensor, Routing]:
    with torch.no_grad():
        features = network(image() if x is None else x, task or Task())
    assert features.routing is not None
    return features.map, features.routing


# ------------------------------------------------------------------------------------------------ where modules stand


@pytest.mark.parametrize(
    ("given_positions", "layers", "found"),
    [
        ([3, 12, 26, 31, 32], 32, (3, 12, 26, 31, 32)),
        ((2, 1), 4, (1, 2)),
        ([], 4, ()),
        (4, 32, (8, 16, 24, 32)),
        (1, 10, (10,)),
        (3, 3, (1, 2, 3)),
        (2, 5, (2, 5)),
        ("all", 3, (1, 2, 3)),
    ],
)
def test_positions_are_resolved(given_positions: Any, layers: int, found: tuple[int, ...]) -> None:
    assert resolved(given_positions, layers) == found


@pytest.mark.parametrize("wrong", [0, 5, -1, True, 1.5, "some", "2", None, [0], [5], [1, 1], [True], [1.0], ["1"]])
def test_positions_that_cannot_be_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"positions must be different layers from 1 to 4.*got"):
        resolved(wrong, 4)


@given(layers=st.integers(1, 40), data=st.data())
def test_so_many_modules_stand_evenly_and_one_after_the_last_layer(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, layers))
    found = resolved(count, layers)
    steps = [after - before for before, after in zip((0, *found), found, strict=False)]
    assert len(set(found)) == count and found[-1] == layers and max(steps) - min(steps) <= 1


@pytest.mark.parametrize("refer_head", [False, True])
def test_a_module_refers_to_earlier_layers_with_modules_and_to_its_own(refer_head: bool) -> None:
    network = edsr([4, 1, 3], refer_head=refer_head)
    head = ["head"] if refer_head else []
    expected = {1: [*head, "1"], 3: [*head, "1", "3"], 4: [*head, "1", "3", "4"]}
    assert network.positions == (1, 3, 4)
    names = []
    for position, referred in expected.items():
        assert network.inserted[str(position)].maps == len(referred)
        names += [f"layer {position} module", *(f"layer {position} keys@{other}" for other in referred)]
    assert list(network.units) == names and run(network)[1].units == network.units


@pytest.mark.parametrize("refer_head", [False, True])
def test_forward_is_the_trunk_with_modules_between(refer_head: bool) -> None:
    """Modules are handed the outputs of layers before the modules there, and hand theirs to the next layer."""
    network, x = edsr(refer_head=refer_head), image()
    with torch.no_grad():
        head = network.head(x)
        y, maps = head, [head] if refer_head else []
        for number, block in enumerate(list(network.body)[:-1], start=1):
            y = block(y)
            if number in (1, 3, 4):
                maps.append(y)
                y, _ = network.inserted[str(number)](y, list(maps))
        expected = head + network.body[-1](y)
    torch.testing.assert_close(run(network, x)[0], expected)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("trunk", ["edsr", "rcan"])
def test_new_modules_leave_the_trunk_as_it_was(attention: Any, trunk: str) -> None:
    options: dict[str, Any] = {"attention": attention, "keys": KEYS, "reduction": 4, "heads": 2}
    network: CrossLayer
    if trunk == "edsr":
        network, plain = CrossLayerEDSR(CHANNELS, 2, 1.0, "all", **options), EDSR(CHANNELS, 2, 1.0)
    else:
        network, plain = CrossLayerRCAN("all", CHANNELS, 2, 1, **options), RCAN(CHANNELS, 2, 1, 4)
    found = plain.load_state_dict(network.state_dict(), strict=False)
    assert not found.missing_keys and all(key.startswith("inserted.") for key in found.unexpected_keys)
    with torch.no_grad():
        ours, theirs = network.eval()(image(), Task()).map, plain(image(), Task()).map
    assert torch.equal(ours, theirs) != (attention == "se"), "squeeze and excitation begins at no identity"


@pytest.mark.parametrize("then_se", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("build", [edsr, rcan])
def test_every_attention_runs_forward_and_backward(build: Any, attention: str, then_se: bool) -> None:
    network = build("all", attention=attention, then_se=then_se).train()
    features = network(image(), Task())
    assert features.map.shape == (2, CHANNELS, 9, 11) and features.map.isfinite().all()
    assert (features.routing is not None) == (attention == "acla") == bool(network.units)
    features.map.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert name.endswith(".bias") or parameter.grad.abs().sum() > 0, name
    network.eval()
    with torch.no_grad():
        assert network(image(5, 3), Task()).map.shape == (2, CHANNELS, 5, 3)
        whole = network(image(), Task()).map
        for sample, alone in zip(whole, (network(image()[n : n + 1], Task()).map for n in (0, 1)), strict=True):
            torch.testing.assert_close(sample[None], alone, rtol=1e-4, atol=1e-5)


def test_gray_images_on_edsr() -> None:
    assert edsr(image_channels=1)(image(6, 5, channels=1), Task()).map.shape == (2, CHANNELS, 6, 5)


# ------------------------------------------------------------------------------------------------ decisions and costs


@pytest.mark.parametrize("refer_head", [False, True])
@pytest.mark.parametrize("build", [edsr, rcan])
def test_decisions_are_shares_of_kept_keys(build: Any, refer_head: bool) -> None:
    network = build(refer_head=refer_head)
    seen: list[Tensor] = []
    for position in network.positions:
        network.inserted[str(position)].register_forward_hook(
            lambda module, args, result: seen.append(result[1].kept.unflatten(2, (module.maps, KEYS)))
        )
    _, routing = run(network)
    expected = []
    for kept in seen:
        expected += [torch.ones(2, dtype=torch.double), *kept.double().mean((1, 3)).unbind(1)]
    torch.testing.assert_close(routing.decisions, torch.stack(expected, dim=1))
    shares = routing.decisions[:, [number for number, unit in enumerate(network.units) if "keys" in unit]]
    assert 0.05 < shares.min() < shares.max() < 0.95, "masks are mixed"


@pytest.mark.parametrize("size", [(9, 11), (1, 5), (16, 7)])
@pytest.mark.parametrize("options", [{}, {"refer_head": True}, {"mask_units": "one"}, {"then_se": True}])
@pytest.mark.parametrize("build", [edsr, rcan])
def test_cost_formula_is_what_the_dispatcher_counts(build: Any, options: dict[str, Any], size: tuple[int, int]) -> None:
    network, x = build(**options), image(*size, batch=1)
    routing = run(network, x)[1]
    counted = count_macs(lambda: network(x, Task()))
    assert network.spent(routing, 1, [size], Task()).tolist() == pytest.approx([counted], rel=1e-12)
    assert counted < network.cost(*size).full
    with torch.no_grad():
        for name, parameter in network.inserted.named_parameters():
            if ".mask." in name and name.endswith("bias"):
                parameter.fill_(100.0)
    assert network.cost(*size).full == count_macs(lambda: network(x, Task()))


@pytest.mark.parametrize("attention", [a for a in ATTENTIONS if a != "acla"])
def test_cost_of_the_others_is_what_the_dispatcher_counts(attention: str) -> None:
    network, x = edsr(attention=attention), image(batch=1)
    assert network.cost(9, 11).full == count_macs(lambda: network(x, Task()))


def restorer(network: CrossLayer) -> Restorer:
    return Restorer(network, PixelShuffle(CHANNELS, 2)).eval()


@pytest.mark.parametrize("build", [edsr, rcan])
def test_a_budget_is_kept_whenever_it_can_be(build: Any) -> None:
    """By the dispatcher's count of the backbone, too."""
    network, x = build(), image(batch=1)
    whole = restorer(network)
    cost = network.cost(9, 11)
    least = cost.fixed / cost.full
    free = whole.restore(x).macs.item() / cost.full
    spent = []
    for budget in [*torch.linspace(0.98 * least, 1, 23).tolist(), least + 1e-9]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = whole.restore(x, budget=budget)
        spent.append((budget, found.macs.item() / cost.full))
        assert (spent[-1][1] <= budget + 1e-12) == (budget >= least), spent[-1]
        assert ["cannot be met" in str(one.message) for one in told] == ([] if budget >= least else [True])
    shares = [share for _, share in sorted(spent)]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(free), "a larger budget never buys less"
    assert shares[0] == pytest.approx(least)
    paying = [(budget, share) for budget, share in spent if least + 0.1 < budget < free]
    assert any(share > budget - 0.02 for budget, share in paying), "a budget is used"


def test_a_budget_leaves_out_the_last_modules_first_and_in_the_end_all() -> None:
    network, x = edsr(), image()
    cost = network.cost(9, 11)
    convolutions = [macs for name, macs in zip(network.units, cost.units, strict=True) if name.endswith("module")]
    with torch.no_grad():
        y = head = network.head(x)
        for number, block in enumerate(list(network.body)[:-1], start=1):
            y = block(y)
            if str(number) in network.inserted:
                y = y + network.inserted[str(number)].output.bias[:, None, None]
        bare = head + network.body[-1](y)
    below, routing = run(network, x, Task(budget=(cost.fixed + convolutions[0] - 1) / cost.full))
    torch.testing.assert_close(below, bare)
    assert not routing.decisions.any()
    for count in (1, 2, 3):
        just = (cost.fixed + sum(convolutions[:count]) + 1e-3) / cost.full
        _, routing = run(network, x, Task(budget=just))
        on = [routing.decisions[0, n].item() for n, unit in enumerate(network.units) if unit.endswith("module")]
        assert on == [1.0] * count + [0.0] * (3 - count)
        assert sum(routing.decisions[0].tolist()) == count, "no key is paid for"


def test_a_budget_of_everything_changes_nothing_and_others_ignore_it() -> None:
    network, x = edsr(), image()
    assert torch.equal(run(network, x, Task(budget=1.0))[0], run(network, x)[0])
    with torch.no_grad():
        plain = edsr(attention="cla")
        assert torch.equal(plain(x, Task(budget=0.1)).map, plain(x, Task()).map)


def test_no_positions_are_the_trunk() -> None:
    network, x = edsr([]), image()
    with torch.no_grad():
        for budget in (None, 0.5):
            features = network(x, Task(budget=budget))
            assert features.routing is None and torch.equal(features.map, EDSR.forward(network, x, Task()).map)
    assert network.cost(9, 11).units == ()


def test_what_tiles_spend_is_what_was_run() -> None:
    network, x = edsr(), image(40, 26, batch=1)
    network.halo = 2
    ran: list[float] = []

    def count(module: Any, args: Any, features: Any) -> None:
        if not args[0].is_meta:  # not one that is being counted
            ran.append(module.spent(features.routing, 1, [args[0].shape[-2:]], Task()).item())

    hook = network.register_forward_hook(count)
    found = restorer(network).restore(x, tile=26)
    hook.remove()
    assert len(ran) > 1 and found.macs.item() == pytest.approx(sum(ran))
    assert found.routing is not None and found.routing.units == network.units


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = edsr(), image()
    whole, decided = run(network, x)
    monkeypatch.setattr(cross_layer, "CORNERS_AT_ONCE", 100)
    pieces, same = run(network, x)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(decided.decisions, same.decisions)


@pytest.mark.parametrize("build", [edsr, rcan])
def test_bfloat16_is_close(build: Any) -> None:
    whole, x = restorer(build()), image()
    exact, ours = whole.restore(x), whole.restore(x, precision="bf16")
    assert (exact.image - ours.image).abs().max() < 0.05
    assert exact.routing is not None and ours.routing is not None
    torch.testing.assert_close(ours.routing.decisions, exact.routing.decisions, rtol=0, atol=0.05)


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "local"}, "attention must be one of acla, cla, nonlocal, clnl, mha, se, got 'local'"),
        ({"searched": True}, "searched=true needs attention=acla and positions=all"),
        ({"searched": True, "positions": "all", "attention": "cla"}, "searched=true needs attention=acla"),
        ({"keys": 0}, "keys of at least 1, got 0"),
        ({"mask_units": "two"}, "mask_units must be one of per_key"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"attention": "mha", "heads": 0}, "heads of at least 1, got 0"),
        ({"attention": "mha", "heads": 3}, "heads that divide channels=8, got 3"),
        ({"positions": [5]}, "positions must be different layers from 1 to 4"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edsr(**options)


def test_networks_can_be_copied() -> None:
    network = edsr()
    assert torch.equal(run(copy.deepcopy(network))[0], run(network)[0])
    assert isinstance(network.inserted["1"], CrossLayerAttention) and isinstance(network.inserted, nn.ModuleDict)
