"""Sheets as Markdown, CSV and LaTeX: numbers arrive as they are, marks fall on the best, any text stays a text."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynres.tables.render import digits, files, latex, long_form, markdown
from dynres.tables.render.layout import Laid, column_width, lay_out, parts
from dynres.tables.render.marks import marks
from dynres.tables.render.notes import INCOMPARABLE, MISPRINT
from dynres.tables.render.summary import costs, counted
from dynres.tables.sheet import METRICS, Cell, Column, Measured, Row, Sheet, Verdict

PSNR, SSIM, PARAMS, GMACS = (METRICS[name] for name in ("psnr", "ssim", "params", "gmacs"))


def sheet(columns: list[Column], rows: list[Row], **more: object) -> Sheet:
    return replace(Sheet("tadt/1", "Table 1: PSNR", tuple(columns), tuple(rows), "measured here"), **more)


def column_of(values: list[float | None], ours: bool = False, metric: str = "psnr") -> Sheet:
    """One column, published or of ours."""
    cells = [Cell(None, Measured(value)) if ours else Cell(value) for value in values]
    return sheet([Column("x2", METRICS[metric])], [Row(f"row {n}", (cell,)) for n, cell in enumerate(cells)])


def several() -> Sheet:
    """Costs and quality, groups of both kinds, a range, spreads, a failure, and what is not to be compared."""
    columns = [
        Column("params", PARAMS),
        Column("MACs", GMACS),
        Column("x2 PSNR", PSNR, "Set5", "x2"),
        Column("x2 SSIM", SSIM, "Set5", "x2"),
        Column("x2 PSNR", PSNR, "photographs: ours", "x2", ours=True),
    ]
    rows = [
        Row(
            "EDSR & co_1 [50%]",
            (
                Cell(40.73, Measured(40.73)),
                Cell(100.0, Measured(99.0)),
                Cell(38.24, Measured(38.2)),
                Cell(0.9614, Measured(0.9612)),
                Cell(None, Measured(27.311, 0.042, 3)),
            ),
            group="plain",
        ),
        Row(
            "ACLA",
            (
                Cell(42.3, Measured(15.7), comparable=False, reachable=False),
                Cell(120.0, Measured(90.0, top=130.0)),
                Cell(38.31, Measured(38.4), comparable=False),
                Cell(0.0961, None),
                Cell(None, Measured(27.5, 0.1, 2)),
            ),
            group="plain",
            remark="drawn | at *random*, see `backbone.keys=8`",
        ),
        Row(
            "MemNet",
            (Cell(0.68), Cell(), Cell(37.78), Cell(0.9597), Cell(None, Measured(None, note="cited"))),
            group="others",
            status="cited only",
        ),
        Row(
            "RCAN",
            (Cell(15.3, Measured(15.6)), Cell(), Cell(), Cell(), Cell(None, Measured(None, note="out of memory"))),
            group="others",
        ),
    ]
    misprints = frozenset({("ACLA", "Set5", "x2 SSIM")})
    return sheet(columns, rows, notes=("One _note_ for all.",), misprints=misprints)


@pytest.mark.parametrize("better", ["more", "less"])
@pytest.mark.parametrize("ours", [False, True])
@given(st.lists(st.none() | st.integers(2600, 2612).map(lambda n: n / 100 + 0.001), max_size=8))
def test_best_and_second_are_those_of_the_printed_numbers(ours: bool, better: str, values: list[float | None]) -> None:
    one = column_of(values, ours)
    one = replace(one, columns=(replace(one.columns[0], metric=replace(PSNR, better=better)),))
    printed = sorted({round(value, 2) for value in values if value is not None}, reverse=better == "more")
    found = marks(one, "ours" if ours else "published")
    expected = {}
    if len(printed) > 1:
        for index, value in enumerate(values):
            if value is not None and round(value, 2) in printed[:2]:
                expected[index, 0] = ("best", "second")[printed.index(round(value, 2))]
    assert found == expected
    assert marks(one, "published" if ours else "ours") == {}


def test_rows_compete_within_their_group_and_misprints_do_not() -> None:
    found = marks(several(), "published")
    assert found[1, 2] == "best" and found[0, 2] == "second"  # 38.31, 38.24
    assert (1, 3) not in found and (0, 3) not in found  # 0.0961 is a misprint, which leaves one number
    assert found[2, 0] == "best" and found[3, 0] == "second"  # 0.68 and 15.3, smaller is better
    assert not any(place == 1 for _, place in marks(several(), "ours"))  # a range is neither above nor below


def cells_of(text: str) -> list[list[str]]:
    """Cells of all lines of Markdown tables, split where no backslash stands before a pipe."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_lays_published_ours_and_difference_beside_each_other() -> None:
    text = markdown.render([several()])
    rows = {line[0]: line[1:] for line in cells_of(text)}
    assert rows["EDSR & co_1 \\[50%\\]".replace("&", "&amp;")] == [
        "**40.73** / <u>40.73</u> (0.00%)",
        "**100.00** / 99.00 (-1.00%)",
        "<u>38.24</u> / <u>38.20</u> (-0.04)",
        "0.9614 / 0.9612 (-0.0002)",
        "<u>27.31 ± 0.04</u>",
    ]
    assert rows["ACLA<sup>1</sup>"][1] == "<u>120.00</u> / 90.00–130.00 (in range)"
    assert rows["MemNet (cited only)"][0] == "**0.68** / –"
    assert "Ours: measured here. Cells: published / ours (difference)." in text
    assert "drawn \\| at \\*random\\*, see `backbone.keys=8`" in text and "One \\_note\\_ for all." in text


def test_markdown_keeps_shared_units_out_of_its_headers() -> None:
    assert cells_of(markdown.render([column_of([1.0])]))[0] == ["", "x2"]
    assert "## Table 1: PSNR (dB)" in markdown.render([column_of([1.0])])
    assert cells_of(markdown.render([several()]))[0][1:4] == ["params (M)", "MACs (GMACs)", "Set5, x2 PSNR (dB)"]


any_text = st.text(max_size=20) | st.text("|\\`*_<>[]{}$#&%~^\n\r a1", max_size=20)


def odd(text: str) -> Sheet:
    """A sheet with the same text wherever there is one."""
    columns = [Column(text, PSNR, text, "x2"), Column(text, GMACS, "", text), Column("x3", SSIM, text, "x3")]
    cells = (Cell(30.0, Measured(None, note=text)), Cell(1.0, Measured(1.1, 0.1, 3, text)), Cell(0.9))
    rows = [Row(text, cells, text, remark=text), Row("plain", cells[::-1], status="cited only")]
    return sheet(columns, rows, title=text, label=text, notes=(text,))


@given(any_text)
def test_markdown_tables_keep_their_shape_whatever_is_written_in_them(text: str) -> None:
    lines = cells_of(markdown.render([odd(text)]))
    assert {len(line) for line in lines} == {4} and len(lines) >= 4


@given(any_text)
def test_csv_says_what_the_sheet_says(text: str) -> None:
    plain = " ".join(text.split())
    lines = list(csv.DictReader(io.StringIO(long_form.render([odd(text)]))))
    assert [line["row"] for line in lines] == [plain] * 3 + ["plain"] * 3
    assert lines[0] | {} == lines[0] and lines[0]["note"] == lines[0]["remark"] == lines[0]["label"] == plain
    assert (lines[0]["published"], lines[0]["ours"], lines[0]["seeds"]) == ("30", "", "0")
    assert (lines[1]["ours"], lines[1]["spread"], lines[1]["seeds"], lines[1]["group"]) == ("1.1", "0.1", "3", "")


def test_csv_has_a_line_a_number_and_every_flag() -> None:
    lines = {
        (line["row"], line["group"], line["column"]): line
        for line in csv.DictReader(io.StringIO(long_form.render([several()])))
    }
    assert ("MemNet", "", "MACs") not in lines  # neither published nor ours
    first = lines["EDSR & co_1 [50%]", "Set5", "x2 PSNR"]
    assert (first["paper"], first["table"], first["level"], first["unit"]) == ("tadt", "tadt/1", "x2", "dB")
    assert (first["published"], first["ours"], first["difference"]) == ("38.24", "38.2", "-0.04")
    assert float(first["relative_difference"]) == pytest.approx(-0.04 / 38.24)
    assert (first["comparable"], first["reachable"], first["misprint"]) == ("True", "True", "False")
    unlike = lines["ACLA", "", "params"]
    assert (unlike["comparable"], unlike["reachable"], unlike["difference"]) == ("False", "False", "")
    ranged = lines["ACLA", "", "MACs"]
    assert (ranged["ours"], ranged["ours_top"], ranged["difference"]) == ("90", "130", "0")
    assert lines["ACLA", "Set5", "x2 SSIM"]["misprint"] == "True"
    assert lines["RCAN", "photographs: ours", "x2 PSNR"]["note"] == "out of memory"


def plain_latex(text: str) -> str:
    """Without escaped signs, which are letters and no syntax."""
    return re.sub(r"\\[&%$#_{}]", "", text)


def widths(text: str) -> list[tuple[int, list[int]]]:
    """Of each tabular: its columns, and how many each of its lines has, those of \\multicolumn counted."""
    found = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", plain_latex(text), re.S):
        body = re.sub(r"\\shortstack\{.*?\}(?= &| \\\\|\})", "", body)
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        spans = [[int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)] for line in lines]
        counts = [line.count("&") + 1 + sum(span) - len(span) for line, span in zip(lines, spans, strict=True)]
        found.append((len(columns), counts))
    return found


@given(any_text)
def test_latex_keeps_its_shape_whatever_is_written_in_it(text: str) -> None:
    written = latex.render([odd(text), several()])
    depth = 0
    for sign in plain_latex(written):
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", plain_latex(written)) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    assert "%" not in plain_latex(written).removeprefix("% \\usepackage{booktabs}\n")
    shapes = widths(written)
    assert len(shapes) >= 2 and all(set(counts) == {columns} for columns, counts in shapes)


def test_latex_marks_escapes_and_rules() -> None:
    text = latex.render([several()])
    assert (
        r"EDSR \& co\_1 {[}50\%{]} & \textbf{40.73} & \underline{40.73} & 0.00\% & \textbf{100.00} & 99.00 & $-$1.00\%"
        in text
    )
    assert r"\multicolumn{6}{c}{Set5}" in text and r"\cmidrule(lr){2-7}" in text
    assert (
        r"\caption{TADT, Table 1: PSNR (part 1 of 2). Ours: measured here.}" in text
        and r"\label{tab:tadt-1-part-2}" in text
    )
    assert r"\emph{plain}" in text and r"MemNet (cited only)" in text and "90.00--130.00" in text
    assert r"drawn $|$ at {*}random{*}, see \texttt{backbone.keys=8}" in text
    assert text.index(r"\end{tabular}") < text.index("drawn")


@pytest.mark.parametrize("fits", [True, False])
def test_latex_compiles(tmp_path: Path, fits: bool) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex on PATH (Debian: apt-get install texlive-latex-recommended)")
    head = r"\documentclass{article}\usepackage[textwidth=6.5in]{geometry}\usepackage{booktabs}\begin{document}"
    one = several() if fits else odd('*[a] \\ ~^ <|> "q" β±×−→ {x} #1 50% _a_ $5 & `code_1`')
    (tmp_path / "tables.tex").write_text(f"{head}\n{latex.render([one])}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not fits or "Overfull" not in done.stdout


def test_notes_are_numbered_where_they_belong() -> None:
    laid = lay_out(several())
    said = {text: number for number, text in enumerate(laid.notes, 1)}
    acla, rcan = laid.rows[1], laid.rows[3]
    assert acla.notes == (said[several().rows[1].remark],)
    assert acla.cells[2].ours.notes == (said[INCOMPARABLE],)
    assert acla.cells[3].published.notes == (said[MISPRINT],)
    assert acla.cells[4].ours.notes == (said["Over 2 of 3 seeds."],)
    assert rcan.cells[4].ours.notes == (said["out of memory"],)
    assert "experiments/tadt/README.md" in laid.notes[acla.cells[0].published.notes[0] - 1]
    assert not any(cell.ours.notes for cell in laid.rows[2].cells)  # cited only, as its name says
    assert "Ours: mean ± standard deviation over 3 seeds." in laid.about_ours
    assert len(said) == len(laid.notes) == 6


def test_what_many_cells_share_is_said_once() -> None:
    columns = [Column(f"x{scale}", PSNR, "Set5", f"x{scale}") for scale in (2, 3, 4)]

    def row(name: str, note: str) -> Row:
        return Row(name, tuple(Cell(30.0, Measured(None, note=note)) for _ in columns))

    laid = lay_out(sheet(columns, [row("a", "not trained"), row("b", "not trained"), row("c", "killed in step 12")]))
    assert "Where ours is missing: not trained." in laid.about_ours
    assert laid.notes == ("killed in step 12",)
    assert [row.notes for row in laid.rows] == [(), (), (1,)]
    assert not any(cell.ours.notes for row in laid.rows for cell in row.cells)


def test_columns_show_what_there_is() -> None:
    shown = {(column.group, column.name): column.sides for column in lay_out(several()).columns}
    assert shown["", "params"] == ("published", "ours", "difference")
    assert shown["photographs: ours", "x2 PSNR"] == ("ours",)
    assert lay_out(column_of([1.0, 2.0])).columns[0].sides == ("published",)
    assert shown["", "MACs"] == ("published", "ours", "difference")
    missing = [Row(name, (Cell(30.0, Measured(note="not trained")),)) for name in "abc"]
    assert lay_out(sheet([Column("x2", PSNR)], missing)).columns[0].sides == ("published",)
    alone = sheet([Column("MACs", GMACS)], [Row("a", (Cell(None, Measured(3.0)),))])
    assert lay_out(alone).columns[0].name == "MACs, ours"
    unlike = Row("a", (Cell(30.0, Measured(27.0), comparable=False),))
    assert lay_out(sheet([Column("x2", PSNR)], [unlike])).columns[0].sides == ("published", "ours")


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "Set5", "Set14"]), st.sampled_from(["", "x2", "x3"])), min_size=1, max_size=12
    ),
    st.integers(10, 80),
    st.booleans(),
)
def test_parts_hold_every_column_once_in_order(places: list[tuple[str, str]], width: int, stacked: bool) -> None:
    columns = [Column(f"c{n}", PSNR, *place) for n, place in enumerate(places)]
    rows = [Row("a", tuple(Cell(30.0, Measured(30.1)) for _ in columns)), Row("empty", tuple(Cell() for _ in columns))]
    laid: Laid = lay_out(sheet(columns, rows))
    cut = parts(laid, width, stacked)
    assert [place for part in cut for place in part.places] == list(range(len(columns)))
    assert cut[0].rows == laid.rows and all(part.rows[0].name == "a" for part in cut)
    for part in cut:
        needed = sum(column_width(laid, place, stacked) for place in part.places)
        assert needed <= width or len({columns[place].level for place in part.places} | {""}) <= 2


def test_cost_cells_are_counted_by_what_can_be_said_of_them() -> None:
    found = costs([several()])
    assert (found.compared, found.within, found.unreachable, found.missing, found.incomparable) == (4, 2, 1, 1, 0)
    assert found.worst is not None and found.worst.ratio == pytest.approx(0.3 / 15.3)
    assert found.worst.name == "RCAN, params (TADT, Table 1)"
    assert costs([]).worst is None


def test_verdicts_are_counted() -> None:
    one = Verdict("tadt", "a", "b", "c", "d", "dB", 2, (1.0,), "supported")
    assert counted([one, one, replace(one, verdict="undecided")]) == {
        "supported": 2, "not supported": 0, "undecided": 1, "not measured": 0,
    }  # fmt: skip


def test_numbers_as_text() -> None:
    assert digits.number(-0.001, 2) == "0.00" and digits.number(-1.25, 1) == "−1.2"
    assert digits.signed(0.04, 2) == "+0.04" and digits.signed(-0.001, 2) == "0.00"
    assert digits.percent(-0.00123) == "−0.12%"
    assert digits.measured(Measured(1.0, 0.25, 3), 2) == "1.00 ± 0.25" and digits.measured(Measured(), 2) == "–"
    assert digits.over_seeds((1.0, 2.0, 3.0), 1, "dB") == "+2.0 ± 1.0 dB" and digits.over_seeds((), 1, "dB") == "–"
    assert digits.relative(2.0, -1.0) == -0.5 and digits.relative(0.0, 0.0) == 0.0
    assert digits.relative(0.0, 1.0) == float("inf")


def test_files_of_a_table_hold_all_of_its_sheets(tmp_path: Path) -> None:
    other = replace(several(), title="Table 1b: more")
    paths = list(files.write(tmp_path, [several(), replace(several(), key="acla/10"), other]))
    assert [path.name for path in paths] == [
        f"{key}.{end}" for key in ("tadt_1", "acla_10") for end in ("md", "csv", "tex")
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths[:3]:
        assert path.read_text(encoding="utf-8").count("Table 1b: more") >= 1
