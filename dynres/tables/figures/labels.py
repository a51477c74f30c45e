"""Texts beside the points of a plot, where they hide least."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from dynres.tables.figures.style import DARK, LIGHT

SIZE = 9.5  # of the type
DISTANCES = (3.0, 8.0, 14.0, 22.0)  # typographic points between a point's edge and its text
SIDES = (
    (1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom"), (0, -1, "center", "top"),
    (0.8, 0.8, "left", "bottom"), (-0.8, 0.8, "right", "bottom"), (0.8, -0.8, "left", "top"),
    (-0.8, -0.8, "right", "top"),
)  # fmt: skip
# What hiding costs, in square typographic points of another text or point: a point of distance, a pixel of a line.
FAR, LINE = 6.0, 5.0


class Label(NamedTuple):
    """A point of a plot, in its data's units, and what is written beside it; "" for nothing.

    radius: of its mark, in typographic points.
    """

    x: float
    y: float
    text: str = ""
    colour: str = DARK
    radius: float = 4.0


def write(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each text near its own point and clear of other texts, points and lines, as far as there is room.

    To be called when all else is drawn. A text that has to stand apart has a line to its point.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # until then the layout has no places
    renderer = FigureCanvasAgg(figure).get_renderer()
    unit, inside, strokes = figure.dpi / 72, axes.get_window_extent(renderer), _strokes(axes)
    taken = [_mark(axes, label, unit) for label in labels]
    for label in (one for one in labels if one.text):
        tried = []
        for distance in DISTANCES:
            for number, side in enumerate(SIDES):
                written = _written(axes, label, distance, side)
                box = written.get_window_extent(renderer).padded(unit)
                hidden = sum(_shared(box, other) for other in taken) + 4 * (_area(box) - _shared(box, inside))
                crossed = int(((strokes > box.min) & (strokes < box.max)).all(1).sum())
                cost = hidden + unit**2 * (LINE * crossed + FAR * distance) + number
                tried.append((cost, box, written))
        least = min(tried, key=lambda one: one[0])
        for one in tried:
            if one is not least:
                one[2].remove()
        taken.append(least[1])


def _written(axes: Axes, label: Label, distance: float, side: tuple[float, float, str, str]) -> Any:
    across, up, horizontal, vertical = side
    reach = label.radius + distance
    how: dict[str, Any] = {"ha": horizontal, "va": vertical, "fontsize": SIZE, "color": label.colour, "zorder": 5}
    if distance > DISTANCES[1]:  # then it is not clear whose text it is
        line = {"arrowstyle": "-", "color": LIGHT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": label.radius}
        how["arrowprops"] = line
    written = axes.annotate(
        label.text, (label.x, label.y), (across * reach, up * reach), textcoords="offset points", **how
    )
    written.set_in_layout(False)
    return written


def _strokes(axes: Axes) -> NDArray[np.float64]:
    """(N, 2) pixels on the lines and error bars that are drawn, one apart."""
    lines = [line for line in axes.lines if line.get_linestyle() != "None"]
    paths = [line.get_path().transformed(line.get_transform()).vertices for line in lines]
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            paths += [collection.get_transform().transform(segment) for segment in collection.get_segments()]
    found = [np.empty((0, 2))]
    for path in map(np.asarray, paths):
        for start, end in pairwise(path[np.isfinite(path).all(1)]):
            steps = min(int(np.abs(end - start).max()) + 1, 4000)
            found.append(start + (end - start) * np.linspace(0, 1, steps)[:, None])
    return np.concatenate(found)


def _mark(axes: Axes, label: Label, unit: float) -> Bbox:
    x, y = axes.transData.transform((label.x, label.y))
    reach = label.radius * unit
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _shared(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else _area(both)


def _area(box: Bbox) -> float:
    """In pixels."""
    return float(box.width * box.height)
