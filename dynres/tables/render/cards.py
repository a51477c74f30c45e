"""Tables of text, which become a card a row on a phone; roles keep them tables for who listens to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynres.tables.render.markup import Markup, element


def cards(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Markup]],
    named: int,
    unlabelled: int = -1,
    style: str = "",
) -> Markup:
    """A table of text.

    Args:
        columns: headers; on a phone they stand above each cell.
        named: the column that names its row.
        unlabelled: a column whose cells need no header above them on a phone.
        style: class of the table, for its widths.
    """

    def cell(place: int, content: Markup) -> Markup:
        if place == named:
            return element("th", content, scope="row", role="rowheader")
        return element("td", content, role="cell", data_label="" if place == unlabelled else columns[place])

    head = element("tr", *(element("th", text, scope="col", role="columnheader") for text in columns), role="row")
    body = (element("tr", *(cell(*pair) for pair in enumerate(row)), role="row") for row in rows)
    return element(
        "table",
        element("caption", caption, class_="hidden"),
        element("thead", head, role="rowgroup"),
        element("tbody", *body, role="rowgroup"),
        class_=f"cards {style}".strip(),
        role="table",
    )
