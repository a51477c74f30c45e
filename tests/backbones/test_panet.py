"""PANet and PA-EDSR: published sizes, any image, tensors that their authors store under several names.

Names, outputs and gradients against the authors' are in tests/golden/test_whole.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dynres.backbones.panet import PAEDSR, PANet
from dynres.contracts import Task
from dynres.cost.counter import count_macs
from dynres.interop.families import panet
from dynres.interop.official import from_official, recognise, to_official
from dynres.layers.pyramid_attention import PyramidAttention
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.same_size import SameSize
from tests.golden.fill import FOLDER, oracle

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
ORACLES = sorted(file.name.removesuffix(".keys.json") for file in FOLDER.glob("*.keys.json"))
CLASSES = (PANet, PAEDSR)
OWN = list(zip(panet.FAMILIES, ("panet_dn_rgb", "paedsr_x2"), strict=True))


def small(network: type[PANet] | type[PAEDSR], **options: int) -> PANet | PAEDSR:
    return network(**{"channels": 8, "blocks": 4, "reduction": 2} | options)


def restorer(network: type[PANet] | type[PAEDSR]) -> Restorer:
    """A small whole network, as recognised."""
    if network is PANet:
        return Restorer(small(PANet), SameSize(8, skip="none"), pixels=Pixels(0.0, 255.0))
    return Restorer(small(PAEDSR), PixelShuffle(8, 2), pixels=Pixels((0.4488, 0.4371, 0.4040), 255.0))


@pytest.mark.parametrize(("name", "parameters"), [("panet", 5_957_255 - 1_731), ("pa_edsr", 40_811_846 - 2_367_235)])
def test_configuration_builds_the_published_network(name: str, parameters: int) -> None:
    """The published numbers are those of whole networks, tails included."""
    network = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("network", "channels", "per_pixel"), [(PANet, 64, 5_959_022), (PAEDSR, 256, 38_595_359)])
def test_cost_is_the_convolutions_and_the_patches(network: Any, channels: int, per_pixel: int) -> None:
    """Keys and values of the five levels cost 3.3 times their share of a pixel; then 9 (32 + C) MACs a pair."""
    side = 100  # every level of it is a whole number of pixels
    levels = sum((side * tenths // 10) ** 2 for tenths in (10, 9, 8, 7, 6))
    embeddings = channels * 32 * side**2 + channels * (32 + channels) * levels
    convs = sum(p.numel() for name, p in network().named_parameters() if p.ndim == 4 and p.shape[-1] == 3) * side**2
    total = network().cost(side, side).full
    assert total == convs + embeddings + 9 * (32 + channels) * side**2 * levels
    assert (convs + embeddings) / side**2 == pytest.approx(per_pixel, rel=1e-4)


@pytest.mark.parametrize("network", CLASSES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (2, 3), (6, 7)])
def test_any_size_is_taken_and_costs_what_torch_counts(network: Any, height: int, width: int) -> None:
    made, image = small(network).eval(), torch.randn(1, 3, height, width)
    assert made(image, Task()).map.shape == (1, 8, height, width)
    assert made.cost(height, width).full == count_macs(lambda: made(image, Task()))


def test_all_blocks_of_panet_share_one_slope() -> None:
    made = small(PANet)
    slopes = [name for name, p in made.named_parameters() if p.numel() == 1]
    assert slopes == ["activation.weight", *(f"body.2.{part}.1.weight" for part in ("query", "key", "value"))]
    features = torch.randn(1, 8, 4, 4)
    for block in (made.body[0], made.body[4]):
        with torch.no_grad():
            made.activation.weight.fill_(1.0)  # the identity
        linear = features + block.conv2(block.conv1(features))
        torch.testing.assert_close(block(features, made.activation), linear)


@pytest.mark.parametrize("network", CLASSES)
def test_the_attention_stands_after_half_of_the_blocks(network: Any) -> None:
    made = small(network, blocks=6)
    assert (
        [index for index, layer in enumerate(made.body) if isinstance(layer, PyramidAttention)] == [3] == [made.middle]
    )
    assert len(made.body) == 6 + 1 + 1


@pytest.mark.parametrize("network", CLASSES)
def test_export_repeats_shared_tensors_under_every_name_and_comes_back(network: Any) -> None:
    made = restorer(network)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    state = to_official(made)
    pairs = [(f"body.{index}.body.1.weight", "body.4.body.1.weight") for index in (0, 1, 3)]
    if network is PAEDSR:
        pairs = [(key, key.replace("msa.", "body.2.")) for key in state if key.startswith("msa.")]
        assert len(pairs) == 10
    assert all(torch.equal(state[first], state[second]) for first, second in pairs)
    found = recognise(state)
    assert found is not None
    again = Restorer.from_description(found)
    assert again.pixels == made.pixels
    again.load_state_dict(from_official(state, again), strict=True)
    image = torch.rand(1, 3, 6, 5)
    assert torch.equal(again.restore(image).image, made.restore(image).image)


@pytest.mark.parametrize("network", CLASSES)
def test_impossible_sizes_are_refused_by_name(network: Any) -> None:
    for option in ("channels", "blocks", "reduction"):
        with pytest.raises(ValueError, match=rf"{option} of at least 1, got 0"):
            small(network, **{option: 0})
    with pytest.raises(ValueError, match="even number of blocks around its attention, got 3"):
        small(network, blocks=3)


def test_an_image_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="image_channels of at least 1, got 0"):
        PANet(image_channels=0)


@pytest.mark.parametrize("model", ORACLES)
def test_no_other_state_dict_is_taken(model: str) -> None:
    state = {key: torch.ones(()).expand(shape) for key, shape in oracle(model).keys.items()}
    inner = {key.removeprefix("encoder."): value for key, value in state.items()}
    for family, own in OWN:
        assert (family.whole(state) is not None) == (model == own)
        assert (family.extractor(inner) is not None) == (model == own)


@pytest.mark.parametrize(("family", "model"), OWN)
def test_no_incomplete_state_dict_is_taken(family: Any, model: str) -> None:
    state = {key: torch.ones(()).expand(shape) for key, shape in oracle(model).keys.items()}
    needed = [key for key in state if key.startswith(("head.", "body.", "msa.")) and "escape" not in key]
    for missing in needed:
        assert family.whole({key: value for key, value in state.items() if key != missing}) is None, missing
    assert family.whole(state | {"body.90.weight": torch.ones(1)}) is None
    assert family.whole(dict.fromkeys(needed, torch.ones(1))) is None
