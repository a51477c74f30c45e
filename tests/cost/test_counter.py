"""The counter sees what ran, under a named convention, and agrees with an independent one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.cost.counter import count_macs, count_parameters
from dynres.layers.attention import WindowAttention


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


@pytest.mark.parametrize("convention", ["fvcore", "all"])
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
    with pytest.raises(ValueError, match="one of fvcore, thop, all, got 'ptflops'"):
        count_macs(lambda: None, "ptflops")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one of fvcore, thop, all, got 'ptflops'"):
        count_parameters(nn.Linear(1, 1), "ptflops")  # type: ignore[arg-type]


def test_parameters_are_counted_once_frozen_or_shared() -> None:
    one = nn.Linear(3, 4)
    network = nn.Sequential(one, nn.Linear(4, 3), one)
    network[1].weight.requires_grad_(False)
    assert count_parameters(network) == 16 + 15


def test_parameters_under_thop_are_those_of_torchs_own_layers() -> None:
    """Wherever they stand; a parameter beside them is not seen, whether its module has children or not."""

    class Table(nn.Module):
        def __init__(self, *parts: nn.Module) -> None:
            super().__init__()
            self.table, self.parts = nn.Parameter(torch.zeros(1000)), nn.ModuleList(parts)

    one = nn.Linear(3, 4)
    network = Table(one, Table(nn.Conv2d(2, 3, 3), nn.LayerNorm(5)), Table(), one, nn.ConvTranspose2d(2, 3, 2))
    assert count_parameters(network, "thop") == 16 + (54 + 3) + 10 + (24 + 3)
    assert count_parameters(network) == count_parameters(network, "fvcore") == 3000 + 110


# ------------------------------------------------------------------------------------------ thop's closed forms


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5), (2, 3, 7, 5)])
def test_thop_counts_a_linear_layer_without_its_bias(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = nn.Linear(5, 4, bias=bias), torch.rand(shape)
    assert count_macs(lambda: layer(x), "thop") == x.numel() * 4
    assert count_macs(lambda: layer(x.transpose(0, -2)), "thop") == x.numel() * 4


@given(
    sides=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    transposed=st.booleans(),
)
def test_thop_charges_convolutions_by_their_output_elements(
    sides: tuple[int, int], kernel: int, stride: int, groups: int, transposed: bool
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer, x = kind(4, 6, kernel, stride=stride, groups=groups), torch.rand(2, 4, *sides)
    out = layer(x)
    assert count_macs(lambda: layer(x), "thop") == out.numel() * (4 // groups) * kernel**2
    if not transposed:
        assert count_macs(lambda: layer(x), "all") == count_macs(lambda: layer(x), "thop")


@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), axis=st.integers(0, 3))
def test_thop_counts_3n_minus_1_a_row_of_a_softmax(shape: list[int], axis: int) -> None:
    x = torch.rand(shape)
    n = shape[axis % len(shape)]
    assert count_macs(lambda: x.softmax(axis % len(shape)), "thop") == x.numel() // n * (3 * n - 1)
    assert count_macs(lambda: x.softmax(axis % len(shape)), "all") == 0


def test_thop_counts_4_an_element_of_a_layer_norm() -> None:
    norm, x = nn.LayerNorm(6), torch.rand(2, 5, 6)
    assert count_macs(lambda: norm(x), "thop") == 4 * 60


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("heads", [(), (2,)])
@pytest.mark.parametrize("mask", [None, (16, 9), (1, 1, 16, 9)])
def test_thop_counts_of_attention_the_softmax_alone(
    device: str, heads: tuple[int, ...], mask: tuple[int, ...] | None
) -> None:
    """Also where one kernel does it all, and no softmax reaches the dispatcher; with the bias or without."""
    query, key = torch.rand(3, *heads, 16, 4, device=device), torch.rand(3, *heads, 9, 4, device=device)
    bias = None if mask is None else torch.rand(mask[-query.ndim :], device=device)
    counted = count_macs(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=bias), "thop")
    assert counted == 3 * (2 if heads else 1) * 16 * (3 * 9 - 1)
    by_hand = count_macs(lambda: (query @ key.transpose(-2, -1)).softmax(-1) @ key, "thop")
    assert by_hand == counted


@pytest.mark.parametrize("shift", [0, 2])
def test_thop_counts_the_same_of_windows_on_a_cpu_as_on_meta(shift: int) -> None:
    layer, x = WindowAttention(8, heads=2, window=4, shift=shift).eval(), torch.rand(2, 12, 8, 8)
    linear, softmax = 2 * 96 * 8 * 24, 2 * 96 * 2 * (3 * 16 - 1)
    assert count_macs(lambda: layer(x), "thop") == linear + softmax
    assert count_macs(lambda: layer.to("meta")(x.to("meta")), "thop") == linear + softmax
