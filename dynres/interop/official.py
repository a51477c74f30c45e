"""Names of weights: between the code of LIIF's, MetaSR's and LTE's authors and a `Restorer`.

The authors' models hold `encoder.*` (the extractor) and the upsampler's own keys at the top level.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Their EDSR and RCAN carry a mean shift that their forward never calls: (identity, -mean) and (identity, +mean).
_MEAN = (0.4488, 0.4371, 0.4040)
_SHIFTS = {"encoder.sub_mean": -1.0, "encoder.add_mean": 1.0}


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' full-model state dict by the names of a `Restorer`; the unused mean shift is dropped.

    Raises:
        ValueError: if there is no `encoder.*` key; the message gives the first key.
    """
    if not any(key.startswith("encoder.") for key in state):
        first = next(iter(state), "nothing")
        raise ValueError(f"expected the state dict of a LIIF, MetaSR or LTE model (keys encoder.*), got {first}")
    kept = {key: value for key, value in state.items() if key.rpartition(".")[0] not in _SHIFTS}
    return {_renamed(key, "encoder.", "backbone.", "upsampler."): value for key, value in kept.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `Restorer` by the authors' names, in their order, with the constants that they expect.

    Raises:
        ValueError: if a key belongs to neither backbone nor upsampler; the message gives it.
    """
    for key in state:
        if not key.startswith(("backbone.", "upsampler.")):
            raise ValueError(f"expected the state dict of a Restorer (keys backbone.*, upsampler.*), got {key}")
    head = state.get("backbone.head.0.weight")  # EDSR's and RCAN's first layer; other extractors have no mean shift
    shift = {} if head is None else _mean_shift(head)
    return shift | {_renamed(key.removeprefix("upsampler."), "backbone.", "encoder.", ""): state[key] for key in state}


def _renamed(key: str, prefix: str, new: str, otherwise: str) -> str:
    return new + key.removeprefix(prefix) if key.startswith(prefix) else otherwise + key


def _mean_shift(like: Tensor) -> dict[str, Tensor]:
    shift: dict[str, Tensor] = {}
    for name, sign in _SHIFTS.items():
        shift[f"{name}.weight"] = torch.eye(3).to(like).view(3, 3, 1, 1)
        shift[f"{name}.bias"] = sign * torch.tensor(_MEAN).to(like)
    return shift
