"""AnySR's tables: what the authors' code costs is what ours does; runs of subnets side by side."""

from __future__ import annotations

import json
import os
import sys
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from dynres.build import compose_checked
from dynres.callbacks.subnets import Point
from dynres.tables import __main__ as command
from dynres.tables import anysr
from dynres.tables.common import published_config, published_network

from .test_flexir_tables import cells

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "experiments" / "anysr" / "published.yaml"
PUBLISHED: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SYSTEMS = PUBLISHED["table1"]["systems"]
LABELS = ("x1.5", "x2", "x4")
WAYS = ("0.5", "0.7", "0.9", "1", "dagger")

# ------------------------------------------------------------------------------------------------------------ costs


@cache
def cost_rows() -> list[list[str]]:
    return list(anysr.cost_rows(PUBLISHED["table1"]))


def test_every_scale_costs_what_it_does_in_the_authors_code() -> None:
    for row in cost_rows():
        _, _, theirs, ours, macs, counted, difference, *_ = row
        assert theirs.startswith(f"{ours} (") and counted == macs and difference == "+0", row
    assert [row[7] for row in cost_rows()] == ["51.6%", "69.7%", "89.4%", "100.0%", "86.6%", "91.3%", "95.3%", "100.0%"]


def test_the_gates_cost_what_the_authors_do() -> None:
    """Once an image; the published counts have two digits. Their means are counted by fvcore alone."""
    for (*_, theirs, ours), means in zip(cost_rows(), (512, 704, 912, 1024, 1408, 1632, 1824, 2048), strict=True):
        once, each = ours.split(" + ")
        assert each == f"{means} a pixel"
        assert theirs == "-" or float(theirs) == pytest.approx(int(once.replace(",", "")) / 1e6, abs=0.005)


@pytest.mark.parametrize("system", SYSTEMS)
def test_channels_are_those_of_the_authors(system: str) -> None:
    """The narrow layer of every block, in each subnet: 64 w, rounded down."""
    for group in SYSTEMS[system]["groups"]:
        assert group["channels"] == int(64 * group["width"])


def test_parameters_are_those_of_the_authors() -> None:
    for name, with_gates, ours, difference, bare, ours_bare, difference_bare, *shifts in anysr.parameter_rows(
        PUBLISHED["table1"]
    ):
        assert (with_gates, difference) == (ours, "+0") and (bare, difference_bare) == (ours_bare, "+0"), name
        assert shifts == ["24", "12"], "theirs are two"


def test_what_the_note_says_of_the_whole_network_follows() -> None:
    """The authors' upsampler beside the subnets of x2 and x3, in percent; ours takes less."""
    (note,) = [note for note in PUBLISHED["table1"]["notes"] if "SRNO" in note]
    assert "806,144 MACs an output pixel" in note
    for name, system in SYSTEMS.items():
        macs = {group["scales"][-1]: group["macs"] for group in system["groups"]}
        for scale, end in ((2, 2.5), (3, 3.2)):
            saved = (macs[6.0] - macs[end]) / (macs[6.0] + scale**2 * 806_144)
            assert f"{saved:.1%}" in note, (name, scale, saved)
    network = published_network(["backbone=anysr_edsr", "upsampler=srno"])
    assert 0.6 * 806_144 < network.upsampler.macs(48, 48, (96, 96)) / 96**2 < 806_144


def test_a_network_that_costs_more_or_runs_another_subnet_is_seen() -> None:
    table = deepcopy(PUBLISHED["table1"])
    del table["systems"]["RDN"]
    first, second, *others = table["systems"]["EDSR-baseline"]["groups"]
    first["macs"] -= 100
    second["scales"] = [1.7, 2.6]
    wrong, mixed, *right = anysr.cost_rows(table)
    assert wrong[6] == f"{100 * 48 * 48:+,}"
    assert mixed[3] == "0.5, 0.9" and len(mixed[6].split(", +")) == 2
    assert all(row[6] == "+0" for row in right) and len(right) == len(others)


# -------------------------------------------------------------------------------------------------------------- runs


@cache
def composed(*overrides: str) -> Any:
    return compose_checked(["backbone=anysr_edsr", "upsampler=liif", "method=assr", "profile=demo", *overrides])


def finish(folder: Path, psnr: float, *overrides: str, age: int = 0, dataset: str = "demo", **more: Any) -> None:
    """A finished run whose subnets gain 0.1 dB a width over the first one's `psnr`, at each scale."""
    cfg = deepcopy(more.pop("cfg", None) or composed(*overrides))
    cfg.experiment_name = "any"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    summary = {"experiment": "anysr_edsr_liif", "profile": cfg.profile_name, "seed": cfg.seed, "metrics": {}}
    (folder / "summary.json").write_text(json.dumps(summary | more), encoding="utf-8")
    lines = ["dataset,label,way,psnr,psnr_plain,fraction"]
    for label in LABELS:
        picked = {"x1.5": 0, "x2": 1, "x4": 3}[label]
        for step, way in enumerate(WAYS):
            step = picked if way == "dagger" else step
            value = "" if psnr == 0 else f"{psnr + 0.1 * step}"
            lines.append(f"{dataset},{label},{way},{value},{'' if psnr == 0 else 30.0},{0.5 + 0.125 * step}")
    path = folder / "subnets.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    os.utime(path, (age, age))


def written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Table 2 as the command writes it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["dynres.tables", "--runs", str(runs), "--table", "anysr/2"])
    command.main()
    return (runs / "tables" / "anysr_2.md").read_text(encoding="utf-8")


def test_a_run_with_enhancement_and_one_without_make_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path / "old", 20.0, age=1)
    finish(tmp_path / "new", 31.0, age=2)
    finish(tmp_path / "without", 30.5, "backbone.enhanced=false", age=3)
    text = written(tmp_path, monkeypatch)
    assert text.count("## Table 2: anysr_edsr_liif under LIIF, profile demo, seed 0: demo") == 1
    assert cells(text, "bicubic")[1:] == ["30.00"] * 3
    assert cells(text, "†")[1:] == ["31.00", "31.10", "31.30"]
    assert cells(text, "‡")[1:] == ["31.30", "31.30", "31.30"]
    assert cells(text, "† without enhancement")[1:] == ["30.50", "30.60", "30.80"]
    assert cells(text, "‡ without enhancement")[1:] == ["30.80"] * 3
    assert cells(text, "† gains by enhancement")[1:] == ["+0.50"] * 3
    assert cells(text, "MACs of †, of ‡")[1:] == ["50.0%", "62.5%", "87.5%"]


@pytest.mark.parametrize("enhanced", [True, False])
def test_what_no_run_has_is_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enhanced: bool) -> None:
    finish(tmp_path / "run", 31.0, f"backbone.enhanced={str(enhanced).lower()}")
    text = written(tmp_path, monkeypatch)
    there, missing = ("", " without enhancement")[:: 1 if enhanced else -1]
    assert cells(text, f"†{there}")[1:] == ["31.00", "31.10", "31.30"]
    for row in (f"†{missing}", f"‡{missing}", "† gains by enhancement"):
        assert cells(text, row)[1:] == ["-"] * 3
    assert cells(text, "bicubic")[1:] == ["30.00"] * 3 and cells(text, "MACs of †, of ‡")[1] == "50.0%"
    for system in PUBLISHED["table2"]["systems"]:
        for dataset in PUBLISHED["table2"]["sets"]:
            assert cells(text, system, dataset)[2:] == ["-"] * 6


@pytest.mark.parametrize("other", [["seed=1"], ["upsampler.layers=2"], ["method.learning_rate=1e-4"]])
def test_runs_that_differ_in_more_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: list[str]) -> None:
    finish(tmp_path / "run", 31.0)
    finish(tmp_path / "without", 30.5, "backbone.enhanced=false", *other)
    text = written(tmp_path, monkeypatch)
    assert text.count("| † gains by enhancement | - | - | - |") == 2


def test_tests_of_two_files_are_apart_and_what_a_file_does_not_say_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As network=ckpt describes a file of the authors."""
    for name, psnr in (("one", 31.0), ("other", 32.0)):
        cfg = composed("mode=test", f"ckpt={name}.pth").copy()
        OmegaConf.set_struct(cfg, False)
        del cfg.backbone["enhanced"]
        finish(tmp_path / name, psnr, cfg=cfg)
    text = written(tmp_path, monkeypatch)
    assert "| † | 31.00 | 31.10 | 31.30 |" in text and "| † | 32.00 | 32.10 | 32.30 |" in text
    assert "seed 0, one.pth: demo" in text and "seed 0, other.pth: demo" in text


def test_a_run_of_paper_size_takes_its_system_from_the_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = published_config(PUBLISHED["table2"]["systems"]["RDN + SRNO"])
    finish(tmp_path / "run", 33.0, cfg=cfg, dataset="Set5", experiment="anysr_rdn_srno")
    text = written(tmp_path, monkeypatch)
    assert "## Table 2: anysr_rdn_srno under SRNO, profile paper, seed 0: Set5" in text
    assert "| EDSR-baseline + SRNO | Set14 |" in text and "| RDN + SRNO |" not in text


def test_unfinished_runs_and_photographs_without_originals_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path / "real", 0)
    finish(tmp_path / "unfinished", 31.0, "seed=3")
    (tmp_path / "unfinished" / "summary.json").unlink()
    assert "bicubic" not in written(tmp_path, monkeypatch)


def test_the_columns_read_are_those_that_a_test_writes() -> None:
    assert {"dataset", "label", "way", "psnr", "psnr_plain", "fraction"} <= {field.name for field in fields(Point)}
