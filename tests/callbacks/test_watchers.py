"""What the watching callbacks write: numbers that are the evaluations', pictures that show something."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader, Dataset

from dynres.callbacks import throughput
from dynres.callbacks.beta import BetaCurve, threshold
from dynres.callbacks.flops import Flops
from dynres.callbacks.loggers import read_metrics
from dynres.callbacks.panels import Panels, most_detailed
from dynres.callbacks.routing import RoutingMap, split_names
from dynres.callbacks.summary import SummaryCallback
from dynres.callbacks.throughput import Throughput
from dynres.checkpoint_io import read_checkpoint

from .conftest import TinyTraining, loader

PIXELS = {"x2": [48 * 72, 60 * 48], "x3": [32 * 48, 40 * 32], "x4": [24 * 36, 30 * 24]}
BETA = {label: math.log1p(math.exp(0.3)) * scale / 4 for label, scale in (("x2", 2), ("x3", 3), ("x4", 4))}
RUNNING = {label: sum(unit < 6 * beta for unit in range(6)) for label, beta in BETA.items()}  # units 0, 1 ... run


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_picture(path: Path, least: tuple[int, int] = (200, 200)) -> np.ndarray:
    """It opens, is not tiny and not blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] >= least[0] and pixels.shape[1] >= least[1], f"{path.name} is {pixels.shape}"
    assert pixels.std() > 5, f"{path.name} is blank: standard deviation {pixels.std():.2f}"
    return pixels


def test_macs_are_those_of_the_units_that_ran(tmp_path: Path, check: Callable[..., Any]) -> None:
    check(Flops(), folder=tmp_path)
    rows = {row["label"]: row for row in lines(tmp_path / "macs.csv")}
    assert list(rows) == ["x2", "x3", "x4"]
    for label, row in rows.items():
        macs = [pixels * (1000 + 100 * sum(range(1, RUNNING[label] + 1))) for pixels in PIXELS[label]]
        dense = [pixels * (1000 + 100 * 21) for pixels in PIXELS[label]]
        assert row["images"] == "2"
        expected = [sum(macs) / 2, abs(macs[0] - macs[1]) / 2, min(macs), max(macs), sum(dense) / 2, macs[0] / dense[0]]
        found = [float(row[key]) for key in ("mean", "std", "min", "max", "dense", "fraction")]
        assert found == pytest.approx(expected), label
        assert float(row["active_fraction"]) == pytest.approx(RUNNING[label] / 6)
    assert_picture(tmp_path / "macs.png")


def test_the_heat_map_is_the_mean_decision_of_each_unit(tmp_path: Path, check: Callable[..., Any]) -> None:
    check(RoutingMap(), folder=tmp_path)
    rows = lines(tmp_path / "routing.csv")
    assert len(rows) == 3 * 6 and rows[0]["unit"] == "group 1 4x4" and rows[5]["unit"] == "group 2 global"
    for label, running in RUNNING.items():
        frequencies = [float(row["frequency"]) for row in rows if row["label"] == label]
        assert frequencies == [1.0] * running + [0.0] * (6 - running), label
    assert_picture(tmp_path / "routing_heatmap.png")


def test_unit_names_are_split_into_groups_and_branches() -> None:
    assert split_names(["group 1 4x4", "group 1 global", "width"]) == (
        ["group 1", "group 1", "width"],
        ["4x4", "global", ""],
    )


def test_the_beta_curve_runs_from_1_to_30_with_its_threshold(tmp_path: Path, check: Callable[..., Any]) -> None:
    check(BetaCurve(), folder=tmp_path)
    rows = lines(tmp_path / "beta_curve.csv")
    assert [float(row["scale"]) for row in (rows[0], rows[-1])] == [1.0, 30.0]
    for row in rows:
        scale = float(row["scale"])
        assert float(row["beta"]) == pytest.approx(BETA["x2"] / 2 * scale, rel=1e-5)
        assert float(row["threshold"]) == pytest.approx(0.25 + 0.25 * math.sqrt(scale))
    assert threshold(4.0) == 0.75
    assert_picture(tmp_path / "beta_curve.png")


def test_beta_is_logged_at_each_validation(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any]
) -> None:
    fit(make_trainer(BetaCurve()))
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if row["beta/x2"]]
    assert [row["step"] for row in rows] == ["5", "11"]
    for row in rows:
        assert float(row["beta/x4"]) == pytest.approx(2 * float(row["beta/x2"]), rel=1e-5)
    assert (tmp_path / "beta_curve.csv").exists(), "the curve is drawn when training ends"


def test_a_static_network_has_no_routing_no_beta_and_all_its_macs(
    tmp_path: Path, check: Callable[..., Any], tiny: Any
) -> None:
    watchers = [BetaCurve(), RoutingMap(), Flops(), SummaryCallback("e", "p", 0)]
    check(*watchers, folder=tmp_path, module=tiny(routed=False))
    assert sorted(os.listdir(tmp_path)) == ["macs.csv", "macs.png", "per_image.csv", "summary.json", "summary.md"]
    assert {row["fraction"] for row in lines(tmp_path / "macs.csv")} == {"1.0"}
    assert {row["active_fraction"] for row in lines(tmp_path / "macs.csv")} == {""}


def test_panels_show_the_first_images_of_each_scale(tmp_path: Path, check: Callable[..., Any]) -> None:
    check(Panels(count=1), folder=tmp_path)
    assert sorted(os.listdir(tmp_path / "panels")) == [f"Toy_x{s}_photo-0.png" for s in (2, 3, 4)]
    pixels = assert_picture(tmp_path / "panels" / "Toy_x4_photo-0.png", (500, 1200))
    yellow = (np.abs(pixels.astype(int) - [255, 176, 0]).sum(-1) < 30).mean()
    assert yellow > 0.001, f"the crop is not marked: {yellow:.5f} of the pixels"


@pytest.mark.parametrize("count", [0, 2])
def test_panels_are_as_many_as_asked(tmp_path: Path, check: Callable[..., Any], count: int) -> None:
    check(Panels(count=count), folder=tmp_path)
    assert len(list(tmp_path.glob("panels/*.png"))) == 3 * count


def test_a_panel_is_drawn_anew_at_each_validation(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any]
) -> None:
    fit(make_trainer(Panels(count=0, validation=2)))
    assert sorted(os.listdir(tmp_path / "panels")) == ["Toy_x2_photo-0.png", "Toy_x2_photo-1.png"]


def test_the_crop_is_where_the_detail_is() -> None:
    image = torch.full((3, 64, 80), 0.5)
    image[:, 40:56, 8:24] = torch.rand(3, 16, 16)
    row, column = most_detailed(image, 16)
    assert abs(row - 40) <= 2 and abs(column - 8) <= 2, (row, column)
    assert most_detailed(image, 64)[0] == 0


def test_the_summary_gathers_the_test(tmp_path: Path, check: Callable[..., Any]) -> None:
    module = check(SummaryCallback("toy", "smoke", 7), folder=tmp_path)
    result = json.loads((tmp_path / "summary.json").read_text())
    assert list(result) == ["experiment", "profile", "seed", "params", "train_seconds", "metrics"]
    assert (result["experiment"], result["profile"], result["seed"]) == ("toy", "smoke", 7)
    assert result["params"] == 3 * 3 * 9 + 3 + 1 and result["train_seconds"] == 0
    row = result["metrics"]["Toy"]["x4"]
    measured, spent = ["psnr", "psnr_plain", "plain", "ssim", "psnr_b", "protocol"], ["macs", "milliseconds"]
    assert list(row) == [*measured, *spent, "beta", "active_fraction", "macs_fraction"]
    level = float(module.restorer.backbone.conv.weight.detach().abs().mean())
    assert row["psnr"] == pytest.approx(40 - 16 + level) and row["psnr_plain"] == 35 - 16
    assert (row["ssim"], row["milliseconds"], row["protocol"]) == (0.9, 12.5, "div2k")
    assert row["beta"] == pytest.approx(BETA["x4"]) and row["active_fraction"] == pytest.approx(RUNNING["x4"] / 6)
    images = lines(tmp_path / "per_image.csv")
    assert [(i["label"], i["image"]) for i in images] == [(x, f"photo {n}") for x in ("x2", "x3", "x4") for n in (0, 1)]


def test_an_interrupted_test_keeps_the_images_so_far(tmp_path: Path, check: Callable[..., Any]) -> None:
    class Break(Callback):
        def on_test_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
            if batch_idx == 4:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        check(SummaryCallback("toy", "smoke", 0), Break(), folder=tmp_path)
    assert len(lines(tmp_path / "per_image.csv")) == 4 and not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("mode", ["test", "validate"])
def test_a_test_and_a_validation_of_its_own_are_summarised_and_printed(
    tmp_path: Path, check: Callable[..., Any], capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    check(SummaryCallback("toy", "smoke", 0), Flops(), folder=tmp_path, mode=mode)
    assert (tmp_path / "summary.json").exists() and (tmp_path / "macs.csv").exists()
    assert "toy, profile smoke, seed 0" in capsys.readouterr().out


def test_training_time_adds_up_over_restarts(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any], check: Callable[..., Any]
) -> None:
    class Slow(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            time.sleep(0.02)

    fit(make_trainer(Throughput(), Slow(), max_steps=8))
    last = tmp_path / "checkpoints" / "last.ckpt"
    first = read_checkpoint(last)["callbacks"]["Throughput"]["train_seconds"]
    timer = Throughput()
    fit(make_trainer(timer, Slow()), ckpt=last)
    total = read_checkpoint(last)["callbacks"]["Throughput"]["train_seconds"]
    assert first >= 8 * 0.02 and total >= first + 4 * 0.02, (first, total)
    now = timer.seconds
    check(timer, SummaryCallback("toy", "smoke", 0), folder=tmp_path, ckpt_path=tmp_path / "checkpoints" / "best.ckpt")
    assert timer.seconds == now, "testing the best checkpoint does not turn the clock back"
    assert json.loads((tmp_path / "summary.json").read_text())["train_seconds"] == now
    rates = [row["train/steps_per_second"] for row in read_metrics(tmp_path / "metrics.csv")]
    assert sum(bool(rate) for rate in rates) == 12
    assert max(float(rate) for rate in rates if rate) <= 1 / 0.02


@pytest.mark.parametrize(("wait", "work"), [(3.0, 1.0), (0.0, 2.0)])
def test_the_share_of_time_that_training_waits_for_data(
    tmp_path: Path, make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, wait: float, work: float
) -> None:
    """By a clock that only the loader, the step and validation move."""
    now = [0.0]
    monkeypatch.setattr(throughput, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(Dataset[torch.Tensor]):
        def __getitem__(self, index: int) -> torch.Tensor:
            now[0] += wait
            return torch.rand(3, 8, 8)

        def __len__(self) -> int:
            return 100

    class Work(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            now[0] += work

        def on_validation_batch_start(self, *args: Any) -> None:
            now[0] += 50

    trainer = make_trainer(Throughput(), Work(), log_every_n_steps=2)
    trainer.fit(TinyTraining(), DataLoader(Slow(), batch_size=1), loader())
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if row["train/data_wait_fraction"]]
    assert len(rows) == 6, "validation after steps 6 and 12 of 12"
    assert [float(row["train/data_wait_fraction"]) for row in rows] == pytest.approx([wait / (wait + work)] * 6)
    assert [float(row["train/steps_per_second"]) for row in rows] == pytest.approx([1 / (wait + work)] * 6)
