"""The counter sees what ran, under a named convention, and agrees with an independent one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.cost.counter import CONVENTIONS, count_macs, count_parameters


class Mixed(nn.Module):
    """Convolution, normalisation of tokens, linear maps, global pooling: what the suite's networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 8, 3, stride=2, groups=2)
        self.norm = nn.LayerNorm(8)
        self.hidden, self.out = nn.Linear(8, 20), nn.Linear(20, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.conv(x)))).permute(0, 2, 3, 1)
        x = self.hidden(self.norm(x)).permute(0, 3, 1, 2)
        return self.out(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_count_is_fvcores() -> None:
    pytest.importorskip("fvcore", reason="fvcore is not installed: pip install dynres[flops]")
    from fvcore.nn import FlopCountAnalysis

    network, x = Mixed().eval(), torch.rand(2, 3, 11, 9)
    analysis = FlopCountAnalysis(network, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert count_macs(lambda: network(x), "fvcore") == analysis.total()


def test_count_by_hand() -> None:
    network, x = Mixed(), torch.rand(1, 3, 11, 9)
    products = 99 * 27 * 6 + 20 * 27 * 8 + 20 * 8 * 20 + 20 * 4  # 5 x 4 pixels after the stride
    assert count_macs(lambda: network(x), "all") == products
    assert count_macs(lambda: network(x), "fvcore") == products + 5 * 20 * 8 + 20 * 20


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_counts_its_two_products_on_every_device(convention: str, device: str, bias: bool) -> None:
    """Torch has several kernels for one attention, and some versions miss one."""
    query = torch.rand(3, 2, 16, 4, device=device)
    key = torch.rand(3, 2, 9, 4, device=device)
    mask = torch.rand(2, 16, 9, device=device) if bias else None
    counted = count_macs(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask), convention)  # type: ignore[arg-type]
    assert counted == 2 * 3 * 2 * 16 * 9 * 4


def test_meta_device_counts_what_the_cpu_counts() -> None:
    network, x = Mixed(), torch.rand(2, 3, 14, 10)
    real = count_macs(lambda: network(x))
    assert count_macs(lambda: network.to("meta")(x.to("meta"))) == real


def test_kernels_that_do_not_run_are_not_counted() -> None:
    layers, x = nn.ModuleList(nn.Linear(5, 5) for _ in range(4)), torch.rand(7, 5)
    for chosen in ([], [0], [1, 3], [0, 1, 2, 3]):
        run = partial(lambda numbers: [layers[i](x) for i in numbers], chosen)
        assert count_macs(run) == len(chosen) * 7 * 25


def test_unknown_conventions_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="one of fvcore, all, got 'thop'"):
        count_macs(lambda: None, "thop")  # type: ignore[arg-type]


def test_parameters_are_counted_once_frozen_or_shared() -> None:
    one = nn.Linear(3, 4)
    network = nn.Sequential(one, nn.Linear(4, 3), one)
    network[1].weight.requires_grad_(False)
    assert count_parameters(network) == 16 + 15
