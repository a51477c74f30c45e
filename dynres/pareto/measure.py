"""Points of the plane: what a system gives and costs at each budget, and which points no other dominates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from dynres.contracts import EvalSample
from dynres.methods.base import Inference, RestorationTraining
from dynres.metrics import psnr
from dynres.report import Record, record
from dynres.restorer import Restorer

LEAST = 1e-6  # a budget that no network meets: each then does the least it can
STEPS = 8  # budgets from the least to 1


@dataclass(frozen=True)
class Point:
    """A system at a budget, or at several that it spends alike; means over the images of a test set.

    Attributes:
        asked: the budgets, such as "0.75 - 0.8, own"; "own" is what the network decides without one.
        share: of the MACs of the whole backbone (of the uncut one, where networks are pruned).
        backbone, whole: MACs of the backbone, and of backbone and upsampler.
        psnr, gain: dB, and dB over bicubic.
        ms: wall clock of restoring an image.
    """

    system: str
    dataset: str
    protocol: str
    asked: str
    share: float
    backbone: float
    whole: float
    psnr: float
    gain: float
    ms: float
    images: int


@dataclass(frozen=True)
class _Restored:
    """One image at one budget: its numbers, and the MACs of the whole backbone and of the upsampler."""

    record: Record
    full: int
    upsampler: int


class Family:
    """What answers to a budget: one network that decides what to run, or several of which the largest that fits runs.

    Args:
        networks: with upsamplers of one kind.
        inference: all but the budget.
    """

    def __init__(self, networks: Sequence[Restorer], inference: Inference) -> None:
        self.networks, self.inference = networks, inference
        self.own = len(networks) == 1  # several do not choose without a budget

    def restored(self, sample: EvalSample, budget: float | None) -> _Restored:
        """One image, restored and measured."""
        restorer, full = self.chosen(sample, budget)
        height, width = sample.image.shape[-2:]
        size = (sample.plain.shape[-2], sample.plain.shape[-1])
        inference = self.inference._replace(budget=budget if self.own else None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a budget of .* cannot be met")  # the table has what was spent
            found = RestorationTraining(restorer, 1.0, (), 1.0).evaluate(sample, inference)
        return _Restored(record(found), full, restorer.upsampler.macs(height, width, size))

    def chosen(self, sample: EvalSample, budget: float | None) -> tuple[Restorer, int]:
        """The largest network whose backbone is within the budget, else the smallest; MACs of the largest of all."""
        size = (sample.image.shape[-2], sample.image.shape[-1])
        costs = [network.backbone.cost(*size).full for network in self.networks]
        order = sorted(range(len(costs)), key=costs.__getitem__, reverse=True)
        full = costs[order[0]]
        if self.own or budget is None:
            return self.networks[order[0]], full
        fits = [number for number in order if costs[number] <= budget * full * (1 + 1e-9)]
        return self.networks[fits[0] if fits else order[-1]], full

    def budgets(self, sample: EvalSample) -> list[float]:
        """From the least share of the full MACs that an image can be restored with, to 1; or those of each network."""
        if not self.own:
            costs = [network.backbone.cost(*sample.image.shape[-2:]).full for network in self.networks]
            return sorted({_rounded_up(cost / max(costs)) for cost in costs})
        one = self.restored(sample, LEAST)
        least = _rounded_up(one.record.macs / one.full)
        return [round(least + (1 - least) * step / (STEPS - 1), 3) for step in range(STEPS)]


def measured(
    system: str,
    networks: Sequence[Restorer],
    samples: Iterable[EvalSample],
    budgets: Sequence[float] | None,
    inference: Inference,
    device: torch.device,
) -> list[Point]:
    """The points of a system, test set by test set, by growing MACs.

    Args:
        networks: see Family.
        samples: images with a target.
        budgets: in (0, 1]; None for some from its least to 1.
    """
    family = Family([network.to(device) for network in networks], inference)
    ways: list[float | None] = []
    found: dict[tuple[str, float | None], list[_Restored]] = {}
    for given in samples:
        sample = _moved(given, device)
        if not ways:
            ways = [*(budgets or family.budgets(sample)), *([None] if family.own else [])]
            family.restored(sample, 1.0)  # the first time is slower
        for budget in ways:
            found.setdefault((sample.dataset, budget), []).append(family.restored(sample, budget))
    datasets = dict.fromkeys(dataset for dataset, _ in found)
    return [point for dataset in datasets for point in _merged(system, [(way, found[dataset, way]) for way in ways])]


def _moved(sample: EvalSample, device: torch.device) -> EvalSample:
    target = None if sample.target is None else sample.target.to(device)
    image, plain, seed = (each.to(device) for each in (sample.image, sample.plain, sample.seed))
    return sample._replace(image=image, target=target, plain=plain, seed=seed)


def bicubic(samples: Iterable[EvalSample]) -> list[Point]:
    """What there is without a network, at 0 MACs: a point for each test set."""
    found: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        assert sample.target is not None  # super-resolution has its originals
        value = psnr(sample.plain, sample.target, sample.protocol, sample.scale)
        found.setdefault((sample.dataset, sample.protocol), []).append(value)
    return [
        Point("bicubic", dataset, protocol, "", 0.0, 0.0, 0.0, fmean(values), 0.0, 0.0, len(values))
        for (dataset, protocol), values in found.items()
    ]


def _merged(system: str, ways: Sequence[tuple[float | None, list[_Restored]]]) -> list[Point]:
    """A point for each amount of MACs; budgets that spend the same are told together."""
    alike: dict[tuple[float, float], list[tuple[float | None, list[_Restored]]]] = {}
    for way, items in ways:
        key = (fmean(one.record.macs for one in items), fmean(_known(one.record.psnr) for one in items))
        alike.setdefault(key, []).append((way, items))
    points = []
    for (macs, quality), group in sorted(alike.items()):
        items = group[0][1]
        points.append(
            Point(
                system, items[0].record.dataset, items[0].record.protocol, _asked([way for way, _ in group]),
                share=fmean(one.record.macs / one.full for one in items),
                backbone=macs,
                whole=macs + fmean(one.upsampler for one in items),
                psnr=quality,
                gain=quality - fmean(_known(one.record.psnr_plain) for one in items),
                ms=fmean(one.record.ms for _, some in group for one in some),
                images=len(items),
            )
        )  # fmt: skip
    return points


def _rounded_up(share: float) -> float:
    """To two digits, so that it can be typed."""
    return min(1.0, math.ceil(100 * share) / 100)


def _known(value: float | None) -> float:
    assert value is not None  # of Record, for tasks without originals
    return value


def _asked(ways: Sequence[float | None]) -> str:
    budgets = sorted(way for way in ways if way is not None)
    parts = [f"{budgets[0]:g}" + (f" - {budgets[-1]:g}" if len(budgets) > 1 else "")] if budgets else []
    return ", ".join([*parts, *(["own"] if None in ways else [])])


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, quality) is dominated by none: no other costs no more, is no worse, and is better in one."""
    best, at_cost, stands = -math.inf, math.nan, [False] * len(points)
    for number in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        cost, quality = points[number]
        if quality > best or (cost == at_cost and quality == best):
            stands[number], best, at_cost = True, quality, cost
    return stands
