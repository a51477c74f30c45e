"""A FlexIR from a SwinIR: blocks are its residual groups, each branch begins as its tail (FlexIR, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dynres.backbones.flexir import FlexIR
from dynres.errors import UserError

_SWINIR = "dynres.backbones.swinir.SwinIR"
_SHARED = ("conv_first.", "patch_norm.", "layers.")


def is_swinir(network: Mapping[str, Any]) -> bool:
    """Whether a description is of a SwinIR."""
    return network["backbone"]["_target_"] == _SWINIR


def from_swinir(weights: Mapping[str, Tensor], flexir: FlexIR) -> dict[str, Tensor]:
    """Weights of a SwinIR restorer by the names of a FlexIR restorer, whether or not the two are of one size.

    The last block then restores as the SwinIR does. Tensors are shared between the branches' names, not copied.
    """
    filled: dict[str, Tensor] = {}
    for key, value in weights.items():
        part, _, name = key.partition(".")
        if part == "backbone" and name.startswith(_SHARED):
            filled[key] = value
        else:
            filled |= {f"backbone.branches.{number}.{name}": value for number in range(len(flexir.branches))}
    return filled


def calibration_of(network: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The thresholds that a description was calibrated to; none for other networks."""
    return [(float(share), float(threshold)) for share, threshold in network["backbone"].get("calibration") or ()]


def check_skip(network: Mapping[str, Any], flexir: FlexIR, path: object) -> None:
    """Refuse a SwinIR that does something else with the image than the FlexIR would.

    Raises:
        UserError: naming the file and the option.
    """
    head = network["upsampler"]
    skip = head.get("skip", "add") if head["_target_"].endswith(".SameSize") else "none"
    if network.get("image_skip"):
        skip = "add"
    if skip != ("add" if flexir.skip else "none"):
        raise UserError(
            f"checkpoint {path} holds a SwinIR with skip={skip} of the image, the configuration a FlexIR with "
            f"backbone.skip={str(flexir.skip).lower()}: "
            + ("no FlexIR subtracts" if skip == "subtract" else f"set backbone.skip={str(skip == 'add').lower()}")
        )
