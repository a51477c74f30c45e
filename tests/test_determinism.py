"""Training on several threads gives the same bits every time: what resume=auto promises rests on it."""

from __future__ import annotations

import pytest
import torch

from dynres.backbones.tadt import TADT
from dynres.contracts import Task
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.metasr import MetaSR


def trained(upsampler: type) -> list[torch.Tensor]:
    torch.manual_seed(0)
    backbone = TADT(channels=16, groups=1, heads=1)
    restorer = Restorer(backbone, upsampler(backbone.out_channels, 16))
    optimizer = torch.optim.Adam(restorer.parameters(), lr=1e-3)
    image, coords = torch.rand(2, 3, 48, 48), 2 * torch.rand(2, 200, 2) - 1
    for step in range(4):
        task = Task(torch.tensor([2.0, 3.0]), seed=torch.tensor([step, step + 100]))
        colour, _ = restorer.query(image, coords, torch.full_like(coords, 0.02), task)
        optimizer.zero_grad()
        colour.abs().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in restorer.parameters()]


@pytest.mark.parametrize("upsampler", [LIIF, LTE, MetaSR])
def test_training_on_two_threads_is_the_same_every_time(upsampler: type) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        once = trained(upsampler)
        for _ in range(3):
            assert all(torch.equal(a, b) for a, b in zip(once, trained(upsampler), strict=True))
    finally:
        torch.set_num_threads(threads)
