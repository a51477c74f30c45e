"""Lightweight SwinIR's published tables: counts are what our networks have, cells are what a paper can print, runs find
their rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from dynres.build import compose_checked
from dynres.tables import __main__ as command
from dynres.tables import lightweight_swinir as tables
from dynres.tables.common import published_config

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "experiments" / "lightweight_swinir" / "published.yaml"
PUBLISHED: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SYSTEMS = PUBLISHED["table1"]["systems"]


def counted(system: dict[str, Any]) -> dict[str, int]:
    """Parameters, and MACs of one window."""
    return tables.costs((8, 8), 2.0, *tables.remaining(system))


# ------------------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("C", 11_752_487),
        ("L", 910_152),
        ("KD 0.25", 910_152 + 5 * 60),
        ("Pruning(MLP) 0.25", 10_582_847),
        ("Pruning(MLP) 0.5", 9_413_207),
        ("Pruning(MLP) 0.75", 8_243_567),
        ("Pruning(MLP+Attention) 0.25", 9_411_587),
        ("Pruning(MLP+Attention) 0.5", 7_070_687),
        ("Pruning(MLP+Attention) 0.75", 4_729_787),
    ],
)
def test_parameters_are_exact(name: str, count: int) -> None:
    assert counted(SYSTEMS[name])["params"] == count
    if SYSTEMS[name]["params"] is not None:
        assert count / 1e3 == pytest.approx(SYSTEMS[name]["params"], rel=2.5e-4), "the text prints another number"


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "Pruning" in name])
def test_a_cut_leaves_what_the_rate_says(name: str) -> None:
    """361 parameters for an MLP's channel, 723 for an attention's, of 36 layers with 360 and 180 (Sec. 4.3.2)."""
    rate, scope = (SYSTEMS[name]["method"][option] for option in ("rate", "scope"))
    channels = 36 * 360 * 361 + (36 * 180 * 723 if scope == "mlp_msa" else 0)
    assert counted(SYSTEMS[name])["params"] == 11_752_487 - rate * channels


def test_the_count_does_not_depend_on_which_layers_lose_how_much() -> None:
    even = SYSTEMS["Pruning(MLP+Attention) 0.5"]
    front = even | {"left": {"mlp_widths": [1] * 18 + [359] * 18, "head_widths": [1] * 18 + [29] * 18}}
    assert counted(front) == counted(even)


def test_the_student_of_the_text_has_other_counts_than_the_text() -> None:
    student = {"network": [*SYSTEMS["L"]["network"], "backbone.depths=[4,4,4,4]"]}
    assert counted(student)["params"] == 663_672


def test_macs_are_those_of_the_convolutions_linears_and_attentions() -> None:
    """By hand, for the classical network and for its smallest remainder, on one window."""
    c, heads, layers, pixels = 180, 6, 36, 64

    def macs(mlp: float, head: float) -> float:
        inner = heads * head
        layer = 4 * c * inner + 2 * 64 * inner + 2 * c * mlp  # projections, two products with 64 keys, MLP
        body = 9 * (3 * c + 7 * c * c + c * 64) + layers * layer
        return pixels * (body + 9 * 64 * 256 + 4 * 9 * 64 * 3)

    for name, mlp, head in (("C", 360, 30), ("Pruning(MLP+Attention) 0.75", 90, 7.5)):
        assert counted(SYSTEMS[name])["macs"] == macs(mlp, head)


# -------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("key", ["table1", "table2"])
def test_every_row_has_a_system_and_cells_that_can_be(key: str) -> None:
    table = PUBLISHED[key]
    assert table["rows"].keys() == table["systems"].keys()
    for name, datasets in table["rows"].items():
        assert datasets.keys() == {"Manga109", "Urban100"}
        assert all(20 < psnr < 30 and 0.5 < ssim < 1 for psnr, ssim in datasets.values()), name
        identities = [tables.row_identity(table, other) for other in table["rows"]]
        assert len(set(identities)) == len(identities), "a run would belong to two rows"


def test_what_the_paper_says_of_its_numbers_follows_from_them() -> None:
    """Sec. 1, 4.3 and 5.1: differences to the classical and to the lightweight network, in dB and SSIM."""
    rows = PUBLISHED["table1"]["rows"]

    def below(name: str, base: str, metric: int = 0) -> list[float]:
        return [rows[base][one][metric] - rows[name][one][metric] for one in ("Manga109", "Urban100")]

    assert below("L", "C") == pytest.approx([0.51, 0.42])
    assert below("KD 0.25", "C") == pytest.approx([0.15, 0.29])
    assert below("KD 0.25", "L") == pytest.approx([-0.36, -0.13])
    assert sum(below("KD 0.25", "L", 1)) / 2 == pytest.approx(-0.01, abs=5e-4)
    assert sum(below("Pruning(MLP+Attention) 0.25", "C")) / 2 == pytest.approx(0.37, abs=0.006)
    assert sum(below("Pruning(MLP+Attention) 0.25", "C", 1)) / 2 == pytest.approx(0.02, abs=5e-4)
    assert sum(below("Pruning(MLP) 0.25", "C")) / 2 == pytest.approx(0.175), "0.22 in Sec. 1"


def test_the_two_tables_share_a_row() -> None:
    first, second = PUBLISHED["table1"]["rows"], PUBLISHED["table2"]["rows"]
    assert first["Pruning(MLP+Attention) 0.25"] == second["gamma = 1e-5"]
    names = [("table1", "Pruning(MLP+Attention) 0.25"), ("table2", "gamma = 1e-5")]
    assert len({tables.row_identity(PUBLISHED[key], name) for key, name in names}) == 1


# -------------------------------------------------------------------------------------------------------------- runs


def finish(folder: Path, cfg: Any, metrics: dict[str, Any], profile: str = "paper") -> None:
    """A finished run as `dynres.run` leaves it."""
    folder.mkdir(parents=True)
    cfg.experiment_name = "any"
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    summary = {"experiment": "any", "profile": profile, "metrics": metrics}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@cache
def composed(*network: str) -> Any:
    return published_config(network)


def row_config(name: str, change: Mapping[str, Any] | None = None, key: str = "table1") -> Any:
    """The configuration of a run of a row, perhaps changed."""
    system = PUBLISHED[key]["systems"][name]
    cfg = deepcopy(composed(*system["network"]))
    options = {f"method.{option}": value for option, value in system["method"].items()}
    options |= {f"data.{option}": value for option, value in PUBLISHED[key]["trained"].items()}
    for option, value in (options | dict(change or {})).items():
        OmegaConf.update(cfg, option, value, force_add=True)
    return cfg


def measures(psnr: float, protocol: str = "benchmark", dataset: str = "Manga109") -> dict[str, Any]:
    return {dataset: {"x2": {"psnr": psnr, "ssim": 0.9, "psnr_b": None, "protocol": protocol}}}


def table_of(runs: Path, key: str, *names: str) -> dict[str, list[str]]:
    """Some rows of a table, counted on one small image: the cells behind a row's name."""
    table = PUBLISHED[key] | {"rows": {name: PUBLISHED[key]["rows"][name] for name in names}, "size": [8, 8]}
    return {row[0]: row[1:] for row in tables.rows(table, tables.measured(runs))}


def shown(runs: Path, name: str) -> Mapping[str, float | None]:
    """What Table 1 shows of runs beside a row's published numbers on Manga109."""
    table = PUBLISHED["table1"]
    where = (tables.row_identity(table, name), "Manga109", table["level"], table["protocol"])
    return tables.measured(runs).get(where, {})


def test_a_run_belongs_to_the_row_of_its_network_and_options(tmp_path: Path) -> None:
    finish(tmp_path / "c", row_config("C"), measures(31.0))
    finish(tmp_path / "kd", row_config("KD 0.5"), measures(32.0, dataset="Urban100"))
    finish(tmp_path / "cut", row_config("Pruning(MLP+Attention) 0.25"), measures(33.0))
    finish(tmp_path / "cut4", row_config("gamma = 1e-4", key="table2"), measures(34.0))
    named = ("C", "L", "KD 0.25", "KD 0.5", "Pruning(MLP) 0.25", "Pruning(MLP+Attention) 0.25")
    first = table_of(tmp_path, "table1", *named)
    assert first["C"] == ["28.41/0.9088 | 31.00/0.9000", "27.46/0.9135 | -", "11,750", "11,752,487 (+0.02%)", "0.8"]
    assert first["KD 0.5"][:2] == ["27.37/0.9072 | -", "26.13/0.8567 | 32.00/0.9000"]
    assert first["Pruning(MLP+Attention) 0.25"][:3] == ["27.62/0.9139 | 33.00/0.9000", "27.52/0.8691 | -", "-"]
    assert all(cell.endswith("| -") for name in ("L", "KD 0.25", "Pruning(MLP) 0.25") for cell in first[name][:2])
    second = table_of(tmp_path, "table2", *PUBLISHED["table2"]["rows"])
    assert [row[1] for row in second.values()] == ["27.62/0.9139 | 33.00/0.9000", "26.69/0.9053 | 34.00/0.9000"]


def test_a_student_without_the_teachers_part_is_the_plain_one(tmp_path: Path) -> None:
    finish(tmp_path / "plain", row_config("L", {"method.weight": 0, "method.features": 0.0}), measures(30.0))
    assert shown(tmp_path, "L")["psnr"] == 30


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("KD 0.25", {"method.weight": 0.3}),
        ("KD 0.25", {"method.features": 0.1}),
        ("KD 0.25", {"backbone.depths": [4, 4, 4, 4]}),
        ("Pruning(MLP) 0.25", {"method.ranking": "layer"}),
        ("Pruning(MLP) 0.25", {"method.sparsity": 1e-3}),
        ("C", {"data.reduce": 1, "data.fraction": 1.0}),
        ("C", {"data.fraction": 1.0}),
    ],
)
def test_a_run_that_differs_in_one_option_is_not_shown(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    finish(tmp_path / "other", row_config(name, change), measures(31.0))
    assert shown(tmp_path, name) == {}
    finish(tmp_path / "same", row_config(name), measures(32.0))
    assert shown(tmp_path, name)["psnr"] == 32


def test_runs_of_other_profiles_and_protocols_are_not_shown(tmp_path: Path) -> None:
    finish(tmp_path / "demo", row_config("C"), measures(31.0), profile="demo")
    finish(tmp_path / "rgb", row_config("C"), measures(31.0, protocol="div2k"))
    assert shown(tmp_path, "C") == {}


def test_without_its_configuration_nobody_knows_the_row_of_a_run(tmp_path: Path) -> None:
    finish(tmp_path / "lost", row_config("C"), measures(31.0))
    assert shown(tmp_path, "C")["psnr"] == 31
    (tmp_path / "lost" / "config.yaml").unlink()
    assert shown(tmp_path, "C") == {}


@pytest.mark.parametrize(
    ("experiment", "options", "name"),
    [
        ("swinir_kd", ["method.weight=0.25"], "KD 0.25"),
        ("swinir_kd", ["method.weight=0", "backbone=swinir_lightweight"], "L"),
        ("swinir_kd", ["method.weight=0", "backbone=swinir", "upsampler=pixelshuffle"], "C"),
        ("swinir_prune", ["method.rate=0.5", "method.scope=mlp"], "Pruning(MLP) 0.5"),
        ("swinir_prune", ["method.rate=0.75", "method.scope=mlp_msa"], "Pruning(MLP+Attention) 0.75"),
    ],
)
def test_the_experiments_are_the_rows(experiment: str, options: list[str], name: str) -> None:
    """So the commands of the README fill the table."""
    cfg = compose_checked([f"+experiment={experiment}", "profile=paper", *options])
    assert tables.run_identity(cfg) == tables.row_identity(PUBLISHED["table1"], name)


def test_the_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["dynres.tables", "--runs", str(tmp_path), "--table", "lightweight_swinir/2"])
    command.main()
    text = (tmp_path / "tables" / "lightweight_swinir_2.md").read_text(encoding="utf-8")
    assert "| system | Urban100 | Manga109 | k params | ours: params | GMACs at 1280 x 720 |" in text
    assert "| gamma = 1e-4 | 25.06/0.8256 / - | 26.69/0.9053 / - | - | 9,411,587 | 2,286.6 |" in text
