"""The trainings of one call, one after the other: composed first, found again or run, with the time that is left."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dynres.callbacks.progress import duration
from dynres.errors import UserError
from dynres.launch.estimate import Estimate
from dynres.launch.find import begun, composed, finished
from dynres.launch.process import run
from dynres.pareto.report import Trained
from dynres.pareto.systems import SYSTEMS, command, cuts, finetuning

_STEP = re.compile(r"train: step (\d+)/(\d+)(.*?)(  [\d:-]+ left)?$")  # a line of callbacks.progress


class Session:
    """What can be trained of the systems asked for, and why the others cannot.

    Args:
        names: of SYSTEMS.
        scale, profile, overrides: see `systems.command`.
        out: OUT/pareto, where runs go and are looked for.
        say: prints a line.

    Raises:
        UserError: none of them can be trained; the reason of the first.
    """

    def __init__(
        self,
        names: Sequence[str],
        scale: int,
        profile: str,
        out: Path,
        overrides: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.out, self.say = out, say
        self.commands: dict[str, list[str]] = {}
        self.configs: dict[str, DictConfig] = {}
        self.refused: dict[str, str] = {}
        for name in names:  # before hours are spent on another
            arguments = command(name, scale, profile, out, overrides)
            try:
                self.configs[name] = composed(arguments)
                self.commands[name] = arguments
            except UserError as error:
                self.refused[name] = str(error)
        if not self.configs:
            raise UserError(self.refused[names[0]])
        for name, reason in self.refused.items():
            say(f"{SYSTEMS[name].title} cannot be trained: {reason}")
        self.estimate = Estimate({key: value for name in self.configs for key, value in self._expected(name).items()})

    def _expected(self, name: str) -> dict[str, float]:
        system, cfg = SYSTEMS[name], self.configs[name]
        steps = [int(cfg.trainer.max_steps), *(finetuning(cfg) for _ in system.rates[1:])]
        return {f"{name} {number}": system.pace * count for number, count in enumerate(steps, 1)}

    def trained(self, name: str) -> list[Path]:
        """Folders of a system's runs, finished now if they were not before.

        Raises:
            UserError: a training failed, or cannot be; with its reason.
        """
        if name in self.refused:
            raise UserError(self.refused[name])
        first = self._obtained(name, 1, self.commands[name])
        later = cuts(name, self.commands[name], self.configs[name], first)
        return [first, *(self._obtained(name, number, one) for number, one in enumerate(later, 2))]

    def _obtained(self, name: str, number: int, arguments: list[str]) -> Path:
        cfg, key, system = composed(arguments), f"{name} {number}", SYSTEMS[name]
        title = system.title + (f", {number} of {len(system.rates)}" if system.rates else "")
        if (folder := finished(self.out, cfg)) is not None:
            self.estimate.skip(key)
            self.say(f"{title}: already trained, {folder}")
            return folder
        self.say(f"{title}: training")
        self.estimate.begin(key)
        resume = ["resume=auto"] if begun(self.out, cfg) is not None else []
        run([*arguments, *resume], self.out / "logs" / f"{name}.log", lambda line: self._heard(title, line))
        self.estimate.end()
        if (folder := finished(self.out, cfg)) is None:
            raise UserError(f"the run ended without results below {self.out}: {shlex.join(arguments)}")
        return folder

    def _heard(self, title: str, line: str) -> None:
        if "continuing from" in line:
            self.estimate.resumed()
        if found := _STEP.match(line.rstrip()):
            seconds = self.estimate.left(int(found[1]), int(found[2]))
            left = f"  about {duration(seconds)} left for all trainings" if math.isfinite(seconds) else ""
            self.say(f"{title}: step {found[1]}/{found[2]}{found[3]}{left}")


def about(name: str, folders: Sequence[Path]) -> Trained:
    """What the runs of a system took."""
    summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    histories = [json.loads((folder / "provenance.json").read_text(encoding="utf-8")) for folder in folders]
    configs: list[Any] = [OmegaConf.load(folder / "config.yaml") for folder in folders]
    steps = [int(cfg.trainer.max_steps) for cfg in configs]
    return Trained(
        SYSTEMS[name].title,
        [shlex.join(one for one in history["overrides"] if one != "resume=auto") for history in histories],
        params=max(int(one["params"]) for one in summaries),
        steps=steps[0],
        seconds=sum(float(one["train_seconds"]) for one in summaries),
        note=f"{len(steps)} networks cut from one; the last {steps[1]} steps are each one's own" if steps[1:] else "",
    )
