"""Weights from a file into a built network, or a whole network from a file that describes itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dynres.build import NETWORK_PACKAGES, build_restorer
from dynres.checkpoint_io import load_plain, restorer_weights
from dynres.errors import UserError
from dynres.interop.official import from_official
from dynres.restorer import Restorer

# What a Baseline lacks of a TADT: its controller starts untrained (TADT, Sec. 4.1).
_CONTROLLER = "backbone.controller."


def load_weights(restorer: Restorer, path: Path, network: Mapping[str, Any]) -> None:
    """Fill a network from a checkpoint of this suite, or from one of LIIF's, MetaSR's or LTE's authors.

    Args:
        restorer: the network, built.
        path: the checkpoint.
        network: the description that `restorer` was built from, for messages.

    Raises:
        UserError: unreadable file, or weights of another architecture; the message names both.
    """
    _fill(restorer, read_weights(path), path, network)


def _fill(
    restorer: Restorer, content: tuple[dict[str, Tensor], dict[str, Any] | None], path: Path, network: Mapping[str, Any]
) -> None:
    weights, found = content
    expected = restorer.state_dict()
    missing = [key for key in expected if key not in weights and not key.startswith(_CONTROLLER)]
    surplus = [key for key in weights if key not in expected]
    other = [key for key in weights.keys() & expected.keys() if weights[key].shape != expected[key].shape]
    no_controller = all(key not in weights for key in expected if key.startswith(_CONTROLLER))
    if not no_controller:
        missing = [key for key in expected if key not in weights]
    if missing or surplus or other:
        example = (missing or surplus or other)[0]
        how = "is missing" if missing else "has no place" if surplus else "has another shape"
        raise UserError(
            f"checkpoint {path} holds {describe(found) if found else 'another network'}, "
            f"the configuration asks for {describe(network)} ({example} {how}): choose the matching backbone, "
            f"upsampler and profile, or another checkpoint"
        )
    restorer.load_state_dict(weights, strict=False)  # the controller alone may be absent, as checked above


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """(weights by the names of a `Restorer`, the network's description or None for an author's file)."""
    content = load_plain(path)
    if isinstance(content, Mapping) and "state_dict" in content and "dynres" in content:
        return restorer_weights(content), _trusted(content["dynres"], path)
    state = content
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping) and "sd" in state["model"]:
        state = state["model"]["sd"]  # how LIIF's and LTE's training scripts save
    if isinstance(state, Mapping) and any(str(key).startswith("encoder.") for key in state):
        return from_official(dict(state)), None
    raise UserError(
        f"{path} holds no network known here: expected a checkpoint of a dynres run, or the state dict of a LIIF, "
        f"MetaSR or LTE network (keys encoder.*)"
    )


def _trusted(description: Any, path: Path) -> dict[str, Any]:
    """The network of a checkpoint's description, once it is sure to call nothing but the suite's own classes.

    Hydra follows dots through whatever a module imports, and calls nested targets: neither may come from a file.
    """
    try:
        network = dict(description["network"])
        parts = [dict(network[part]) for part in ("backbone", "upsampler")]
        targets = [str(node.pop("_target_")) for node in parts]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not describe its network ({error!r}): take another") from error
    for target, options in zip(targets, parts, strict=True):
        if not re.fullmatch(r"dynres\.(backbones|upsamplers)\.\w+\.\w+", target) or "_target_" in repr(options):
            raise UserError(
                f"checkpoint {path} refused: it asks to call {target} with {options}, and nothing but the classes of "
                f"{' and '.join(NETWORK_PACKAGES)} is built because a file says so"
            )
    return network


def describe(network: Mapping[str, Any]) -> str:
    """One line: backbone(options) + upsampler(options)."""
    parts = []
    for part in ("backbone", "upsampler"):
        node = network[part]
        options = ", ".join(f"{key}={value}" for key, value in node.items() if not key.startswith("_"))
        parts.append(f"{str(node['_target_']).rsplit('.', 1)[-1]}({options})")
    return " + ".join(parts)


def load_restorer(path: Path) -> Restorer:
    """The whole network of a checkpoint that describes itself, in evaluation mode.

    Raises:
        UserError: unreadable, or a file without a description (an author's: give it to run.py with its configuration).
    """
    content = read_weights(path)
    network = content[1]
    if network is None:
        raise UserError(
            f"{path} does not say which network it holds: name one to run it, such as "
            f"python -m dynres.run mode=predict backbone=edsr_baseline upsampler=liif profile=paper ckpt={path}"
        )
    restorer = build_restorer(network)
    _fill(restorer, content, path, network)
    return restorer.eval()
