"""FlexIR: SwinIR at full size, a network of its own at every pointer, and regions that leave when they may."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from dynres.backbones.flexir import BASES, FlexIR
from dynres.backbones.swinir import SwinIR
from dynres.contracts import Exit, Features, RegionDepths, Routing, Task
from dynres.cost.counter import count_macs
from dynres.layers.regions import Box, cut, join
from dynres.layers.sampling import bicubic_grid
from dynres.layers.sharpness import sharpness

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
SMALL: dict[str, Any] = {"embed_dim": 8, "depths": (2, 1, 2), "heads": 2, "window": 4, "overlap": 4}
INF = math.inf


def small(**options: Any) -> FlexIR:
    """With weights large enough for every block to matter."""
    torch.manual_seed(0)
    network = FlexIR(**(SMALL | options)).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def run(network: FlexIR, image: Tensor, budget: float | None = None, **exit: Any) -> Features:
    with torch.no_grad():
        return network(image, Task(budget=budget, exit=Exit(**exit)))


def depths(features: Features) -> Tensor:
    assert features.routing is not None and features.routing.regions is not None
    return features.routing.regions.depths


def images(channels: int = 3, batch: int = 2) -> Tensor:
    """Half of each is nearly flat, so that its regions differ."""
    image = torch.randn(batch, channels, 21, 34, generator=torch.Generator().manual_seed(1))
    image[..., 17:] *= 0.05
    return image


# ------------------------------------------------------------------------------------------------ pointers


@pytest.mark.parametrize("options", [{}, {"scale": 2}, {"scale": 4, "skip": True}, {"image_channels": 1}])
@pytest.mark.parametrize("pointer", [1, 2, 3])
def test_a_pointer_is_the_truncated_network_and_deeper_blocks_do_not_run(pointer: int, options: dict[str, Any]) -> None:
    network, image = small(**options), images(options.get("image_channels", 3))
    expected = run(network.truncated(pointer), image).map
    assert torch.equal(run(network, image, pointer=pointer).map, expected)
    for number, (block, branch) in enumerate(zip(network.layers, network.branches, strict=True), 1):
        for parameter in [*branch.parameters()] * (number != pointer) + [*block.parameters()] * (number > pointer):
            nn.init.constant_(parameter, math.nan)
    assert torch.equal(run(network, image, pointer=pointer).map, expected)


def test_results_of_the_exits_are_those_of_the_pointers_and_come_one_by_one() -> None:
    network, image = small(), images()
    for parameter in network.layers[2].parameters():
        nn.init.constant_(parameter, math.nan)
    with torch.no_grad():
        for at in network.exits(image, upto=2):
            torch.testing.assert_close(at.colours, run(network, image, pointer=at.number).map)
            assert torch.equal(at.features, network.body(image, at.number))
            assert at.features.shape == (2, 8, 24, 36) and at.features.isfinite().all()
        assert at.number == 2
        assert [exit.number for exit in network.truncated(2).exits(image)] == [2]


def test_a_loss_on_a_detached_exit_teaches_its_own_block_alone() -> None:
    network, image = small(), images()
    for at in network.exits(image, detach=True):
        network.zero_grad()
        (at.colours.square().mean() + at.features.square().mean()).backward()
        taught = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        own = (f"layers.{at.number - 1}.", f"branches.{at.number - 1}.")
        entry = ("conv_first.", "patch_norm.") if at.number == 1 else ()
        assert taught == {name for name, _ in network.named_parameters() if name.startswith((*own, *entry))}


def test_attached_exits_teach_all_that_came_before() -> None:
    network = small()
    *_, last = network.exits(images())
    last.colours.square().mean().backward()
    still = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is None}
    assert still == {"0", "1"}, "all but the branches of blocks 1 and 2"


def test_training_runs_everything_on_the_whole_image() -> None:
    network = small(drop_path=0.0)
    expected = network(images(), Task())
    trained = network.train()(images(), Task())
    torch.testing.assert_close(trained.map, expected.map)
    assert trained.map.requires_grad and depths(trained).tolist() == [[3], [3]]


# ------------------------------------------------------------------------------------------------ adaptive inference


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("regions", [1, 4])
def test_infinite_thresholds_are_the_first_and_the_last_block(base: Any, regions: int) -> None:
    network, image = small(threshold_base=base), images()
    for black in (image, torch.zeros_like(image)):  # which scores 0 before it is restored
        for threshold, pointer in ((-INF, 1), (INF, 3)):
            adaptive = run(network, black, threshold=threshold, regions=regions)
            torch.testing.assert_close(adaptive.map, run(network, black, pointer=pointer, regions=regions).map)
            assert (depths(adaptive) == pointer).all()
    assert (depths(run(network, image, threshold=INF, pointer=2, regions=regions)) == 2).all()


def by_hand(network: FlexIR, part: Tensor, threshold: float, pointer: int) -> tuple[Tensor, int]:
    """Algorithm 2 for one region (1, c, h, w), from the results of all blocks: its colours and depth."""
    with torch.no_grad():
        results = [exit.colours for exit in network.exits(part)]
    scores = [sharpness(result).item() for result in results]
    for number in range(1, pointer + 1):
        base = {
            "first": scores[0],
            "previous": scores[max(number - 2, 0)],
            "input": sharpness(part).item(),
            "absolute": (network.pixel_factor / 255) ** 0.61,
        }[network.threshold_base]
        if scores[number - 1] > threshold * base or number == pointer:
            return results[number - 1], number
    raise AssertionError("the last block was passed")


@pytest.mark.parametrize("at_once", [None, 3])
@pytest.mark.parametrize(
    ("options", "threshold"),
    [({}, 1.02), ({"threshold_base": "previous"}, 1.02), ({"threshold_base": "input"}, 4.0),
     ({"threshold_base": "absolute", "pixel_factor": 2.0}, 80.0), ({"scale": 2}, 1.02)],
)  # fmt: skip
def test_regions_of_a_batch_leave_as_each_would_alone(
    options: dict[str, Any], threshold: float, at_once: int | None
) -> None:
    network, image = small(**options).double(), images().double()
    found = run(network, image, threshold=threshold, regions=6, at_once=at_once)
    assert found.routing is not None and found.routing.regions is not None
    boxes = [Box(*box) for box in found.routing.regions.boxes]
    alone = [by_hand(network, part[None], threshold, 3) for part in cut(image, boxes)]
    assert depths(found).flatten().tolist() == [depth for _, depth in alone]
    assert len(depths(found).unique()) > 1, "all regions left together: the test shows little"
    expected = join(torch.cat([colours for colours, _ in alone]), boxes, network.scale)
    torch.testing.assert_close(found.map, expected, rtol=1e-9, atol=1e-9)


def test_the_routing_says_which_share_of_the_regions_each_block_ran_on() -> None:
    found = run(small(), images(), threshold=1.02, regions=6)
    routing = found.routing
    assert routing is not None and routing.units == ("block 1", "block 2", "block 3")
    assert routing.intensity is None and torch.equal(routing.probabilities, routing.decisions)
    for unit in range(3):
        torch.testing.assert_close(routing.decisions[:, unit], (depths(found) > unit).float().mean(dim=1))
    assert torch.equal(run(small(), images(), pointer=2).routing.decisions, torch.tensor([[1.0, 1, 0]] * 2))  # type: ignore[union-attr]


def test_a_region_is_the_whole_image_and_regular_regions_are_restored_alone() -> None:
    network, image = small().double(), images().double()
    with torch.no_grad():
        assert torch.equal(run(network, image, regions=1).map, network(image, Task()).map)
    found = run(network, image, pointer=2, regions=4, at_once=3)
    assert found.routing is not None and found.routing.regions is not None
    boxes = [Box(*box) for box in found.routing.regions.boxes]
    parts = [run(network, part[None], pointer=2).map for part in cut(image, boxes)]
    torch.testing.assert_close(found.map, join(torch.cat(parts), boxes))


def test_too_many_regions_are_fewer_and_it_says_so_once() -> None:
    with pytest.warns(UserWarning, match="9x10 pixels is cut into 4 regions instead of 50") as told:
        found = run(small(), torch.rand(1, 3, 9, 10), regions=50)
    assert len(told) == 1 and depths(found).shape == (1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(small(), images(), regions=4)


@pytest.mark.parametrize("exit", [Exit(), Exit(pointer=2, regions=4)])
def test_regular_inference_can_be_exported(exit: Exit) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small()

        def forward(self, image: Tensor) -> Tensor:
            return self.network(image, Task(exit=exit)).map

    fixed = Fixed()
    with torch.no_grad():
        program = torch.export.export(fixed, (torch.zeros(2, 3, 21, 34),), strict=False)
        torch.testing.assert_close(program.module()(images()), fixed(images()))


# ------------------------------------------------------------------------------------------------ cost and budget


@settings(max_examples=12)
@given(
    st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 6), st.sampled_from([None, 0.98, 1.02, INF]),
    st.integers(6, 30), st.integers(6, 30),
)  # fmt: skip
def test_macs_spent_are_the_kernels_that_ran(
    scale: int, pointer: int, regions: int, threshold: float | None, height: int, width: int
) -> None:
    network, image = small(scale=scale, overlap=2), torch.randn(2, 3, height, width)
    task = Task(exit=Exit(pointer, threshold, regions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ran = count_macs(lambda: network(image, task))
        with torch.no_grad():
            routing = network(image, task).routing
    spent = network.spent(routing, 2, network.region_sizes(height, width, task), task)
    assert spent.dtype == torch.float64 and spent.sum().item() == ran


def test_the_full_cost_is_that_of_swinir() -> None:
    with torch.device("meta"):
        flexible, fixed = FlexIR(), SwinIR(out_channels=None)
    assert flexible.cost(9, 23).full == fixed.cost(9, 23).full + 9 * 180 * 3 * 16 * 24
    assert len(flexible.cost(9, 23).units) == 6


def test_a_budget_moves_the_pointer_as_deep_as_the_regions_allow() -> None:
    network, image = small(), images()
    full = network.cost(21, 34).full
    for regions in (1, 4):
        for threshold in (None, INF):
            for budget in (0.01, 0.4, 0.7, 0.9, 1.0):
                found = run(network, image, budget, regions=regions, threshold=threshold)
                reached = int(depths(found)[0, 0])
                least = {}
                for pointer in (1, 2, 3):
                    task = Task(exit=Exit(pointer, threshold, regions))
                    routing = run(network, image, pointer=pointer, regions=regions, threshold=threshold).routing
                    least[pointer] = network.spent(routing, 2, network.region_sizes(21, 34, task), task)[0].item()
                assert reached == max((p for p, macs in least.items() if macs <= budget * full), default=1)
    assert (depths(run(network, image, 1.0)) == 3).all()


def test_a_calibrated_network_turns_a_budget_into_a_threshold() -> None:
    network = small(calibration=[[0.5, 0.9], [0.7, 1.0], [0.9, 1.2], [1.1, INF]])
    image = images()
    for budget, threshold in ((0.3, -INF), (0.5, 0.9), (0.6, 0.9), (0.85, 1.0), (0.9, 1.2), (1.0, 1.2)):
        expected = run(network, image, threshold=threshold, regions=4)
        found = run(network, image, budget, threshold="auto", regions=4)
        assert torch.equal(depths(found), depths(expected)) and torch.equal(found.map, expected.map)
        assert network._calibrated(budget) == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("asked", "budget", "message"),
    [
        ({"pointer": 4}, None, "pointer must be from 1 to 3 for this network, got 4"),
        ({"pointer": 0, "threshold": 1.0}, None, "got 0"),
        ({"pointer": 1.5}, None, "got 1.5"),
        ({"threshold": math.nan}, None, "threshold must be a number or auto, got nan"),
        ({"threshold": "best"}, None, "a number or auto, got best"),
        ({"threshold": "auto"}, None, "threshold=auto takes the threshold for a budget"),
        ({"threshold": "auto"}, 0.5, "python -m dynres.calibrate"),
        ({"pointer": 2}, 0.5, "give a budget or a pointer, not both: got budget=0.5 and pointer=2"),
        ({"regions": 0}, None, "regions must be at least 1, got 0"),
        ({"at_once": 0}, None, "at_once must be at least 1 region, got 0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(asked: dict[str, Any], budget: float | None, message: str) -> None:
    network = small()
    with pytest.raises(ValueError, match=message):
        run(network, images(), budget, **asked)
    with pytest.raises(ValueError, match=message):
        network.check_exit(Exit(**asked), budget)


def test_what_can_be_passes_the_check_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for regions in range(1, 8):
            small(overlap=16).check_exit(Exit(2, 1.1, regions), None)


# ------------------------------------------------------------------------------------------------ the network


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({}, [2_161_263, 4_020_123, 5_878_983, 7_737_843, 9_596_703, 11_455_563]),
        (
            {"image_channels": 1, "window": 7},
            [2_154_781, 4_013_641, 5_872_501, 7_731_361, 9_590_221, 11_449_081],
        ),
    ],
    ids=["colour noise", "gray artifacts"],
)
def test_parameters_by_pointer_are_the_published_ones(options: dict[str, Any], published: list[int]) -> None:
    """Tables 3 and 4, which leave out the position tables."""
    with torch.device("meta"):
        network = FlexIR(**options)
    for pointer, expected in enumerate(published, 1):
        counted = network.truncated(pointer).named_parameters()
        assert sum(p.numel() for name, p in counted if not name.endswith("bias_table")) == expected


def test_configuration_builds_the_published_network() -> None:
    with torch.device("meta"):
        network = instantiate(OmegaConf.load(CONF / "flexir.yaml"))
    assert sum(p.numel() for p in network.parameters()) == 12_989_178
    assert network.unbounded and network.regional and network.size_multiple == 8


@pytest.mark.parametrize("options", [{"scale": 2}, {"scale": 4}, {"image_channels": 1}, {"resi_connection": "3conv"}])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 9), (13, 8)])
def test_any_image_size_goes_in_and_comes_out_enlarged(options: dict[str, Any], height: int, width: int) -> None:
    network = small(**options)
    image, scale = torch.randn(2, network.image_channels, height, width), network.scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for exit in ({"pointer": 2}, {"threshold": 1.05, "regions": 4}):
            found = run(network, image, **exit)
            assert found.map.shape == (2, network.out_channels, scale * height, scale * width)
            assert found.scale == scale and found.map.isfinite().all() and torch.equal(found.cropped, found.map)


@pytest.mark.parametrize("scale", [2, 4])
def test_an_enlarging_network_with_a_skip_begins_with_the_bicubic_image(scale: int) -> None:
    network, image = FlexIR(**SMALL, scale=scale, skip=True).eval(), images()
    enlarged = bicubic_grid(image, (21 * scale, 34 * scale))
    for pointer in (1, 3):
        assert torch.equal(run(network, image, pointer=pointer).map, enlarged)
    assert not torch.equal(run(FlexIR(**SMALL, scale=scale).eval(), image).map, enlarged)


def test_a_truncated_network_shares_its_weights_and_leaves_the_original_as_it_was() -> None:
    network = small(calibration=[[0.5, 1.0]])
    before = network.cost(8, 8)
    short = network.truncated(2)
    assert {p.data_ptr() for p in short.parameters()} < {p.data_ptr() for p in network.parameters()}
    assert short.units == network.units[:2] and short.cost(8, 8).units == before.units[:2]
    assert len(network.layers) == len(network.branches) == 3 and network.cost(8, 8) == before
    with pytest.raises(ValueError, match="pointer must be from 2 to 2"):
        run(short, images(), pointer=1)
    assert (depths(run(short, images(), threshold=-INF, regions=4)) == 2).all()
    assert not short.calibration and network.calibration


def test_without_a_routing_every_block_is_taken_to_have_run() -> None:
    network, sizes = small(), [(12, 16), (12, 16)]
    cost = network.cost(12, 16)
    assert network.spent(None, 3, sizes, Task()).tolist() == [2 * cost.full] * 3
    share = torch.tensor([[1.0, 0.5, 0.0]])
    regions = RegionDepths(((0, 12, 0, 16), (0, 12, 16, 32)), torch.tensor([[1, 2]]))
    routing = Routing(share, share, None, network.units, regions)
    expected = 2 * (cost.fixed + cost.units[0]) + cost.units[1]
    assert network.spent(routing, 1, sizes, Task()).tolist() == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 3}, "a scale of 1, 2 or 4, got 3"),
        ({"threshold_base": "last"}, "threshold_base must be one of first, .* got 'last'"),
        ({"overlap": -1}, "overlap of at least 0 pixels, got -1"),
        ({"pixel_factor": 0}, "pixel_factor must be above 0, got 0"),
        ({"calibration": [[0.6, 1.0], [0.5, 1.1]]}, "calibration must be ascending pairs"),
        ({"calibration": [[0.6, 1.1], [0.7, 1.0]]}, "calibration must be ascending pairs"),
        ({"calibration": [[0.6]]}, "calibration must be ascending pairs"),
        ({"depths": (2, 0)}, "FlexIR needs depths of at least 1, got 0"),
        ({"heads": 3}, "heads=3"),
        ({"resi_connection": "2conv"}, "1conv or 3conv"),
    ],
)
def test_impossible_options_are_refused_with_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlexIR(**(SMALL | options))
