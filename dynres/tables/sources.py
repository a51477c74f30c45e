"""Where numbers of ours come from: the demo's runs, tests on real sets, or trainings in the paper's size."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from dynres.launch.cluster import Cluster, parameters
from dynres.launch.session import Session
from dynres.launch.wanted import Wanted
from dynres.provenance import code_version
from dynres.tables import demo, given, paper_size
from dynres.tables.catalogue import Catalogue, weights_below
from dynres.tables.claims import verdicts
from dynres.tables.sheet import NOTHING, FinishedRun, Measured, Ours, System, Verdict

Say = Callable[[str], None]


@dataclass
class Source:
    """Numbers of ours for some papers.

    Attributes:
        failed: name of a run -> why it failed.
        verdicts, runs: of the demo; empty for others.
    """

    ours: Mapping[str, Ours]
    failed: Mapping[str, str]
    verdicts: list[Verdict] = field(default_factory=list)
    runs: list[FinishedRun] = field(default_factory=list)


class Asked:
    """An `Ours` that has nothing, and remembers what a table asks for."""

    label = NOTHING

    def __init__(self) -> None:
        self.systems: dict[int, System] = {}
        self.cells: list[tuple[System, str, str, str]] = []

    def measured(self, system: System, dataset: str, level: str, protocol: str, metric: str) -> Measured:
        """Nothing."""
        self.systems[id(system)] = system
        self.cells.append((system, dataset, level, protocol))
        return Measured()

    def own(self, systems: Sequence[System]) -> Sequence[tuple[str, str]]:
        """Nothing."""
        self.systems |= {id(system): system for system in systems}
        return []


def by_demo(options: argparse.Namespace, asked: Mapping[str, Asked], say: Say) -> Source:
    """Train what the demo of these tables needs; all of it where no table was chosen."""
    wanted = []
    for paper in asked:
        if (options.experiments / paper / "demo.yaml").is_file():
            names = {system.demo for system in asked[paper].systems.values()} if options.table else None
            wanted += demo.plan(paper, options.experiments, options.profile or "demo", options.overrides, names)
    wanted.sort(key=lambda one: one.name.rpartition(" ")[2])  # the first seed of all papers before the second
    session = _session(options, wanted, say)
    session.run()
    found = {paper: demo.Demo(paper, session) for paper in asked}
    judged = [one for each in found.values() for one in verdicts(each)]
    return Source(found, session.failed, judged, [run for each in found.values() for run in each.runs])


def by_tests(options: argparse.Namespace, asked: Mapping[str, Asked], say: Say) -> Source:
    """Test on the sets below --data what needs no weights, and what --checkpoints holds."""
    catalogue = Catalogue(options.data)
    say(str(catalogue))
    weights, refused = weights_below(options.checkpoints) if options.checkpoints is not None else ([], [])
    for reason in refused:
        say(f"left out: {reason}")
    cells = [cell for one in asked.values() for cell in one.cells]
    plan = given.plan(cells, catalogue, weights, options.overrides)
    plan.take_back(options.out)
    session = _session(options, plan.wanted, say)
    session.run()
    ours = given.Given(plan, catalogue, session.found, session.failed)
    return Source(dict.fromkeys(asked, ours), session.failed)


def by_training(options: argparse.Namespace, asked: Mapping[str, Asked], say: Say) -> Source:
    """Train every network of the tables in the paper's size, and test it, here or as jobs of a cluster."""
    catalogue = Catalogue(options.data)
    say(str(catalogue))
    runs = list(dict.fromkeys([options.out, *options.runs]))
    plans = {
        paper: paper_size.plan(paper, one.cells, catalogue, runs, options.overrides) for paper, one in asked.items()
    }
    for plan in plans.values():
        for recipe, reason in plan.refused.items():
            say(f"cannot be trained: {' '.join(recipe.overrides)}: {reason}")
    wanted = list({one.name: one for plan in plans.values() for one in plan.wanted}.values())
    if options.cluster:
        more = parameters(options.cluster, options.cluster_parameter)
        work: Session | Cluster = Cluster(wanted, options.out, say, options.cluster, more, options.jobs or 16)
    else:
        work = Session(wanted, options.out, say, options.jobs or 1)
    work.run()
    ours = {
        paper: paper_size.PaperSize(plan, catalogue, runs, work.found, work.failed) for paper, plan in plans.items()
    }
    return Source(ours, work.failed)


def _session(options: argparse.Namespace, wanted: Sequence[Wanted], say: Say) -> Session:
    """Of small runs: one a core, each of one thread; one at a time on a GPU."""
    on_gpu = torch.cuda.is_available()
    jobs = options.jobs or (1 if on_gpu else max(1, min(4, os.cpu_count() or 1)))
    return Session(wanted, options.out, say, jobs, None if on_gpu else 1, code_version())
