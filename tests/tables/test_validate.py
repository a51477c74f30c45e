"""The validator: a table that can be passes, and each thing that cannot be is found, wherever it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynres.tables import acla, flexir, reference
from dynres.tables.sheet import METRICS, Cell, Column, Measured, Row, Sheet
from dynres.tables.validate import check

from .fakes import Fake, published

LEVELS = {"x": ("x2", "x3", "x4"), "sigma": ("sigma10", "sigma30", "sigma50"), "q": ("q40", "q20", "q10")}  # to worse


@st.composite
def tables(draw: st.DrawFn) -> Sheet:
    """Tables as papers print them: rows from worst to best, levels from good to bad, in any order of columns."""
    levels = LEVELS[draw(st.sampled_from(sorted(LEVELS)))]
    columns = [
        Column(f"{level} {name.upper()}", METRICS[name], dataset, level)
        for dataset in ("Set5", "B100")
        for level in levels
        for name in ("psnr", "ssim")
    ]
    columns = [Column("Params", METRICS["params"]), *draw(st.permutations(columns))]
    count = draw(st.integers(2, 4))
    steps = [draw(st.floats(0.001, 0.3)) for _ in range(count)]
    rows = []
    for number in range(count):
        good = sum(steps[: number + 1])
        cells = [Cell(1.0 + number, Measured(1.0))]
        for column in columns[1:]:
            worse = levels.index(column.level)
            top, fall = (30 + 5 * good, 2.0) if column.metric.name == "psnr" else (0.6 + 0.1 * good, 0.1)
            cells.append(Cell(round(top - fall * worse, 6), Measured(note="not trained")))
        rows.append(Row(f"row {number}", tuple(cells)))
    return Sheet("paper/1", "Table 1: x", tuple(columns), tuple(rows), "ours", best=f"row {count - 1}")


def changed(sheet: Sheet, row: int, column: int, cell: Cell) -> Sheet:
    its = sheet.rows[row]
    cells = (*its.cells[:column], cell, *its.cells[column + 1 :])
    return replace(sheet, rows=(*sheet.rows[:row], replace(its, cells=cells), *sheet.rows[row + 1 :]))


def place(sheet: Sheet, column: int) -> tuple[str, str]:
    return sheet.columns[column].group, sheet.columns[column].name


@given(tables(), st.data())
def test_a_table_that_can_be_passes_with_gaps_and_in_any_order(sheet: Sheet, data: st.DataObject) -> None:
    assert check(sheet) == []
    worse = data.draw(st.integers(0, len(sheet.rows) - 2))
    column = data.draw(st.integers(1, len(sheet.columns) - 1))
    assert check(changed(sheet, worse, column, Cell(None, Measured()))) == []
    order = data.draw(st.permutations(sheet.rows))
    assert check(replace(sheet, rows=tuple(order))) == []


@given(tables(), st.data())
def test_a_number_that_cannot_be_is_found_unless_it_is_a_misprint(sheet: Sheet, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(sheet.rows) - 1))
    column = data.draw(st.integers(1, len(sheet.columns) - 1))
    wild = data.draw(st.sampled_from([-2.0, 1e4, float("nan")]))
    bad = changed(sheet, row, column, Cell(wild, Measured()))
    (group, name), its = place(sheet, column), sheet.rows[row].name
    assert any(its in text and "is not between" in text for text in check(bad))
    assert check(replace(bad, misprints=frozenset({(its, group, name)}))) == []


@given(tables(), st.data())
def test_quality_that_rises_where_it_has_to_fall_is_found(sheet: Sheet, data: st.DataObject) -> None:
    """Two levels of a row and set exchanged; its level tells which way."""
    first = data.draw(st.integers(1, len(sheet.columns) - 1))
    one = sheet.columns[first]
    others = [
        index
        for index, other in enumerate(sheet.columns)
        if (other.group, other.metric) == (one.group, one.metric) and index != first and index
    ]
    second = data.draw(st.sampled_from(others))
    row = data.draw(st.integers(0, len(sheet.rows) - 1))
    cells = sheet.rows[row].cells
    bad = replace(changed(changed(sheet, row, first, cells[second]), row, second, cells[first]), best=None)
    (text, *_) = check(bad)
    assert f"row {row}, {one.group}: {one.metric.name}" in text and "is above" in text


@given(tables(), st.data())
def test_the_best_row_is_best_but_exactly_where_it_is_said_not_to_be(sheet: Sheet, data: st.DataObject) -> None:
    column = data.draw(st.integers(1, len(sheet.columns) - 1))
    winner, best = sheet.rows[0], sheet.rows[-1]
    value = best.cells[column].published
    assert value is not None
    ahead = changed(sheet, 0, column, Cell(value + 1e-4, Measured()))
    excepted = frozenset({place(sheet, column)})

    def about_best(text: str) -> bool:
        return "best" in text

    (text,) = filter(about_best, check(ahead))
    assert f"{winner.name} is" in text and best.name in text
    assert not any(map(about_best, check(replace(ahead, best_but=excepted))))
    (text,) = check(replace(sheet, best_but=excepted))
    assert "best_but names" in text and "is best" in text
    tied = changed(sheet, 0, column, Cell(value, Measured()))
    assert not any(map(about_best, check(tied))), "ties count as best"
    misprint = replace(ahead, misprints=frozenset({(winner.name, *place(sheet, column))}))
    assert not any(map(about_best, check(misprint)))


@given(tables())
def test_costs_of_the_best_row_may_be_any_and_be_named(sheet: Sheet) -> None:
    """Its Params are the most here; a paper's best is said of quality."""
    assert check(replace(sheet, best_but=frozenset({("", "Params")}))) == []
    cheap = replace(sheet, best="row 0", best_but=frozenset({place(sheet, i) for i in range(1, len(sheet.columns))}))
    assert check(cheap) == []
    assert any("best_but names Params" in text for text in check(replace(cheap, best_but=frozenset({("", "Params")}))))


@given(tables(), st.data())
def test_names_that_are_not_there_and_twice_there_are_found(sheet: Sheet, data: st.DataObject) -> None:
    other = data.draw(st.text(min_size=1).filter(lambda text: text not in {row.name for row in sheet.rows}))
    for bad, said in (
        (replace(sheet, best=other), "best: not one row"),
        (replace(sheet, best_but=frozenset({("Set5", other)})), "best_but: there is no column"),
        (replace(sheet, misprints=frozenset({(other, *place(sheet, 1))})), "misprints: there is no cell"),
        (replace(sheet, misprints=frozenset({("row 0", "Set5", other)})), "misprints: there is no cell"),
        (replace(sheet, best=None, best_but=frozenset({place(sheet, 1)})), "best_but without best"),
        (replace(sheet, rows=(*sheet.rows, sheet.rows[0])), "two rows row 0"),
        (replace(sheet, rows=(*sheet.rows, replace(sheet.rows[0], cells=()))), "has 0 cells for"),
        (replace(sheet, title="  "), "an empty title"),
        (replace(sheet, label=""), "an empty label"),
        (replace(sheet, notes=("",)), "an empty note"),
        (replace(sheet, key="one"), "is not PAPER/TABLE"),
        (replace(sheet, rows=()), "no rows"),
    ):
        assert any(said in text for text in check(bad)), said
    double = replace(
        sheet,
        columns=(*sheet.columns, sheet.columns[1]),
        rows=tuple(replace(row, cells=(*row.cells, row.cells[1])) for row in sheet.rows),
    )
    assert any("two columns" in text for text in check(double))


@given(tables())
def test_the_same_name_in_two_groups_is_two_rows(sheet: Sheet) -> None:
    again = replace(sheet, rows=(*sheet.rows, replace(sheet.rows[0], group="other")))
    assert check(again) == []


@given(tables(), st.data())
def test_a_status_that_numbers_contradict_is_found(sheet: Sheet, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(sheet.rows) - 2))
    its = sheet.rows[row]

    def instead(new: Row) -> list[str]:
        return check(replace(sheet, rows=(*sheet.rows[:row], new, *sheet.rows[row + 1 :])))

    assert instead(replace(its, status="cited only")) == [], "costs can be counted of what is not trained here"
    measured = changed(sheet, row, 1, Cell(its.cells[1].published, Measured(30.0))).rows[row]
    (text,) = instead(replace(measured, status="cited only"))
    assert "was measured here" in text
    nowhere = tuple(replace(cell, ours=None) for cell in its.cells)
    (text,) = instead(replace(its, cells=nowhere))
    assert "is said to work here" in text
    empty = replace(its, cells=tuple(Cell() for _ in its.cells), status="cited only")
    (text,) = instead(empty)
    assert "neither a published number" in text


@given(tables())
def test_a_column_of_ours_alone_has_nothing_published(sheet: Sheet) -> None:
    columns = (*sheet.columns[:-1], replace(sheet.columns[-1], ours=True))
    found = check(replace(sheet, columns=columns))
    assert len(found) == len(sheet.rows) and all("column of ours alone" in text for text in found)


def test_an_empty_misprint_is_none() -> None:
    column, cell = Column("x2", METRICS["psnr"], "Set5", "x2"), Cell(None, Measured())
    sheet = Sheet("paper/1", "t", (column,), (Row("a", (cell,)),), "ours", misprints=frozenset({("a", "Set5", "x2")}))
    assert check(sheet) == ["paper/1: a, Set5 / x2: called a misprint, and nothing is printed"]


@pytest.mark.parametrize("levels", [("x2", "x2.5", "x30"), ("sigma5", "sigma15", "sigma100"), ("q100", "q40", "q9")])
def test_levels_are_numbers_not_words(levels: tuple[str, ...]) -> None:
    """x30 is worse than x4; columns without a level, or of a pattern, have no order."""
    columns = [Column(level, METRICS["psnr"], "Set5", level) for level in levels]
    columns += [Column("a", METRICS["psnr"], "Set5", "grbg"), Column("b", METRICS["psnr"], "Set5")]
    row = Row("a", tuple(Cell(value, Measured()) for value in (34.0, 33.0, 20.0, 40.0, 41.0)))
    assert check(Sheet("paper/1", "t", tuple(columns), (row,), "ours")) == []
    turned = replace(row, cells=(row.cells[2], row.cells[1], row.cells[0], *row.cells[3:]))
    assert check(Sheet("paper/1", "t", tuple(columns), (turned,), "ours")) != []


# What these papers print has no mistakes but those that the data names. Tables without costs, which take long to count.
TABLES = [("flexir", flexir, (1, 2, 5, 6)), ("acla", acla, (9, 12)), ("reference", reference, (1,))]


@pytest.mark.parametrize(("paper", "module", "numbers"), TABLES)
def test_the_papers_tables_can_be(paper: str, module: object, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        for sheet in module.TABLES[f"{paper}/{number}"](published(paper), Fake()):  # type: ignore[attr-defined]
            assert check(sheet) == []
