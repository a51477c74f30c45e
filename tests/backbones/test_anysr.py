"""AnySR: which subnet runs and at what cost, mixed batches, tiles, budgets. Parity: tests/golden/test_whole.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynres.backbones.anysr import AnySR, MeanShift
from dynres.backbones.base import Backbone
from dynres.backbones.dncnn import DnCNN
from dynres.backbones.edsr import EDSR, edsr_baseline
from dynres.backbones.mstb import MultiScaleTransformer
from dynres.backbones.rcan import RCAN
from dynres.backbones.rdn import RDN
from dynres.backbones.swinir import SwinIR
from dynres.backbones.tadt import TADT
from dynres.build import build_restorer, compose_checked, network_description
from dynres.contracts import Routing, Task
from dynres.cost.counter import count_macs
from dynres.cost.memory import peak_on_meta
from tests.golden.fill import oracle

ORACLES = {"anysr_edsr": "anysr_srno_edsr_baseline", "anysr_rdn": "anysr_srno_rdn"}
PARAMETERS = {"anysr_edsr": (1_502_016, 1_220_416), "anysr_rdn": (23_094_208, 21_973_952)}  # with gates, without
# From the authors' code: convolutions a low-resolution pixel; the gates' linear maps an image.
TABLE = {
    "anysr_edsr": [628_416, 849_600, 1_089_216, 1_218_240],
    "anysr_rdn": [19_032_000, 20_045_264, 20_925_008, 21_964_480],
}
GATES = {"anysr_edsr": [139_264, 188_416, 245_760, 278_528], "anysr_rdn": [761_856, 884_736, 991_232, 1_114_112]}
GATED = {"anysr_edsr": 16, "anysr_rdn": 32}  # channels with gates, over those of one slimmed convolution
WIDTHS = {"anysr_edsr": [0.5, 0.7, 0.9, 1.0], "anysr_rdn": [0.7, 0.8, 0.9, 1.0]}

SMALL: dict[str, Callable[[], Backbone]] = {
    "edsr": lambda: EDSR(20, 2, 1.0),
    "rdn": lambda: RDN(6, 20, 2, 4),
    "rcan": lambda: RCAN(16, 2, 1, 2),
    "mstb": lambda: MultiScaleTransformer(16, 2, (4, 8, 16), 16, 4, 1, blocks_per_group=1, out_channels=8),
}
SLIM = {  # a layer that makes fewer channels
    "edsr": "body.1.body.0", "rdn": "RDBs.1.convs.2", "rcan": "body.1.body.0.body.0", "mstb": "groups.1.blocks.0.mlp.0",
}  # fmt: skip


def build(kind: str, **options: Any) -> AnySR:
    """A small network in evaluation mode whose every weight matters, the gates' included."""
    torch.manual_seed(0)
    widths = [0.7, 0.8, 0.9, 1.0] if kind == "rdn" else [0.5, 0.7, 0.9, 1.0]
    given = {"widths": widths, "rule": "official", "mean_shift": kind in ("edsr", "rdn")} | options
    network = AnySR(SMALL[kind](), **given)
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, std=0.4 if "gate" in name else 0.15)
    return network.eval()


@pytest.fixture(params=SMALL)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def network(kind: str) -> AnySR:
    return build(kind)


def on_meta(kind: str, **options: Any) -> AnySR:
    """A network of published size that holds and computes nothing."""
    with torch.device("meta"):
        plain: Backbone = edsr_baseline() if kind == "anysr_edsr" else RDN()
        return AnySR(plain, **{"widths": WIDTHS[kind], "rule": "official", "mean_shift": True} | options).eval()


def images(batch: int = 1, height: int = 7, width: int = 9) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def task(*scales: float, **more: Any) -> Task:
    return Task(torch.tensor(scales), **more)


def stepped(network: AnySR, *steps: int, device: str = "cpu") -> Routing:
    """The decisions of subnets, from 0."""
    rows = [[float(unit < step) for unit in range(len(network.units))] for step in steps]
    decisions = torch.tensor(rows, device=device)
    return Routing(decisions, decisions, None, network.units)


def steps(network: AnySR, given: Task, batch: int | None = None) -> list[int]:
    """Which subnets a task runs."""
    assert given.scale is not None or batch
    image = images(batch or len(given.scale if given.scale is not None else ()))
    return [int(total) for total in network.route(image, given).decisions.sum(1).tolist()]


def macs_of(network: AnySR, height: int, width: int) -> list[int]:
    """By `Cost`: what each subnet spends."""
    cost = network.cost(height, width)
    return [cost.fixed + sum(cost.units[:step]) for step in range(len(network.widths))]


# ------------------------------------------------------------------------------------------------ size and cost


@pytest.mark.parametrize("kind", ORACLES)
def test_configuration_is_the_published_network(kind: str) -> None:
    with torch.device("meta"):
        cfg = compose_checked([f"backbone={kind}", "profile=paper", "method=assr", "upsampler=srno"])
        found = build_restorer(network_description(cfg)).backbone
    assert isinstance(found, AnySR)
    gated, plain = PARAMETERS[kind]
    assert sum(p.numel() for p in found.parameters()) == gated
    assert sum(p.numel() for p in on_meta(kind, enhanced=False).parameters()) == plain
    assert found.widths == WIDTHS[kind] and found.rule == "official"
    assert found.units == tuple(f"width {width:g}" for width in WIDTHS[kind][1:])


@pytest.mark.parametrize("kind", ORACLES)
def test_convolutions_cost_what_the_table_prints(kind: str) -> None:
    """Its convention counts convolutions alone; without gates nothing else runs."""
    assert macs_of(on_meta(kind, enhanced=False), 7, 9) == [63 * macs for macs in TABLE[kind]]


@pytest.mark.parametrize("kind", ORACLES)
def test_gates_add_their_means_and_their_maps(kind: str) -> None:
    """fvcore counts both; "all" leaves out the means (1 a value), so that it is the table and the maps."""
    network, inner = on_meta(kind), [int(64 * width) for width in WIDTHS[kind]]
    each = zip(TABLE[kind], inner, GATES[kind], strict=True)
    assert macs_of(network, 7, 9) == [63 * (macs + GATED[kind] * c) + gates for macs, c, gates in each]
    image = torch.empty(1, 3, 7, 9, device="meta")
    for step in range(4):
        given = Task(routing=stepped(network, step))
        counted = count_macs(lambda given=given: network(image, given), "all")  # type: ignore[misc]
        assert counted == 63 * TABLE[kind][step] + GATES[kind][step]


@pytest.mark.parametrize("enhanced", [True, False])
def test_cost_is_what_the_kernels_that_run_take(kind: str, enhanced: bool) -> None:
    """On real images, by the scale alone: a narrow subnet really runs less."""
    network = build(kind, enhanced=enhanced)
    with torch.no_grad():
        counted = [count_macs(lambda s=s: network(images(1, 11, 6), task(s))) for s in (1.5, 2.0, 3.0, 4.0)]  # type: ignore[misc]
    assert counted == macs_of(network, 11, 6) == sorted(set(counted))


def test_a_batch_that_disagrees_costs_the_sum_of_its_samples(network: AnySR) -> None:
    each = macs_of(network, 7, 9)
    given = task(1.5, 4.0, 2.0, 1.5, 3.0)
    with torch.no_grad():
        counted = count_macs(lambda: network(images(5), given))
    assert counted == 2 * each[0] + each[1] + each[2] + each[3]
    assert network.spent(network.route(images(5), given), 5, [(7, 9)], given).tolist() == [
        each[step] for step in (0, 3, 1, 0, 2)
    ]


@pytest.mark.parametrize("kind", ["edsr", "rdn", "rcan"])
def test_memory_is_that_of_the_whole_network(kind: str) -> None:
    """It is asked on the meta device, where a scale has no value."""
    network = build(kind)
    image = torch.empty(1, 3, 12, 10, device="meta").contiguous(memory_format=torch.channels_last)
    narrow = peak_on_meta(network, 120, image, Task(torch.ones(1, device="meta"), routing=stepped(network, 0)))
    assert network.memory(12, 10) >= narrow > 4 * 120 * 3


# ------------------------------------------------------------------------------------------------ slices


class Weights(TorchFunctionMode):
    """Notes the weight of every convolution and linear map that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (F.conv2d, torch.conv2d, F.linear):
            self.seen.append(args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["edsr", "rdn", "rcan"])
def test_slices_are_views_of_the_weights_and_grow_with_the_width(kind: str) -> None:
    network = build(kind)
    kept, used = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}, []
    for step in range(4):
        with torch.no_grad(), Weights() as weights:
            network(images(), Task(routing=stepped(network, step)))
        assert {weight.untyped_storage().data_ptr() for weight in weights.seen} <= kept
        used.append(sum(weight.numel() for weight in weights.seen))
    assert sorted(set(used)) == used
    assert used[-1] == sum(part.weight.numel() for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize("step", range(4))
def test_training_a_subnet_leaves_the_rest_alone(kind: str, network: AnySR, step: int) -> None:
    """Gradients of its own parameters only; the whole network moves every one."""
    network.train()(images(2), task(2.0, 2.0, routing=stepped(network, step, step))).map.pow(2).sum().backward()
    touched = {name: bool(p.grad is not None and p.grad.ne(0).any()) for name, p in network.named_parameters()}
    assert all(touched.values()), [name for name, some in touched.items() if not some]
    gradient = network.get_parameter(f"network.{SLIM[kind]}.weight").grad
    assert gradient is not None
    inner = int(len(gradient) * network.widths[step])
    assert bool(gradient[:inner].ne(0).any()) and not gradient[inner:].any()


# ------------------------------------------------------------------------------------------------ which subnet

LISTED = [tenths / 10 for tenths in range(11, 41)]


def group(scale: float) -> int:
    """Of a listed scale: 1.1-1.7, 1.8-2.5, 2.6-3.2, 3.3-4.0."""
    return sum(scale > end for end in (1.7, 2.5, 3.2))


def test_listed_scales_run_their_groups_subnet_by_either_rule(network: AnySR) -> None:
    expected = [group(scale) for scale in LISTED]
    assert steps(network, task(*LISTED)) == expected == steps(build("edsr", rule="nearest_group"), task(*LISTED))


@pytest.mark.parametrize("kind", ORACLES)
def test_the_oracles_cases_run_the_width_they_say(kind: str) -> None:
    network = on_meta(kind)
    for case, facts in oracle(ORACLES[kind]).facts["cases"].items():
        given = task(facts["scale"], budget=1.0 if case == "entire_net" else None)
        assert WIDTHS[kind][steps(network, given)[0]] == facts["width"], case


@pytest.mark.parametrize(
    ("scale", "official", "nearest"),
    [
        (1.0, 3, 0), (1.04, 3, 0), (1.74, 3, 0), (1.76, 3, 1), (2.25, 3, 1), (2.54, 3, 1), (2.56, 3, 2), (3.21, 3, 2),
        (3.26, 3, 3), (4.1, 3, 3), (4.5, 3, 3), (6.0, 3, 3), (30.0, 3, 3),
    ],
)  # fmt: skip
def test_other_scales_run_whole_or_as_the_nearest_tenth(scale: float, official: int, nearest: int) -> None:
    assert steps(build("edsr"), task(scale)) == [official]
    assert steps(build("edsr", rule="nearest_group"), task(scale)) == [nearest]


@given(scales=st.lists(st.floats(1, 30, width=32), min_size=2, max_size=6))
def test_a_larger_scale_never_runs_less_by_the_nearest_group(scales: list[float]) -> None:
    network = build("rdn", rule="nearest_group")
    found = steps(network, task(*sorted(scales)))
    assert found == sorted(found)
    assert all(a <= b for a, b in zip(found, steps(build("rdn"), task(*sorted(scales))), strict=True))


def test_the_larger_axis_decides_and_comes_before_scale(network: AnySR) -> None:
    axes = torch.tensor([[1.5, 3.0], [3.0, 1.5], [1.2, 1.7]])
    assert steps(network, Task(torch.full((3,), 4.0), axes=axes)) == [2, 2, 0]


def test_without_a_scale_it_is_1(network: AnySR) -> None:
    assert steps(network, Task(), batch=2) == steps(network, task(1.0, 1.0)) == [3, 3]
    assert torch.equal(network(images(2), Task()).map, network(images(2), task(1.0, 1.0)).map)


def test_odd_tenths_are_told_with_a_minus() -> None:
    """Also above 4; not what lies between tenths."""
    network, scales = build("edsr"), [*LISTED, 1.0, 4.1, 4.5, 5.0, 2.25, 1.35]
    told = network.code(images(len(scales)), task(*scales))
    signs = [-1.0 if round(10 * scale, 6) in range(11, 51, 2) else 1.0 for scale in scales]
    assert told[:, 0].sign().tolist() == signs
    assert torch.equal(told.abs(), torch.tensor(scales)[:, None].expand(-1, 2))


def test_both_axes_are_told_with_the_sign_of_the_larger() -> None:
    told = build("rdn").code(images(2), Task(axes=torch.tensor([[2.0, 3.1], [1.9, 1.3]])))
    assert torch.equal(told, -torch.tensor([[2.0, 3.1], [1.9, 1.3]]))


def test_the_nearest_group_is_told_the_nearest_tenth() -> None:
    network = build("edsr", rule="nearest_group")
    told = network.code(images(3), task(2.25, 2.24, 4.52))
    torch.testing.assert_close(told[:, 0], torch.tensor([2.2, 2.2, -4.5]), rtol=1e-6, atol=0)
    with torch.no_grad():
        assert torch.equal(network(images(1), task(2.25)).map, network(images(1), task(2.2)).map)


def test_the_features_know_the_scale_within_a_group_if_enhanced() -> None:
    for enhanced in (True, False):
        network = build("rdn", enhanced=enhanced)
        with torch.no_grad():
            one, other = (network(images(), task(scale)).map for scale in (1.8, 2.4))
        assert torch.equal(one, other) != enhanced


# ------------------------------------------------------------------------------------------------ budget


LASTING = {kind: build(kind) for kind in SMALL}  # for tests that change nothing


@given(
    kind=st.sampled_from(sorted(SMALL)),
    budget=st.floats(0.01, 1),
    scale=st.floats(1, 5, width=32),
    size=st.sampled_from([(1, 1), (7, 9), (50, 33)]),
)
def test_a_budget_runs_the_widest_subnet_that_fits_whatever_the_scale(
    kind: str, budget: float, scale: float, size: tuple[int, int]
) -> None:
    network, given = LASTING[kind], task(scale, scale, budget=budget)
    (found, same) = network.route(torch.empty(2, 3, *size), given).decisions.sum(1).tolist()
    each = macs_of(network, *size)
    fitting = [step for step, macs in enumerate(each) if macs <= budget * each[-1] * (1 + 1e-9)]
    assert found == same == max(fitting, default=0)


def test_a_larger_budget_never_runs_less(network: AnySR) -> None:
    found = [steps(network, task(2.0, budget=budget))[0] for budget in torch.linspace(0.5, 1, 200).tolist()]
    assert found == sorted(found) and set(found) == {0, 1, 2, 3}


def test_the_share_of_a_subnet_is_a_budget_that_runs_it(network: AnySR) -> None:
    each = macs_of(network, 7, 9)
    assert [steps(network, task(1.5, budget=macs / each[-1]))[0] for macs in each] == [0, 1, 2, 3]


def test_a_budget_of_1_runs_the_whole_network_which_is_still_told_the_scale(network: AnySR) -> None:
    with torch.no_grad():
        whole = network(images(), task(1.5, budget=1.0))
        same = network(images(), task(1.5, routing=stepped(network, 3)))
        narrow, other = network(images(), task(1.5)), network(images(), task(4.0))
    assert torch.equal(whole.map, same.map) and bool((whole.routing.decisions == 1).all())
    assert not torch.equal(whole.map, narrow.map) and not torch.equal(whole.map, other.map)


# ------------------------------------------------------------------------------------------------ batches


@settings(max_examples=15, deadline=None)
@given(scales=st.lists(st.sampled_from([1.0, 1.3, 1.7, 2.0, 2.4, 2.9, 3.6, 6.0]), min_size=2, max_size=5))
def test_a_sample_alone_equals_the_sample_in_a_mixed_batch(scales: list[float]) -> None:
    for network in LASTING.values():
        batch = images(len(scales))
        with torch.no_grad():
            together = network(batch, task(*scales))
            for row, scale in enumerate(scales):
                alone = network(batch[row : row + 1], task(scale))
                assert torch.equal(alone.routing.decisions[0], together.routing.decisions[row])
                error = (alone.map[0] - together.map[row]).abs().max() / alone.map.abs().max()
                assert error < 1e-5, f"sample {row} differs by {error:.2g}"


def test_gradients_of_a_mixed_batch_are_the_sum_of_its_samples() -> None:
    network, batch, scales = build("edsr").train().double(), images(3).double(), (1.5, 4.0, 2.0)

    def gradient(rows: Sequence[int]) -> Tensor:
        network.zero_grad()
        network(batch[list(rows)], task(*(scales[row] for row in rows))).map.pow(2).sum().backward()
        found = network.get_parameter("network.body.0.body.0.weight").grad
        assert found is not None
        return found.clone()

    torch.testing.assert_close(gradient([0, 1, 2]), sum((gradient([row]) for row in range(3)), torch.tensor(0.0)))


def test_decisions_that_are_given_are_followed(network: AnySR) -> None:
    given = stepped(network, 0, 2)
    with torch.no_grad():
        features = network(images(2), task(4.0, 4.0, routing=given))
        narrow = network(images(2)[:1], task(4.0, routing=stepped(network, 0))).map
    assert features.routing is given
    torch.testing.assert_close(features.map[:1], narrow, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------ any network


@pytest.mark.parametrize("kind", SMALL)
def test_the_whole_network_without_gates_is_the_plain_one(kind: str) -> None:
    """By the same names, so that a plain checkpoint fits."""
    torch.manual_seed(0)
    plain = SMALL[kind]().eval()
    slimmed = AnySR(copy.deepcopy(plain), enhanced=False).eval()
    assert slimmed.network.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        expected, whole = plain(images(), Task()).map, slimmed(images(), task(4.0))
        narrow = slimmed(images(), task(1.5)).map
    torch.testing.assert_close(whole.map, expected, rtol=0, atol=1e-6)
    assert torch.equal(whole.image, images()) and not torch.allclose(narrow, expected)


def test_it_slims_any_network_of_residual_blocks_or_mlps() -> None:
    """One that no line of AnySR names."""
    swinir = SwinIR(embed_dim=16, depths=[1, 1], heads=2, out_channels=8)
    assert (
        AnySR(swinir).shares(16, 16)[0]
        < 0.95
        < AnySR(SwinIR(16, [1], 2, 8), widths=[0.9, 1], scale_groups=[2]).shares(16, 16)[0]
    )


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (lambda: DnCNN(8, 3), "AnySR cannot slim DnCNN: it has no such residual blocks or MLPs; take edsr_baseline"),
        (lambda: TADT(channels=16, groups=1), "AnySR cannot slim TADT: it decides by itself what runs"),
        (lambda: AnySR(EDSR(8, 1, 1.0)), "AnySR cannot slim AnySR: it decides by itself what runs"),
        (lambda: None, "AnySR needs a network inside, such as edsr_baseline's, got None"),
    ],
)
def test_what_cannot_be_slimmed_is_refused(plain: Callable[[], Backbone], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AnySR(plain())


def test_a_copy_runs_its_own_subnet(network: AnySR) -> None:
    """As the moving average of weights keeps one beside the network that trains."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        expected = network(images(), task(1.5)).map
        other(images(), task(4.0))
        other.subnet.step = 3
        assert torch.equal(network(images(), task(1.5)).map, expected)
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(network(images(), task(1.5)).map, expected)


# ------------------------------------------------------------------------------------------------ mean shift


def test_the_mean_shift_is_a_convolution_of_one_pixel_and_keeps_the_memory_format() -> None:
    shift, image = MeanShift(), images(2).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(shift(image), image - torch.tensor([0.4488, 0.4371, 0.4040])[:, None, None])
    shift.load_state_dict({"weight": torch.randn(3, 3, 1, 1), "bias": torch.randn(3)})
    found = shift(image)
    torch.testing.assert_close(found, F.conv2d(image, shift.weight, shift.bias))
    assert found.is_contiguous(memory_format=torch.channels_last) and not list(shift.parameters())


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [0.5, 0.4, 0.9, 1]}, r"AnySR needs two widths or more .*, got \[0\.5, 0\.4, 0\.9, 1\]"),
        ({"widths": [0.5, 0.7, 0.8, 0.9]}, "to 1, got"),
        ({"widths": [0.0, 0.7, 0.8, 1.0]}, "from above 0"),
        ({"widths": [1.0], "scale_groups": []}, "two widths or more"),
        ({"widths": [0.01, 0.7, 0.9, 1.0]}, r"no channel is left at width 0\.01 of 20"),
        ({"scale_groups": [1.7, 2.5]}, r"one fewer than its 4 widths, got \[1\.7, 2\.5\]"),
        ({"scale_groups": [1.7, 1.7, 3.0]}, "scale_groups above 1 that rise by tenths"),
        ({"scale_groups": [1.7, 1.72, 3.0]}, "scale_groups above 1 that rise by tenths"),
        ({"widths": 0.5}, r"widths must be a list of numbers, such as \[0\.5, 1\.0\], got 0\.5"),
        ({"scale_groups": [1.7, "abc", 3.0]}, "scale_groups must be a list of numbers"),
        ({"rule": "nearest"}, "rule must be one of official, nearest_group, got 'nearest'"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("edsr", **options)


@pytest.mark.parametrize("row", [[0.0, 1.0, 0.0], [1.0, 0.5, 0.0]])
def test_decisions_that_are_no_subnet_are_refused(row: list[float]) -> None:
    decisions = torch.tensor([row])
    with pytest.raises(ValueError, match=r"steps from its smallest subnet on, such as 1, 1, 0, got \[\["):
        build("edsr")(images(), task(2.0, routing=Routing(decisions, decisions, None, ())))
