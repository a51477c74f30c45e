"""From a composed configuration to objects, with every mistake named before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dynres.errors import UserError
from dynres.folders import register_resolvers
from dynres.nodes import plain, unknown
from dynres.paths import conf_dir
from dynres.restorer import Restorer


def network_description(cfg: DictConfig) -> dict[str, Any]:
    """What rebuilds the network: {"backbone", "upsampler", "image_skip", "pixels"} in plain types."""
    return {
        "backbone": plain(cfg.backbone),
        "upsampler": plain(cfg.upsampler),
        "image_skip": bool(cfg.image_skip),
        "pixels": plain(cfg.pixels),
    }


def build_restorer(network: Mapping[str, Any]) -> Restorer:
    """The network of a `network_description`; see `Restorer.from_description`."""
    return Restorer.from_description(network)


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
        if parent == "backbone" and name in known_options(parent):
            return f"the chosen backbone has no option {name} (of the network inside AnySR: backbone.network.{name})"
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
    group, _, rest = ("backbone" if parent == "backbone.network" else parent).partition(".")
    nodes = [OmegaConf.load(file) for file in sorted((conf_dir() / group).rglob("*.yaml"))] + [top.get(group)]
    inner = [OmegaConf.select(node, rest) if rest else node for node in nodes if OmegaConf.is_dict(node)]
    return {str(key) for node in inner if OmegaConf.is_dict(node) for key in node if key != "defaults"}
