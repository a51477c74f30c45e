"""Whether a transcribed table can be: ranges, order in scale and degradation, the best row, names that are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from dynres.tables.sheet import Cell, Column, Row, Sheet

# Quality falls as this rises, but with the quality of a JPEG.
FALLING = {"x": True, "sigma": True, "q": False}


def check(sheet: Sheet) -> list[str]:
    """What is wrong with a sheet, a line each; empty where nothing is.

    Published numbers lie in their metric's bounds; in a row and test set quality does not rise with scale or noise, nor
    fall with the quality of a JPEG; `best` is best in every column of quality but exactly those of `best_but` (ties
    count), where costs may be named or not. Misprints are exempt from these. Titles, labels and notes say something;
    rows and columns are named once, and what names them finds them; a row without a number has a reason to be here.
    """
    found = list(_shape(sheet))
    if not found:  # the other rules take names and lengths for granted
        found = [*_values(sheet), *_order(sheet), *_best(sheet), *_status(sheet)]
    return [f"{sheet.key}: {text}" for text in found]


def _shape(sheet: Sheet) -> Iterator[str]:
    if not re.fullmatch(r"\w+/\w+", sheet.key):
        yield f"the key {sheet.key!r} is not PAPER/TABLE"
    for name, text in (("title", sheet.title), ("label", sheet.label), *(("note", note) for note in sheet.notes)):
        if not text.strip():
            yield f"an empty {name}"
    if not sheet.rows or not sheet.columns:
        yield "no rows or no columns"
    for row in sheet.rows:
        if not row.name.strip():
            yield "a row without a name"
        if len(row.cells) != len(sheet.columns):
            yield f"row {row.name} has {len(row.cells)} cells for {len(sheet.columns)} columns"
    for twice in _twice((row.group, row.name) for row in sheet.rows):
        yield f"two rows {_called(twice)}"
    for twice in _twice((column.group, column.name) for column in sheet.columns):
        yield f"two columns {_called(twice)}"
    rows, columns = {row.name for row in sheet.rows}, {(column.group, column.name) for column in sheet.columns}
    if sheet.best is not None and [row.name for row in sheet.rows].count(sheet.best) != 1:
        yield f"best: not one row is called {sheet.best!r}"
    if sheet.best is None and sheet.best_but:
        yield "best_but without best"
    for column in sorted(sheet.best_but - columns):
        yield f"best_but: there is no column {_called(column)}"
    for row_name, *of in sorted(sheet.misprints):
        if row_name not in rows or tuple(of) not in columns:
            yield f"misprints: there is no cell {_called((row_name, *of))}"


def _values(sheet: Sheet) -> Iterator[str]:
    for row, column, cell in _cells(sheet):
        low, high = column.metric.bounds
        misprint = (row.name, column.group, column.name) in sheet.misprints
        where = f"{row.name}, {_called((column.group, column.name))}"
        if cell.published is None:
            if misprint:
                yield f"{where}: called a misprint, and nothing is printed"
            continue
        if column.ours:
            yield f"{where}: a published number in a column of ours alone"
        if not (misprint or low <= cell.published <= high):
            yield f"{where}: {cell.published:g} is not between {low:g} and {high:g}"


def _order(sheet: Sheet) -> Iterator[str]:
    for row in sheet.rows:
        lines: dict[tuple[str, str, str], list[tuple[float, float, Column]]] = {}
        for _, column, cell in _cells(sheet, [row]):
            level = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", column.level)
            printed = cell.published is not None and (row.name, column.group, column.name) not in sheet.misprints
            if column.metric.kind == "quality" and level and level[1] in FALLING and printed:
                sign = 1 if FALLING[level[1]] else -1
                line = lines.setdefault((column.group, column.metric.name, level[1]), [])
                line.append((sign * float(level[2]), float(cell.published or 0), column))
        for (group, metric, _), values in lines.items():
            ranked = sorted(values, key=lambda one: one[0])
            for (at, better, here), (beyond, worse, there) in pairwise(ranked):
                if at < beyond and worse > better:
                    levels = f"{worse:g} at {there.level} is above {better:g} at {here.level}"
                    yield f"{row.name}, {group}: {metric} {levels}"


def _best(sheet: Sheet) -> Iterator[str]:
    if sheet.best is None:
        return
    (best,) = (row for row in sheet.rows if row.name == sheet.best)
    for index, column in enumerate(sheet.columns):
        name, better = (column.group, column.name), column.metric.better
        known = {
            row.name: value
            for row in sheet.rows
            if (value := row.cells[index].published) is not None and (row.name, *name) not in sheet.misprints
        }
        excepted, mine = name in sheet.best_but, known.get(best.name)
        if better is None or mine is None:
            if excepted:
                yield f"best_but names {_called(name)}, where {best.name} has no number to compare"
            continue
        winner = (max if better == "more" else min)(known, key=lambda row: known[row])
        wins = mine == known[winner]
        if wins and excepted:
            yield f"best_but names {_called(name)}, where {best.name} is best"
        if not wins and not excepted and column.metric.kind == "quality":
            yield f"{best.name} is called best, and in {_called(name)} {winner} is"


def _status(sheet: Sheet) -> Iterator[str]:
    for row in sheet.rows:
        of_quality = [cell.ours for _, column, cell in _cells(sheet, [row]) if column.metric.kind == "quality"]
        if row.status == "cited only" and any(one is not None and one.value is not None for one in of_quality):
            yield f"{row.name} is called cited only, and was measured here"
        if row.status == "works here" and all(cell.ours is None for cell in row.cells):
            yield f"{row.name} is said to work here, and no cell has a place for a number of ours"
        if all(cell.published is None and cell.ours is None for cell in row.cells):
            yield f"{row.name} has neither a published number nor a place for one of ours"


def _cells(sheet: Sheet, rows: Iterable[Row] | None = None) -> Iterator[tuple[Row, Column, Cell]]:
    for row in sheet.rows if rows is None else rows:
        for column, cell in zip(sheet.columns, row.cells, strict=True):
            yield row, column, cell


def _twice(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [name for name, count in Counter(names).items() if count > 1]


def _called(name: tuple[str, ...]) -> str:
    return " / ".join(part for part in name if part)
