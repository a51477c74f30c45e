"""`Restorer.restore` of a network with branches: pointer, threshold, regions, budget, tiles, and what others refuse."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from dynres.backbones.edsr import EDSR
from dynres.backbones.flexir import FlexIR
from dynres.contracts import Task
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.same_size import AsImage


def restorer(scale: int = 1, **options: Any) -> Restorer:
    torch.manual_seed(0)
    backbone = FlexIR(embed_dim=8, depths=(1, 1, 1), heads=2, window=4, scale=scale, overlap=4, **options)
    for branch in backbone.branches:
        torch.nn.init.normal_(branch.last.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    return Restorer(backbone, AsImage(3, scale=scale)).eval()


def photo(height: int = 40, width: int = 52) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("budget", [0.05, 0.4, 0.7, 0.99, 1.0])
def test_a_budget_is_the_deepest_pointer_that_fits(budget: float) -> None:
    network, image = restorer(), photo()
    pointers = [network.restore(image, pointer=pointer) for pointer in (1, 2, 3)]
    fits = [found for found in pointers if found.macs.item() <= budget * found.full_macs]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = network.restore(image, budget=budget)
    expected = fits[-1] if fits else pointers[0]
    assert torch.equal(found.image, expected.image) and found.macs.item() == expected.macs.item()
    assert bool(said) == (not fits)
    if not fits:
        assert "the least this network can" in str(said[0].message)


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_are_smaller_regions(scale: int) -> None:
    network, image = restorer(scale), photo(64, 72)
    whole, tiled = network.restore(image), network.restore(image, tile=32)
    assert tiled.routing is not None and tiled.routing.regions is not None
    sides = [max(bottom - top, right - left) for top, bottom, left, right in tiled.routing.regions.boxes]
    assert len(sides) > 1 and max(sides) <= 32
    assert whole.image.shape == tiled.image.shape == (1, 3, 64 * scale, 72 * scale)
    assert tiled.macs.item() > whole.macs.item() == whole.full_macs
    with pytest.raises(ValueError, match="tile=3 is too small"):
        network.restore(image, tile=3)


def test_adaptive_inference_takes_four_regions_unless_told() -> None:
    network, image = restorer(), photo()
    for regions, expected in ((None, 4), (6, 6)):
        routing = network.restore(image, threshold=1.0, regions=regions).routing
        assert routing is not None and routing.regions is not None
        assert len(routing.regions.boxes) == expected
        assert routing.regions.depths.shape == (1, expected)


def test_training_and_inference_are_the_same_network() -> None:
    network, image = restorer(2), photo()
    colours, routing = network(image, Task(scale=torch.tensor([2.0])))
    found = network.restore(image)
    torch.testing.assert_close(colours.clamp(0, 1), found.image)
    assert routing is not None and routing.decisions.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("options", [{"pointer": 1}, {"threshold": 1.0}, {"regions": 2}])
def test_other_networks_refuse_branches(options: dict[str, Any]) -> None:
    network = Restorer(EDSR(4, 1, 1.0), LIIF(4, hidden=4, layers=1))
    with pytest.raises(ValueError, match=r"for a network with branches .*; EDSR has none: leave them out"):
        network.restore(photo(), scale=2, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pointer": 4}, "pointer must be from 1 to 3 for this network, got 4"),
        ({"pointer": 0}, "pointer must be from 1 to 3"),
        ({"regions": 0}, "regions must be at least 1, got 0"),
        ({"threshold": float("nan")}, "threshold must be a number or auto, got nan"),
        ({"threshold": "often"}, "threshold must be a number or auto, got often"),
        ({"threshold": "auto"}, "give one, such as budget=0.6"),
        ({"threshold": "auto", "budget": 0.5}, "run python -m dynres.calibrate"),
        ({"pointer": 1, "budget": 0.5}, "give a budget or a pointer, not both"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restorer().restore(photo(), **options)


def test_too_many_regions_become_fewer_and_it_says_so() -> None:
    with pytest.warns(UserWarning, match="is cut into 4 regions instead of 400"):
        found = restorer().restore(photo(8, 8), regions=400)
    assert found.routing is not None and found.routing.regions is not None
    assert len(found.routing.regions.boxes) == 4


def test_a_calibrated_budget_sets_the_threshold() -> None:
    image = photo(80, 80)
    network = restorer(calibration=[[0.4, 0.5], [0.8, 1.0], [1.2, 2.0]])
    half, most = network.restore(image, threshold="auto", budget=0.4), network.restore(image, threshold=0.5)
    assert torch.equal(half.image, most.image)
    between = network.restore(image, threshold="auto", budget=0.6).image
    assert torch.equal(between, most.image)  # the largest known threshold that fits
