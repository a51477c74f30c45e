"""Slices of weights that are views, and gates that are told the scale."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dynres.cost.counter import count_macs
from dynres.layers.slimmable import FeatureInterweaving, interwoven, sliced


@given(channels=st.integers(1, 70), batch=st.integers(1, 3))
def test_the_pair_stands_after_every_full_group_of_16(channels: int, batch: int) -> None:
    means = torch.arange(1.0, batch * channels + 1).view(batch, channels)
    code = -torch.arange(1.0, 2 * batch + 1).view(batch, 2)
    for row, (mean, pair) in enumerate(zip(means.tolist(), code.tolist(), strict=True)):
        expected: list[float] = []
        for number, value in enumerate(mean, start=1):
            expected += [value, *pair] if number % 16 == 0 else [value]
        assert interwoven(means, code)[row].tolist() == expected


@given(inputs=st.integers(1, 6), outputs=st.integers(1, 5))
def test_a_sliced_convolution_is_that_of_its_first_channels(inputs: int, outputs: int) -> None:
    conv, x = nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, inputs, 4, 5)
    padded = torch.cat([x, torch.zeros(2, 6 - inputs, 4, 5)], dim=1)
    torch.testing.assert_close(sliced(conv, x, outputs), conv(padded)[:, :outputs], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sliced(conv, x), conv(padded), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [8, 20, 32])
def test_the_gate_is_its_formula_on_the_first_rows_and_columns(channels: int) -> None:
    gate, x, code = FeatureInterweaving(32), torch.randn(2, channels, 3, 4), torch.tensor([[2.0, 2.0], [-1.3, -1.1]])
    told = interwoven(x.mean((2, 3)), code)
    first, second = (part.weight.flatten(1) for part in (gate.fc1, gate.fc2))
    assert first.shape == (64, 36) and second.shape == (32, 64)
    assert gate.fc1.bias is not None and gate.fc2.bias is not None
    hidden = F.relu(told @ first[:, : told.shape[1]].T + gate.fc1.bias)
    weight = torch.sigmoid(hidden @ second[:channels].T + gate.fc2.bias[:channels])
    torch.testing.assert_close(gate(x, code), x * weight[:, :, None, None])


@pytest.mark.parametrize("channels", [8, 20, 32])
def test_the_gates_macs_are_counted(channels: int) -> None:
    gate, x = FeatureInterweaving(32), torch.randn(1, channels, 3, 4)
    macs = gate.macs(channels)
    assert count_macs(lambda: gate(x, torch.ones(1, 2))) == 12 * macs.pixel + macs.image


def test_the_scale_is_not_rounded_under_autocast() -> None:
    """2.3 would be 2.297 in bfloat16: the gate, large enough to show it, stays what it is."""
    gate, x = FeatureInterweaving(16), torch.ones(1, 16, 2, 2)
    nn.init.constant_(gate.fc1.weight, 1.0)
    nn.init.constant_(gate.fc2.weight, -0.01)
    code = torch.tensor([[2.3, 2.3]])
    exact = gate(x, code)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gate(x, code), exact, rtol=1e-6, atol=0)
