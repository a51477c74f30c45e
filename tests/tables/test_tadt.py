"""python -m dynres.tables: our numbers beside the published ones, and nothing that was not measured."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dynres.tables import __main__ as tables
from dynres.tables import tadt
from dynres.tables.common import finished

PUBLISHED = Path(__file__).resolve().parents[1] / "experiments" / "tadt" / "published.yaml"


@pytest.fixture(scope="module")
def table3() -> dict[str, Any]:
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["table3"]


def finish(
    runs: Path, experiment: str, psnr: float | None, profile: str = "paper", name: str = "run", dataset: str = "DIV2K"
) -> Path:
    path = runs / experiment / name / "summary.json"
    path.parent.mkdir(parents=True)
    content = {"experiment": experiment, "profile": profile, "metrics": {dataset: {"x2": {"psnr": psnr}}}}
    path.write_text(json.dumps(content))
    return path


def command(monkeypatch: pytest.MonkeyPatch, runs: Path, *arguments: str, published: Path | None = None) -> str:
    """The table that the command writes; costs are counted for one size of image, not for the ten of the set."""
    if published is None:
        content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
        content["table3"]["short_sides"] = {1356: 1}
        published = runs / "published.yaml"
        published.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    words = ["dynres.tables", "--published", str(published), "--runs", str(runs), *arguments]
    monkeypatch.setattr(sys, "argv", words)
    tables.main()
    (written,) = (runs / "tables").glob("*.md")
    return written.read_text(encoding="utf-8")


def row(text: str, *first: str) -> list[str]:
    """The cells of the one line of a Markdown table that begins with these."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    (found,) = [cells for cells in rows if tuple(cells[: len(first)]) == first and len(cells) > len(first)]
    return found


def test_our_table_3_is_the_published_one_within_half_a_per_cent(table3: dict[str, Any]) -> None:
    (ours,) = [cells for cells in tadt.cost_rows(table3, {"mstb"}) if cells[0] == "mstb"]
    assert ours[:6] == ["mstb", "9.17", "7454.65", "3407.59", "1952.41", "9.17"]
    for cell in ours[6:9]:
        found = re.fullmatch(r"(\d+\.\d\d) \(([+-]\d+\.\d\d)%\)", cell)
        assert found is not None, cell
        assert abs(float(found[2])) < 0.5, f"{cell}: more than half a per cent off"


@pytest.mark.parametrize(
    ("network", "percent"), [("rdn", 0.01), ("rcan", 0.25), ("swinir", 0.01), ("nlsa", 0.01), ("cat_r_2", 0.01)]
)
def test_the_other_extractors_cost_what_is_published(table3: dict[str, Any], network: str, percent: float) -> None:
    """At x4, over the sizes of the whole set; parameters to the printed digits, but for RCAN (remarked).

    All images are as wide, and MACs grow evenly with the height to which a network pads (nlsa: to 1e-5): the lowest
    and the highest tell.
    """
    published, backbone = table3["rows"][network], tadt.extractor(network)
    multiple = backbone.size_multiple
    heights = {short: -(-(short // 4) // multiple) * multiple for short in table3["short_sides"]}
    mean = np.average([*heights.values()], weights=[*table3["short_sides"].values()])
    ends = [min(heights.values()), max(heights.values())]
    counts = [tadt.mean_macs(backbone, table3["long_side"], {4 * height: 1}, 4) / 1e9 for height in ends]
    macs = np.interp(mean, ends, counts)
    assert abs(macs / published["x4"] - 1) * 100 < percent, f"{macs:.2f} against {published['x4']}"
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    assert abs(millions - published["params"]) < (0.04 if network == "rcan" else 0.006), millions


def test_networks_that_are_not_built_yet_are_dashes(table3: dict[str, Any]) -> None:
    rows = {cells[0]: cells for cells in tadt.cost_rows(table3, set())}
    assert list(rows) == list(table3["rows"])
    assert all(cells[5:] == [*["-"] * 4, "not here"] for cells in rows.values())
    assert rows["nlsa"][2] == "-", "what the paper does not give"


def test_the_command_writes_both_tables_and_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished profile=paper run appears in its cell; smaller profiles and other test sets do not."""
    finish(tmp_path, "tadt_liif", 35.1234)
    finish(tmp_path, "baseline_liif", 33.0, profile="demo")
    finish(tmp_path, "edsr_baseline_lte", 34.0, dataset="Set5")
    finish(tmp_path, "tadt_lte", None)
    count = tadt.mean_macs  # the static extractors are counted above
    monkeypatch.setattr(
        tadt, "mean_macs", lambda body, *sizes: count(body, *sizes) if hasattr(body, "groups") else 1.2e12
    )
    text = command(monkeypatch, tmp_path)
    assert row(text, "liif", "tadt")[2] == "35.28 / 35.12"
    assert row(text, "liif", "tadt")[3] == "31.55 / -"
    assert row(text, "liif", "mstb")[2] == "35.24 / -"
    assert row(text, "lte", "edsr_baseline")[2] == "34.72 / -"
    assert row(text, "lte", "tadt")[2].endswith(" / -"), "a run on images without ground truth"
    assert row(text, "mstb")[6].startswith("73"), "of one size of image"
    assert str(tmp_path / "tables" / "tadt.md") in capsys.readouterr().out


def test_the_printed_table_hides_no_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tadt, "mean_macs", lambda *_: 1.23456789e12)  # counted above
    command(monkeypatch, tmp_path, "--table", "tadt/3")
    printed = capsys.readouterr().out
    for number in ("7454.65", "3407.59", "1952.41", "15567.48", "cat_r_2"):
        assert number in printed, f"{number} is cut off"
    assert "…" not in printed


def test_the_newest_run_of_an_experiment_counts_whatever_its_name(tmp_path: Path) -> None:
    finish(tmp_path, "tadt_liif", 36.0, name="a")
    old = finish(tmp_path, "tadt_liif", 35.0, name="b")
    os.utime(old, (1, 1))
    assert finished(tmp_path)[("tadt_liif", "DIV2K")]["x2"]["psnr"] == 36.0


def test_every_mstb_and_tadt_cell_of_table_1_has_an_experiment() -> None:
    """The names under which runs are looked up exist in conf/experiment."""
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["table1"]["psnr"]
    known = {path.stem for path in (PUBLISHED.parents[2] / "conf" / "experiment").glob("*.yaml")}
    ours = {"mstb": "baseline", "tadt": "tadt", "edsr_baseline": "edsr_baseline"}
    for upsampler, backbones in published.items():
        for backbone in backbones.keys() & ours.keys():
            assert f"{ours[backbone]}_{upsampler}" in known


def test_missing_published_numbers_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, tmp_path, published=tmp_path / "none.yaml")
    assert stopped.value.code == 2
    assert "none.yaml does not exist: run from a clone" in capsys.readouterr().err
