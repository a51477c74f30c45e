"""Slices of weights, where gates stand, and gates that are told the scale."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dynres.layers.channels import SlimPart
from dynres.layers.slimmable import FeatureInterweaving, Subnet, interwoven, slim

WIDTHS = [0.5, 0.75, 1.0]
CODE = torch.tensor([[2.0, 2.0], [-1.3, -1.1]])


@given(channels=st.integers(1, 70), batch=st.integers(1, 3))
def test_the_pair_stands_after_every_full_group_of_16(channels: int, batch: int) -> None:
    means = torch.arange(1.0, batch * channels + 1).view(batch, channels)
    code = -torch.arange(1.0, 2 * batch + 1).view(batch, 2)
    for row, (mean, pair) in enumerate(zip(means.tolist(), code.tolist(), strict=True)):
        expected: list[float] = []
        for number, value in enumerate(mean, start=1):
            expected += [value, *pair] if number % 16 == 0 else [value]
        assert interwoven(means, code)[row].tolist() == expected


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("linear", [True, False])
def test_a_slimmed_pair_is_that_of_its_first_channels(linear: bool, bias: bool, step: int) -> None:
    """What is left out is as if its outputs were 0."""
    first: nn.Conv2d | nn.Linear = nn.Linear(6, 9, bias) if linear else nn.Conv2d(6, 9, 3, padding=1, bias=bias)
    second: nn.Conv2d | nn.Linear = nn.Linear(9, 5, bias) if linear else nn.Conv2d(9, 5, 1, bias=bias)
    x, kept = torch.randn(2, 4, 6) if linear else torch.randn(2, 6, 4, 5), int(9 * WIDTHS[step])
    mask = (torch.arange(9) < kept).float()
    expected = second(first(x) * (mask if linear else mask[:, None, None]))
    names, subnet = {*nn.Sequential(first, second).state_dict()}, Subnet(step)
    slim(SlimPart((first,), (second,), None), WIDTHS, subnet, enhanced=True)
    assert first(x).shape[-1 if linear else 1] == kept and {*nn.Sequential(first, second).state_dict()} == names
    torch.testing.assert_close(second(first(x)), expected, rtol=1e-5, atol=1e-6)


def test_a_gate_stands_behind_the_layer_that_makes_channels_or_before_the_one_that_reads_them() -> None:
    conv, fusion, x = nn.Conv2d(3, 20, 1), nn.Conv2d(3 + 20, 4, 1), torch.randn(2, 3, 4, 5)
    for gated in (conv, fusion):
        subnet = Subnet(0, CODE)
        slim(SlimPart((conv,), (fusion,), gated), WIDTHS, subnet, enhanced=True)
        gate = gated.get_submodule("gate")
        made = F.conv2d(x, conv.weight[:10], None if conv.bias is None else conv.bias[:10])
        torch.testing.assert_close(conv(x), gate(made, subnet) if gated is conv else made)
        read = torch.cat([x, made if gated is conv else gate(made, subnet)], dim=1)
        torch.testing.assert_close(
            fusion(torch.cat([x, made], dim=1)), F.conv2d(read, fusion.weight[:, :13], fusion.bias)
        )


def test_what_slicing_would_change_is_refused() -> None:
    for conv in (
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding_mode="reflect"),
    ):
        with pytest.raises(ValueError, match="only convolutions of stride 1, one group and zero padding"):
            slim(SlimPart((conv,), (), None), WIDTHS, Subnet(), enhanced=False)


def test_a_gate_of_a_layer_that_is_not_narrow_has_all_its_outputs() -> None:
    conv, x, subnet = nn.Conv2d(3, 6, 3, padding=1), torch.randn(2, 3, 4, 5), Subnet(0, CODE)
    plain = conv(x)
    slim(SlimPart((), (), conv), WIDTHS, subnet, enhanced=True)
    torch.testing.assert_close(conv(x), conv.get_submodule("gate")(plain, subnet))


def test_a_width_of_no_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no channel is left at width 0\.1 of 6"):
        slim(SlimPart((nn.Linear(3, 6),), (), None), [0.1, 1], Subnet(), enhanced=False)


@pytest.mark.parametrize("channels", [8, 20, 32])
def test_the_gate_is_its_formula_on_the_first_rows_and_columns(channels: int) -> None:
    gate, x = FeatureInterweaving(32), torch.randn(2, channels, 3, 4)
    told = interwoven(x.mean((2, 3)), CODE)
    first, second = (part.weight.flatten(1) for part in (gate.fc1, gate.fc2))
    assert first.shape == (64, 36) and second.shape == (32, 64)
    assert gate.fc1.bias is not None and gate.fc2.bias is not None
    hidden = F.relu(told @ first[:, : told.shape[1]].T + gate.fc1.bias)
    weight = torch.sigmoid(hidden @ second[:channels].T + gate.fc2.bias[:channels])
    torch.testing.assert_close(gate(x, Subnet(0, CODE)), x * weight[:, :, None, None])


def test_the_scale_is_not_rounded_under_autocast() -> None:
    """2.3 would be 2.297 in bfloat16: the gate, large enough to show it, stays what it is."""
    gate, x = FeatureInterweaving(16), torch.ones(1, 16, 2, 2)
    nn.init.constant_(gate.fc1.weight, 1.0)
    nn.init.constant_(gate.fc2.weight, -0.01)
    subnet = Subnet(0, torch.tensor([[2.3, 2.3]]))
    exact = gate(x, subnet)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gate(x, subnet), exact, rtol=1e-6, atol=0)
