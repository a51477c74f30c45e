"""The points as a file of numbers, as tables, and as the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.console import Console
from rich.table import Table

from dynres.callbacks.common import write_csv
from dynres.files import atomic_file, write_text
from dynres.metrics import border
from dynres.pareto.measure import Point, front

PICTURED = {"backbone": "GMACs of the backbone", "whole": "GMACs of the whole network"}
MARKERS = "osD^vP"
SIZES = {"demo": "demo-size networks trained for minutes", "smoke": "smoke-size networks that have learned nothing"}


@dataclass(frozen=True)
class Trained:
    """How a system came about, or why it did not.

    Attributes:
        commands: arguments of `python -m dynres.run`.
        params: of the (largest) network.
        steps: that each network was trained for.
        seconds: of all trainings.
        failure: the reason, where there are no points.
    """

    title: str
    commands: Sequence[str]
    params: int = 0
    steps: int = 0
    seconds: float = 0.0
    note: str = ""
    failure: str | None = None


def on_front(points: Sequence[Point]) -> dict[str, list[bool]]:
    """By either cost, which points no other of their test set dominates; bicubic counts, at 0 MACs."""
    stands = {}
    for cost in PICTURED:
        marks: dict[int, bool] = {}
        for dataset in dict.fromkeys(point.dataset for point in points):
            mine = [number for number, point in enumerate(points) if point.dataset == dataset]
            marks |= dict(zip(mine, front([(getattr(points[n], cost), points[n].psnr) for n in mine]), strict=True))
        stands[cost] = [marks[number] for number in range(len(points))]
    return stands


def draw(folder: Path, points: Sequence[Point], profile: str, scale: int) -> None:
    """pareto.csv and pareto.png into a folder."""
    stands = on_front(points)
    header = [*(field.name for field in fields(Point)), *(f"front_{cost}" for cost in PICTURED)]
    marks = [[int(stands[cost][number]) for cost in PICTURED] for number in range(len(points))]
    write_csv(folder / "pareto.csv", header, [[*astuple(one), *mark] for one, mark in zip(points, marks, strict=True)])
    with atomic_file(folder / "pareto.png") as temporary:
        picture(points, profile, scale).savefig(temporary, format="png", dpi=130, facecolor="white")


def tell(folder: Path, points: Sequence[Point], systems: Sequence[Trained], profile: str, scale: int) -> None:
    """Print the tables, and write them into a folder, as pareto.md."""
    stands = on_front(points)
    parts = [f"# PSNR against MACs at x{scale}: {_size(profile)}\n", "![PSNR against MACs](pareto.png)\n"]
    for dataset in dict.fromkeys(point.dataset for point in points):
        mine = [number for number, point in enumerate(points) if point.dataset == dataset]
        fronts = [[cost for cost in PICTURED if stands[cost][number]] for number in mine]
        parts.append(_points(dataset, [points[number] for number in mine], fronts, scale))
    write_text(folder / "pareto.md", "\n".join([*parts, _systems(systems)]))


def _size(profile: str) -> str:
    return SIZES.get(profile, f"profile {profile}")


def _points(dataset: str, points: Sequence[Point], fronts: Sequence[Sequence[str]], scale: int) -> str:
    columns = [
        "system", "budget asked", "spent", "GMACs, backbone", "GMACs, whole", "PSNR, dB", "gain", "ms", "front",
    ]  # fmt: skip
    rows = [
        [
            one.system, one.asked, f"{one.share:.1%}" if one.backbone else "", f"{one.backbone / 1e9:.3f}",
            f"{one.whole / 1e9:.3f}", f"{one.psnr:.3f}", f"{one.gain:+.3f}", f"{one.ms:.0f}" if one.backbone else "",
            ", ".join(stands),
        ]
        for one, stands in zip(points, fronts, strict=True)
    ]  # fmt: skip
    title = f"{dataset}, x{scale}: {points[0].images} images, {protocol(points[0].protocol, scale)}"
    return show(title, columns, rows, NOTES)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Print a table, notes below it; returns it as Markdown."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
    lines = [columns, ["---"] * len(columns), *[[cell.replace("|", "/") for cell in row] for row in rows]]
    text = f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    return text + "".join(f"\n{note}\n" for note in notes)


NOTES = (
    "All networks restored the same low-resolution images (MATLAB's bicubic, or those that the set publishes). Means "
    "over the images; MACs of what really ran (fvcore's count), of the backbone or with the upsampler's formula.",
    'Budgets are shares of the backbone\'s full MACs; "own" is what the network decides without one. A budget below a '
    "network's least gets its least. Of pruned networks the largest that fits runs, and shares are of the uncut one.",
    "front: no other point has at least the PSNR for at most the MACs, bicubic's 0 included.",
)


def protocol(name: str, scale: int) -> str:
    """How PSNR was measured, in words."""
    colours = {"div2k": "RGB", "benchmark": "luma of BT.601"}[name]
    return f"PSNR of {colours} without {border(name, scale)[0]} pixels at the border ({name} protocol)"


def _systems(systems: Sequence[Trained]) -> str:
    rows = [
        [one.title, f"{one.params:,}", f"{one.steps:,}", f"{one.seconds:.0f}", one.note]
        if one.failure is None
        else [one.title, "", "", "", f"failed: {one.failure}"]
        for one in systems
    ]
    text = show("Trainings", ["system", "parameters", "steps", "seconds", "note"], rows)
    commands = [f"python -m dynres.run {command}" for one in systems for command in one.commands]
    return text + "\n```bash\n" + "\n".join(commands) + "\n```\n"


def picture(points: Sequence[Point], profile: str, scale: int) -> Figure:
    """A row of two panels for each test set, sharing their PSNR: MACs of backbones, and of whole networks."""
    datasets = list(dict.fromkeys(point.dataset for point in points))
    figure = Figure(figsize=(11, 0.9 + 4.4 * len(datasets)), layout="constrained")
    grid = figure.subplots(len(datasets), 2, sharey="row", squeeze=False)
    titles = list(dict.fromkeys(point.system for point in points if point.backbone))
    colours = {title: f"C{number % 10}" for number, title in enumerate(titles)}
    stands = on_front(points)
    for dataset, row in zip(datasets, grid, strict=True):
        mine = [number for number, point in enumerate(points) if point.dataset == dataset]
        for cost, axes in zip(PICTURED, row, strict=True):
            marks = [stands[cost][number] for number in mine]
            _panel(axes, [points[number] for number in mine], marks, cost, colours)
        row[0].set_ylabel(f"PSNR on {dataset}, dB")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    images = " + ".join(str(next(one.images for one in points if one.dataset == dataset)) for dataset in datasets)
    figure.suptitle(f"x{scale}, {images} held-out images: {_size(profile)}", fontsize=12)
    return figure


def _panel(axes: Axes, points: Sequence[Point], marks: Sequence[bool], cost: str, colours: Mapping[str, str]) -> None:
    """One line a system, with the share of its full MACs that it spends at least; the front ringed."""

    def at(some: Sequence[Point]) -> tuple[list[float], list[float]]:
        return [getattr(one, cost) / 1e9 for one in some], [one.psnr for one in some]

    axes.set_xscale("log")
    for number, (title, colour) in enumerate(colours.items()):
        mine = [one for one in points if one.system == title]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 5}
        axes.plot(*at([one for one in mine if one.asked != "own"]), **style, linewidth=1.2, label=title)
        own = [one for one in mine if one.asked.endswith("own")]
        axes.plot(*at(own), **style, linestyle="", markerfacecolor="white")
        if mine and mine[0].share < 0.995:
            place = (getattr(mine[0], cost) / 1e9, mine[0].psnr)
            words: dict[str, Any] = {
                "textcoords": "offset points",
                "ha": "right",
                "va": "center",
                "fontsize": 7,
                "color": colour,
            }
            axes.annotate(f"{mine[0].share:.0%}", place, (-7, 0), **words)
    ahead = [one for one, mark in zip(points, marks, strict=True) if mark and one.backbone]
    ring: dict[str, Any] = {
        "marker": "o",
        "markersize": 11,
        "markerfacecolor": "none",
        "markeredgecolor": "0.25",
        "linestyle": "",
    }
    axes.plot(*at(ahead), **ring, label="front: no other gives as much for less")
    hollow: dict[str, Any] = {
        "marker": "o",
        "markersize": 5,
        "color": "0.25",
        "markerfacecolor": "white",
        "linestyle": "",
    }
    axes.plot([], [], **hollow, label="without a budget")
    for one in points:
        if not one.backbone:
            axes.axhline(one.psnr, color="0.5", linestyle="--", linewidth=1, label=one.system)
    axes.margins(x=0.12)
    axes.set_xlabel(PICTURED[cost] + ", mean of the images")
    _ticks(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)


def _ticks(axes: Axes) -> None:
    """Round numbers, written out."""
    low, high = axes.get_xlim()
    digits = (1, 1.5, 2, 3, 4, 5, 7) if high < 30 * low else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    places = [digit * 10.0**power for power in powers for digit in digits]
    axes.xaxis.set_major_locator(FixedLocator([place for place in places if low <= place <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
