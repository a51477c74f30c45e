"""How the page's figures look: type that reads on a phone, a colour a system, bytes that repeat."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

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
# Okabe and Ito's colours, which people of every colour vision tell apart; darker where they would be text.
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


def new(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in grid]


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure's pixels: of its own size, without dates and versions."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def band(axes: Axes, places: Sequence[float], found: Sequence[Measured], **style: Any) -> None:
    """A line of means, and a band of one standard deviation where seeds are several."""
    heights = [_value(one) for one in found]
    axes.plot(places, heights, **style)
    if all(one.spread is not None for one in found):
        low = [height - (one.spread or 0) for height, one in zip(heights, found, strict=True)]
        high = [height + (one.spread or 0) for height, one in zip(heights, found, strict=True)]
        axes.fill_between(places, low, high, color=style["color"], alpha=0.18, linewidth=0)


def bars(axes: Axes, places: Sequence[float], found: Sequence[Measured], **style: Any) -> None:
    """Points of means with bars of one standard deviation where seeds are several, joined as `style` says."""
    spread = [one.spread or 0 for one in found]
    joined = {"marker": "o", "markersize": 6, "capsize": 3, "elinewidth": 1.2, **style}
    if any(spread):
        joined["yerr"] = spread
    axes.errorbar(places, [_value(one) for one in found], **joined)


def _value(one: Measured) -> float:
    assert one.value is not None  # what is drawn was measured
    return one.value


Item = tuple[float, float, str, str]
_SIDES = (
    (1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom"), (0, -1, "center", "top"),
    (0.8, 0.8, "left", "bottom"), (-0.8, 0.8, "right", "bottom"), (0.8, -0.8, "left", "top"),
    (-0.8, -0.8, "right", "top"),
)  # fmt: skip


def labelled(axes: Axes, items: Iterable[Item], radii: Sequence[float] | None = None, size: float = 9.5) -> None:
    """Write texts beside points, each on the first side where it hides no other text or point, else where it hides least.

    To be called when all else is drawn.

    Args:
        items: x, y, text, colour.
        radii: of the points, in typographic points; 4 by default.
    """
    items = list(items)
    sizes = radii or [4.0] * len(items)
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # until then the layout has no places
    renderer = FigureCanvasAgg(figure).get_renderer()
    unit, inside = figure.dpi / 72, axes.get_window_extent(renderer)
    taken = [_disc(axes, one, radius * unit) for one, radius in zip(items, sizes, strict=True)]
    for (x, y, text, colour), radius in zip(items, sizes, strict=True):
        if not text:
            continue
        tried = []
        for distance in (3.0, 9.0, 16.0):
            for across, up, ha, va in _SIDES:
                offset = (across * (radius + distance), up * (radius + distance))
                written = axes.annotate(
                    text, (x, y), offset, textcoords="offset points", ha=ha, va=va, fontsize=size, color=colour, zorder=5
                )
                written.set_in_layout(False)
                box = written.get_window_extent(renderer).padded(1.5 * unit)
                tried.append((sum(_shared(box, other) for other in taken) + 4 * _outside(box, inside), len(tried), box, written))
        least = min(tried, key=lambda one: one[:2])
        for one in tried:
            if one is not least:
                one[3].remove()
        taken.append(least[2])


def _disc(axes: Axes, item: Item, radius: float) -> Bbox:
    x, y = axes.transData.transform(item[:2])
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)


def _shared(one: Bbox, other: Bbox) -> float:
    """Area in pixels."""
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else both.width * both.height


def _outside(box: Bbox, axes: Bbox) -> float:
    return box.width * box.height - _shared(box, axes)
