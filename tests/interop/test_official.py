"""State dicts of the papers' authors: recognised by one family at most, and to our names and back unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from dynres.backbones.base import Backbone
from dynres.backbones.edsr import EDSR
from dynres.backbones.han import HAN
from dynres.backbones.identity import Identity
from dynres.backbones.rcan import RCAN
from dynres.backbones.rdn import RDN
from dynres.backbones.san import SAN
from dynres.build import build_restorer
from dynres.errors import UserError
from dynres.interop.families import FAMILIES
from dynres.interop.official import from_official, naming, recognise, to_official
from dynres.layers.pixels import Pixels
from dynres.restorer import Restorer
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.metasr import MetaSR
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import FOLDER

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])
ORACLES = sorted(path.name.removesuffix(".keys.json") for path in FOLDER.glob("*.keys.json"))


def shapes(model: str) -> dict[str, Tensor]:
    """An official state dict without its values, except for the mean shift, which tells the range."""
    facts = json.loads((FOLDER / f"{model}.keys.json").read_text())
    state = {key: torch.zeros(()).expand(shape) for key, shape in facts["keys"].items()}
    if "sub_mean.bias" in state:
        state["sub_mean.bias"] = -255 * MEAN
    return state


# Convolutional extractors, and every kind of tail that their authors' code and the arbitrary-scale papers give them.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "edsr.EDSR": lambda: EDSR(8, 2, 1.0),
    "rdn.RDN": lambda: RDN(8, 8, 2, 2),
    "rcan.RCAN": lambda: RCAN(8, 2, 1, 4),
    "han.HAN": lambda: HAN(8, 2, 1, 4),
    "san.SAN": lambda: SAN(8, 2, 1, 4),
}
WHOLE: dict[str, Callable[[], Upsampler]] = {f"x{scale}": partial(PixelShuffle, 8, scale) for scale in (2, 3, 4)}
IMPLICIT: dict[str, Callable[[], Upsampler]] = {head.__name__: partial(head, 8) for head in (LIIF, MetaSR, LTE)}


@pytest.mark.parametrize("head", WHOLE | IMPLICIT)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_to_official_and_back_returns_the_same_tensors(backbone: str, head: str) -> None:
    restorer = Restorer(BACKBONES[backbone](), (WHOLE | IMPLICIT)[head]())
    official = to_official(restorer)
    back, state = from_official(official, restorer), restorer.state_dict()
    assert set(back) == set(state)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    found = recognise(official)
    assert found is not None and found["backbone"]["_target_"] == f"dynres.backbones.{backbone}"


@pytest.mark.parametrize("head", WHOLE)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_whole_networks_are_rebuilt_from_what_is_exported(backbone: str, head: str) -> None:
    restorer = Restorer(BACKBONES[backbone](), WHOLE[head]())
    official = to_official(restorer)
    found = recognise(official)
    assert found is not None
    again = build_restorer(found)
    again.load_state_dict(from_official(official, again), strict=True)
    assert again.upsampler.scale == restorer.upsampler.scale


def test_extractors_under_an_implicit_upsampler_carry_a_shift_of_unit_range() -> None:
    official = to_official(Restorer(EDSR(4, 1, 1.0), LIIF(4)))
    assert torch.equal(official["encoder.sub_mean.weight"][:, :, 0, 0], torch.eye(3))
    assert torch.equal(official["encoder.sub_mean.bias"], -MEAN)
    assert torch.equal(official["encoder.add_mean.bias"], MEAN)


@pytest.mark.parametrize("factor", [1.0, 255.0])
def test_whole_networks_carry_a_shift_of_their_range(factor: float) -> None:
    restorer = Restorer(EDSR(4, 1, 1.0), PixelShuffle(4, 2), pixels=Pixels(tuple(MEAN.tolist()), factor))
    official = to_official(restorer)
    torch.testing.assert_close(official["sub_mean.bias"], -factor * MEAN)
    found = recognise(official)
    assert found is not None and found["pixels"]["factor"] == pytest.approx(factor)


def test_networks_without_a_mean_shift_get_none() -> None:
    official = to_official(Restorer(RDN(4, 4, 1, 1), LIIF(4)))
    assert not [key for key in official if "_mean" in key]
    assert set(official) >= {"encoder.SFENet1.weight", "encoder.RDBs.0.convs.0.conv.0.weight", "imnet.layers.0.bias"}


def test_loading_leaves_constants_out_and_keeps_other_surplus_names() -> None:
    """A stranger must reach whoever checks that all keys have a place."""
    restorer = Restorer(EDSR(4, 1, 1.0), LIIF(4))
    state = to_official(restorer) | {"encoder.stranger": torch.zeros(1)}
    assert set(from_official(state, restorer)) == set(restorer.state_dict()) | {"encoder.stranger"}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"conv1.weight": torch.zeros(1)},
        {"encoder.conv1.weight": torch.zeros(1), "imnet.layers.0.weight": torch.zeros(1)},
        {key: value for key, value in to_official(Restorer(EDSR(4, 1, 1.0), LIIF(4))).items() if "imnet" not in key},
        {key: value for key, value in to_official(Restorer(EDSR(4, 1, 1.0), LIIF(4))).items() if "head" not in key},
    ],
    ids=["nothing", "a stranger", "unknown extractor", "no upsampler", "half an extractor"],
)
def test_foreign_state_dicts_are_not_recognised(state: Mapping[str, Tensor]) -> None:
    assert recognise(state) is None


def test_networks_that_nobody_published_have_no_official_names() -> None:
    with pytest.raises(ValueError, match="Identity has no authors' form known here"):
        naming(Restorer(Identity(), PixelShuffle(3, 2)))


def test_an_unknown_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"unknown family ESDR: there are EDSR, "):
        recognise({}, family="ESDR")


def test_a_named_family_alone_is_asked() -> None:
    state = to_official(Restorer(EDSR(4, 1, 1.0), PixelShuffle(4, 2)))
    assert recognise(state, family="EDSR") == recognise(state) is not None
    assert recognise(state, family="RCAN") is None


def test_families_have_names_of_their_own() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("model", ORACLES)
def test_no_state_dict_belongs_to_two_families(model: str) -> None:
    """Of the authors' whole networks and extractors; with a prefix as well as without."""
    state = shapes(model)
    encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    assert len([family.name for family in FAMILIES if family.whole(state) is not None]) <= 1
    assert len([family.name for family in FAMILIES if family.extractor(encoder or state) is not None]) <= 1


@pytest.mark.parametrize("model", ORACLES)
def test_half_a_state_dict_is_nobodys_error(model: str) -> None:
    """Recognition answers None, or something that loading then refuses by name; it does not stumble."""
    state = shapes(model)
    keys = list(state)
    for part in (keys[::2], keys[1::2], keys[: len(keys) // 2], keys[len(keys) // 2 :], keys[:1], keys[1:], keys[:-1]):
        recognise({key: state[key] for key in part})
        for family in FAMILIES:
            family.extractor({key.removeprefix("encoder."): state[key] for key in part})
