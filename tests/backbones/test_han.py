"""HAN: its attentions against loops, the whole of it by the authors' names, its size, and the facts that live on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from dynres.backbones.han import HAN, ChannelSpatialAttention, LayerAttention
from dynres.build import build_restorer
from dynres.contracts import Task
from dynres.interop.official import from_official, recognise, to_official
from dynres.layers.pixels import DIV2K_MEAN, Pixels
from dynres.layers.residual import RCAB
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import drawn, uniform

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
SMALL = {"channels": 6, "groups": 3, "blocks": 2, "reduction": 2}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A small x2 network by the authors' names, all weights drawn, in double precision."""
    empty = to_official(Restorer(HAN(**SMALL), PixelShuffle(6, 2), pixels=Pixels(DIV2K_MEAN, 255.0)))
    return {key: (value if "_mean" in key else drawn(key, value.shape, 0.6)).double() for key, value in empty.items()}


def conv(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def group(state: Mapping[str, Tensor], name: str, blocks: int, x: Tensor) -> Tensor:
    """A residual group of RCAN."""
    out = x
    for block in (f"{name}.body.{number}.body" for number in range(blocks)):
        y = conv(state, f"{block}.2", conv(state, f"{block}.0", out).relu())
        squeezed = conv(state, f"{block}.3.conv_du.0", y.mean(dim=(2, 3), keepdim=True)).relu()
        out = out + y * conv(state, f"{block}.3.conv_du.2", squeezed).sigmoid()
    return x + conv(state, f"{name}.body.{blocks}", out)


def layer_attention(layers: list[Tensor], gamma: Tensor) -> list[Tensor]:
    """Of one image: each layer + gamma times the mean of all, by softmax of minus their products."""
    out = []
    for layer in layers:
        similar = torch.stack([(layer * other).sum() for other in layers])
        unlike = torch.exp(similar.min() - similar)
        weights = unlike / unlike.sum()
        out.append(layer + gamma * sum(w * other for w, other in zip(weights, layers, strict=True)))
    return out


def channel_spatial_attention(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor) -> Tensor:
    """Of one image (C, H, W): the sum over the 27 neighbours in channel, row and column, zeros outside."""
    padded, total = F.pad(x, (1,) * 6), torch.zeros_like(x) + bias
    for c in range(3):
        for row in range(3):
            for column in range(3):
                shifted = padded[c : c + x.shape[0], row : row + x.shape[1], column : column + x.shape[2]]
                total = total + weight[0, 0, c, row, column] * shifted
    return x + gamma * x / (1 + torch.exp(-total))


def han(state: Mapping[str, Tensor], image: Tensor, groups: int, blocks: int) -> Tensor:
    """What the authors' code computes of one image in [0, 255], step by step from its state dict."""
    mean = 255 * torch.tensor(DIV2K_MEAN, dtype=torch.double).view(1, 3, 1, 1)
    head = conv(state, "head.0", image - mean)
    layers = [group(state, "body.0", blocks, head)]
    for number in range(1, groups):
        layers.append(group(state, f"body.{number}", blocks, layers[-1]))
    layers.append(conv(state, f"body.{groups}", layers[-1]))
    attended = layer_attention(layers[::-1], state["la.gamma"])  # the newest first
    by_layer = conv(state, "last_conv", torch.cat(attended, dim=1))
    csa = (state["csa.conv.weight"], state["csa.conv.bias"], state["csa.gamma"])
    by_place = channel_spatial_attention(layers[-1][0], *csa)[None]
    features = conv(state, "last", torch.cat([by_place, by_layer], dim=1)) + head
    return conv(state, "tail.1", F.pixel_shuffle(conv(state, "tail.0.0", features), 2)) + mean


def test_whole_network_is_what_its_state_dict_says(state: dict[str, Tensor]) -> None:
    found = recognise(state)
    assert found is not None and found["backbone"] == {"_target_": "dynres.backbones.han.HAN", **SMALL}
    restorer = build_restorer(found).double()
    restorer.load_state_dict(from_official(state, restorer), strict=True)
    assert restorer.pixels == Pixels(DIV2K_MEAN, 255.0)
    image = uniform((2, 3, 5, 7), 0).double()
    features = restorer.backbone(restorer.pixels.normal(image), Task())
    ours = 255 * restorer.pixels.colours(restorer.upsampler.decode(features, (10, 14)), 1)
    theirs = torch.cat([han(state, 255 * each[None], SMALL["groups"], SMALL["blocks"]) for each in image])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_layer_attention_is_the_loop_over_layers() -> None:
    """With features so small that every layer has its share."""
    attention, x = LayerAttention().double(), 0.2 * torch.randn(2, 4, 3, 5, 4, dtype=torch.double)
    attention.gamma.data.fill_(0.7)
    for image, out in zip(x, attention(x), strict=True):
        expected = layer_attention(list(image), attention.gamma)
        torch.testing.assert_close(out, torch.stack(expected))


def test_layers_attend_to_those_unlike_them() -> None:
    """The weights on their own: two opposite layers each take the other."""
    attention, x = LayerAttention(), torch.randn(1, 1, 2, 3, 3).repeat(1, 2, 1, 1, 1)
    x[:, 1] *= -1
    attention.gamma.data.fill_(1.0)
    torch.testing.assert_close(attention(10 * x), torch.zeros_like(x), rtol=0, atol=1e-4)


def test_attentions_of_a_fresh_network_do_nothing() -> None:
    """Both scales begin at 0."""
    layers, features = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 4, 5, 6)
    assert torch.equal(LayerAttention()(layers), layers)
    assert torch.equal(ChannelSpatialAttention()(features), features)


def test_a_state_dict_with_a_key_more_or_less_is_not_recognised(state: dict[str, Tensor]) -> None:
    for key in set(state) - {"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"}:
        assert recognise({other: value for other, value in state.items() if other != key}) is None, key
    assert recognise({**state, "csa.other": torch.zeros(1)}) is None


def test_configuration_is_the_published_size() -> None:
    """15.92 M with the x2 tail, as the authors' code has; per pixel RCAN's MACs and those of the attentions."""
    network = instantiate(OmegaConf.load(CONF / "han.yaml"))
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == 15_774_590
    assert parameters + sum(p.numel() for p in PixelShuffle(64, 2).parameters()) == 15_924_033
    attentions = 2 * 11**2 * 64 + 27 * 64 + 9 * 64 * (11 * 64 + 2 * 64)
    assert network.cost(7, 9).full == 63 * (15_165_632 + attentions) + 200 * 2 * 64 * 4


def test_halo_is_what_its_convolutions_reach() -> None:
    """Without the attentions that see the whole image: a pixel `halo` away matters, one further away does not."""
    network = HAN(**SMALL | {"groups": 2}).double()
    network.csa.gamma.data.fill_(1.0)
    for block in [module for module in network.modules() if isinstance(module, RCAB)]:
        block.body[3] = nn.Identity()
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU hides what reaches it
    image = torch.rand(1, 3, 1, 2 * network.halo + 3, dtype=torch.double, requires_grad=True)
    centre = network.halo + 1
    (gradient,) = torch.autograd.grad(network(image, Task()).map[0, :, 0, centre].sum(), image)
    reached = gradient[0, :, 0].abs().sum(0).nonzero().flatten() - centre
    assert (reached.min().item(), reached.max().item()) == (-network.halo, network.halo)


def test_smallest_image() -> None:
    assert HAN(**SMALL)(torch.rand(2, 3, 1, 1), Task()).map.shape == (2, 6, 1, 1)


@pytest.mark.parametrize("option", ["channels", "groups", "blocks"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"HAN needs {option} of at least 1, got 0"):
        HAN(**{option: 0})
