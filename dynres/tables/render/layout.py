"""A sheet laid out as text: which sides a column shows, what is best and second, footnotes; the renderers share it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from dynres.tables.render.digits import DASH, measured, number, percent, relative, signed
from dynres.tables.render.marks import Mark, marks
from dynres.tables.render.notes import Notes
from dynres.tables.sheet import Cell, Column, Metric, Sheet

Side = Literal["published", "ours", "difference"]

SHORTEST = 5  # characters of "26.31": no column is narrower


@dataclass(frozen=True)
class Shown:
    """One printed number, with the numbers of its footnotes."""

    text: str
    mark: Mark = ""
    notes: tuple[int, ...] = ()

    @property
    def empty(self) -> bool:
        return self.text == DASH and not self.notes


@dataclass(frozen=True)
class LaidCell:
    """The sides of a cell.

    Attributes:
        off: size of the relative difference of a cost; None for other cells, where no difference is taken, and where
            the published number cannot be reached.
    """

    published: Shown
    ours: Shown
    difference: Shown
    off: float | None = None

    def side(self, side: Side) -> Shown:
        return {"published": self.published, "ours": self.ours, "difference": self.difference}[side]


@dataclass(frozen=True)
class LaidColumn:
    """A column's header and what is shown below it."""

    name: str
    unit: str
    group: str
    level: str
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class LaidRow:
    name: str
    group: str
    cited: bool
    notes: tuple[int, ...]
    cells: tuple[LaidCell, ...]


@dataclass(frozen=True)
class Laid:
    """A sheet as text.

    Attributes:
        heading: the title, with the unit of all columns where they share one; columns have none of their own then.
        notes: footnotes, the first is number 1.
        about_ours: what is said of seeds, and of numbers that are not there, a sentence each.
        legend: how to read what is there, a sentence each; the same in all sheets that have it.
    """

    sheet: Sheet
    heading: str
    columns: tuple[LaidColumn, ...]
    rows: tuple[LaidRow, ...]
    notes: tuple[str, ...]
    about_ours: tuple[str, ...]
    legend: tuple[str, ...]


def lay_out(sheet: Sheet) -> Laid:
    """All of a sheet as text, in reading order."""
    units = {column.metric.unit for column in sheet.columns}
    unit = units.pop() if len(units) == 1 else ""
    notes, marked = Notes(sheet), (marks(sheet, "published"), marks(sheet, "ours"))
    rows = []
    for index, row in enumerate(sheet.rows):
        cells = []
        for place, (column, cell) in enumerate(zip(sheet.columns, row.cells, strict=True)):
            pair = zip(_texts(cell, column.metric.digits), marked, notes.cells[index][place], strict=True)
            published, ours = (Shown(text, mark.get((index, place), ""), numbers) for text, mark, numbers in pair)
            cells.append(LaidCell(published, ours, *_difference(cell, column.metric)))
        rows.append(LaidRow(row.name, row.group, row.status == "cited only", notes.names[index], tuple(cells)))
    columns = tuple(
        _column(column, [row.cells[place] for row in rows], unit) for place, column in enumerate(sheet.columns)
    )
    told = not unit or re.search(rf"\b{re.escape(unit)}(?!\w)", sheet.title)
    heading = sheet.title if told else f"{sheet.title} ({unit})"
    legend = tuple(_legend(sheet, columns, rows))
    return Laid(sheet, heading, columns, tuple(rows), notes.texts, tuple(_about_ours(notes)), legend)


@dataclass(frozen=True)
class Part:
    """A table that a sheet is cut into: places of its columns, and its rows (after the first: that have something)."""

    places: tuple[int, ...]
    rows: tuple[LaidRow, ...]


def parts(laid: Laid, width: int, stacked: bool = False) -> tuple[Part, ...]:
    """A sheet cut into tables between groups of columns where possible, else between levels.

    Args:
        width: of a table in characters, without its names of rows; a single level may be wider.
        stacked: sides of a cell stand one above the other.
    """
    cut: list[list[int]] = []
    room = 0
    for _, group in groupby(range(len(laid.columns)), key=lambda place: laid.columns[place].group):
        units = [list(unit) for _, unit in groupby(group, key=lambda place: laid.columns[place].level or place)]
        widths = [sum(column_width(laid, place, stacked) for place in unit) for unit in units]
        if sum(widths) > room:
            cut, room = [*cut, []], width
        for unit, needed in zip(units, widths, strict=True):
            if cut[-1] and needed > room:
                cut, room = [*cut, []], width
            cut[-1] += unit
            room -= needed
    return tuple(
        Part(tuple(places), _rows_with(laid, places) if index else laid.rows) for index, places in enumerate(cut)
    )


def column_width(laid: Laid, place: int, stacked: bool = False) -> int:
    """Characters of a column's longest texts, side by side or stacked, with what stands between them."""
    column = laid.columns[place]
    texts = [[len(row.cells[place].side(side).text) for row in laid.rows] for side in column.sides]
    widths = [max([*lengths, SHORTEST]) + 2 for lengths in texts]
    return max(max(widths) if stacked else sum(widths), max(map(len, column.name.split()), default=0) + 2)


def _rows_with(laid: Laid, places: Sequence[int]) -> tuple[LaidRow, ...]:
    """Rows that are not empty in these columns; all of them where that leaves none."""
    sides = [(place, side) for place in places for side in laid.columns[place].sides]
    told = tuple(row for row in laid.rows if any(not row.cells[place].side(side).empty for place, side in sides))
    return told or laid.rows


def _column(column: Column, cells: Sequence[LaidCell], common_unit: str) -> LaidColumn:
    """Its header, and the sides that have something in one of its cells."""
    sides: list[Side] = ["ours"] if column.ours or any(not cell.ours.empty for cell in cells) else []
    if not column.ours and (not sides or any(not cell.published.empty for cell in cells)):
        sides = ["published", *sides]
    if len(sides) == 2 and any(cell.difference.text != DASH for cell in cells):
        sides.append("difference")
    name = column.name or column.metric.name
    if sides == ["ours"] and "ours" not in f"{column.group} {name}":
        name = f"{name}, ours"
    unit = "" if column.metric.unit == common_unit or f"({column.metric.unit})" in column.name else column.metric.unit
    return LaidColumn(name, unit, column.group, column.level, tuple(sides))


def _texts(cell: Cell, digits: int) -> tuple[str, str]:
    return (
        DASH if cell.published is None else number(cell.published, digits),
        DASH if cell.ours is None else measured(cell.ours, digits),
    )


def _difference(cell: Cell, metric: Metric) -> tuple[Shown, float | None]:
    """As text, and how far off it is where it is a cost that should agree."""
    if cell.published is None or cell.difference is None:
        return Shown(DASH), None
    if metric.kind == "quality":
        return Shown(signed(cell.difference, metric.digits)), None
    ratio = relative(cell.published, cell.difference)
    inside = ratio == 0 and cell.ours is not None and cell.ours.top is not None
    return Shown("in range" if inside else percent(ratio)), abs(ratio) if cell.reachable else None


def _about_ours(notes: Notes) -> Iterator[str]:
    if notes.seeds > 1:
        yield f"Ours: mean ± standard deviation over {notes.seeds} seeds."
    if notes.dash:
        yield f"Where ours is missing: {notes.dash.rstrip('.')}."


def _legend(sheet: Sheet, columns: Sequence[LaidColumn], rows: Sequence[LaidRow]) -> Iterator[str]:
    if any(shown.mark for row in rows for cell in row.cells for shown in (cell.published, cell.ours)):
        groups = " and group of rows" if len({row.group for row in rows}) > 1 else ""
        yield f"Bold: best of its column{groups}; underlined: second; published and ours apart."
    if ("published",) in (shown := {column.sides for column in columns}) and len(shown) > 1:
        yield "A column of one number is published, unless it says ours."
    compared = {
        column.metric.kind for column, laid in zip(sheet.columns, columns, strict=True) if "difference" in laid.sides
    }
    if compared:
        costs = ", in per cent of the published" if compared == {"cost"} else " (of costs in per cent of the published)"
        yield f"Difference: ours less published{costs if 'cost' in compared else ''}."
