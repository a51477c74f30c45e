"""RDN: parity with the authors' numbers, its published cost, and the facts that live on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dynres.backbones.rdn import RDN
from dynres.build import build_restorer
from dynres.contracts import Task
from dynres.interop.families import rdn
from dynres.interop.official import from_official, recognise, to_official
from dynres.layers.pixels import Pixels
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import Oracle, assert_parity, oracle
from tests.golden.parity import assert_forward, assert_gradient, assert_names, rebuilt

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
FEATURES = oracle("rdn_feat")
SMALL = {"channels": 6, "growth": 4, "blocks": 2, "convs": 3}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Restorer, Oracle]]:
    """The whole x2 network, built from the official state dict; its features have the weights of `rdn_feat`."""
    yield rebuilt("rdn_x2")


def test_whole_network_equals_the_authors(pair: tuple[Restorer, Oracle]) -> None:
    """Recognised as a network of 8-bit values, which its state dict does not tell; the oracle's input is in [0, 1]."""
    restorer, reference = pair
    assert restorer.pixels == Pixels(mean=0.0, factor=255.0)
    assert_names(restorer, reference)
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["total_params"] == 22_123_395
    restorer.pixels = Pixels(mean=0.0, factor=1.0)
    assert_forward(restorer, reference, "a", "rdn_x2")
    assert_gradient(restorer, reference, "a")


@pytest.mark.parametrize("case", ["a", "b"])
def test_features_equal_the_authors(pair: tuple[Restorer, Oracle], case: str) -> None:
    with torch.no_grad():
        features = pair[0].backbone(FEATURES.array(f"{case}.input"), Task())
    assert_parity(features.map, FEATURES.array(f"{case}.output"), case)


def test_extractor_is_recognised_by_its_names() -> None:
    state = FEATURES.weights()
    assert rdn.extractor(state) == {
        "_target_": "dynres.backbones.rdn.RDN", "channels": 64, "growth": 64, "blocks": 16, "convs": 8
    }  # fmt: skip
    for key in ("SFENet1.bias", "RDBs.3.convs.2.conv.0.weight", "RDBs.15.LFF.weight", "GFF.1.weight"):
        assert rdn.extractor({other: value for other, value in state.items() if other != key}) is None, key
    assert rdn.extractor({**state, "GFF.2.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_whole_networks_of_every_scale_survive_the_round_trip(scale: int) -> None:
    restorer = Restorer(RDN(**SMALL | {"growth": 6}), PixelShuffle(6, scale))
    state = to_official(restorer)
    assert {key.split(".")[1] for key in state if key.startswith("UPNet")} == {"0", "2", "4"[: scale // 4]} - {""}
    found = recognise(state)
    assert found is not None and found["upsampler"]["scale"] == scale
    again = build_restorer(found)
    again.load_state_dict(from_official(state, again), strict=True)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in restorer.state_dict().items())


def test_under_an_implicit_upsampler_its_names_begin_with_encoder() -> None:
    restorer = Restorer(RDN(**SMALL), LIIF(6))
    state = to_official(restorer)
    assert "encoder.RDBs.1.convs.2.conv.0.weight" in state and "encoder.SFENet2.bias" in state
    found = recognise({key: value for key, value in state.items() if key.startswith(("encoder.", "imnet."))})
    assert found is not None and found["backbone"] == {"_target_": "dynres.backbones.rdn.RDN", **SMALL}


def test_a_tail_narrower_than_the_features_is_not_known() -> None:
    """Configuration A's: 64 channels of features, 32 in the tail."""
    state = to_official(Restorer(RDN(**SMALL), PixelShuffle(6, 2)))
    assert recognise(state) is None


def test_configuration_is_published_with_its_parameters_and_macs() -> None:
    network = instantiate(OmegaConf.load(CONF / "rdn.yaml"))
    assert sum(p.numel() for p in network.parameters()) == 21_973_952
    assert network.cost(7, 9).full == 63 * 21_964_480


def test_halo_is_the_exact_receptive_radius() -> None:
    """A pixel `halo` away changes the output, one further away does not."""
    network = RDN(4, 3, 2, 2).double()
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU hides what reaches it
    image = torch.rand(1, 3, 1, 2 * network.halo + 3, dtype=torch.double, requires_grad=True)
    centre = network.halo + 1
    (gradient,) = torch.autograd.grad(network(image, Task()).map[0, :, 0, centre].sum(), image)
    reached = gradient[0, :, 0].abs().sum(0).nonzero().flatten() - centre
    assert (reached.min().item(), reached.max().item()) == (-network.halo, network.halo)


def test_smallest_image() -> None:
    assert RDN(**SMALL)(torch.rand(2, 3, 1, 1), Task()).map.shape == (2, 6, 1, 1)


@pytest.mark.parametrize("option", ["channels", "growth", "blocks", "convs"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"RDN needs {option} of at least 1, got 0"):
        RDN(**{option: 0})
