"""DATA alone: numbers from tests, nothing trained. Of inputs that need no network, and of networks that files hold.

Rows of one network on several sets and levels are one run of `python -m dynres.run mode=test`; sets are measured by
their table's protocol.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dynres.build import build_restorer, compose_checked, network_description
from dynres.data.evaluation import sizes
from dynres.data.images import is_gray, read_rgb
from dynres.data.pairs import to_tensor
from dynres.data.resize import resize
from dynres.errors import UserError
from dynres.interop.weights import load_weights
from dynres.launch.find import composed, finished, quoted
from dynres.launch.wanted import Wanted
from dynres.metrics import SR_PROTOCOLS
from dynres.metrics.image import mean_ssim, peak_ratio
from dynres.nodes import plain
from dynres.restorer import Restorer
from dynres.tables.catalogue import TASKS, Catalogue, FoundSet, Weights, identity
from dynres.tables.results import Result
from dynres.tables.sheet import Measured, Recipe, System

Asked = tuple[System, str, str, str]  # system, test set, level, protocol: what tables ask an Ours for
Key = tuple[str, Recipe, str, str, str]  # name of the system, its recipe at the level, test set, level, protocol
NO_WEIGHTS = ("backbone=identity", "experiment=bicubic", "experiment=input")
OF_LEVELS = {"scale", "scales", "sigma", "test_sigmas", "quality", "test_qualities"}
LEVELS = {"sr": "data.test_scales", "denoise": "task.test_sigmas", "car": "task.test_qualities"}


@dataclass(frozen=True)
class Test:
    """A run of mode=test.

    Attributes:
        wanted: its command.
        weights: of its network; None where there is none.
        sets: what it is tested on.
        luma: it knows the luma alone, so that published tables have a gray file's samples in the place of its luma.
    """

    wanted: Wanted
    weights: Weights | None
    sets: tuple[FoundSet, ...]
    luma: bool

    def holds(self, folder: Path) -> bool:
        """Whether a finished run of this command is of these images, and no older than the weights."""
        images = {(one.images.name, path.stem) for one in self.sets for path in one.images.images}
        if {(line["dataset"], line["image"]) for line in Result(folder).lines("per_image.csv")} != images:
            return False
        if self.weights is None or self.weights.path.is_dir():
            return True
        return self.weights.path.stat().st_mtime <= (folder / "summary.json").stat().st_mtime


@dataclass(frozen=True)
class Plan:
    """What can be measured without training.

    Attributes:
        tests: what fills each place of the tables.
        missing: why nothing fills the others.
    """

    tests: Mapping[Key, Test]
    missing: Mapping[Key, str]

    @cached_property
    def wanted(self) -> list[Wanted]:
        """The runs, each once."""
        return list({test.wanted.name: test.wanted for test in self.tests.values()}.values())

    def take_back(self, out: Path) -> None:
        """Results below `out` of images or weights that have changed since no longer count: their runs go again."""
        for test in {test.wanted.name: test for test in self.tests.values()}.values():
            with suppress(UserError):  # what cannot be composed has no results
                folder = finished(out, composed([*test.wanted.command, f"out={quoted(out)}"]))
                if folder is not None and not test.holds(folder):
                    (folder / "summary.json").unlink()


@dataclass(frozen=True)
class _Row:
    """A recipe, composed in the paper's size."""

    recipe: Recipe
    cfg: DictConfig
    network: Mapping[str, Any]

    @property
    def needs_weights(self) -> bool:
        return not str(self.network["backbone"]["_target_"]).endswith(".Identity")

    @property
    def luma(self) -> bool:
        return not self.needs_weights or self.network["backbone"].get("image_channels") == 1

    @property
    def common(self) -> tuple[str, ...]:
        """Its overrides without the level, where that changes the test alone."""
        bound = any((self.network[part].get("scale") or 1) != 1 for part in ("backbone", "upsampler"))
        left = ("mode=", "task.test_", "task.sigma=", "task.quality=", *(() if bound else ("task.scale=",)))
        return tuple(one for one in self.recipe.overrides if not one.lstrip("+").startswith(left))

    @property
    def test(self) -> str:
        """What a test depends on, but weights, images and levels."""
        task = {name: value for name, value in plain(self.cfg.task).items() if name not in OF_LEVELS}
        about = [identity(self.network), task, plain(self.cfg.inference), sorted(self.cfg.callbacks or {})]
        return json.dumps(about, sort_keys=True)


@cache
def _row(recipe: Recipe) -> _Row:
    cfg = compose_checked(["profile=paper", *recipe.overrides])
    return _Row(recipe, cfg, network_description(cfg))


class _Nothing(Exception):
    """Why a place of a table cannot be filled."""


@dataclass
class _Job:
    """Places that one network fills, by test set and level."""

    row: _Row
    title: str
    weights: Weights | None
    protocol: str
    places: dict[str, dict[str, list[Key]]] = field(default_factory=dict)


def plan(
    asked: Iterable[Asked], catalogue: Catalogue, weights: Sequence[Weights] = (), overrides: Sequence[str] = ()
) -> Plan:
    """Which runs fill which places.

    Args:
        asked: places of the tables, as their makers ask an Ours for them; repeated ones count once.
        weights: see `catalogue.weights_below`. A file is taken for rows whose network it holds, pixels left out, at the
            levels for which no other fits better: one with the row's name before one that fits as well or better
            (`Weights.called`, `Weights.rank`).
        overrides: of every run, such as inference.tile=auto.
    """
    missing: dict[Key, str] = {}
    jobs: dict[tuple[object, ...], _Job] = {}
    for system, dataset, level, protocol in asked:
        if system.recipe is None:
            continue
        recipe = system.recipe(level)
        key = (system.name, recipe, dataset, level, protocol)
        try:
            if catalogue.get(dataset) is None:
                raise _Nothing(catalogue.note(dataset))
            row, file = _source(system.name, recipe, level, weights)
        except _Nothing as reason:
            missing[key] = str(reason)
            continue
        title = system.name if file is None else file.path.name
        job = _Job(row, title, file, protocol)
        job = jobs.setdefault((row.test, file and file.path, protocol), job)
        job.places.setdefault(dataset, {}).setdefault(level, []).append(key)
    return Plan(dict(pair for job in jobs.values() for pair in _tests(job, catalogue, overrides)), missing)


def _source(name: str, recipe: Recipe, level: str, weights: Sequence[Weights]) -> tuple[_Row, Weights | None]:
    """The recipe of a system composed, and the file with its weights; None where it needs none.

    Raises:
        _Nothing: no file, or several.
    """
    if not weights and not any(one.endswith(NO_WEIGHTS) for one in recipe.overrides):
        raise _Nothing("no checkpoint given")
    try:
        row = _row(recipe)
    except UserError as error:
        raise _Nothing(str(error)) from error
    if not row.needs_weights:
        return row, None
    holding = [file for file in weights if file.holds(recipe.overrides, row.cfg, row.network)]
    ranks = [(file.called(name), file.rank(row.cfg.task.name, level)) for file in holding]
    best = max((rank for rank in ranks if rank[1]), default=None)
    if best is None:
        raise _Nothing("no checkpoint given" + (f" for {level}" if holding else ""))
    fitting = [file for file, rank in zip(holding, ranks, strict=True) if rank == best]
    if len(fitting) > 1:
        names = " and ".join(file.path.name for file in fitting)
        raise _Nothing(f"{names} fit alike: name the task and the level in one's name, such as NAME_sigma25.pth")
    return row, fitting[0]


def _tests(job: _Job, catalogue: Catalogue, overrides: Sequence[str]) -> Iterator[tuple[Key, Test]]:
    """The runs of a job: one for the test sets that are asked for at the same levels."""
    by_levels: dict[tuple[str, ...], list[str]] = {}
    for dataset, places in job.places.items():
        by_levels.setdefault(tuple(sorted(places, key=_number)), []).append(dataset)
    for levels, unsorted in by_levels.items():
        datasets = sorted(unsorted)
        sets = tuple(one for dataset in datasets if (one := catalogue.get(dataset)) is not None)
        command = [*job.row.common, "mode=test", "profile=paper", "logger=csv"]
        command.append(f"data.test=[{','.join(quoted(one.folder.resolve()) for one in sets)}]")
        if job.protocol in SR_PROTOCOLS:
            command.append(f"data.protocol={job.protocol}")
        command += level_options(job.row.cfg, levels)
        if job.weights is not None:
            command.append(f"ckpt={quoted(job.weights.path)}")
            pixels, told = job.weights.network["pixels"], job.row.network["pixels"]
            command += [f"pixels.{key}={value}".replace(" ", "") for key, value in pixels.items() if value != told[key]]
        digest = hashlib.sha256(job.row.test.encode()).hexdigest()[:4]  # of two tasks of one network, say
        name = f"test {digest} of {job.title} by {job.protocol}: {', '.join(datasets)} at {', '.join(levels)}"
        luma = job.row.luma and job.protocol == "benchmark"
        test = Test(Wanted(name, (*command, *overrides)), job.weights, sets, luma)
        yield from ((key, test) for dataset in datasets for level in levels for key in job.places[dataset][level])


def level_options(cfg: Any, levels: Sequence[str]) -> list[str]:
    """The overrides by which a test goes through levels; none where the recipe says it (the pattern of a mosaic).

    Where a set has no published low-resolution images they are MATLAB's, as published ones are; Pillow's in tests that
    go beyond x4, for which none are published and LIIF's family makes its own.
    """
    kind, label, _ = TASKS[cfg.task.name]
    if kind not in LEVELS:
        return []
    options = [f"{LEVELS[kind]}=[{','.join(_value(level, label) for level in levels)}]"]
    if kind == "sr":
        options.append(
            f"data.test_downsampling={'pillow' if any(_number(level)[0] > 4 for level in levels) else 'matlab'}"
        )
    return options


def _number(level: str) -> tuple[float, str]:
    digits = re.search(r"[\d.]+", level)
    return (float(digits[0]) if digits else 0.0, level)


def _value(level: str, label: str) -> str:
    """ "3" of "x3", "[2,3]" of "x2x3"."""
    value = level.removeprefix(label)
    return f"[{value.replace('x', ',')}]" if "x" in value else value


# ------------------------------------------------------------------------------------------------------------- ours


class Given:
    """What the runs of a plan measured (sheet.Ours).

    Args:
        plan: its runs have been asked for.
        found: name -> folder of a finished run.
        failed: name -> reason.
    """

    label = "tests of given weights, and of inputs that need no network, on the real sets"

    def __init__(self, plan: Plan, catalogue: Catalogue, found: Mapping[str, Path], failed: Mapping[str, str]) -> None:
        self.plan, self.catalogue, self.found, self.failed = plan, catalogue, found, failed

    def measured(self, system: System, dataset: str, level: str, protocol: str, metric: str) -> Measured:
        """See sheet.Ours."""
        if system.recipe is None:
            return Measured()
        key = (system.name, system.recipe(level), dataset, level, protocol)
        one = self.catalogue.get(dataset)
        if key in self.plan.missing or one is None:
            return Measured(note=self.plan.missing.get(key, ""))
        test = self.plan.tests[key]
        if (folder := self.found.get(test.wanted.name)) is None:
            return Measured(note=self.failed.get(test.wanted.name, "not run"))
        gray = _gray(one.images.images) if test.luma and level[1:].isdecimal() and metric in ("psnr", "ssim") else ()
        if gray:
            value = _mean(folder, one, gray, level, metric)
        else:
            value = measured_in(folder, one.images.name, level, protocol, metric, system.way)
        if isinstance(value, str):
            return Measured(note=value)
        own = f"{', '.join(path.stem for path in gray)}, a gray file, in its own samples" if gray else ""
        return Measured(value, seeds=1, note="; ".join(filter(None, [one.note, own])), part=not one.complete)

    def own(self, systems: Sequence[System]) -> Sequence[tuple[str, str]]:
        """None: all is in the papers."""
        return []


def measured_in(folder: Path, dataset: str, level: str, protocol: str, metric: str, way: str = "") -> float | str:
    """A number of a finished run, or why it has none."""
    row = _result(folder).summary["metrics"].get(dataset, {}).get(level)
    if row is None:
        return f"not tested on {dataset} at {level}"
    if row["protocol"] != protocol:
        return f"measured by the protocol {row['protocol']}, the table's is {protocol}"
    value = _result(folder).value(dataset, level, metric, way)
    return (f"{folder.name} has no {way} there" if way else f"no {metric}") if value is None else value


@cache
def _result(folder: Path) -> Result:
    return Result(folder)


@cache
def _gray(images: tuple[Path, ...]) -> tuple[Path, ...]:
    """The gray files of a set of colour images (Set14 has one); a set that is gray altogether has none."""
    gray = tuple(path for path in images if is_gray(path))
    return gray if len(gray) < len(images) else ()


def _mean(folder: Path, one: FoundSet, gray: Sequence[Path], level: str, metric: str) -> float | str:
    """Over a set, its gray files measured in their own samples, 0 to 255.

    The programs of the networks that know the luma alone took a gray file for luma. As a colour image its luma has 219
    levels only: the same error is 1.3 dB less, 0.09 dB in the mean of Set14.
    """
    scale, values = int(level[1:]), []
    own = {path.stem: (path, one.images.low_resolution(path, (scale, scale))) for path in gray}
    for line in _result(folder).lines("per_image.csv"):
        if (line["dataset"], line["label"]) == (one.images.name, level):
            if line["image"] in own:
                values.append(_own_samples(folder, *own[line["image"]], scale)[metric])
            else:
                values.append(float(line[metric]))
    return fmean(values) if values else f"not tested on {one.name} at {level}"


@cache
def _network(folder: Path) -> Restorer:
    """Of a finished run."""
    cfg: Any = OmegaConf.load(folder / "config.yaml")
    restorer = build_restorer(network_description(cfg))
    if cfg.ckpt is not None:
        load_weights(restorer, Path(cfg.ckpt), start=False)
    return restorer.eval()


@cache
def _own_samples(folder: Path, path: Path, published: Path | None, scale: int) -> dict[str, float]:
    """PSNR and SSIM of a gray file restored as one, without a border of `scale` pixels."""
    restorer = _network(folder)
    full = read_rgb(path)
    low_size, full_size = sizes(full.shape[:2], (scale, scale))
    full = full[: full_size[0], : full_size[1]]
    low = resize(full, low_size, "matlab") if published is None else read_rgb(published)
    channels = restorer.backbone.image_channels
    with torch.inference_mode():
        image = restorer.restore(to_tensor(low)[None, :channels], scale=scale).image
    x, y = (
        (each.double().clamp(0, 1) * 255).round()[0, :1, scale:-scale, scale:-scale]
        for each in (image, to_tensor(full)[None])
    )
    return {"psnr": peak_ratio(x, y), "ssim": mean_ssim(x, y)}
