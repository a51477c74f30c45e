"""AnySR's tables: what the authors' code costs is what ours does; rows of its subnets, and how they come about."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from dynres.tables import anysr
from dynres.tables.published import network as built
from dynres.tables.sheet import Recipe, Sheet

from .fakes import Fake, cell, demo_runs, published, row, stands, worst_cost

PUBLISHED: Any = published("anysr")
SYSTEMS = PUBLISHED["costs"]["systems"]
GATES = {
    "EDSR-baseline": [0.14, 0.28],
    "RDN": [0.76, 1.11],
}  # M an image, smallest and largest subnet: as known at first


@pytest.fixture(scope="module")
def costs() -> Sequence[Sheet]:
    return anysr.TABLES["anysr/1"](PUBLISHED, Fake())


# ------------------------------------------------------------------------------------------------------------ costs


def test_every_scale_costs_what_it_does_in_the_authors_code(costs: Sequence[Sheet]) -> None:
    """To the last MAC; only the shares are published rounded."""
    by_scale, parameters = costs
    assert len(by_scale.rows) == 8 and all(group.status == "works here" for group in by_scale.rows)
    for group in by_scale.rows:
        for column, one in zip(by_scale.columns, group.cells, strict=True):
            assert one.difference is not None and one.published is not None
            assert abs(one.difference) <= (0.05 if column.metric.unit == "%" else 0), (group.name, column.name)
    assert [one.difference for system in parameters.rows for one in system.cells] == [0] * 4
    assert worst_cost(costs) < 1e-3


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_published_counts_follow_from_channels(system: str) -> None:
    """The narrow layer of every block has 64 w channels, rounded down; gates as the note in the data says."""
    groups, wide = SYSTEMS[system]["groups"], 2 if system == "RDN" else 1
    for group in groups:
        assert group["channels"] == int(64 * group["width"])
        told = wide * group["channels"]
        assert group["gates"] == 16 * ((told + 2 * (told // 16)) * 128 * wide + 128 * wide * told)
        assert group["share"] == pytest.approx(100 * group["macs"] / groups[-1]["macs"], abs=0.05)
    assert [round(group["gates"] / 1e6, 2) for group in (groups[0], groups[-1])] == GATES[system]
    macs = [group["macs"] for group in groups]
    assert macs == sorted(macs)


def test_what_the_note_says_of_the_whole_network_follows() -> None:
    """The authors' upsampler beside the subnets of x2 and x3, in percent; ours takes less."""
    (note,) = [note for note in PUBLISHED["costs"]["notes"] if "SRNO" in note]
    assert "806,144 MACs an output pixel" in note
    for name, system in SYSTEMS.items():
        macs = [group["macs"] for group in system["groups"]]
        for scale, step in ((2, 1), (3, 2)):
            saved = (macs[-1] - macs[step]) / (macs[-1] + scale**2 * 806_144)
            assert f"{saved:.1%}" in note, (name, scale, saved)
    network = built(("method=assr", "backbone=anysr_edsr", "upsampler=srno"))
    assert 0.6 * 806_144 < network.upsampler.macs(48, 48, (96, 96)) / 96**2 < 806_144


def test_a_network_that_costs_more_or_runs_another_subnet_is_seen() -> None:
    content = deepcopy(PUBLISHED)
    del content["costs"]["systems"]["RDN"]
    first, second, *_ = content["costs"]["systems"]["EDSR-baseline"]["groups"]
    first["macs"] -= 100
    second["scales"] = [1.7, 2.6]
    sheet, _ = anysr.TABLES["anysr/1"](content, Fake())
    assert cell(sheet, "x1.1 to x1.7", "a pixel").difference == 100
    mixed = row(sheet, "x1.7 to x2.6").cells
    assert all(one.ours is not None and one.ours.note == "different subnets: x1.7: 1, x2.6: 3" for one in mixed)
    assert all(one.difference is None for one in mixed)
    assert cell(sheet, "x2.6 to x3.2", "a pixel").difference == 0


# ---------------------------------------------------------------------------------------------------------- quality


def asked(ours: Fake) -> Sequence[Sheet]:
    return anysr.TABLES["anysr/2"](PUBLISHED, ours)


def test_each_test_set_has_a_sheet_of_all_systems_and_nothing_is_published() -> None:
    numbers = {("AnySR-SRNO†", "Set5", "x2", "psnr"): 37.9, ("AnySR-SRNO‡", "Set5", "x2", "psnr"): 38.0}
    sheets = asked(Fake(numbers))
    assert [sheet.columns[0].group for sheet in sheets] == ["Set5", "Set14", "B100", "Urban100", "Manga109"]
    assert all(column.ours for sheet in sheets for column in sheet.columns)
    assert all(one.published is None for sheet in sheets for line in sheet.rows for one in line.cells)
    groups = list(dict.fromkeys(line.group for line in sheets[0].rows))
    assert groups == [f"{one['extractor']} + {one['upsampler']}" for one in PUBLISHED["quality"]["systems"]]
    found = [line.cells[0].ours for line in sheets[0].rows if line.group == "EDSR-baseline + SRNO"]
    assert [one and one.value for one in found] == [None, 37.9, 38.0, None, None]


def test_the_demo_has_its_own_systems_with_their_macs() -> None:
    name = "AnySR-LIIF†, not enhanced"
    numbers = {(name, "photographs", "x2", "psnr"): 31.2, (name, "photographs", "x2", "gmacs"): 0.7}
    (sheet,) = asked(Fake(numbers, own=[("photographs", "x2")]))
    assert [column.name for column in sheet.columns] == ["x2 PSNR", "x2 MACs"]
    assert [one.ours and one.ours.value for one in row(sheet, name).cells] == [31.2, 0.7]
    assert len(sheet.rows) == 4


def test_ways_and_runs_of_the_demo_are_there() -> None:
    ours = Fake(own=[("photographs", "x2")])
    asked(ours)
    assert {system.demo for system in ours.systems().values()} <= demo_runs("anysr")
    ways = {system.name: system.way for system in ours.systems().values()}
    assert ways["AnySR-LIIF†"] == "dagger"
    assert ways["AnySR-LIIF‡"] == f"{anysr.extractor('anysr_edsr', True).widths[-1]:g}" == "1"


def test_recipes_start_from_the_plain_network(tmp_path: Path) -> None:
    """Each of them is composed and checked in the paper's size; the network inside is the plain one's."""
    ours = Fake()
    asked(ours)
    (weights := tmp_path / "some.ckpt").touch()
    recipes: set[Recipe] = {system.recipe("x2") for system in ours.systems().values() if system.recipe is not None}
    slimmed = [recipe for recipe in recipes if recipe.start is not None]
    assert len(slimmed) == 6 and len(recipes) == 11
    for recipe in slimmed:
        assert recipe.start is not None
        cfg, plain = stands(recipe, weights), stands(recipe.start, weights)
        assert cfg.backbone.network == plain.backbone and cfg.upsampler == plain.upsampler
        assert cfg.backbone.enhanced == ("backbone.enhanced=false" not in recipe.overrides)
