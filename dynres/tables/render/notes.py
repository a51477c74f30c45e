"""What is said of rows and cells, as numbered footnotes; what many cells share is said once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dynres.tables.sheet import Cell, Column, Row, Sheet

MISPRINT = "A misprint of the paper."
INCOMPARABLE = "Published and ours are not of the same thing: no difference is taken."
UNREACHABLE = "The published number cannot be reproduced: `experiments/{paper}/README.md` says why."
MANY = 3  # cells that share a note: it is then said once, at the row's name or as what a dash means

Said = tuple[list[str], list[str]]  # of the published side, of ours


class Notes:
    """The footnotes of a sheet.

    Attributes:
        texts: the first is number 1; those at names of rows come first, then column by column, for it is between
            columns that wide sheets are cut.
        names: of each row, the numbers at its name.
        cells: of each row, of each of its cells, the numbers at the published side and at ours.
        dash: why ours is missing where no number of a footnote says why; "" where no reason is frequent.
        seeds: the largest number of seeds that a number is a mean of.
    """

    def __init__(self, sheet: Sheet) -> None:
        self.seeds = max((cell.ours.seeds for row in sheet.rows for cell in row.cells if cell.ours), default=0)
        self.dash = _frequent_reason(sheet)
        self._numbers: dict[str, int] = {}
        said = [
            [self._said(sheet, row, column, cell) for column, cell in zip(sheet.columns, row.cells, strict=True)]
            for row in sheet.rows
        ]
        shared = [_shared(cells) for cells in said]
        self.names = [self._of([row.remark, *texts]) for row, texts in zip(sheet.rows, shared, strict=True)]
        columns = [
            [
                tuple(self._of(text for text in side if text not in shared[index]) for side in cells[place])
                for index, cells in enumerate(said)
            ]
            for place in range(len(sheet.columns))
        ]
        self.cells = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in sheet.rows]
        self.texts = tuple(self._numbers)

    def _of(self, texts: Iterable[str]) -> tuple[int, ...]:
        plain = (" ".join(text.split()) for text in texts)
        return tuple(sorted({self._numbers.setdefault(text, len(self._numbers) + 1) for text in plain if text}))

    def _said(self, sheet: Sheet, row: Row, column: Column, cell: Cell) -> Said:
        published: list[str] = []
        ours: list[str] = []
        if (row.name, column.group, column.name) in sheet.misprints:
            published.append(MISPRINT)
        if cell.published is not None and not cell.reachable:
            published.append(UNREACHABLE.format(paper=sheet.paper))
        if cell.ours is None or (cell.ours.value is None and row.status == "cited only"):
            return published, ours  # that it is only cited stands at the row's name
        if cell.ours.note and (cell.ours.value is not None or cell.ours.note != self.dash):
            ours.append(cell.ours.note)
        if 0 < cell.ours.seeds < self.seeds:
            ours.append(f"Over {cell.ours.seeds} of {self.seeds} seeds.")
        both = cell.ours.value is not None and cell.published is not None
        if both and not cell.comparable and cell.reachable and not cell.ours.part:
            ours.append(INCOMPARABLE)
        return published, ours


def _frequent_reason(sheet: Sheet) -> str:
    """Why most numbers of ours that are missing are missing."""
    cells = [cell.ours for row in sheet.rows if row.status != "cited only" for cell in row.cells if cell.ours]
    reasons = Counter(ours.note for ours in cells if ours.value is None and ours.note).most_common(1)
    return reasons[0][0] if reasons and reasons[0][1] >= MANY else ""


def _shared(said: Sequence[Said]) -> list[str]:
    """What is said of every cell of a row of which anything is said."""
    cells = [[*published, *ours] for published, ours in said if published or ours]
    return [text for text in dict.fromkeys(cells[0]) if all(text in one for one in cells)] if len(cells) >= MANY else []
