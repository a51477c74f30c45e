"""The common plane: what the demo's networks of all five papers give and cost at x2, on the same photographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from dynres.callbacks.subnets import BY_SCALE
from dynres.pareto.measure import front
from dynres.tables.figures import labels
from dynres.tables.figures.found import (
    Published,
    Runs,
    metric,
    metrics,
    networks,
    over_seeds,
    photographs,
    sentence,
    value,
)
from dynres.tables.figures.labels import Label
from dynres.tables.figures.style import COLOURS, DARK, LIGHT, PAGE, bars, new, png
from dynres.tables.sheet import FinishedRun, Measured, Picture

LEVEL = "x2"


@dataclass(frozen=True)
class Point:
    """A network, or a way through one: means over photographs and seeds.

    Attributes:
        name: "" where the plane has no room for it.
    """

    name: str
    gmacs: float
    psnr: Measured


@dataclass(frozen=True)
class Line:
    """Points of one system.

    Attributes:
        joined: they are one network with several ways, or cuts of one.
    """

    title: str
    colour: str
    marker: str
    joined: bool = False
    filled: bool = True
    points: tuple[Point, ...] = ()


def plane(runs: Runs, published: Published) -> list[Picture]:
    """PSNR against the multiply-accumulates of backbones."""
    lines = list(systems(runs))
    if not lines:
        return []
    some = [run for run in runs.all if LEVEL in metrics(run)]
    plain = float(metrics(some[0])[LEVEL]["psnr_plain"])
    best = max(value(point.psnr) for line in lines for point in line.points)
    return [
        Picture(
            "all",
            "All papers on one plane",
            "PSNR at x2 on the held-out photographs against multiply-accumulates of the backbone, a mean image. "
            "Points of one network at several widths or pointers, and cuts of one, are joined. Ringed: no other gives "
            "as much for less. Networks differ in size, training and upsampler, so the plane compares this demo's "
            f"networks, not the papers. {sentence(networks(some))}.",
            f"{sum(len(line.points) for line in lines)} points of {len(lines)} systems over a logarithmic axis of "
            f"GMACs; bicubic lies at {plain:.2f} dB, the best at {best:.2f} dB.",
            png(figure(lines, plain)),
            wide=True,
        )
    ]


# ------------------------------------------------------------------------------------------------ points


def systems(runs: Runs) -> Iterator[Line]:
    """The systems that have runs."""
    swinir, pruned = COLOURS["student"], COLOURS["pruned"]
    yield from _own(runs, "tadt", {"tadt": "TADT"}, Line("TADT + LIIF", COLOURS["tadt"], "o"))
    yield from _own(runs, "tadt", {"baseline": "Baseline"}, Line("Baseline of TADT + LIIF", COLOURS["baseline"], "o"))
    yield from _own(runs, "tadt", {"edsr_baseline": "EDSR-b."}, Line("EDSR-baseline + LIIF", COLOURS["edsr"], "o"))
    yield from _ways(
        runs.of("anysr", "anysr"), "subnets.csv", Line("AnySR + LIIF, widths", COLOURS["anysr"], "s", True)
    )
    yield from _ways(runs.of("flexir", "sr_x2"), "tradeoff.csv", Line("FlexIR, pointers", COLOURS["flexir"], "D", True))
    yield from _own(runs, "acla", {"acla": "ACLA"}, Line("EDSR + ACLA", COLOURS["acla"], "^"))
    yield from _own(runs, "acla", {"cla": "CLA"}, Line("EDSR + CLA", COLOURS["cla"], "^"))
    yield from _own(runs, "acla", {"edsr": "EDSR"}, Line("EDSR", COLOURS["edsr"], "^"))
    for scope, words, filled in (("mlp", "MLP cut", True), ("msa", "MLP + attention cut", False)):
        names = {"uncut": "uncut" if filled else "", f"{scope}_025": "", f"{scope}_050": "", f"{scope}_075": "-75%"}
        look = Line(f"SwinIR, {words}", pruned, "v", joined=True, filled=filled)
        yield from _own(runs, "lightweight_swinir", names, look)
    names = {"student": "alone", "kd_025": "", "kd_050": "", "kd_075": "KD 0.75"}
    yield from _own(runs, "lightweight_swinir", names, Line("SwinIR, students", swinir, "P"))


def _own(runs: Runs, paper: str, names: Mapping[str, str], look: Line) -> Iterator[Line]:
    """A point a run, from summary.json."""
    found = [
        Point(names[name], value(metric(some, LEVEL, "macs", 1e-9)), metric(some, LEVEL, "psnr"))
        for name, some in runs.named(paper, names).items()
        if all(LEVEL in metrics(run) for run in some)
    ]
    if found and set(runs.named(paper, names)) != {"uncut"}:
        yield replace(look, points=tuple(found))


def _ways(some: Sequence[FinishedRun], file: str, look: Line) -> Iterator[Line]:
    """A point a way through one network, from the CSV file that has them."""
    table: dict[str, list[dict[str, str]]] = {}
    for run in some:
        for line in photographs(run, file):
            if line["label"] == LEVEL and not line["way"].startswith("h=") and line["way"] != BY_SCALE:
                table.setdefault(line["way"], []).append(line)
    for number, (way, seeds) in enumerate(table.items()):
        macs = over_seeds(float(line["macs"]) / 1e9 for line in seeds).value or 0.0
        said = way.replace("=", " = ") if "=" in way else f"width {way}"
        name = said if number in (0, len(table) - 1) else ""
        look = replace(
            look, points=(*look.points, Point(name, macs, over_seeds(float(line["psnr"]) for line in seeds)))
        )
    if table:
        yield look


# ------------------------------------------------------------------------------------------------ picture


def figure(lines: Sequence[Line], plain: float) -> Figure:
    """All lines, and bicubic's PSNR as one across."""
    drawn, ((axes,),) = new(PAGE, 6.2)
    axes.set_xscale("log")
    for line in lines:
        style: dict[str, Any] = {"color": line.colour, "marker": line.marker, "markersize": 7, "linewidth": 1.3}
        style |= {"linestyle": "-" if line.joined else "none", "elinewidth": 0.9, "capsize": 2}
        style |= {} if line.filled else {"markerfacecolor": "white"}
        bars(axes, [one.gmacs for one in line.points], [one.psnr for one in line.points], label=line.title, **style)
    axes.axhline(plain, color=LIGHT, linestyle="--", label="bicubic")
    points = [(one.gmacs, value(one.psnr)) for line in lines for one in line.points]
    ahead = [point for point, mark in zip([(0.0, plain), *points], front([(0.0, plain), *points]), strict=True) if mark]
    ring: dict[str, Any] = {"s": 170, "facecolors": "none", "edgecolors": DARK, "linewidths": 1.1, "zorder": 4}
    ringed = [point for point in ahead if point[0]]
    axes.scatter([x for x, _ in ringed], [y for _, y in ringed], label="front", **ring)
    axes.set(xlabel="GMACs of the backbone, mean of the photographs", ylabel="PSNR, dB")
    axes.margins(0.09, 0.08)
    _ticks(axes)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9.5)
    texts = [Label(one.gmacs, value(one.psnr), one.name, radius=6) for line in lines for one in line.points]
    labels.write(axes, texts)
    return drawn


def _ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    places = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 1.5, 2, 3, 4, 5, 7)]
    axes.xaxis.set_major_locator(FixedLocator([place for place in places if low <= place <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
