"""The demo's runs: small networks on bundled photographs, planned in experiments/PAPER/demo.yaml, and their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from dynres.launch.session import Session
from dynres.launch.wanted import Wanted
from dynres.tables.results import Result
from dynres.tables.sheet import FinishedRun, Measured, System

LABEL = (
    "demo-size networks, trained for a minute on bundled photographs and tested on two others; "
    "mean of the seeds ± standard deviation. Not comparable with the published numbers, only with each other"
)


def plan(
    paper: str,
    experiments: Path,
    profile: str = "demo",
    overrides: Sequence[str] = (),
    only: Iterable[str | None] | None = None,
) -> list[Wanted]:
    """The runs of a paper: every run of its demo.yaml with every seed, the first seed's first.

    Args:
        overrides: of every run.
        only: names of runs, to have these and what they need alone; None for all.
    """
    file = experiments / paper / "demo.yaml"
    told: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    chosen = set(told["runs"]) if only is None else _with_needs(told["runs"], only)
    wanted = []
    for seed in told["seeds"]:
        for run, about in told["runs"].items():
            if run not in chosen:
                continue
            quiet = told["others"] if seed != told["seeds"][0] else []
            command = [*about["command"], *told["every"], *quiet, f"profile={profile}", "logger=csv", f"seed={seed}"]
            if profile == "smoke":  # which has its own few steps
                command = [part for part in command if not part.startswith("trainer.")]
            needs = {}
            for option, where in about.get("needs", {}).items():
                other, _, path = where.partition("/")
                needs[option] = (name(paper, other, seed), path)
            wanted.append(Wanted(name(paper, run, seed), (*command, *overrides), needs, about["weight"]))
    return wanted


def _with_needs(runs: Mapping[str, Any], names: Iterable[str | None]) -> set[str]:
    chosen = {name for name in names if name is not None}
    if unknown := sorted(chosen - runs.keys()):
        raise ValueError(f"demo.yaml has no run {unknown[0]!r}, of which a table speaks")
    while more := {where.partition("/")[0] for run in chosen for where in runs[run].get("needs", {}).values()} - chosen:
        chosen |= more
    return chosen


def name(paper: str, run: str, seed: int) -> str:
    """Of a run in a session."""
    return f"{paper}/{run}, seed {seed}"


class Demo:
    """What the demo's runs of one paper measured (sheet.Ours).

    Args:
        session: it has run.
    """

    def __init__(self, paper: str, session: Session) -> None:
        self.paper, self.label = paper, LABEL
        self.runs: list[FinishedRun] = []
        self.failures: dict[str, str] = {}
        for wanted in session.wanted:
            of, _, rest = wanted.partition("/")
            run, _, seed = rest.partition(", seed ")
            if of == paper and wanted in session.found:
                self.runs.append(FinishedRun(paper, run, int(seed), session.found[wanted]))
            elif of == paper:
                self.failures[run] = session.failed.get(wanted, "not run")
        self._results = {run.folder: Result(run.folder) for run in self.runs}

    def named(self, run: str) -> Mapping[int, Result]:
        """Seed -> results of a run."""
        return {one.seed: self._results[one.folder] for one in self.runs if one.name == run}

    def measured(self, system: System, dataset: str, level: str, protocol: str, metric: str) -> Measured:
        """See sheet.Ours."""
        if system.demo is None:
            return Measured()
        results = self.named(system.demo).values()
        known = [v for one in results if (v := one.value(dataset, level, metric, system.way)) is not None]
        if not known:
            return Measured(note=self.failures.get(system.demo, ""))
        note = f"a seed failed: {self.failures[system.demo]}" if system.demo in self.failures else ""
        return Measured(fmean(known), stdev(known) if len(known) > 1 else None, len(known), note)

    def own(self, systems: Sequence[System]) -> Sequence[tuple[str, str]]:
        """See sheet.Ours."""
        names = [system.demo for system in systems if system.demo is not None]
        return list(dict.fromkeys(at for run in names for one in self.named(run).values() for at in one.levels()))
