"""Thresholds for budgets: depths as inference takes them, and a table that ascends."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from dynres.backbones.flexir import FlexIR
from dynres.calibrate import depths, leaving, table
from dynres.errors import UserError
from dynres.restorer import Restorer
from dynres.upsamplers.same_size import AsImage


def restorer(base: str) -> Restorer:
    torch.manual_seed(0)
    backbone = FlexIR(embed_dim=8, depths=(1, 1, 1), heads=2, window=4, overlap=4, threshold_base=base)  # type: ignore[arg-type]
    return Restorer(backbone, AsImage(3)).eval()


@pytest.mark.parametrize("base", ["first", "previous", "input", "absolute"])
@pytest.mark.parametrize("h", [0.9, 0.98, 1.0, 1.02, 1.3, 40.0])
def test_depths_and_macs_are_those_of_inference(base: str, h: float) -> None:
    network, image = restorer(base), torch.rand(1, 3, 48, 60, generator=torch.Generator().manual_seed(3))
    thresholds, macs, full = leaving(network, image, 6)
    found = network.restore(image, threshold=h, regions=6)
    assert found.routing is not None and found.routing.regions is not None
    ours = depths(thresholds, h)
    assert ours.tolist() == found.routing.regions.depths[0].tolist()
    assert sum(macs[depth] for depth in ours.tolist()) == found.macs.item() and full == found.full_macs


def test_the_table_ascends_from_everybody_leaves_to_nobody() -> None:
    image = torch.rand(2, 1, 3, 48, 60, generator=torch.Generator().manual_seed(3))
    measured = [leaving(restorer("first"), one, 4) for one in image]
    points = table(measured)
    assert all(low[0] < high[0] and low[1] < high[1] for low, high in pairwise(points))
    for (share, h), expected in ((points[0], 1), (points[-1], 3)):
        assert all(depths(thresholds, h).eq(expected).all() for thresholds, _, _ in measured)
        assert share == pytest.approx(sum(4 * macs[expected] / full for _, macs, full in measured) / 2)


def test_images_without_gradients_are_refused() -> None:
    flat = torch.full((4, 2), float("-inf"))
    with pytest.raises(UserError, match="no region of these images has a gradient"):
        table([(flat, [1, 2, 3, 4], 4)])
