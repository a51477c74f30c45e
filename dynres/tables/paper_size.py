"""profile=paper: networks of the tables trained in the paper's size, and what such runs, anybody's, have measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from dynres.build import compose_checked
from dynres.errors import UserError
from dynres.folders import settings
from dynres.launch.find import composed, quoted
from dynres.launch.wanted import Wanted
from dynres.metrics import SR_PROTOCOLS
from dynres.tables import given
from dynres.tables.catalogue import WHOLE, Catalogue, known
from dynres.tables.given import Asked, level_options, measured_in
from dynres.tables.results import Result
from dynres.tables.sheet import Measured, Recipe, System

# (paper, what its method trains on) -> data= and the folder of images, by the catalogue's names; "" is every paper.
IMAGES = {
    ("", "queries"): ("div2k", "DIV2K"),
    ("acla", "patches"): ("folder", "DIV2K_train_HR"),  # ACLA, Sec. 4.1
    ("flexir", "patches"): ("folder", "DF2K_BSD_WED"),  # FlexIR, Sec. 4.2 and 4.3: DIV2K, Flickr2K, BSD400, WED
}
# What may differ between two runs of one recipe: paths, what is tested, hardware, and how it is watched.
FREE = (
    "out", "ckpt", "method.trained", "method.teacher", "experiment_name", "seed", "data.seed", "data.root",
    "data.cache", "data.test", "data.test_scales", "data.test_images", "data.test_downsampling", "data.protocol",
    "data.val_images", "data.val_crop", "task.test_sigmas", "task.test_qualities", "data.degradation.test_sigmas",
    "data.degradation.test_qualities", "strategy", "inference.tile", "inference.compile", "trainer.log_every_n_steps",
    "trainer.val_check_interval", "trainer.profiler",
)  # fmt: skip
CHANGES_WEIGHTS = "callbacks.ema."  # of the callbacks, which else watch alone
WAYS = ("budget", "pointer", "threshold", "regions")
NEEDS = {"start": ("ckpt", "last"), "trained": ("method.trained", "trained"), "teacher": ("method.teacher", "last")}


@cache
def _composed(paper: str, recipe: Recipe) -> tuple[DictConfig, str]:
    """A recipe in the paper's size, and the name of its training images.

    Raises:
        UserError: it cannot be composed, or nobody said what it trains on.
    """
    command = ["profile=paper", *recipe.overrides]
    cfg = compose_checked(command)
    target: Any = get_class(cfg.data._target_)
    images = IMAGES.get((paper, target.batches), IMAGES.get(("", target.batches)))
    if images is None:
        raise UserError(f"which images {paper} trains task={cfg.task.name} on is not said here")
    cfg = compose_checked([*command, f"data={images[0]}"])
    cfg.experiment_name = ""  # others are made of it
    return cfg, images[1]


def alike(cfg: Any) -> dict[str, Any]:
    """What runs of one recipe have in common: every setting that their weights depend on, but the seed."""
    flat = settings(cfg, *FREE)
    return {
        key: value for key, value in flat.items() if not key.startswith("callbacks.") or key.startswith(CHANGES_WEIGHTS)
    }


# ---------------------------------------------------------------------------------------------------------- found


@dataclass(frozen=True)
class Trained:
    """A finished training, and tests of its last checkpoint."""

    folder: Path
    cfg: Any
    tests: tuple[Path, ...] = ()

    def number(self, dataset: str, level: str, protocol: str, metric: str, way: str = "") -> tuple[float | str, str]:
        """A number or why there is none; and "10 of 100 images" where it is of a part of the test set."""
        value: float | str = f"not tested on {dataset} at {level}"
        for folder in (self.folder, *self.tests):
            name = next((one for one in Result(folder).summary["metrics"] if known(one) == known(dataset)), dataset)
            value = measured_in(folder, name, level, protocol, metric, way)
            if not isinstance(value, str):
                lines = Result(folder).lines("per_image.csv")
                count = sum((line["dataset"], line["label"]) == (name, level) for line in lines)
                whole = WHOLE.get(known(dataset) or "", count)
                return value, "" if count == whole else f"{count} of {whole} images"
        return value, ""


def trainings(folders: Iterable[Path]) -> list[Trained]:
    """Every finished training of the paper's size below some folders, the newest last."""
    runs = [file.parent for folder in folders for file in folder.rglob("summary.json")]
    runs = sorted({run.resolve() for run in runs if (run / "config.yaml").is_file()}, key=lambda run: (_age(run), run))
    configs: dict[Path, Any] = {run: OmegaConf.load(run / "config.yaml") for run in runs}
    configs = {run: cfg for run, cfg in configs.items() if cfg.profile_name == "paper"}
    tests: dict[Path, list[Path]] = {}
    for run, cfg in configs.items():
        if cfg.mode == "test" and cfg.ckpt is not None and Path(cfg.ckpt).name == "last.ckpt":
            tests.setdefault(Path(cfg.ckpt).resolve().parent.parent, []).insert(0, run)  # the newest first
    return [
        Trained(run, cfg, tuple(test for test in tests.get(run, []) if _ways(configs[test]) == _ways(cfg)))
        for run, cfg in configs.items()
        if cfg.mode == "fit"
    ]


def _age(run: Path) -> float:
    return (run / "summary.json").stat().st_mtime


def _ways(cfg: Any) -> list[Any]:
    return [cfg.inference[name] for name in WAYS]


# ----------------------------------------------------------------------------------------------------------- plan


@dataclass
class Plan:
    """What is to be run for tables of one paper.

    Attributes:
        paper: whose.
        wanted: trainings, each after those it starts from, then tests that no training makes; nothing that is there.
        found: recipe -> finished trainings of it, the newest of each seed.
        names: recipe -> name of its training in `wanted`.
        refused: recipe -> why it cannot be trained.
        tests: of what needs no training.
    """

    paper: str
    tests: given.Plan
    wanted: list[Wanted] = field(default_factory=list)
    found: dict[Recipe, list[Trained]] = field(default_factory=dict)
    names: dict[Recipe, str] = field(default_factory=dict)
    refused: dict[Recipe, str] = field(default_factory=dict)


def plan(
    paper: str,
    asked: Iterable[Asked],
    catalogue: Catalogue,
    runs: Sequence[Path] = (),
    overrides: Sequence[str] = (),
) -> Plan:
    """The trainings and tests that fill the places of a paper's tables.

    Args:
        paper: "acla".
        asked: places of its tables, as their makers ask an Ours for them.
        runs: folders in which finished trainings count, a user's own among them, whatever their paths and hardware.
        overrides: of every run, such as strategy=ddp strategy.devices=4.
    """
    places = [place for place in asked if place[0].recipe is not None]
    alone = [place for place in places if _untrained(place[0], place[2])]
    found = Plan(paper, given.plan(alone, catalogue, (), overrides))
    planner = _Planner(found, catalogue, trainings(runs), tuple(overrides))
    for system, dataset, level, protocol in places:
        if not _untrained(system, level) and system.recipe is not None:
            one_for_all = len({system.recipe(other) for _, other in system.published}) == 1
            title = " ".join(filter(None, [system.group, system.name, "" if one_for_all else level]))
            planner.ask(system.recipe(level), f"{paper}/{title}", dataset, level, protocol)
    for recipe in list(planner.asked):
        planner.train(recipe)
    found.wanted += planner.later + found.tests.wanted
    return found


def _untrained(system: System, level: str) -> bool:
    return system.recipe is not None and "mode=test" in system.recipe(level).overrides


class _Planner:
    """Goes through recipes; those that one needs come before it."""

    def __init__(self, plan: Plan, catalogue: Catalogue, there: list[Trained], overrides: tuple[str, ...]) -> None:
        self.plan, self.paper, self.catalogue, self.overrides = plan, plan.paper, catalogue, overrides
        self.there = [(alike(one.cfg), one) for one in there]
        self.asked: dict[Recipe, dict[tuple[str, str], list[str]]] = {}  # -> (protocol, level) -> test sets
        self.later: list[Wanted] = []
        self.titles: dict[Recipe, str] = {}

    def ask(self, recipe: Recipe, title: str, dataset: str, level: str, protocol: str) -> None:
        """A place to be filled."""
        self.titles.setdefault(recipe, title)
        sets = self.asked.setdefault(recipe, {}).setdefault((protocol, level), [])
        if self.catalogue.get(dataset) is not None and dataset not in sets:
            sets.append(dataset)

    def train(self, recipe: Recipe) -> None:
        """Find it, or want it and what it needs, or say why it cannot be."""
        if recipe in self.plan.found or recipe in self.plan.names or recipe in self.plan.refused:
            return
        try:
            cfg, images = _composed(self.paper, recipe)
            mine = {one.cfg.seed: one for settings, one in self.there if settings == alike(cfg)}
            if mine:
                self.plan.found[recipe] = list(mine.values())
                for one in mine.values():
                    for group in self._groups(recipe, one):
                        self._test(recipe, group, {}, f"ckpt={quoted(one.folder / 'checkpoints' / 'last.ckpt')}")
                return
            root = self.catalogue.training_folder(images).resolve()
            command = [*recipe.overrides, "profile=paper", f"data={cfg.data.source}", f"data.root={quoted(root)}"]
            groups = self._groups(recipe, None)
            command += self._tests(cfg, groups[0]) if groups else []
            needs, there = self._needs(recipe)
            command += [*there, *self.overrides]
            composed([*command, *(f"{option}={quoted(Path(__file__))}" for option in needs)])  # as if they were there
        except UserError as error:
            self.plan.refused[recipe] = str(error)
            return
        name = self._name(recipe)
        self.plan.names[recipe] = name
        self.plan.wanted.append(Wanted(name, tuple(command), needs, float(cfg.trainer.max_steps)))
        for group in groups[1:]:
            self._test(recipe, group, {"ckpt": (name, "checkpoints/last.ckpt")})

    def _needs(self, recipe: Recipe) -> tuple[dict[str, tuple[str, str]], list[str]]:
        """What a run needs of others: of those that are wanted, and of those that are there."""
        needs, there = {}, []
        for kind, (option, checkpoint) in NEEDS.items():
            other: Recipe | None = getattr(recipe, kind)
            if other is None:
                continue
            self.titles.setdefault(other, f"{self.titles[recipe]}, its {kind}")
            self.train(other)
            file = f"checkpoints/{checkpoint}.ckpt"
            if other in self.plan.refused:
                raise UserError(f"it needs another: {self.plan.refused[other]}")
            if other in self.plan.found:
                first = min(self.plan.found[other], key=lambda one: int(one.cfg.seed))
                there.append(f"{option}={quoted(first.folder / file)}")
            else:
                needs[option] = (self.plan.names[other], file)
        return needs, there

    def _groups(self, recipe: Recipe, there: Trained | None) -> list[tuple[str, list[str], list[str]]]:
        """(protocol, levels, test sets) that one test can measure, the largest first; not what is measured already."""
        levels: dict[tuple[str, str], list[str]] = {}
        for (protocol, level), sets in self.asked.get(recipe, {}).items():
            for dataset in sets:
                if there is None or isinstance(there.number(dataset, level, protocol, "macs")[0], str):
                    levels.setdefault((protocol, dataset), []).append(level)
        groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (protocol, dataset), some in levels.items():
            groups.setdefault((protocol, tuple(some)), []).append(dataset)
        found = [(protocol, list(some), sorted(sets)) for (protocol, some), sets in groups.items()]
        return sorted(found, key=lambda one: -len(one[1]) * len(one[2]))

    def _tests(self, cfg: DictConfig, group: tuple[str, list[str], list[str]]) -> Iterator[str]:
        """What a run is tested on."""
        protocol, levels, datasets = group
        folders = [one.folder for dataset in datasets if (one := self.catalogue.get(dataset)) is not None]
        yield f"data.test=[{','.join(quoted(folder.resolve()) for folder in folders)}]"
        if protocol in SR_PROTOCOLS:
            yield f"data.protocol={protocol}"
        yield from level_options(cfg, levels)

    def _test(
        self, recipe: Recipe, group: tuple[str, list[str], list[str]], needs: dict[str, tuple[str, str]], *ckpt: str
    ) -> None:
        """A test of a checkpoint."""
        protocol, levels, datasets = group
        name = f"{self._name(recipe)}, {protocol}: {', '.join(datasets)} at {', '.join(levels)}"
        name += f" ({len(self.later) + 1})" * any(one.name == name for one in self.later)
        command = [
            *recipe.overrides,
            "profile=paper",
            "mode=test",
            *self._tests(_composed(self.paper, recipe)[0], group),
            *ckpt,
        ]
        self.later.append(Wanted(name, (*command, *self.overrides), needs, 1e3))

    def _name(self, recipe: Recipe) -> str:
        taken = [other for other, title in self.titles.items() if title == self.titles[recipe]]
        number = taken.index(recipe) + 1
        return self.titles[recipe] + f" ({number})" * (number > 1)


# ----------------------------------------------------------------------------------------------------------- ours


class PaperSize:
    """What finished trainings of the paper's size measured (sheet.Ours): the mean over the seeds that there are.

    Args:
        plan: what was wanted.
        catalogue: of the test sets.
        runs: as `plan` was given, and where its runs went.
        found, failed: of the session that ran it, by name.
    """

    label = "networks trained here in the paper's size"

    def __init__(
        self,
        plan: Plan,
        catalogue: Catalogue,
        runs: Sequence[Path],
        found: Mapping[str, Path],
        failed: Mapping[str, str],
    ) -> None:
        self.plan, self.failed = plan, failed
        self.given = given.Given(plan.tests, catalogue, found, failed)
        self.there = [(alike(one.cfg), one) for one in trainings(runs)]

    def measured(self, system: System, dataset: str, level: str, protocol: str, metric: str) -> Measured:
        """See sheet.Ours."""
        if system.recipe is None or _untrained(system, level):
            return self.given.measured(system, dataset, level, protocol, metric)
        recipe = system.recipe(level)
        mine = self._trained(recipe)
        if not mine:
            reason = self.plan.refused.get(recipe) or self.failed.get(self.plan.names.get(recipe, ""))
            return Measured(note=reason or "not trained")
        numbers = [one.number(dataset, level, protocol, metric, system.way) for one in mine]
        values = [value for value, _ in numbers if not isinstance(value, str)]
        if not values:
            return Measured(note=str(numbers[0][0]))
        note = next((note for _, note in numbers if note), "")
        spread = stdev(values) if len(values) > 1 else None
        return Measured(fmean(values), spread, len(values), note, part=bool(note))

    def _trained(self, recipe: Recipe) -> list[Trained]:
        """The newest of each seed."""
        try:
            wanted = alike(_composed(self.plan.paper, recipe)[0])
        except UserError:  # as the plan says
            return []
        return list({one.cfg.seed: one for settings, one in self.there if settings == wanted}.values())

    def own(self, systems: Sequence[System]) -> Sequence[tuple[str, str]]:
        """None: all is in the papers."""
        return []
