"""Where a run writes: folders named after what ran, found again by `resume=auto`."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from dynres.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

# Said elsewhere in the name, or no part of what the run is.
_UNNAMED = {"experiment", "profile", "seed", "mode", "resume", "out", "ckpt", "sweep"}
_LONGEST = 100

# Options that may differ between a run and its continuation.
_FREE_ON_RESUME = ("resume", "out", "logger", "trainer.enable_progress_bar", "data.workers")


def register_resolvers() -> None:
    """Make ${run_folder:...} and ${sweep_folder:...} known to the configuration."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)
    OmegaConf.register_new_resolver(
        "sweep_folder", lambda number, overrides: f"{number}_{slug(overrides, keep_seed=True)}", replace=True
    )


def run_folder(out: str, choices: Mapping[str, str], overrides: Iterable[str], seed: int, resume: str | None) -> str:
    """OUT/EXPERIMENT/PROFILE-seedN-OVERRIDES[-K]: the newest unfinished one to resume, else the first that is free."""
    mode = next((o.split("=", 1)[1] for o in overrides if o.startswith("mode=")), "fit")
    leaf = "-".join(
        part
        for part in (mode if mode != "fit" else "", str(choices["profile"]), f"seed{seed}", slug(overrides))
        if part
    )
    base = Path(out) / experiment_name(choices) / leaf
    taken = [base]
    while taken[-1].exists():
        taken.append(base.with_name(f"{base.name}-{len(taken) + 1}"))
    if resume == "auto":
        for folder in reversed(taken[:-1]):
            if unfinished(folder):
                return str(folder)
    return str(taken[-1])


def experiment_name(choices: Mapping[str, str]) -> str:
    """The experiment chosen, or BACKBONE_UPSAMPLER."""
    return str(choices.get("experiment") or f"{choices['backbone']}_{choices['upsampler']}")


def settings(cfg: Any, *free: str) -> dict[str, Any]:
    """Dotted key -> value of a run's configuration, without what may change on resuming, nor the keys `free`."""
    flat: dict[str, Any] = {}
    left = {*_FREE_ON_RESUME, *free}

    def walk(node: Any, path: str) -> None:
        if path in left:
            return
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            flat[path] = node

    walk(OmegaConf.to_container(cfg, resolve=True), "")
    return flat


def unfinished(folder: Path) -> bool:
    """A run that began (its configuration is there) and did not end (its summary is not)."""
    return (folder / "config.yaml").is_file() and not (folder / "summary.json").is_file()


def claim(folder: Path, patience: float = 60.0) -> IO[str]:
    """Take a run's folder for this process alone, until the file returned is closed; one that is ending is waited for.

    Args:
        patience: seconds.

    Raises:
        UserError: another process still writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "w")  # noqa: SIM115 (the caller closes it)
    until, told = time.monotonic() + patience, False
    while fcntl is not None:  # on systems that have it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if time.monotonic() > until:
                file.close()
                raise UserError(f"another process writes to {folder}: wait for it, or end it") from error
            if not told:
                print(f"waiting for another process that writes to {folder}")
            told = True
            time.sleep(0.2)
    return file


def slug(overrides: Iterable[str], keep_seed: bool = False) -> str:
    """Command-line overrides as part of a folder's name: `data.root=/a/b seed=1` becomes `data.root-b+seed-1`.

    No = or comma is left in it: Hydra wants those quoted, and a folder's name is pasted as `ckpt=FOLDER/...`.
    """
    left = _UNNAMED - ({"seed"} if keep_seed else set())
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in left and not key.startswith("hydra"):
            value = re.sub(r"[^\s,\[\]=]*/([^/\s,\[\]]+)/*", r"\1", value)
            parts.append(re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{key}-{value}").strip("_"))
    text = "+".join(parts)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
