"""Reference rows: one sheet a protocol, networks whose weights are public."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynres.cost.counter import count_parameters
from dynres.tables import reference
from dynres.tables.published import network
from dynres.tables.rows import systems

from .fakes import Fake, cell, published, stands

PUBLISHED: Any = published("reference")


def test_each_protocol_has_its_sheet() -> None:
    ours = Fake({("DnCNN", "Set12", "sigma25", "psnr"): 30.4316, ("VDSR", "Set5", "x2", "psnr"): 37.48})
    denoising, enlargement = reference.TABLES["reference/1"](PUBLISHED, ours)
    assert {(asked[3], asked[2][0]) for asked in ours.asked} == {("denoise", "s"), ("benchmark", "x")}
    dncnn = cell(denoising, "DnCNN", "sigma25", "Set12")
    assert dncnn.published == 30.436 and abs(dncnn.difference or 1) < 0.05
    assert cell(denoising, "noisy", "sigma25", "Set12").published is None, "nobody printed it"
    vdsr = cell(enlargement, "VDSR", "x2 PSNR", "Set5")
    assert (vdsr.difference or 1) == 37.48 - 37.53
    assert denoising.key == enlargement.key == "reference/1" and denoising.title != enlargement.title


def test_dncnn_3_has_the_rows_of_jpeg_that_flexir_prints() -> None:
    """So they are not repeated; what both papers and its authors print is the same."""
    assert "DnCNN-3" in published("flexir")["table2"]["rows"]
    assert "classic5" not in PUBLISHED["table1"]["enlargement"]["rows"]["DnCNN-3"]


def test_every_recipe_can_be_run_and_has_the_size_of_the_public_weights(tmp_path: Path) -> None:
    (weights := tmp_path / "a.ckpt").touch()
    sizes = {"DnCNN": 555_137, "DnCNN-B": 665_921, "DnCNN-3": 665_921, "VDSR": 665_921, "noisy": 0}
    for table in PUBLISHED["table1"].values():
        for system in systems(table):
            assert system.recipe is not None
            (level, *_) = dict.fromkeys(level for _, level in system.published)
            recipe = system.recipe(level)
            assert stands(recipe, weights).mode == ("test" if system.name == "noisy" else "fit")
            assert count_parameters(network(recipe.overrides)) == sizes[system.name]
