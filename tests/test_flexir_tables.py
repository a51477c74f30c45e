"""FlexIR's published tables: what they count is what our networks have; what runs measured stands beside."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from dynres.contracts import Task
from dynres.cost.__main__ import measure
from dynres.cost.counter import count_parameters
from dynres.restorer import Restorer
from dynres.tables import __main__ as command
from dynres.tables import flexir
from dynres.tables.common import published_network
from dynres.upsamplers.base import GridUpsampler

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "flexir" / "published.yaml").read_text("utf-8"))
SIZE = (128, 128)
POINTERS = ("P = 1", "P = 2", "P = 3", "P = 4", "P = 5", "Full Size")
# The first convolution, P blocks and a branch, without the tables of position biases.
PARAMS = {
    "table3": (2_161_263, 4_020_123, 5_878_983, 7_737_843, 9_596_703, 11_455_563),
    "table4": (2_154_781, 4_013_641, 5_872_501, 7_731_361, 9_590_221, 11_449_081),
}


@cache
def network(table: str, row: str) -> Restorer:
    return published_network(PUBLISHED[table]["rows"][row]["network"])


def gmacs(network: Restorer, convention: Any = "thop") -> float:
    return measure(network, SIZE, convention, float(network.upsampler.scale or 1))["macs"] / 1e9


# ------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("table", PARAMS)
@pytest.mark.parametrize("row", POINTERS)
def test_every_pointer_has_the_published_parameters_and_macs(table: str, row: str) -> None:
    published = PUBLISHED[table]["rows"][row]
    ours = flexir.pointed(network(table, "Full Size"), published["pointer"])
    params = count_parameters(ours, "thop")
    assert params == PARAMS[table][published["pointer"] - 1]
    assert abs(params / 1e6 - published["params"]) < 0.005, "the published digits"
    assert abs(gmacs(ours) / published["macs"] - 1) < 5e-4, f"{gmacs(ours):.3f} against {published['macs']}"


@pytest.mark.parametrize(
    ("table", "row", "params", "macs"),
    [
        ("table3", "SwinIR", 11_455_563, 188.034),
        ("table3", "DnCNN", 557_443, 9.116),
        ("table3", "DRUNet", 32_640_960, 35.902),
        ("table4", "DRUNet", 32_638_656, 35.864),
        ("table4", "RDN", 22_123_395, 362.395),
        ("table4", "RNAN", 8_957_249, 125.479),
    ],
)
def test_the_other_networks_count_what_is_said_of_them(table: str, row: str, params: int, macs: float) -> None:
    published, ours = PUBLISHED[table]["rows"][row], network(table, row)
    assert count_parameters(ours, "thop") == params
    assert abs(params / 1e6 - published["params"]) < 0.005
    assert gmacs(ours) == pytest.approx(macs, abs=5e-4)
    if not published.get("remark", "").startswith("published"):
        assert abs(macs / published["macs"] - 1) < 5e-4


def biases(network: Restorer) -> int:
    """Output elements of the convolutions that have a bias, each an addition, of one image of SIZE."""
    found: list[int] = []

    def count(module: nn.Module, inputs: Any, out: Tensor) -> None:
        found.append(out.numel() if getattr(module, "bias", None) is not None else 0)

    hooks = [
        part.register_forward_hook(count) for part in network.modules() if isinstance(part, nn.modules.conv._ConvNd)
    ]
    assert isinstance(network.upsampler, GridUpsampler)
    image = torch.empty(1, network.backbone.image_channels, *SIZE, device="meta")
    network.upsampler(network.backbone(image, Task()))
    for hook in hooks:
        hook.remove()
    return sum(found)


def test_the_remarks_on_rdn_and_rnan_explain_their_published_macs() -> None:
    """Biases; RDN for gray, whose first and last convolutions are narrower; RNAN without its two softmaxes."""
    height, width = SIZE
    rdn, rnan = network("table4", "RDN"), network("table4", "RNAN")
    narrower = 2 * 9 * 64 * 5 * height * width + 2 * 4 * height * width  # and two biases of the last
    published = {name: PUBLISHED["table4"]["rows"][name]["macs"] for name in ("RDN", "RNAN")}
    assert gmacs(rdn) + (biases(rdn) - narrower) / 1e9 == pytest.approx(published["RDN"], rel=2e-5)
    softmax = 2 * height * width * (3 * height * width - 1)
    assert softmax / 1e9 == pytest.approx(1.61, abs=0.005)
    assert gmacs(rnan) + (biases(rnan) - softmax) / 1e9 == pytest.approx(published["RNAN"], rel=5e-4)


@pytest.mark.parametrize(
    ("table", "one_branch", "macs", "all_branches"),
    [("table3", 11_504_163, 200.07, 12_989_178), ("table4", 11_485_585, 212.46, 12_954_390)],
)
def test_what_there_is_beyond_the_published_counts(table: str, one_branch: int, macs: float, all_branches: int) -> None:
    whole = network(table, "Full Size")
    ours = flexir.pointed(whole, 6)
    assert (count_parameters(ours), count_parameters(whole)) == (one_branch, all_branches)
    assert gmacs(ours, "all") == pytest.approx(macs, abs=5e-3)


# -------------------------------------------------------------------------------------------------------- data


def test_every_system_is_named_and_every_cell_has_its_numbers() -> None:
    for key in ("table1", "table2"):
        table = PUBLISHED[key]
        rows = list(flexir.quality_rows(table, PUBLISHED["systems"], {}))
        assert len({len(row) for row in rows}) == 1
        assert all(cell.endswith("| -") for row in rows for cell in row[2:-1]), "nothing is measured here"
        backbones = {path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml")}
        assert {row[-1] for row in rows} - {"-"} <= backbones
    experiments = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    named = [PUBLISHED[key]["experiment"] for key in ("table1", "table2")]
    named += [PUBLISHED[key]["tested"]["experiment"] for key in ("table3", "table4")]
    assert set(named) <= experiments


@pytest.mark.parametrize("system", ["DnCNN-3", "IRCNN", "FFDNet", "RDN"])
def test_the_systems_that_no_cost_table_builds_can_be_built(system: str) -> None:
    built = published_network(PUBLISHED["systems"][system]["network"])
    assert count_parameters(built) > 0


def quality_cell(key: str, name: str, dataset: str, level: str) -> list[float]:
    return PUBLISHED[key]["rows"][name][dataset][level]


def test_numbers_that_the_paper_prints_twice_agree() -> None:
    """Tables 3 and 4 repeat cells of Tables 1 and 2; Table 5 the adaptive row; Table 6 the mean over the pointers."""
    both = {"Full Size": "FlexIR P=6", "P = 4": "FlexIR P=4"}
    for key, quality, names in (
        ("table3", "table1", ["Full Size", "P = 4", "DnCNN", "DRUNet"]),
        ("table4", "table2", ["Full Size", "P = 4", "DRUNet", "RDN", "RNAN"]),
    ):
        tested = PUBLISHED[key]["tested"]
        for name in names:
            cell = quality_cell(quality, both.get(name, name), tested["dataset"], tested["level"])
            assert PUBLISHED[key]["rows"][name]["performance"] == cell, f"{key}, {name}"
    rows = PUBLISHED["table3"]["rows"]
    assert rows["Adaptive"]["performance"] == [round(PUBLISHED["table5"]["rows"]["h=1.10"]["psnr"], 2)]
    mean = sum(rows[name]["performance"][0] for name in POINTERS) / 6
    assert mean == pytest.approx(PUBLISHED["table6"]["rows"]["PSD + C-WS"]["psnr"], abs=0.005)


# ----------------------------------------------------------------------------------------------------- command


def finish(
    folder: Path, experiment: str, dataset: str, level: str, row: dict[str, Any], profile: str = "paper"
) -> Path:
    folder.mkdir(parents=True)
    summary = {"experiment": experiment, "profile": profile, "metrics": {dataset: {level: row}}}
    path = folder / "summary.json"
    path.write_text(json.dumps(summary), encoding="utf-8")
    return path


def trade_off(folder: Path, dataset: str, level: str, **psnr: float) -> None:
    lines = ["dataset,label,way,images,psnr,ssim,psnr_b"]
    lines += [f"{dataset},{level},{way.replace('_', '=')},18,{value},0.9,\n" for way, value in psnr.items()]
    (folder / "tradeoff.csv").write_text("\n".join(lines), encoding="utf-8")


def cells(text: str, *first: str) -> list[str]:
    """The one line of a Markdown table that begins with these."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    (found,) = [row for row in rows if tuple(row[: len(first)]) == first]
    return found


def run(monkeypatch: pytest.MonkeyPatch, runs: Path, *arguments: str) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["dynres.tables", "--runs", str(runs), *arguments])
    command.main()


def test_the_quality_table_shows_what_runs_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run a noise level, as the sweep makes them; pointers from their trade-off; smaller profiles do not count."""
    row = {"psnr": 31.0, "ssim": 0.9, "psnr_b": None}
    for level, psnr in (("sigma15", 34.2), ("sigma25", 31.7)):
        finish(tmp_path / level, "flexir_denoise", "CBSD68", level, row)
        trade_off(tmp_path / level, "CBSD68", level, P_4=psnr, P_6=psnr + 0.1)
    finish(tmp_path / "demo", "flexir_denoise", "CBSD68", "sigma50", row, profile="demo")
    trade_off(tmp_path / "demo", "CBSD68", "sigma50", P_4=20.0)
    finish(tmp_path / "dncnn", "dncnn_same_size", "CBSD68", "sigma25", row)
    run(monkeypatch, tmp_path, "--table", "flexir/1")
    text = (tmp_path / "tables" / "flexir_1.md").read_text(encoding="utf-8")
    assert cells(text, "FlexIR P=4", "CBSD68")[2:] == ["34.39 / 34.20", "31.75 / 31.70", "28.52 / -", "flexir"]
    assert cells(text, "FlexIR P=6", "CBSD68")[2:4] == ["34.39 / 34.30", "31.75 / 31.80"]
    assert cells(text, "DnCNN", "CBSD68")[2:4] == ["33.90 / -", "31.24 / 31.00"]
    assert cells(text, "CODE", "Urban100")[2:] == ["- / -", "- / -", "- / -", "-"]


def test_the_newest_run_that_measured_a_way_counts(tmp_path: Path) -> None:
    row = {"psnr": 33.0, "ssim": 0.9, "psnr_b": None}
    for name, psnr, age in (("a", 33.1, 2), ("b", 32.0, 1)):
        path = finish(tmp_path / name, "flexir_denoise", "McMaster", "sigma25", row)
        trade_off(tmp_path / name, "McMaster", "sigma25", **{"h_1.10": psnr})
        os.utime(path, (age, age))
    found = flexir.measured(tmp_path)
    assert found["flexir_denoise", "McMaster", "sigma25", "h=1.10"] == {"psnr": 33.1, "ssim": 0.9, "psnr_b": None}
    assert found["flexir_denoise", "McMaster", "sigma25", ""]["psnr"] == 33.0


def test_ssim_and_psnr_b_have_their_digits_and_their_dashes() -> None:
    metrics = ["psnr", "ssim", "psnr_b"]
    ours = {"psnr": 34.516, "ssim": 0.90814, "psnr_b": None}
    assert flexir.beside([34.52, 0.9081, 33.72], ours, metrics) == "34.52/0.9081/33.72 | 34.52/0.9081/-"
    assert flexir.beside([30.0, 0.8188, None], {}, metrics) == "30.00/0.8188/- | -"
    assert flexir.beside([None], {}, ["psnr"]) == "- | -"


@pytest.fixture
def small_costs() -> dict[str, Any]:
    """Table 3 of a small network with two blocks, published in round numbers."""
    words = ["backbone=flexir", "backbone.embed_dim=12", "backbone.depths=[1,1]", "backbone.heads=2"]
    network = [*words, "upsampler=as_image"]
    table = PUBLISHED["table3"] | {"size": [16, 16]}
    table["rows"] = {
        "P = 1": {"params": 0.005, "macs": 0.001, "performance": [32.81], "pointer": 1, "network": network},
        "Adaptive": {"params": 0.01, "macs": None, "performance": [33.27], "way": "h=1.10", "network": network},
    }
    return table


def test_the_cost_table_shows_published_ours_and_all(
    tmp_path: Path, small_costs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "run", "flexir_denoise", "McMaster", "sigma25", {"psnr": 1.0, "ssim": 0.9, "psnr_b": None})
    trade_off(tmp_path / "run", "McMaster", "sigma25", P_1=32.5)
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump({"table3": small_costs}, sort_keys=False), encoding="utf-8")
    run(monkeypatch, tmp_path, "--table", "flexir/3", "--published", str(file))
    text = (tmp_path / "tables" / "flexir_3.md").read_text(encoding="utf-8")
    whole = published_network(small_costs["rows"]["P = 1"]["network"])
    one = flexir.pointed(whole, 1)
    counted = {name: measure(one, (16, 16), name, 1.0) for name in ("thop", "all")}  # type: ignore[arg-type]
    row = cells(text, "P = 1")
    assert row[3] == "32.81 / 32.50"
    assert row[4] == f"{counted['thop']['params']:,} ({counted['thop']['params'] / 5000 - 1:+.2%})"
    assert row[5] == f"{counted['thop']['macs'] / 1e9:.3f} ({counted['thop']['macs'] / 1e6 - 1:+.2%})"
    assert row[6:8] == [f"{counted['all']['params']:,}", f"{counted['all']['macs'] / 1e9:.2f}"]
    assert counted["all"]["params"] - counted["thop"]["params"] == 15 * 15 * 2, "a table of two heads"
    assert cells(text, "Adaptive")[5:8] == ["-", f"{count_parameters(whole):,}", "-"], "as many as its image needs"
    assert "position biases" in " ".join(capsys.readouterr().out.split()), "the notes"


def test_without_a_table_every_paper_gets_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(published: Any, runs: Path) -> str:
        return f"{published['table1']['title']}\n"

    monkeypatch.setattr(command, "TABLES", dict.fromkeys(command.TABLES, stand_in))
    run(monkeypatch, tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "tables").glob("*.md")}
    assert written.keys() == {"tadt.md", "flexir.md", "acla.md", "lightweight_swinir.md", "anysr.md"}
    assert written["flexir.md"].count("colour denoising") == 4 and written["tadt.md"].count("DIV2K") == 2
