"""The pictures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.rows import Point, Row


class Curves(NamedTuple):
    """What a picture of curves is called, and its axes."""

    title: str
    x: str
    y: str
    shared: bool = True  # the y axis, by all panels
    logarithmic: bool = True


CURVES = {
    "area": Curves("Milliseconds to decode at x4, over the pixels of the feature map", "input pixels", "ms"),
    "memory": Curves(
        "Peak memory of decoding at x4 (output included, at least 1 MB), over the pixels of the feature map",
        "input pixels",
        "MB",
    ),
    "scale": Curves("Milliseconds to decode, over the scale", "scale", "ms"),
    "growth": Curves(
        "Attention to three maps of 64 channels, over the pixels of a map: time, and memory beyond the inputs",
        "pixels",
        "",
        shared=False,
    ),
    "keys": Curves(
        "ACLA over the share of keys that is kept, to all keys: where keys are left out, and where masks weigh them",
        "share of keys kept",
        "to all keys",
        logarithmic=False,
    ),
}
SHARES = {
    "routing": "Time over MACs of routed networks, both to the dense network's: on the line, a MAC not spent is time.",
    "pruning": "Time over MACs of pruned networks, both to the full network's: on the line, a MAC cut is time.",
    "subnets": "Time over MACs of AnySR's subnets, both to the whole network's: on the line, a MAC not run is time.",
}
COLOURS = {"plain": "tab:gray", "dynres": "tab:blue"}


def draw(folder: Path, rows: Sequence[Row], points: Sequence[Point]) -> list[tuple[str, str]]:
    """PNG files in the folder; (name, caption) of each."""
    matplotlib.use("Agg")
    made = []
    speed = [row for row in rows if row.unit == "x" and row.sense == "at least" and row.value is not None]
    if speed:
        made.append(
            (_save(_bars(speed), folder / "speedup.png"), "Times faster than the plain form; ticks are the bars.")
        )
    for plot, about in CURVES.items():
        some = [point for point in points if point.plot == plot]
        if some:
            made.append((_save(_curves(some, about), folder / f"{plot}.png"), f"{about.title}."))
    for plot, caption in SHARES.items():
        some = [point for point in points if point.plot == plot]
        if some:
            made.append((_save(_shares(some), folder / f"{plot}.png"), caption))
    return made


def _save(figure: Figure, file: Path) -> str:
    figure.savefig(file, dpi=130, bbox_inches="tight")
    return file.name


def _bars(rows: Sequence[Row]) -> Figure:
    """Horizontal, on a logarithmic axis, with the bar each must reach as a tick."""
    figure = Figure(figsize=(9, 0.8 + 0.34 * len(rows)))
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        assert row.value is not None
        reached = row.verdict != "not met"
        axes.barh(place, row.value - 1, left=1, height=0.62, color="tab:blue" if reached else "tab:red")
        label = f"{row.value:.3g}x" if row.value < 100 else f"{row.value:.0f}x"
        axes.text(1.06 * max(row.value, row.bar or 1, 1), place, label, va="center", fontsize=8)
        if row.bar is not None:
            axes.plot([row.bar, row.bar], [place - 0.42, place + 0.42], color="black", linewidth=2)
    axes.set_yticks(range(len(rows)), [row.what for row in reversed(rows)], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(right=2 * max(row.value or 1 for row in rows))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel("times faster than the plain form (black tick: at least)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curves(points: Sequence[Point], about: Curves) -> Figure:
    """One panel a network, its forms in each."""
    networks = list(dict.fromkeys(point.network for point in points))
    figure = Figure(figsize=(2.7 * len(networks) + 0.6, 2.9))
    panels = figure.subplots(1, len(networks), sharey=about.shared, squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        for form in dict.fromkeys(point.form for point in points):
            some = sorted({(p.x, p.y) for p in points if (p.network, p.form) == (network, form)})
            if some:
                axes.plot(*zip(*some, strict=True), marker="o", markersize=4, color=COLOURS.get(form), label=form)
        axes.set_title(network, fontsize=10)
        axes.set_xlabel(about.x)
        axes.grid(alpha=0.3)
        if about.logarithmic:
            _logarithmic(axes, sorted({point.x for point in points}))
    panels[0].set_ylabel(about.y)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _logarithmic(axes: Axes, places: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places], fontsize=7, rotation=45)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _shares(points: Sequence[Point]) -> Figure:
    """Both axes to the whole network."""
    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="time = MACs")
    for name in dict.fromkeys(point.network for point in points):
        some = sorted((point.x, point.y) for point in points if point.network == name)
        axes.plot(*zip(*some, strict=True), marker="o", markersize=4, label=name)
    axes.set_xlabel("MACs / all")
    axes.set_ylabel("time / all")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
