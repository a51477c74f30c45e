r"""Sheets as LaTeX tables in the manner of booktabs; `\usepackage{booktabs}` is all they need.

A sheet too wide for a page becomes several tables, each with its caption, footnotes and notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dynres.tables.render.inline import spans
from dynres.tables.render.layout import Laid, LaidColumn, LaidRow, Shown, bands, lay_out
from dynres.tables.sheet import Sheet

WIDTH = 12  # numbers that a line of text holds beside a name
HEADERS = {"published": "publ.", "ours": "ours", "difference": "diff."}
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # a line may begin with them, after \\
    **{sign: f"${sign}$" for sign in "<>|"},
    '"': "''",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "∞": r"$\infty$",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "Δ": r"$\Delta$",
}


def render(sheets: Sequence[Sheet]) -> str:
    """The text of a .tex file to \\input."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_sheet(lay_out(sheet), place) for place, sheet in enumerate(sheets))


def prose(text: str) -> str:
    """On one line, as it is: nothing in it is a command; code between backticks is typewriter."""
    return "".join(f"\\texttt{{{_escaped(piece)}}}" if code else _escaped(piece) for piece, code in spans(text))


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def _sheet(laid: Laid, number: int) -> str:
    parts = bands(laid.columns, lambda column: sum(_weight(column, side) for side in column.sides), WIDTH)
    label = "".join(sign if sign.isalnum() else "-" for sign in laid.sheet.key) + (f"-{number + 1}" if number else "")
    unit = f" ({laid.unit})" if laid.unit and laid.unit not in laid.sheet.title else ""
    tables = []
    for part, places in enumerate(parts, 1):
        which = f" (part {part} of {len(parts)})" if len(parts) > 1 else ""
        caption = f"{prose(laid.sheet.title + unit)}{which}. Ours: {prose(laid.sheet.label)}."
        tables.append(_table(laid, places, caption, f"tab:{label}{f'-part-{part}' if which else ''}"))
    return "\n".join(tables)


def _weight(column: LaidColumn, side: str) -> float:
    """Ours alone has its spread beside it."""
    return 1.6 if side == "ours" and column.sides == ("ours",) else 1.0


def _table(laid: Laid, places: Sequence[int], caption: str, label: str) -> str:
    columns = [laid.columns[place] for place in places]
    width = sum(len(column.sides) for column in columns)
    body: list[str] = []
    for index, (group, rows) in enumerate(groupby(laid.rows, key=lambda row: row.group)):
        body += [r"\midrule"] if index and group else []
        body += [f"\\multicolumn{{{width + 1}}}{{l}}{{\\emph{{{prose(group)}}}}} \\\\"] if group else []
        body += [_row(row, columns, places) for row in rows]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            f"\\caption{{{caption}}}",
            f"\\label{{{label}}}",
            f"\\begin{{tabular}}{{l{'r' * width}}}",
            r"\toprule",
            *_head(columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *_below(laid, places),
            r"\end{table}",
            "",
        ]
    )


def _head(columns: Sequence[LaidColumn]) -> Iterator[str]:
    """Groups over names over sides; levels that say nothing are left out."""
    if any(column.group for column in columns):
        runs = [(group, list(run)) for group, run in groupby(columns, key=lambda column: column.group)]
        yield from _spanning([(group, sum(len(column.sides) for column in run)) for group, run in runs])
    names = [(column.name + (f" ({column.unit})" if column.unit else ""), len(column.sides)) for column in columns]
    several = any(len(column.sides) > 1 for column in columns)
    if several:
        yield from _spanning(names)
        yield _line(["", *(HEADERS[side] for column in columns for side in column.sides)])
    else:
        yield _line(["", *(prose(name) for name, _ in names)])


def _spanning(headers: Sequence[tuple[str, int]]) -> Iterator[str]:
    """A line of headers over so many columns each, and the rules below those that have a text."""
    yield _line(["", *(f"\\multicolumn{{{width}}}{{c}}{{{prose(text)}}}" for text, width in headers)])
    rules, start = [], 2
    for text, width in headers:
        rules += [f"\\cmidrule(lr){{{start}-{start + width - 1}}}"] if text else []
        start += width
    yield " ".join(rules)


def _row(row: LaidRow, columns: Sequence[LaidColumn], places: Sequence[int]) -> str:
    name = f"{prose(row.name)}{' (cited only)' if row.cited else ''}{_marks(row.notes)}"
    numbers = [
        _shown(row.cells[place].side(side))
        for place, column in zip(places, columns, strict=True)
        for side in column.sides
    ]
    return _line([name, *numbers])


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _shown(shown: Shown) -> str:
    text = prose(shown.text)
    marked = {"best": f"\\textbf{{{text}}}", "second": f"\\underline{{{text}}}", "": text}[shown.mark]
    return f"{marked}{_marks(shown.notes)}"


def _marks(notes: Sequence[int]) -> str:
    return f"\\textsuperscript{{{','.join(map(str, notes))}}}" if notes else ""


def _below(laid: Laid, places: Sequence[int]) -> Iterator[str]:
    """The footnotes that this part of the table refers to, its notes, and how to read it."""
    used = {note for row in laid.rows for note in row.notes}
    used |= {
        note
        for row in laid.rows
        for place in places
        for side in laid.columns[place].sides
        for note in row.cells[place].side(side).notes
    }
    lines = [f"\\textsuperscript{{{number}}}~{prose(laid.notes[number - 1])}" for number in sorted(used)]
    lines += [prose(note) for note in laid.sheet.notes] + [" ".join(map(prose, laid.legend))]
    yield r"\par\smallskip"
    yield r"\begin{minipage}{\linewidth}\raggedright\scriptsize"
    yield from (f"{line}\\par" for line in lines if line)
    yield r"\end{minipage}"
