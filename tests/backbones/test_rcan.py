"""RCAN: parity with the authors' numbers, its published cost, and the facts that live on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from dynres.backbones.rcan import RCAN
from dynres.contracts import Task
from dynres.interop.families import rcan
from dynres.interop.official import recognise, to_official
from dynres.layers.residual import ATTENTION_HALO, RCAB, ChannelAttention
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF
from tests.golden.fill import assert_parity, oracle

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
GOLDEN = oracle("rcan_feat")
PER_IMAGE = 200 * 2 * 64 * 4  # the 1x1 convolutions of 200 channel attentions
SMALL = {"channels": 8, "groups": 2, "blocks": 3, "reduction": 4}


@pytest.fixture(scope="module")
def filled() -> Iterator[RCAN]:
    network = RCAN()
    network.load_state_dict(GOLDEN.weights())
    yield network


@pytest.mark.parametrize("case", ["a", "b"])
def test_features_equal_the_authors(filled: RCAN, case: str) -> None:
    with torch.no_grad():
        features = filled(GOLDEN.array(f"{case}.input"), Task())
    assert_parity(features.map, GOLDEN.array(f"{case}.output"), case)


def test_gradient_equals_the_authors(filled: RCAN) -> None:
    loss = filled(GOLDEN.array("a.input"), Task()).map.abs().mean()
    loss.backward()
    gradient = filled.get_parameter(str(GOLDEN.arrays["a.grad_name"])).grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(GOLDEN.arrays["a.loss"]), rel=1e-5)
    assert gradient.double().abs().sum().item() == pytest.approx(float(GOLDEN.arrays["a.grad_abs_sum"]), rel=1e-4)


def test_extractor_is_recognised_by_its_names() -> None:
    state = GOLDEN.weights()
    assert rcan.extractor(state) == {
        "_target_": "dynres.backbones.rcan.RCAN", "channels": 64, "groups": 10, "blocks": 20, "reduction": 16
    }  # fmt: skip
    for key in ("head.0.weight", "body.10.bias", "body.9.body.20.weight", "body.4.body.7.body.3.conv_du.2.bias"):
        assert rcan.extractor({other: value for other, value in state.items() if other != key}) is None, key
    assert rcan.extractor({**state, "sa_adapt.0.mask.0.weight": torch.zeros(1)}) is None


def test_under_an_implicit_upsampler_its_names_are_those_of_liif() -> None:
    state = to_official(Restorer(RCAN(), LIIF(64)))
    theirs = {f"encoder.{key}": shape for key, shape in GOLDEN.keys.items()}
    assert {key: tuple(value.shape) for key, value in state.items() if key.startswith("encoder.")} == theirs
    found = recognise(state)
    assert found is not None and found["backbone"] == rcan.extractor(GOLDEN.weights())


@pytest.mark.parametrize(
    ("extra", "parameters", "macs"), [(False, 15_295_200, 15_165_632), (True, 15_332_128, 15_202_496)]
)
def test_configuration_is_published_with_its_parameters_and_macs(extra: bool, parameters: int, macs: int) -> None:
    """With the extra convolution: 15.33 M and, on DIV2K's mean 708 757.2 pixels at x2, 10774.88 G (TADT, Table 3)."""
    network = instantiate(OmegaConf.load(CONF / "rcan.yaml"), extra_conv=extra)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.cost(7, 9).full == 63 * macs + PER_IMAGE
    assert OmegaConf.load(CONF / "rcan.yaml").extra_conv is False


def test_the_extra_convolution_comes_last() -> None:
    network, image = RCAN(**SMALL, extra_conv=True), torch.rand(1, 3, 5, 4)
    plain = RCAN(**SMALL)
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if "extra" not in key})
    torch.testing.assert_close(network(image, Task()).map, network.extra(plain(image, Task()).map))


def test_the_extra_convolution_has_no_official_name() -> None:
    with pytest.raises(ValueError, match="extra_conv=true has no authors' form"):
        to_official(Restorer(RCAN(**SMALL, extra_conv=True), LIIF(8)))


def test_channel_attention_weighs_channels_by_their_means() -> None:
    layer, x = ChannelAttention(6, 3), torch.randn(2, 6, 3, 4)
    first, second = layer.conv_du[0], layer.conv_du[2]
    for image, out in zip(x, layer(x), strict=True):
        squeezed = (first.weight[..., 0, 0] @ image.mean(dim=(1, 2)) + first.bias).clamp_min(0)
        weights = 1 / (1 + torch.exp(-(second.weight[..., 0, 0] @ squeezed + second.bias)))
        torch.testing.assert_close(out, torch.stack([w * channel for w, channel in zip(weights, image, strict=True)]))


def test_channel_attention_too_narrow_to_squeeze_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 channels to reduce by 16, got 8"):
        RCAN(channels=8)


@pytest.mark.parametrize("extra", [False, True])
def test_halo_is_what_its_convolutions_reach(extra: bool) -> None:
    """Without the attention, which sees the whole image: a pixel `halo` away matters, one further away does not."""
    network = RCAN(**SMALL, extra_conv=extra).double()
    for block in [module for module in network.modules() if isinstance(module, RCAB)]:
        block.body[3] = nn.Identity()
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU hides what reaches it
    image = torch.rand(1, 3, 1, 2 * network.halo + 3, dtype=torch.double, requires_grad=True)
    centre = network.halo + 1
    (gradient,) = torch.autograd.grad(network(image, Task()).map[0, :, 0, centre].sum(), image)
    reached = gradient[0, :, 0].abs().sum(0).nonzero().flatten() - centre
    assert (reached.min().item(), reached.max().item()) == (-network.halo, network.halo)


def test_halo_of_a_deep_network_is_bounded(filled: RCAN) -> None:
    assert filled.halo == ATTENTION_HALO < 10 * (2 * 20 + 1) + 2


def test_smallest_image() -> None:
    assert RCAN(**SMALL)(torch.rand(2, 3, 1, 1), Task()).map.shape == (2, 8, 1, 1)


@pytest.mark.parametrize("option", ["channels", "groups", "blocks"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"RCAN needs {option} of at least 1, got 0"):
        RCAN(**{option: 0})


def test_impossible_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction of at least 1, got 0"):
        RCAN(**SMALL | {"reduction": 0})
