"""TADT's tables: published numbers are the paper's, extractors cost what it prints, rows say how they come about."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynres.cost.counter import count_parameters
from dynres.paths import conf_dir
from dynres.tables import tadt
from dynres.tables.published import network as built
from dynres.tables.sheet import Recipe, Sheet

from .fakes import Fake, cell, demo_runs, published, row, stands, worst_cost

PUBLISHED: Any = published("tadt")
SCALES = ("x2", "x3", "x4")
SETS = {1: ["DIV2K"], 2: ["B100", "Urban100", "Manga109"], 4: ["Urban100"]}


def made(number: int, ours: Fake | None = None) -> Sequence[Sheet]:
    return tadt.TABLES[f"tadt/{number}"](PUBLISHED, ours or Fake())


@pytest.fixture(scope="module")
def costs() -> Sequence[Sheet]:
    """Table 3 without NLSA, which is counted at thirty sizes, and Figure 2."""
    content = deepcopy(PUBLISHED)
    del content["table3"]["rows"]["NLSA"]
    return tadt.TABLES["tadt/3"](content, Fake())


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("number", SETS)
def test_every_published_number_has_its_cell(number: int) -> None:
    table, sheets = PUBLISHED[f"table{number}"], made(number)
    blocks = list(table["rows"].values()) if number < 4 else [table["rows"]]
    blocks += [table["others"]] if "others" in table else []
    assert len(sheets) == len(blocks)
    for sheet, block in zip(sheets, blocks, strict=True):
        assert [row.name for row in sheet.rows] == list(block)
        assert list(dict.fromkeys(column.group for column in sheet.columns)) == SETS[number]
        for name, sets in block.items():
            for dataset, scales in sets.items():
                for scale, value in scales.items():
                    assert cell(sheet, name, scale, dataset).published == value


@pytest.mark.parametrize(
    ("number", "part", "name", "column", "group", "value"),
    [
        (1, 0, "EDSR-baseline", "x30", "DIV2K", 20.37),
        (1, 1, "TADT", "x2", "DIV2K", 35.28),
        (1, 1, "NLSA†", "x2", "DIV2K", None),
        (2, 0, "RCAN†", "x8", "Manga109", 24.5),
        (2, 2, "Baseline", "x6", "Urban100", 24.67),
        (2, 3, "EQSR (CVPR'2023)", "x6", "Manga109", 27.97),
        (2, 3, "LIRCAN (IJCAI'2023)", "x8", "B100", None),
        (4, 0, "beta = 0.25s", "x8", "Urban100", 23.24),
        (5, 0, "TADT, w/o L_beta", "x3 MACs", "DIV2K", 3378.02),
        (5, 0, "TADT, w L_beta", "x4 PSNR", "DIV2K", 29.54),
    ],
)
def test_numbers_are_those_of_the_paper(
    number: int, part: int, name: str, column: str, group: str, value: float | None
) -> None:
    assert cell(made(number)[part], name, column, group).published == value


def test_the_text_of_section_4_3_follows_from_table_5() -> None:
    """Without the loss: 0.02 dB and 388.75 G more at x2."""
    with_loss, without = (PUBLISHED["table5"]["rows"][f"TADT, {w} L_beta"]["DIV2K"]["x2"] for w in ("w", "w/o"))
    assert np.subtract(without, with_loss) == pytest.approx([0.02, 388.75])


# ------------------------------------------------------------------------------------------------------------ costs


def test_extractors_cost_what_is_published(costs: Sequence[Sheet]) -> None:
    """Parameters, and MACs at three scales over the validation set: within half a per cent, RCAN the worst."""
    assert 0.002 < worst_cost(costs) < 0.005
    exact = [sheet for sheet in deepcopy(costs) if sheet.title.startswith("Figure")]
    assert worst_cost(exact) < 1e-5
    reached = [one for row in costs[0].rows for one in row.cells if one.reachable and one.difference is not None]
    assert len(reached) == 4 * 6 - 4, "all of six networks but MACs of TADT, and CAT-R-2's at x2"


def test_nlsa_costs_what_is_published() -> None:
    """At x4: all images are as wide, and MACs grow evenly with the height to 1e-5, so that two heights tell."""
    table = PUBLISHED["table3"]
    assert tadt.line("nlsa") is None, "its chunks of 144 pixels are no line"
    mean = np.average([*table["short_sides"]], weights=[*table["short_sides"].values()]) / 4
    ends = [min(table["short_sides"]) // 4, max(table["short_sides"]) // 4]
    macs = np.interp(mean, ends, [tadt.full_macs("nlsa", height, 510) / 1e9 for height in ends])
    assert macs == pytest.approx(table["rows"]["NLSA"]["x4"], rel=1e-4)
    assert count_parameters(tadt.extractor("nlsa")) / 1e6 == pytest.approx(table["rows"]["NLSA"]["params"], abs=0.005)


@pytest.mark.parametrize("network", ["rdn", "swinir", "tadt"])
def test_macs_from_a_line_are_those_of_the_counter(network: str) -> None:
    """At a size that no padding fits: of TADT, whose controller sees the image unpadded, there is no line."""
    assert tadt.full_macs(network, 345, 511) == tadt.extractor(network).cost(345, 511).full
    assert (tadt.line(network) is None) == (network == "tadt")


def test_what_cannot_be_reproduced_is_said(costs: Sequence[Sheet]) -> None:
    sheet, group = costs[0], "FLOPs (G)"
    odd = cell(sheet, "CAT-R-2", "x2", group)
    assert (odd.reachable, odd.comparable, odd.difference) == (False, False, None)
    assert ("CAT-R-2", group, "x2") in sheet.misprints and "1020 x 678" in row(sheet, "CAT-R-2").remark
    assert tadt.full_macs("cat_r_2", 678, 1020) / 1e9 == pytest.approx(odd.published, abs=0.005)
    assert all(cell(sheet, "CAT-R-2", scale, group).reachable for scale in ("x3", "x4"))


def test_rcan_with_the_convolution_of_the_remark_is_the_published_one() -> None:
    backbone = built(("method=assr", "backbone=rcan", "backbone.extra_conv=true")).backbone
    more = count_parameters(backbone) - count_parameters(tadt.extractor("rcan"))
    assert more == 9 * 64**2 + 64
    counted, line = tadt.mean_gmacs("rcan", PUBLISHED["table3"], 2)[1], tadt.line("rcan")
    assert line is not None
    macs = counted * (1 + 9 * 64**2 / line[0])
    assert macs == pytest.approx(PUBLISHED["table3"]["rows"]["RCAN"]["x2"], rel=1e-6)


def test_macs_of_tadt_are_a_range_that_holds_the_published_ones(costs: Sequence[Sheet]) -> None:
    """From 76.7 % of the Baseline, with no branch, to the Baseline and its controller."""
    (table5,) = made(5)
    for scale in SCALES:
        baseline = cell(costs[0], "Baseline", scale).ours
        cells = [cell(costs[0], "TADT", scale)]
        cells += [cell(table5, name, f"{scale} MACs") for name in PUBLISHED["table5"]["rows"]]
        for one in cells:
            assert one.ours is not None and baseline is not None and one.published is not None
            low, high = one.ours.value, one.ours.top
            assert low is not None and high is not None and baseline.value is not None
            assert low < one.published < high and not one.reachable and not one.comparable
            assert low / baseline.value == pytest.approx(0.767, abs=0.002)
            assert high / baseline.value == pytest.approx(1.001, abs=0.0002)


def test_a_trained_network_says_what_it_spent() -> None:
    name = "TADT, w L_beta"
    (sheet,) = made(5, Fake({(name, "DIV2K", "x2", "gmacs"): 7000.0, (name, "DIV2K", "x2", "psnr"): 35.2}))
    spent = cell(sheet, name, "x2 MACs")
    assert spent.difference == pytest.approx(13.09) and not spent.reachable
    assert cell(sheet, name, "x2 PSNR").difference == pytest.approx(-0.08)
    other = cell(sheet, "TADT, w/o L_beta", "x2 MACs").ours
    assert other is not None and other.top is not None


# ------------------------------------------------------------------------------------------------------------- rows


def test_every_row_works_here_or_is_cited_only() -> None:
    cited = {row.name for number in SETS for sheet in made(number) for row in sheet.rows if row.status == "cited only"}
    assert cited == {"LIRCAN (IJCAI'2023)", "EQSR (CVPR'2023)"}


def asked(number: int) -> Fake:
    ours = Fake()
    made(number, ours)
    return ours


def test_tadt_starts_from_the_baseline_under_the_same_upsampler() -> None:
    for head, upsampler in (("MetaSR", "metasr"), ("LIIF", "liif"), ("LTE", "lte")):
        found = asked(1).systems()[f"{head}/TADT"].recipe
        assert found is not None
        assert found("x2") == Recipe(
            (f"+experiment=tadt_{upsampler}",), start=Recipe((f"+experiment=baseline_{upsampler}",))
        )
    for number in (4, 5):
        for system in asked(number).systems().values():
            assert system.recipe is not None
            assert system.recipe("x2").start == Recipe(("+experiment=baseline_liif",))


def test_recipes_name_what_there_is(tmp_path: Path) -> None:
    """Their choices are files of conf/; one of each kind is composed and checked in the paper's size."""
    found = [
        s.recipe("x2") for number in (1, 2, 4, 5) for s in asked(number).systems().values() if s.recipe is not None
    ]
    recipes = {*found, *(one.start for one in found if one.start is not None)}
    assert len(recipes) == 28
    for override in {override for recipe in recipes for override in recipe.overrides}:
        group, name = override.lstrip("+").split("=")
        assert (conf_dir() / group / f"{name}.yaml").is_file(), override
    (weights := tmp_path / "some.ckpt").touch()
    for name, upsampler in (("RDN", "LTE"), ("TADT", "LIIF")):
        assert stands(tadt.recipe(name, upsampler), weights).trainer.max_steps == 1_000_000
    stands(Recipe(tadt.OTHERS["ArbSR (ICCV'2021)"]), weights)


def test_the_demo_stands_for_rows_under_liif_alone() -> None:
    demo = {name: system.demo for number in (1, 2) for name, system in asked(number).systems().items() if system.demo}
    assert demo == {"LIIF/EDSR-baseline": "edsr_baseline", "LIIF/Baseline": "baseline", "LIIF/TADT": "tadt"}
    ablations = {system.demo for number in (4, 5) for system in asked(number).systems().values()}
    assert ablations | set(demo.values()) <= demo_runs("tadt")
    assert len(ablations) == 4


def test_the_demos_columns_stand_where_it_has_rows() -> None:
    sheets = made(1, Fake({("TADT", "photographs", "x2", "psnr"): 31.0}, own=[("photographs", "x2")]))
    assert [any(column.ours for column in sheet.columns) for sheet in sheets] == [False, True, False]
    ours = cell(sheets[1], "TADT", "x2", "photographs: ours").ours
    assert ours is not None and ours.value == 31
    assert cell(sheets[1], "TADT", "x2", "DIV2K").ours is None
