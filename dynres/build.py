"""From a composed configuration to objects, with every mistake named before anything is built."""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dynres.backbones.base import Backbone
from dynres.errors import UserError
from dynres.folders import register_resolvers
from dynres.paths import conf_dir
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.base import Upsampler

# A checkpoint names its own classes; nothing outside these packages is ever called because a file says so.
NETWORK_PACKAGES = ("dynres.backbones.", "dynres.upsamplers.")


def plain(node: Any) -> Any:
    """A resolved copy in plain Python types (what checkpoints may hold)."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def network_description(cfg: DictConfig) -> dict[str, Any]:
    """What rebuilds the network: {"backbone", "upsampler", "image_skip", "pixels"} in plain types."""
    return {
        "backbone": plain(cfg.backbone),
        "upsampler": plain(cfg.upsampler),
        "image_skip": bool(cfg.image_skip),
        "pixels": plain(cfg.pixels),
    }


def build_restorer(network: Mapping[str, Any]) -> Restorer:
    """The network of a `network_description`.

    Raises:
        UserError: on a class outside the suite's networks, an unknown option, or a value the network refuses.
    """
    for part in ("backbone", "upsampler"):
        target = str(network[part].get("_target_"))
        if not target.startswith(NETWORK_PACKAGES):
            raise UserError(f"{part}._target_ must name a class of {' or '.join(NETWORK_PACKAGES)}, got {target}")
    backbone = make(network["backbone"], "backbone")
    if not isinstance(backbone, Backbone):
        raise UserError(f"backbone._target_ {network['backbone']['_target_']} is not a backbone")
    upsampler = make(network["upsampler"], "upsampler", in_channels=backbone.out_channels)
    if not isinstance(upsampler, Upsampler):
        raise UserError(f"upsampler._target_ {network['upsampler']['_target_']} is not an upsampler")
    try:
        return Restorer(backbone, upsampler, bool(network["image_skip"]), _pixels(network.get("pixels") or {}))
    except ValueError as error:
        raise UserError(str(error)) from error


def _pixels(options: Mapping[str, Any]) -> Pixels:
    known = [field.name for field in fields(Pixels)]
    if strangers := [key for key in options if key not in known]:
        raise UserError(unknown(f"pixels.{strangers[0]}", strangers[0], known))
    mean, factor = options.get("mean", Pixels.mean), options.get("factor", Pixels.factor)
    if not isinstance(factor, int | float) or not factor > 0:
        raise UserError(f"pixels.factor must be a number above 0, got {factor}")
    means = mean if isinstance(mean, list | tuple) else [mean]
    if any(not isinstance(value, int | float) for value in means):
        raise UserError(f"pixels.mean must be a number, or one for each channel, got {mean}")
    return Pixels(tuple(mean) if isinstance(mean, list | tuple) else mean, factor)


def make(node: Any, where: str, **extra: Any) -> Any:
    """Instantiate a node; a value that its constructor refuses becomes one line that names the node."""
    check_options(node, where, extra)
    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, ValueError | TypeError):
            raise UserError(f"{where}: {cause}") from error
        raise


def check_options(node: Any, where: str, given: Iterable[str] = ()) -> None:
    """Refuse keys that the node's `_target_` does not take, before it is called."""
    try:
        target = get_object(str(node["_target_"]))
    except (ImportError, AttributeError, ValueError, KeyError) as error:
        raise UserError(f"{where}._target_ cannot be found: {error}") from error
    except Exception as error:  # hydra wraps a failing import in a bare InstantiationException subclass
        raise UserError(f"{where}._target_ {node['_target_']} cannot be imported: {error}") from error
    parameters = inspect.signature(target).parameters
    known = [name for name in parameters if name not in given]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        hints = typing.get_type_hints(target if inspect.isroutine(target) else target.__init__)
    except NameError:  # somebody's class, with names that only a type checker imports
        hints = {}
    for key in node:
        if str(key).startswith("_"):
            continue
        if key not in known and not takes_any:
            raise UserError(unknown(f"{where}.{key}", str(key), known))
        check_type(f"{where}.{key}", node[key], hints.get(str(key)))


# Annotation -> (what a configuration may hold for it, in words); YAML has no float for `1`.
_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "a text"),
    type(None): ((type(None),), "null"),
}


def check_type(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that is none of the plain types of an annotation; other annotations are not looked at.

    Raises:
        UserError: such as "method.learning_rate must be a number, got abc".
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if any(option not in _SCALARS for option in options):
        return
    if not any(type(value) in _SCALARS[option][0] for option in options):
        words = " or ".join(_SCALARS[option][1] for option in options)
        raise UserError(f"{name} must be {words}, got {value}")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The line for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"unknown option {what}; {hint}"


def compose_checked(overrides: list[str]) -> DictConfig:
    """The configuration of a list of overrides, for commands other than run; mistakes are UserErrors."""
    register_resolvers()
    with configuration_errors(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides)


@contextmanager
def configuration_errors() -> Iterator[None]:
    """Hydra's, OmegaConf's and the system's complaints as one line, without search paths and key dumps."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        text = str(error)
        for tail in ("Config search path", "\n    full_key", "\nKey '", "\nSee https"):
            text = text.split(tail)[0]
        raise UserError(_nearest(" ".join(text.split()))) from error
    except OSError as error:  # disk full, not writable, unreachable: the text names the file
        raise UserError(str(error)) from error


def _nearest(text: str) -> str:
    """Hydra's line about a name that does not exist, with the nearest one that does."""
    if choice := re.match(r"In '.*': Could not find '(.+)/(.+?)' Available options in '.*': (.*)", text):
        line = unknown(f"{choice[1]}={choice[2]}", choice[2], choice[3].split())
        return f'{line}; for more: pip install "dynres[sweep]"' if choice[1].startswith("hydra/") else line
    if option := re.match(r"Could not override '([^']+)'", text):
        parent, _, name = option[1].rpartition(".")
        if known := known_options(parent):
            inside = [f"{group}.{name}" for group in known if not parent and name in known_options(group)]
            return f"unknown option {name}; did you mean {inside[0]}?" if inside else unknown(option[1], name, known)
    if re.match("mismatched input|no viable|extraneous input|token recognition", text):
        return f"""{text}: quote a value that holds one of =,[]{{}} or a space, such as 'ckpt="a=b.ckpt"'"""
    return text


def known_options(parent: str) -> set[str]:
    """Every key that the configuration files give to a node: "" for the top, else such as "callbacks.panels"."""
    top = OmegaConf.load(conf_dir() / "config.yaml")
    assert isinstance(top, DictConfig)
    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    if not parent:
        return {str(key) for key in top if key not in ("defaults", "hydra")} | groups | {"profile_name"}
    group, _, rest = parent.partition(".")
    nodes = [OmegaConf.load(file) for file in sorted((conf_dir() / group).rglob("*.yaml"))] + [top.get(group)]
    inner = [OmegaConf.select(node, rest) if rest else node for node in nodes if OmegaConf.is_dict(node)]
    return {str(key) for node in inner if OmegaConf.is_dict(node) for key in node if key != "defaults"}
