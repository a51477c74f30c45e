"""How the page's figures look: type that reads on a phone, a colour a system, bytes that repeat."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dynres.tables.figures.found import value
from dynres.tables.sheet import Measured

COLUMN, PAGE = 5.2, 7.6  # inches: a picture of one of two columns, and a wide one
DPI = 150
DARK, LIGHT = "0.25", "0.6"
RC = {
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
}
# Okabe and Ito's colours, which people of every colour vision tell apart; some darker, to be read as text.
COLOURS = {
    "tadt": "#0072B2",
    "baseline": "#56B4E9",
    "anysr": "#D55E00",
    "flexir": "#009E73",
    "acla": "#B5478F",
    "cla": "#E0A3C8",
    "edsr": "#777777",
    "pruned": "#C98500",
    "student": "#7A5C00",
}


def styled() -> AbstractContextManager[None]:
    """The style of the page alone, whatever matplotlibrc the user has."""
    return matplotlib.style.context(RC, after_reset=True)


def new(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in grid]


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure's pixels: of its own size, without dates and versions."""
    figure.set_dpi(dpi)
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    opaque = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # a tenth smaller
    opaque.save(buffer, "png")
    return buffer.getvalue()


def band(axes: Axes, places: Sequence[float], found: Sequence[Measured], **style: Any) -> None:
    """A line of means, and a band of one standard deviation where seeds are several."""
    heights = [value(one) for one in found]
    axes.plot(places, heights, **style)
    if all(one.spread is not None for one in found):
        low = [height - (one.spread or 0) for height, one in zip(heights, found, strict=True)]
        high = [height + (one.spread or 0) for height, one in zip(heights, found, strict=True)]
        axes.fill_between(places, low, high, color=style["color"], alpha=0.18, linewidth=0)


def bars(axes: Axes, places: Sequence[float], found: Sequence[Measured], **style: Any) -> None:
    """Points of means, with bars of one standard deviation where seeds are several."""
    drawn = {"marker": "o", "markersize": 6, "capsize": 3, "elinewidth": 1.2, **style}
    spread = [one.spread or 0 for one in found]
    if any(spread):
        drawn["yerr"] = spread
    axes.errorbar(places, [value(one) for one in found], **drawn)
