"""Runs found again by what they are: the same resolved configuration, and where it is asked for the same code."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from dynres.build import configuration_errors
from dynres.checks import check
from dynres.folders import experiment_name, register_resolvers, settings, unfinished
from dynres.paths import conf_dir


def composed(command: Sequence[str]) -> DictConfig:
    """The configuration of a command, as dynres.run gets it, checked before hours are spent.

    Raises:
        UserError: what dynres.run would refuse before it reads data.
    """
    register_resolvers()
    with configuration_errors():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", list(command), return_hydra_config=True)
        choices: dict[str, str] = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        cfg.experiment_name = experiment_name(choices)
        check(cfg, choices)
    return cfg


def finished(out: Path, cfg: DictConfig, code: str | None = None) -> Path | None:
    """The newest finished run below `out` with the same resolved configuration, or None.

    Args:
        code: `provenance.code_version` that the run must have been made with; None for any.
    """
    alike = [folder for folder in _alike(out, cfg, code) if (folder / "summary.json").is_file()]
    if cfg.mode == "fit":
        alike = [folder for folder in alike if (folder / "checkpoints" / "last.ckpt").is_file()]
    return max(alike, key=lambda folder: (folder / "summary.json").stat().st_mtime, default=None)


def begun(out: Path, cfg: DictConfig, code: str | None = None) -> Path | None:
    """The newest interrupted run below `out` with the same resolved configuration (and code), or None."""
    alike = [folder for folder in _alike(out, cfg, code) if unfinished(folder)]
    return max(alike, key=lambda folder: (folder / "config.yaml").stat().st_mtime, default=None)


def _alike(out: Path, cfg: DictConfig, code: str | None) -> list[Path]:
    wanted = settings(cfg, "out")
    folders = [file.parent for file in out.rglob("config.yaml")]
    alike = [folder for folder in folders if _settings(folder, (folder / "config.yaml").stat().st_mtime_ns) == wanted]
    return [folder for folder in alike if code is None or _code(folder) == code]


@cache
def _settings(folder: Path, written: int) -> dict[str, Any]:
    return settings(OmegaConf.load(folder / "config.yaml"), "out")


def _code(folder: Path) -> str | None:
    file = folder / "provenance.json"
    if not file.is_file():
        return None
    found: str | None = json.loads(file.read_text(encoding="utf-8")).get("code")
    return found


def quoted(path: Path) -> str:
    """As a value of an override: Hydra reads =,[]{} and spaces in its own way unless they are quoted."""
    text = str(path)
    return text if re.fullmatch(r"[\w./~+-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
