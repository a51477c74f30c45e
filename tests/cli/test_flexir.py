"""FlexIR as a user types it: three tasks, every depth in a table, pictures, calibration, and what cannot be."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynres import calibrate, upscale
from dynres.data.images import read_rgb, write_png
from dynres.methods.flexir import FlexIRTraining

from .conftest import UNDRAWN, Ended, typed, write_scenes

TINY = ["profile=smoke", "data=folder", "data.val_crop=48", "callbacks.tradeoff.thresholds=[1.0]", *UNDRAWN]


@pytest.fixture(scope="module")
def denoiser(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    out = tmp_path_factory.mktemp("flexir")
    ended = typed("+experiment=flexir_denoise", *TINY, f"data.root={photos}", f"out={out}/runs")
    assert ended.code == 0, ended.err
    return ended


def last(ended: Ended) -> Path:
    return ended.folder / "checkpoints" / "last.ckpt"


def test_every_depth_is_measured_and_drawn(denoiser: Ended) -> None:
    with open(denoiser.folder / "tradeoff.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["way"] for row in rows] == ["P=1", "P=2", "h=1.00"]
    one, two, adaptive = rows
    assert float(one["macs"]) < float(two["macs"]) and float(two["fraction"]) == 1
    assert 1 <= float(adaptive["blocks"]) <= 2
    summary = json.loads((denoiser.folder / "summary.json").read_text())["metrics"]["held-out"]["sigma25"]
    assert summary["plain"] == "noisy" and summary["psnr"] == pytest.approx(float(two["psnr"]))
    assert "P=2" in denoiser.out and (denoiser.folder / "tradeoff.png").is_file()
    assert len(list((denoiser.folder / "depths").glob("*.png"))) == 1


def test_the_summary_is_written_last(denoiser: Ended) -> None:
    """It says that the run is finished: one that is killed before goes on, and no table of depths is missing."""
    written = {file: file.stat().st_mtime_ns for file in denoiser.folder.rglob("*") if file.is_file()}
    summary = written[denoiser.folder / "summary.json"]  # clocks of file systems may not tell two files apart
    assert not [file for file, when in written.items() if when > summary]
    assert summary > written[denoiser.folder / "checkpoints" / "last.ckpt"]


def test_gray_artifacts_are_removed_and_measured_with_psnr_b(photos: Path, here: Path) -> None:
    ended = typed("+experiment=flexir_car", *TINY, f"data.root={photos}", "task.quality=[10,40]")
    assert ended.code == 0, ended.err
    rows = json.loads((ended.folder / "summary.json").read_text())["metrics"]["held-out"]
    assert list(rows) == ["q10", "q20", "q30", "q40"]
    assert all(row["plain"] == "JPEG" and 5 < row["psnr_b"] < 60 for row in rows.values())


def test_real_photographs_are_restored_without_originals(photos: Path, here: Path) -> None:
    real = write_scenes(here / "real", 1)
    ended = typed("+experiment=flexir_realsr", *TINY, f"data.root={photos}", f"data.test=[held-out,{real}]")
    assert ended.code == 0, ended.err
    metrics = json.loads((ended.folder / "summary.json").read_text())["metrics"]
    assert metrics["real"]["x2"]["psnr"] is None and metrics["held-out"]["x2"]["psnr"] > 5
    assert len(list((ended.folder / "depths").glob("*.png"))) == 2


@pytest.mark.parametrize("at", [1, 2, 4])  # while the teacher is trained, when it is done, and later
def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(
    at: int, denoiser: Ended, photos: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["+experiment=flexir_denoise", *TINY, f"data.root={photos}"]
    step = FlexIRTraining.training_step

    def stopped(self: FlexIRTraining, batch: Any, index: int) -> dict[str, Any]:
        if self.global_step == at:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(FlexIRTraining, "training_step", stopped)
        assert typed(*arguments).code == 130
    resumed = typed(*arguments, "resume=auto")
    assert resumed.code == 0, resumed.err
    whole, continued = (torch.load(last(one), weights_only=True)["state_dict"] for one in (denoiser, resumed))
    assert any(name.startswith("teacher.") for name in whole)
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_a_photograph_at_a_pointer_and_adaptively(denoiser: Ended, here: Path) -> None:
    write_png(here / "photo.png", read_rgb(next(iter(write_scenes(here / "in", 1).iterdir()))))
    common = ["photo.png", "--ckpt", str(last(denoiser)), "--device", "cpu"]
    for name, options in {
        "one": ["--pointer", "1"],
        "all": [],
        "never": ["--threshold", "inf", "--regions", "1"],
        "tiles": ["--tile", "40"],
    }.items():
        ended = typed_upscale(*common, *options, "-o", f"{name}.png")
        assert ended.code == 0, ended.err
    images = {name: read_rgb(here / f"{name}.png") for name in ("one", "all", "never", "tiles")}
    assert not np.array_equal(images["one"], images["all"])
    assert np.abs(images["never"].astype(int) - images["all"]).max() <= 1
    assert images["tiles"].shape == images["all"].shape
    refused = typed_upscale(*common, "--pointer", "7", "-o", "no.png")
    assert refused.code == 2 and "pointer must be from 1 to 2 for this network, got 7" in refused.err


def typed_upscale(*arguments: str) -> Ended:
    return typed(*arguments, main=upscale.main)


def test_thresholds_follow_a_budget_after_calibration(denoiser: Ended, photos: Path, here: Path) -> None:
    arguments = [str(photos), "--ckpt", str(last(denoiser)), "--sigma", "25", "-o", "calibrated"]
    ended = typed(*arguments, main=calibrate.main)
    assert ended.code == 0 and "written to calibrated" in ended.out, ended.err
    node = json.loads((here / "calibrated" / "config.json").read_text())
    points = node["dynres"]["network"]["backbone"]["calibration"]
    assert len(points) > 1 and points == sorted(points)
    whole = ["+experiment=flexir_denoise", "mode=test", *TINY, f"data.root={photos}"]  # the configuration's network
    common = ["mode=test", "network=ckpt", "task=denoise_color", "method=flexir", *TINY[:2], f"data.root={photos}"]
    spent = []
    for budget, command in ((0.8, common), (1.0, whole)):
        ended = typed(*command, "ckpt=calibrated", "inference.threshold=auto", f"inference.budget={budget}")
        assert ended.code == 0, ended.err
        row = json.loads((ended.folder / "summary.json").read_text())["metrics"]["held-out"]["sigma25"]
        spent.append(row["macs_fraction"])
    assert spent[0] <= spent[1]
    uncalibrated = typed(*common, f"ckpt={last(denoiser)}", "inference.threshold=auto", "inference.budget=0.8")
    assert uncalibrated.code == 2 and "run python -m dynres.calibrate on it first" in uncalibrated.err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inference.pointer=7"], "pointer must be from 1 to 2 for this network, got 7"),
        (["inference.pointer=0"], "pointer must be from 1 to 2"),
        (["inference.regions=0"], "regions must be at least 1, got 0"),
        (["task.sigma=-3"], "task.sigma"),
        (["task=car", "task.quality=0"], "task.quality"),
        (["method.pretraining=0"], "method=flexir starts from a trained SwinIR"),
        (["method=assr"], "task=denoise_color trains on patches and method=assr on queries"),
        (["backbone=dncnn", "upsampler=same_size"], "method=flexir trains the branches of backbone=flexir"),
        (["backbone.image_channels=1"], "image_channels"),
        (["method.teacher=no.pth", "method.pretraining=0"], "no.pth"),
        (["task=denoise_gray"], "pixels.mean has 3 numbers and the network sees 1 channel"),
        (["inference.tile=4"], "inference.tile=4 is too small for this network's regions"),
        (["inference.budget=0.5", "inference.pointer=1"], "inference: give a budget or a pointer, not both"),
        (["callbacks.tradeoff.thresholds=[1.0,1.0]"], "thresholds must be different numbers"),
        (["image_skip=true"], "leave it out"),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], message: str, photos: Path, here: Path) -> None:
    ended = typed("+experiment=flexir_denoise", *TINY, f"data.root={photos}", *overrides)
    assert ended.code == 2 and message in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err
    assert not (here / "runs").exists()


def test_a_gray_test_image_is_refused_where_colours_are_restored(photos: Path, here: Path) -> None:
    (here / "gray").mkdir()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(here / "gray" / "one.png")
    ended = typed("+experiment=flexir_denoise", *TINY, f"data.root={photos}", f"data.test=[{here}/gray]")
    assert ended.code == 2 and "one.png" in ended.err and "task=denoise_gray" in ended.err


def test_the_input_itself_is_measured(photos: Path, here: Path) -> None:
    ended = typed("+experiment=input", "task=car", "task.quality=[10,40]", *TINY[:2], f"data.root={photos}")
    assert ended.code == 0, ended.err
    rows = json.loads((ended.folder / "summary.json").read_text())["metrics"]["held-out"]
    assert all(row["psnr"] == pytest.approx(row["psnr_plain"]) for row in rows.values())
