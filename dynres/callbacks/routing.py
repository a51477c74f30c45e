"""Which units run at which scale or level: a heat map of mean decisions, units x labels, over the test images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy
from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import EvaluationWatcher, save_figure, save_table
from dynres.callbacks.wandb_log import Lines, label_value
from dynres.report import Record, axis_name, grouped


class RoutingMap(EvaluationWatcher):
    """Writes routing.csv (a line a unit, test set and label) and routing_heatmap.png; nothing for a static network."""

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        routed = [item for item in records if item.units]
        if not routed:
            return
        units = routed[0].units
        rows = [
            [dataset, label, unit, frequency]
            for (dataset, label), group in grouped(routed).items()
            for unit, frequency in zip(units, frequencies(group), strict=True)
        ]
        labels: dict[str, list[Record]] = {}
        for item in sorted(routed, key=lambda item: item.scale):  # levels, all of scale 1, stay as they came
            labels.setdefault(item.label, []).append(item)
        columns = {label: frequencies(group) for label, group in labels.items()}
        chart = Lines("mean decision of a branch", axis_name(columns), by_branch(columns, units))
        save_table(trainer, "routing", ["dataset", "label", "unit", "frequency"], rows, {"routing": chart})
        figure = draw(columns, units, {label: len(group) for label, group in labels.items()})
        save_figure(trainer, figure, "routing_heatmap.png", "test/routing")


def frequencies(records: Sequence[Record]) -> list[float]:
    """The mean decision of each unit: in [0, 1] for gates and shares of regions; else the mean width or depth."""
    return [fmean(column) for column in zip(*(item.decisions for item in records), strict=True)]


def split_names(units: Sequence[str]) -> tuple[list[str], list[str]]:
    """Unit names -> (groups, branches): "group 3 8x8" is branch "8x8" of "group 3"; one word is a group of its own."""
    pairs = [unit.rsplit(" ", 1) if " " in unit else [unit, ""] for unit in units]
    return [group for group, _ in pairs], [branch for _, branch in pairs]


def by_branch(columns: dict[str, list[float]], units: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Branch -> (places of the labels, mean decisions over the groups that have it), the lines of a chart."""
    _, branches = split_names(units)
    labels = sorted(columns, key=label_value)
    return {
        branch or "all units": (
            [label_value(label) for label in labels],
            [fmean(columns[label][row] for row, own in enumerate(branches) if own == branch) for label in labels],
        )
        for branch in dict.fromkeys(branches)
    }


def draw(columns: dict[str, list[float]], units: Sequence[str], images: dict[str, int]) -> Figure:
    """The heat map: rows are units in network order with a gap between groups, columns are labels, cells per cent."""
    groups, branches = split_names(units)
    starts = [row for row, group in enumerate(groups) if row == 0 or group != groups[row - 1]]
    values = [[column[row] for column in columns.values()] for row in range(len(units))]
    gates = max(map(max, values)) <= 1
    top = 1.0 if gates else max(map(max, values))
    margin = 12 + 4.5 * max(map(len, branches))  # points, right of the group names
    figure = Figure(figsize=(2.9 + 0.8 * len(columns), 1.5 + 0.25 * len(units)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            text, colour = (f"{value:.0%}" if gates else f"{value:.2f}"), "black" if value > 0.6 * top else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    for start in starts:
        axes.axhline(start - 0.5, color="white", linewidth=2.5)
        middle = start + groups.count(groups[start]) / 2 - 0.5
        place = offset_copy(axes.get_yaxis_transform(), figure, -margin, 0, units="points")
        axes.text(0, middle, groups[start], transform=place, ha="right", va="center", fontsize=8.5)
    axes.set_yticks(range(len(units)), branches, fontsize=7.5)
    counted = [f"{label}\n{images[label]} image{'s' * (images[label] > 1)}" for label in columns]
    axes.set_xticks(range(len(columns)), counted, fontsize=8)
    axes.set_xlabel(axis_name(columns), fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("How often a unit runs" if gates else "Mean decision of a unit", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=min(1.0, 8 / len(units)), pad=0.02)
    return figure
