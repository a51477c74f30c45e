"""Sheets as Markdown: "published / ours (difference)" in a cell, footnotes below; reads as plain text too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from dynres.tables.render.digits import DASH
from dynres.tables.render.inline import spans
from dynres.tables.render.layout import Laid, LaidCell, LaidColumn, Part, Shown, lay_out, parts
from dynres.tables.sheet import Sheet

SPECIAL = re.compile(r"[\\*\[\]|~$#]|`|(?<!\w)_|_(?!\w)")
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
WIDTH = 120  # of a table, in characters, but for its names


def render(sheets: Sequence[Sheet]) -> str:
    """The text of a Markdown file."""
    return "\n".join(_sheet(lay_out(sheet)) for sheet in sheets)


def _sheet(laid: Laid) -> str:
    blocks = [f"## {prose(laid.heading)}", f"Ours: {prose(laid.sheet.label.rstrip('.'))}."]
    if any(len(column.sides) > 1 for column in laid.columns):
        difference = " (difference)" if any("difference" in column.sides for column in laid.columns) else ""
        blocks[-1] += f" Cells: published / ours{difference}."
    blocks += [_table(laid, part) for part in parts(laid, WIDTH)]
    blocks += [f"<sup>{number}</sup> {prose(note)}" for number, note in enumerate(laid.notes, 1)]
    blocks += [prose(note) for note in laid.sheet.notes]
    if laid.about_ours or laid.legend:
        blocks.append(" ".join(map(prose, (*laid.about_ours, *laid.legend))))
    return "\n\n".join(blocks) + "\n"


def _table(laid: Laid, part: Part) -> str:
    places = part.places
    lines = [["", *(_header(laid.columns[place]) for place in places)]]
    for group, rows in groupby(part.rows, key=lambda row: row.group):
        if group:
            lines.append([f"*{prose(group)}*", *[""] * len(places)])
        for row in rows:
            name = f"{prose(row.name)}{' (cited only)' if row.cited else ''}{_marks(row.notes)}"
            lines.append([name, *(_cell(row.cells[place], laid.columns[place]) for place in places)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(places) + 1)]
    rule = [f"{'-' * max(3, width - (place > 0))}{':' * (place > 0)}" for place, width in enumerate(widths)]
    lines = [[_padded(text, *column) for text, column in zip(line, enumerate(widths), strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _padded(text: str, place: int, width: int) -> str:
    return text.rjust(width) if place else text.ljust(width)


def _header(column: LaidColumn) -> str:
    group = f"{column.group}, " if column.group else ""
    return prose(f"{group}{column.name}{f' ({column.unit})' if column.unit else ''}")


def _cell(cell: LaidCell, column: LaidColumn) -> str:
    pair = [_shown(cell.side(side)) for side in column.sides if side != "difference"]
    text = DASH if set(pair) == {DASH} else " / ".join(pair)
    difference = cell.difference.text.replace("−", "-")
    return f"{text} ({difference})" if "difference" in column.sides and difference != DASH else text


def _shown(shown: Shown) -> str:
    text = shown.text.replace("−", "-")
    marked = {"best": f"**{text}**", "second": f"<u>{text}</u>", "": text}[shown.mark]
    return f"{marked}{_marks(shown.notes)}"


def _marks(notes: Sequence[int]) -> str:
    return f"<sup>{','.join(map(str, notes))}</sup>" if notes else ""


def prose(text: str) -> str:
    """On one line, as it is: nothing in it is Markdown but code between backticks."""
    return "".join(_code(piece) if code else _escaped(piece) for piece, code in spans(text))


def _escaped(text: str) -> str:
    return SPECIAL.sub(lambda found: f"\\{found.group()}", text).translate(ENTITIES)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")
