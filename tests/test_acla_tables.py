"""ACLA's published tables: what can be counted is what our networks have, the rest says why; runs find their rows."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from dynres.build import compose_checked
from dynres.cost.counter import count_parameters
from dynres.tables import __main__ as command
from dynres.tables import acla
from dynres.tables.common import published_config, published_network

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "acla" / "published.yaml").read_text("utf-8"))
COSTS = ("table4", "table5", "table6", "table7", "table8", "table11")
QUALITY = ("table1", "table2", "table3", "table10")
SIZE = (48, 48)
PIXELS, CHANNELS, EDSR = 48 * 48, 256, 40_729_603


@cache
def counted(*network: str) -> tuple[float, float, float]:
    """M parameters; GMACs with no key and with every key."""
    built = published_network(list(network))
    return count_parameters(built) / 1e6, *acla.gmacs(built, SIZE)


def row_count(key: str, name: str, variant: str = "") -> tuple[float, float, float]:
    more = PUBLISHED[key]["variants"][variant] if variant else []
    return counted(*acla.at([*PUBLISHED[key]["rows"][name]["network"], *more], "x2"))


def off(ours: float, published: float) -> float:
    """Per cent."""
    return 100 * (ours / published - 1)


# ------------------------------------------------------------------------------------------------------- counts


def test_edsr_has_the_published_parameters_and_macs() -> None:
    published = PUBLISHED["table4"]["rows"]["EDSR"]
    params, fewest, most = row_count("table4", "EDSR")
    assert round(params * 1e6) == EDSR and round(params, 2) == published["params"]
    assert fewest == most == pytest.approx(93.85, abs=0.005)
    assert off(most, published["macs"]) == pytest.approx(-0.13, abs=0.005)


# Four CLA modules, which refer to 2, 3, 4 and 5 maps: 14 in all. Per cent by which ours are off: parameters, MACs.
@pytest.mark.parametrize(
    ("keys", "params_off", "macs_off"),
    [(4, 0.32, 0.015), (8, 0.31, 0.105), (16, 0.30, 0.30), (32, 0.31, 0.285), (64, 0.325, 0.245)],
)
def test_cla_has_the_published_counts_at_every_number_of_keys(keys: int, params_off: float, macs_off: float) -> None:
    published = PUBLISHED["table7"]["rows"][f"K = {keys}"]
    params, fewest, most = row_count("table7", f"K = {keys}")
    c, own = CHANNELS, CHANNELS * (CHANNELS + 1)
    assert round(params * 1e6) == EDSR + 14 * (own + 3 * keys * (c + 1)) + 4 * own
    added = PIXELS * (14 * (c * c + 3 * keys * c + keys * c) + 4 * c * c) / 1e9
    assert fewest == most == pytest.approx(row_count("table4", "EDSR")[1] + added, abs=1e-6)
    assert -params_off < off(params, published["params"]) < 0
    assert -macs_off < off(most, published["macs"]) < 0


def test_a_convolution_to_half_the_channels_would_give_cla_its_published_parameters() -> None:
    """What the note says of it."""
    half = 4 * CHANNELS // 2 * (CHANNELS + 1) / 1e6
    for name, row in PUBLISHED["table7"]["rows"].items():
        assert abs(off(row_count("table7", name)[0] + half, row["params"])) < 0.025


@pytest.mark.parametrize(
    ("row", "params_off", "macs_off"), [("L = 8", 0.16, 1.14), ("L = 16", 2.43, 3.04), ("L = 32", 4.85, 5.95)]
)
def test_more_cla_modules_grow_faster_than_published(row: str, params_off: float, macs_off: float) -> None:
    published = PUBLISHED["table5"]["rows"][row]
    params, _, most = row_count("table5", row)
    assert off(params, published["params"]) == pytest.approx(params_off, abs=0.006)
    assert off(most, published["macs"]) == pytest.approx(macs_off, abs=0.006)


@pytest.mark.parametrize(
    ("keys", "variant", "percent"),
    [
        (8, "a", 0.03),
        (16, "a", 0.01),
        (32, "a", 0.31),
        (32, "b", 0.09),
        (64, "b", 0.35),
        (64, "c", 0.2),
        (128, "c", 0.66),
    ],
)
def test_acla_has_the_published_parameters_as_one_of_its_variants(keys: int, variant: str, percent: float) -> None:
    params = row_count("table8", f"K = {keys}", variant)[0]
    assert abs(off(params, PUBLISHED["table8"]["rows"][f"K = {keys}"]["params"])) < percent


@pytest.mark.parametrize(("keys", "percent"), [(8, 0), (16, 0), (32, 0), (64, 0.14), (128, 0.6)])
def test_acla_of_four_modules_spends_the_published_macs(keys: int, percent: float) -> None:
    """Between no key and every key: variant c, whose mask units are the smallest; from K = 64 on a little above."""
    published = PUBLISHED["table8"]["rows"][f"K = {keys}"]["macs"]
    _, fewest, most = row_count("table8", f"K = {keys}", "c")
    assert off(fewest, published) < percent and published < most
    every_key = 14 * PIXELS * keys * CHANNELS / 1e9
    assert most - fewest == pytest.approx(every_key, abs=1e-6)


@pytest.mark.parametrize(
    ("key", "row", "params", "macs"),
    [
        ("table4", "NL", 41.782, 107.135),
        ("table4", "CLNL", 42.572, 125.249),
        ("table11", "EDSR + SE", 40.763, 93.85),
        ("table11", "EDSR + ACLA + SE", 42.334, 97.58),
    ],
)
def test_what_cannot_be_reproduced_has_the_counts_of_the_usual_blocks(
    key: str, row: str, params: float, macs: float
) -> None:
    ours = row_count(key, row)
    assert (ours[0], ours[2]) == pytest.approx((params, macs), abs=0.006)


def test_macs_of_a_network_are_a_range_where_keys_are_chosen() -> None:
    """By hand: two modules that refer to 2 and 3 maps of 8 channels, 4 keys each."""
    words = [
        "backbone.channels=8",
        "backbone.blocks=2",
        "backbone.positions=2",
        "backbone.keys=4",
        "backbone.refer_head=true",
    ]
    built = published_network(["task=sr", "backbone=acla_edsr", *words, "upsampler=pixelshuffle"])
    fewest, most = acla.gmacs(built, (6, 5))
    trunk = 9 * (3 * 8 + 5 * 8 * 8)  # the first convolution, two blocks and the last
    modules = 5 * (64 + 3 * 4 * 8 + 4 * 8) + 2 * 64  # values, queries and masks of each map; outputs
    head = 9 * 8 * 32 + 4 * 9 * 8 * 3
    assert fewest * 1e9 == pytest.approx(30 * (trunk + modules + head))
    assert (most - fewest) * 1e9 == pytest.approx(30 * 5 * 4 * 8)


def test_a_figure_without_a_remark_is_near_its_published_one() -> None:
    """Within 0.33 % of parameters and 0.3 % of MACs; all others are printed with a reason."""
    for key in COSTS:
        for name, row in PUBLISHED[key]["rows"].items():
            if "remark" not in row:
                params, _, macs = row_count(key, name)
                assert abs(off(params, row["params"])) < 0.33 and abs(off(macs, row["macs"])) < 0.3, f"{key}, {name}"
    for key in QUALITY:
        for name, system in PUBLISHED[key]["systems"].items():
            if "remark" not in system and None not in (system["params"], system["network"]):
                built = published_network(acla.at(system["network"], acla.scales(PUBLISHED[key])[0]))
                assert abs(off(count_parameters(built) / 1e6, system["params"])) < 0.33, f"{key}, {name}"


def test_what_cannot_be_reproduced_is_named() -> None:
    named = {
        "table4": ("NL", "CLNL"),
        "table5": ("L = 8", "L = 16", "L = 32"),
        "table6": ("CLA-I", "CLA-K"),
        "table8": ("K = 8", "K = 16", "K = 32", "K = 64", "K = 128"),
        "table11": ("EDSR + MHA", "EDSR + SE", "EDSR + ACLA + SE"),
        "table1": ("RCAN+CLA", "RCAN+ACLA"),
        "table2": ("baseline", "CLA", "ACLA"),
        "table3": ("baseline", "CLA", "ACLA"),
        "table10": ("Baseline", "CLA", "ACLA"),
    }
    for key, names in named.items():
        said = [line.split(": ")[0].split("; ") for line in acla.remarks(PUBLISHED[key])]
        assert set(names) <= {name for line in said for name in line}, key


# -------------------------------------------------------------------------------------------------------- data


def test_numbers_that_the_paper_prints_twice_agree() -> None:
    """PSNR at x2 in Tables 1, 4 to 8, 11 and 12; counts of CLA in Tables 4 to 7, of ACLA in Tables 6 and 8."""
    first = PUBLISHED["table1"]["rows"]
    names = {"EDSR + ACLA": "EDSR+ACLA", "CLA": "EDSR+CLA", "ACLA": "EDSR+ACLA", "L = 4": "EDSR+CLA"}
    again = [("table12", name) for name in PUBLISHED["table12"]["rows"] if name != "SAN"]
    again += [("table4", "EDSR"), ("table4", "CLA"), ("table4", "ACLA"), ("table5", "L = 4"), ("table6", "CLA")]
    again += [("table6", "ACLA"), ("table11", "EDSR"), ("table11", "EDSR + ACLA")]
    for key, name in again:
        psnr = [first[names.get(name, name)][dataset]["x2"][0] for dataset in PUBLISHED[key]["tested"]["sets"]]
        assert PUBLISHED[key]["rows"][name]["psnr"] == psnr, f"{key}, {name}"
    cla = [("table4", "CLA"), ("table5", "L = 4"), ("table6", "CLA"), ("table7", "K = 8")]
    for same in (cla, [("table6", "ACLA"), ("table8", "K = 16")]):
        rows = [PUBLISHED[key]["rows"][name] for key, name in same]
        assert len({(row["params"], row["macs"], *row["psnr"]) for row in rows}) == 1


def test_every_cell_has_its_numbers_and_every_system_its_status() -> None:
    for key in QUALITY:
        table = PUBLISHED[key]
        assert table["rows"].keys() == table["systems"].keys()
        rows = list(acla.quality_rows(table, {}))
        assert len({len(row) for row in rows}) == 1
        assert all(cell.endswith("| -") for row in rows for cell in row[2:-1]), "nothing is measured here"
        backbones = {path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml")}
        assert {row[-1] for row in rows} - {"-"} <= backbones
    for key in (*COSTS, "table12"):
        assert all(len(row["psnr"]) == len(PUBLISHED[key]["tested"]["sets"]) for row in PUBLISHED[key]["rows"].values())


# ---------------------------------------------------------------------------------------------------------- runs


def finish(folder: Path, cfg: Any, metrics: dict[str, Any], profile: str = "paper") -> None:
    """A finished run as `dynres.run` leaves it."""
    folder.mkdir(parents=True)
    cfg.experiment_name = "any"
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    summary = {"experiment": "any", "profile": profile, "metrics": metrics}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def at_set5(psnr: float, level: str = "x2", protocol: str = "benchmark") -> dict[str, Any]:
    return {"Set5": {level: {"psnr": psnr, "ssim": 0.9, "psnr_b": None, "protocol": protocol}}}


def some(key: str, *names: str) -> dict[str, Any]:
    """A published table with these rows alone."""
    return PUBLISHED[key] | {"rows": {name: PUBLISHED[key]["rows"][name] for name in names}}


def test_a_run_belongs_to_the_rows_of_its_network(tmp_path: Path) -> None:
    systems = PUBLISHED["table1"]["systems"]
    aclas, clas = (systems[name]["network"] for name in ("EDSR+ACLA", "EDSR+CLA"))
    finish(tmp_path / "a", published_config([*aclas, "task.scale=3"]), at_set5(34.1, "x3"))
    finish(tmp_path / "b", published_config(clas), at_set5(38.0))
    finish(tmp_path / "c", published_config([*aclas, "backbone.keys=32"]), at_set5(37.0))
    table = some("table1", "EDSR+CLA", "EDSR+ACLA")
    results = acla.measured(tmp_path)
    rows = {row[0]: row for row in acla.quality_rows(table, results) if row[1] == "Set5"}
    assert rows["EDSR+ACLA"][2:5] == ["38.31/0.9617 | -", "34.76/0.9303 | 34.10/0.9000", "32.63/0.9003 | -"]
    assert rows["EDSR+CLA"][2:5] == ["38.24/0.9613 | 38.00/0.9000", "34.75/0.9297 | -", "32.64/0.9001 | -"]
    keys = {row[0]: row[-1] for row in acla.cost_rows(some("table8", "K = 32"), results)}
    assert keys == {"K = 32, a": "38.30 | 37.00", "K = 32, b": "38.30 | -", "K = 32, c": "38.30 | -"}


@pytest.mark.parametrize(
    ("experiment", "table", "system", "level"),
    [
        ("acla_edsr_sr", "table1", "EDSR+ACLA", "x3"),
        ("acla_rcan_sr", "table1", "RCAN+ACLA", "x2"),
        ("acla_denoise", "table2", "ACLA", "sigma10"),
        ("acla_car", "table3", "ACLA", "q10"),
        ("acla_demosaic", "table10", "ACLA", "grbg"),
    ],
)
def test_the_experiments_are_the_rows_of_acla(experiment: str, table: str, system: str, level: str) -> None:
    """So their runs are found; and their positions are those of Table 9."""
    network = acla.at(PUBLISHED[table]["systems"][system]["network"], level)
    scale = [word for word in network if word.startswith("task.scale=")]
    cfg = compose_checked([f"+experiment={experiment}", "profile=paper", *scale])
    assert acla.identity(cfg) == acla.row_identity(*network)
    assert list(cfg.backbone.positions) == PUBLISHED["table9"]["rows"][experiment]["positions"]


def test_other_runs_are_not_shown(tmp_path: Path) -> None:
    """Of another profile, protocol or budget, or without the configuration that tells which row they are."""
    network = PUBLISHED["table1"]["systems"]["EDSR+ACLA"]["network"]
    finish(tmp_path / "demo", published_config(network), at_set5(30.0), profile="demo")
    finish(tmp_path / "rgb", published_config(network), at_set5(31.0, protocol="div2k"))
    finish(tmp_path / "budget", published_config([*network, "inference.budget=0.5"]), at_set5(32.0))
    finish(tmp_path / "lost", published_config(network), at_set5(33.0))
    (tmp_path / "lost" / "config.yaml").unlink()
    results = acla.measured(tmp_path)
    assert results, "there are results, for no row"
    assert acla.ours(results, network, "Set5", "x2", "benchmark") == {}


def cells(text: str, first: str) -> list[str]:
    """The one line of a Markdown table that begins with this."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    (found,) = [row for row in rows if row[0] == first]
    return found


def run(monkeypatch: pytest.MonkeyPatch, runs: Path, *arguments: str) -> str:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["dynres.tables", "--runs", str(runs), *arguments])
    command.main()
    (written,) = (runs / "tables").glob("*.md")
    return written.read_text(encoding="utf-8")


def test_the_command_writes_costs_with_their_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = PUBLISHED["table4"]["rows"]["EDSR"]["network"]
    finish(tmp_path / "run", published_config(network), at_set5(38.05))
    text = run(monkeypatch, tmp_path, "--table", "acla/4")
    assert cells(text, "EDSR")[1:] == ["40.73", "93.97", "40.73 (-0.00%)", "93.85 (-0.13%)", "38.11 / 38.05"]
    assert re.fullmatch(r"97.43-97.5\d \(\+0.4\d%, \+0.6\d%\)", cells(text, "ACLA")[4])
    printed = " ".join(capsys.readouterr().out.split())
    for said in (text, printed):
        assert "NL: cannot be reproduced" in said and "CLNL: cannot be reproduced" in said


def test_the_command_writes_quality_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(monkeypatch, tmp_path, "--table", "acla/3")
    assert "| LIVE1 | 29.73 / - | 32.17 / - | 33.63 / - | 35.55 / - | acla_edsr_car |" in text
    assert "| PANet | 5.957 | 5.955 (-0.03%) |" in text
    assert "baseline; CLA; ACLA: cannot be reproduced" in text


def test_times_stand_without_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(monkeypatch, tmp_path, "--table", "acla/12")
    assert cells(text, "SAN")[:3] == ["SAN", "61.2", "38.31 / -"]
