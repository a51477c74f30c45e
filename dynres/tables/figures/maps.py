"""Heat maps: which branches run at which scale and on which photograph (TADT), how many keys are kept where (ACLA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from dynres.callbacks.routing import split_names
from dynres.contracts import EvalSample, Routing, Task
from dynres.tables.figures.found import Published, Runs, metrics, networks, photographs, sentence
from dynres.tables.figures.samples import last, network, tested
from dynres.tables.figures.style import COLUMN, png
from dynres.tables.sheet import FinishedRun, Picture


def _palette() -> Colormap:
    """Light to dark, without the nearly black end."""
    return ListedColormap(colormaps["YlGnBu"](np.linspace(0, 0.87, 256)))


def heat(
    axes: Axes, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], most: float = 1.0
) -> Tensor:
    """Cells of a table by colour, from 0 to `most`; texts are the caller's. Returns the cells."""
    cells = torch.tensor(values, dtype=torch.float64)
    axes.imshow(cells.numpy(), cmap=_palette(), vmin=0, vmax=most, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return cells


def write(axes: Axes, cells: Tensor, texts: Sequence[Sequence[str]], most: float = 1.0, size: float = 9.5) -> None:
    """A text in each cell, white on the dark ones."""
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = "white" if float(cells[row, column]) > 0.62 * most else "0.15"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def split(axes: Axes, names: Sequence[str], across: bool = False) -> None:
    """A white line wherever the next name is another."""
    for place, (one, other) in enumerate(pairwise(names), 1):
        if one != other:
            (axes.axvline if across else axes.axhline)(place - 0.5, color="white", linewidth=3)


# ------------------------------------------------------------------------------------------------ TADT


def routing(runs: Runs, published: Published) -> list[Picture]:
    """How often each branch ran at each scale, from the routing.csv of the first seed."""
    found = runs.of("tadt", "tadt")
    if not found:
        return []
    table: dict[str, dict[str, float]] = {}
    for line in photographs(found[0], "routing.csv"):
        table.setdefault(line["unit"], {})[line["label"]] = float(line["frequency"])
    levels = list(metrics(found[0]))
    return [
        Picture(
            "tadt",
            "Which branches run",
            "The share of the held-out photographs on which TADT ran each attention branch, by scale. Rows: branches "
            f"(window sizes) of its groups, first to last. {sentence(networks(found[:1]))}.",
            f"A heat map of {len(table)} branches by the scales {', '.join(levels)}.",
            png(routing_figure(table, levels)),
        )
    ]


def routing_figure(table: Mapping[str, Mapping[str, float]], levels: Sequence[str]) -> Figure:
    """Unit -> level -> share in [0, 1]."""
    groups, branches = split_names(list(table))
    figure = Figure(figsize=(COLUMN, 1.2 + 0.27 * len(table)), layout="constrained")
    axes = figure.subplots()
    cells = heat(axes, [[row[level] for level in levels] for row in table.values()], branches, levels)
    write(axes, cells, [[f"{share:.0%}" for share in line] for line in cells.tolist()])
    _grouped(axes, groups)
    axes.set_xlabel("scale")
    return figure


def _grouped(axes: Axes, groups: Sequence[str]) -> None:
    """Groups of rows apart, with their names at the right."""
    split(axes, groups)
    start = 0
    for name, some in groupby(groups):
        count = len(list(some))
        place = 1 - (start + count / 2) / len(groups)
        axes.annotate(
            name, (1, place), (6, 0), xycoords="axes fraction", textcoords="offset points", rotation=90, va="center"
        )
        start += count


def routing_by_image(runs: Runs, published: Published) -> list[Picture]:
    """What the first seed's network decides on each photograph at each scale, and how likely it found that."""
    found = runs.of("tadt", "tadt")
    if not found:
        return []
    decided = [(sample, decisions(found[0], sample)) for sample in tested(found[0])]
    names = list(dict.fromkeys(sample.name for sample, _ in decided))
    active = {name: [one.decisions.mean().item() for sample, one in decided if sample.name == name] for name in names}
    told = ", ".join(f"{name} {min(shares):.0%} to {max(shares):.0%}" for name, shares in active.items())
    return [
        Picture(
            "tadt",
            "Routing, photograph by photograph",
            "Colour: the probability with which TADT takes a branch (Eq. 3); a dot: it took it. Columns: the held-out "
            f"photographs at each scale. Branches that run: {told}. "
            f"{sentence(networks(found[:1]))}.",
            f"A heat map of branches by photograph ({', '.join(names)}) and scale, dots on those that ran.",
            png(image_figure(decided)),
        )
    ]


def decisions(run: FinishedRun, sample: EvalSample) -> Routing:
    """The routing of a sample, as its restoration decides it before the trunk."""
    restorer = network(last(run))
    scale = torch.tensor([sample.scale])
    task = Task(scale.prod(1).sqrt(), seed=sample.seed, axes=scale)
    with torch.inference_mode():
        found = restorer.backbone.route(restorer.pixels.normal(restorer.seen(sample.image, 1)), task)
    if found is None:
        raise ValueError(f"{run.folder} holds a network that does not route")
    return found


def image_figure(decided: Sequence[tuple[EvalSample, Routing]]) -> Figure:
    """Columns in the order given, split where the photograph is another."""
    groups, branches = split_names(decided[0][1].units)
    figure = Figure(figsize=(COLUMN, 1.9 + 0.27 * len(groups)), layout="constrained")
    axes = figure.subplots()
    likely = torch.cat([one.probabilities for _, one in decided]).T
    heat(axes, likely.tolist(), branches, [sample.label for sample, _ in decided])
    rows, columns = torch.cat([one.decisions for _, one in decided]).T.nonzero(as_tuple=True)
    axes.scatter(columns, rows, s=34, color="0.1", edgecolors="white", linewidths=1)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _palette()), ax=axes, location="bottom", fraction=0.03, pad=0.02
    )
    bar.set_label("probability of a branch; dots: it ran", fontsize=10)
    bar.outline.set_visible(False)
    _grouped(axes, groups)
    names = [sample.name for sample, _ in decided]
    split(axes, names, across=True)
    top = axes.secondary_xaxis("top")
    middles = [(names.index(name) + (names.count(name) - 1) / 2, name) for name in dict.fromkeys(names)]
    top.set_xticks([place for place, _ in middles], [name for _, name in middles])
    top.tick_params(length=0)
    top.spines[:].set_visible(False)
    axes.tick_params(axis="x", labelsize=9)
    return figure
