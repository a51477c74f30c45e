"""MACs really spent, per test set and scale or level: mean and spread over the images, beside the dense network's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import fmean, pstdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import EvaluationWatcher, save_figure, save_table
from dynres.callbacks.wandb_log import Lines, label_value
from dynres.report import Record, axis_name, grouped


@dataclass(frozen=True)
class MacsRow:
    """A line of macs.csv: MACs of the backbone over the images of a test set under one label; std of the population.

    dense: mean MACs with every unit on; fraction*: MACs over the dense MACs of the same image; active_fraction: mean of
    the decisions, None for a static network.
    """

    dataset: str
    label: str
    images: int
    mean: float
    std: float
    min: float
    max: float
    dense: float
    fraction: float
    fraction_min: float
    fraction_max: float
    active_fraction: float | None


class Flops(EvaluationWatcher):
    """Writes macs.csv and macs.png after a test.

    Images of one set differ in size, so the spread of the MACs mixes size and routing; the fraction of the dense cost
    at each image's own size shows routing alone.
    """

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        full = {item.size: item.macs / item.fraction for item in records}
        rows = macs_rows(records, lambda height, width: full[height, width])
        lines = [["" if value is None else value for value in astuple(row)] for row in rows]
        save_table(trainer, "macs", [field.name for field in fields(MacsRow)], lines, {"macs": over_labels(rows)})
        save_figure(trainer, draw(rows), "macs.png", "test/macs")


def macs_rows(records: Sequence[Record], dense: Callable[[int, int], float]) -> list[MacsRow]:
    """Statistics per test set and label; `dense` gives the full MACs at an input's height and width."""
    full = {size: dense(*size) for size in {item.size for item in records}}
    rows = []
    for (dataset, label), group in grouped(records).items():
        macs = [item.macs for item in group]
        share = [item.macs / full[item.size] if full[item.size] else 1.0 for item in group]
        active = [item.active for item in group if item.active is not None]
        absolute = (fmean(macs), pstdev(macs), min(macs), max(macs), fmean(full[item.size] for item in group))
        relative = (fmean(share), min(share), max(share), fmean(active) if active else None)
        rows.append(MacsRow(dataset, label, len(group), *absolute, *relative))
    return rows


def over_labels(rows: Sequence[MacsRow]) -> Lines:
    """Mean GMACs of each test set, spent and dense, over the scale or level."""
    lines = {}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        mine = sorted((row for row in rows if row.dataset == dataset), key=lambda row: label_value(row.label))
        places = [label_value(row.label) for row in mine]
        lines[dataset] = (places, [row.mean / 1e9 for row in mine])
        lines[f"{dataset}, all units on"] = (places, [row.dense / 1e9 for row in mine])
    return Lines("GMACs of the backbone an image", axis_name(row.label for row in rows), lines)


def draw(rows: Sequence[MacsRow]) -> Figure:
    """Two bar charts: GMACs (mean and std, dense in outline), and % of the dense cost (mean, least, greatest)."""
    figure = Figure(figsize=(max(7.5, 2 + 1.1 * len(rows)), 3.6), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    for number, dataset in enumerate(dict.fromkeys(row.dataset for row in rows)):
        places = [place for place, row in enumerate(rows) if row.dataset == dataset]
        mine = [rows[place] for place in places]
        style = {"width": 0.62, "color": f"C{number % 10}", "alpha": 0.85, "label": dataset}
        whisker = {"fmt": "none", "ecolor": "0.25", "capsize": 3, "linewidth": 1}
        absolute.bar(places, [row.mean / 1e9 for row in mine], **style)
        absolute.errorbar(places, [row.mean / 1e9 for row in mine], [row.std / 1e9 for row in mine], **whisker)
        relative.bar(places, [100 * row.fraction for row in mine], **style)
        below = [100 * max(0.0, row.fraction - row.fraction_min) for row in mine]  # a mean of equal numbers is rounded
        above = [100 * max(0.0, row.fraction_max - row.fraction) for row in mine]
        relative.errorbar(places, [100 * row.fraction for row in mine], [below, above], **whisker)
        for place, row in zip(places, mine, strict=True):
            relative.text(place, 4, f"{100 * row.fraction:.1f}", ha="center", color="white", fontsize=9)
    places = list(range(len(rows)))
    dense = {"width": 0.8, "fill": False, "edgecolor": "0.45", "linestyle": "--", "label": "all units on"}
    absolute.bar(places, [row.dense / 1e9 for row in rows], **dense)
    relative.axhline(100, color="0.45", linestyle="--", linewidth=1)
    _finish(absolute, rows, "GMACs of the backbone an image", "mean and standard deviation")
    _finish(relative, rows, "% of the dense cost", "mean, least and greatest")
    figure.legend(*absolute.get_legend_handles_labels(), loc="outside upper center", ncols=8, frameon=False, fontsize=8)
    return figure


def _finish(axes: Axes, rows: Sequence[MacsRow], label: str, title: str) -> None:
    labels = [row.label for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=9)
    if len(rows) > 4 and max(map(len, labels)) > 4:
        for text in axes.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlabel(axis_name(row.label for row in rows))
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
