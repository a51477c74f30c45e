"""What each subnet of AnySR gives at each scale, and what it costs (Figure 4): a table, a picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import fmean
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import restorer_of, run_folder, save_figure, save_table
from dynres.callbacks.ways import Shown, WaysWatcher, against_macs, filled, markdown, show
from dynres.contracts import EvalSample, Evaluation
from dynres.files import write_text
from dynres.report import Record, axis_name, gain, grouped, mean, record, shown

BY_SCALE = "dagger"


@dataclass(frozen=True)
class Point:
    """A line of subnets.csv: one way to restore the images of a test set at one scale, as means over them.

    way: a width ("0.7"), or "dagger": each image by the subnet of its scale; picked: how many images have a scale whose
    subnet this is; psnr* in dB, None without originals; macs of the backbone, fraction of those of the whole network;
    ms: wall clock.
    """

    dataset: str
    label: str
    way: str
    images: int
    picked: int
    protocol: str
    plain: str
    psnr: float | None
    psnr_plain: float | None
    gain: float | None
    ssim: float | None
    macs: float
    fraction: float
    ms: float


class Subnets(WaysWatcher):
    """Restores every test image with every subnet; writes subnets.{csv,md,png}. Nothing for a network without.

    Every subnet is asked for as a budget, the share of the whole network that it costs at the image's size.
    """

    def names(self, module: LightningModule) -> Sequence[str]:
        backbone = restorer_of(module).backbone
        return [*(f"{width:g}" for width in backbone.widths), BY_SCALE] if hasattr(backbone, "shares") else []

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        if not self.ways:
            return
        module: Any = trainer.lightning_module
        sample, inference, by_scale = evaluation.sample, module.inference, evaluation
        if inference.budget is not None:  # which decided instead of the scale
            by_scale = module.evaluate(sample, inference._replace(budget=None))
        found = {_step(each): each for each in (by_scale, evaluation)}
        *widths, _by_scale = self.ways
        for step, (way, budget) in enumerate(zip(widths, _shares(module, sample), strict=True)):
            if step not in found:
                with warnings.catch_warnings():  # tiles overlap: nobody asked for this budget but to choose a subnet
                    warnings.filterwarnings("ignore", "a budget of")
                    found[step] = module.evaluate(sample, inference._replace(budget=budget))
            self.ways[way].append(record(found[step]))
        self.ways[BY_SCALE].append(record(by_scale))

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        if not self.ways:
            return
        points = means(self.ways)
        rows = [["" if value is None else value for value in astuple(point)] for point in points]
        chart = against_macs(
            (f"{one.dataset} {one.label}", one.macs, one.psnr) for one in points if one.way != BY_SCALE
        )
        save_table(trainer, "subnets", [field.name for field in fields(Point)], rows, {"subnets": chart})
        tables = [filled(_table(mine)) for mine in by_dataset(points).values()]
        write_text(run_folder(trainer) / "subnets.md", markdown(tables))
        save_figure(trainer, draw(by_dataset(points)), "subnets.png", "test/subnets")
        show(tables, width=150)


def _step(evaluation: Evaluation) -> int:
    """Which subnet ran."""
    assert evaluation.restoration.routing is not None
    return int(evaluation.restoration.routing.decisions.sum())


def _shares(module: Any, sample: EvalSample) -> list[float]:
    """The budget of each subnet, for the image that the backbone sees."""
    restorer = restorer_of(module)
    seen = sample.plain if restorer.upsampler.same_size else sample.image
    shares: list[float] = restorer.backbone.shares(*seen.shape[-2:])
    return shares


def means(ways: Mapping[str, Sequence[Record]]) -> list[Point]:
    """The points of every test set and scale, in the order of the ways."""
    points = []
    for (dataset, label), owns in grouped(ways[BY_SCALE]).items():
        for step, (way, items) in enumerate(ways.items()):
            mine = [item for item in items if (item.dataset, item.label) == (dataset, label)]
            point = Point(
                dataset, label, way, len(mine),
                sum(way == BY_SCALE or sum(own.decisions) == step for own in owns),
                mine[0].protocol, mine[0].plain,
                mean(item.psnr for item in mine), mean(item.psnr_plain for item in mine),
                mean(gain(item.psnr, item.psnr_plain) for item in mine), mean(item.ssim for item in mine),
                fmean(item.macs for item in mine), fmean(item.fraction for item in mine),
                fmean(item.ms for item in mine),
            )  # fmt: skip
            points.append(point)
    return points


Ways = dict[str, Point]


def by_dataset(points: Sequence[Point]) -> dict[str, dict[str, Ways]]:
    """The same by test set, scale and way."""
    found: dict[str, dict[str, Ways]] = {}
    for point in points:
        found.setdefault(point.dataset, {}).setdefault(point.label, {})[point.way] = point
    return found


def _largest(ways: Ways) -> Point:
    *_, largest, _by_scale = ways.values()
    return largest


def _table(scales: Mapping[str, Ways]) -> Shown:
    """Of one test set: PSNR and GMACs of each subnet at each scale; below, the means of † and ‡."""
    first = next(iter(scales.values()))
    widths = [way for way in first if way != BY_SCALE]
    one = first[BY_SCALE]
    known = any(ways[BY_SCALE].psnr is not None for ways in scales.values())
    whole, rows = [_largest(ways) for ways in scales.values()], []
    for label, ways in scales.items():
        marks = [_mark(ways[way]) for way in widths]
        quality = [shown(ways[way].psnr, ".3f") for way in widths]
        costs = [f"{ways[way].macs / 1e9:.3f}" for way in widths]
        marked = quality if known else costs
        marked[:] = [text + mark for text, mark in zip(marked, marks, strict=True)]
        rows.append([label, shown(ways[BY_SCALE].psnr_plain, ".3f"), *quality, *costs])
    headers = [way + " ‡" * (way == widths[-1]) for way in widths]
    measured = f"PSNR in dB, protocol {one.protocol}" if known else "no ground truth"
    return Shown(
        f"{one.dataset}: each width ({measured}) and its GMACs",
        [axis_name(scales), one.plain, *headers, *(f"GMACs {way}" for way in headers)],
        rows,
        [
            _line("† the subnet of the scale", [ways[BY_SCALE] for ways in scales.values()], whole),
            _line("‡ the whole network at every scale", whole, whole),
        ],
    )


def _mark(point: Point) -> str:
    """Where whole pixels make other scales of one of both axes, images may differ in their subnet."""
    if point.picked in (0, point.images):
        return " †" * (point.picked > 0)
    return f" †{point.picked}/{point.images}"


def _line(name: str, points: Sequence[Point], whole: Sequence[Point]) -> str:
    psnr, macs = mean(point.psnr for point in points), fmean(point.macs for point in points)
    quality = "" if psnr is None else f"{psnr:.3f} dB, "
    share = macs / fmean(point.macs for point in whole)
    return f"{name}: {quality}{macs / 1e9:.3f} GMACs, {share:.1%} of ‡"


def draw(datasets: Mapping[str, Mapping[str, Ways]]) -> Figure:
    """A row of axes a test set: what each subnet gains over bicubic at each scale, lacks of the largest, and costs.

    Scales stand side by side, not at their distance, so that pairs of them and x30 have their place. The path over the
    subnets is what the scales pick.
    """
    figure = Figure(figsize=(14, 0.5 + 3.5 * len(datasets)), layout="constrained")
    panels = figure.subplots(len(datasets), 3, squeeze=False)
    for (quality, loss, costs), (dataset, scales) in zip(panels, datasets.items(), strict=True):
        one = next(iter(scales.values()))[BY_SCALE]
        known = {label: ways for label, ways in scales.items() if ways[BY_SCALE].psnr is not None}
        if known:
            quality.set_title(f"{dataset}: PSNR beyond {one.plain}, dB ({one.protocol})", fontsize=10)
            _lines(quality, known, lambda point, ways: point.gain)
            loss.set_title("PSNR beyond that of ‡, dB", fontsize=10)
            _lines(loss, known, lambda point, ways: gain(point.psnr, _largest(ways).psnr))
        else:
            quality.set_axis_off()
            loss.set_axis_off()
            quality.text(0.5, 0.5, f"{dataset} has no originals", ha="center", transform=quality.transAxes)
        costs.set_title("GMACs of the backbone an image", fontsize=10)
        _lines(costs, scales, lambda point, ways: point.macs / 1e9)
        costs.set_yscale("log")
        costs.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        costs.yaxis.set_major_formatter("{x:g}")
        costs.yaxis.set_minor_formatter("{x:g}")
        costs.legend(frameon=False, fontsize=8)
    return figure


def _lines(axes: Axes, scales: Mapping[str, Ways], height: Callable[[Point, Ways], float | None]) -> None:
    ways = [way for way in next(iter(scales.values())) if way != BY_SCALE]
    palette = colormaps["viridis"]
    for step, way in enumerate(ways):
        colour = palette(0.9 - 0.8 * step / max(1, len(ways) - 1))
        name = f"width {way}" + " ‡" * (way == ways[-1])
        heights: list[Any] = [height(each[way], each) for each in scales.values()]
        axes.plot(range(len(scales)), heights, "o-", color=colour, markersize=4, linewidth=1.3, label=name)
    path: list[Any] = [height(each[BY_SCALE], each) for each in scales.values()]
    style: dict[str, Any] = {"color": "tab:red", "linewidth": 4, "alpha": 0.35, "markersize": 10, "zorder": 1}
    axes.plot(range(len(scales)), path, "o-", **style, label="† the scale's")
    every = -(-len(scales) // 12)
    ticked = list(enumerate(scales))[::every]
    axes.set_xticks([place for place, _ in ticked], [label for _, label in ticked], fontsize=8)
    axes.set_xlabel(axis_name(scales))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
