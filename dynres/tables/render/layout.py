"""A sheet laid out as text: which sides a column shows, what is best and second, footnotes; the renderers share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from dynres.tables.render.digits import DASH, measured, number, percent, relative, signed
from dynres.tables.sheet import Cell, Column, Metric, Row, Sheet

Side = Literal["published", "ours", "difference"]
Mark = Literal["", "best", "second"]

MISPRINT = "A misprint of the paper."
INCOMPARABLE = "Published and ours are not of the same thing: no difference is taken."
UNREACHABLE = "The published number cannot be reproduced: `experiments/{paper}/README.md` says why."
PAIR: tuple[Literal["published", "ours"], ...] = ("published", "ours")
MANY = 3  # cells of a row that share a note: it then stands at the row's name, once


@dataclass(frozen=True)
class Shown:
    """One printed number, with the numbers of its footnotes."""

    text: str
    mark: Mark = ""
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class LaidCell:
    """The sides of a cell.

    Attributes:
        off: size of the relative difference of a cost; None for other cells, and where no difference is taken.
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
        unit: of all columns, where they share one; columns have none of their own then.
        notes: footnotes, the first is number 1.
        legend: how to read the marks that are in it, a sentence each.
    """

    sheet: Sheet
    unit: str
    columns: tuple[LaidColumn, ...]
    rows: tuple[LaidRow, ...]
    notes: tuple[str, ...]
    legend: tuple[str, ...]


@dataclass
class _Footnotes:
    """Texts numbered in the order in which they are first asked for."""

    numbers: dict[str, int] = field(default_factory=dict)

    def of(self, texts: Iterable[str]) -> tuple[int, ...]:
        plain = (" ".join(text.split()) for text in texts)
        return tuple(sorted({self.numbers.setdefault(text, len(self.numbers) + 1) for text in plain if text}))


def lay_out(sheet: Sheet) -> Laid:
    """All of a sheet as text, in reading order."""
    units = {column.metric.unit for column in sheet.columns}
    unit = units.pop() if len(units) == 1 else ""
    columns = tuple(_column(sheet, index, unit) for index in range(len(sheet.columns)))
    marks = {side: _marks(sheet, side) for side in PAIR}
    most = max((cell.ours.seeds for row in sheet.rows for cell in row.cells if cell.ours), default=0)
    footnotes, rows = _Footnotes(), []
    for index, row in enumerate(sheet.rows):
        said = [_said(sheet, row, *pair, most) for pair in zip(sheet.columns, row.cells, strict=True)]
        shared = _shared(said)
        at_name = footnotes.of([row.remark, *shared])
        cells = []
        for place, (column, cell) in enumerate(zip(sheet.columns, row.cells, strict=True)):
            texts = zip(PAIR, _texts(cell, column.metric.digits), said[place], strict=True)
            published, ours = (
                Shown(text, marks[side].get((index, place), ""), footnotes.of(one for one in why if one not in shared))
                for side, text, why in texts
            )
            cells.append(LaidCell(published, ours, *_difference(cell, column.metric)))
        rows.append(LaidRow(row.name, row.group, row.status == "cited only", at_name, tuple(cells)))
    legend = tuple(_legend(sheet, columns, rows, most))
    return Laid(sheet, unit, columns, tuple(rows), tuple(footnotes.numbers), legend)


def bands(
    columns: Sequence[LaidColumn], weigh: Callable[[LaidColumn], float], budget: float
) -> tuple[tuple[int, ...], ...]:
    """Places of columns, cut into tables of at most `budget`: between groups where possible, else between levels."""
    cut: list[list[int]] = []
    room = 0.0
    for _, group in groupby(range(len(columns)), key=lambda place: columns[place].group):
        units = [list(unit) for _, unit in groupby(group, key=lambda place: columns[place].level or place)]
        weights = [sum(weigh(columns[place]) for place in unit) for unit in units]
        if sum(weights) > room:
            cut, room = [*cut, []], budget
        for unit, weight in zip(units, weights, strict=True):
            if cut[-1] and weight > room:
                cut, room = [*cut, []], budget
            cut[-1] += unit
            room -= weight
    return tuple(tuple(places) for places in cut)


def _column(sheet: Sheet, index: int, common_unit: str) -> LaidColumn:
    column, cells = sheet.columns[index], [row.cells[index] for row in sheet.rows]
    sides: list[Side] = []
    if not column.ours and (
        any(cell.published is not None for cell in cells) or all(cell.ours is None for cell in cells)
    ):
        sides.append("published")
    if column.ours or any(cell.ours is not None for cell in cells):
        sides.append("ours")
    if len(sides) == 2 and any(cell.difference is not None for cell in cells):
        sides.append("difference")
    unit = column.metric.unit
    shown = "" if unit == common_unit or f"({unit})" in column.name else unit
    return LaidColumn(column.name or column.metric.name, shown, column.group, column.level, tuple(sides))


def _said(sheet: Sheet, row: Row, column: Column, cell: Cell, most: int) -> tuple[list[str], list[str]]:
    """What there is to say of a cell: of its published side, and of ours."""
    published: list[str] = []
    ours: list[str] = []
    if (row.name, column.group, column.name) in sheet.misprints:
        published.append(MISPRINT)
    if cell.published is not None and not cell.reachable:
        published.append(UNREACHABLE.format(paper=sheet.paper))
    if cell.ours is None or (cell.ours.value is None and row.status == "cited only"):
        return published, ours  # that it is only cited stands at the row's name
    ours += [cell.ours.note] if cell.ours.note else []
    if 0 < cell.ours.seeds < most:
        ours.append(f"Of {cell.ours.seeds} of {most} seeds.")
    if cell.ours.value is not None and cell.published is not None and cell.reachable and not cell.comparable:
        ours.append(INCOMPARABLE)
    return published, ours


def _shared(said: Sequence[tuple[list[str], list[str]]]) -> list[str]:
    """What is said of every cell of a row of which anything is said."""
    cells = [[*published, *ours] for published, ours in said if published or ours]
    return [text for text in dict.fromkeys(cells[0]) if all(text in one for one in cells)] if len(cells) >= MANY else []


def _texts(cell: Cell, digits: int) -> tuple[str, str]:
    return (
        DASH if cell.published is None else number(cell.published, digits),
        DASH if cell.ours is None else measured(cell.ours, digits),
    )


def _difference(cell: Cell, metric: Metric) -> tuple[Shown, float | None]:
    """As text, and how far off it is where it is a cost."""
    if cell.published is None or cell.difference is None:
        return Shown(DASH), None
    if metric.kind == "quality":
        return Shown(signed(cell.difference, metric.digits)), None
    ratio = relative(cell.published, cell.difference)
    return Shown(percent(ratio)), abs(ratio)


def _marks(sheet: Sheet, side: Literal["published", "ours"]) -> dict[tuple[int, int], Mark]:
    """(row, column) -> best or second of the column within its group of rows, as printed, so that ties share."""
    marks: dict[tuple[int, int], Mark] = {}
    for place, column in enumerate(sheet.columns):
        for group in dict.fromkeys(row.group for row in sheet.rows):
            values = {
                index: round(value, column.metric.digits)
                for index, row in enumerate(sheet.rows)
                if row.group == group and (value := _ranked(sheet, row, column, row.cells[place], side)) is not None
            }
            ranked = sorted(set(values.values()), reverse=column.metric.better == "more")
            if column.metric.better is None or len(ranked) < 2 or (side == "ours" and _has_range(sheet, place)):
                continue
            marks |= {(index, place): "best" for index, value in values.items() if value == ranked[0]}
            marks |= {(index, place): "second" for index, value in values.items() if value == ranked[1]}
    return marks


def _ranked(sheet: Sheet, row: Row, column: Column, cell: Cell, side: Literal["published", "ours"]) -> float | None:
    """What competes: neither misprints nor what is no number."""
    if side == "published":
        value = None if (row.name, column.group, column.name) in sheet.misprints else cell.published
    else:
        value = None if cell.ours is None else cell.ours.value
    return value if value is not None and math.isfinite(value) else None


def _has_range(sheet: Sheet, place: int) -> bool:
    """A range stands neither above nor below a number."""
    return any((ours := row.cells[place].ours) is not None and ours.top is not None for row in sheet.rows)


def _legend(sheet: Sheet, columns: Sequence[LaidColumn], rows: Sequence[LaidRow], most: int) -> Iterator[str]:
    if any(shown.mark for row in rows for cell in row.cells for shown in (cell.published, cell.ours)):
        groups = " and group of rows" if len({row.group for row in rows}) > 1 else ""
        yield f"Bold: best of its column{groups}; underlined: second; published and ours apart."
    if most > 1:
        yield f"Ours ± : mean and standard deviation over {most} seeds."
    kinds = [
        column.metric.kind for column, laid in zip(sheet.columns, columns, strict=True) if "difference" in laid.sides
    ]
    if kinds:
        cost = " of costs in per cent of the published" if "quality" in kinds else ", in per cent of the published"
        yield f"Difference: ours less published{cost if 'cost' in kinds else ''}."
