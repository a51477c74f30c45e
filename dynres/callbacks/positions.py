"""What a search for insert positions found (ACLA, Table 9): the alphas, and an experiment that trains the result."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import EvaluationWatcher, restorer_of, run_folder, save_figure
from dynres.callbacks.loggers import read_metrics
from dynres.files import write_text
from dynres.report import Record

NAME = "acla_found"
# Of the search's command, what its continuation needs too: the profile, and the data but for the search's own parts.
_KEPT = r"(profile=|image_skip=|data=|data\.(?!halves|fraction))"
RETRAINED_BY = {"queries": "assr", "patches": "acla"}  # conf/method, by what the task's data yield


class FoundPositions(EvaluationWatcher):
    """Writes positions.json, alphas.png and found/experiment/acla_found.yaml after a test; nothing without a supernet.

    `python -m dynres.run --config-dir RUN/found +experiment=acla_found` trains the network with modules at the found
    positions, from nothing, with the task, the sizes and the profile of the search.
    """

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        backbone = restorer_of(module).backbone
        if getattr(backbone, "alpha", None) is None:
            return
        folder, alpha = run_folder(trainer), backbone.alpha.tolist()
        result = {"positions": backbone.found(), "alpha": alpha, "cost_weight": getattr(module, "cost_weight", None)}
        write_text(folder / "positions.json", json.dumps(result, indent=2) + "\n")
        history = _history(folder / "metrics.csv", len(alpha))
        save_figure(trainer, draw(history, alpha), "alphas.png", "alphas")
        listed = (
            ", ".join(map(str, result["positions"]))
            or "none; a smaller method.cost_weight or a longer search keeps more"
        )
        print(f"positions found: {listed} (of {len(alpha)} layers)")
        if HydraConfig.initialized() and (folder / "config.yaml").is_file():
            file = folder / "found" / "experiment" / f"{NAME}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
            write_text(file, experiment(config, dict(HydraConfig.get().runtime.choices), result["positions"]))
            kept = [one for one in HydraConfig.get().overrides.task if re.match(_KEPT, one)]
            command = [
                "python",
                "-m",
                "dynres.run",
                "--config-dir",
                str(file.parent.parent),
                f"+experiment={NAME}",
                *kept,
            ]
            print(f"train it: {shlex.join(command)}")


def experiment(config: dict[str, Any], choices: dict[str, str], positions: list[int]) -> str:
    """The text of an experiment file that trains what a search found.

    Args:
        config: resolved, of the search.
        choices: its choices of conf/, by group.
        positions: layers after which a module stands.
    """
    restoration = str(config["data"]["_target_"]).endswith("RestorationData")
    overrides = {
        "task": choices["task"],
        "method": RETRAINED_BY["patches" if restoration else "queries"],
        "backbone": choices["backbone"],
        "upsampler": choices["upsampler"],
        "callbacks": "acla",
    }
    backbone = {key: value for key, value in config["backbone"].items() if key not in ("_target_", "searched")}
    upsampler = {key: value for key, value in config["upsampler"].items() if key != "_target_"}
    body = {
        "defaults": [{f"override /{group}": choice} for group, choice in overrides.items()],
        "task": config["task"],
        "backbone": backbone | {"positions": positions},
        **({"upsampler": upsampler} if upsampler else {}),
        "pixels": config["pixels"],
    }
    about = (
        f"# @package _global_\n# Found by {config['experiment_name']}, lambda {config['method']['cost_weight']}, seed "
    )
    return f"{about}{config['seed']}.\n{yaml.safe_dump(body, sort_keys=False, default_flow_style=None)}"


def _history(path: Path, layers: int) -> dict[int, list[float]]:
    """Step -> alphas, as logged."""
    if not path.is_file():
        return {}
    rows = [row for row in read_metrics(path) if row.get("alpha/layer1")]
    return {int(row["step"]): [float(row[f"alpha/layer{layer}"]) for layer in range(1, layers + 1)] for row in rows}


def draw(history: dict[int, list[float]], alpha: Sequence[float]) -> Figure:
    """alpha of each layer over the steps, and where it ended: filled where the module stays."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    over_steps, at_end = figure.subplots(1, 2)
    layers = range(1, len(alpha) + 1)
    colours = [f"C{layer % 10}" for layer in layers]
    for layer, colour in zip(layers, colours, strict=True):
        style = "-" if alpha[layer - 1] >= 0 else ":"
        over_steps.plot(list(history), [row[layer - 1] for row in history.values()], style, color=colour, linewidth=1.6)
        if history:
            over_steps.annotate(
                f"{layer}", (max(history), alpha[layer - 1]), (4, -3), textcoords="offset points", fontsize=7
            )
    faces = [colour if value >= 0 else "none" for colour, value in zip(colours, alpha, strict=True)]
    at_end.bar(list(layers), list(alpha), color=faces, edgecolor=colours, linewidth=1.4)
    at_end.set_xticks(list(layers) if len(alpha) <= 20 else list(layers)[::2])
    at_end.set_xlabel("layer; filled: its module stays")
    over_steps.set_xlabel("step")
    over_steps.set_ylabel(r"$\alpha$")
    for axes in (over_steps, at_end):
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
