"""State dicts of the papers' authors: recognised by their names and shapes, and to and from a `Restorer`'s names."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from dynres.errors import UserError
from dynres.interop.families import FAMILIES, HEADS
from dynres.interop.family import Description, Family, Naming, Rules, State, network
from dynres.nodes import make
from dynres.restorer import Restorer
from dynres.upsamplers.implicit import ImplicitUpsampler

_ENCODER = "encoder."


def recognise(state: State, family: str | None = None) -> Description | None:
    """The network that a state dict of its authors belongs to, with all hyper-parameters; None if nobody's known here.

    Args:
        state: tensors by the authors' names. Names under "encoder." are those of an extractor under an implicit
            upsampler (the code of LIIF, LTE and their successors).
        family: whose it is, where names and shapes do not tell ("VDSR").
    """
    if family is not None:
        named = next((each for each in FAMILIES if each.name == family), None)
        if named is None:
            raise UserError(f"unknown family {family}: there are {', '.join(each.name for each in FAMILIES)}")
        return (named.by_name or named.whole)(state)
    encoder = {key.removeprefix(_ENCODER): value for key, value in state.items() if key.startswith(_ENCODER)}
    if not encoder:
        return next((found for family in FAMILIES if (found := family.whole(state)) is not None), None)
    rest = {key: value for key, value in state.items() if not key.startswith(_ENCODER)}
    backbone = next((node for family in FAMILIES if (node := family.extractor(encoder)) is not None), None)
    if backbone is None:
        return None
    with torch.device("meta"):
        channels = make(backbone, "backbone").out_channels
    upsampler = next((node for head in HEADS if (node := head(rest, channels)) is not None), None)
    return network(backbone, upsampler) if upsampler else None


def from_official(state: State, restorer: Restorer) -> dict[str, Tensor]:
    """The authors' tensors by the names of `restorer`. Their constants are left out, other surplus names are kept."""
    ours = {theirs: key for key, theirs in official_names(restorer).items()}
    constants = naming(restorer).constants
    return {ours.get(key, key): value for key, value in state.items() if key in ours or key not in constants}


def to_official(restorer: Restorer) -> dict[str, Tensor]:
    """The weights of a `Restorer` by its authors' names, with the constants that their code expects.

    Raises:
        ValueError: if the network has no authors' form known here.
    """
    names = official_names(restorer)
    return {**naming(restorer).constants} | {names[key]: value for key, value in restorer.state_dict().items()}


def official_names(restorer: Restorer) -> dict[str, str]:
    """Name in `restorer.state_dict()` -> the authors' name."""
    rules = naming(restorer)
    return {key: _official_name(key, rules) for key in restorer.state_dict()}


def naming(restorer: Restorer) -> Naming:
    """The authors' naming of a network; "encoder." stands before the extractor's names under an implicit upsampler."""
    family = family_of(restorer)
    if family is None:
        raise ValueError(f"{type(restorer.backbone).__name__} has no authors' form known here")
    found = family.naming(restorer)
    if not isinstance(restorer.upsampler, ImplicitUpsampler):
        return found
    constants = {_ENCODER + key: value for key, value in found.constants.items()}
    return Naming((*((pattern, _ENCODER + new) for pattern, new in found.backbone), ("", _ENCODER)), (), constants)


def family_of(restorer: Restorer) -> Family | None:
    """Whose network it is."""
    return next((family for family in FAMILIES if type(restorer.backbone) in family.backbones), None)


def _official_name(key: str, rules: Naming) -> str:
    part, _, name = key.partition(".")
    return _renamed(name, rules.backbone if part == "backbone" else rules.upsampler)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, new in rules:
        if match := re.match(pattern, name):
            return match.expand(new) + name[match.end() :]
    return name
