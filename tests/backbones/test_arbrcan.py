"""ArbRCAN: how it takes scales and sizes, and its cost. Parity with the authors: tests/upsamplers/test_arbsr.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from dynres.backbones.arbrcan import ArbRCAN, ScaleAwareAdaption
from dynres.contracts import Task

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
SMALL = {"channels": 8, "groups": 2, "blocks": 1, "reduction": 4, "experts": 3}


@pytest.fixture(scope="module")
def network() -> ArbRCAN:
    torch.manual_seed(0)
    return ArbRCAN(**SMALL).eval()


def features(network: ArbRCAN, image: torch.Tensor, task: Task) -> torch.Tensor:
    with torch.no_grad():
        return network(image, task).map


def adaption(network: ArbRCAN) -> ScaleAwareAdaption:
    first = network.sa_adapt[0]
    assert isinstance(first, ScaleAwareAdaption)
    return first


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (7, 8), (9, 5)])
def test_any_size_is_accepted_and_kept(network: ArbRCAN, size: tuple[int, int]) -> None:
    """The authors' code takes even sides only."""
    image = torch.rand(2, 3, *size)
    found = features(network, image, Task(scale=torch.tensor([2.0, 3.0])))
    assert found.shape == (2, 8, *size) and bool(found.isfinite().all())


def test_beyond_an_odd_side_the_last_row_counts_twice(network: ArbRCAN) -> None:
    """What the mask pools of 5 rows is what it pools of 6 whose last two are equal."""
    pool = adaption(network).mask[3]
    x = torch.rand(1, 2, 5, 8)
    torch.testing.assert_close(pool(x), pool(torch.cat([x, x[:, :, -1:]], dim=2)))


def test_one_scale_is_that_scale_on_both_axes_and_none_is_1(network: ArbRCAN) -> None:
    image = torch.rand(2, 3, 6, 8)
    scale = torch.tensor([1.5, 4.0])
    by_axis = features(network, image, Task(axes=scale[:, None].expand(-1, 2)))
    assert torch.equal(features(network, image, Task(scale=scale)), by_axis)
    assert torch.equal(features(network, image, Task()), features(network, image, Task(scale=torch.ones(2))))


def test_axes_are_vertical_then_horizontal_and_come_before_scale(network: ArbRCAN) -> None:
    image, scale = torch.rand(1, 3, 6, 8), torch.tensor([6.0]).sqrt()
    tall, wide = (features(network, image, Task(scale, axes=torch.tensor([axes]))) for axes in ((3.0, 2.0), (2.0, 3.0)))
    assert not torch.allclose(tall, wide, atol=1e-6)
    first = adaption(network).adapt.routing[0]
    seen = []
    handle = first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    features(network, image, Task(scale, axes=torch.tensor([[4.0, 2.0]])))
    handle.remove()
    assert torch.equal(seen[0], torch.tensor([[0.25, 0.5]]))


def test_a_sample_alone_equals_the_sample_in_a_batch_of_other_scales(network: ArbRCAN) -> None:
    image, scale = torch.rand(3, 3, 6, 8), torch.tensor([1.0, 2.5, 4.0])
    together = features(network, image, Task(scale=scale))
    for i in range(3):
        alone = features(network, image[i : i + 1], Task(scale=scale[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = ArbRCAN(**SMALL | {"reduction": 1}).train()  # so wide a squeeze that none is all off
    network(torch.rand(4, 3, 10, 8), Task(scale=torch.tensor([1.0, 2.0, 3.0, 4.0]))).map.pow(2).mean().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("size", [(8, 6), (5, 7)])
def test_cost_is_what_torch_counts(network: ArbRCAN, size: tuple[int, int]) -> None:
    """Beside the channel means, which torch's counter leaves out: 1 per element, one mean a block."""
    with FlopCounterMode(display=False) as counter:
        features(network, torch.zeros(1, 3, *size), Task(scale=torch.tensor([2.0])))
    means = SMALL["groups"] * SMALL["blocks"] * SMALL["channels"] * size[0] * size[1]
    assert 2 * (network.cost(*size).full - means) == counter.get_total_flops()


def test_configuration_builds_the_published_network() -> None:
    """RCAN's body and ten adaptions: 16 926 127 parameters with the 10 697 of its upsampler."""
    network = instantiate(OmegaConf.load(CONF / "arbrcan.yaml")).eval()
    assert sum(p.numel() for p in network.parameters()) == 16_926_127 - 10_697
    rcan, adaption = 15_165_632, 64 * 64 * 9 + 64 * 16 * 9 + 2 * 16 * 16 * 9 // 4 + 16 * 9
    an_image = 200 * 2 * 64 * 4 + 10 * (4 * 64 * 64 * 9 + 2 * 64 + 64 * 4)  # channel attention; mixing of kernels
    assert network.cost(8, 6).full == 48 * (rcan + 10 * adaption) + an_image


@pytest.mark.parametrize("option", ["channels", "groups", "blocks", "experts"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"ArbRCAN needs {option} of at least 1, got 0"):
        ArbRCAN(**SMALL | {option: 0})
