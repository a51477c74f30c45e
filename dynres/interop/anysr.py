"""An AnySR from the plain network inside it, as its authors start: the gates begin untrained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynres.backbones.anysr import AnySR

_ANYSR = "dynres.backbones.anysr.AnySR"


def is_plain(network: Mapping[str, Any]) -> bool:
    """Whether a description is of a network that has not been slimmed."""
    return bool(network["backbone"]["_target_"] != _ANYSR)


def check_subnets(network: Mapping[str, Any], anysr: AnySR, path: object) -> None:
    """Warn where a file's subnets have other widths than a network: those of this one are not what was trained."""
    widths = network["backbone"].get("widths")
    if not is_plain(network) and widths is not None and list(widths) != anysr.widths:
        warnings.warn(
            f"checkpoint {path} was trained for backbone.widths={list(widths)}, the configuration has "
            f"{anysr.widths}: its other subnets are untrained",
            stacklevel=2,
        )


def from_plain(weights: Mapping[str, Tensor], anysr: AnySR) -> dict[str, Tensor]:
    """Weights of a plain restorer by the names of an AnySR restorer, completed by its own gates and mean shift."""
    inside = {key.replace("backbone.", "backbone.network.", 1): value for key, value in weights.items()}
    own = {f"backbone.{key}": value for key, value in anysr.state_dict().items()}
    return {key: value for key, value in own.items() if ".gate." in key or ".sub_mean." in key} | inside
