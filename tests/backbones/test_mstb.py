"""The Baseline of TADT: its published size and cost, and images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dynres.backbones.mstb import MultiScaleTransformer
from dynres.contracts import Task
from dynres.cost.counter import count_macs, count_parameters

PUBLISHED = Path(__file__).resolve().parents[2] / "experiments" / "tadt" / "published.yaml"
SMALL: dict[str, Any] = {
    "channels": 16, "groups": 2, "local_windows": (2, 4, 8), "global_window": 8, "pooled": 2, "out_channels": 5
}  # fmt: skip


def published_size() -> MultiScaleTransformer:
    with torch.device("meta"):
        return MultiScaleTransformer()


def counted(network: MultiScaleTransformer, height: int, width: int) -> int:
    image = torch.empty(1, 3, height, width, device="meta")
    return count_macs(lambda: network.to("meta")(image, Task()))


def test_parameter_count_is_the_one_of_the_accounting() -> None:
    assert count_parameters(published_size()) == 9_168_512


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_cost_over_the_validation_set_is_table_3(scale: int) -> None:
    """The paper's mean over DIV2K's validation images, to a hundredth of a per cent."""
    table = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["table3"]
    assert [table["rows"]["Baseline"][f"x{s}"] for s in (2, 3, 4)] == [7454.65, 3407.59, 1952.41]
    network, images = published_size(), table["short_sides"]
    costs = [n * network.cost(short // scale, table["long_side"] // scale).full for short, n in images.items()]
    ours, paper = sum(costs) / sum(images.values()) / 1e9, table["rows"]["Baseline"][f"x{scale}"]
    assert ours == pytest.approx(paper, rel=1e-4), f"x{scale}: {ours:.2f} G, published {paper} G"


@pytest.mark.parametrize("size", [(48, 48), (50, 97)])
def test_cost_formula_is_what_torch_counts_at_published_size(size: tuple[int, int]) -> None:
    assert counted(published_size(), *size) == published_size().cost(*size).full


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([8, 16, 24]),
    groups=st.integers(1, 2), blocks=st.integers(1, 3), heads=st.integers(1, 2), ratio=st.sampled_from([1.5, 2.0]),
    pooled=st.sampled_from([1, 2, 4, 8]), out=st.integers(1, 6),
)  # fmt: skip
def test_cost_formula_is_what_torch_counts(
    height: int, width: int, channels: int, groups: int, blocks: int, heads: int, ratio: float, pooled: int, out: int
) -> None:
    network = MultiScaleTransformer(channels, groups, (2, 4, 8), 8, pooled, heads, ratio, blocks, out)
    cost = network.cost(height, width)
    assert counted(network, height, width) == cost.full
    assert len(cost.units) == 4 * groups


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 21), width=st.integers(1, 21))
def test_any_image_size_goes_in_and_comes_out(height: int, width: int) -> None:
    network = MultiScaleTransformer(**SMALL).eval()
    image = torch.randn(2, 3, height, width)
    with torch.no_grad():
        features = network(image, Task())
    assert features.map.shape == (2, 5, height, width) and features.image is image and features.routing is None
    assert features.map.isfinite().all()


def test_padding_is_the_reflection_of_the_image() -> None:
    """An image completed by hand with its own reflection gives the same features."""
    network = MultiScaleTransformer(**SMALL).eval()
    image = torch.randn(1, 3, 13, 8)
    completed = torch.cat([image, image[:, :, 9:12].flip(2)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(network(image, Task()).map, network(completed, Task()).map[:, :, :13])


def test_local_windows_of_every_second_block_are_shifted_by_half_and_global_ones_never() -> None:
    groups: Any = published_size().groups
    for group in groups:
        shifts = [[branch.shift for branch in block.branches] for block in group.blocks]
        assert shifts == [[0, 0, 0, 0], [2, 4, 8, 0]]


def test_shifts_let_neighbouring_windows_exchange_information() -> None:
    """A pixel moves features beyond its own window and beyond the reach of the convolutions, once windows shift."""

    def reach(blocks: int) -> int:
        torch.manual_seed(0)
        network = MultiScaleTransformer(8, 1, (4, 4, 4), 4, 4, 1, 2.0, blocks, 3).double()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        image = torch.randn(1, 3, 4, 40, dtype=torch.double, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(image, Task()).map[0, :, 0, 20].sum(), image)
        touched = gradient[0].abs().sum((0, 1)).nonzero().flatten()
        return int((touched - 20).abs().max())

    assert reach(2) > reach(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_windows": (2, 4)}, r"three divisors of global_window=8, got \[2, 4\]"),
        ({"local_windows": (2, 3, 4)}, r"three divisors of global_window=8, got \[2, 3, 4\]"),
        ({"channels": 12}, "multiple of 4 branches x 2 heads, got 12"),
        ({"pooled": 3}, "pooled=3"),
    ],
)
def test_impossible_structures_are_refused_with_their_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleTransformer(**(SMALL | options))


@pytest.mark.parametrize("windows", [[2, 4, 8], (2, 4, 8)])
def test_every_parameter_learns(windows: Sequence[int]) -> None:
    network = MultiScaleTransformer(**(SMALL | {"local_windows": windows}))
    network(torch.randn(1, 3, 16, 16), Task()).map.pow(2).sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still, f"no gradient reaches {still}"


def test_a_network_without_controller_spends_all_its_branches() -> None:
    backbone = MultiScaleTransformer(channels=16, groups=1, local_windows=(2, 4, 8), global_window=8, pooled=4)
    spent = backbone.spent(None, 2, [(16, 16), (8, 8)], Task())
    assert spent.tolist() == [backbone.cost(16, 16).full + backbone.cost(8, 8).full] * 2
