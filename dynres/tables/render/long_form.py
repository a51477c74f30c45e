"""Sheets as CSV in long form: a line a number, nothing to parse.

pandas.read_csv("tadt_3.csv").pivot(index="row", columns=["group", "column"], values="ours")
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from dynres.tables.render.digits import relative
from dynres.tables.sheet import Cell, Column, Row, Sheet

HEADER = [
    *("paper", "table", "sheet", "row_group", "row", "status"),
    *("group", "column", "level", "metric", "unit"),
    *("published", "ours", "ours_top", "spread", "seeds", "difference", "relative_difference"),
    *("comparable", "reachable", "misprint", "note", "remark", "label"),
]


def render(sheets: Sequence[Sheet]) -> str:
    """The text of a CSV file: a line for each cell that has something published or of ours.

    `ours_top` is the upper end where ours is a range, `relative_difference` a part of the published number. Numbers
    have ten significant digits; what there is none of is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for sheet in sheets:
        for row in sheet.rows:
            for column, cell in zip(sheet.columns, row.cells, strict=True):
                if cell.published is not None or cell.ours is not None:
                    writer.writerow(_line(sheet, row, column, cell))
    return text.getvalue()


def _line(sheet: Sheet, row: Row, column: Column, cell: Cell) -> Iterator[str]:
    difference, ours = cell.difference, cell.ours
    ratio = None if cell.published is None or difference is None else relative(cell.published, difference)
    numbers = [cell.published, ours and ours.value, ours and ours.top, ours and ours.spread, ours and ours.seeds]
    where = [sheet.paper, sheet.key, sheet.title, row.group, row.name, row.status]
    what = [column.group, column.name, column.level, column.metric.name, column.metric.unit]
    misprint = (row.name, column.group, column.name) in sheet.misprints
    yield from (" ".join(text.split()) for text in [*where, *what])
    yield from ("" if value is None else f"{value:.10g}" for value in [*numbers, difference, ratio])
    yield from (str(flag) for flag in (cell.comparable, cell.reachable, misprint))
    yield from (" ".join(text.split()) for text in (ours.note if ours else "", row.remark, sheet.label))
