"""A sheet on the page: published, ours and difference side by side; in wide tables one above the other in a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dynres.tables.render.digits import DASH
from dynres.tables.render.layout import (
    Laid,
    LaidCell,
    LaidColumn,
    LaidRow,
    Part,
    Shown,
    Side,
    column_width,
    lay_out,
    parts,
)
from dynres.tables.render.markup import Markup, element, joined, prose
from dynres.tables.render.summary import TOLERANCE
from dynres.tables.sheet import Sheet

WIDTH = 112  # characters beside a name, on a desk and on a printed page
FAR = 0.02  # of the published cost: more than this is another network


def sheet_section(sheet: Sheet, identity: str) -> Markup:
    """A sheet with its label, one or several tables, footnotes, notes and legend; `identity` names its place."""
    laid = lay_out(sheet)
    pairs = [place for place, column in enumerate(laid.columns) if len(column.sides) > 1]
    stacked = sum(column_width(laid, place) for place in pairs) > 2 * WIDTH
    cut = parts(laid, WIDTH, stacked)
    return element(
        "section",
        element("h4", prose(laid.heading), id=f"{identity}-title"),
        element("p", element("b", "Ours"), " ", prose(sheet.label), class_="label"),
        *(
            _table(laid, part, stacked, identity, f", part {number} of {len(cut)}" if len(cut) > 1 else "")
            for number, part in enumerate(cut, 1)
        ),
        _below(laid, identity),
        class_="sheet",
        id=identity,
    )


def _table(laid: Laid, part: Part, stacked: bool, identity: str, which: str) -> Markup:
    columns = [laid.columns[place] for place in part.places]
    sides = [(column, (column.sides[0],) if stacked else column.sides) for column in columns]
    table = element(
        "table",
        element("caption", prose(laid.heading), which, class_="hidden"),
        element("thead", *_head(sides, stacked)),
        *(
            element("tbody", *_body(group, list(rows), part.places, laid, stacked, identity))
            for group, rows in groupby(part.rows, key=lambda row: row.group)
        ),
    )
    return element("div", table, class_="scroll", role="region", tabindex=0, aria_label=f"{laid.heading}{which}: table")


def _head(sides: Sequence[tuple[LaidColumn, Sequence[Side]]], stacked: bool) -> Iterator[Markup]:
    """Rows of headers: groups, names with units, sides; those that would say nothing are left out."""
    columns = [column for column, _ in sides]
    grouped = any(column.group for column in columns)
    several = not stacked and any(len(shown) > 1 for _, shown in sides)
    key = [element("span", side) for side in ("published", "ours", "difference")] if stacked else []
    rows: list[list[Markup]] = [[element("th", "System", *key, scope="col", rowspan=1 + grouped + several)]]
    if grouped:
        for group, run in groupby(sides, key=lambda pair: pair[0].group):
            span = sum(len(shown) for _, shown in run)
            head = element("th", group, colspan=span, scope="colgroup", class_="edge")
            rows[-1].append(head if group else element("td", colspan=span))
        rows.append([])
    words: list[Markup] = []
    for place, (column, shown) in enumerate(sides):
        unit = [element("span", column.unit, class_="unit")] if column.unit else []
        edge = _edge(columns, place)
        if len(shown) > 1:
            rows[-1].append(element("th", column.name, *unit, scope="colgroup", colspan=len(shown), class_=edge))
            classes = [_classes(side, edge if side == shown[0] else "") for side in shown]
            words += [element("th", side, scope="col", class_=name) for side, name in zip(shown, classes, strict=True)]
        else:
            rows[-1].append(element("th", column.name, *unit, scope="col", rowspan=1 + several, class_=edge))
    rows += [words] if words else []
    return (element("tr", *row) for row in rows)


def _edge(columns: Sequence[LaidColumn], place: int) -> str:
    """Where a line stands before a column: where a group begins, and around columns of several numbers."""
    begins = place == 0 or columns[place].group != columns[place - 1].group
    return "edge" if begins or len(columns[place].sides) > 1 or len(columns[place - 1].sides) > 1 else ""


def _body(
    group: str, rows: Sequence[LaidRow], places: Sequence[int], laid: Laid, stacked: bool, identity: str
) -> Iterator[Markup]:
    columns = [laid.columns[place] for place in places]
    if group:
        width = 1 + sum(1 if stacked else len(column.sides) for column in columns)
        yield element("tr", element("th", element("span", group), colspan=width, scope="rowgroup"), class_="rowgroup")
    for row in rows:
        cited = element("span", "cited only", class_="cited")
        name = element("th", row.name, _marks(row.notes, identity), cited if row.cited else "", scope="row")
        cells = [
            cell
            for index, place in enumerate(places)
            for cell in _cells(row.cells[place], columns[index], _edge(columns, index), stacked, identity)
        ]
        yield element("tr", name, *cells)


def _cells(cell: LaidCell, column: LaidColumn, edge: str, stacked: bool, identity: str) -> Iterator[Markup]:
    if stacked and len(column.sides) > 1:
        lines = [
            element("span", _shown(cell.side(side), identity), class_=_classes(side, _size(cell, side)))
            for place, side in enumerate(column.sides)
            if place == 0 or any(not cell.side(later).empty for later in column.sides[place:])
        ]
        yield element("td", *lines, class_=_classes("stack", edge))
        return
    for place, side in enumerate(column.sides):
        classes = _classes(side, _size(cell, side), edge if place == 0 else "")
        yield element("td", _shown(cell.side(side), identity), class_=classes)


def _size(cell: LaidCell, side: Side) -> str:
    """The colour of a difference of costs, and of a dash."""
    if cell.side(side).text == DASH:
        return "none"
    if side != "difference" or cell.off is None:
        return ""
    return "near" if cell.off <= TOLERANCE else "off" if cell.off <= FAR else "far"


def _classes(*names: str) -> str:
    return " ".join(name for name in names if name)


def _shown(shown: Shown, identity: str) -> Markup:
    text = {"best": element("b", shown.text), "second": element("u", shown.text), "": shown.text}[shown.mark]
    return joined([text, _marks(shown.notes, identity)])


def _marks(notes: Sequence[int], identity: str) -> Markup:
    links = [element("a", str(note), href=f"#{identity}-note-{note}") for note in notes]
    return element("sup", joined(links, ",")) if links else Markup()


def _below(laid: Laid, identity: str) -> Markup:
    footnotes = [
        element("li", prose(note), id=f"{identity}-note-{number}") for number, note in enumerate(laid.notes, 1)
    ]
    return element(
        "div",
        element("ol", *footnotes) if footnotes else "",
        *(element("p", prose(note)) for note in laid.sheet.notes),
        element("p", prose(" ".join(laid.about_ours))) if laid.about_ours else "",
        class_="below",
    )


def how_to_read() -> Markup:
    """What is the same in all tables of the page."""
    limits = {"near": f"at most {TOLERANCE:.1%}", "off": f"at most {FAR:.0%}", "far": "more"}
    colours = joined((element("span", text, class_=size) for size, text in limits.items()), ", ")
    return joined(
        [
            "The difference is ours less the published; for costs, in per cent of the published: ",
            colours,
            ", uncoloured where the paper’s number cannot be reproduced. ",
            element("b", "Bold"),
            " is the best of a column and group of rows, ",
            element("u", "underlined"),
            " the second, among the published and among ours apart. A column of one number is published, unless it "
            "says ours.",
        ]
    )
