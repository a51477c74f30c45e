"""Best and second of a column, as papers mark them: bold and underlined."""

from __future__ import annotations

import math
from typing import Literal

from dynres.tables.sheet import Cell, Column, Row, Sheet

Mark = Literal["", "best", "second"]
Held = Literal["published", "ours"]


def marks(sheet: Sheet, side: Held) -> dict[tuple[int, int], Mark]:
    """(row, column) -> its mark among the published numbers, or among ours.

    Numbers compete within their column and group of rows, as they are printed: ties share a mark. Misprints do not
    compete, nor numbers of a part of a test set, nor columns of ours that hold a range; nothing is marked where all
    are equal.
    """
    found: dict[tuple[int, int], Mark] = {}
    for place, column in enumerate(sheet.columns):
        if column.metric.better is None or (side == "ours" and _has_range(sheet, place)):
            continue
        for group in dict.fromkeys(row.group for row in sheet.rows):
            values = {
                index: round(value, column.metric.digits)
                for index, row in enumerate(sheet.rows)
                if row.group == group and (value := _value(sheet, row, column, row.cells[place], side)) is not None
            }
            ranked = sorted(set(values.values()), reverse=column.metric.better == "more")
            if len(ranked) > 1:
                found |= {(index, place): "best" for index, value in values.items() if value == ranked[0]}
                found |= {(index, place): "second" for index, value in values.items() if value == ranked[1]}
    return found


def _value(sheet: Sheet, row: Row, column: Column, cell: Cell, side: Held) -> float | None:
    if side == "ours":
        value = None if cell.ours is None or cell.ours.part else cell.ours.value
    else:
        value = None if (row.name, column.group, column.name) in sheet.misprints else cell.published
    return value if value is not None and math.isfinite(value) else None


def _has_range(sheet: Sheet, place: int) -> bool:
    """A range stands neither above nor below a number."""
    return any((ours := row.cells[place].ours) is not None and ours.top is not None for row in sheet.rows)
