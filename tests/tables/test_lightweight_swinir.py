"""Lightweight SwinIR's tables: counts are what our networks have, numbers follow what the text says, recipes stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynres.tables import lightweight_swinir as tables
from dynres.tables.sheet import Sheet

from .fakes import Fake, cell, demo_runs, published, stands, worst_cost

PUBLISHED: Any = published("lightweight_swinir")
ROWS: dict[str, dict[str, list[float]]] = {
    name: cells for rows in PUBLISHED["table1"]["rows"].values() for name, cells in rows.items()
}
COUNTS = {
    "C": 11_752_487,
    "L": 910_152,
    "KD 0.25": 910_152 + 5 * 60,
    "Pruning(MLP) 0.25": 10_582_847,
    "Pruning(MLP) 0.5": 9_413_207,
    "Pruning(MLP) 0.75": 8_243_567,
    "Pruning(MLP+Attention) 0.25": 9_411_587,
    "Pruning(MLP+Attention) 0.5": 7_070_687,
    "Pruning(MLP+Attention) 0.75": 4_729_787,
}


def counted(name: str) -> dict[str, int]:
    """Parameters, and MACs of one window."""
    return tables.counted(tables.MADE[name].network, 8, 8)


def quality_sheet(number: int, ours: Fake | None = None) -> Sheet:
    """Table 1 without its costs, or Table 2."""
    if number == 1:
        return tables.every(PUBLISHED, ours or Fake())
    (sheet,) = tables.TABLES["lightweight_swinir/2"](PUBLISHED, ours or Fake())
    return sheet


# ------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameters_are_exact(name: str, count: int) -> None:
    assert counted(name)["params"] == count
    if name in PUBLISHED["costs"]["params"]:
        printed = PUBLISHED["costs"]["params"][name]
        assert count / 1e3 == pytest.approx(printed, rel=2.5e-4), "the text prints another number"


@pytest.mark.parametrize("name", [name for name in COUNTS if "Pruning" in name])
def test_a_cut_leaves_what_the_rate_says(name: str) -> None:
    """361 parameters for an MLP's channel, 723 for an attention's, of 36 layers with 360 and 180 (Sec. 4.3.2)."""
    channels = 36 * 360 * 361 + (36 * 180 * 723 if "Attention" in name else 0)
    assert counted(name)["params"] == 11_752_487 - float(name.split()[-1]) * channels


def test_the_count_does_not_depend_on_which_layers_lose_how_much() -> None:
    widths = {"mlp_widths": [1] * 18 + [359] * 18, "head_widths": [1] * 18 + [29] * 18}
    front = tables.counted((*tables.CLASSICAL, *(f"backbone.{name}={some}" for name, some in widths.items())), 8, 8)
    assert front == counted("Pruning(MLP+Attention) 0.5")


def test_the_student_of_the_text_has_other_counts_than_the_text() -> None:
    assert tables.counted((*tables.LIGHTWEIGHT, "backbone.depths=[4,4,4,4]"), 8, 8)["params"] == 663_672


def test_macs_are_those_of_the_convolutions_linears_and_attentions() -> None:
    """By hand, for the classical network and for its smallest remainder, on one window."""
    c, heads, layers, pixels = 180, 6, 36, 64

    def macs(mlp: float, head: float) -> float:
        inner = heads * head
        layer = 4 * c * inner + 2 * 64 * inner + 2 * c * mlp  # projections, two products with 64 keys, MLP
        body = 9 * (3 * c + 7 * c * c + c * 64) + layers * layer
        return pixels * (body + 9 * 64 * 256 + 4 * 9 * 64 * 3)

    for name, mlp, head in (("C", 360, 30), ("Pruning(MLP+Attention) 0.75", 90, 7.5)):
        assert counted(name)["macs"] == macs(mlp, head)


def test_the_sheet_of_costs_has_every_row_of_table_1() -> None:
    """Counted on one window, which is quicker than 1280 x 720."""
    costs = dict(PUBLISHED["costs"], size=[8, 8])
    sheet = tables.costs(dict(PUBLISHED, costs=costs))
    assert [row.name for row in sheet.rows] == list(ROWS)
    for name, count in COUNTS.items():
        ours = cell(sheet, name, "parameters").ours
        assert ours is not None and ours.value == count / 1e3
    assert worst_cost([sheet]) == pytest.approx(2.117e-4, rel=1e-3), "C: 11750 k is printed in tens of thousands"
    macs = cell(sheet, "L", "MACs at 16 x 16")
    assert macs.published is None and macs.ours is not None and macs.ours.value == counted("L")["macs"] / 1e9


# -------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("number", [1, 2])
def test_every_published_number_has_its_cell(number: int) -> None:
    rows = ROWS if number == 1 else PUBLISHED["table2"]["rows"]
    sheet = quality_sheet(number)
    assert [row.name for row in sheet.rows] == list(rows)
    assert all(row.status == "works here" for row in sheet.rows)
    for name, datasets in rows.items():
        assert datasets.keys() == {"Manga109", "Urban100"}
        for dataset, numbers in datasets.items():
            found = [cell(sheet, name, column, dataset).published for column in ("x2 PSNR", "x2 SSIM")]
            assert found == numbers


def test_what_the_paper_says_of_its_numbers_follows_from_them() -> None:
    """Sec. 1, 4.3 and 5.1: differences to the classical and to the lightweight network, in dB and SSIM."""

    def below(name: str, base: str, metric: int = 0) -> list[float]:
        return [ROWS[base][one][metric] - ROWS[name][one][metric] for one in ("Manga109", "Urban100")]

    assert below("L", "C") == pytest.approx([0.51, 0.42])
    assert below("KD 0.25", "C") == pytest.approx([0.15, 0.29])
    assert below("KD 0.25", "L") == pytest.approx([-0.36, -0.13])
    assert sum(below("KD 0.25", "L", 1)) / 2 == pytest.approx(-0.01, abs=5e-4)
    assert sum(below("Pruning(MLP+Attention) 0.25", "C")) / 2 == pytest.approx(0.37, abs=0.006)
    assert sum(below("Pruning(MLP+Attention) 0.25", "C", 1)) / 2 == pytest.approx(0.02, abs=5e-4)
    assert sum(below("Pruning(MLP) 0.25", "C")) / 2 == pytest.approx(0.175), "0.22 in Sec. 1"


def test_the_two_tables_share_a_row() -> None:
    assert ROWS["Pruning(MLP+Attention) 0.25"] == PUBLISHED["table2"]["rows"]["gamma = 1e-5"]
    assert tables.MADE["Pruning(MLP+Attention) 0.25"] == tables.MADE["gamma = 1e-5"]


def test_misprints_are_cells() -> None:
    sheet = quality_sheet(1)
    assert len(sheet.misprints) == 4
    for name, dataset, column in sheet.misprints:
        assert cell(sheet, name, column, dataset).published is not None


# -------------------------------------------------------------------------------------------------------------- rows


def test_ours_stand_beside_the_published() -> None:
    name = "KD 0.5"
    numbers = {(name, "Manga109", "x2", "ssim"): 0.91, (name, "photographs", "x2", "psnr"): 30.0}
    assert cell(quality_sheet(1, Fake(numbers)), name, "x2 SSIM", "Manga109").difference == pytest.approx(0.0028)
    sheet = quality_sheet(1, Fake(numbers, own=[("photographs", "x2")]))
    ours = cell(sheet, name, "x2 PSNR", "photographs: ours").ours
    assert ours is not None and ours.value == 30


def test_each_row_of_table_1_has_a_run_in_the_demo() -> None:
    runs = [tables.MADE[name].demo for name in ROWS]
    assert None not in runs and len(set(runs)) == len(runs) and set(runs) <= demo_runs("lightweight_swinir")
    assert [tables.MADE[name].demo for name in PUBLISHED["table2"]["rows"]] == ["msa_025", None]


@pytest.mark.parametrize("name", tables.MADE)
def test_a_recipe_trains_the_row_on_the_papers_images(name: str, tmp_path: Path) -> None:
    """384 images of an eighth, batches of 32 patches (Sec. 4.1-4.2); every network for 500,000 steps in all."""
    (weights := tmp_path / "some.ckpt").touch()
    made = tables.MADE[name]
    cfg = stands(made.recipe, weights)
    assert (cfg.data.reduce, cfg.data.fraction, cfg.data.small) == (8, 0.48, "skip")
    assert (cfg.data.batch_size, cfg.data.lr_size, cfg.task.scale) == (32, 48, 2)
    assert (cfg.method.learning_rate, list(cfg.method.milestones)) == (2e-4, [0.5, 0.8, 0.9, 0.95])
    assert list(cfg.pixels.mean) == [0.4488, 0.4371, 0.4040]
    steps = cfg.trainer.max_steps
    if made.recipe.trained is not None:
        before = stands(made.recipe.trained, weights)
        assert (before.method.scope, before.method.sparsity) == (cfg.method.scope, cfg.method.sparsity)
        steps += before.method.training * before.trainer.max_steps
    assert steps == 500_000
    assert (made.recipe.teacher is not None) == name.startswith("KD")


def test_the_teacher_is_the_classical_network_trained_on_whole_images(tmp_path: Path) -> None:
    (weights := tmp_path / "some.ckpt").touch()
    teacher, classical = stands(tables.TEACHER, weights), stands(tables.MADE["C"].recipe, weights)
    assert teacher.backbone == classical.backbone and teacher.upsampler == classical.upsampler
    assert (teacher.data.reduce, teacher.data.fraction) == (1, 1.0)


def test_options_of_recipes_are_those_of_the_rows() -> None:
    for name, made in tables.MADE.items():
        kind, _, number = name.partition(" ")
        options = dict(override.split("=", 1) for override in made.recipe.overrides)
        if kind == "KD":
            assert options["method.weight"] == number
        if "Pruning" in kind:
            scope = "mlp_msa" if "Attention" in kind else "mlp"
            assert (options["method.rate"], options["method.scope"]) == (number, scope)
            assert (made.recipe.trained is None) == (number == "0.25")
    gammas = [
        dict(o.split("=", 1) for o in tables.MADE[f"gamma = {gamma}"].recipe.overrides) for gamma in ("1e-5", "1e-4")
    ]
    assert [options["method.sparsity"] for options in gammas] == ["1e-5", "1e-4"]
