"""What each depth of a network with branches costs and gives (FlexIR, Tables 3-5): a table, a plot, pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import groupby
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import restorer_of, run_folder, save_figure, save_table
from dynres.callbacks.ladder import ladder
from dynres.callbacks.ways import Shown, WaysWatcher, against_macs, filled, markdown, show
from dynres.contracts import Evaluation
from dynres.files import write_text
from dynres.report import Record, gain, mean, record, shown


@dataclass(frozen=True)
class Point:
    """A line of tradeoff.csv: one way through the network, as means over the images of a test set at one level.

    way: "P=3" (regular inference), or "h=1.05" (adaptive); psnr in dB, None without originals; gain over what there is
    without a network; macs of the backbone, fraction of those of the whole network; blocks: mean depth; ms: wall clock.
    """

    dataset: str
    label: str
    way: str
    images: int
    psnr: float | None
    gain: float | None
    ssim: float | None
    psnr_b: float | None
    macs: float
    fraction: float
    blocks: float
    ms: float


class TradeOff(WaysWatcher):
    """Restores every test image at every pointer and threshold; writes tradeoff.{csv,md,png} and depths/*.png.

    Nothing for a network without branches.

    Args:
        thresholds: h of adaptive inference (Table 5); empty for none.
        regions: of adaptive inference.
        pictures: images of each test set and level that are drawn, each at every pointer.
        crop: side of the enlarged crop in the pictures, in pixels of the output.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (1.0, 1.05, 1.1, 1.15),
        regions: int = 4,
        pictures: int = 1,
        crop: int = 96,
    ) -> None:
        super().__init__()
        given = (
            list(thresholds) if isinstance(thresholds, Sequence) and not isinstance(thresholds, str) else [thresholds]
        )
        if any(isinstance(h, bool) or not isinstance(h, int | float) for h in given) or len(set(given)) < len(given):
            raise ValueError(f"thresholds must be different numbers, such as [1.0, 1.05], got {thresholds}")
        if type(regions) is not int or regions < 1:
            raise ValueError(f"regions must be a whole number of at least 1, got {regions}")
        self.thresholds, self.regions, self.pictures, self.crop = tuple(given), regions, pictures, crop

    def names(self, module: LightningModule) -> Sequence[str]:
        return list(self._options(module)) if restorer_of(module).backbone.regional else []

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        if not self.ways:
            return
        module: Any = trainer.lightning_module
        found: dict[str, Evaluation] = {}
        for way, options in self._options(module).items():
            found[way] = module.evaluate(evaluation.sample, options)
            self.ways[way].append(record(found[way]))
        seen = sum((other.dataset, other.label) == (item.dataset, item.label) for other in self.records)
        if seen <= self.pictures:
            self._draw(trainer, found)

    def _options(self, module: Any) -> dict[str, Any]:
        """Each way through the network and the options of `Restorer.restore` that take it."""
        base = module.inference._replace(budget=None, pointer=None, threshold=None, regions=None)
        blocks = len(restorer_of(module).backbone.units)
        ways = {f"P={pointer}": base._replace(pointer=pointer) for pointer in range(1, blocks + 1)}
        for threshold in self.thresholds:
            ways[f"h={_number(threshold)}"] = base._replace(threshold=threshold, regions=self.regions)
        return ways

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        if not self.ways:
            return
        points = means(self.ways)
        rows = [["" if value is None else value for value in astuple(point)] for point in points]
        kinds = {"P": "pointer P", "h": "threshold h"}
        chart = against_macs((f"{one.dataset} {one.label}, {kinds[one.way[0]]}", one.macs, one.psnr) for one in points)
        save_table(trainer, "tradeoff", [field.name for field in fields(Point)], rows, {"tradeoff": chart})
        write_text(run_folder(trainer) / "tradeoff.md", markdown(_tables(points)))
        save_figure(trainer, plot(points), "tradeoff.png", "test/tradeoff")
        show(_tables(points))

    def _draw(self, trainer: Trainer, found: dict[str, Evaluation]) -> None:
        sample = next(iter(found.values())).sample
        name = re.sub(r"[^\w.-]+", "-", f"{sample.dataset}_{sample.label}_{sample.name}")
        save_figure(trainer, ladder(found, self.crop), f"depths/{name}.png", f"depths/{sample.dataset}_{sample.label}")


def _number(threshold: float) -> str:
    """Two decimals, as Table 5, or as many as it takes."""
    text = f"{threshold:.2f}"
    return text if float(text) == threshold else f"{threshold:g}"


def means(ways: dict[str, list[Record]]) -> list[Point]:
    """The points of every test set and level, in the order of the ways."""
    points = []
    groups = dict.fromkeys((item.dataset, item.label) for items in ways.values() for item in items)
    for dataset, label in groups:
        for way, items in ways.items():
            mine = [item for item in items if (item.dataset, item.label) == (dataset, label)]
            point = Point(
                dataset, label, way, len(mine),
                mean(item.psnr for item in mine), mean(gain(item.psnr, item.psnr_plain) for item in mine),
                mean(item.ssim for item in mine), mean(item.psnr_b for item in mine),
                fmean(item.macs for item in mine), fmean(item.fraction for item in mine),
                fmean(sum(item.decisions) for item in mine), fmean(item.ms for item in mine),
            )  # fmt: skip
            points.append(point)
    return points


HEADERS = ("", "blocks", "PSNR", "gain", "SSIM", "PSNR-B", "GMACs", "of full", "ms")


def _cells(point: Point) -> list[str]:
    return [
        point.way, f"{point.blocks:.2f}", shown(point.psnr, ".3f"), shown(point.gain, "+.2f"),
        shown(point.ssim, ".4f"), shown(point.psnr_b, ".3f"), f"{point.macs / 1e9:.3f}", f"{point.fraction:.1%}",
        f"{point.ms:.0f}",
    ]  # fmt: skip


def _tables(points: Sequence[Point]) -> list[Shown]:
    """One of every test set and level."""
    tables = []
    for dataset, label in dict.fromkeys((point.dataset, point.label) for point in points):
        rows = [_cells(point) for point in points if (point.dataset, point.label) == (dataset, label)]
        title = f"{dataset} {label}: regular inference at pointer P, adaptive at threshold h"
        tables.append(filled(Shown(title, list(HEADERS), rows)))
    return tables


def _texts(points: Sequence[Point]) -> list[str]:
    """What is written beside points of one curve: of those that spend the same, one speaks for all."""
    texts = []
    for _, same in groupby(points, key=lambda point: point.macs):
        ways = [point.way[2:] for point in same]
        texts += [ways[0] if len(ways) == 1 else f"{ways[0]} - {ways[-1]}", *[""] * (len(ways) - 1)]
    return texts


def plot(points: Sequence[Point]) -> Figure:
    """PSNR (or the share of the compute, without originals) against GMACs and against milliseconds."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    against_macs, against_time = figure.subplots(1, 2, sharey=True)
    groups = list(dict.fromkeys((point.dataset, point.label) for point in points))
    for number, (dataset, label) in enumerate(groups):
        mine = [point for point in points if (point.dataset, point.label) == (dataset, label)]
        for axes, cost in ((against_macs, lambda p: p.macs / 1e9), (against_time, lambda p: p.ms)):
            for kind, line, marker in (("P", "-", "o"), ("h", ":", "s")):
                some = [point for point in mine if point.way.startswith(kind)]
                if not some:
                    continue
                heights = [point.blocks if point.psnr is None else point.psnr for point in some]
                name = f"{dataset} {label}, {'pointer P' if kind == 'P' else 'threshold h'}"
                style = {"color": f"C{number % 10}", "marker": marker, "linestyle": line, "markersize": 5}
                axes.plot([cost(point) for point in some], heights, **style, label=name)
                style = {"textcoords": "offset points", "fontsize": 7, "ha": "center"}
                for point, height, text in zip(some, heights, _texts(some), strict=True):
                    axes.annotate(text, (cost(point), height), (0, -11 if kind == "h" else 6), **style)
    known = any(point.psnr is not None for point in points)
    against_macs.set_ylabel("PSNR, dB" if known else "blocks, mean")
    against_macs.set_xlabel("GMACs of the network an image")
    against_time.set_xlabel("milliseconds an image")
    for axes in (against_macs, against_time):
        axes.margins(0.08, 0.15)
        axes.spines[["top", "right"]].set_visible(False)
    against_time.legend(frameon=False, fontsize=8)
    return figure
