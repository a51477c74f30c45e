"""Whole images through AnySR: the scale that it is told, tiles, budgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynres.backbones.anysr import AnySR
from dynres.contracts import EvalSample
from dynres.methods.assr import AssrTraining
from dynres.restorer import Restorer
from dynres.tiles import least_tile
from dynres.upsamplers.liif import LIIF
from tests.backbones.test_anysr import build
from tests.backbones.test_anysr import macs_of as subnets


def restorer(kind: str, **options: Any) -> Restorer:
    backbone = build(kind, **options)
    return Restorer(backbone, LIIF(backbone.out_channels, hidden=8, layers=1)).eval()


def macs_of(network: Restorer, height: int, width: int) -> list[int]:
    """What each subnet of the backbone spends."""
    assert isinstance(network.backbone, AnySR)
    return subnets(network.backbone, height, width)


@pytest.mark.parametrize("kind", ["edsr", "rdn", "rcan"])
def test_tiles_run_the_decisions_of_the_whole_image(kind: str) -> None:
    network, image = restorer(kind), torch.rand(2, 3, 60, 64)
    followed: list[Tensor] = []
    handle = network.backbone.register_forward_pre_hook(
        lambda _, given: followed.append(given[1].routing.decisions) if given[0].device.type == "cpu" else None
    )
    whole, cut = (network.restore(image, scale=2.4, tile=tile) for tile in (None, least_tile(network.backbone) + 14))
    handle.remove()
    assert whole.routing is not None and cut.routing is not None
    assert whole.routing.decisions.tolist() == cut.routing.decisions.tolist() == [[1.0, 0.0, 0.0]] * 2
    assert len(followed) > 2 and all(torch.equal(one, whole.routing.decisions) for one in followed)
    assert whole.macs.tolist() == [macs_of(network, 60, 64)[1]] * 2 and bool((cut.macs > whole.macs).all())


@pytest.mark.parametrize("kind", ["edsr", "rdn"])
def test_without_gates_tiles_give_the_whole_image(kind: str) -> None:
    network, image = restorer(kind, enhanced=False), torch.rand(1, 3, 60, 64)
    assert not network.backbone.unbounded and restorer(kind).backbone.unbounded
    whole, cut = (network.restore(image, scale=1.5, tile=side).image for side in (None, 2 * network.backbone.halo + 30))
    torch.testing.assert_close(whole, cut, rtol=0, atol=1e-5)


def test_the_scale_is_the_one_asked_for_not_what_whole_pixels_make_of_it() -> None:
    """7 x 9 pixels at x2.9 become 20 x 26, which are x2.857 and x2.889."""
    network, image = restorer("edsr"), torch.rand(1, 3, 7, 9)
    asked, sized = network.restore(image, scale=2.9), network.restore(image, size=(20, 26))
    assert asked.image.shape == sized.image.shape == (1, 3, 20, 26)
    assert asked.routing is not None and sized.routing is not None
    assert (asked.routing.decisions.sum(), sized.routing.decisions.sum()) == (2, 3)
    assert asked.macs.item() == macs_of(network, 7, 9)[2]


def test_a_budget_below_the_smallest_subnet_runs_it_and_says_so() -> None:
    network, image = restorer("rdn"), torch.rand(1, 3, 8, 9)
    with pytest.warns(UserWarning, match="a budget of 0.2 cannot be met: .* the least this network can"):
        found = network.restore(image, scale=4, budget=0.2)
    assert found.routing is not None and not found.routing.decisions.any()
    assert found.macs.item() == macs_of(network, 8, 9)[0]


@pytest.mark.parametrize(("scale", "size", "step"), [((2.9, 2.9), (20, 26), 2), ((2.9, 3.1), (20, 28), 3)])
def test_evaluation_tells_the_scale_of_the_test(scale: tuple[float, float], size: tuple[int, int], step: int) -> None:
    """A scale an axis is told as whole pixels make it."""
    method = AssrTraining(restorer("edsr"), learning_rate=1e-3, milestones=(0.5,), gamma=0.5).eval()
    target = torch.rand(1, 3, *size)
    sample = EvalSample(
        torch.rand(1, 3, 7, 9), target, target, scale, "label", "Toy", "one", "benchmark", torch.tensor([0])
    )  # fmt: skip
    restoration = method.evaluate(sample).restoration
    assert restoration.image.shape == target.shape
    assert restoration.routing is not None and restoration.routing.decisions.sum() == step


def test_a_budget_holds_on_whole_images() -> None:
    network, image = restorer("edsr"), torch.rand(1, 3, 30, 40)
    found = [network.restore(image, scale=3.3, budget=budget) for budget in (0.7, 0.8, 0.95, 1.0)]
    assert [one.macs.item() for one in found] == macs_of(network, 30, 40)
    assert all(one.full_macs == network.backbone.cost(30, 40).full for one in found)
    free = network.restore(image, scale=3.3)
    assert torch.equal(free.image, found[-1].image) and not torch.equal(free.image, found[0].image)
