"""What all tables and claims come to: cost cells beside what the papers print, verdicts counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dynres.tables.render.digits import relative
from dynres.tables.sheet import Sheet, Verdict

TOLERANCE = 0.005  # of the published cost: what a rebuilt network may be off by
VERDICTS = ("supported", "not supported", "undecided", "not measured")

# Short name and title of each paper, in the order in which they are told.
PAPERS = {
    "tadt": ("TADT", "Task-Aware Dynamic Transformer for Efficient Arbitrary-Scale Image Super-Resolution"),
    "anysr": ("AnySR", "Realizing Image Super-Resolution as Any-Scale, Any-Resource"),
    "flexir": ("FlexIR", "Towards Flexible and Manipulable Image Restoration"),
    "acla": ("ACLA", "Adaptive Cross-Layer Attention for Image Restoration"),
    "lightweight_swinir": ("Lightweight SwinIR", "Lightweight Transformer Super-Resolution"),
}


def paper_name(paper: str) -> str:
    """As people call it; its key where it has no name here."""
    return PAPERS.get(paper, (paper, ""))[0]


@dataclass(frozen=True)
class Worst:
    """The cost cell that is farthest off: `ratio` is ours less the published, as a part of it."""

    ratio: float
    sheet: Sheet
    row: str
    column: str

    @property
    def name(self) -> str:
        """ "RCAN, params (TADT, Table 3)"."""
        return f"{self.row}, {self.column} ({paper_name(self.sheet.paper)}, {self.sheet.title.partition(':')[0]})"


@dataclass(frozen=True)
class Costs:
    """Published cost cells, each in one of four: compared, unreachable, incomparable, missing.

    Attributes:
        compared: both numbers stand there, and their difference means something.
        within: of these, how many are at most TOLERANCE off.
        worst: of these; None where there are none.
        unreachable: published numbers that no rebuilt network can have.
        incomparable: ours is of something else.
        missing: nothing of ours: cited only, or failed.
    """

    compared: int = 0
    within: int = 0
    worst: Worst | None = None
    unreachable: int = 0
    incomparable: int = 0
    missing: int = 0


def costs(sheets: Sequence[Sheet]) -> Costs:
    """All cost cells of some sheets."""
    kinds: Counter[str] = Counter()
    off: list[Worst] = []
    for sheet in sheets:
        for row in sheet.rows:
            for column, cell in zip(sheet.columns, row.cells, strict=True):
                if column.metric.kind != "cost" or cell.published is None:
                    continue
                if not cell.reachable:
                    kinds["unreachable"] += 1
                elif cell.ours is None or cell.ours.value is None:
                    kinds["missing"] += 1
                elif cell.difference is None:
                    kinds["incomparable"] += 1
                else:
                    name = " ".join(filter(None, (column.group, column.name)))
                    off.append(Worst(relative(cell.published, cell.difference), sheet, row.name, name))
    within = sum(abs(one.ratio) <= TOLERANCE for one in off)
    worst = max(off, key=lambda one: abs(one.ratio), default=None)
    return Costs(len(off), within, worst, kinds["unreachable"], kinds["incomparable"], kinds["missing"])


def counted(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many claims have each verdict, in the order of VERDICTS."""
    found: Counter[str] = Counter(verdict.verdict for verdict in verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS}
