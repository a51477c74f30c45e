r"""Sheets as LaTeX tables in the manner of booktabs; `\usepackage{booktabs}` is all they need.

A sheet too wide for a page becomes several tables, each with its caption, footnotes and notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dynres.tables.render.inline import spans
from dynres.tables.render.layout import Laid, LaidColumn, LaidRow, Part, Shown, column_width, lay_out, parts
from dynres.tables.render.summary import paper_name
from dynres.tables.sheet import Sheet

WIDTH, NARROW = 116, 100  # characters that a line of 6.5 inches holds, small and less small
CITED = " (cited only)"
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
    cut = parts(laid, max(WIDTH - _name_width(laid), 1))
    label = "".join(sign if sign.isalnum() else "-" for sign in laid.sheet.key) + (f"-{number + 1}" if number else "")
    title, ours = prose(f"{paper_name(laid.sheet.paper)}, {laid.heading}"), prose(laid.sheet.label.rstrip("."))
    tables = []
    for place, part in enumerate(cut, 1):
        which = f" (part {place} of {len(cut)})" if len(cut) > 1 else ""
        caption = f"{title}{which}. Ours: {ours}."
        tables.append(_table(laid, part, caption, f"tab:{label}{f'-part-{place}' if which else ''}"))
    return "\n".join(tables)


def _name_width(laid: Laid) -> int:
    return max((len(row.name) + len(CITED) * row.cited for row in laid.rows), default=0)


def _table(laid: Laid, part: Part, caption: str, label: str) -> str:
    places = part.places
    columns = [laid.columns[place] for place in places]
    width = sum(len(column.sides) for column in columns)
    needed = _name_width(laid) + sum(column_width(laid, place) for place in places)
    size = r"\footnotesize" if needed <= NARROW else r"\scriptsize"
    body: list[str] = []
    for index, (group, rows) in enumerate(groupby(part.rows, key=lambda row: row.group)):
        body += [r"\midrule"] if index and group else []
        body += [f"\\multicolumn{{{width + 1}}}{{l}}{{\\emph{{{prose(group)}}}}} \\\\"] if group else []
        body += [_row(row, columns, places) for row in rows]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            f"\\centering{size}\\setlength{{\\tabcolsep}}{{3pt}}",
            f"\\caption{{{caption}}}",
            f"\\label{{{label}}}",
            f"\\begin{{tabular}}{{l{'r' * width}}}",
            r"\toprule",
            *_head(columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *_below(laid, part),
            r"\end{table}",
            "",
        ]
    )


def _head(columns: Sequence[LaidColumn]) -> Iterator[str]:
    """Groups over names over sides; levels that say nothing are left out."""
    if any(column.group for column in columns):
        runs = [(group, list(run)) for group, run in groupby(columns, key=lambda column: column.group)]
        yield from _spanning([(prose(group), sum(len(column.sides) for column in run)) for group, run in runs])
    names = [column.name + (f" ({column.unit})" if column.unit else "") for column in columns]
    if all(len(column.sides) == 1 for column in columns):
        yield _line(["", *map(_stacked, names)])
        return
    yield from _spanning(
        [
            (prose(name) if len(column.sides) > 1 else _stacked(name), len(column.sides))
            for name, column in zip(names, columns, strict=True)
        ]
    )
    yield _line(["", *(HEADERS[side] for column in columns for side in column.sides)])


def _stacked(name: str) -> str:
    """A word a line, so that a header is no wider than its numbers."""
    return "\\shortstack{" + r"\\ ".join(map(prose, name.split())) + "}"


def _spanning(headers: Sequence[tuple[str, int]]) -> Iterator[str]:
    """A line of headers over so many columns each, and the rules below those that have a text."""
    yield _line(["", *(f"\\multicolumn{{{width}}}{{c}}{{{text}}}" for text, width in headers)])
    rules, start = [], 2
    for text, width in headers:
        rules += [f"\\cmidrule(lr){{{start}-{start + width - 1}}}"] if text else []
        start += width
    yield " ".join(rules)


def _row(row: LaidRow, columns: Sequence[LaidColumn], places: Sequence[int]) -> str:
    name = f"{prose(row.name)}{CITED if row.cited else ''}{_marks(row.notes)}"
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


def _below(laid: Laid, part: Part) -> Iterator[str]:
    """The footnotes that this part of the table refers to, its notes, and how to read it."""
    used = {note for row in part.rows for note in row.notes}
    used |= {
        note
        for row in part.rows
        for place in part.places
        for side in laid.columns[place].sides
        for note in row.cells[place].side(side).notes
    }
    lines = [f"\\textsuperscript{{{number}}}~{prose(laid.notes[number - 1])}" for number in sorted(used)]
    lines += [prose(note) for note in laid.sheet.notes] + [" ".join(map(prose, (*laid.about_ours, *laid.legend)))]
    yield r"\par\smallskip"
    yield r"\begin{minipage}{\linewidth}\raggedright\scriptsize"
    yield from (f"{line}\\par" for line in lines if line)
    yield r"\end{minipage}"
