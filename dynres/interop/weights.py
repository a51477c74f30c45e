"""Weights from a file into a built network, or a whole network from a file: this suite's own, or its authors'."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dynres.backbones.anysr import AnySR
from dynres.backbones.flexir import FlexIR
from dynres.checkpoint_io import load_plain, restorer_weights
from dynres.errors import UserError
from dynres.interop.anysr import check_subnets, from_plain, is_plain
from dynres.interop.families import FAMILIES, HEADS
from dynres.interop.family import Description
from dynres.interop.flexir import calibration_of, check_skip, from_swinir, is_swinir
from dynres.interop.official import family_of, from_official, recognise
from dynres.pretrained import read_folder, trusted
from dynres.restorer import Restorer

# What a Baseline lacks of a TADT: its controller starts untrained (TADT, Sec. 4.1).
_CONTROLLER = "backbone.controller."
_COUNTER = ".num_batches_tracked"  # of batch normalisation; old files lack it, and evaluation does not read it
# How training scripts wrap a state dict: BasicSR and KAIR, Lightning and timm; innermost last.
_WRAPPERS = ("params_ema", "params", "state_dict", "model", "sd")


class Content(NamedTuple):
    """What a file holds: `weights` by the names of a `Restorer`, or of its authors' code if `official`."""

    weights: dict[str, Tensor]
    network: Description
    official: bool


def load_pretrained(path: Path | str, family: str | None = None, part: str | None = None) -> Restorer:
    """The network of a file, ready to restore: whose it is, and how large, is read off its names and shapes.

    Args:
        path: a checkpoint of a run, a folder of `save_pretrained`, or a state dict of the authors of one of the papers'
            networks (bare, or as BasicSR, KAIR, LIIF, DataParallel save it).
        family: whose it is, where names and shapes do not tell: "VDSR" (else a DnCNN of the same shape; a file name
            with "vdsr" says so too).
        part: which of the networks, for a file that holds several (IRCNN's, one for each noise level).

    Raises:
        UserError: unreadable, or nobody's known here; the message lists whose are.
    """
    path = Path(path)
    content = read_content(path, family, part)
    restorer = Restorer.from_description(content.network)
    _fill(restorer, content, path)
    return restorer.eval()


def load_weights(restorer: Restorer, path: Path, start: bool = True) -> None:
    """Fill a built network from anything that `load_pretrained` reads.

    A Baseline fills a TADT and leaves its controller as it is. A SwinIR fills a FlexIR, each branch with a copy of its
    tail. A plain network fills an AnySR around the same and leaves its gates as they are.

    Args:
        start: they will be trained on; else a plain network, whose subnets are untrained, does not fill an AnySR.

    Raises:
        UserError: unreadable file, or weights of another architecture; the message names both.
    """
    content = read_content(path)
    if isinstance(restorer.backbone, AnySR):
        if is_plain(content.network) and not start:
            raise UserError(
                f"checkpoint {path} holds {describe(content.network)}, a start for AnySR whose gates and subnets are "
                f"not trained: train it (mode=fit), or take the file's own network (network=ckpt)"
            )
        check_subnets(content.network, restorer.backbone, path)
    _fill(restorer, content, path)


def read_content(path: Path, family: str | None = None, part: str | None = None) -> Content:
    """The weights and the description of a file; see `load_pretrained`."""
    if path.is_dir():
        network, weights = read_folder(path)
        return Content(weights, network, official=False)
    stored = _stored(path)
    if isinstance(stored, Mapping) and "state_dict" in stored and "dynres" in stored:
        return Content(restorer_weights(stored), trusted(stored["dynres"], path), official=False)
    state = _unwrapped(_chosen(stored, part, path))
    found = recognise(state, family or hinted(path)) if state else None
    if found is None:
        known = ", ".join(each.name for each in FAMILIES)
        heads = ", ".join(head.__name__ for head in HEADS)
        raise UserError(
            f"{path} holds no network known here: expected a checkpoint of a dynres run, a folder of save_pretrained, "
            f"or the state dict of a {known}; alone or as encoder.* under {heads}"
        )
    return Content(state, found, official=True)


def describe(network: Mapping[str, Any]) -> str:
    """One line: backbone(options) + upsampler(options)."""
    return " + ".join(_called(network[part]) for part in ("backbone", "upsampler"))


def _called(node: Mapping[str, Any]) -> str:
    inner = {key: _called(value) for key, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    values = {**node, **inner}
    options = ", ".join(f"{key}={value}" for key, value in values.items() if not key.startswith("_"))
    return f"{str(node['_target_']).rsplit('.', 1)[-1]}({options})"


def _fill(restorer: Restorer, content: Content, path: Path) -> None:
    weights, expected = content.weights, restorer.state_dict()
    into_flexir = isinstance(restorer.backbone, FlexIR) and is_swinir(content.network)
    into_anysr = isinstance(restorer.backbone, AnySR) and is_plain(content.network)
    if content.official and (into_flexir or into_anysr):
        with torch.device("meta"):
            weights = from_official(weights, Restorer.from_description(content.network))
    if isinstance(restorer.backbone, FlexIR) and into_flexir:
        weights = from_swinir(weights, restorer.backbone)
    elif isinstance(restorer.backbone, AnySR) and into_anysr:
        weights = from_plain(weights, restorer.backbone)
    elif content.official and family_of(restorer) is not None:
        weights = from_official(weights, restorer)
    missing = [key for key in expected if key not in weights and not key.startswith(_CONTROLLER)]
    surplus = [key for key in weights if key not in expected]
    other = [key for key in weights.keys() & expected.keys() if weights[key].shape != expected[key].shape]
    no_controller = all(key not in weights for key in expected if key.startswith(_CONTROLLER))
    if not no_controller:
        missing = [key for key in expected if key not in weights]
    missing = [key for key in missing if not key.endswith(_COUNTER)]
    asked = restorer.description or {}
    if broken := next((key for key, value in weights.items() if not value.isfinite().all()), None):
        raise UserError(f"checkpoint {path} is spoilt: {broken} holds numbers that are not finite; take an earlier one")
    if missing or surplus or other:
        example = (missing or surplus or other)[0]
        how = "is missing" if missing else "has no place" if surplus else "has another shape"
        raise UserError(
            f"checkpoint {path} holds {describe(content.network)}, the configuration asks for "
            f"{describe(asked) if asked else 'another network'} ({example} {how}): choose the matching backbone, "
            f"upsampler and profile, or network=ckpt to take the file's own, or another checkpoint"
        )
    if isinstance(restorer.backbone, FlexIR) and into_flexir:
        check_skip(content.network, restorer.backbone, path)
    theirs, ours = content.network.get("pixels"), asked.get("pixels")
    if theirs and ours and theirs != ours:
        raise UserError(
            f"checkpoint {path} was made for pixels.mean={theirs['mean']} pixels.factor={theirs['factor']}, the "
            f"configuration has mean={ours['mean']} factor={ours['factor']}: set these, or network=ckpt"
        )
    if isinstance(restorer.backbone, FlexIR) and not restorer.backbone.calibration:
        restorer.backbone.calibration = calibration_of(content.network)
    restorer.load_state_dict(weights, strict=False)  # the controller alone may be absent, as checked above


def _stored(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return load_plain(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from error


def _chosen(stored: Any, part: str | None, path: Path) -> Any:
    """One of the state dicts of a file that holds several, by its name there; a file of one as it is."""
    several = isinstance(stored, Mapping) and len(stored) > 1 and all(map(_unwrapped, stored.values()))
    if not several:
        if part is not None:
            raise UserError(f"{path} holds one network: leave out part={part}")
        return stored
    if set(stored) <= set(_WRAPPERS):
        return stored  # one network in several states, such as params and params_ema
    if part not in stored:
        names = f"{next(iter(stored))} ... {list(stored)[-1]}"
        raise UserError(
            f"{path} holds {len(stored)} networks: choose one with part= (here {names}); IRCNN's is number "
            f"ceil(sigma / 2) - 1, and `python -m dynres.interop {path} --part N --official OUT.pth` writes it alone"
        )
    return stored[part]


def _unwrapped(stored: Any) -> dict[str, Tensor]:
    """The state dict inside what training scripts write; empty if there is none."""
    for wrapper in _WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        return {}
    state = {str(key): value for key, value in stored.items()}
    if all(key.startswith("module.") for key in state):  # DataParallel's
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def hinted(path: Path) -> str | None:
    """The family that a file's name tells, where its content does not."""
    return "VDSR" if "vdsr" in path.stem.lower() else None
