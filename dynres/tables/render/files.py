"""Tables as files that a paper, a repository and a data frame can take in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dynres.files import write_text
from dynres.tables.render import latex, long_form, markdown
from dynres.tables.sheet import Sheet

FORMS = {"md": markdown.render, "csv": long_form.render, "tex": latex.render}


def write(folder: Path, sheets: Sequence[Sheet]) -> Iterator[Path]:
    """Write PAPER_N.md, .csv and .tex for every table, whole or not at all; yields each path once it is there.

    Sheets of one table, wherever they stand among the others, go into one file.
    """
    for key in dict.fromkeys(sheet.key for sheet in sheets):
        table = [sheet for sheet in sheets if sheet.key == key]
        for ending, render in FORMS.items():
            path = folder / f"{key.replace('/', '_')}.{ending}"
            write_text(path, render(table))
            yield path
