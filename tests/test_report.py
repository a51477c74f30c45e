"""Summaries are the means over the images; impossible numbers are refused, odd ones noted."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynres import report
from dynres.errors import UserError

IMAGE = report.Record(
    dataset="Set5", label="x2", image="bird", protocol="benchmark", psnr=34.0, psnr_plain=32.0, ssim=0.93,
    macs=2e9, ms=40.0, beta=0.5, active=0.25, scale=2.0, size=(10, 20),
    decisions=(0.0, 1.0, 0.0, 0.0), units=("a", "b", "c", "d"), fraction=0.6,
)  # fmt: skip
RECORDS = [
    replace(IMAGE, label="x4", scale=4.0, psnr=28.0, psnr_plain=27.0, macs=1e9, beta=0.9, active=0.75, fraction=0.8),
    IMAGE,
    replace(
        IMAGE,
        image="baby",
        psnr=37.0,
        psnr_plain=36.0,
        ssim=0.95,
        macs=3e9,
        ms=60.0,
        beta=0.5,
        active=0.5,
        fraction=0.8,
    ),
]


def summary(records: list[report.Record] = RECORDS, **changes: Any) -> report.Summary:
    about = {"experiment": "tadt_liif", "profile": "demo", "seed": 3, "params": 1_234_567, "train_seconds": 62.5}
    return report.summary(records, **(about | changes))


def table(result: report.Summary) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print_table(result, console)
    return console.export_text()


def test_a_summary_holds_the_means_over_the_images() -> None:
    assert summary() == {
        "experiment": "tadt_liif",
        "profile": "demo",
        "seed": 3,
        "params": 1_234_567,
        "train_seconds": 62.5,
        "metrics": {
            "Set5": {
                "x2": {
                    "psnr": 35.5,
                    "psnr_plain": 34.0,
                    "plain": "bicubic",
                    "ssim": 0.94,
                    "psnr_b": None,
                    "protocol": "benchmark",
                    "macs": 2.5e9,
                    "milliseconds": 50.0,
                    "beta": 0.5,
                    "active_fraction": 0.375,
                    "macs_fraction": pytest.approx(0.7),
                },
                "x4": {
                    "psnr": 28.0,
                    "psnr_plain": 27.0,
                    "plain": "bicubic",
                    "ssim": 0.93,
                    "psnr_b": None,
                    "protocol": "benchmark",
                    "macs": 1e9,
                    "milliseconds": 40.0,
                    "beta": 0.9,
                    "active_fraction": 0.75,
                    "macs_fraction": 0.8,
                },
            }
        },
    }
    assert list(summary()["metrics"]["Set5"]) == ["x2", "x4"], "scales grow, whatever the order of the images"


def test_a_static_network_has_neither_beta_nor_active_fraction(tmp_path: Path) -> None:
    static = [replace(IMAGE, beta=None, active=None, decisions=(), units=())]
    report.write_summary(tmp_path, summary(static))
    row = json.loads((tmp_path / "summary.json").read_text())["metrics"]["Set5"]["x2"]
    assert row["beta"] is None and row["active_fraction"] is None
    assert static[0].csv[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"psnr": 4.9}, "psnr 4.90 dB cannot be"),
        ({"psnr": 61.0}, "psnr 61.00 dB cannot be"),
        ({"psnr": math.nan}, "psnr nan dB cannot be"),
        ({"psnr": -math.inf}, "psnr -inf dB cannot be"),
        ({"psnr_plain": math.nan}, "psnr_plain nan dB cannot be"),
        ({"psnr_b": 4.0}, "psnr_b 4.00 dB cannot be"),
        ({"ssim": 1.01}, "ssim 1.0100 cannot be"),
        ({"ssim": math.nan}, "ssim nan cannot be"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        summary([replace(IMAGE, **change)])
    assert "tadt_liif, Set5 x2" in str(error.value)


def test_a_perfect_restoration_is_infinite_and_still_json(tmp_path: Path) -> None:
    report.write_summary(tmp_path, summary([replace(IMAGE, psnr=math.inf)]))
    text = (tmp_path / "summary.json").read_text()
    assert '"psnr": "inf"' in text and "Infinity" not in text
    assert math.isinf(float(report.read_summary(tmp_path)["metrics"]["Set5"]["x2"]["psnr"]))
    assert "inf" in table(report.read_summary(tmp_path))


def test_a_mean_over_two_protocols_is_refused() -> None:
    with pytest.raises(UserError, match="mixes the protocols benchmark, div2k"):
        summary([IMAGE, replace(IMAGE, image="head", protocol="div2k")])


def test_psnr_that_rises_with_scale_is_noted() -> None:
    assert report.notes(summary()) == []
    odd = summary([IMAGE, replace(IMAGE, label="x4", scale=4.0, psnr=34.5)])
    assert report.notes(odd) == ["note: Set5: PSNR rises with scale: x2 34.00 dB, x4 34.50 dB"]
    assert "PSNR rises with scale" in table(odd) and "PSNR rises with scale" in report.markdown(odd)


def test_the_table_says_protocol_parameters_and_every_mean(tmp_path: Path) -> None:
    text = table(summary())
    for said in ("tadt_liif", "demo", "seed 3", "1.235 M parameters", "62 s of training", "Set5", "benchmark"):
        assert said in text, f"{said!r} is not in\n{text}"
    assert cells(text, "x2") == ["x2", "34.00", "35.50", "+1.50", "0.9400", "2.500", "70.0%", "0.500", "38%", "50"]
    report.write_summary(tmp_path, summary())
    assert "| x2 | 34.00 | 35.50 | +1.50 |" in (tmp_path / "summary.md").read_text()


def cells(text: str, label: str) -> list[str]:
    """Of a printed line."""
    line = next(line for line in text.splitlines() if f" {label} " in line)
    return [cell.strip() for cell in line.strip("│┃ \n").replace("┃", "│").split("│")]


LEVEL = replace(IMAGE, dataset="Set12", label="sigma25", protocol="denoise", scale=1.0, plain="noisy", beta=None)
BLIND = replace(IMAGE, dataset="RealSRSet", label="x4", scale=4.0, psnr=None, psnr_plain=None, ssim=None, beta=None)


def test_a_set_of_levels_has_its_own_headers_and_no_note() -> None:
    """PSNR that rises from sigma50 to sigma15 is as it should be, whatever the order."""
    found = summary([replace(LEVEL, label="sigma50", psnr=28.0), replace(LEVEL, label="sigma15")])
    assert list(found["metrics"]["Set12"]) == ["sigma50", "sigma15"] and report.notes(found) == []
    text = table(found)
    assert cells(text, "ours") == [
        "level", "noisy", "ours", "gain", "SSIM", "GMACs", "of full", "beta", "active", "ms",
    ]  # fmt: skip
    assert cells(text, "sigma50")[:4] == ["sigma50", "32.00", "28.00", "-4.00"]
    assert cells(text, "sigma50")[7:9] == ["-", "25%"], "blocks run, but there is no beta"


def test_each_set_has_the_name_of_its_plain_image_and_a_mixture_is_plain() -> None:
    both = summary([LEVEL, replace(LEVEL, label="q10", plain="JPEG"), IMAGE])
    assert [cells(text, "ours")[1] for text in table(both).split("Set5")] == ["plain", "bicubic"]
    mixed = summary([LEVEL, replace(LEVEL, image="head", plain="JPEG")])
    assert mixed["metrics"]["Set12"]["sigma25"]["plain"] == "plain"


def test_psnr_b_has_a_column_where_it_is_measured() -> None:
    found = summary([replace(LEVEL, label="q10", plain="JPEG", psnr_b=33.5), replace(LEVEL, label="q20", plain="JPEG")])
    text = table(found)
    assert cells(text, "ours")[4:7] == ["SSIM", "PSNR-B", "GMACs"]
    assert cells(text, "q10")[4:7] == ["0.9300", "33.50", "2.000"] and cells(text, "q20")[5] == "-"
    assert "PSNR-B" not in table(summary())


def test_images_without_ground_truth_are_dashes_and_null(tmp_path: Path) -> None:
    report.write_summary(tmp_path, summary([BLIND, replace(BLIND, label="x2", scale=2.0)]))
    found = report.read_summary(tmp_path)
    row = found["metrics"]["RealSRSet"]["x4"]
    assert [row[key] for key in ("psnr", "psnr_plain", "ssim", "psnr_b")] == [None] * 4 and report.notes(found) == []
    text = table(found)
    assert cells(text, "x4")[:6] == ["x4", "-", "-", "-", "-", "2.000"]
    assert "RealSRSet (no ground truth; MACs of the backbone)" in text and "benchmark" not in text
    assert BLIND.csv[5:9] == [""] * 4 and report.CSV_COLUMNS[5:9] == ("psnr", "psnr_plain", "ssim", "psnr_b")
    assert len(BLIND.csv) == len(report.CSV_COLUMNS) and BLIND.csv[4] == "bicubic"


def test_what_is_unknown_is_left_out_of_the_mean() -> None:
    unknown = replace(IMAGE, image="head", psnr=None, psnr_plain=None, ssim=None)
    row = summary([IMAGE, unknown])["metrics"]["Set5"]["x2"]
    assert (row["psnr"], row["psnr_plain"], row["ssim"]) == (34.0, 32.0, 0.93)


def test_rising_psnr_is_noted_across_a_scale_that_nobody_measured() -> None:
    unknown = replace(IMAGE, label="x3", scale=3.0, psnr=None, psnr_plain=None, ssim=None)
    odd = summary([IMAGE, unknown, replace(IMAGE, label="x4", scale=4.0, psnr=34.5)])
    assert report.notes(odd) == ["note: Set5: PSNR rises with scale: x2 34.00 dB, x4 34.50 dB"]


@pytest.mark.parametrize(
    ("ours", "plain", "more"), [(30.0, 28.0, 2.0), (math.inf, math.inf, 0.0), (math.inf, 28.0, math.inf)]
)
def test_gain_is_a_difference(ours: float, plain: float, more: float) -> None:
    assert report.gain(ours, plain) == more
    assert report.gain(None, plain) is None and report.gain(ours, None) is None


@pytest.mark.parametrize(
    ("labels", "name"),
    [(["x2", "x2.5", "x2x3"], "scale"), (["sigma25"], "level"), (["q10", "q20"], "level"), (["x2", "q10"], "level")],
)
def test_the_first_column_says_scale_only_of_scales(labels: list[str], name: str) -> None:
    assert report.axis_name(labels) == name


def test_the_score_of_a_sweep_is_the_mean_of_what_is_known(tmp_path: Path) -> None:
    from dynres.run import mean_psnr

    report.write_summary(tmp_path, summary([LEVEL, BLIND, replace(LEVEL, label="sigma50", psnr=30.0)]))
    assert mean_psnr(tmp_path) == 32.0
    report.write_summary(tmp_path, summary([BLIND]))
    assert mean_psnr(tmp_path) == 0.0


def test_runs_without_ground_truth_are_collected(tmp_path: Path) -> None:
    for number, images in enumerate([[BLIND], [replace(LEVEL, label="q10", psnr_b=33.5)]]):
        report.write_summary(tmp_path / str(number), summary(images))
    console = Console(width=300, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print_collection(tmp_path, console)
    with open(tmp_path / "summary_table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["RealSRSet x4 dB"] for row in rows] == ["", ""], "unknown, and not in this run"
    assert [row["Set12 q10 PSNR-B dB"] for row in rows] == ["", "33.50"]
    assert "| - | 2.000 |" in (tmp_path / "summary_table.md").read_text()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two finished runs of a sweep and one that did not finish."""
    for number, weight in enumerate(["0", "2e-4"]):
        folder = tmp_path / f"{number}_beta_weight={weight}"
        records = [replace(item, psnr=item.psnr + number) for item in RECORDS]
        report.write_summary(folder, summary(records, seed=number))
        typed = ["+experiment=tadt_liif", f"seed={number}", f"method.beta_weight={weight}"]
        report.write_json(folder / "provenance.json", {"overrides": typed})
    (tmp_path / "2_unfinished").mkdir()
    return tmp_path


def test_many_runs_make_one_table(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(runs)])
    report.main()
    printed = capsys.readouterr().out
    assert "2 runs in" in printed and "method.beta_weight=2e-4" in printed
    with open(runs / "summary_table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["overrides"] for row in rows] == ["method.beta_weight=0", "method.beta_weight=2e-4"]
    assert [row["Set5 x2 dB"] for row in rows] == ["35.50", "36.50"]
    assert [row["Set5 x4 GMACs"] for row in rows] == ["1.000", "1.000"]
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert (runs / "summary_table.md").read_text().count("\n") == 4


def test_a_folder_without_runs_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        report.main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: no summary.json below") and error.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": {}}', '{"metrics": {"Set5": {"x2": {}}}}'])
def test_a_damaged_summary_is_named(runs: Path, text: str) -> None:
    damaged = runs / "0_beta_weight=0" / "summary.json"
    damaged.write_text(text)
    with pytest.raises(UserError, match=r"summary\.json is not the summary of a run"):
        report.collect(runs)
